"""Backbones: classification networks cut into stages whose feature maps the detectors read.

Legend: B images, S stages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import timm
import torch
import torchvision
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

from rcnn.layers import depthwise

Norm = Literal["frozen", "batch"]
BOTTLENECKS = ("resnet50", "resnet101")


@dataclass(frozen=True)
class BackboneSettings:
    """Which backbone, and how much of it trains.

    Attributes:
        name: a key of ``BACKBONES``.
        levels: the stages whose outputs are used, finest first; stage 0 is the stem.
        frozen_stages: stages from the input on that do not train (Detectron: 2, from scratch: 0).
        norm: ``frozen``: batch norm is a fixed affine map, as published detectors have it; ``batch``: it
            trains.
        stride_at: which convolution of a ResNet's bottleneck has the stride: ``3x3`` (torchvision), or
            ``1x1``, the first, as in the original ResNets (MSRA, Caffe, Detectron2).

    Raises:
        ValueError: a stride in the 1x1 convolution of a backbone without bottlenecks.
    """

    name: str = "resnet50"
    levels: tuple[int, ...] = (1, 2, 3, 4)
    frozen_stages: int = 2
    norm: Norm = "frozen"
    stride_at: Literal["3x3", "1x1"] = "3x3"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.stride_at == "1x1" and self.name not in BOTTLENECKS:
            raise ValueError(
                f'stride_at "1x1" is for the backbones with bottlenecks, {" and ".join(BOTTLENECKS)}; '
                f"got {self.name}"
            )


@dataclass(frozen=True)
class Stage:
    """A piece of a backbone: its layers, the channels it ends with, and its stride to the image."""

    layers: nn.Module
    channels: int
    stride: int


class Backbone(nn.Module):
    """A backbone's stages in order; ``forward`` returns the maps of the chosen levels, finest first."""

    def __init__(self, stages: Sequence[Stage], settings: BackboneSettings) -> None:
        super().__init__()
        if not settings.levels or max(settings.levels) >= len(stages):
            raise ValueError(
                f"backbone.levels {settings.levels} of {settings.name}: expected stages 0 to "
                f"{len(stages) - 1}, which have the strides {[s.stride for s in stages]}"
            )
        used = stages[: max(settings.levels) + 1]
        self.levels = settings.levels
        self.channels = tuple(stages[i].channels for i in settings.levels)
        self.strides = tuple(stages[i].stride for i in settings.levels)
        self.stages = nn.ModuleList(stage.layers for stage in used)
        self.frozen_stages = settings.frozen_stages
        for stage in self.stages[: self.frozen_stages]:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training; frozen stages stay as they are, the statistics of their batch norm included."""
        super().train(mode)
        for stage in self.stages[: self.frozen_stages]:
            stage.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``[B, C, H / stride, W / stride]`` of images ``[B, 3, H, W]``."""
        features = images
        maps = []
        for index, stage in enumerate(self.stages):
            # Frozen stages come first, so nothing before them needs a gradient either.
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.frozen_stages):
                features = stage(features)
            if index in self.levels:
                maps.append(features)
        return maps


def build_stage(settings: BackboneSettings, index: int) -> tuple[nn.Module, int]:
    """One stage and its channels: a ResNet's last one is the head of the C4 models (Mask R-CNN fig. 4)."""
    stage = _stages(settings)[index]
    return stage.layers, stage.channels


def build_backbone(settings: BackboneSettings) -> Backbone:
    """The backbone that ``settings`` name, with random weights (pretrained: ``rcnn.parts.pretrained``).

    Raises:
        ValueError: no such backbone.
    """
    return Backbone(_stages(settings), settings)


