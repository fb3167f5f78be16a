"""Which detection found which object in each image, and the score threshold with the highest F1.

An object is found if a detection of its class overlaps it with IoU ≥ 0.5 (of masks or boxes); the best score
chooses first. A match at a high score does not depend on lower scores, so one pass serves all thresholds.

Differs from COCO's matching: objects marked ``difficult`` are ignored like crowds, neither found nor missed.

Legend: D detections and N objects of one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.metrics.overlaps import Kind, crowds, ious
from rcnn.structures import Instances

MATCH_IOU = 0.5
NO_THRESHOLD = 0.5
UNMATCHED, IGNORED = -1, -2


@dataclass(frozen=True)
class ImageMatch:
    """The matches in one image at the threshold; indices refer to the Instances that were compared.

    Attributes:
        matched_truths: found objects.
        matched_predictions: the detection that found each of them, in the same order.
        missed_truths: objects not found; crowds and difficult objects never count as missed.
        spurious_predictions: false positives; detections on crowds and difficult objects are not among them.
        num_true: objects that must be found.
        num_predicted: detections that count, at or above the threshold.
        f1: of the image; 1 if there was nothing and nothing was found.
        path: the image file, where known.
    """

    matched_truths: tuple[int, ...]
    matched_predictions: tuple[int, ...]
    missed_truths: tuple[int, ...]
    spurious_predictions: tuple[int, ...]
    num_true: int
    num_predicted: int
    f1: float
    path: Path | None = None


@dataclass(frozen=True)
class Matching:
    """Which detection in one image found which object, at any threshold.

    Attributes:
        scores: of each detection.
        found: the index of the truth that each detection found, UNMATCHED, or IGNORED if it is on a crowd or
            a difficult object.
        objects: the indices of the truths that must be found.
        path: the image file, where known.
    """

    scores: list[float]
    found: list[int]
    objects: list[int]
    path: Path | None

    def at(self, threshold: float) -> ImageMatch:
        """What is found, missed and spurious among the detections with at least this score."""
        counted = [
            i for i, score in enumerate(self.scores) if score >= threshold and self.found[i] != IGNORED
        ]
        hits = [i for i in counted if self.found[i] >= 0]
        truths = tuple(self.found[i] for i in hits)
        total = len(self.objects) + len(counted)
        return ImageMatch(
            matched_truths=truths,
            matched_predictions=tuple(hits),
            missed_truths=tuple(sorted(set(self.objects) - set(truths))),
            spurious_predictions=tuple(i for i in counted if self.found[i] == UNMATCHED),
            num_true=len(self.objects),
            num_predicted=len(counted),
            f1=2 * len(hits) / total if total else 1.0,
            path=self.path,
        )


def pair(truth: Instances, predicted: Instances, kind: Kind) -> Matching:
    """Match each detection, best score first, with the unmatched object of its class that it overlaps most.

    Args:
        truth: the objects in an image.
        predicted: the detections; both have masks if ``kind`` is ``mask``.
        kind: what is compared.
    """
    ignored = crowds(truth, kind) | _flags(truth.difficult, len(truth))
    scores = np.zeros(0) if predicted.scores is None else predicted.scores.astype(np.float64)
    same = predicted.labels[:, None] == truth.labels[None]
    overlaps = np.where(same, ious(truth, predicted, kind), 0.0)  # [D, N]
    free: npt.NDArray[np.float64] = np.where(ignored, 0.0, overlaps)
    on_ignored = (overlaps[:, ignored] >= MATCH_IOU).any(1)
    found = np.where(on_ignored, IGNORED, UNMATCHED)
    # Most detections overlap nothing: only the others take part.
    candidates = free.max(axis=1, initial=0.0) >= MATCH_IOU
    for detection in np.argsort(-scores, kind="stable"):
        if not candidates[detection]:
            continue
        best = int(free[detection].argmax())
        if free[detection, best] >= MATCH_IOU:
            found[detection] = best
            free[:, best] = 0.0
    return Matching(scores.tolist(), found.tolist(), np.flatnonzero(~ignored).tolist(), truth.path)


@dataclass(frozen=True)
class Agreement:
    """How the detections and objects of a data set agree, at the score threshold with the highest F1.

    Attributes:
        threshold: the score threshold with the highest F1; 0.5 if no detection is true.
        f1: the F1 reached there, over all images and classes.
        matches: one per image, at that threshold.
        scores_true: the scores of all true detections, at any threshold.
        scores_false: the scores of all false detections.
    """

    threshold: float = NO_THRESHOLD
    f1: float = math.nan
    matches: list[ImageMatch] = field(default_factory=list)
    scores_true: list[float] = field(default_factory=list)
    scores_false: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, truths: Sequence[Instances], predictions: Sequence[Instances], kind: Kind) -> Agreement:
        """Match the images of a data set, truths and predictions in the same order."""
        pairings = [pair(*images, kind) for images in zip(truths, predictions, strict=True)]
        threshold, f1 = best_threshold(pairings)
        judged = [(score, found) for p in pairings for score, found in zip(p.scores, p.found, strict=True)]
        return cls(
            threshold,
            f1,
            [pairing.at(threshold) for pairing in pairings],
            [score for score, found in judged if found >= 0],
            [score for score, found in judged if found == UNMATCHED],
        )


def _flags(flags: npt.NDArray[np.bool_] | None, count: int) -> npt.NDArray[np.bool_]:
    """Marks of the objects; absent means none."""
    return np.zeros(count, dtype=bool) if flags is None else flags


def best_threshold(pairings: Sequence[Matching]) -> tuple[float, float]:
    """The score threshold with the highest F1 over all images, and that F1.

    It is midway between the last score that should pass and the next lower one, or just below it if it is
    the lowest, so that ``>`` and ``≥`` give the same detections. Of thresholds with equal F1, the highest.
    """
    judged = [
        (score, found >= 0)
        for pairing in pairings
        for score, found in zip(pairing.scores, pairing.found, strict=True)
        if found != IGNORED
    ]
    if not any(true for _, true in judged):
        return NO_THRESHOLD, 0.0
    scores = np.array([score for score, _ in judged])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.array([true for _, true in judged])[order].cumsum()
    objects = sum(len(pairing.objects) for pairing in pairings)
    # A threshold keeps or drops all detections of one score together.
    last = np.r_[scores[1:] < scores[:-1], True]
    f1 = np.where(last, 2 * hits / (np.arange(1, len(hits) + 1) + objects), -1.0)
    best = int(f1.argmax())
    if best + 1 < len(scores):
        threshold = (scores[best] + scores[best + 1]) / 2
    else:  # scores are float32: a smaller step would not be seen
        threshold = np.nextafter(np.float32(scores[best]), np.float32(0))
    return float(threshold), float(f1[best])
