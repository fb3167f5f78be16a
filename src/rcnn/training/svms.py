"""What follows the fine-tuning of R-CNN: one SVM and one box regression per class, on its features.

R-CNN §2.3, appendices B and C, and its published code. One pass over the images mines hard negatives: the
proposals of each image that the SVM of a class classifies as objects, or nearly so, are added to its
negatives, and after a number of them it is fitted again. The paper finds that one pass is enough. Features
are computed once per proposal when they are needed; only those of the positives, the hard negatives and the
regression pairs are kept.

Fitted by scikit-learn (the extra ``svm``). The result is stored as linear layers, so prediction does not need
scikit-learn.

Legend: N samples, D features, K classes, R proposals of an image, G its true boxes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rcnn.data.dataset import Dataset
from rcnn.data.geometry import TrainingSample
from rcnn.extras import install_command
from rcnn.models.rcnn import RCNN, RidgeSettings, SVMSettings
from rcnn.ops import boxes as box_ops
from rcnn.parts.batch import Targets
from rcnn.parts.regions import split_crowds
from rcnn.transform import Transform

# Images and proposals of each from which the features' mean norm is estimated (published code: 200 x 200).
NORM_IMAGES, NORM_BOXES = 200, 20
# The margin of a class without any object.
ABSENT_CLASS_MARGIN = -10.0
MAX_CROWD_OVERLAP = 0.7

Log = Callable[[str], None]


@dataclass
class ClassSVM:
    """The SVM of one class while negatives are mined: margins are ``features @ weight + bias``.

    Attributes:
        settings: how it is fitted.
        positives: ``[N, D]``.
        seed: random seed of the solver.
        negatives: ``[N, D]``, kept so far.
        fresh: number of negatives added since the last fit.
        fits: number of fits.
    """

    settings: SVMSettings
    positives: Tensor
    seed: int = 0
    negatives: Tensor = field(init=False)
    fresh: int = 0
    fits: int = 0
    weight: Tensor = field(init=False)
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Before the first fit every margin is 0, so that the first negatives are all hard."""
        self.negatives = self.positives[:0]
        self.weight = self.positives.new_zeros(self.positives.shape[1])

    def margins(self, features: Tensor) -> Tensor:
        """``[N]`` of ``[N, D]``."""
        return features @ self.weight + self.bias

    def add_hard_negatives(self, negatives: Tensor) -> None:
        """Add the hard ones of some negatives ``[N, D]``, and fit again once there are enough new ones."""
        if not len(self.positives):
            return
        hard = negatives[self.margins(negatives) > self.settings.hard_margin]
        self.negatives = torch.cat([self.negatives, hard])
        self.fresh += len(hard)
        if self.fresh > self.settings.refit_every or not self.fits:
            self.fit()

    def fit(self) -> None:
        """Fit to all samples, then drop the easy negatives."""
        if not len(self.positives):
            self.bias = ABSENT_CLASS_MARGIN
            return
        if not len(self.negatives):
            return
        self.weight, self.bias = fit_svm(self.positives, self.negatives, self.settings, self.seed)
        self.negatives = self.negatives[self.margins(self.negatives) >= self.settings.easy_margin]
        self.fresh, self.fits = 0, self.fits + 1


def require_sklearn() -> None:
    """Check for scikit-learn before training, since it is needed only after the fine-tuning.

    Raises:
        ValueError: scikit-learn is not installed; says how to install it.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"R-CNN's SVMs and box regressions are fitted by scikit-learn: {install_command('svm')}"
        ) from error


def fit_svm(
    positives: Tensor, negatives: Tensor, settings: SVMSettings, seed: int = 0
) -> tuple[Tensor, float]:
    """Weight ``[D]`` and bias of a linear SVM of ``[N, D]`` against ``[M, D]``, by liblinear (type 3)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    svm = LinearSVC(
        C=settings.c, loss="hinge", dual=True, intercept_scaling=settings.bias, max_iter=5000,
        class_weight={1: settings.positive_weight}, random_state=seed,
    )  # fmt: skip
    labels = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    with warnings.catch_warnings():
        # At its limit of iterations liblinear stops with a solution that is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm.fit(torch.cat([positives, negatives]).numpy(), labels)
    return torch.from_numpy(svm.coef_[0]).float(), float(svm.intercept_[0])