def _stages(settings: BackboneSettings) -> list[Stage]:
    if settings.name not in BACKBONES:
        raise ValueError(f"backbone.name {settings.name!r}: expected one of {', '.join(BACKBONES)}")
    stages = BACKBONES[settings.name](settings)
    for stage in stages:
        _use_fast_depthwise(stage.layers)
    return stages


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution by ``rcnn.layers.depthwise``, with the parameters of the one it replaces."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        channels = convolution.in_channels
        same: Any = {k: getattr(convolution, k) for k in ("kernel_size", "stride", "padding", "groups")}
        # On no device: weights that are replaced at once need not be drawn.
        super().__init__(channels, channels, **same, bias=convolution.bias is not None, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.same_padding = isinstance(
            convolution, Conv2dSame
        )  # TensorFlow's padding, more at the end than before

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, h, w]`` of maps ``[B, C, H, W]``."""
        stride, padding = self.stride[0], int(self.padding[0])
        if self.same_padding:
            images, padding = pad_same(images, list(self.kernel_size), list(self.stride)), 0
        return depthwise.convolve(images, self.weight, self.bias, stride=stride, padding=padding)


def _use_fast_depthwise(layers: nn.Module) -> None:
    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Conv2d) or child.dilation != (1, 1):
                continue
            if child.groups == child.in_channels == child.out_channels > 1:
                setattr(module, name, DepthwiseConv2d(child))


class FrozenBatchNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """A batch norm that is a fixed affine map, computed in float32; its results have the type of its inputs.

    torchvision's hands on float32 under autocast: every map between two convolutions then takes three times
    the memory, once in each type.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` of maps ``[B, C, H, W]``."""
        result: Tensor = super().forward(x)
        return result.to(x.dtype)


def _resnet_stages(settings: BackboneSettings) -> list[Stage]:
    norm = FrozenBatchNorm if settings.norm == "frozen" else nn.BatchNorm2d
    net = getattr(torchvision.models, settings.name)(weights=None, norm_layer=norm)
    names = ("conv1", "bn1", "relu", "maxpool")
    stem = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in names))
    wide = net.fc.in_features  # 2048, or 512 for the basic blocks of resnet18 and 34
    layers = (net.layer1, net.layer2, net.layer3, net.layer4)
    if settings.stride_at == "1x1":
        for layer in layers:
            layer[0].conv1.stride, layer[0].conv2.stride = layer[0].conv2.stride, layer[0].conv1.stride
    blocks = [Stage(layer, wide // 2 ** (3 - i), 4 * 2**i) for i, layer in enumerate(layers)]
    return [Stage(stem, 64, 4), *blocks]


def _mobilenet_stages(settings: BackboneSettings) -> list[Stage]:
    norm = FrozenBatchNorm if settings.norm == "frozen" else nn.BatchNorm2d
    layers = torchvision.models.mobilenet_v3_large(weights=None, norm_layer=norm).features
    # Cut after the blocks that torchvision's detectors tap: the first of each stride, and the last
    # convolution.
    ends, channels, strides = (0, 2, 4, 7, 13, 16), (16, 24, 40, 80, 160, 960), (2, 4, 8, 16, 32, 32)
    starts = (0, *(end + 1 for end in ends[:-1]))
    pieces = [layers[start : end + 1] for start, end in zip(starts, ends, strict=True)]
    return [Stage(*parts) for parts in zip(pieces, channels, strides, strict=True)]


def _vgg16_stages(settings: BackboneSettings) -> list[Stage]:
    layers = torchvision.models.vgg16(weights=None).features[:-1]  # pool5 gives way to RoI pooling
    starts, ends = (0, 4, 9, 16, 23), (4, 9, 16, 23, 30)
    pieces = [layers[start:end] for start, end in zip(starts, ends, strict=True)]
    return [Stage(*parts) for parts in zip(pieces, (64, 128, 256, 512, 512), (1, 2, 4, 8, 16), strict=True)]


def _alexnet_stages(_: BackboneSettings) -> list[Stage]:
    # Without pool5, as for VGG-16. Its convolutions are not padded to keep sizes: 227 pixels make 13 cells.
    layers = torchvision.models.alexnet(weights=None).features[:-1]
    starts, ends = (0, 2, 5), (2, 5, 12)
    pieces = [layers[start:end] for start, end in zip(starts, ends, strict=True)]
    return [Stage(*parts) for parts in zip(pieces, (64, 192, 256), (4, 8, 16), strict=True)]


def _efficientnet_lite_stages(settings: BackboneSettings) -> list[Stage]:
    net: Any = timm.create_model(f"tf_{settings.name}", pretrained=False)
    cuts = ((0, 1), (1, 2), (2, 3), (3, 5), (5, 7))
    stages = []
    for index, (start, end) in enumerate(cuts):
        blocks = list(net.blocks[start:end])
        layers = nn.Sequential(*([net.conv_stem, net.bn1] if index == 0 else []), *blocks)
        stages.append(Stage(layers, blocks[-1][-1].conv_pwl.out_channels if index else 16, 2 ** (index + 1)))
    if settings.norm == "frozen":
        for stage in stages:
            fold_batch_norm(stage.layers)
    return stages


def fold_batch_norm(layers: nn.Module) -> None:
    """Merge every batch norm, frozen or not, into the convolution before it, in place; the activation stays.

    Equal to a batch norm in evaluation, and a pass over memory cheaper, forward and backward.
    """
    for module in list(layers.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                activation = getattr(norm, "act", nn.Identity())
                setattr(module, conv_name, fuse_conv_bn_eval(conv.eval(), norm.eval()))
                setattr(module, norm_name, activation)


BACKBONES: dict[str, Callable[[BackboneSettings], list[Stage]]] = {
    "efficientnet_lite0": _efficientnet_lite_stages,
    "efficientnet_lite1": _efficientnet_lite_stages,
    "efficientnet_lite2": _efficientnet_lite_stages,
    "resnet18": _resnet_stages,
    "resnet34": _resnet_stages,
    "resnet50": _resnet_stages,
    "resnet101": _resnet_stages,
    "mobilenet_v3_large": _mobilenet_stages,
    "vgg16": _vgg16_stages,
    "alexnet": _alexnet_stages,
}
