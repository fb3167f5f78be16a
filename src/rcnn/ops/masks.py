"""From an object's mask to a training target and from a predicted map back to pixels (Mask R-CNN §3).

Legend: R regions, N masks, M the map's side, P all pixels of the windows of :class:`~rcnn.structures.Masks`.
"""

import torch
from torch import Tensor

from rcnn.structures import Masks, Size


def mask_targets(masks: Masks, index: Tensor, rois: Tensor, size: int) -> Tensor:
    """The part of each region's true mask inside the region, resized to ``[R, M, M]``, values in [0, 1].

    Reads the masks where they are stored: no full-size bitmap is made.

    Args:
        masks: the true masks of one image.
        index: int64 ``[R]``, the mask of each region.
        rois: ``[R, 4]`` in pixels of the same image.
        size: M.
    """
    steps = (torch.arange(size, device=rois.device, dtype=rois.dtype) + 0.5) / size
    # Pixel i covers [i, i + 1), so a continuous coordinate x lies x - 0.5 pixel centres from the first.
    x = rois[:, 0:1] + steps * (rois[:, 2:3] - rois[:, 0:1]) - 0.5  # [R, M]
    y = rois[:, 1:2] + steps * (rois[:, 3:4] - rois[:, 1:2]) - 0.5
    window, start = masks.windows[index], masks.offsets[index]
    x0, y0 = x.floor(), y.floor()
    target = rois.new_zeros((len(rois), size, size))
    for dy in (0, 1):
        weight_y = (1 - (y - y0 - dy).abs())[:, :, None]
        for dx in (0, 1):
            weight_x = (1 - (x - x0 - dx).abs())[:, None, :]
            target += weight_y * weight_x * _pixels_at(masks.pixels, window, start, y0 + dy, x0 + dx)
    return target


def _pixels_at(pixels: Tensor, window: Tensor, start: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values ``[R, M, M]`` of stored masks at all pairs of y and x ``[R, M]``; 0 outside the windows."""
    if len(pixels) == 0:
        return y.new_zeros((*y.shape, x.shape[1]))
    row, column = y.to(torch.int64) - window[:, 1:2], x.to(torch.int64) - window[:, 0:1]
    height, width = window[:, 3:4] - window[:, 1:2], window[:, 2:3] - window[:, 0:1]
    inside_y, inside_x = (row >= 0) & (row < height), (column >= 0) & (column < width)
    flat = (start[:, None] + row * width)[:, :, None] + column[:, None, :]
    value = pixels[flat.clamp(0, len(pixels) - 1)]
    return torch.where(inside_y[:, :, None] & inside_x[:, None, :], value, 0).to(x.dtype)


def paste_masks(maps: Tensor, boxes: Tensor, size: Size, threshold: float = 0.5) -> Masks:
    """Binary masks from maps of probabilities, each resized to its box and cut at ``threshold``.

    Every pixel centre is looked up in the map with bilinear interpolation, zeros around the map: Detectron2's
    way, half a pixel more exact than resizing to whole pixels as torchvision and Detectron do. Were the map's
    border to go on instead, pixels beyond the box would count, a tenth of a small object.

    Args:
        maps: ``[N, M, M]`` in [0, 1].
        boxes: ``[N, 4]`` in pixels.
        size: (height, width) of the image.
        threshold: at or above it a pixel is inside.
    """
    height, width = size
    low = boxes[:, :2].floor().clamp(min=0)
    high = torch.minimum(boxes[:, 2:].ceil(), boxes.new_tensor([width, height]))
    windows = torch.cat([low, torch.maximum(low, high)], 1).to(torch.int64)
    side = maps.shape[-1]
    rows = _axis_weights(boxes[:, 1], boxes[:, 3], windows[:, 1], windows[:, 3], side)
    columns = _axis_weights(boxes[:, 0], boxes[:, 2], windows[:, 0], windows[:, 2], side)
    # Bilinear interpolation is a product with the rows' weights and one with the columns', for each mask.
    patches = [
        (row @ mask @ column.T >= threshold).reshape(-1)
        for row, mask, column in zip(rows, maps, columns, strict=True)
    ]
    pixels = torch.cat(patches) if patches else maps.new_zeros(0, dtype=torch.bool)
    return Masks(pixels.view(torch.uint8), windows, size)


def _axis_weights(low: Tensor, high: Tensor, first: Tensor, last: Tensor, side: int) -> tuple[Tensor, ...]:
    """The weight of each of M cells for each pixel of the windows along one axis, ``[P, M]`` for each mask.

    Args:
        low: where the boxes begin, ``[N]``; their cells lie evenly from there to ``high``.
        high: where they end.
        first: the first pixel of the windows.
        last: the one behind the last.
        side: M.
    """
    lengths = last - first
    owner = torch.repeat_interleave(torch.arange(len(low), device=low.device), lengths)
    pixel = torch.arange(len(owner), device=low.device) - (lengths.cumsum(0) - lengths - first)[owner]
    span = (high - low).clamp(min=1e-6)[owner]
    at = (pixel + 0.5 - low[owner]) / span * side - 0.5
    weights = (1 - (at[:, None] - torch.arange(side, device=low.device)).abs()).clamp(min=0)
    return torch.split(weights, lengths.tolist())
