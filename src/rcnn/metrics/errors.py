"""What keeps average precision below 1: six kinds of errors, and the AP each one costs.

TIDE (Bolya et al. 2020, arXiv 2008.08115, §2), with its IoUs 0.5 (foreground) and 0.1 (background). A
detection that finds no object is an error of the first kind that fits:

- *localisation*: it overlaps an object of its class with IoU 0.1 to 0.5;
- *classification*: it overlaps an object of another class with IoU of at least 0.5;
- *duplicate*: it overlaps an object of its class that a better detection has found;
- *background*: it overlaps no object with IoU above 0.1;
- *both*: the remaining ones: wrong class and IoU 0.1 to 0.5.

An object that was not found is *missed*, unless a classification or localisation error points to it.

The cost of a kind is how much AP at IoU 0.5 rises when that kind alone is fixed. Localisation and
classification errors become true detections of the object they point to if it was not found and no better
detection of either kind points to it; otherwise they are dropped. Duplicate, background and both are dropped.
Missed objects no longer have to be found. The costs do not add up to 1 - AP.

Differs from ``tidecv``: detections on crowds and difficult objects are not errors; classes without objects
are left out of the mean, as in COCO.

Legend: D detections and N objects of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.metrics import check_pairs
from rcnn.metrics.average_precision import interpolated_ap
from rcnn.metrics.matches import MATCH_IOU, UNMATCHED, pair
from rcnn.metrics.overlaps import Kind, ious
from rcnn.structures import Instances

BACKGROUND_IOU = 0.1
RECALLS = 101  # at which COCO takes the precision
ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
TRUE = "true"


@dataclass(frozen=True)
class ErrorAnalysis:
    """The errors by kind, and what they cost.

    Attributes:
        ap: at IoU 0.5, in [0, 1]; NaN without objects.
        counts: errors by kind, in the order of ``ERROR_KINDS``.
        costs: by kind, the AP gained by fixing it, in [0, 1].
    """

    ap: float
    counts: dict[str, int]
    costs: dict[str, float]


@dataclass(frozen=True, slots=True)  # there are as many as detections in all images
class _Detection:
    """One detection that counts.

    Attributes:
        score: its own.
        label: its class.
        kind: ``TRUE`` or the kind of its error.
        fixed: the class in which it would be true, for the best localisation or classification error that
            points to an object that was not found; None: dropped when fixed.
    """

    score: float
    label: int
    kind: str
    fixed: int | None = None


def analyse_errors(
    truths: Sequence[Instances], predictions: Sequence[Instances], *, kind: Kind, num_classes: int
) -> ErrorAnalysis:
    """Sort the errors in a set of images by kind.

    Convention: one of two objects found, and nothing else: AP 51 / 101; the other is missed, which costs
    50 / 101.

    Args:
        truths: one per image.
        predictions: one per image, in the same order, with scores.
        kind: whether boxes or masks are compared.
        num_classes: the number of classes.

    Raises:
        ValueError: truths and predictions that do not belong together, or keypoints.
    """
    check_pairs(truths, predictions, tuple(map(str, range(num_classes))))
    if kind == "keypoint":
        raise ValueError("errors are sorted by the IoU of boxes or masks, which keypoints do not have.")
    detections: list[_Detection] = []
    objects, missed = np.zeros(num_classes, dtype=np.int64), np.zeros(num_classes, dtype=np.int64)
    for truth, predicted in zip(truths, predictions, strict=True):
        found, counted, left = _judge(truth, predicted, kind)
        detections += found
        objects += np.bincount(truth.labels[counted], minlength=num_classes)
        missed += np.bincount(truth.labels[left], minlength=num_classes)
    ap = _ap(detections, objects, objects)
    costs = {}
    for error in ERROR_KINDS[:-1]:
        fixed = [_fix(d) if d.kind == error else d for d in detections]
        costs[error] = _ap([d for d in fixed if d is not None], objects, objects) - ap
    costs["missed"] = _ap(detections, objects - missed, objects) - ap
    counts = {error: sum(d.kind == error for d in detections) for error in ERROR_KINDS[:-1]}
    # Interpolation can make a fixed curve slightly worse, which is not a gain.
    gains = {error: max(cost, 0.0) if math.isfinite(cost) else cost for error, cost in costs.items()}
    return ErrorAnalysis(ap, {**counts, "missed": int(missed.sum())}, gains)


def _judge(
    truth: Instances, predicted: Instances, kind: Kind
) -> tuple[list[_Detection], npt.NDArray[np.int64], list[int]]:
    """One image's detections, the objects that must be found, and those that are missed."""
    pairing = pair(truth, predicted, kind)
    counted = np.array(pairing.objects, dtype=np.int64)
    overlaps = ious(truth, predicted, kind)[:, counted]  # [D, objects that must be found]
    labels, true_labels = predicted.labels, truth.labels[counted]
    same = labels[:, None] == true_labels
    taken = np.isin(counted, pairing.found)
    detections: list[_Detection] = []
    pointed: set[int] = set()
    for index in np.argsort(-np.array(pairing.scores), kind="stable").tolist():
        found = pairing.found[index]
        score, label = pairing.scores[index], int(labels[index])
        if found >= 0:
            detections.append(_Detection(score, label, TRUE))
        elif found == UNMATCHED:
            error, target = _error(overlaps[index], same[index], taken)
            first = target is not None and not taken[target] and target not in pointed
            if target is not None and first:
                pointed.add(target)
            fixed = int(true_labels[target]) if target is not None and first else None
            detections.append(_Detection(score, label, error, fixed))
    left = [int(i) for n, i in enumerate(counted) if not taken[n] and n not in pointed]
    return detections, counted, left


