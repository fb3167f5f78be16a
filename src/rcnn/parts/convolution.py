"""The 3x3 convolution of pyramids and heads."""

import torch
from torch import Tensor, nn

from rcnn.ops import winograd


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and padding 1, trained by Winograd's way where that is quicker.

    That is in float32 on a CPU, from 192 channels on; not under autocast: where ``rcnn train`` computes in
    bfloat16, the plain way does. It can be differentiated once. In evaluation it is a plain convolution;
    :mod:`rcnn.prepared` makes it quick for prediction.
    """

    def __init__(self, in_channels: int, channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, channels, 3, padding=1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, H, W]`` of maps ``[B, C, H, W]``."""
        if self.training and torch.is_grad_enabled() and winograd.pays(images, self.out_channels):
            return winograd.convolve_trained(images, self.weight, self.bias)
        return super().forward(images)
