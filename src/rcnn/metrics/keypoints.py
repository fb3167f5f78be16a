"""How far predicted keypoints lie from the true ones, in pixels.

COCO's average precision of keypoints is in ``rcnn.metrics.coco``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.metrics.matches import pair
from rcnn.structures import Instances


@dataclass(frozen=True)
class KeypointErrors:
    """Distances over all annotated keypoints of the objects found; NaN where there is none.

    Attributes:
        mean: of all keypoints, pixels of the image.
        per_keypoint: by name.
        found: the share of the objects with keypoints that were found: by a detection of their class with
            box IoU of at least 0.5, the best score choosing first.
    """

    mean: float
    per_keypoint: dict[str, float]
    found: float


def keypoint_errors(truths: Sequence[Instances], predictions: Sequence[Instances]) -> KeypointErrors:
    """Measure the detections of some images; the truths' ``skeleton`` names the keypoints.

    Raises:
        ValueError: truths without a skeleton, or detections without keypoints.
    """
    names = next((t.skeleton.names for t in truths if t.skeleton is not None), None)
    if names is None:
        raise ValueError("the truths have no skeleton, which names the keypoints: read them from COCO JSON.")
    rows, objects = [], 0
    for truth, predicted in zip(truths, predictions, strict=True):
        pairing = pair(truth, predicted, "box")
        objects += sum(_annotated(truth, i) for i in pairing.objects)
        hits = [
            (found, i) for i, found in enumerate(pairing.found) if found >= 0 and _annotated(truth, found)
        ]
        rows += [_distances(truth, predicted, *hit) for hit in hits]
    distances = torch.stack(rows) if rows else torch.full((0, len(names)), math.nan)
    return KeypointErrors(
        float(distances.nanmean()),
        {name: float(distances[:, k].nanmean()) for k, name in enumerate(names)},
        len(rows) / objects if objects else math.nan,
    )


def _annotated(truth: Instances, index: int) -> bool:
    return truth.keypoints is not None and bool((truth.keypoints[index, :, 2] > 0).any())


def _distances(truth: Instances, predicted: Instances, found: int, index: int) -> Tensor:
    """``[K]``, NaN where the keypoint is not annotated."""
    if predicted.keypoints is None:
        raise ValueError(f"{truth.path or 'an image'}: detections without keypoints.")
    assert truth.keypoints is not None
    apart: Tensor = (truth.keypoints[found, :, :2] - predicted.keypoints[index, :, :2]).norm(dim=-1)
    return apart.where(truth.keypoints[found, :, 2] > 0, math.nan)
