"""From an object's mask to a training target (Mask R-CNN §3); the way back is ``rcnn.inference.postprocess``.

Legend: R regions, M the map's side.
"""

from typing import Protocol

import torch
from torch import Tensor


class WindowedMasks(Protocol):
    """Masks kept inside their own windows: ``rcnn.parts.batch.TargetMasks``."""

    @property
    def pixels(self) -> Tensor:
        """uint8 ``[P]``: the windows' pixels, row by row, one mask after the other."""

    @property
    def windows(self) -> Tensor:
        """int64 ``[N, 4]``: x1 y1 x2 y2 of each."""

    @property
    def offsets(self) -> Tensor:
        """int64 ``[N]``: where in ``pixels`` each begins."""


def mask_targets(masks: WindowedMasks, index: Tensor, rois: Tensor, size: int) -> Tensor:
    """The part of each region's true mask inside the region, resized to ``[R, M, M]``, values in [0, 1].

    Reads the masks where they are stored: no full-size bitmap is made.

    Args:
        masks: the true masks of one image.
        index: int64 ``[R]``, the mask of each region.
        rois: ``[R, 4]`` in pixels of the same image.
        size: M.
    """
    steps = (torch.arange(size, device=rois.device, dtype=rois.dtype) + 0.5) / size
    # Pixel i covers [i, i + 1), so a continuous coordinate x is x - 0.5 pixel centres from the first.
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
