"""Backbones: classification networks cut into stages whose feature maps the detectors read.

A backbone is named by a row of ``BACKBONES``, as ``timm:NAME`` (any model of timm, see
``rcnn.parts.timm_models``), or by the dotted path of a function of the user's own, ``my_package.nets:build``
(see :func:`build_backbone`).

Legend: B images, S stages.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torchvision
from torch import Tensor, nn

from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers import depthwise
from rcnn.layers.norm import FrozenBatchNorm, fold_batch_norm

Norm = Literal["frozen", "batch"]
# timm imports huggingface_hub, whose progress bars, never shown here, warn in notebooks without ipywidgets.
warnings.filterwarnings("ignore", message="IProgress not found")

BOTTLENECKS = ("resnet50", "resnet101")
TIMM = "timm:"
# Height and width of the image by which foreign backbones are tried: multiples of 32, as batches are padded.
_TRIAL_SIZE = (128, 160)


@dataclass(frozen=True)
class BackboneSettings:
    """Which backbone, and how much of it trains.

    Attributes:
        name: a key of ``BACKBONES``, ``timm:NAME``, or a dotted path.
        levels: the stages whose outputs are used, finest first; stage 0 is the stem. Of a timm model, level i
            is the map of stride 2 ** (i + 1).
        frozen_stages: stages from the input on that do not train (Detectron: 2, from scratch: 0).
        norm: ``frozen``: batch norm is a fixed affine map, as published detectors have it; ``batch``: it
            trains. Other norms, such as layer norm, always train.
        stride_at: which convolution of a ResNet's bottleneck has the stride: ``3x3`` (torchvision), or
            ``1x1``, the first, as in the original ResNets (MSRA, Caffe, Detectron2).
        input_channels: channels of the images. Of another number than 3, the kernels of the first convolution
            are those of RGB, spread over them.

    Raises:
        ValueError: a stride in the 1x1 convolution of a backbone without bottlenecks.
    """

    name: str = "resnet50"
    levels: tuple[int, ...] = ranged((1, 2, 3, 4), 0, 32)
    frozen_stages: int = ranged(2, 0, 32)
    norm: Norm = "frozen"
    stride_at: Literal["3x3", "1x1"] = "3x3"
    input_channels: int = ranged(3, 1, 4096)

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.stride_at == "1x1" and self.name not in BOTTLENECKS:
            raise ValueError(
                f'stride_at "1x1" is for the backbones with bottlenecks, {" and ".join(BOTTLENECKS)}; '
                f"got {self.name}"
            )
        check_ranges(self)


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

    def freeze(self) -> None:
        """Let all stages be as they are, the statistics of their batch norm included."""
        self.frozen_stages = len(self.stages)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Backbone:
        """Switch to training; frozen stages stay as they are, the statistics of their batch norm included."""
        super().train(mode)
        for stage in self.stages[: self.frozen_stages]:
            stage.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``[B, C, H / stride, W / stride]`` of images ``[B, C, H, W]``."""
        features = images
        maps = []
        for index, stage in enumerate(self.stages):
            # Frozen stages come first, so nothing before them needs a gradient either.
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.frozen_stages):
                features = stage(features)
            if index in self.levels:
                maps.append(features)
        return maps


class MapsBackbone(nn.Module):
    """A network that returns its maps itself: a timm model, or one of a user's own."""

    def __init__(self, maps: Any) -> None:
        super().__init__()
        self.maps = maps
        self.channels: tuple[int, ...] = tuple(maps.channels)
        self.strides: tuple[int, ...] = tuple(maps.strides)
        self.frozen = False

    def freeze(self) -> None:
        """Let the network be as it is, the statistics of its batch norm included."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MapsBackbone:
        """Switch to training; a frozen backbone stays as it is."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``[B, C, H / stride, W / stride]`` of images ``[B, C, H, W]``."""
        maps: list[Tensor] = list(self.maps(images))
        return maps


