"""The semantic branch of Panoptic FPN (Kirillov et al. 2019, arXiv 1901.02446, §3).

Every level of the pyramid is brought to a quarter of the image's size; their sum gives each pixel's class.

Differs from the paper: a finest level of another stride than 4 is what the others are brought to.

Legend: B images, C channels, K classes of pixels, H and W of the padded batch, h and w of the finest level.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers.conv import Conv3x3
from rcnn.ops.losses import Losses
from rcnn.ops.semantic import pixel_loss
from rcnn.parts.batch import Detections, Targets
from rcnn.parts.class_rows import ClassKeys, Rows, weight_and_bias
from rcnn.structures import VOID, Size


@dataclass(frozen=True)
class SemanticHeadSettings:
    """The semantic branch; the defaults are the paper's for COCO.

    Attributes:
        channels: width of every convolution.
        groups: number of groups of its group norm.
        things: ``other``: all things are one class beside the stuff; ``each``: every class of things is
            learned, too (the paper's for Cityscapes).
    """

    channels: int = ranged(128, 1, 65536)
    groups: int = ranged(32, 1, 65536)
    things: Literal["other", "each"] = "other"

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class SemanticHead(nn.Module):
    """For each level convolutions and doublings; their sum, a 1x1 convolution, an enlargement.

    Its classes are one for all things, or the things, and after them the stuff.
    """

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        num_things: int,
        num_stuff: int,
        settings: SemanticHeadSettings,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.num_things = num_things
        self.stride = strides[0]
        self.levels = nn.ModuleList()
        for stride in strides:
            doublings = (stride // strides[0]).bit_length() - 1
            level = nn.ModuleList()
            for step in range(max(doublings, 1)):
                level.append(_block(settings.channels if step else in_channels, settings))
            self.levels.append(level)
        first = 1 if settings.things == "other" else num_things
        self.logits = nn.Conv2d(settings.channels, first + num_stuff, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def class_rows(self, keys: ClassKeys) -> Rows:
        """A map per class of pixels."""
        return weight_and_bias("logits", keys.pixels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``[B, K, h, w]`` of the pyramid's maps ``[B, C, h, w]``, finest first; others are unread."""
        size = features[0].shape[-2:]
        maps = []
        for level, blocks in enumerate(self.levels):
            hidden = features[level]
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden)
                if level:
                    hidden = functional.interpolate(hidden, scale_factor=2.0, mode="bilinear")
            if hidden.shape[-2:] != size:  # maps whose sides were odd
                hidden = functional.interpolate(hidden, size, mode="bilinear")
            maps.append(hidden)
        logits: Tensor = self.logits(torch.stack(maps).sum(0))
        return logits.float()

    def upsampled(self, logits: Tensor) -> Tensor:
        """Logits ``[B, K, H, W]`` at the size of the batch."""
        return functional.interpolate(logits, scale_factor=float(self.stride), mode="bilinear")

    def targets(self, truths: Sequence[Targets], size: tuple[int, int]) -> Tensor:
        """The classes of the pixels of the batch, int64 ``[B, H, W]``, as this head counts them.

        Raises:
            ValueError: truth without a semantic map.
        """
        maps = stacked_maps(truths, size)
        if self.settings.things == "each":
            return maps
        stuff = (maps - self.num_things + 1).clamp(min=0)
        return torch.where(maps == VOID, VOID, stuff)

    def loss(self, logits: Tensor, truths: Sequence[Targets]) -> Losses:
        """The mean cross-entropy over all pixels that are not void."""
        whole = self.upsampled(logits)
        return {"semantic": pixel_loss(whole, self.targets(truths, (whole.shape[2], whole.shape[3])))}

    @torch.no_grad()
    def decode(self, logits: Tensor, detections: Detections) -> Detections:
        """The detections with ``semantic_logits`` of all pixels of the batch."""
        return replace(detections, semantic_logits=self.upsampled(logits))


def _block(in_channels: int, settings: SemanticHeadSettings) -> nn.Sequential:
    return nn.Sequential(
        Conv3x3(in_channels, settings.channels, bias=False),
        nn.GroupNorm(settings.groups, settings.channels),
        nn.ReLU(inplace=True),
    )


def stacked_maps(targets: Sequence[Targets], size: Size) -> Tensor:
    """The semantic maps of a batch, int64 ``[B, H, W]``, void at the right and the bottom of each.

    Raises:
        ValueError: truth without a semantic map.
    """
    stacked = targets[0].boxes.new_full((len(targets), *size), VOID, dtype=torch.int64)
    for whole, target in zip(stacked, targets, strict=True):
        if target.semantic is None:
            raise ValueError(f"{target.path}: the truth has no semantic map, which this model learns from")
        height, width = target.size
        whole[:height, :width] = target.semantic
    return stacked
