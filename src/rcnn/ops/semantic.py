"""A class for every pixel: targets, loss, bilinear kernels (FCN, Long et al. 2014, arXiv 1411.4038, §3, §4).

Legend: B images, C classes, H and W of the padded batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from rcnn.ops.losses import MeanLoss, total_cross_entropy
from rcnn.structures import VOID, Size


def pixel_loss(logits: Tensor, maps: Tensor, *, per_image: bool = False) -> MeanLoss:
    """Cross-entropy of ``logits`` ``[B, C, H, W]`` over those pixels of ``maps`` ``[B, H, W]`` not void.

    The mean over these pixels; with ``per_image`` their sum per image,
    averaged over the images: Caffe's un-normalised loss, for learning rates as small as pixels are many.
    Nothing but void gives 0.
    """
    total = total_cross_entropy(logits.float(), maps, ignored=VOID)
    return MeanLoss(total, len(maps) if per_image else (maps != VOID).sum())


def bilinear_kernel(channels: int, stride: int) -> Tensor:
    """Weights ``[C, C, 2 stride, 2 stride]`` of a transposed convolution that enlarges bilinearly.

    Convention: ``stride`` 2 has the profile 1/4, 3/4, 3/4, 1/4 in both directions, each channel by itself.
    """
    offsets = (torch.arange(2 * stride) + 0.5) / stride - 1
    profile = 1 - offsets.abs()
    return torch.eye(channels)[:, :, None, None] * torch.outer(profile, profile)


def largest_class(logits: Tensor, size: Size) -> Tensor:
    """The class of the largest of ``logits`` ``[C, h, w]`` at every pixel of ``size``, int64 ``[H, W]``.

    One class after the other is interpolated: all of them together would fill the memory for a photograph.
    """
    best = torch.full(size, -torch.inf, device=logits.device)
    found = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for label, plane in enumerate(logits.float()):
        if plane.shape != size:
            plane = functional.interpolate(plane[None, None], size, mode="bilinear")[0, 0]
        larger = plane > best
        best = torch.where(larger, plane, best)
        found[larger] = label
    return found