def fit_ridge(features: Tensor, targets: Tensor, settings: RidgeSettings) -> tuple[Tensor, Tensor]:
    """Weight ``[4, D]`` and bias ``[4]`` that predict targets ``[N, 4]`` from features ``[N, D]``.

    The targets are centred and whitened, and the bias is regularised as the weights are (published code).
    """
    from sklearn.linear_model import Ridge

    target_deltas = targets.double()
    mean = target_deltas.mean(0)
    centred = target_deltas - mean
    covariance = centred.T @ centred / len(target_deltas) + settings.whitening * torch.eye(
        4, dtype=torch.float64
    )
    values, vectors = torch.linalg.eigh(covariance)
    whiten = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    colour = vectors @ torch.diag(values.sqrt()) @ vectors.T
    padded = torch.cat([features.double(), torch.ones((len(features), 1), dtype=torch.float64)], 1)
    svm = Ridge(alpha=settings.strength, fit_intercept=False, solver="cholesky")
    svm.fit(padded.numpy(), (centred @ whiten).numpy())
    solution = colour @ torch.from_numpy(np.atleast_2d(svm.coef_))  # [4, D + 1]
    return solution[:, :-1].float(), (solution[:, -1] + mean).float()


def find_negatives(boxes: Tensor, truth: Targets, label: int, max_iou: float) -> Tensor:
    """Bool ``[R]``: the proposals that contain no object of a class and are not inside a crowd."""
    real, crowds = split_crowds(truth)
    mine = truth.boxes[real][truth.labels[real] == label]
    negative = torch.ones(len(boxes), dtype=torch.bool)
    if len(mine):
        negative &= box_ops.iou(boxes, mine).max(1).values < max_iou
    if len(crowds):
        negative &= box_ops.covered_fraction(boxes, crowds).max(1).values <= MAX_CROWD_OVERLAP
    return negative


def find_pairs(boxes: Tensor, truth: Targets, min_iou: float) -> tuple[Tensor, Tensor, Tensor]:
    """What regressions are trained on: indices ``[N]`` of proposals, labels ``[N]``, deltas ``[N, 4]``."""
    real, _ = split_crowds(truth)
    if not len(real) or not len(boxes):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros((0, 4))
    best, nearest = box_ops.iou(boxes, truth.boxes[real]).max(1)
    index = (best > min_iou).nonzero()[:, 0]
    owner = real[nearest[index]]
    return index, truth.labels[owner], box_ops.encode(truth.boxes[owner], boxes[index])


