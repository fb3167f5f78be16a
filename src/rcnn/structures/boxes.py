"""How much boxes overlap, in NumPy; ``rcnn.ops.boxes`` has the same for tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def box_ious(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """IoU ``[N, M]`` of boxes ``[N, 4]`` with ``[M, 4]``, in their dtype; 0 where both are empty.

    Convention: ``0 0 2 1`` and ``1 0 3 1`` share 1 of 3 pixels: 1/3.
    """
    return paired_box_ious(boxes[:, None], others[None])


def paired_box_ious(boxes: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """IoU ``[…]`` of each box ``[…, 4]`` with the other one in its place; see :func:`box_ious`."""
    a, b = boxes, others
    width = (np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    height = (np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])).clip(min=0)
    shared = width * height
    areas, other_areas = ((x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b))
    union = areas + other_areas - shared
    found: npt.NDArray[Any] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found
