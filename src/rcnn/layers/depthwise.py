"""Depthwise convolutions whose gradient is fast on a CPU.

Below torch there is a fast kernel for the gradient of 3x3 depthwise weights; 5x5 ones take a slow way of
their own, which costs ten times what the rest of the layer does (fifty times in bfloat16). But each of the
25 weights belongs to one shift of the image against the result's gradient, and four 3x3 kernels in the
corners of the 5x5 one have all of these shifts among them.

Legend: B images, C channels, h, w the result's size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CORNERS = (0, 2)  # where the 3x3 kernels begin; they share the middle row and column


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int) -> Tensor:
    """``conv2d`` of ``[B, C, H, W]`` with the depthwise kernels ``[C, 1, k, k]``: ``[B, C, h, w]``.

    Follows autocast as ``conv2d`` does, but for strides above 1 on a CPU, which are computed in float32:
    their gradient in bfloat16 is several times slower. The result has the type that autocast asks for.
    """
    if images.device.type != "cpu":
        return functional.conv2d(images, weight, bias, stride, padding, groups=len(weight))
    wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
    computed = torch.float32 if stride > 1 and wanted == torch.bfloat16 else wanted
    images, weight = images.to(computed), weight.to(computed)
    bias = None if bias is None else bias.to(computed)
    with torch.autocast("cpu", enabled=False):
        if weight.shape[2:] == (5, 5) and torch.is_grad_enabled() and weight.requires_grad:
            result: Tensor = _Depthwise5x5.apply(images, weight, bias, stride, padding)
        else:
            result = functional.conv2d(images, weight, bias, stride, padding, groups=len(weight))
    return result.to(wanted)


class _Depthwise5x5(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            _backward(gradient, images, weight, ctx.stride, ctx.padding, "images") if of_images else None,
            _of_weight(gradient, images, ctx.stride, ctx.padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def _of_weight(gradient: Tensor, images: Tensor, stride: int, padding: int) -> Tensor:
    """``[C, 1, 5, 5]``, the sum over images and places of the gradient times the shifted image."""
    channels = images.shape[1]
    padded = functional.pad(images, (padding,) * 4)
    kernel = images.new_zeros((channels, 1, 3, 3))  # only its shape matters
    result = images.new_empty((channels, 1, 5, 5))
    # Rows and columns of the padded image that a 3x3 kernel reads for a result of this size.
    rows, columns = ((side - 1) * stride + 3 for side in gradient.shape[2:])
    for top in _CORNERS:
        for left in _CORNERS:
            part = padded[:, :, top : top + rows, left : left + columns]
            found = _backward(gradient, part, kernel, stride, 0, "weight")
            result[:, :, top : top + 3, left : left + 3] = found
    return result


def _backward(gradient: Tensor, images: Tensor, weight: Tensor, stride: int, padding: int, of: str) -> Tensor:
    """The gradient of a depthwise convolution's images or weights."""
    results = torch.ops.aten.convolution_backward(
        gradient, images, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight),
        [of == "images", of == "weight", False],
    )  # fmt: skip
    found: Tensor = results[0 if of == "images" else 1]
    return found
