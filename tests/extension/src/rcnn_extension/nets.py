"""A backbone, heads and a model of one's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

import rcnn


class TinyMaps(nn.Module):
    """Maps of strides 4, 8, 16 and 32 from four convolutions."""

    channels = (8, 8, 8, 8)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.ReLU())
        self.rest = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 8, H / stride, W / stride]`` of images ``[B, 3, H, W]``."""
        maps = [self.first(images)]
        for stage in self.rest:
            maps.append(stage(maps[-1]))
        return maps


def backbone(settings: Any) -> nn.Module:
    """``--backbone rcnn_extension.nets:backbone``."""
    return TinyMaps()


def box_layers(in_channels: int, settings: Any) -> nn.Module:
    """``model.box.head``: from pooled regions ``[R, C, P, P]`` to features ``[R, D]``."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * settings.pool.size**2, 12), nn.ReLU())


def mask_layers(in_channels: int, settings: Any) -> nn.Module:
    """``model.mask.head``: from pooled regions ``[R, C, P, P]`` to maps ``[R, D, P, P]``."""
    return nn.Sequential(nn.Conv2d(in_channels, 6, 1), nn.ReLU())


class Mine(rcnn.MaskRCNN):
    """Trains, saves and loads by its dotted path."""
