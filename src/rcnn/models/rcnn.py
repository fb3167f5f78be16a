"""R-CNN (Girshick et al. 2013, arXiv 1311.2524): each proposal is warped and classified by itself.

Training is a sequence: the network is fine-tuned to classify warped proposals (by the loop that trains all
models), then a linear SVM and a ridge regression of boxes per class are fitted on its features
(``rcnn.training.svms``). Until they are, the softmax of the fine-tuning classifies and boxes stay.

Differs from the paper: features come from any backbone, pooled to P x P cells ("pool5"), with fully connected
layers after it or not. A margin m is reported as the score sigmoid(4 m), between 0 and 1 as everywhere: only
the order of scores is R-CNN's. Fine-tuning sees crops of the image varied as in all models here, not mirrored
proposals only.

Legend: R regions, K classes, C channels, P the pooled side, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import LAST_STAGE, Light
from rcnn.models.model import Model, Scheme
from rcnn.ops import boxes as box_ops
from rcnn.ops.losses import Losses, MeanLoss
from rcnn.ops.warp import warp
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.pretrained import PretrainedPart, load_backbone_weights, load_fc_layers
from rcnn.parts.regions import SamplingSettings, external_proposals, sample_proposals
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.structures.trace import watched

# Margins of -1 and 1 become 0.02 and 0.98.
STEEPNESS = 4.0
MIN_SIDE = 1e-2  # pixels; detections with a shorter side are dropped


@dataclass(frozen=True)
class SVMSettings:
    """The SVM of each class; the defaults are those of the published code.

    Attributes:
        c: weight of the hinge loss.
        bias: the bias is learned as the weight of a feature of this value, and regularised like all weights.
        positive_weight: weight of the positives, which are the true boxes only (§2.3).
        negative_iou: proposals that overlap every true box of the class by less are negatives (appendix B).
        hard_margin: negatives with a higher margin join the training.
        easy_margin: negatives with a lower margin leave it.
        refit_every: an SVM is fitted again after this many new negatives.
        norm: features are scaled so that their mean norm is this.
        images: at most this many training images are searched for negatives; None takes all.
    """

    c: float = ranged(1e-3, 0, 1e6, above=True)
    bias: float = ranged(10.0, 0, 1e6)
    positive_weight: float = ranged(2.0, 0, 1e6, above=True)
    negative_iou: float = ranged(0.3, 0, 1)
    hard_margin: float = ranged(-1.0001, -1e6, 1e6)
    easy_margin: float = ranged(-1.2, -1e6, 1e6)
    refit_every: int = ranged(2000, 1, 1e9)
    norm: float = ranged(20.0, 0, 1e6, above=True)
    images: int | None = ranged(None, 1, 1e9)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


@dataclass(frozen=True)
class RidgeSettings:
    """The regression of boxes (appendix C).

    Attributes:
        strength: strength of the regularisation, lambda.
        min_iou: proposals that overlap a true box by more than this are trained on, each with the one it
            overlaps most.
        whitening: added to the covariance of the targets before they are whitened by it (published code).
        pairs: at most this many pairs per class are kept, drawn from all; None keeps all. With VGG-16 each
            takes 100 kB of memory.
    """

    strength: float = ranged(1000.0, 0, 1e12)
    min_iou: float = ranged(0.6, 0, 1)
    whitening: float = ranged(1e-3, 0, 1e6)
    pairs: int | None = ranged(None, 1, 1e9)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


@dataclass(frozen=True)
class RCNNSettings:
    """R-CNN with VGG-16 (the paper's "O-Net").

    Attributes:
        backbone: the convolutional network; its last level is read.
        search: how proposals are searched for where none are given.
        side: side of the warped regions in pixels (227 for AlexNet, 224 for VGG-16).
        context: pixels around the box after warping.
        pool: P, the side that the map is max-pooled to ("pool5").
        layers: number of fully connected layers after the pooling: 2 ("fc7"), 1 ("fc6") or 0 ("pool5").
        channels: width of the fully connected layers.
        dropout: dropout after each of them, in fine-tuning.
        finetune: whether the network is trained on warped proposals at all; else its features are those of
            ImageNet (table 2, rows 1 to 3), and the softmax knows nothing.
        sampling: which proposals fine-tuning sees: 32 positives and 96 others from two images (§2.3).
        classifier: ``svm``, or the ``softmax`` of the fine-tuning (appendix B: 50.9 instead of 54.2 mAP).
        regression: whether boxes are moved (§3.4: 3 to 4 points of mAP).
        svm: how the SVMs are fitted.
        ridge: how the regression is fitted.
        chunk: regions that the network processes at once.
        min_score: detections below it are dropped.
        per_class: maximum number of detections per class before suppression.
        nms_iou: a detection that overlaps a better one of its class by more is dropped.
        max_detections: maximum number of detections per image, the best first.
    """

    backbone: BackboneSettings = field(
        default_factory=lambda: BackboneSettings("vgg16", (4,), frozen_stages=0)
    )
    search: SelectiveSearchSettings = field(default_factory=SelectiveSearchSettings)
    side: int = ranged(224, 1, 4096)
    context: int = ranged(16, 0, 2048)
    pool: int = ranged(7, 1, 256)
    layers: Literal[0, 1, 2] = 2
    channels: int = ranged(4096, 1, 65536)
    dropout: float = ranged(0.5, 0, 1, below=True)
    finetune: bool = True
    sampling: SamplingSettings = field(default_factory=lambda: SamplingSettings(count=64))
    classifier: Literal["svm", "softmax"] = "svm"
    regression: bool = True
    svm: SVMSettings = SVMSettings()
    ridge: RidgeSettings = RidgeSettings()
    chunk: int = ranged(64, 1, 1e6)
    min_score: float = ranged(0.01, 0, 1)
    per_class: int = ranged(100, 1, 1e6)
    nms_iou: float = ranged(0.3, 0, 1)
    max_detections: int = ranged(100, 1, 1e6)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a context that leaves no room for the box, or a softmax that is not trained.
        """
        if self.classifier == "softmax" and not self.finetune:
            raise ValueError('classifier "softmax" is trained by fine-tuning: set finetune to true')
        if not 0 <= 2 * self.context < self.side:
            raise ValueError(f"context {self.context}: expected 0 to less than half of the side {self.side}")
        check_ranges(self)


class RCNN(Model):
    """Classifies each proposal by itself: a network for features, an SVM per class, boxes by regression."""

    Settings = RCNNSettings
    needs_proposals = True
    exportable = False
    reads_whole_images = False

    def __init__(self, num_classes: int, settings: RCNNSettings | None = None) -> None:
        """Build with random weights; see ``rcnn.parts.pretrained`` for others."""
        super().__init__()
        self.settings = settings or RCNNSettings()
        self.num_classes = num_classes
        self.backbone = build_backbone(self.settings.backbone)
        pooled = self.backbone.channels[-1] * self.settings.pool**2
        widths = [pooled] + [self.settings.channels] * self.settings.layers
        self.layers = nn.Sequential(*_dense(widths, self.settings.dropout))
        self.logits = nn.Linear(widths[-1], num_classes + 1)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)
        # Fitted, not trained: no gradient reaches them.
        self.svms = nn.Linear(widths[-1], num_classes).requires_grad_(False)
        self.deltas = nn.Linear(pooled, 4 * num_classes).requires_grad_(False)
        self.fitted: Tensor
        # A byte: not every backend of several processes can send a bool.
        self.register_buffer("fitted", torch.zeros((), dtype=torch.uint8))
        for layer in (self.svms, self.deltas):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=MEMORY_FORMAT)

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for."""
        return [
            PretrainedPart("backbone", self.backbone, load_backbone_weights),
            PretrainedPart("layers", self.layers, load_fc_layers),
        ]

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Cross entropy of the classes of sampled proposals (§2.3, fine-tuning).

        Raises:
            ValueError: an image without proposals.
        """
        sampled = sample_proposals(
            external_proposals(targets),
            targets,
            self.num_classes,
            self.settings.sampling,
            batch.sampling_seeds(),
        )
        boxes, owners = sampled.regions.boxes, sampled.regions.image_indices
        maps = [
            self.pooled(image[:, :height, :width], boxes[owners == i])
            for i, (image, (height, width)) in enumerate(zip(batch.tensors, batch.sizes, strict=True))
        ]
        logits = self.logits(self.layers(torch.cat(maps))).float()
        total = functional.cross_entropy(logits, sampled.labels, reduction="sum")
        return {"classes": MeanLoss(total, len(sampled.labels))}

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Boxes and their classes among the proposals."""
        assert proposals is not None
        if (trace := watched()) is not None:
            trace.note("regions", "R-CNN §2.1", regions=proposals)
        # Every image's own pixels are warped, so that it has the same features in any batch.
        found = [
            self.features(image[:, : int(height), : int(width)], boxes)
            for image, (height, width), boxes in zip(
                images, sizes.tolist(), proposals.lists(len(images)), strict=True
            )
        ]
        features, maps = (torch.cat(values) for values in zip(*found, strict=True))
        boxes = proposals.boxes[:, None].expand(-1, self.num_classes, -1)
        if self.settings.regression and bool(self.fitted):
            boxes = box_ops.decode(self.deltas(maps).float().unflatten(1, (-1, 4)), proposals.boxes)
        return self.decode(
            self.scores(features), boxes, proposals.image_indices, sizes,
            min_score=min_score, max_detections=max_detections,
        )  # fmt: skip

    @classmethod
    def selection_of(cls, settings: RCNNSettings) -> RCNNSettings:
        """The model's own settings."""
        return settings

    @classmethod
    def light_settings(cls, light: Light) -> RCNNSettings:
        """A warped box has 96 pixels, a twelfth of the paper's area of work; 4 x 4 cells remain of it."""
        last = LAST_STAGE.get(light.backbone_name, 4)
        return RCNNSettings(
            light.backbone((last,)), light.search, side=128, pool=4, layers=0,
            sampling=SamplingSettings(32, 0.25), ridge=RidgeSettings(pairs=2000),
            max_detections=light.max_detections,
        )  # fmt: skip

    @classmethod
    def scheme(cls, settings: RCNNSettings) -> Scheme:
        """SVMs come after the loop."""
        return "svms"

    @classmethod
    def no_start(cls, settings: RCNNSettings) -> str | None:
        """SVMs are fitted once, to the features of a finished network."""
        return "R-CNN's SVMs and box regressions are fitted after training and cannot be trained on"

    def pooled(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Features ``[R, C P P]`` ("pool5") of boxes ``[R, 4]`` on an image ``[3, H, W]``."""
        regions = warp(image, boxes, self.settings.side, self.settings.context)
        maps = self.backbone(regions.contiguous(memory_format=MEMORY_FORMAT))[-1]
        return functional.adaptive_max_pool2d(maps, self.settings.pool).flatten(1)

    @torch.no_grad()
    def features(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What SVMs ``[R, D]`` and regressions ``[R, C P P]`` read, some regions after the other."""
        pooled = [self.pooled(image, some) for some in torch.split(boxes, self.settings.chunk)]
        maps = torch.cat([self.deltas.weight.new_zeros((0, self.deltas.in_features)), *pooled])
        return self.layers(maps), maps

    def scores(self, features: Tensor) -> Tensor:
        """The scores ``[R, K]`` of all classes, in [0, 1]."""
        if self.settings.classifier == "svm" and bool(self.fitted):
            return torch.sigmoid(STEEPNESS * self.svms(features).float())
        probabilities: Tensor = self.logits(features).float().softmax(1)
        return probabilities[:, : self.num_classes]

    def decode(
        self,
        scores: Tensor,
        boxes: Tensor,
        images: Tensor,
        sizes: Tensor,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Detections from scores ``[R, K]``, boxes ``[R, K, 4]`` and the image of each region ``[R]``.

        The best of each image and class, then suppression.
        """
        counts = torch.bincount(images, minlength=len(sizes))
        first, num_regions = counts.cumsum(0) - counts, int(counts.max())
        table = scores.new_full((len(sizes), num_regions, self.num_classes), -1.0)
        table[images, torch.arange(len(images), device=images.device) - first[images]] = scores
        most = min(max(self.settings.per_class, int(max_detections)), num_regions)
        best, index = table.topk(most, dim=1)  # [B, best, K]
        labels = torch.arange(self.num_classes, device=scores.device).expand_as(index)
        images = torch.arange(len(sizes), device=scores.device)[:, None, None].expand_as(index)
        good = best >= min_score
        best, labels, images, index = best[good], labels[good], images[good], index[good]
        region = first[images] + index
        moved = box_ops.clip(boxes[region, labels], sizes[images])
        large = box_ops.larger_than(moved, MIN_SIDE)
        moved, best, labels, images = moved[large], best[large], labels[large], images[large]
        unsuppressed = box_ops.nms(moved, best, images * self.num_classes + labels, self.settings.nms_iou)
        keep = unsuppressed[box_ops.first_of_each(images[unsuppressed], len(sizes), max_detections)]
        if (trace := watched()) is not None:
            softmax = self.settings.classifier == "softmax" or not bool(self.fitted)
            trace.note(
                "selection", "R-CNN §2.2", scores=scores, boxes=boxes, sizes=sizes, background=softmax,
                regions=region[large], labels=labels, selected=moved, unsuppressed=unsuppressed, kept=keep,
                min_score=min_score, min_side=MIN_SIDE, nms_iou=self.settings.nms_iou,
                max_detections=max_detections,
            )  # fmt: skip
        return Detections(moved[keep], labels[keep], best[keep], images[keep])


def _dense(widths: Sequence[int], dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return layers
