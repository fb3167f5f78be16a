"""Metrics for nuclei and glands: how well objects are found and outlined, at one score threshold.

Unlike average precision, they judge a finished segmentation: detections below a score threshold are left out,
and no pixel belongs to two objects. Where masks overlap, the pixel goes to the detection with the better
score (for truths, to the one listed first); an object left without pixels is dropped. Truth and prediction
are then two label maps, and every number below comes from the table of the pixels that each label of one map
shares with each label of the other.

- F1 of detection at IoU t: an object is found by a prediction with IoU *above* t; from 0.5 on that prediction
  is unique, and no assignment is needed (Caicedo et al. 2019, doi 10.1002/cyto.a.23863).
- PQ, SQ and RQ: panoptic quality at IoU above 0.5 (Kirillov et al., arXiv 1801.00868, §4.1); RQ is the F1
  at 0.5.
- AJI: aggregated Jaccard index (Kumar et al. 2017, doi 10.1109/TMI.2017.2677499) as MoNuSeg and HoVer-Net
  compute it: each object takes the prediction with the highest IoU, which may serve several objects. AJI+
  pairs them one to one, with the greatest sum of IoU (HoVer-Net, arXiv 1812.06499).
- Dice of pixels (object or not); the F1 of pixels is the same number.
- GlaS (Sirinukunwattana et al. 2017, arXiv 1603.00275), all three per object: F1, where a prediction is true
  if it covers more than half of *the object* with which it shares most pixels; Dice and Hausdorff distance of
  each object and its partner, weighted by area, as the mean of both directions. An object without any overlap
  has Dice 0; for the distance its partner is the nearest object of the other side.

Pooled metrics sum the counts of all images first, as in GlaS; the others average the images' own numbers, as
in most later papers. Both are reported, because papers seldom say which they use. The numbers published for
Mask R-CNN on Cell17 (F1 0.8004, Dice 0.707, Hausdorff 12.67) are either GlaS's three, or the F1 of pixels
with GlaS's Dice and Hausdorff distance; both readings are in the table.

Differs from the sources: objects of all classes are pooled. Truths marked ``crowd`` or ``difficult`` are
void: their pixels do not count, and a prediction with more than half of its pixels there is left out. If one
side of an image has no objects, GlaS does not define the distance; here it is the image's diagonal.

Legend: N objects and P predictions of one image, T the ten IoUs, H and W the image's height and width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from rcnn.metrics import require_masks
from rcnn.metrics.overlaps import crowds
from rcnn.structures import Instances, Masks

IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
MAX_VOID_FRACTION = 0.5
CODE = np.array([2**32, 1])  # makes one number of row and column
ALL_PAIRS = 2**20  # up to this many distances, a tree is slower
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NucleiResult:
    """Each metric of :data:`NUCLEI_METRICS`, over all images together and as the mean of the images.

    In [0, 1], except ``hausdorff``, which is in pixels. NaN where there is nothing to measure; images where a
    metric is NaN are left out of its mean.

    Attributes:
        pooled: from the counts of all images.
        per_image: the mean of the images' own numbers.
        threshold: the lowest score that counted.
    """

    pooled: dict[str, float]
    per_image: dict[str, float]
    threshold: float


@dataclass(frozen=True)
class Tally:
    """The sums of one or several images of which all metrics are quotients.

    Attributes:
        objects: the number of true objects.
        predicted: the number of predictions.
        found: ``[T]``, pairs with an IoU above each of ``IOUS``.
        iou: the sum of the IoU of the pairs above 0.5.
        shared: pixels of both, as foreground.
        true_area: foreground pixels of the truth.
        predicted_area: of the predictions.
        aji: ``[2]``, AJI's numerator and denominator.
        aji_plus: the same of AJI+.
        covering: predictions that are true by GlaS's rule.
        dice: ``[2]``, Dice with the partner times area, summed over the predictions and over the objects.
        hausdorff: ``[2]``, the same for the distance.
    """

    objects: float
    predicted: float
    found: Floats
    iou: float
    shared: float
    true_area: float
    predicted_area: float
    aji: Floats
    aji_plus: Floats
    covering: float
    dice: Floats
    hausdorff: Floats

    def __add__(self, other: Tally) -> Tally:
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)
        }
        return Tally(**values)

    def metrics(self) -> dict[str, float]:
        """The quotients; without objects on either side everything is right, and there is no distance."""
        both = self.objects + self.predicted
        f1 = {f"F1_{round(100 * t)}": _ratio(2 * n, both) for t, n in zip(IOUS, self.found, strict=True)}
        areas = self.predicted_area, self.true_area
        return {
            **f1,
            "F1": float(np.mean(list(f1.values()))),
            "PQ": _ratio(2 * self.iou, both),
            "SQ": _ratio(self.iou, self.found[0], empty=math.nan),
            "RQ": f1["F1_50"],
            "AJI": _ratio(*self.aji),
            "AJI_plus": _ratio(*self.aji_plus),
            "pixel_dice": _ratio(2 * self.shared, sum(areas)),
            "object_F1": _ratio(2 * self.covering, both),
            "object_dice": _both_ways(self.dice, areas, empty=1.0),
            "object_hausdorff": _both_ways(self.hausdorff, areas, empty=math.nan),
        }


NUCLEI_METRICS = (
    *(f"F1_{round(100 * t)}" for t in IOUS), "F1", "PQ", "SQ", "RQ", "AJI", "AJI_plus", "pixel_dice",
    "object_F1", "object_dice", "object_hausdorff",
)  # fmt: skip


def nuclei_metrics(
    truths: Sequence[Instances], predictions: Sequence[Instances], threshold: float
) -> NucleiResult:
    """Measure the predictions with at least this score.

    Convention: one object of 10 x 10 pixels, found by a prediction of its upper 8 rows, has IoU 0.8, so F1_75
    is 1 and F1_80 is 0; AJI is 0.8, Dice 160 / 180, Hausdorff 2.

    Args:
        truths: one per image, with masks.
        predictions: one per image, in the same order and coordinates, with masks.
        threshold: the lowest score that counts.

    Raises:
        ValueError: objects without masks.
    """
    tallies = [tally(t, p, threshold) for t, p in zip(truths, predictions, strict=True)]
    singles = [one.metrics() for one in tallies]
    with warnings.catch_warnings():
        # The mean of nothing is NaN on purpose.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        means = {
            name: float(np.nanmean([one[name] for one in singles] or [math.nan])) for name in NUCLEI_METRICS
        }
    pooled = sum(tallies[1:], tallies[0]).metrics() if tallies else dict.fromkeys(NUCLEI_METRICS, math.nan)
    return NucleiResult(pooled, means, threshold)


def tally(truth: Instances, predicted: Instances, threshold: float) -> Tally:
    """One image's sums."""
    true_map, predicted_map = label_maps(truth, predicted, threshold)
    true, found = _Objects.of(true_map), _Objects.of(predicted_map)
    shared = _shared(true_map, predicted_map, len(true.areas), len(found.areas))  # [N, P]
    union = true.areas[:, None] + found.areas - shared
    iou = shared / union
    above = iou[iou > IOUS[0]]
    return Tally(
        objects=len(true.areas),
        predicted=len(found.areas),
        found=np.array([(above > t).sum() for t in IOUS], dtype=np.float64),
        iou=float(above.sum()),
        shared=float(shared.sum()),
        true_area=float(true.areas.sum()),
        predicted_area=float(found.areas.sum()),
        aji=_aji(shared, iou, true.areas, found.areas, *_best_of_each(iou)),
        aji_plus=_aji(shared, iou, true.areas, found.areas, *linear_sum_assignment(iou, maximize=True)),
        covering=_covering(shared, true.areas),
        dice=np.array([_dice(shared.T, found.areas, true.areas), _dice(shared, true.areas, found.areas)]),
        hausdorff=_hausdorff(shared, true, found, truth.size),
    )


