"""Pooling of regions of interest: RoI max pooling (Fast R-CNN §2.1) and RoIAlign (Mask R-CNN §3).

Legend: R regions, L levels of the pyramid, C channels, B images, P the output's side.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from rcnn.device import constant
from rcnn.layers.operator import is_exporting, operator

AWAY = 1e5  # image pixels to the left of and above every map


def assign_levels(
    rois: Tensor, strides: Sequence[int], canonical_size: float = 224.0, canonical_level: int = 4
) -> Tensor:
    """The pyramid level of each region, int64 ``[R]``, an index into ``strides``.

    Source: FPN eq. 1, ``k = floor(k0 + log2(sqrt(w h) / 224))``, clamped to the levels there are.

    Args:
        rois: ``[R, 4]``.
        strides: image pixels per cell of each level; stride 4 is level 2 of the paper.
        canonical_size: the paper's 224, in pixels.
        canonical_level: the paper's k0.

    Convention: 224 x 224 lies on level 4 (stride 16), 112 x 112 on level 3.
    """
    side = (rois[:, 2:] - rois[:, :2]).clamp(min=0).prod(1).sqrt()
    # torchvision's epsilon: a region of exactly 224 must not fall below its level by rounding.
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6)
    finest, coarsest = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    return level.clamp(finest, coarsest).to(torch.int64) - finest


def roi_pool(
    features: Sequence[Tensor],
    rois: Tensor,
    image_indices: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    *,
    sampling_ratio: int | None = 2,
    aligned: bool = True,
) -> Tensor:
    """Pool each region from its level to ``[R, C, P, P]``, by RoIAlign or by RoI pooling.

    Args:
        features: L maps ``[B, C, H, W]``.
        rois: ``[R, 4]`` in image pixels.
        image_indices: int64 ``[R]``, the image of the batch that each region lies in.
        levels: int64 ``[R]``, from :func:`assign_levels`.
        strides: image pixels per cell of each level.
        size: P.
        sampling_ratio: sample points per bin and axis of RoIAlign; 0 is adaptive (as many as cells in a bin).
            None: RoI max pooling, with the rounding of Fast R-CNN.
        aligned: shift by half a cell, so that continuous coordinates mean what they say. False is the legacy
            form.
    """
    # A fixed number of samples makes RoIAlign one weighted sum of rows, which runs on all cores where the
    # kernel of torchvision, which exported files hold, runs on one. Elsewhere it is the deterministic form.
    summed = rois.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
    if sampling_ratio and summed and not is_exporting():
        return roi_align(
            list(features), rois, image_indices, levels, list(strides), size, sampling_ratio, aligned
        )
    boxes = torch.cat([image_indices[:, None].to(rois.dtype), rois], 1)
    # The kernels want maps and boxes of one type, and boxes in half precision would be pixels off.
    kinds = [torch.promote_types(feature.dtype, rois.dtype) for feature in features]
    # They want maps channel by channel, too: both changes in one copy.
    layout = torch.preserve_format if is_exporting() else torch.contiguous_format
    maps = [feature.to(kind, memory_format=layout) for feature, kind in zip(features, kinds, strict=True)]

    def pool(level: int, boxes: Tensor) -> Tensor:
        pooled: Tensor = (
            torchvision.ops.roi_pool(maps[level], boxes, size, 1 / strides[level])
            if sampling_ratio is None
            else torchvision.ops.roi_align(
                maps[level], boxes, size, 1 / strides[level], sampling_ratio, aligned
            )
        )
        return pooled

    if rois.device.type != "cpu" and not is_exporting():
        return _sum_of_levels(pool, boxes, levels, len(maps))
    output = maps[0].new_zeros((rois.shape[0], maps[0].shape[1], size, size))
    for level in range(len(maps)):
        index = (levels == level).nonzero().squeeze(1)
        output = output.index_put((index,), pool(level, boxes[index]).to(output.dtype))
    return output


def _sum_of_levels(
    pool: Callable[[int, Tensor], Tensor], boxes: Tensor, levels: Tensor, num_levels: int
) -> Tensor:
    """Each region pooled from its level, without waiting for the device to tell which are on which.

    On the other levels it is moved away from the map, where the kernels read nothing and give exact zeros,
    forward and backward.
    """
    if num_levels == 1:
        return pool(0, boxes)
    away = constant((-1.0, -1.0, -1.0, -1.0), boxes) * AWAY
    moved = torch.cat([boxes[:, :1], away.expand(len(boxes), 4)], 1)
    total = pool(0, torch.where((levels == 0)[:, None], boxes, moved))
    for level in range(1, num_levels):
        total = total + pool(level, torch.where((levels == level)[:, None], boxes, moved))
    return total


@operator
def roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    image_indices: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """As :func:`roi_pool` with a fixed number of samples, as ``embedding_bag``.

    Each bin is a weighted sum of the maps' cells: with the maps as a table of cells ``[cells, C]`` and 4
    corners of each of ``s * s`` samples, it has ``4 s²`` rows and weights. Exact, threaded forward and
    backward, and the output is channels_last.
    """
    channels = features[0].shape[1]
    # Sums of up to 16 rows are taken in full precision, also where the maps have half.
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    rows, weights = _sample_rows(
        [f.shape for f in features], rois, image_indices, levels, strides, size, sampling_ratio, aligned
    )
    weights = weights.to(dtype)
    tables = [feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features]
    if torch.is_grad_enabled():
        # One table of all levels: the gradient of what is put together afterwards would be copied each time.
        pooled = _sum_rows(torch.cat(tables).to(dtype), rows, weights)
    else:
        pooled = rois.new_empty((len(rois), size * size, channels), dtype=dtype)
        first = 0
        for level, table in enumerate(tables):
            index = (levels == level).nonzero().squeeze(1)
            pooled[index] = _sum_rows(table.to(dtype), rows[index] - first, weights[index])
            first += len(table)
    return pooled.view(len(rois), size, size, channels).permute(0, 3, 1, 2)


def _sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """``[R, P * P, C]`` of a table ``[cells, C]``."""
    sums = functional.embedding_bag(
        rows.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1)
    )
    return sums.view(*rows.shape[:2], table.shape[1])


def _sample_rows(
    shapes: Sequence[torch.Size],
    rois: Tensor,
    image_indices: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Rows of the table and their weights, both ``[R, P * P, 4 s²]``."""
    cells = [shape[0] * shape[2] * shape[3] for shape in shapes]
    of_levels = [[sum(cells[:i]), shape[2], shape[3]] for i, shape in enumerate(shapes)]
    start, height, width = rois.new_tensor(of_levels, dtype=torch.int64)[levels].unbind(1)
    scales = rois.new_tensor([1 / stride for stride in strides[: len(shapes)]])[levels]
    scaled = rois * scales[:, None] - (0.5 if aligned else 0.0)
    y0, y1, wy0, wy1 = _axis_corners(scaled[:, 1], scaled[:, 3], height, size, sampling_ratio, aligned)
    x0, x1, wx0, wx1 = _axis_corners(scaled[:, 0], scaled[:, 2], width, size, sampling_ratio, aligned)
    first = start + image_indices * height * width  # [R]
    row_of_y = first[:, None, None] + torch.cat([y0, y1], 2) * width[:, None, None]  # [R, P, 2s]
    column, weight_y, weight_x = torch.cat([x0, x1], 2), torch.cat([wy0, wy1], 2), torch.cat([wx0, wx1], 2)
    rows = row_of_y[:, :, None, :, None] + column[:, None, :, None, :]  # [R, P, P, 2s, 2s]
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    shape = (len(rois), size * size, (2 * sampling_ratio) ** 2)
    return rows.reshape(shape), weights.reshape(shape)


def _axis_corners(
    low: Tensor, high: Tensor, length: Tensor, size: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both neighbours of every sample along one axis and their weights, each ``[R, P, s]``.

    The weights hold the average over the samples of a bin, and are 0 for a sample beyond the map's border.
    """
    extent = high - low if aligned else (high - low).clamp(min=1.0)
    steps = (torch.arange(size * sampling_ratio, device=low.device, dtype=low.dtype) + 0.5) / (
        size * sampling_ratio
    )
    at = low[:, None] + steps * extent[:, None]  # [R, P * s]
    limit = length[:, None].to(at.dtype)
    outside = (at < -1) | (at > limit)
    clamped = torch.minimum(at.clamp(min=0), limit - 1)
    first = clamped.floor()
    fraction = clamped - first
    second = torch.minimum(first + 1, limit - 1)
    scale = torch.where(outside, 0.0, 1 / sampling_ratio)
    shape = (len(low), size, sampling_ratio)
    return (
        first.to(torch.int64).view(shape),
        second.to(torch.int64).view(shape),
        ((1 - fraction) * scale).view(shape),
        (fraction * scale).view(shape),
    )
