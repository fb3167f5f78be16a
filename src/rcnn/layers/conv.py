"""The 3x3 convolution of pyramids and heads.

Legend: B images, C channels in, K channels out.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rcnn.layers import winograd
from rcnn.layers.operator import needs_gradient, operator


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and padding 1, trained by Winograd's algorithm where that is faster.

    That is in float32 on a CPU, on maps that are not tiny; under autocast it is a plain convolution. It can
    be differentiated once. In evaluation it is a plain convolution, too, which
    :mod:`rcnn.inference.fused` replaces.
    """

    def __init__(self, in_channels: int, channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, channels, 3, padding=1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, H, W]`` of maps ``[B, C, H, W]``."""
        if self.training and torch.is_grad_enabled():
            return conv3x3(images, self.weight, self.bias)
        return super().forward(images)


@operator
def conv3x3(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[B, K, H, W]`` of maps ``[B, C, H, W]`` and kernels ``[K, C, 3, 3]``, with gradients of all three."""
    if not winograd.is_faster(images, len(weight)):
        return functional.conv2d(images, weight, bias, padding=1)
    if needs_gradient(images, weight, bias):
        return convolve_by_winograd(images, weight, bias)
    return winograd.convolve(images, winograd.transform_kernels(weight), bias)


def convolve_by_winograd(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As :func:`conv3x3`, with gradients that use Winograd's algorithm, too, where that is faster."""
    result: Tensor = _Winograd3x3.apply(images, weight, bias)
    return result


class _Winograd3x3(torch.autograd.Function):
    # Nothing here records gradients, so conv3x3 computes at once, by the fastest implementation there is.
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return conv3x3(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return (
                conv3x3(gradient, weight.flip(2, 3).transpose(0, 1), None) if of_images else None,
                _weight_gradient(images, weight, gradient) if of_weight else None,
                gradient.sum((0, 2, 3)) if of_bias else None,
            )


def _weight_gradient(images: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    if winograd.is_faster(images, len(weight)):
        return winograd.kernel_gradient(images, gradient)
    one, wanted = (1, 1), (False, True, False)
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, one, one, one, False, (0, 0), 1, wanted
    )[1]
    return found