# Label maps


def label_maps(truth: Instances, predicted: Instances, threshold: float) -> tuple[Labels, Labels]:
    """Truth and predictions as int64 ``[H, W]``: 0 is background; objects are numbered 1, 2, … without gaps.

    Void pixels are background in both.
    """
    kept = predicted
    if predicted.scores is not None:
        order = np.argsort(-predicted.scores, kind="stable")
        kept = predicted[order[predicted.scores[order] >= threshold]]
    ignored = crowds(truth, "mask")
    if truth.difficult is not None:
        ignored = ignored | truth.difficult
    void = _painted(require_masks(truth[ignored]), truth.size) > 0
    true_map = _painted(require_masks(truth[~ignored]), truth.size)
    predicted_map = _painted(require_masks(kept), truth.size)
    if void.any():
        whole = np.bincount(predicted_map.ravel(), minlength=len(kept) + 1)
        inside = np.bincount(predicted_map[void], minlength=len(kept) + 1)
        predicted_map[(inside > MAX_VOID_FRACTION * whole)[predicted_map]] = 0
        true_map[void] = predicted_map[void] = 0
    return _without_gaps(true_map), _without_gaps(predicted_map)


def _painted(masks: Masks, size: tuple[int, int]) -> Labels:
    """Label i + 1 where mask i is; where masks overlap, that of the first."""
    painted = np.zeros(size, dtype=np.int64)
    patches = [patch.astype(bool) for patch in masks.patches()]
    for label in reversed(range(len(patches))):
        x1, y1, x2, y2 = masks.windows[label].tolist()
        painted[y1:y2, x1:x2][patches[label]] = label + 1
    return painted


