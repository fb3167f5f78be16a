"""The mask branch (Mask R-CNN §3): a small fully convolutional network on each region.

Legend: R regions, C channels, K classes, P the pooled side, M = 2 P the side of the predicted map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.ops.losses import mean_over
from rcnn.ops.masks import mask_targets
from rcnn.parts.box_head import PoolSettings, RegionPool
from rcnn.parts.proposals import Regions, SampledRegions
from rcnn.structures import Instances, Masks


@dataclass(frozen=True)
class MaskHeadSettings:
    """The mask head; the defaults are the paper's with FPN (figure 4, right).

    Attributes:
        convs: 3x3 convolutions before the deconvolution.
        channels: their width.
        norm: batch norm after each of them (torchvision's v2 models).
        pool: how regions are read.
        class_agnostic: one map per region instead of one per class (§4.1: nearly as good).
        max_regions: positive regions of an image that the loss looks at; None is all of them (the paper).
    """

    convs: int = 4
    channels: int = 256
    norm: bool = False
    pool: PoolSettings = field(default_factory=lambda: PoolSettings(size=14))
    class_agnostic: bool = False
    max_regions: int | None = None


class MaskHead(nn.Module):
    """Pooling, convolutions, a deconvolution that doubles the side, and one map of logits per class."""

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        settings: MaskHeadSettings,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.pool = RegionPool(strides, settings.pool)
        width = settings.channels
        layers: list[nn.Module] = []
        for i in range(settings.convs):
            conv = nn.Conv2d(in_channels if i == 0 else width, width, 3, padding=1, bias=not settings.norm)
            norm = [nn.BatchNorm2d(width)] if settings.norm else []
            layers += [nn.Sequential(conv, *norm, nn.ReLU(inplace=True))]
        self.layers = nn.Sequential(*layers)
        self.upsample = nn.ConvTranspose2d(width if settings.convs else in_channels, width, 2, stride=2)
        self.logits = nn.Conv2d(width, 1 if settings.class_agnostic else num_classes, 1)
        for layer in (*self.layers.modules(), self.upsample, self.logits):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.normal_(self.logits.weight, std=0.001)  # Detectron

    def forward(self, features: Sequence[Tensor], regions: Regions) -> Tensor:
        """Logits ``[R, K, M, M]`` of regions on maps ``[B, C, H, W]``; K is 1 where class-agnostic."""
        return self.head(self.pool(features, regions))

    def head(self, pooled: Tensor) -> Tensor:
        """Logits of pooled regions ``[R, C, P, P]``."""
        hidden = functional.relu(self.upsample(self.layers(pooled)), inplace=True)
        logits: Tensor = self.logits(hidden)
        return logits.float()

    @torch.no_grad()
    def targets(self, sampled: SampledRegions, truths: Sequence[Instances], size: int) -> Tensor:
        """The part of its mask inside each positive region, resized and cut at 0.5: ``[R, M, M]`` of 0, 1."""
        targets = []
        for i, truth in enumerate(truths):
            mine = sampled.regions.images == i
            if truth.masks is None and len(truth):
                raise ValueError(
                    f"the truth of image {truth.path or i} has no masks, which a mask head needs: "
                    "train a model of boxes"
                )
            masks = Masks.empty(truth.size).to(mine.device) if truth.masks is None else truth.masks
            targets.append(mask_targets(masks, sampled.truth[mine], sampled.regions.boxes[mine], size))
        return (torch.cat(targets) >= 0.5).float()

    def select(self, sampled: SampledRegions) -> SampledRegions:
        """The positive regions that the loss looks at: all, or at most ``max_regions`` of each image."""
        return sampled.first_positives(self.settings.max_regions)

    def loss(
        self, logits: Tensor, positives: SampledRegions, truths: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Mean binary cross entropy on the map of the true class, positive regions only (§3)."""
        goals = self.targets(positives, truths, logits.shape[-1])
        maps = self._own_class(logits, positives.labels)
        total = functional.binary_cross_entropy_with_logits(maps, goals, reduction="sum")
        return {"masks": total / mean_over(goals.numel(), logits.device)}

    @torch.no_grad()
    def decode(self, logits: Tensor, detections: Sequence[Instances]) -> list[Instances]:
        """The detections with ``mask_maps [N, M, M]``: probabilities of the predicted class (§3)."""
        labels = torch.cat([d.labels for d in detections])
        maps = self._own_class(logits, labels).sigmoid()
        parts = torch.split(maps, [len(d) for d in detections])
        return [replace(d, mask_maps=part) for d, part in zip(detections, parts, strict=True)]

    @staticmethod
    def _own_class(logits: Tensor, labels: Tensor) -> Tensor:
        column = torch.zeros_like(labels) if logits.shape[1] == 1 else labels
        return logits[torch.arange(len(labels), device=logits.device), column]
