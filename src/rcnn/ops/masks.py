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
    window, start = masks.windows[index], masks.starts[index]
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

    Every pixel centre is looked up in the map with bilinear interpolation (Detectron2's way, half a pixel
    more exact than resizing to whole pixels as torchvision and Detectron do); beyond the map's outermost
    centres its border value goes on.

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
    masks = Masks(maps.new_zeros(0, dtype=torch.uint8), windows, size)
    areas = masks.window_areas
    owner = torch.repeat_interleave(torch.arange(len(maps), device=maps.device), areas)  # [P]
    within = torch.arange(len(owner), device=maps.device) - masks.starts[owner]
    widths = (windows[:, 2] - windows[:, 0])[owner]
    x, y = windows[owner, 0] + within % widths, windows[owner, 1] + within // widths
    pixels = _look_up(maps, owner, boxes, x + 0.5, y + 0.5) >= threshold
    return Masks(pixels.to(torch.uint8), windows, size)


def _look_up(maps: Tensor, owner: Tensor, boxes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values ``[P]`` of ``maps[owner]`` at image coordinates x, y ``[P]``."""
    side = maps.shape[-1]
    span = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    u = ((x - boxes[owner, 0]) / span[owner, 0] * side - 0.5).clamp(0, side - 1)
    v = ((y - boxes[owner, 1]) / span[owner, 1] * side - 0.5).clamp(0, side - 1)
    u0, v0 = u.to(torch.int64), v.to(torch.int64)
    u1, v1 = (u0 + 1).clamp(max=side - 1), (v0 + 1).clamp(max=side - 1)
    fu, fv = u - u0, v - v0
    flat, first = maps.reshape(-1), owner * side * side
    upper = flat[first + v0 * side + u0] * (1 - fu) + flat[first + v0 * side + u1] * fu
    lower = flat[first + v1 * side + u0] * (1 - fu) + flat[first + v1 * side + u1] * fu
    return upper * (1 - fv) + lower * fv