def _without_gaps(labels: Labels) -> Labels:
    """The same map, with the labels that occur renumbered from 1."""
    there = np.bincount(labels.ravel()) > 0
    there[0] = False
    new: Labels = np.where(there, there.cumsum(), 0)[labels]
    return new


@dataclass(frozen=True)
class _Objects:
    """The objects of a label map.

    Attributes:
        areas: ``[N]`` in pixels.
        points: per object ``[A, 2]``, row and column of its pixels.
        extents: ``[N, 4]``, first and last row and column.
    """

    areas: Floats
    points: list[Labels]
    extents: Floats

    @classmethod
    def of(cls, labels: Labels) -> _Objects:
        rows, columns = labels.nonzero()
        marks = labels[rows, columns]
        areas = np.bincount(marks, minlength=1)[1:]
        order = np.argsort(marks, kind="stable")
        points = np.split(np.stack([rows, columns], 1)[order], areas.cumsum()[:-1]) if len(areas) else []
        extents = [(*p.min(0), *p.max(0)) for p in points]
        return cls(areas.astype(np.float64), points, np.array(extents, dtype=np.float64).reshape(-1, 4))


def _shared(true_map: Labels, predicted_map: Labels, objects: int, predicted: int) -> Floats:
    """Numbers of pixels ``[N, P]`` that each object and each prediction share."""
    pairs = np.bincount(
        (true_map * (predicted + 1) + predicted_map).ravel(), minlength=(objects + 1) * (predicted + 1)
    )
    return pairs.reshape(objects + 1, predicted + 1)[1:, 1:].astype(np.float64)


# The parts of a tally


def _best_of_each(iou: Floats) -> tuple[Labels, Labels]:
    """Pairs of each object and the prediction with the highest IoU."""
    if not iou.size:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.arange(len(iou)), iou.argmax(1)