class RegressionPairs:
    """What the regression of one class is trained on: all pairs, or a uniform sample of them."""

    def __init__(self, max_pairs: int | None, seed: int) -> None:
        self.max_pairs = max_pairs
        self.generator = torch.Generator().manual_seed(seed)
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def __len__(self) -> int:
        return sum(len(target_deltas) for _, target_deltas, _ in self.parts)

    def add(self, features: Tensor, target_deltas: Tensor) -> None:
        """More pairs: features ``[N, D]`` and deltas ``[N, 4]``."""
        # Every pair has a random priority; the lowest ones stay, so all have the same chance.
        priorities = torch.rand(len(target_deltas), generator=self.generator)
        self.parts.append((features, target_deltas, priorities))
        if self.max_pairs is not None and len(self) > 2 * self.max_pairs:
            self.parts = [self._lowest(self.max_pairs)]

    def kept(self) -> tuple[Tensor, Tensor]:
        """Features ``[N, D]`` and deltas ``[N, 4]``."""
        return self._lowest(len(self) if self.max_pairs is None else self.max_pairs)[:2]

    def _lowest(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        features, target_deltas, priorities = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        chosen = priorities.argsort()[:count].sort().values
        return features[chosen], target_deltas[chosen], priorities[chosen]


class SVMFitter:
    """Fits SVMs and regressions after fine-tuning, on a training set with proposals."""

    def __init__(self, network: RCNN, transform: Transform, data: Dataset, seed: int, say: Log) -> None:
        self.network, self.transform, self.data = network.eval(), transform, data
        self.settings, self.seed, self.say = network.settings, seed, say
        self.device = network.svms.weight.device
        order = np.random.default_rng([seed, 4]).permutation(len(data)).tolist()
        self.order: Sequence[int] = order[: self.settings.svm.images]
        self.classifies = self.settings.classifier == "svm"

    def run(self) -> None:
        """Fit the SVMs and regressions that the settings ask for, and store them in the network."""
        if not (self.classifies or self.settings.regression):
            return
        scale = self.feature_scales()
        svms = self.svms(self.positives(), scale[0]) if self.classifies else []
        pairs = [
            RegressionPairs(self.settings.ridge.pairs, self.seed + label)
            for label in range(self.network.num_classes)
        ]
        for done, index in enumerate(self.order, 1):
            self.mine(index, svms, pairs, scale)
            if done % 50 == 0 or done == len(self.order):
                kept = sum(len(svm.negatives) for svm in svms)
                self.say(f"features: {done} of {len(self.order)} images, {kept} hard negatives")
        for svm in svms:
            if svm.fresh or not svm.fits:
                svm.fit()
        self.store(svms, pairs, scale)

    def sample(self, index: int) -> tuple[Tensor, Tensor, Targets]:
        """The normalised image ``[3, h, w]``, its proposals and its truth, in resized pixels."""
        sample = TrainingSample.from_sample(self.data[index])
        truth, size = sample.targets, sample.targets.size
        assert truth.proposals is not None
        boxes = self.transform.resize_boxes(truth.proposals, size)
        batch = self.transform([sample.image])
        height, width = batch.sizes[0]
        factors = torch.tensor([width / size[1], height / size[0]] * 2)
        truth = Targets((height, width), truth.boxes * factors, truth.labels, crowd=truth.crowd)
        return batch.tensors[0, :, :height, :width].to(self.device), boxes, truth

    def features(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the network, on the CPU, where they are fitted."""
        features, maps = self.network.features(image, boxes.to(self.device))
        return features.float().cpu(), maps.float().cpu()

    def feature_scales(self) -> tuple[float, float]:
        """The factors by which the mean norms of SVM and regression features become that of the settings."""
        norms = torch.zeros((0, 2))
        generator = torch.Generator().manual_seed(self.seed)
        for index in self.order[:NORM_IMAGES]:
            image, boxes, _ = self.sample(index)
            some = boxes[torch.randperm(len(boxes), generator=generator)[:NORM_BOXES]]
            found = [values.norm(dim=1) for values in self.features(image, some)]
            norms = torch.cat([norms, torch.stack(found, 1)])
        mean = norms.mean(0).clamp(min=1e-6) if len(norms) else torch.ones(2)
        return self.settings.svm.norm / float(mean[0]), self.settings.svm.norm / float(mean[1])

    def positives(self) -> list[Tensor]:
        """Features ``[N, D]`` of the true boxes of each class."""
        width = self.network.svms.in_features
        found: list[list[Tensor]] = [[torch.zeros((0, width))] for _ in range(self.network.num_classes)]
        for index, record in enumerate(self.data.records):
            if len(record.truth):
                image, _, truth = self.sample(index)
                real, _ = split_crowds(truth)
                features, _ = self.features(image, truth.boxes[real])
                for label in torch.unique(truth.labels[real]).tolist():
                    found[label].append(features[truth.labels[real] == label])
        return [torch.cat(parts) for parts in found]

    def svms(self, positives: Sequence[Tensor], scale: float) -> list[ClassSVM]:
        """One SVM per class, not fitted yet."""
        for name, some in zip(self.data.class_names, positives, strict=True):
            self.say(f"SVM of {name}: {len(some)} positives")
        return [ClassSVM(self.settings.svm, some * scale, self.seed) for some in positives]

    def mine(
        self,
        index: int,
        svms: Sequence[ClassSVM],
        pairs: Sequence[RegressionPairs],
        scale: tuple[float, float],
    ) -> None:
        """Pass the proposals of an image to every SVM, and keep those that the regressions are trained on."""
        image, boxes, truth = self.sample(index)
        features, maps = self.features(image, boxes)
        for label, svm in enumerate(svms):
            negative = find_negatives(boxes, truth, label, self.settings.svm.negative_iou)
            svm.add_hard_negatives(features[negative] * scale[0])
        chosen, labels, deltas = find_pairs(boxes, truth, self.settings.ridge.min_iou)
        for label in () if not self.settings.regression else torch.unique(labels).tolist():
            mine = labels == label
            pairs[label].add(maps[chosen[mine]] * scale[1], deltas[mine])

    def store(
        self,
        svms: Sequence[ClassSVM],
        pairs: Sequence[RegressionPairs],
        scale: tuple[float, float],
    ) -> None:
        """Store what was fitted in the network's linear layers, with the feature scales folded in."""
        layer, deltas = self.network.svms, self.network.deltas
        with torch.no_grad():
            for label, svm in enumerate(svms):
                layer.weight[label] = (svm.weight * scale[0]).to(self.device)
                layer.bias[label] = svm.bias
            for label, found in enumerate(pairs):
                if len(found):
                    weight, bias = fit_ridge(*found.kept(), self.settings.ridge)
                    deltas.weight[4 * label : 4 * label + 4] = (weight * scale[1]).to(self.device)
                    deltas.bias[4 * label : 4 * label + 4] = bias.to(self.device)
            self.network.fitted.fill_(1)
        if self.settings.regression:
            self.say(f"box regression: pairs per class: {', '.join(str(len(found)) for found in pairs)}")


def fit(network: RCNN, transform: Transform, data: Dataset, *, seed: int = 0, say: Log = print) -> None:
    """Fit the SVMs and the box regressions of a fine-tuned network, in place.

    Args:
        network: the model, fine-tuned or with features of ImageNet.
        transform: the one of the fine-tuning.
        data: training images with proposals.
        seed: random seed of the order of images and of the solver.
        say: takes a line for the log.

    Raises:
        ValueError: images without proposals, or no scikit-learn.
    """
    require_sklearn()
    if any(record.truth.proposals is None for record in data.records):
        raise ValueError(
            f"{data.source}: images without proposals; add them with rcnn.data.external_proposals"
        )
    SVMFitter(network, transform, data, seed, say).run()
