"""Boxes: overlap, the coding of Fast R-CNN §2.3 / R-CNN appendix C, clipping, suppression.

Legend: N, M boxes; G true boxes; A anchors. Boxes are ``x1 y1 x2 y2``, continuous (see ``rcnn.structures``).
"""

import math

import torch
import torchvision
from torch import Tensor

from rcnn.device import constant, exact_float
from rcnn.layers.operator import is_exporting, operator
from rcnn.structures import Size

# Detectron's limit on the log-size deltas: exp of it enlarges a box from 16 to 1000 pixels.
MAX_LOG_SIZE = math.log(1000.0 / 16)
MAX_INT32 = 2**31 - 1

BoxWeights = tuple[float, float, float, float]


def area(boxes: Tensor) -> Tensor:
    """Areas ``[..., N]`` of boxes ``[..., N, 4]``.

    Convention: ``0 0 1 1`` is one pixel and has area 1.
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Areas of overlap ``[..., N, M]`` of boxes ``[..., N, 4]`` with boxes ``[..., M, 4]``."""
    # Width and height apart: a trailing axis of 2 would make every step below several times slower.
    a, b = first[..., :, None, :], second[..., None, :, :]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp(min=0)
    return width * height


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``[..., N, M]`` in [0, 1]; 0 where both boxes are empty.

    Convention: ``0 0 2 1`` and ``1 0 3 1`` share 1 of 3 pixels: 1/3.
    """
    shared = intersection(first, second)
    union = area(first)[..., :, None] + area(second)[..., None, :] - shared
    return torch.where(union > 0, shared / union, 0.0)


def covered_fraction(boxes: Tensor, regions: Tensor) -> Tensor:
    """The fraction ``[..., N, M]`` of each box ``[..., N, 4]`` inside each region ``[..., M, 4]``."""
    return intersection(boxes, regions) / area(boxes).clamp(min=1e-6)[..., None]


def encode(boxes: Tensor, anchors: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas ``[..., 4]`` that take each anchor ``[..., 4]`` to its box; :func:`decode` inverts it.

    Source: R-CNN appendix C, eqs. 6-9. ``weights`` multiply dx, dy, dw, dh: 10, 10, 5, 5 stand for
    py-faster-rcnn's target standard deviations 0.1, 0.1, 0.2, 0.2.

    Convention: anchor ``0 0 10 10`` and box ``5 0 15 10`` give dx = 0.5 and zeros.
    """
    size = (anchors[..., 2:] - anchors[..., :2]).clamp(min=1e-6)
    box_size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / (2 * size)
    return torch.cat([shift, torch.log(box_size / size)], -1) * constant(weights, boxes)


def decode(deltas: Tensor, anchors: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes ``[N, K, 4]`` from K deltas ``[N, K, 4]`` for each anchor ``[N, 4]``.

    The log sizes are clamped from above at ``MAX_LOG_SIZE``.
    """
    scaled = deltas / constant(weights, deltas)
    size = (anchors[:, 2:] - anchors[:, :2])[:, None]
    centre = anchors[:, None, :2] + 0.5 * size + scaled[..., :2] * size
    half = 0.5 * size * torch.exp(scaled[..., 2:].clamp(max=MAX_LOG_SIZE))
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: Tensor, size: Size | Tensor) -> Tensor:
    """Boxes ``[..., 4]`` cut to their images.

    Args:
        boxes: x1 y1 x2 y2.
        size: (height, width) of the image of all, or those of each box's own as ``[..., 2]``.
    """
    limits = (size if isinstance(size, Tensor) else boxes.new_tensor(size)).flip(-1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits], -1))


def larger_than(boxes: Tensor, min_side: float) -> Tensor:
    """Bool ``[N]``: both sides at least ``min_side`` pixels, and above 0."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return ((sides >= min_side) & (sides > 0)).all(1)


def first_of_each(owners: Tensor, num_owners: int, count: int | Tensor) -> Tensor:
    """Places of the first ``count`` entries of each owner, one owner after the other; ``owners`` is ``[N]``.

    Convention: of owners ``1 0 1 1`` and a count of 2 the places are ``1 0 2``.
    """
    own = owners == torch.arange(num_owners, device=owners.device)[:, None]
    places = (own & (own.to(torch.int64).cumsum(1) <= count)).nonzero()[:, 1]
    # Without a bound the exporter asserts one of classes * 2**63, which no file can hold.
    torch._check(places.shape[0] <= MAX_INT32)
    return places


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """Greedy non-maximum suppression inside each group; the indices kept, best score first.

    Args:
        boxes: ``[N, 4]``.
        scores: ``[N]``.
        groups: int64 ``[N]``, from 0, such as image times class; boxes of different groups do not suppress
            each other.
        max_iou: a box that overlaps a better one by more than this is dropped.
    """
    if is_exporting():
        return _nms_in_cells(boxes, scores, groups, max_iou)
    if boxes.device.type != "cpu":
        return _nms_in_a_row(boxes, scores, groups, max_iou)
    return grouped_nms(boxes, scores, groups, max_iou)


def _nms_in_a_row(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """As :func:`nms`, on a device and of boxes at 0 and above: groups are shifted apart.

    So a single kernel looks at all of them, for which the host waits once. torchvision's ``batched_nms``
    looks at one group after the other where there are many boxes.
    """
    # Shifted by thousands, float32 would be off by a hundredth of a pixel; MPS has nothing else.
    exact = boxes.to(exact_float(boxes.device))
    side = torch.cat([exact.flatten(), exact.new_zeros(1)]).max() + 1
    kept: Tensor = torchvision.ops.nms(exact + (groups * side)[:, None], scores.to(exact.dtype), max_iou)
    return kept


@operator
def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """As :func:`nms`, on a CPU: each group is looked at alone."""
    # torchvision goes through all boxes once for every group.
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups[order])
    parts = [part for part in torch.split(order, counts.tolist()) if len(part)]
    kept = [part[torchvision.ops.nms(boxes[part], scores[part], max_iou)] for part in parts]
    best = torch.cat([order[:0], *kept])
    return best[scores[best].argsort(descending=True, stable=True)]


def _nms_in_cells(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
    """As :func:`nms`, in operators that exported files may hold, of boxes at 0 and above.

    Every group is moved to a cell of its own, in rows and columns: in one row, eighty classes of a large
    image would leave its coordinates a hundredth of a pixel.
    """
    side = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max() + 1
    count = torch.cat([groups, groups.new_zeros(1)]).max() + 1
    columns = count.to(torch.float32).sqrt().ceil().to(torch.int64)
    shift = torch.stack([groups % columns, torch.div(groups, columns, rounding_mode="floor")], 1) * side
    # To torch.export torchvision declares that at least two boxes are kept. Two more make it true: apart from
    # all others and worse than they, so that they come last.
    apart = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    worst = scores.new_full((2,), torch.finfo(scores.dtype).min / 2)
    moved = torch.cat([boxes + shift.repeat(1, 2), apart])
    kept: Tensor = torchvision.ops.nms(moved, torch.cat([scores, worst]), max_iou)
    return kept[:-2]
