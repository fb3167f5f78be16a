"""How much detections and objects overlap: boxes and masks.

Legend: D detections and N objects in one image.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as coco_mask

from rcnn.structures import Instances

Kind = Literal["box", "mask", "keypoint"]
"""What is compared."""
KIND_NOUNS: dict[Kind, str] = {"keypoint": "keypoints", "mask": "masks", "box": "boxes"}
"""What each is called in texts."""
Floats = npt.NDArray[np.float64]


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
