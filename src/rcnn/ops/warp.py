"""Regions of an image, each brought to one size whatever its shape (R-CNN appendix A, "warp").

Legend: R regions, S the side of a warped region in pixels, p its context in pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional


def with_context(boxes: Tensor, side: int, context: int) -> Tensor:
    """The windows ``[R, 4]`` that are warped: each box, and around it what makes p pixels once warped.

    Both sides grow by S / (S - 2 p) around the centre; a window may reach beyond the image.

    Convention: with S = 227 and p = 16 the box ``16 16 211 211`` has the window ``0 0 227 227``.
    """
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (side / (side - 2 * context))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return torch.cat([centre - half, centre + half], 1)


def warp(image: Tensor, boxes: Tensor, side: int, context: int) -> Tensor:
    """The boxes with their context, ``[R, C, S, S]``, sampled bilinearly, whatever their aspect ratio.

    Args:
        image: ``[C, H, W]``, normalised: pixels outside become 0, the mean (appendix A).
        boxes: ``[R, 4]`` in its pixels.
        side: S.
        context: p; less than half of S.
    """
    windows = with_context(boxes, side, context)
    # Pixel centres of the result, as shares of the window.
    places = (torch.arange(side, device=image.device) + 0.5) / side
    x, y = (
        windows[:, i, None] + places * (windows[:, i + 2] - windows[:, i])[:, None] for i in (0, 1)
    )  # [R, S]
    height, width = image.shape[1:]
    grid = torch.stack(
        [
            (2 * x / width - 1)[:, None, :].expand(-1, side, -1),
            (2 * y / height - 1)[:, :, None].expand(-1, -1, side),
        ],
        -1,
    )  # [R, S, S, 2]
    # One tall grid on the one image, instead of a copy of the image for each region.
    tall = functional.grid_sample(image[None], grid.reshape(1, -1, side, 2), align_corners=False)
    return tall[0].reshape(len(image), len(boxes), side, side).transpose(0, 1)
