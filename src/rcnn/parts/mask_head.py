"""The mask branch (Mask R-CNN §3): a small fully convolutional network on each region.

The alternatives of the paper's table 2 are here, too: classes that compete for a pixel (softmax), one map for
all classes, fully connected layers.

Legend: R regions, C channels, K classes (1 where class-agnostic), P the pooled side, M = 2 P the side of the
predicted map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers.conv import Conv3x3
from rcnn.layers.operator import is_exporting
from rcnn.ops.losses import Losses, MeanLoss, sum_over_regions, total_cross_entropy
from rcnn.ops.masks import mask_targets
from rcnn.parts.batch import Detections, Regions, TargetMasks, Targets
from rcnn.parts.box_head import PoolSettings, RegionPool
from rcnn.parts.class_rows import BACKGROUND, ClassKeys, Rows, each_of, weight_and_bias
from rcnn.parts.own_layers import own_layers
from rcnn.parts.regions import SampledRegions
from rcnn.parts.truth_batch import rows_of
from rcnn.structures.trace import watched

# Numbers in the maps of doubled side that a CPU computes at a time, 32 megabytes.
CHUNK_ELEMENTS = 2**23


@dataclass(frozen=True)
class MaskHeadSettings:
    """The mask head; the defaults are the paper's with FPN (figure 4, right).

    Attributes:
        layers: ``fcn``: convolutions, a deconvolution that doubles the side, a 1x1 convolution; ``mlp``:
            fully connected layers, and one more for all pixels of all maps (table 2e, where they are 2 of
            width 1024); not after a stage of the backbone.
        convs: number of 3x3 convolutions before the deconvolution, or of hidden layers of an ``mlp``.
        channels: width of these layers.
        norm: batch norm after each of them (torchvision's v2 models).
        pool: how regions are read.
        activation: ``sigmoid``: each class has an independent binary mask; ``softmax``: classes and
            background compete for each pixel, as in an FCN (table 2b).
        class_agnostic: one map per region instead of one per class (§4.1: nearly as good).
        max_regions: maximum number of positive regions per image in the loss; None: all of them (the paper).
        head: the dotted path of a function that makes layers of your own in place of the convolutions of an
            ``fcn``, see ``rcnn.parts.own_layers``.
    """

    layers: Literal["fcn", "mlp"] = "fcn"
    convs: int = ranged(4, 0, 64)
    channels: int = ranged(256, 1, 65536)
    norm: bool = False
    pool: PoolSettings = field(default_factory=lambda: PoolSettings(size=14))
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    class_agnostic: bool = False
    max_regions: int | None = ranged(None, 1, 1e7)
    head: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class MaskHead(nn.Module):
    """Pooling, hidden layers, and a map of logits for each class; with ``softmax`` one for the background."""

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
        self.maps = (1 if settings.class_agnostic else num_classes) + (settings.activation == "softmax")
        self.layers, self.upsample, self.logits = (
            _convolutional(in_channels, self.maps, settings)
            if settings.layers == "fcn"
            else _fully_connected(in_channels, self.maps, settings)
        )
        nn.init.normal_(self.logits.weight, std=0.001)  # Detectron

    def class_rows(self, keys: ClassKeys) -> Rows:
        """A map per class, with softmax one for the background; in an ``mlp`` a row per pixel of each."""
        if self.settings.class_agnostic:
            return {}
        maps = (*keys.classes, BACKGROUND) if self.settings.activation == "softmax" else keys.classes
        pixels = (2 * self.settings.pool.size) ** 2
        return weight_and_bias("logits", each_of(maps, pixels) if self.settings.layers == "mlp" else maps)

    def forward(self, features: Sequence[Tensor], regions: Regions, labels: Tensor | None = None) -> Tensor:
        """Logits of regions on maps ``[B, C, H, W]``, see :meth:`head`."""
        return self.head(self.pool(features, regions), labels)

    def head(self, pooled: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits ``[R, K, M, M]`` of pooled regions ``[R, C, P, P]``; K + 1 maps with ``softmax``.

        With ``labels [R]`` and ``sigmoid`` only the map of each region's class, ``[R, 1, M, M]``: no other is
        used in training (§3), nor in prediction.
        """
        if self.settings.layers == "mlp":
            side = 2 * self.settings.pool.size
            logits: Tensor = self.logits(self.layers(pooled)).unflatten(1, (self.maps, side, side))
            return logits.float()
        if is_exporting() or pooled.device.type != "cpu":
            return self._enlarged(self.layers(pooled), labels)
        if self.training and self._sees_all:
            return self._enlarged(self.layers(pooled), labels)
        parts = self._num_chunks(pooled)
        own = [None] * parts if labels is None else labels.tensor_split(parts)
        some = zip(pooled.tensor_split(parts), own, strict=True)
        return torch.cat([self._enlarged(self.layers(part), label) for part, label in some])

    @property
    def _sees_all(self) -> bool:
        """Whether hidden layers see all regions at once in training: batch norm must, own ones may."""
        return self.settings.norm or self.settings.head is not None

    def _num_chunks(self, pooled: Tensor) -> int:
        """How many times some of the pooled regions are computed on a CPU."""
        regions, _, height, width = pooled.shape
        return max(1, -(-regions * self.settings.channels * 4 * height * width // CHUNK_ELEMENTS))

    def _enlarged(self, hidden: Tensor, labels: Tensor | None) -> Tensor:
        """Logits of hidden maps ``[R, C, P, P]``: of all classes, or of ``labels [R]``."""
        hidden = functional.relu(self.upsample(hidden), inplace=True)
        if labels is None or self.maps == 1 or self.settings.activation == "softmax":
            logits: Tensor = self.logits(hidden)
            return logits.float()
        assert self.logits.bias is not None
        # Gradients of `weight[labels]` would be summed in an order that changes from run to run.
        weight = self.logits.weight.flatten(1).index_select(0, labels)  # [R, C]
        bias = self.logits.bias.index_select(0, labels)
        cells = hidden.flatten(2).transpose(1, 2)  # [R, M M, C], the order in memory
        own = torch.baddbmm(bias[:, None, None], cells, weight[:, :, None])
        return own.view(own.shape[0], 1, *hidden.shape[2:]).float()

    @torch.no_grad()
    def targets(self, sampled: SampledRegions, truths: Sequence[Targets], size: int) -> Tensor:
        """The part of its mask inside each positive region, resized and cut at 0.5: ``[R, M, M]`` of 0, 1."""
        for i, truth in enumerate(truths):
            if truth.masks is None and len(truth):
                raise ValueError(
                    f"the truth of image {truth.path or i} has no masks, which a mask head needs: "
                    "train a box model"
                )
        regions = sampled.regions
        masks = TargetMasks.concatenate([t.masks for t in truths if t.masks is not None], truths[0].size)
        if not len(masks):
            return regions.boxes.new_zeros((len(regions.boxes), size, size))
        rows = rows_of(regions.image_indices, sampled.gt_indices, truths)
        return (mask_targets(masks, rows, regions.boxes, size) >= 0.5).float()

    def select_positives(self, sampled: SampledRegions, truths: Sequence[Targets]) -> SampledRegions:
        """The positive regions in the loss: all, or at most ``max_regions`` of each image.

        Regions of objects whose outline is not known (``has_mask``) are left out.
        """
        if any(truth.has_mask is not None for truth in truths) and any(map(len, truths)):
            known = torch.cat([
                torch.ones_like(t.labels, dtype=torch.bool) if t.has_mask is None else t.has_mask
                for t in truths
            ])  # fmt: skip
            rows = rows_of(sampled.regions.image_indices, sampled.gt_indices, truths)
            # Background of an image without objects has the row of another.
            outlined = known[rows.clamp(max=len(known) - 1)]
            sampled = replace(sampled, is_positive=sampled.is_positive & outlined)
        return sampled.positives(self.settings.max_regions)

    def losses(self, pooled: Tensor, positives: SampledRegions, truths: Sequence[Targets]) -> Losses:
        """:meth:`loss` of the pooled positive regions ``[R, C, P, P]``, on a CPU some regions at a time.

        No other maps that training keeps are as large.
        """
        if self.settings.layers == "mlp":
            return self.loss(self.head(pooled, positives.labels), positives, truths)
        # Batch norm sees all regions at once, and what comes after it some.
        first, then = (self.layers, nn.Identity()) if self._sees_all else (nn.Identity(), self.layers)
        target_masks = self.targets(positives, truths, 2 * pooled.shape[-1])

        def total(maps: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
            return self._total(self._enlarged(then(maps), labels), labels, masks)

        summed = sum_over_regions(
            total, [first(pooled), positives.labels, target_masks], [then, self.upsample, self.logits],
            self._num_chunks(pooled),
        )  # fmt: skip
        return {"masks": MeanLoss(summed, target_masks.numel())}

    def loss(self, logits: Tensor, positives: SampledRegions, truths: Sequence[Targets]) -> Losses:
        """Mean binary cross entropy on the map of the true class, positive regions only (§3).

        With ``softmax`` the mean cross entropy between the true class, inside the mask, and the background.
        """
        target_masks = self.targets(positives, truths, logits.shape[-1])
        total = self._total(logits, positives.labels, target_masks)
        return {"masks": MeanLoss(total, target_masks.numel())}

    def _total(self, logits: Tensor, labels: Tensor, target_masks: Tensor) -> Tensor:
        """The sum of the loss over the pixels of ``target_masks [R, M, M]``."""
        own = self._column(logits, labels)
        if self.settings.activation == "softmax":
            classes = torch.where(target_masks > 0, own[:, None, None], self.maps - 1)
            return total_cross_entropy(logits, classes)
        return functional.binary_cross_entropy_with_logits(
            _of_each(logits, own), target_masks, reduction="sum"
        )

    @torch.no_grad()
    def decode(self, logits: Tensor, detections: Detections) -> Detections:
        """The detections with ``mask_maps [N, M, M]``: probabilities of the predicted class (§3)."""
        maps = self.probabilities(logits, detections.labels)
        if (trace := watched()) is not None:
            trace.note("masks", "Mask R-CNN §3", maps=maps)
        return replace(detections, mask_maps=maps)

    def probabilities(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``[R, M, M]`` of each region's class, from logits ``[R, K or 1, M, M]`` and labels ``[R]``."""
        own = self._column(logits, labels)
        softmax = self.settings.activation == "softmax"
        return _of_each(logits.softmax(1), own) if softmax else _of_each(logits, own).sigmoid()

    def _column(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The map of each label."""
        only = self.settings.class_agnostic or logits.shape[1] == 1
        return torch.zeros_like(labels) if only else labels


def _of_each(maps: Tensor, column: Tensor) -> Tensor:
    """One map ``[R, M, M]`` of each region's ``[R, K, M, M]``."""
    return maps[torch.arange(column.shape[0], device=column.device), column]


def _convolutional(
    in_channels: int, maps: int, settings: MaskHeadSettings
) -> tuple[nn.Module, nn.Module, nn.Conv2d | nn.Linear]:
    """Hidden layers, the doubling of the side, and the last layer (figure 4)."""
    width, hidden_channels = settings.channels, in_channels
    hidden: nn.Module
    if settings.head is not None:
        hidden, hidden_channels = own_layers(settings.head, in_channels, settings, maps=True)
    else:
        layers: list[nn.Module] = []
        for _ in range(settings.convs):
            conv = Conv3x3(hidden_channels, width, bias=not settings.norm)
            norm = [nn.BatchNorm2d(width)] if settings.norm else []
            layers += [nn.Sequential(conv, *norm, nn.ReLU(inplace=True))]
            hidden_channels = width
        hidden = nn.Sequential(*layers)
    upsample = nn.ConvTranspose2d(hidden_channels, width, 2, stride=2)
    logits = nn.Conv2d(width, maps, 1)
    ours = hidden.modules() if settings.head is None else ()
    for layer in (*ours, upsample, logits):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return hidden, upsample, logits


def _fully_connected(
    in_channels: int, maps: int, settings: MaskHeadSettings
) -> tuple[nn.Module, nn.Module, nn.Conv2d | nn.Linear]:
    """Hidden layers, nothing to double, and one output for each pixel of each map (table 2e)."""
    if settings.head is not None:
        raise ValueError('mask.head takes the place of convolutions: leave mask.layers "fcn"')
    if settings.convs < 1 or settings.norm:
        raise ValueError('mask.layers "mlp" has at least one hidden layer (mask.convs) and no batch norm')
    widths = [in_channels * settings.pool.size**2, *[settings.channels] * settings.convs]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU(inplace=True)]
    logits = nn.Linear(widths[-1], maps * (2 * settings.pool.size) ** 2)
    nn.init.zeros_(logits.bias)
    return nn.Sequential(*layers), nn.Identity(), logits
