"""Masks pasted on the device that a network computes on.

:func:`rcnn.inference.postprocess.paste_masks` says how; this is the same for tensors, pixel by pixel, so that
its memory does not depend on the number of masks.

Legend: N masks, M the side of their maps, P pixels of all windows, h and w those of one.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**20  # pixels of windows; each takes about 100 bytes meanwhile


def paste_pixels(
    maps: Tensor, boxes: Tensor, windows: Tensor, *, total: int, threshold: float = 0.5
) -> Tensor:
    """The pixels of binary masks inside their windows, uint8 ``[P]``, row by row, one mask after the other.

    Each pixel is computed by itself: the result is the same whatever else is pasted with it.

    Args:
        maps: ``[N, M, M]`` in [0, 1].
        boxes: float32 ``[N, 4]`` in pixels of the mask's image.
        windows: int64 ``[N, 4]``: x1 y1 x2 y2 of the place of each mask, in whole pixels.
        total: P, which the host knows and therefore need not wait for.
        threshold: at or above it a pixel is inside.
    """
    pixels = torch.empty(total, dtype=torch.uint8, device=maps.device)
    width = windows[:, 2] - windows[:, 0]
    areas = width * (windows[:, 3] - windows[:, 1])
    ends = areas.cumsum(0)
    starts = ends - areas
    for first in range(0, total, PIXELS_AT_ONCE):
        last = min(first + PIXELS_AT_ONCE, total)
        pixel = torch.arange(first, last, device=maps.device)
        owner = torch.searchsorted(ends, pixel, right=True)
        place = pixel - starts[owner]
        row = torch.div(place, width[owner], rounding_mode="floor")
        x = windows[:, 0][owner] + place - row * width[owner]
        y = windows[:, 1][owner] + row
        pixels[first:last] = _values(maps, boxes, owner, x, y) >= threshold
    return pixels


def _values(maps: Tensor, boxes: Tensor, owner: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The values at pixel centres, by bilinear interpolation with zeros around the maps."""
    side = maps.shape[-1]
    own, flat = boxes[owner], maps.reshape(-1)
    cells, weights = [], []
    for axis, pixel in enumerate((x, y)):
        span = (own[:, axis + 2] - own[:, axis]).clamp(min=1e-6)
        at = (pixel.to(boxes.dtype) + 0.5 - own[:, axis]) / span * side - 0.5
        low = at.floor()
        cells.append([low.to(torch.int64) + step for step in (0, 1)])
        weights.append([1 - (at - (low + step)).abs() for step in (0, 1)])
    value = torch.zeros_like(weights[0][0])
    for column, weight_x in zip(cells[0], weights[0], strict=True):
        along = torch.zeros_like(value)
        for row, weight_y in zip(cells[1], weights[1], strict=True):
            inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
            index = (owner * side + row.clamp(0, side - 1)) * side + column.clamp(0, side - 1)
            along += torch.where(inside, weight_y * flat[index], 0.0)
        value += weight_x * along
    return value