def _aji(
    shared: Floats, iou: Floats, true: Floats, predicted: Floats, rows: Labels, columns: Labels
) -> Floats:
    """Shared pixels of the pairs that overlap; their union plus the area of everything in no pair."""
    touching = iou[rows, columns] > 0
    rows, columns = rows[touching], columns[touching]
    common = shared[rows, columns]
    alone = true.sum() - true[np.unique(rows)].sum() + predicted.sum() - predicted[np.unique(columns)].sum()
    union = (true[rows] + predicted[columns] - common).sum()
    return np.array([common.sum(), union + alone])


def _covering(shared: Floats, true: Floats) -> float:
    """How many predictions cover more than half of the object with which they share most pixels."""
    if not shared.size:
        return 0.0
    partner = shared.argmax(0)
    covered = shared[partner, np.arange(shared.shape[1])] / true[partner]
    return float((covered > 0.5).sum())


def _dice(shared: Floats, areas: Floats, others: Floats) -> float:
    """The sum over objects (rows) of area times Dice with the partner; 0 without overlap."""
    if not shared.size:
        return 0.0
    partner = shared.argmax(1)
    common = shared[np.arange(len(shared)), partner]
    return float((areas * 2 * common / (areas + others[partner])).sum())


def _hausdorff(shared: Floats, true: _Objects, found: _Objects, size: tuple[int, int]) -> Floats:
    """Area times distance to the partner, summed over the predictions and over the objects."""
    if not shared.size:
        diagonal = math.hypot(*size)
        return np.array([diagonal * found.areas.sum(), diagonal * true.areas.sum()])
    known: dict[tuple[int, int], float] = {}  # most pairs are partners both ways

    def distance(row: int, column: int) -> float:
        if (row, column) not in known:
            known[row, column] = hausdorff_distance(true.points[row], found.points[column])
        return known[row, column]

    to_true = _to_partners(shared.T, found, true, lambda column, row: distance(row, column))
    return np.array([to_true, _to_partners(shared, true, found, distance)])


def _to_partners(
    shared: Floats, objects: _Objects, others: _Objects, distance: Callable[[int, int], float]
) -> float:
    """The sum over objects (rows) of area times distance to the partner."""
    total = 0.0
    for index, row in enumerate(shared):
        partner = int(row.argmax())
        if row[partner]:
            apart = distance(index, partner)
        else:
            apart = _nearest(objects.extents[index], others.extents, partial(distance, index))
        total += float(objects.areas[index]) * apart
    return total


def _nearest(extent: Floats, others: Floats, distance: Callable[[int], float]) -> float:
    """The smallest Hausdorff distance to any other object.

    If two extents differ by d on one side, some pixel of one object is at least d away from all of the other:
    objects whose bound is above the best distance so far are skipped.
    """
    bounds = np.abs(others - extent).max(1)
    best = math.inf
    for index in np.argsort(bounds, kind="stable").tolist():
        if bounds[index] >= best:
            break
        best = min(best, distance(index))
    return best


def hausdorff_distance(one: Labels, other: Labels) -> float:
    """The Hausdorff distance of two sets of pixels ``[A, 2]`` and ``[B, 2]``.

    Convention: rows 0 to 9 of a column and rows 0 to 7 of it are 2 apart.
    """
    return max(_way(one, other), _way(other, one))


def _way(one: Labels, other: Labels) -> float:
    """The longest distance from a pixel of one set to the nearest of the other; 0 for shared pixels."""
    outside = one[~np.isin(one @ CODE, other @ CODE)]
    if len(outside) * len(other) <= ALL_PAIRS:
        return float(cdist(outside, other).min(1).max(initial=0.0))
    return float(KDTree(other).query(outside)[0].max())


# Quotients


def _ratio(part: float, whole: float, empty: float = 1.0) -> float:
    """A quotient, or ``empty`` for 0 / 0."""
    return float(part / whole) if whole else empty


def _both_ways(sums: Floats, areas: tuple[float, float], empty: float) -> float:
    """The mean of both directions, each weighted by area; just one of them if a side is empty."""
    means = [float(total / area) for total, area in zip(sums, areas, strict=True) if area]
    return sum(means) / len(means) if means else empty
