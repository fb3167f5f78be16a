"""Boxes: overlap, the coding of Fast R-CNN §2.3 / R-CNN appendix C, clipping, suppression.

Legend: N, M boxes; G true boxes; A anchors. Boxes are ``x1 y1 x2 y2``, continuous (see ``rcnn.structures``).
"""

import math

import torch
import torchvision
from torch import Tensor

from rcnn.kernels import kernels
from rcnn.structures import Size

# Detectron's limit on the log-size deltas: exp of it enlarges a box from 16 to 1000 pixels.
MAX_LOG_SIZE = math.log(1000.0 / 16)
# From so many boxes on, torchvision too suppresses group by group on a CPU.
MIN_BOXES_FOR_GROUPED_NMS = 1000

BoxWeights = tuple[float, float, float, float]


def area(boxes: Tensor) -> Tensor:
    """Areas ``[N]`` of boxes ``[N, 4]``.

    Convention: ``0 0 1 1`` is one pixel and has area 1.
    """
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Areas of overlap ``[N, M]`` of boxes ``[N, 4]`` with boxes ``[M, 4]``."""
    # Width and height apart: a trailing axis of 2 would make every step below several times slower.
    a, b = first[:, None], second[None]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp(min=0)
    return width * height


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``[N, M]`` in [0, 1]; 0 where both boxes are empty.

    Convention: ``0 0 2 1`` and ``1 0 3 1`` share 1 of 3 pixels: 1/3.
    """
    shared = intersection(first, second)
    union = area(first)[:, None] + area(second)[None, :] - shared
    return torch.where(union > 0, shared / union, 0.0)


def covered_fraction(boxes: Tensor, regions: Tensor) -> Tensor:
    """The share ``[N, M]`` of each box ``[N, 4]`` that lies inside each region ``[M, 4]``."""
    return intersection(boxes, regions) / area(boxes).clamp(min=1e-6)[:, None]


def encode(boxes: Tensor, anchors: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas ``[N, 4]`` that take each anchor ``[N, 4]`` to its box ``[N, 4]``; :func:`decode` inverts it.

    Source: R-CNN appendix C, eqs. 6-9. ``weights`` multiply dx, dy, dw, dh: 10, 10, 5, 5 stand for
    py-faster-rcnn's target standard deviations 0.1, 0.1, 0.2, 0.2.

    Convention: anchor ``0 0 10 10`` and box ``5 0 15 10`` give dx = 0.5 and zeros.
    """
    size = (anchors[:, 2:] - anchors[:, :2]).clamp(min=1e-6)
    box_size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / (2 * size)
    return torch.cat([shift, torch.log(box_size / size)], 1) * boxes.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes ``[N, K, 4]`` from K deltas ``[N, K, 4]`` for each anchor ``[N, 4]``.

    The log sizes are clamped from above at ``MAX_LOG_SIZE``.
    """
    scaled = deltas / deltas.new_tensor(weights)
    size = (anchors[:, 2:] - anchors[:, :2])[:, None]
    centre = anchors[:, None, :2] + 0.5 * size + scaled[..., :2] * size
    half = 0.5 * size * torch.exp(scaled[..., 2:].clamp(max=MAX_LOG_SIZE))
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, size: Size) -> Tensor:
    """Boxes ``[..., 4]`` cut to an image of ``size`` (height, width)."""
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def larger_than(boxes: Tensor, min_side: float) -> Tensor:
    """Bool ``[N]``: both sides at least ``min_side`` pixels, and above 0."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return ((sides >= min_side) & (sides > 0)).all(1)


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """Greedy non-maximum suppression inside each group; the indices kept, best score first.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        groups: int64 ``[N]``, classes or levels; boxes of different groups do not suppress each other.
        max_iou: a box that overlaps a better one by more than this goes.
    """
    if boxes.device.type != "cpu" or len(boxes) < MIN_BOXES_FOR_GROUPED_NMS or torch.compiler.is_exporting():
        kept: Tensor = torchvision.ops.batched_nms(boxes, scores, groups, max_iou)
        return kept
    compiled = kernels.kernels() if kernels.is_usable(boxes) else None
    if compiled is not None:
        return compiled.nms(boxes, scores, groups, max_iou)
    # torchvision goes through all boxes once for every group; here each group is looked at alone.
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups[order])
    parts = [part for part in torch.split(order, counts.tolist()) if len(part)]
    best = torch.cat([part[torchvision.ops.nms(boxes[part], scores[part], max_iou)] for part in parts])
    return best[scores[best].argsort(descending=True, stable=True)]
