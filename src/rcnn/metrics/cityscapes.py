"""Cityscapes' average precision of instances, by the rules of its evaluation scripts.

https://github.com/mcordts/cityscapesScripts, ``evalInstanceLevelSemanticLabeling``. Unlike COCO's:

- A prediction finds an object if their IoU is *above* the threshold (0.50, 0.55, …, 0.95). Truths share no
  pixels, so a prediction can find only one object; of several predictions that find the same object, all but
  the best are false.
- Objects below 100 pixels, and groups (truths marked ``crowd``), are neither found nor missed.
- A prediction that finds nothing is ignored if the fraction of its pixels on void, on groups and on small
  objects of its class is above the threshold.
- Precision is not made monotone. The curve through all scores that occur, which ends at recall 0 with
  precision 1, is integrated with steps of half the distance between the neighbours of each point.

Pixels that ``Instances.semantic`` marks 255 are void; without such a map there are none. AP100m and AP50m
need depth, which no data set here has.

Differs from the scripts: a class whose predictions are all ignored has AP 0 (the scripts raise an error).
Caravans and trailers with an instance number are void here, as the reader leaves them; in the scripts only
those without one are.

Legend: T the ten IoUs, K classes, N objects and P predictions of one class in one image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.metrics import check_pairs, mean_of_known, require_masks
from rcnn.metrics.overlaps import Floats, crowds
from rcnn.structures import VOID, Array, Instances, Masks

# As the scripts have them; rounding decides at an IoU of just 0.55.
IOUS = np.arange(0.5, 1.0, 0.05)
MIN_PIXELS = 100


@dataclass(frozen=True)
class CityscapesResult:
    """AP in [0, 1]; NaN without objects to be found.

    Attributes:
        ap: the mean over classes with objects and the ten IoUs.
        ap_50: at IoU 0.5.
        per_class: by class name ``AP`` and ``AP50``.
    """

    ap: float
    ap_50: float
    per_class: dict[str, dict[str, float]]


def cityscapes_metrics(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    *,
    class_names: Sequence[str],
    min_pixels: int = MIN_PIXELS,
) -> CityscapesResult:
    """Compute Cityscapes' AP over a set of images.

    Args:
        truths: one per image, with masks that do not overlap.
        predictions: one per image, in the same order, with scores and masks.
        class_names: what the labels of both index.
        min_pixels: smaller objects are neither found nor missed.

    Raises:
        ValueError: truths and predictions that do not belong together, or objects without masks.
    """
    check_pairs(truths, predictions, class_names)
    aps = np.full((len(class_names), len(IOUS)), math.nan)
    for label in range(len(class_names)):
        images = [
            _ClassInImage.of(truth, predicted, label, min_pixels)
            for truth, predicted in zip(truths, predictions, strict=True)
        ]
        if any(image.counted.any() for image in images):
            aps[label] = [_ap(images, iou) for iou in IOUS]
    per_class = {
        name: {"AP": float(ap.mean()), "AP50": float(ap[0])}
        for name, ap in zip(class_names, aps, strict=True)
    }
    return CityscapesResult(mean_of_known(aps), mean_of_known(aps[:, 0]), per_class)


@dataclass(frozen=True)
class _ClassInImage:
    """One class in one image.

    Attributes:
        iou: ``[P, N]``.
        scores: ``[P]``.
        counted: ``[N]``, objects that must be found.
        ignored: ``[P]``, the fraction of each prediction on void, groups and small objects.
    """

    iou: Floats
    scores: Floats
    counted: npt.NDArray[np.bool_]
    ignored: Floats

    @classmethod
    def of(cls, truth: Instances, predicted: Instances, label: int, min_pixels: int) -> _ClassInImage:
        objects, found = truth[truth.labels == label], predicted[predicted.labels == label]
        true_masks, masks = require_masks(objects), require_masks(found)
        true_areas, areas = true_masks.areas().astype(np.float64), masks.areas().astype(np.float64)
        there = areas > 0  # an empty mask is no prediction
        shared = shared_pixels(masks, true_masks)[there]
        groups = crowds(objects, "mask")
        small = true_areas < min_pixels
        # The scripts count a small group twice.
        on_ignored = shared @ (groups.astype(np.float64) + small)
        on_void = _on_void(masks, truth.semantic)[there]
        scores = np.zeros(0) if found.scores is None else found.scores.astype(np.float64)
        areas = areas[there]
        return cls(
            iou=shared / (areas[:, None] + true_areas - shared),
            scores=scores[there],
            counted=~groups & ~small,
            ignored=(on_ignored + on_void) / areas,
        )

    def judged(self, iou: float) -> tuple[Floats, Floats, int]:
        """Scores of the true and the false predictions at a threshold, and the number of missed objects."""
        above = self.iou > iou
        true: list[float] = []
        false = [float(s) for s in self.scores[~above.any(1) & (self.ignored <= iou)]]
        missed = 0
        for hits in above.T[self.counted]:
            scores = sorted(self.scores[hits].tolist())
            missed += not scores
            true += scores[-1:]
            false += scores[:-1]
        return np.array(true), np.array(false), missed


def _ap(images: Iterable[_ClassInImage], iou: float) -> float:
    """AP at one threshold of a class that has objects."""
    judged = [image.judged(iou) for image in images]
    true = np.sort(np.concatenate([t for t, _, _ in judged]))
    false = np.sort(np.concatenate([f for _, f, _ in judged]))
    missed = sum(m for _, _, m in judged)
    thresholds = np.unique(np.r_[true, false])
    hits = len(true) - np.searchsorted(true, thresholds)  # from each threshold on
    kept = hits + len(false) - np.searchsorted(false, thresholds)
    precision = np.r_[hits / kept, 1.0]
    recall = np.r_[hits / (len(true) + missed), 0.0]
    neighbours = np.r_[recall[0], recall, 0.0]
    return float(precision @ (neighbours[:-2] - neighbours[2:]) / 2)


def shared_pixels(masks: Masks, others: Masks) -> Floats:
    """Numbers of pixels ``[P, N]`` that two sets of masks share; only overlapping windows are compared."""
    shared = np.zeros((len(masks), len(others)))
    if not len(masks) or not len(others):
        return shared
    low = np.maximum(masks.windows[:, None, :2], others.windows[None, :, :2])
    high = np.minimum(masks.windows[:, None, 2:], others.windows[None, :, 2:])  # [P, N, 2]
    patches, other_patches = list(masks.patches()), list(others.patches())
    for i, j in np.argwhere((low < high).all(2)).tolist():
        (x1, y1), (x2, y2) = low[i, j].tolist(), high[i, j].tolist()
        one = _cut(patches[i], masks.windows[i], (x1, y1, x2, y2))
        shared[i, j] = int((one & _cut(other_patches[j], others.windows[j], (x1, y1, x2, y2))).sum())
    return shared


def _cut(patch: Array, window: Array, part: tuple[int, int, int, int]) -> Array:
    """The part of a mask's patch that lies in a rectangle of the image inside its window."""
    left, top = int(window[0]), int(window[1])
    x1, y1, x2, y2 = part
    return patch[y1 - top : y2 - top, x1 - left : x2 - left]


def _on_void(masks: Masks, semantic: Array | None) -> Floats:
    """The number of void pixels ``[P]`` in each mask."""
    if semantic is None:
        return np.zeros(len(masks))
    void = semantic == VOID
    return np.array(
        [
            int((patch.astype(bool) & void[y1:y2, x1:x2]).sum())
            for patch, (x1, y1, x2, y2) in zip(masks.patches(), masks.windows.tolist(), strict=True)
        ],
        dtype=np.float64,
    )
