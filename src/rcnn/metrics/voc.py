"""Pascal VOC's average precision, by the rules of the devkit as py-faster-rcnn's ``voc_eval`` has them.

A detection is compared only with the object of its class that it overlaps most. It is true if their IoU is
*above* the threshold and the object is not yet taken, otherwise false: a second detection of an object is
false. If that object is ``difficult``, the detection is ignored, and the object does not have to be found.

Convention:
    VOC counts pixels inclusively: its box ``1 1 10 10`` is 10 pixels wide. In continuous coordinates
    (``x1 - 1, y1 - 1, x2, y2``) it is ``0 0 10 10``, with width ``10 - 0 = 10``. VOC's width ``x2 - x1 + 1``
    equals the continuous width, so the plain IoU here *is* VOC's inclusive IoU.

Differs from ``voc_eval``:
    Detections of equal score keep their order (by image, and as predicted); ``voc_eval`` uses an unstable
    sort. The eleven recalls are exact tenths; there 0.3, 0.6 and 0.7 are a rounding error too high, so that
    three of ten objects found do not reach 0.3. COCO's crowds, which VOC does not have, count as difficult. A
    class without objects that must be found is NaN and left out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rcnn.metrics import check_pairs
from rcnn.metrics.average_precision import best_from, interpolated_ap
from rcnn.metrics.overlaps import Floats
from rcnn.structures import Array, Instances, box_ious

FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class VocResult:
    """VOC's AP, in [0, 1].

    Attributes:
        mean_ap: the mean over the classes with objects that must be found; NaN if there are none.
        per_class: AP by class name; NaN without such objects.
    """

    mean_ap: float
    per_class: dict[str, float]


def voc_ap(recall: Floats, precision: Floats, *, eleven_point: bool) -> float:
    """The average precision of a precision-recall curve.

    Args:
        recall: ``[D]`` after each detection, best score first.
        precision: ``[D]``, likewise.
        eleven_point: VOC 2007's mean, over the recalls 0, 0.1, …, 1, of the best precision at that recall or
            beyond; otherwise the area under the monotone curve, as in VOC 2010 and later.
    """
    recall, precision = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    if eleven_point:
        return interpolated_ap(recall, precision, 11)
    steps = np.diff(np.r_[0.0, recall])
    return float((steps * best_from(precision)).sum())


def voc_metrics(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    *,
    class_names: Sequence[str],
    iou: float = 0.5,
    eleven_point: bool = True,
) -> VocResult:
    """VOC's AP of each class and their mean; the scores of all images are pooled.

    Args:
        truths: one per image; ``difficult`` is taken into account.
        predictions: one per image, in the same order, with scores.
        class_names: what the labels of both index.
        iou: the overlap that a true detection must exceed.
        eleven_point: see :func:`voc_ap`.

    Raises:
        ValueError: truths and predictions that do not belong together.
    """
    check_pairs(truths, predictions, class_names)
    # Selecting the objects of a class would copy their masks.
    truths, predictions = ([replace(x, masks=None) for x in xs] for xs in (truths, predictions))
    per_class = {
        name: _class_ap(truths, predictions, label, iou, eleven_point)
        for label, name in enumerate(class_names)
    }
    measured = [ap for ap in per_class.values() if not math.isnan(ap)]
    return VocResult(float(np.mean(measured)) if measured else math.nan, per_class)


def _class_ap(
    truths: Sequence[Instances], predictions: Sequence[Instances], label: int, iou: float, eleven_point: bool
) -> float:
    """The AP of one class."""
    scores: list[float] = []
    outcomes: list[int] = []
    positives = 0
    for truth, predicted in zip(truths, predictions, strict=True):
        objects, detections = truth[truth.labels == label], predicted[predicted.labels == label]
        ignored = _ignored(objects)
        positives += ignored.count(False)
        if len(detections):
            assert detections.scores is not None
            detections = detections[np.argsort(-detections.scores, kind="stable")]
            outcomes += _outcomes(objects.boxes, ignored, detections.boxes, iou)
            assert detections.scores is not None
            scores += detections.scores.tolist()
    if positives == 0:
        return math.nan
    ranked = np.array(outcomes, dtype=np.int64)[np.argsort(-np.array(scores), kind="stable")]
    true, false = (ranked == TRUE).cumsum(), (ranked == FALSE).cumsum()
    precision = true / np.maximum(true + false, 1)
    return voc_ap(true / positives, precision, eleven_point=eleven_point)


def _ignored(objects: Instances) -> list[bool]:
    """Which objects are ignored."""
    flags = [flag.tolist() for flag in (objects.difficult, objects.crowd) if flag is not None]
    return [any(marks) for marks in zip(*flags, strict=True)] if flags else [False] * len(objects)


def _outcomes(objects: Array, ignored: list[bool], detections: Array, iou: float) -> list[int]:
    """The outcome of each detection of one class in an image, best score first."""
    if not len(objects):
        return [FALSE] * len(detections)
    ious = box_ious(detections.astype(np.float64), objects.astype(np.float64))  # [D, N]
    taken: set[int] = set()
    outcomes = []
    for overlap, index in zip(ious.max(1).tolist(), ious.argmax(1).tolist(), strict=True):
        if overlap > iou and ignored[index]:
            outcomes.append(IGNORED)
            continue
        outcomes.append(TRUE if overlap > iou and index not in taken else FALSE)
        if overlap > iou:
            taken.add(index)
    return outcomes
