"""Anchors: Faster R-CNN §3.1.1, FPN §4.1.

Legend: A anchors per cell; H, W the feature map's height and width; ratios are height / width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["none", "torchvision", "caffe"]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounding: Rounding = "none") -> Tensor:
    """The anchors of one cell ``[A, 4]``, centred on 0, 0; for each ratio all sizes.

    Args:
        sizes: square roots of the anchors' areas, in pixels.
        ratios: height / width.
        rounding: ``none``: exact areas (Detectron2). ``torchvision``: corners rounded to whole pixels.
            ``caffe``: py-faster-rcnn's, whose sides come from rounding on a base of 16, so that ratio 0.5 at
            128 is 184x96.

    Convention: size 16 and ratio 1 give ``-8 -8 8 8``.
    """
    size, ratio = torch.tensor(sizes, dtype=torch.float32), torch.tensor(ratios, dtype=torch.float32)
    if rounding == "caffe":
        base_width = torch.round(16 / ratio.sqrt())
        base_height = torch.round(base_width * ratio)
        width, height = base_width[:, None] * size / 16, base_height[:, None] * size / 16
    else:
        width, height = size / ratio.sqrt()[:, None], size * ratio.sqrt()[:, None]
    half = torch.stack([width, height], -1).reshape(-1, 2) / 2
    corners = torch.cat([-half, half], 1)
    return corners.round() if rounding == "torchvision" else corners


def grid_anchors(
    cell: Tensor, height: int, width: int, stride: int | tuple[int, int], offset: float = 0.0
) -> Tensor:
    """The anchors of a feature map ``[H * W * A, 4]``, row by row, in image pixels.

    Args:
        cell: anchors of one cell ``[A, 4]``, from :func:`cell_anchors`.
        height: of the feature map.
        width: of the feature map.
        stride: image pixels per cell, or those of (rows, columns).
        offset: where in its cell an anchor is centred, as a fraction of the stride: 0 is the cell's corner
            (Detectron2, torchvision), 0.5 its middle (py-faster-rcnn's 7.5 of inclusive corners is 8 of 16
            here).
    """
    stride_y, stride_x = stride if isinstance(stride, tuple) else (stride, stride)
    y = (torch.arange(height, device=cell.device) + offset) * stride_y
    x = (torch.arange(width, device=cell.device) + offset) * stride_x
    shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([shift_x, shift_y, shift_x, shift_y], -1).reshape(-1, 1, 4).to(cell.dtype)
    return (shifts + cell).reshape(-1, 4)