def _error(
    overlaps: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], taken: npt.NDArray[np.bool_]
) -> tuple[str, int | None]:
    """The kind of a false detection's error, and the object that it points to."""
    if not len(overlaps):
        return "background", None
    own, other = np.where(same, overlaps, 0.0), np.where(same, 0.0, overlaps)
    if BACKGROUND_IOU <= own.max() <= MATCH_IOU:
        return "localisation", int(own.argmax())
    if other.max() >= MATCH_IOU:
        return "classification", int(other.argmax())
    if own[taken].max(initial=0.0) >= MATCH_IOU:
        return "duplicate", None
    return ("background" if overlaps.max() <= BACKGROUND_IOU else "both"), None


def _fix(detection: _Detection) -> _Detection | None:
    """The detection as it should have been; None if there should be none."""
    return None if detection.fixed is None else _Detection(detection.score, detection.fixed, TRUE)


def _ap(
    detections: Sequence[_Detection], objects: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]
) -> float:
    """The mean AP over the classes whose entry in ``classes`` is not 0; ``objects`` must be found in each.

    A class with nothing left to be found is left out if it has no detections, else its AP is 0.
    """
    labels = np.array([d.label for d in detections], dtype=np.int64)
    scores = np.array([d.score for d in detections], dtype=np.float64)
    true = np.array([d.kind == TRUE for d in detections], dtype=bool)
    aps = []
    for label in np.flatnonzero(classes):
        own = labels == label
        if own.any() and objects[label]:
            aps.append(_class_ap(scores[own], true[own], int(objects[label])))
        elif own.any() or objects[label]:
            aps.append(0.0)
    return float(np.mean(aps)) if aps else math.nan


def _class_ap(scores: npt.NDArray[np.float64], true: npt.NDArray[np.bool_], objects: int) -> float:
    """COCO's AP at one IoU, from which of the detections are true."""
    hits = true[np.argsort(-scores, kind="stable")].cumsum()
    return interpolated_ap(hits / objects, hits / np.arange(1, len(hits) + 1), RECALLS)
