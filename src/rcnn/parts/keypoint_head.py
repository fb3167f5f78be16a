"""The keypoint branch (Mask R-CNN §5): the cell of each region in which each keypoint is.

Legend: R regions, C channels, K keypoints, P the pooled side, S = 4 P the side of the predicted maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers.conv import Conv3x3
from rcnn.ops.keypoints import find_keypoints, keypoint_cells
from rcnn.ops.losses import Losses, MeanLoss, sum_over_regions
from rcnn.parts.batch import Detections, Regions, Targets
from rcnn.parts.box_head import PoolSettings, RegionPool
from rcnn.parts.class_rows import ClassKeys, Rows
from rcnn.parts.regions import SampledRegions
from rcnn.parts.truth_batch import rows_of

# Regions that a CPU trains on at a time; with fewer the weights' gradients are as large as what it saves.
CHUNK_REGIONS = 64
UNSEEN = -1  # in place of the cell of a keypoint that is not learned


@dataclass(frozen=True)
class KeypointHeadSettings:
    """The keypoint head; the defaults are the paper's.

    Attributes:
        count: K, the number of keypoints per object.
        convs: number of 3x3 convolutions before the deconvolution.
        channels: width of the convolutions.
        pool: how regions are read.
        refine: decode to fractions of a pixel (ours); False: to whole pixels (Detectron, torchvision).
        max_regions: maximum number of positive regions per image in the loss; None: all of them (the paper).
    """

    count: int = ranged(17, 1, 10000)
    convs: int = ranged(8, 0, 64)
    channels: int = ranged(512, 1, 65536)
    pool: PoolSettings = field(default_factory=lambda: PoolSettings(size=14))
    refine: bool = True
    max_regions: int | None = ranged(None, 1, 1e7)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class KeypointHead(nn.Module):
    """Pooling, convolutions, a deconvolution and an enlargement, and one map of logits for each keypoint."""

    def __init__(self, in_channels: int, strides: Sequence[int], settings: KeypointHeadSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pool = RegionPool(strides, settings.pool)
        layers: list[nn.Module] = []
        channels = in_channels
        for _ in range(settings.convs):
            layers += [Conv3x3(channels, settings.channels), nn.ReLU(inplace=True)]
            channels = settings.channels
        self.layers = nn.Sequential(*layers)
        self.logits = nn.ConvTranspose2d(channels, settings.count, 4, stride=2, padding=1)
        for layer in (*self.layers, self.logits):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def class_rows(self, keys: ClassKeys) -> Rows:
        """A map per keypoint, which are the outputs of a transposed convolution."""
        return {"logits.weight": (None, keys.keypoints), "logits.bias": (keys.keypoints,)}

    def forward(self, features: Sequence[Tensor], regions: Regions) -> Tensor:
        """Logits ``[R, K, S, S]`` of regions on maps ``[B, C, H, W]``."""
        return self.head(self.pool(features, regions))

    def head(self, pooled: Tensor) -> Tensor:
        """Logits ``[R, K, S, S]`` of pooled regions ``[R, C, P, P]``."""
        coarse: Tensor = self.logits(self.layers(pooled))
        return functional.interpolate(coarse.float(), scale_factor=2.0, mode="bilinear", align_corners=False)

    def select_positives(self, sampled: SampledRegions) -> SampledRegions:
        """The positive regions in the loss: all, or at most ``max_regions`` of each image."""
        return sampled.positives(self.settings.max_regions)

    def losses(self, pooled: Tensor, positives: SampledRegions, truths: Sequence[Targets]) -> Losses:
        """Mean cross entropy over the S² cells of each keypoint that is annotated and in its region.

        The regions are the pooled positive ones, ``[R, C, P, P]``. A CPU computes some at a time, since
        nothing else that training keeps is as large.
        """
        cells, seen = self._targets(positives, truths, 4 * pooled.shape[-1])

        def total(maps: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
            logits, wanted = self.head(maps).flatten(0, 1).flatten(1), torch.where(seen, cells, UNSEEN)
            return functional.cross_entropy(logits, wanted.flatten(), ignore_index=UNSEEN, reduction="sum")

        parts = max(1, -(-len(pooled) // CHUNK_REGIONS))
        loss = sum_over_regions(total, [pooled, cells, seen], [self.layers, self.logits], parts)
        return {"keypoints": MeanLoss(loss, seen.sum())}

    def _targets(
        self, positives: SampledRegions, truths: Sequence[Targets], side: int
    ) -> tuple[Tensor, Tensor]:
        """The cell of each keypoint, ``[R, K]``, and whether there is one."""
        for i, truth in enumerate(truths):
            if not len(truth):
                continue
            if truth.keypoints is None or truth.keypoints.shape[1] != self.settings.count:
                has = "no" if truth.keypoints is None else str(truth.keypoints.shape[1])
                raise ValueError(
                    f"the truth of image {truth.path or i} has {has} keypoints, the keypoint head "
                    f"{self.settings.count}: set model.keypoint.count, or train a model without keypoints"
                )
        regions = positives.regions
        parts = [t.keypoints for t in truths if t.keypoints is not None and len(t)]
        everyone = torch.cat([regions.boxes.new_zeros((0, self.settings.count, 3)), *parts])
        own = everyone[rows_of(regions.image_indices, positives.gt_indices, truths)]
        return keypoint_cells(own, positives.regions.boxes, side)

    @torch.no_grad()
    def decode(self, logits: Tensor, detections: Detections) -> Detections:
        """The detections with ``keypoints``, or with maps if they are read at the image's resolution."""
        if self.settings.refine:
            return replace(detections, keypoints=find_keypoints(logits, detections.boxes))
        return replace(detections, keypoint_maps=logits)
