"""The compiled functions as implementations of rcnn's operators on a CPU.

Each takes over where it is faster and allowed, and calls the operator's reference elsewhere: for other types,
under autocast, where gradients are recorded, and while a graph is traced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.kernels import library
from rcnn.kernels.functions import Kernels
from rcnn.layers.conv import conv3x3, convolve_by_winograd
from rcnn.layers.operator import Operator, needs_gradient
from rcnn.ops.boxes import grouped_nms
from rcnn.ops.convolution import convolve
from rcnn.ops.roi import roi_align

# Below these, measured with both gradients, C gains less than transforming the kernels in each step costs.
MIN_TRAINED_CHANNELS = 64
MIN_TRAINED_TILES = 200  # of 4x4 cells

_LIBRARY = torch.library.Library("rcnn", "IMPL")  # type: ignore[no-untyped-call]


@functools.cache
def kernels() -> Kernels | None:
    """Those of this machine; None where there are none, see :func:`rcnn.kernels.status`."""
    try:
        return Kernels(library.load())
    except library.UnavailableError:
        return None


@functools.cache
def register() -> bool:
    """As :func:`rcnn.kernels.register`."""
    if kernels() is None:
        return False
    for operator, function in _IMPLEMENTATIONS.items():
        # Outside inference mode autograd's key comes first. What it finds here sees to gradients itself.
        for key in ("CPU", "AutogradCPU"):
            _LIBRARY.impl(operator.name, _or_reference(function, operator), key)  # type: ignore[no-untyped-call]
    return True


def pack(convolution: nn.Conv2d, activation: str, *, added: bool = False) -> list[Tensor]:
    """The weights of a convolution as :func:`rcnn.ops.convolution.convolve` takes them for the kernels.

    Args:
        convolution: whose ``weight`` and ``bias`` are read.
        activation: what follows it, one of ``rcnn.ops.convolution.ACTIVATIONS``.
        added: whether a map is added to its results.

    Returns:
        Nothing where torch is as fast, or there are no kernels.
    """
    found, weight, stride = kernels(), convolution.weight, convolution.stride[0]
    if found is None or not _is_plain(weight):
        return []
    count, channels, side, _ = weight.shape
    if convolution.groups > 1:
        depthwise = channels == 1 and convolution.groups == count and not added
        usable = depthwise and found.supports_depthwise(count, side, stride)
        return [found.pack_depthwise(weight)] if usable else []
    if side == 3 and stride == 1 and convolution.padding == (1, 1) and activation in ("none", "relu"):
        return [found.pack_3x3(weight)] if found.supports_3x3(channels, count) else []
    if side == 1 and convolution.padding == (0, 0) and found.supports_1x1(channels, count, added=added):
        return list(found.pack_1x1(weight, convolution.bias))
    return []


def _convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    packed: Sequence[Tensor],
    addend: Tensor | None,
    stride: int,
    padding: int,
    activation: str,
) -> Tensor | None:
    found = _here()
    if not packed or not _is_usable(images, weight, bias, addend) or images.ndim != 4:
        return None
    if weight.shape[1] < images.shape[1]:
        return found.convolve_depthwise(
            images, packed[0], bias, stride=stride, padding=padding, activation=activation
        )
    if weight.shape[-1] == 1:
        if not found.is_faster_1x1(images):
            return None
        panels, shift = packed
        return found.convolve_1x1(
            images, (panels, shift), len(weight), stride=stride, addend=addend, activation=activation
        )
    if not found.is_faster_3x3(images):
        return None
    return found.convolve_3x3(images, packed[0], bias, addend=addend, relu=activation == "relu")


def _conv3x3(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    count, channels = weight.shape[:2]
    tiles = len(images) * -(-images.shape[-2] // 4) * -(-images.shape[-1] // 4)
    if images.ndim != 4 or tiles < MIN_TRAINED_TILES or min(channels, count) < MIN_TRAINED_CHANNELS:
        return None
    found = _here()
    if not found.supports_3x3(channels, count) or not _is_readable(images, weight):
        return None
    if needs_gradient(images, weight, bias):
        return convolve_by_winograd(images, weight, bias)
    return found.convolve_3x3(images, found.pack_3x3(weight), bias)


def _roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    images: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor | None:
    found = _here()
    if not _is_usable(*features, rois) or not found.supports_roi_align(features[0].shape[1]):
        return None
    return found.roi_align(features, rois, images, levels, strides, size, sampling_ratio, aligned=aligned)


def _grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor | None:
    return _here().nms(boxes, scores, groups, max_iou) if _is_usable(boxes) else None


_IMPLEMENTATIONS: dict[Operator, Callable[..., Tensor | None]] = {
    conv3x3: _conv3x3,
    convolve: _convolve,
    roi_align: _roi_align,
    grouped_nms: _grouped_nms,
}


def _or_reference(function: Callable[..., Tensor | None], operator: Operator) -> Callable[..., Tensor]:
    """An implementation of an operator: ``function``, and the reference where that returns None."""

    def implementation(*args: Any) -> Tensor:
        # torch.compile looks into this function, too, and must not see an address.
        unavailable = torch.compiler.is_compiling() or kernels() is None
        result = None if unavailable else function(*args)
        return operator.reference(*args) if result is None else result

    return implementation


def _here() -> Kernels:
    found = kernels()
    assert found is not None, "implementation() calls the reference where there are none"
    return found


def _is_usable(*tensors: Tensor | None) -> bool:
    """Whether C may read these, and nobody records what is done to them."""
    return _is_readable(*tensors) and not needs_gradient(*tensors)


def _is_readable(*tensors: Tensor | None) -> bool:
    """Whether these are float32 in this CPU's memory, and are to be computed with as such."""
    return all(tensor is None or _is_plain(tensor) for tensor in tensors) and not torch.is_autocast_enabled(
        "cpu"
    )


def _is_plain(tensor: Tensor) -> bool:
    # Not the stand-ins with which torch traces graphs.
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
    )