def build_stage(settings: BackboneSettings, index: int) -> tuple[nn.Module, int]:
    """One stage and its channels: a ResNet's last one is the head of the C4 models (Mask R-CNN fig. 4).

    Raises:
        ValueError: no such backbone, or one that is not made of stages.
    """
    built = _built(settings)
    if isinstance(built, nn.Module):
        raise ValueError(
            f'box.layers "stage" uses a stage of the backbone, and {settings.name} is not made of stages; '
            "choose a ResNet, or other box.layers"
        )
    return built[index].layers, built[index].channels


def build_backbone(settings: BackboneSettings) -> Backbone | MapsBackbone:
    """The backbone that ``settings`` name, with random weights (pretrained: ``rcnn.parts.pretrained``).

    A dotted path names a function that is called with the settings and returns one of two things:

    - a list of :class:`Stage`: ``levels`` choose among them, and ``frozen_stages`` are frozen;
    - a module whose ``forward`` returns the list of its maps ``[B, C, H / stride, W / stride]``, finest
      first, with the attributes ``channels`` and ``strides``, one of each per map. What ``levels``, ``norm``
      and ``frozen_stages`` mean is its own matter. If it has a method ``load_pretrained()``, a new training
      calls it once.

    Images come normalised by the function's attribute ``normalisation``, a pair (mean, std) per channel of
    images in [0, 1]; where there is none, by ImageNet's.

    Raises:
        ValueError: no such backbone, or one whose maps are not what its channels and strides promise.
    """
    built = _built(settings)
    backbone = MapsBackbone(built) if isinstance(built, nn.Module) else Backbone(built, settings)
    if settings.input_channels != 3:
        take_channels(backbone, settings.input_channels)
    if settings.name not in BACKBONES:
        _try_out(backbone, settings.name, settings.input_channels)
    return backbone


