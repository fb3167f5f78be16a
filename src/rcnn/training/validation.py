"""The network under training measured on the validation part: on some images, and at the end on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from rcnn.data.dataset import Dataset
from rcnn.data.geometry import TrainingSample
from rcnn.evaluation.evaluator import measure_predictions
from rcnn.evaluation.shares import evaluate_shares
from rcnn.inference.detector import Detector
from rcnn.metrics.metric import Evaluation
from rcnn.metrics.registry import BASIC
from rcnn.models.model import Model
from rcnn.processes.group import barrier
from rcnn.structures import Instances
from rcnn.training.recipe import Recipe
from rcnn.training.split import Split

# Mean for an image evaluated during training: a megapixel takes about half a second on two cores.
MEAN_EVAL_PIXELS = 1024 * 1024
MAX_LOSS_IMAGES = 16


def as_detector(network: Model, recipe: Recipe, data: Dataset) -> Detector:
    """A network under training as a detector of the classes of its training data, in float32."""
    # So that predictions can be compared with the data's own file.
    ids, things = data.category_ids, len(data.class_names)
    info: dict[str, list[int]] = {"category_ids": list(ids)} if ids else {}
    if ids and data.semantic_ids[things:]:
        info["stuff_ids"] = list(data.semantic_ids[things:])
    return Detector(
        network,
        recipe.transform,
        data.class_names if network.finds_objects else (),
        info=info,
        skeleton=data.skeleton if network.needs_keypoints else None,
        semantic_names=network.pixel_names(data.class_names, data.semantic_names),
        precision="float32",
    )


class Validation:
    """Measures the network under training; ``Trainer`` calls it."""

    def __init__(self, network: Model, recipe: Recipe, split: Split, *, all_at_end: bool = True) -> None:
        """Prepare to measure.

        Args:
            network: the one that is trained, on its device.
            recipe: how it is trained.
            split: the data.
            all_at_end: whether the last evaluation takes all images; else the network is not finished then.
        """
        self.recipe, self.split, self.all_at_end = recipe, split, all_at_end
        detector = as_detector(network, recipe, split.train)
        self.detector = replace(detector, info=detector.info | split.record())
        self.subset = self._some(recipe.train.eval_images)
        self.last: tuple[Evaluation, list[Instances]] | None = None

    def _some(self, count: int) -> list[int]:
        """At most ``count`` images, chosen with the seed; fewer where they are large and take long."""
        order = np.random.default_rng([self.recipe.train.seed, 2]).permutation(len(self.split.val))[:count]
        sizes = [self.recipe.transform.resized(self.split.val.records[i].truth.size) for i in order]
        pixels = np.cumsum([height * width for height, width in sizes])
        within = int(np.searchsorted(pixels, count * MEAN_EVAL_PIXELS, side="right"))
        return sorted(int(i) for i in order[: max(1, within)])

    def __call__(self, full: bool) -> dict[str, float]:
        """Metrics by name with ``score``, always of the same few images so that they make a curve.

        At the end all images are predicted; their evaluation and predictions are kept in ``last``. Every
        process predicts its share, and the first one measures; the loss is computed by all of them, who agree
        on what it is divided by.
        """
        loss = self.loss()  # first: the others do not wait for it while the first process measures
        full = full and self.all_at_end
        val = self.split.val if full else self.split.val.subset(self.subset)
        measured = evaluate_shares(self.detector, val, metrics=None if full else BASIC)
        if measured is None:
            return {"val/loss": loss, "score": 0.0}
        evaluation, predictions = measured
        if full:
            self.last = measured
            evaluation = self._on_few(predictions) if len(self.subset) < len(val) else evaluation
        metrics = evaluation.followed
        if evaluation.has_objects:
            metrics["f1"] = evaluation.f1
        return {**metrics, "val/loss": loss, "score": _score(evaluation)}

    def _on_few(self, predictions: Sequence[Instances]) -> Evaluation:
        few = [predictions[i] for i in self.subset]
        return measure_predictions(self.detector, self.split.val.subset(self.subset), few, metrics=BASIC)

    @torch.no_grad()
    def loss(self, count: int = MAX_LOSS_IMAGES) -> float:
        """The mean loss over crops of a few validation images, without random augmentation."""
        plain = self.recipe.augment.without_randomness()
        device, losses = self.detector.device, []
        for index in self.subset[:count]:
            sample = TrainingSample.from_sample(self.split.val.undrawn(index))
            sample = plain(sample, self.recipe.transform, np.random.default_rng([3, index]))
            batch = self.recipe.transform.batch([sample.image])
            moved = replace(batch, tensors=batch.tensors.to(device), seeds=(index,))
            barrier()  # all have read the image
            output = self.detector.network(moved, [sample.targets.to(device)])
            losses.append(sum(float(v) for v in output.losses.values()))
        return float(np.mean(losses))


def _score(evaluation: Evaluation) -> float:
    """What the best weights are chosen by; 0 where there is no truth at all."""
    value = evaluation.metrics[evaluation.headline_metric]
    return 0.0 if np.isnan(value) else value
