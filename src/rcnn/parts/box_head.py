"""The second stage: the class of each region, and its box (Fast R-CNN §2).

Legend: R regions, C channels, P the pooled side, K classes without the background, D features of a region.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnn.config.ranges import check_ranges, ranged
from rcnn.layers.class_linear import ClassLinear
from rcnn.layers.conv import Conv3x3
from rcnn.ops import boxes as box_ops
from rcnn.ops.boxes import BoxWeights
from rcnn.ops.losses import Losses, MeanLoss, smooth_l1
from rcnn.ops.roi import assign_levels, roi_pool
from rcnn.parts.backbone import BackboneSettings, build_stage
from rcnn.parts.batch import Detections, Regions, Targets
from rcnn.parts.class_rows import BACKGROUND, ClassKeys, Rows, each_of, weight_and_bias
from rcnn.parts.own_layers import own_layers
from rcnn.parts.pretrained import PretrainedPart, load_fc_layers, load_next_stage
from rcnn.parts.regions import SampledRegions, SamplingSettings
from rcnn.structures.trace import watched


@dataclass(frozen=True)
class PoolSettings:
    """How a head reads its regions from the feature maps.

    Attributes:
        pooling: RoIAlign (``align``, Mask R-CNN §3) or RoI pooling (``pool``, Fast R-CNN §2.1).
        size: P, the side of the pooled map.
        sampling_ratio: samples per bin and axis in RoIAlign; 0 is adaptive (Detectron2).
        aligned: half-pixel correct; False for weights that were trained without (torchvision).
        canonical_size: side of a region that is read from ``canonical_level``; 224 in FPN eq. 1.
        canonical_level: level that such a region is read from; k0 in FPN eq. 1.
    """

    pooling: Literal["align", "pool"] = "align"
    size: int = ranged(7, 1, 256)
    sampling_ratio: int = ranged(2, 0, 64)
    aligned: bool = True
    canonical_size: float = ranged(224.0, 0, 100000, above=True)
    canonical_level: int = ranged(4, 0, 16)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class RegionPool(nn.Module):
    """RoIAlign or RoI pooling over the levels of a pyramid; one map is a pyramid of one level."""

    def __init__(self, strides: Sequence[int], settings: PoolSettings) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.settings = settings

    def forward(self, features: Sequence[Tensor], regions: Regions) -> Tensor:
        """``[R, C, P, P]`` from maps ``[B, C, H, W]``; maps beyond the given strides are ignored."""
        use, s = features[: len(self.strides)], self.settings
        levels = assign_levels(regions.boxes, self.strides, s.canonical_size, s.canonical_level)
        if (trace := watched()) is not None:
            paper = "Mask R-CNN §3" if s.pooling == "align" else "Fast R-CNN §2.1"
            trace.note("pool", paper, levels=levels, strides=self.strides, size=s.size)
        return roi_pool(
            use, regions.boxes, regions.image_indices, levels, self.strides, s.size,
            sampling_ratio=s.sampling_ratio if s.pooling == "align" else None, aligned=s.aligned,
        )  # fmt: skip


@dataclass(frozen=True)
class CascadeSettings:
    """The later steps of a cascade, see ``rcnn.parts.cascade``; the first is as without one.

    Attributes:
        ious: IoU from which a box of the step before is positive, for the second step and on.
        weights: weights of their box coding.

    Raises:
        ValueError: not as many of the one as of the other.
    """

    ious: tuple[float, ...] = ranged((0.6, 0.7), 0, 1)
    weights: tuple[BoxWeights, ...] = ranged(
        ((20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)), 0, 1e6, above=True
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if len(self.ious) != len(self.weights):
            raise ValueError(
                f"cascade has {len(self.ious)} ious and {len(self.weights)} weights; expected one of each "
                "per step, from the second on"
            )
        check_ranges(self)


@dataclass(frozen=True)
class BoxHeadSettings:
    """The box head; the defaults are those of FPN.

    Attributes:
        layers: ``fc``: two fully connected layers (FPN §4.2, and VGG's fc6 and fc7); ``conv``: four 3x3
            convolutions with batch norm and one fully connected layer (torchvision's v2 models); ``stage``:
            the backbone's next stage and the mean over the map (the C4 models, Mask R-CNN fig. 4 left).
        channels: width of the fully connected layers; 1024 (FPN), 4096 (VGG-16).
        dropout: dropout after each of them; 0.5 for VGG-16.
        pool: how regions are read.
        sampling: which regions are trained on.
        weights: weights of dx, dy, dw, dh in the box coding.
        beta: distance up to which smooth L1 is quadratic: 1 in the paper, 1/9 in torchvision, 0 (L1) in
            Detectron2.
        class_agnostic: one box per region instead of one per class.
        min_score: detections below it are dropped.
        min_side: detections with a shorter side, in pixels of the resized image, are dropped.
        nms_iou: a detection that overlaps a better one of its class by more is dropped.
        max_detections: maximum number of detections per image, the best first.
        cascade: more steps, each on the boxes of the one before; their boxes are class-agnostic. None: none.
        head: the dotted path of a function that makes layers of your own in place of ``layers``, see
            ``rcnn.parts.own_layers``.
    """

    layers: Literal["fc", "conv", "stage"] = "fc"
    channels: int = ranged(1024, 1, 65536)
    dropout: float = ranged(0.0, 0, 1, below=True)
    pool: PoolSettings = PoolSettings()
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    weights: BoxWeights = ranged((10.0, 10.0, 5.0, 5.0), 0, 1e6, above=True)
    beta: float = ranged(1.0, 0, 1000)
    class_agnostic: bool = False
    min_score: float = ranged(0.05, 0, 1)
    min_side: float = ranged(1e-2, 0, 100000)
    nms_iou: float = ranged(0.5, 0, 1)
    max_detections: int = ranged(100, 1, 1e6)
    cascade: CascadeSettings | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: nothing could be detected.
        """
        if self.max_detections < 1:
            raise ValueError(f"box.max_detections {self.max_detections}: expected at least 1")
        check_ranges(self)


class BoxHead(nn.Module):
    """Pooling, shared layers, and two siblings: K + 1 class logits (background last) and box deltas."""

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        settings: BoxHeadSettings,
        *,
        backbone: BackboneSettings | None = None,
    ) -> None:
        """Build the head; ``backbone`` is the one to take the next stage of, for ``layers`` of ``stage``."""
        super().__init__()
        if settings.cascade is not None:
            raise ValueError("box.cascade: this model has no cascade; set it to none")
        self.settings = settings
        self.num_classes = num_classes
        self.pool = RegionPool(strides, settings.pool)
        self.stage: nn.Module = nn.Identity()
        self.stage_channels, width = in_channels, settings.channels
        self.layers: nn.Module
        if settings.head is not None:
            self.layers, width = own_layers(settings.head, in_channels, settings, maps=False)
        elif settings.layers == "stage":
            if backbone is None:
                raise ValueError('box.layers "stage" needs the settings of the backbone whose stage it takes')
            self.stage, width = build_stage(backbone, max(backbone.levels) + 1)
            self.stage_channels = width
        if settings.head is None:
            self.layers = _layers(in_channels, settings)
        self.logits = ClassLinear(width, num_classes + 1)
        self.deltas = ClassLinear(width, 4 if settings.class_agnostic else 4 * num_classes)
        nn.init.normal_(self.logits.weight, std=0.01)  # Fast R-CNN §2.3
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for, of a head on a backbone's last map."""
        if self.settings.head is not None:
            return []
        if self.settings.layers == "stage":
            return [PretrainedPart("box.stage", self.stage, load_next_stage)]
        return [PretrainedPart("box.layers", self.layers, load_fc_layers)]

    def class_rows(self, keys: ClassKeys) -> Rows:
        """One row of logits per class and for the background; four deltas per class, or for all of them."""
        rows = weight_and_bias("logits", (*keys.classes, BACKGROUND))
        return (
            rows
            if self.settings.class_agnostic
            else rows | weight_and_bias("deltas", each_of(keys.classes, 4))
        )

    def forward(self, features: Sequence[Tensor], regions: Regions) -> tuple[Tensor, Tensor]:
        """Class logits ``[R, K + 1]`` and deltas ``[R, K, 4]`` (``[R, 1, 4]`` where class-agnostic)."""
        hidden = self.layers(self.stage(self.pool(features, regions)))
        return self.logits(hidden).float(), self.deltas(hidden).float().unflatten(1, (-1, 4))

    def targets(self, sampled: SampledRegions) -> Tensor:
        """The deltas ``[R, 4]`` that the positive regions should have."""
        return box_ops.encode(sampled.gt_boxes, sampled.regions.boxes, self.settings.weights)

    def loss(self, logits: Tensor, deltas: Tensor, sampled: SampledRegions) -> Losses:
        """Cross entropy over all regions, smooth L1 over the positives, both per sampled region (eq. 1)."""
        count = len(sampled.labels)
        classes = functional.cross_entropy(logits, sampled.labels, reduction="sum")
        column = sampled.labels.clamp(max=deltas.shape[1] - 1)  # the background has none
        own = deltas[torch.arange(len(column), device=column.device), column]
        # At no distance there is neither a loss nor a gradient.
        wanted = torch.where(sampled.is_positive[:, None], self.targets(sampled), own.detach())
        boxes = smooth_l1(own, wanted, self.settings.beta)
        return {"classes": MeanLoss(classes, count), "boxes": MeanLoss(boxes, count)}

    def losses(
        self,
        features: Sequence[Tensor],
        sampled: SampledRegions,
        truths: Sequence[Targets],
        seeds: Tensor,
    ) -> Losses:
        """Both losses of the sampled regions; only a cascade needs truths and seeds for more of them."""
        logits, deltas = self(features, sampled.regions)
        return self.loss(logits, deltas, sampled)

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        regions: Regions,
        sizes: Tensor,
        *,
        min_score: float | Tensor | None = None,
        max_detections: int | Tensor | None = None,
    ) -> Detections:
        """Detections among the regions of images of ``sizes`` ``[B, 2]`` (height, width)."""
        if (trace := watched()) is not None:
            trace.note("regions", "Fast R-CNN §2", regions=regions)
        logits, deltas = self(features, regions)
        return self.decode(logits, deltas, regions, sizes, min_score=min_score, max_detections=max_detections)

    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        deltas: Tensor,
        regions: Regions,
        sizes: Tensor,
        *,
        min_score: float | Tensor | None = None,
        max_detections: int | Tensor | None = None,
    ) -> Detections:
        """Detections of each image, best first: softmax, threshold, per-class suppression, top-k."""
        return self.select_detections(
            logits.softmax(1)[:, : self.num_classes],
            box_ops.decode(deltas, regions.boxes, self.settings.weights),
            regions.image_indices,
            sizes,
            min_score=min_score,
            max_detections=max_detections,
        )

    def select_detections(
        self,
        scores: Tensor,
        boxes: Tensor,
        images: Tensor,
        sizes: Tensor,
        *,
        min_score: float | Tensor | None = None,
        max_detections: int | Tensor | None = None,
    ) -> Detections:
        """Detections from scores ``[R, K]``, boxes ``[R, K or 1, 4]`` and each region's image ``[R]``."""
        s = self.settings
        least = s.min_score if min_score is None else min_score
        region, labels = (scores > least).nonzero().unbind(1)
        column = torch.zeros_like(labels) if boxes.shape[1] == 1 else labels
        owners = images[region]
        moved, own = box_ops.clip(boxes[region, column], sizes[owners]), scores[region, labels]
        large = box_ops.larger_than(moved, s.min_side).nonzero()[:, 0]
        moved, labels, own, owners = moved[large], labels[large], own[large], owners[large]
        unsuppressed = box_ops.nms(moved, own, owners * self.num_classes + labels, s.nms_iou)
        most = s.max_detections if max_detections is None else max_detections
        keep = unsuppressed[box_ops.first_of_each(owners[unsuppressed], sizes.shape[0], most)]
        if (trace := watched()) is not None:
            trace.note(
                "selection", "Fast R-CNN §3", scores=scores, boxes=boxes, sizes=sizes, background=True,
                regions=region[large], labels=labels, selected=moved, unsuppressed=unsuppressed, kept=keep,
                min_score=least, min_side=s.min_side, nms_iou=s.nms_iou, max_detections=most,
            )  # fmt: skip
        return Detections(moved[keep], labels[keep], own[keep], owners[keep])


def _layers(in_channels: int, settings: BoxHeadSettings) -> nn.Sequential:
    size, width = settings.pool.size, settings.channels
    if settings.layers == "stage":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if settings.layers == "conv":
        blocks: list[nn.Module] = []
        for _ in range(4):
            conv = Conv3x3(in_channels, in_channels, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            blocks += [conv, nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True)]
        return nn.Sequential(
            *blocks, nn.Flatten(), nn.Linear(in_channels * size**2, width), nn.ReLU(inplace=True)
        )
    dropout = [nn.Dropout(settings.dropout)] if settings.dropout else []
    first, second = nn.Linear(in_channels * size**2, width), nn.Linear(width, width)
    for layer in (first, second):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(
        nn.Flatten(), first, nn.ReLU(inplace=True), *dropout, second, nn.ReLU(inplace=True), *dropout
    )
