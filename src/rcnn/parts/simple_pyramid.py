"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv 2203.16527, section 3).

A plain vision transformer has one map, of stride 16. Maps of the other strides are made from it alone:
finer ones by transposed convolutions, each of which doubles the size and halves the channels, coarser ones
by max pooling.

Legend: B images, C channels of the transformer's map, s its stride.

Differs from the paper: the 1x1 and 3x3 convolutions that bring every map to one width are those of
``rcnn.parts.fpn`` (``fpn.norm = "layer"`` gives them the paper's layer norm), which also adds the coarser map
to the finer one. Attention is global in all blocks, where the paper has windows in most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

from torch import Tensor, nn

from rcnn.layers.norm import LayerNorm2d


class SimplePyramid(nn.Module):
    """Maps of several strides from one map."""

    def __init__(self, channels: int, stride: int, strides: Sequence[int]) -> None:
        """Build with random weights.

        Args:
            channels: C.
            stride: s, a power of two.
            strides: those of the maps wanted, powers of two.
        """
        super().__init__()
        steps = [round(log2(stride / wanted)) for wanted in strides]
        self.strides = tuple(strides)
        self.channels = tuple(channels >> max(step, 0) for step in steps)
        self.scales = nn.ModuleList(_scale(channels, step) for step in steps)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Maps ``[B, C', H / stride, W / stride]`` of one ``[B, C, H / s, W / s]``."""
        return [scale(features) for scale in self.scales]


def _scale(channels: int, doublings: int) -> nn.Sequential:
    """What enlarges a map by 2 to the power of ``doublings``, or shrinks it where that is negative."""
    layers: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(-doublings)]
    for step in range(doublings):
        if step:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return nn.Sequential(*layers)
