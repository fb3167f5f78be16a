"""Hand-over to supervision (>= 0.30) and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnn.extras import install_command
from rcnn.structures.masks import Masks, Size

if TYPE_CHECKING:
    from rcnn.structures.instances import Instances


def to_supervision(instances: Instances) -> Any:
    """See :meth:`Instances.to_supervision`."""
    try:
        import supervision
        from supervision.detection.compact_mask import CompactMask
    except ImportError as error:
        raise ValueError(
            f"to_supervision needs supervision 0.30: {install_command('supervision')}"
        ) from error
    masks: Any = None
    data: dict[str, Any] = {"class_name": np.array(instances.names, dtype=str)}
    if instances.masks is not None and len(instances):
        # Its corners are inclusive; windows of empty masks have none and get one pixel.
        windows = instances.masks.windows.astype(np.float32)
        windows[:, 2:] = np.maximum(windows[:, 2:] - 1, windows[:, :2])
        masks = CompactMask.from_coco_rle(instances.masks.rle(), windows, instances.size)
    elif instances.masks is not None:
        masks = instances.masks.dense()
    if instances.keypoints is not None:
        data["keypoints"] = instances.keypoints
    return supervision.Detections(
        xyxy=instances.boxes, class_id=instances.labels, confidence=instances.scores, mask=masks, data=data
    )


def fields_of(detections: Any, size: Size, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The fields of the objects, see :meth:`Instances.from_supervision`."""
    count = len(detections)
    own = [str(name) for name in detections.data.get("class_name", ())]
    ids = detections.class_id
    if class_names is not None:
        names = tuple(class_names)
        ids = [names.index(name) for name in own] if ids is None else ids
    elif ids is None or own:
        names = tuple(sorted(set(own))) if ids is None else _names_by_id(ids, own)
        ids = [names.index(name) for name in own] if ids is None else ids
    else:
        names = tuple(str(i) for i in range(int(np.max(ids, initial=-1)) + 1))
    labels = np.array(ids if len(ids) else [0] * count, np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < max(len(names), 1):
        raise ValueError(f"from_supervision: class ids up to {labels.max()}, but {len(names)} class names")
    keypoints = detections.data.get("keypoints")
    scores, masks = detections.confidence, detections.mask
    return {
        "size": size,
        "boxes": np.asarray(detections.xyxy, np.float32).reshape(-1, 4),
        "labels": labels,
        "scores": None if scores is None else np.asarray(scores, np.float32),
        "masks": None if masks is None else _masks(masks, size),
        "keypoints": None if keypoints is None else np.asarray(keypoints, np.float32),
        "class_names": names,
    }


def _names_by_id(ids: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Class names in the order of their ids; a number where no detection names the class."""
    known = {int(i): name for i, name in zip(ids, names, strict=True)}
    return tuple(known.get(i, str(i)) for i in range(max(known, default=-1) + 1))


def _masks(masks: Any, size: Size) -> Masks:
    """Masks from bool ``[N, H, W]`` or from supervision's compact ones, which are cropped already."""
    if not hasattr(masks, "crop"):
        return Masks.from_dense(np.asarray(masks))
    origins = [(int(y), int(x)) for x, y in masks.offsets]
    return Masks.from_patches([masks.crop(i) for i in range(len(masks))], origins, size)
