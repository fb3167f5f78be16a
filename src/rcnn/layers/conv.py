"""The 3x3 convolution of pyramids and heads."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rcnn.kernels import kernels, winograd

# Below these, measured with both gradients, C gains less than the kernels' transformation in each step costs.
MIN_CHANNELS = 64
MIN_TILES = 200  # of 4x4 cells


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 and padding 1, trained by Winograd's way where that is quicker.

    That is in float32 on a CPU, on maps that are not tiny: in C, and without a compiler from 192 channels on.
    Not under autocast: where ``rcnn train`` computes in bfloat16, the plain way does. It can be
    differentiated once. In evaluation it is a plain convolution; :mod:`rcnn.inference.fused` makes it quick
    for prediction.
    """

    def __init__(self, in_channels: int, channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, channels, 3, padding=1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, K, H, W]`` of maps ``[B, C, H, W]``."""
        if self.training and torch.is_grad_enabled() and _is_faster(images, self.weight):
            return convolve_trained(images, self.weight, self.bias)
        return super().forward(images)


def convolve_trained(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[B, K, H, W]`` of maps ``[B, C, H, W]``, with gradients of all three, however many channels."""
    result: Tensor = _Trained.apply(images, weight, bias)
    return result


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(images, weight)
        return _convolve(images, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return (
                _convolve(gradient, weight.flip(2, 3).transpose(0, 1)) if of_images else None,
                _of_weight(images, weight, gradient) if of_weight else None,
                gradient.sum((0, 2, 3)) if of_bias else None,
            )


def _is_faster(images: Tensor, weight: Tensor) -> bool:
    return _compiled(images, weight) is not None or winograd.is_faster(images, len(weight))


def _compiled(images: Tensor, weight: Tensor) -> kernels.Kernels | None:
    """The kernels in C, if they are the quicker way."""
    count, channels = weight.shape[:2]
    tiles = len(images) * -(-images.shape[-2] // 4) * -(-images.shape[-1] // 4)
    if images.ndim != 4 or tiles < MIN_TILES or min(channels, count) < MIN_CHANNELS:
        return None
    with torch.no_grad():
        found = kernels.kernels() if kernels.is_usable(images, weight) else None
    return found if found is not None and found.supports_3x3(channels, count) else None


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    compiled = _compiled(images, weight)
    if compiled is not None:
        return compiled.convolve_3x3(images, compiled.pack_3x3(weight), bias)
    if winograd.is_faster(images, len(weight)):
        return winograd.convolve(images, winograd.transform_kernels(weight), bias)
    return functional.conv2d(images, weight, bias, padding=1)


def _of_weight(images: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    if winograd.is_faster(images, len(weight)):
        return winograd.kernel_gradient(images, gradient)
    one, wanted = (1, 1), (False, True, False)
    found: Tensor = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, one, one, one, False, (0, 0), 1, wanted
    )[1]
    return found
