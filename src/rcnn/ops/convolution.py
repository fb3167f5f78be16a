"""A convolution and what follows it as one operator, for prediction.

Legend: B images, C channels in, K channels out, h, w the result's size.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

from rcnn.layers.operator import operator

Activation = Literal["none", "relu", "relu6", "hardswish"]
SAME = -1
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "relu6", "hardswish")


@operator
def convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: Sequence[Tensor],
    addend: Tensor | None,
    stride: int,
    padding: int,
    activation: str,
) -> Tensor:
    """The activation of a convolution plus a map: ``[B, K, h, w]``.

    Args:
        images: ``[B, C, H, W]``.
        weight: ``[K, C / groups, k, k]``.
        bias: ``[K]``.
        packed: the weights as the compiled kernels want them (``rcnn.kernels.operators.pack``), or nothing.
        addend: ``[B, K, ...]``, added before the activation; resized to ``h, w`` by nearest neighbour.
        stride: of the convolution.
        padding: zeros on each side; or ``SAME``, see :func:`pad_sides`.
        activation: one of ``ACTIVATIONS``.
    """
    groups = images.shape[-3] // weight.shape[1]
    if padding == SAME:
        side = weight.shape[-1]
        rows, columns = (pad_sides(length, side, stride, SAME) for length in images.shape[-2:])
        images, padding = functional.pad(images, (*columns, *rows)), 0
    output = functional.conv2d(images, weight, bias, stride, padding, groups=groups)
    if addend is not None:
        resized = addend.shape[-2:] == output.shape[-2:]
        output = output + (addend if resized else functional.interpolate(addend, size=output.shape[-2:]))
    return activate(output, activation)


def pad_sides(length: int, side: int, stride: int, padding: int) -> tuple[int, int]:
    """Zeros before and after an axis of a map, for a kernel of ``side`` cells.

    With ``SAME`` as many as leave ``ceil(length / stride)`` results, an odd one after (TensorFlow's padding).

    Convention: of 8 cells with a kernel of 3 and stride 2, ``SAME`` is no zero before and one after.
    """
    if padding != SAME:
        return padding, padding
    total = max((-(-length // stride) - 1) * stride + side - length, 0)
    return total // 2, total - total // 2


def activate(maps: Tensor, activation: str) -> Tensor:
    """The activation of maps; they may be overwritten."""
    if activation == "relu":
        return functional.relu_(maps)
    if activation == "relu6":
        return functional.relu6(maps, inplace=True)
    return functional.hardswish(maps, inplace=True) if activation == "hardswish" else maps
