"""Panoptic quality: one number for how well an image is partitioned into things and stuff.

Panoptic Segmentation, §4 (Kirillov et al. 2018, arXiv 1801.00868), with the rules of panopticapi for void and
crowds: a predicted and a true segment of one class match if their IoU, without the prediction's pixels on
void, is above 0.5. Crowds are neither found nor missed. A prediction that matches nothing is ignored if more
than half of it is on void and on crowds of its class. PQ = sum of the matches' IoU / (TP + FP / 2 + FN / 2)
is the product of SQ, the mean IoU of the matches, and RQ, the F1 of finding segments.

Differs from panopticapi:
    Areas of true segments are counted in the image; panopticapi takes them from the JSON file. All crowds of
    a class in an image count; panopticapi uses only the last (COCO has one at most). A mean over nothing is
    NaN.

Legend: G true and P predicted segments of one image, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.metrics.overlaps import Floats
from rcnn.structures import Panoptic

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ in [0, 1], of a class or averaged over classes; NaN where there is nothing to measure."""

    pq: float
    sq: float
    rq: float


@dataclass(frozen=True)
class PanopticQuality:
    """The quality over all classes that occur in truth or predictions, and over things and stuff.

    Attributes:
        all: mean over the classes.
        things: mean over the things.
        stuff: mean over the stuff.
        per_class: by name; NaN for absent classes.
        counts: by name: matches, false positives and false negatives.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[str, Quality]
    counts: dict[str, tuple[int, int, int]]

    @property
    def metrics(self) -> dict[str, float]:
        """``panoptic/PQ``, ``panoptic/SQ`` and ``panoptic/RQ``, also with ``_things`` and ``_stuff``."""
        parts = (("", self.all), ("_things", self.things), ("_stuff", self.stuff))
        return {
            f"panoptic/{key}{part}": value
            for part, quality in parts
            for key, value in zip(("PQ", "SQ", "RQ"), (quality.pq, quality.sq, quality.rq), strict=True)
        }

    def class_metrics(self) -> dict[str, dict[str, float]]:
        """By class name ``panoptic/PQ``, ``panoptic/SQ`` and ``panoptic/RQ``."""
        return {
            name: {"panoptic/PQ": q.pq, "panoptic/SQ": q.sq, "panoptic/RQ": q.rq}
            for name, q in self.per_class.items()
        }


def panoptic_quality(truths: Sequence[Panoptic], predictions: Sequence[Panoptic]) -> PanopticQuality:
    """Measure the partitions of a set of images.

    Convention: if a prediction has 8 of the 10 pixels of the only true segment, and no others, IoU is 0.8, so
    PQ = SQ = 0.8 and RQ = 1. With a second prediction of that class elsewhere, PQ = 0.8 / 1.5.

    Raises:
        ValueError: different numbers of images, or sizes of an image that differ.
    """
    if len(truths) != len(predictions):
        raise ValueError(
            f"truths of {len(truths)} images, predictions of {len(predictions)}: give one Panoptic per image."
        )
    tally = PanopticTally()
    for truth, predicted in zip(truths, predictions, strict=True):
        tally.add(truth, predicted)
    return tally.result()


class PanopticTally:
    """Adds up images one by one. Classes are matched by name, ignoring case."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.names: list[str] = []
        self.things: list[bool] = []
        self.totals: list[Floats] = []  # float64 [4] each: TP, FP, FN, sum of IoU

    def add(self, truth: Panoptic, predicted: Panoptic) -> None:
        """One image's partitions; raises as :func:`panoptic_quality`."""
        if truth.size != predicted.size:
            raise ValueError(
                f"the truth is of size {truth.size}, the prediction of size {predicted.size} (height, width)"
            )
        labels = self._labels(truth), self._labels(predicted)
        for place, counts in enumerate(_counts(truth, predicted, labels, len(self.names))):
            self.totals[place] += counts

    def _labels(self, partition: Panoptic) -> Labels:
        """``partition.labels`` as indices into ``names``; new names are added."""
        for label, name in enumerate(partition.names):
            if name.casefold() not in self.places:
                self.places[name.casefold()] = len(self.names)
                self.names.append(name)
                self.things.append(label < partition.num_things)
                self.totals.append(np.zeros(4))
        table = np.array([self.places[name.casefold()] for name in partition.names], np.int64)
        labels: Labels = table[partition.labels]
        return labels

    def result(self) -> PanopticQuality:
        """The quality over all images."""
        rows = [total.tolist() for total in self.totals]
        qualities = [_quality(*row) for row in rows]
        kinds = list(zip(qualities, self.things, strict=True))
        return PanopticQuality(
            _mean(qualities),
            _mean([quality for quality, thing in kinds if thing]),
            _mean([quality for quality, thing in kinds if not thing]),
            dict(zip(self.names, qualities, strict=True)),
            {n: (int(tp), int(fp), int(fn)) for n, (tp, fp, fn, _) in zip(self.names, rows, strict=True)},
        )


def _counts(truth: Panoptic, predicted: Panoptic, labels: tuple[Labels, Labels], num_classes: int) -> Floats:
    """float64 ``[C, 4]``: matches, false positives, false negatives and the sum of IoU of each class."""
    rows, columns = len(truth) + 1, len(predicted) + 1
    pairs = (truth.segments * columns + predicted.segments).reshape(-1)
    counted = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    shared = counted.astype(np.float64)  # [1 + G, 1 + P]
    on_void, shared_segments = shared[0, 1:], shared[1:, 1:]
    true_areas, areas = shared[1:].sum(1), shared[:, 1:].sum(0)
    union = true_areas[:, None] + areas - shared_segments - on_void
    # A prediction wholly on void and an empty truth have no union: 0 / 0 is no match.
    iou = shared_segments / union.clip(min=1)
    of_truth, of_predicted = labels
    same_class = of_truth[:, None] == of_predicted
    matches = (iou > 0.5) & same_class & ~truth.crowd[:, None]
    passed_over = on_void + (shared_segments * (same_class & truth.crowd[:, None])).sum(0)
    false = ~matches.any(0) & (passed_over <= 0.5 * areas)
    missed = ~matches.any(1) & ~truth.crowd
    found = matches.any(1)
    counts = (
        _per_class(of_truth[found], num_classes),
        _per_class(of_predicted[false], num_classes),
        _per_class(of_truth[missed], num_classes),
        _per_class(of_truth[found], num_classes, (iou * matches).sum(1)[found]),
    )
    return np.stack(counts, 1)


def _per_class(labels: Labels, num_classes: int, weights: Floats | None = None) -> Floats:
    return np.bincount(labels, weights, num_classes).astype(np.float64)


def _quality(tp: float, fp: float, fn: float, iou: float) -> Quality:
    if tp + fp + fn == 0:
        return Quality(math.nan, math.nan, math.nan)
    segments = tp + fp / 2 + fn / 2
    return Quality(iou / segments, iou / tp if tp else 0.0, tp / segments)


def _mean(qualities: Sequence[Quality]) -> Quality:
    present = [q for q in qualities if not math.isnan(q.pq)]
    count = len(present)
    if not count:
        return Quality(math.nan, math.nan, math.nan)
    return Quality(
        sum(q.pq for q in present) / count,
        sum(q.sq for q in present) / count,
        sum(q.rq for q in present) / count,
    )
