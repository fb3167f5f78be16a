"""Feature Pyramid Network (Lin et al. 2016, arXiv 1612.03144).

Legend: B images, C channels, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers.conv import Conv3x3
from rcnn.layers.norm import LayerNorm2d


@dataclass(frozen=True)
class FPNSettings:
    """The pyramid on top of a backbone.

    Attributes:
        channels: width of every level, d in the paper (§3).
        norm: after each convolution: none (the paper), batch norm (torchvision's v2 models), or layer norm
            (ViTDet).
        coarsest: ``pool``: one more level for the RPN, the last one subsampled (§4.1); ``none``: no such
            level.
        output: ``conv``: a full 3x3 convolution on every merged map (the paper); ``separable``: a depthwise
            and a pointwise one, an eighth of the arithmetic.
    """

    channels: int = ranged(256, 1, 65536)
    norm: Literal["none", "batch", "layer"] = "none"
    coarsest: Literal["pool", "none"] = "pool"
    output: Literal["conv", "separable"] = "conv"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path of doublings and sums, an output convolution per level.

    Differs from the paper: the path is upsampled to the size of the lateral map, so any image size works.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], settings: FPNSettings) -> None:
        super().__init__()
        width = settings.channels
        self.channels = width
        self.roi_strides = tuple(strides)
        self.strides = (*strides, strides[-1] * 2) if settings.coarsest == "pool" else tuple(strides)
        self.lateral = nn.ModuleList(
            Lateral(*_block(channels, width, 1, settings.norm)) for channels in in_channels
        )
        make = separable if settings.output == "separable" else _block
        self.output = nn.ModuleList(make(width, width, 3, settings.norm) for _ in in_channels)
        self.frozen = False

    def train(self, mode: bool = True) -> "FPN":
        """Switch to training; a frozen pyramid keeps the statistics of its batch norm."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps ``[B, C, H / stride, W / stride]`` at ``strides``, from the backbone's maps, finest first."""
        merged = self.lateral[-1](features[-1])
        levels = [self.output[-1](merged)]
        for i in reversed(range(len(features) - 1)):
            merged = self.lateral[i](features[i], merged)
            levels.insert(0, self.output[i](merged))
        if len(self.strides) > len(levels):
            levels.append(functional.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return levels


class Lateral(nn.Sequential):
    """A 1x1 convolution, on whose results the coarser map is laid (§3)."""

    def forward(self, features: Tensor, above: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` of a backbone's map and the map above ``[B, C, H / 2, W / 2]``."""
        lateral: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        if above is None:
            return lateral
        return functional.interpolate(above, size=lateral.shape[-2:], mode="nearest").add_(lateral)


class SingleMap(nn.Module):
    """No pyramid: RPN and heads read the backbone's last map, as before FPN (C4, C5, VGG-16)."""

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels = in_channels[-1]
        self.strides = self.roi_strides = (strides[-1],)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The last map alone."""
        return [features[-1]]


def build_neck(
    in_channels: Sequence[int], strides: Sequence[int], settings: FPNSettings | None
) -> FPN | SingleMap:
    """What lies between a backbone with these outputs and the heads: a pyramid, or nothing."""
    return SingleMap(in_channels, strides) if settings is None else FPN(in_channels, strides, settings)


def _block(in_channels: int, channels: int, kernel: int, norm: str) -> nn.Sequential:
    bias = norm == "none"
    conv = (
        nn.Conv2d(in_channels, channels, 1, bias=bias)
        if kernel == 1
        else Conv3x3(in_channels, channels, bias=bias)
    )
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    if norm == "none":
        return nn.Sequential(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(channels) if norm == "batch" else LayerNorm2d(channels))


def separable(in_channels: int, channels: int, kernel: int, norm: str) -> nn.Sequential:
    """A depthwise k x k convolution, then a pointwise one."""
    depthwise = nn.Conv2d(
        in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=False
    )
    nn.init.kaiming_uniform_(depthwise.weight, a=1)
    return nn.Sequential(depthwise, *_block(in_channels, channels, 1, norm))
