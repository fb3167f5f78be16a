"""How much boxes and masks overlap.

Legend: D detections and N objects in one image, M other boxes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_mask

from rcnn.structures import Instances

Kind = Literal["box", "mask", "keypoint"]
"""What is compared."""
KIND_NOUNS: dict[Kind, str] = {"keypoint": "keypoints", "mask": "masks", "box": "boxes"}
"""What each is called in texts."""
Floats = npt.NDArray[np.float64]


def box_ious(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """IoU ``[N, M]`` of boxes ``[N, 4]`` with ``[M, 4]``, in their dtype; 0 where both are empty.

    Convention: ``0 0 2 1`` and ``1 0 3 1`` share 1 of 3 pixels: 1/3.
    """
    a, b = boxes[:, None], others[None]
    width = (np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    height = (np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])).clip(min=0)
    shared = width * height
    areas, other_areas = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (boxes, others))
    union = areas[:, None] + other_areas - shared
    found: npt.NDArray[Any] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def crowds(truth: Instances, kind: Kind) -> npt.NDArray[np.bool_]:
    """Which objects ``[N]`` are neither found nor missed: crowds, and in masks those without an outline."""
    marked = np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd
    return marked if kind != "mask" or truth.has_mask is None else marked | ~truth.has_mask


def ious(truth: Instances, predicted: Instances, kind: Kind) -> Floats:
    """IoU ``[D, N]`` of all pairs, whatever their class; for a crowd, the fraction of the detection on it."""
    if not len(truth) or not len(predicted):
        return np.zeros((len(predicted), len(truth)))
    crowd = crowds(truth, kind).astype(np.uint8)
    if kind == "mask":
        assert predicted.masks is not None
        assert truth.masks is not None
        found: Floats = coco_mask.iou(predicted.masks.rle(), truth.masks.rle(), crowd)
    else:
        found = coco_mask.iou(_corner_and_size(predicted), _corner_and_size(truth), crowd)
    return found


def _corner_and_size(instances: Instances) -> Floats:
    """Boxes ``[N, 4]`` as COCO has them: x, y, width, height."""
    boxes = instances.boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
