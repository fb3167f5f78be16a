"""Panoptic quality: one number for how well an image is partitioned into things and stuff.

Panoptic Segmentation, §4 (Kirillov et al. 2018, arXiv 1801.00868), with the rules of panopticapi for void and
crowds: a predicted and a true segment of one class match if their IoU is above 0.5, pixels of the prediction
on void apart; crowds are neither found nor missed; a prediction that found nothing is passed over if more
than half of it lies on void and on crowds of its class. PQ = sum of the matches' IoU / (TP + FP / 2 + FN / 2)
is the product of SQ, the mean IoU of the matches, and RQ, the F1 of finding segments.

Differs from panopticapi:
    Areas of true segments are counted in the picture, where panopticapi takes them from the JSON file. Of
    several crowds of one class in an image all count, where panopticapi sees the last; COCO has one at most.
    What there is nothing to average over is NaN.

Legend: G true and P predicted segments of one image, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.ops.panoptic import Panoptic


@dataclass(frozen=True)
class Quality:
    """PQ, SQ and RQ in [0, 1] of a class or averaged over several; NaN where there is nothing to measure."""

    pq: float
    sq: float
    rq: float


@dataclass(frozen=True)
class PanopticQuality:
    """The quality over all classes that occur in truth or prediction, and over the things and the stuff.

    Attributes:
        all: mean over the classes.
        things: mean over the things.
        stuff: mean over the stuff.
        per_class: by name, absent classes as NaN.
        counts: by name, matches, false positives and false negatives.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: dict[str, Quality]
    counts: dict[str, tuple[int, int, int]]


def panoptic_quality(truths: Sequence[Panoptic], predictions: Sequence[Panoptic]) -> PanopticQuality:
    """Measure the partitions of some images.

    Convention: one true segment of 10 pixels, of which the prediction of the same class has 8 and no other:
    IoU 0.8, PQ = SQ = 0.8, RQ = 1. A second prediction of that class elsewhere: PQ = 0.8 / 1.5.

    Raises:
        ValueError: no images or different numbers of them, or partitions of other classes or sizes.
    """
    if not truths or len(truths) != len(predictions):
        raise ValueError(
            f"truths of {len(truths)} images, predictions of {len(predictions)}: expected as many, and at "
            "least one; give one Panoptic an image."
        )
    names, num_things = truths[0].names, truths[0].num_things
    totals = torch.zeros((len(names), 4), dtype=torch.float64)  # TP, FP, FN, sum of IoU
    for number, (truth, predicted) in enumerate(zip(truths, predictions, strict=True)):
        for kind, found in (("truth", truth), ("prediction", predicted)):
            if found.names != names or found.num_things != num_things or found.size != truth.size:
                raise ValueError(
                    f"image {number}: the {kind} is of size {found.size} with {found.num_things} things of "
                    f"{len(found.names)} classes; expected {truth.size} and the {len(names)} classes of the "
                    f"first truth, {num_things} of them things, in the same order."
                )
        totals += _counts(truth, predicted)
    per_class = {name: _quality(*row) for name, row in zip(names, totals.tolist(), strict=True)}
    qualities = list(per_class.values())
    return PanopticQuality(
        _mean(qualities),
        _mean(qualities[:num_things]),
        _mean(qualities[num_things:]),
        per_class,
        {
            name: (int(tp), int(fp), int(fn))
            for name, (tp, fp, fn, _) in zip(names, totals.tolist(), strict=True)
        },
    )


def _counts(truth: Panoptic, predicted: Panoptic) -> Tensor:
    """float64 ``[C, 4]``: matches, false positives, false negatives and the sum of IoU of each class."""
    rows, columns = len(truth) + 1, len(predicted) + 1
    pairs = (truth.segments * columns + predicted.segments).reshape(-1)
    shared = torch.bincount(pairs, minlength=rows * columns).view(rows, columns).double()  # [1 + G, 1 + P]
    on_void, shared_segments = shared[0, 1:], shared[1:, 1:]
    true_areas, areas = shared[1:].sum(1), shared[:, 1:].sum(0)
    union = true_areas[:, None] + areas - shared_segments - on_void
    # A prediction wholly on void and an empty truth have no union at all: 0 / 0, no match.
    iou = shared_segments / union.clamp(min=1)
    same_class = truth.labels[:, None] == predicted.labels
    matches = (iou > 0.5) & same_class & ~truth.crowd[:, None]
    passed_over = on_void + (shared_segments * (same_class & truth.crowd[:, None])).sum(0)
    false = ~matches.any(0) & (passed_over <= 0.5 * areas)
    missed = ~matches.any(1) & ~truth.crowd
    counts = torch.zeros((len(truth.names), 4), dtype=torch.float64)
    found = matches.any(1)
    counts[:, 0] = _per_class(truth.labels[found], counts)
    counts[:, 1] = _per_class(predicted.labels[false], counts)
    counts[:, 2] = _per_class(truth.labels[missed], counts)
    counts[:, 3].index_add_(0, truth.labels[found], (iou * matches).sum(1)[found])
    return counts


def _per_class(labels: Tensor, counts: Tensor) -> Tensor:
    return torch.bincount(labels, minlength=len(counts)).double()


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