def take_channels(backbone: nn.Module, channels: int) -> None:
    """Let the first convolution take images of ``channels`` channels, its kernels spread over them.

    Raises:
        ValueError: the backbone does not begin with a convolution of its images.
    """
    first = next((layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.groups != 1:
        raise ValueError(
            f"backbone.input_channels {channels}: this backbone does not begin with a convolution; choose "
            "another backbone, or three channels"
        )
    if first.in_channels != channels:
        trains = first.weight.requires_grad
        first.weight = nn.Parameter(spread_channels(first.weight.detach(), channels), requires_grad=trains)
        first.in_channels = channels


def spread_channels(kernels: Tensor, channels: int) -> Tensor:
    """Kernels ``[K, C, h, w]`` for ``channels`` channels: repeated in turn, and scaled to the same sum.

    Convention: of red, green and blue (r, g, b), five channels get 3/5 of r, g, b, r, g.
    """
    own = kernels.shape[1]
    index = torch.arange(channels, device=kernels.device) % own
    return kernels[:, index].clone(memory_format=torch.contiguous_format) * (own / channels)


def _built(settings: BackboneSettings) -> list[Stage] | nn.Module:
    """All stages, or the whole network."""
    if settings.name.startswith(TIMM):
        from rcnn.parts.timm_models import build_maps

        name = settings.name.removeprefix(TIMM)
        maps = build_maps(name, settings.levels, frozen_stages=settings.frozen_stages, norm=settings.norm)
        _use_fast_depthwise(maps)
        return maps
    if is_dotted_path(settings.name):
        return _checked(resolve(settings.name)(settings), settings.name)
    if settings.name not in BACKBONES:
        raise ValueError(
            f"backbone.name {settings.name!r}: {did_you_mean(settings.name, BACKBONES)}expected one of "
            f"{', '.join(BACKBONES)}; timm:NAME for a model of timm; or a function of your own, "
            "such as my_package.nets:build"
        )
    stages = BACKBONES[settings.name](settings)
    for stage in stages:
        _use_fast_depthwise(stage.layers)
    return stages


def _checked(built: Any, name: str) -> list[Stage] | nn.Module:
    """What a user's own function returned, if it is a backbone."""
    if isinstance(built, nn.Module):
        missing = [key for key in ("channels", "strides") if not hasattr(built, key)]
        if missing:
            raise ValueError(f"backbone {name}: {type(built).__name__} lacks {' and '.join(missing)}")
        return built
    if isinstance(built, Sequence) and built and all(isinstance(stage, Stage) for stage in built):
        return list(built)
    raise ValueError(
        f"backbone {name}: it returned {type(built).__name__}; expected a module with channels and strides, "
        "or a list of rcnn.parts.backbone.Stage"
    )


@torch.no_grad()
def _try_out(backbone: Backbone | MapsBackbone, name: str, channels: int) -> None:
    """Refuse a backbone that does not take images of any size, or whose maps are not as promised."""
    height, width = _TRIAL_SIZE
    training = backbone.training
    try:
        maps = backbone.eval()(torch.zeros(1, channels, height, width))
    except Exception as error:  # whatever a foreign network raises
        raise ValueError(
            f"backbone {name} cannot process an image of {height} x {width} pixels, but images have "
            f"any size; choose another model. It says: {str(error) or type(error).__name__}"
        ) from error
    finally:
        backbone.train(training)
    found = [tuple(features.shape[1:]) for features in maps]
    promised = list(zip(backbone.channels, backbone.strides, strict=False))
    rounded = [{(c, height // s, width // s), (c, -(-height // s), -(-width // s))} for c, s in promised]
    if len(found) != len(promised) or any(
        own not in expected for own, expected in zip(found, rounded, strict=True)
    ):
        raise ValueError(
            f"backbone {name}: for an image of {height} x {width} pixels it returns maps of shape {found}, "
            f"which do not fit its channels {backbone.channels} and strides {backbone.strides}"
        )


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution by ``rcnn.layers.depthwise``, with the parameters of the one it replaces."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        channels = convolution.in_channels
        same: Any = {k: getattr(convolution, k) for k in ("kernel_size", "stride", "padding", "groups")}
        # On no device: weights that are replaced at once need not be drawn.
        super().__init__(channels, channels, **same, bias=convolution.bias is not None, device="meta")
        self.weight, self.bias = convolution.weight, convolution.bias
        # TensorFlow's padding, more at the end than before
        self.same_padding = _pads_as_tensorflow(convolution)
        if self.same_padding:
            from timm.layers.padding import pad_same

            self.pad_same: Any = pad_same

    def forward(self, images: Tensor) -> Tensor:
        """``[B, C, h, w]`` of maps ``[B, C, H, W]``."""
        stride, padding = self.stride[0], int(self.padding[0])
        if self.same_padding:
            images, padding = self.pad_same(images, list(self.kernel_size), list(self.stride)), 0
        return depthwise.convolve(images, self.weight, self.bias, stride=stride, padding=padding)


def _pads_as_tensorflow(convolution: nn.Conv2d) -> bool:
    """Whether this is timm's ``Conv2dSame``; timm is not imported to find out."""
    return type(convolution).__name__ == "Conv2dSame"


def _use_fast_depthwise(layers: nn.Module) -> None:
    for module in list(layers.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and _is_square_depthwise(child):
                setattr(module, name, DepthwiseConv2d(child))


def _is_square_depthwise(convolution: nn.Conv2d) -> bool:
    """Whether ``DepthwiseConv2d`` computes the same: alike in height and width, and by its weights alone."""
    pairs = (convolution.kernel_size, convolution.stride, convolution.padding)
    return (
        (type(convolution) is nn.Conv2d or _pads_as_tensorflow(convolution))
        and convolution.groups == convolution.in_channels == convolution.out_channels > 1
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
        and all(not isinstance(pair, str) and pair[0] == pair[1] for pair in pairs)
    )


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
    import timm

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
"""The rows of the table: what builds all stages from the settings."""
