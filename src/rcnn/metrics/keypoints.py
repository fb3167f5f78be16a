"""How far predicted keypoints are from the true ones, in pixels.

COCO's average precision of keypoints is in ``rcnn.metrics.coco``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcnn.metrics import mean_of_known
from rcnn.metrics.matches import pair
from rcnn.metrics.overlaps import Floats
from rcnn.structures import Instances


@dataclass(frozen=True)
class KeypointErrors:
    """Mean distances over all annotated keypoints of the objects found; NaN where there are none.

    Attributes:
        mean: over all keypoints, in pixels of the image.
        per_keypoint: by name.
        found: the fraction of the objects with keypoints that were found by a detection of their class with
            box IoU of at least 0.5; the best score chooses first.
    """

    mean: float
    per_keypoint: dict[str, float]
    found: float


def keypoint_errors(truths: Sequence[Instances], predictions: Sequence[Instances]) -> KeypointErrors:
    """Measure keypoints over a set of images; the truths' ``skeleton`` names the keypoints.

    Raises:
        ValueError: truths without a skeleton, or detections without keypoints.
    """
    names = next((t.skeleton.names for t in truths if t.skeleton is not None), None)
    if names is None:
        raise ValueError("the truths have no skeleton, which names the keypoints; read them from COCO JSON.")
    rows, objects = [], 0
    for truth, predicted in zip(truths, predictions, strict=True):
        pairing = pair(truth, predicted, "box")
        objects += sum(_annotated(truth, i) for i in pairing.objects)
        hits = [
            (found, i) for i, found in enumerate(pairing.found) if found >= 0 and _annotated(truth, found)
        ]
        rows += [_distances(truth, predicted, *hit) for hit in hits]
    distances = np.array(rows).reshape(-1, len(names))
    return KeypointErrors(
        mean_of_known(distances),
        {name: mean_of_known(distances[:, k]) for k, name in enumerate(names)},
        len(rows) / objects if objects else math.nan,
    )


def _annotated(truth: Instances, index: int) -> bool:
    return truth.keypoints is not None and bool((truth.keypoints[index, :, 2] > 0).any())


def _distances(truth: Instances, predicted: Instances, found: int, index: int) -> Floats:
    """``[K]``, NaN where the keypoint is not annotated."""
    if predicted.keypoints is None:
        raise ValueError(f"{truth.path or 'an image'}: detections without keypoints.")
    assert truth.keypoints is not None
    true, points = truth.keypoints[found].astype(np.float64), predicted.keypoints[index].astype(np.float64)
    apart: Floats = np.linalg.norm(true[:, :2] - points[:, :2], axis=1)
    return np.where(true[:, 2] > 0, apart, math.nan)
