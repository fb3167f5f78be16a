"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497), with FPN (Lin et al. 2016) or on a single map.

Trained jointly and approximately (§3.2): both stages' losses at once, proposals taken as constants; the four
steps of the paper are in ``rcnn.training.alternating``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import Light
from rcnn.models.model import Model, Scheme, TrainingData
from rcnn.ops.losses import Losses
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.cascade import build_box_head
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.pretrained import PretrainedPart, load_backbone_weights
from rcnn.parts.regions import sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings


@dataclass(frozen=True)
class FasterRCNNSettings:
    """Faster R-CNN with ResNet-50-FPN; the paper's network is the recipe ``voc07_faster_rcnn_vgg16``.

    Attributes:
        backbone: the convolutional network.
        fpn: the pyramid on top of it; None: the RPN and the box head read the backbone's last map.
        rpn: the first stage.
        box: the second stage.
        shared: both stages read the same maps; False: the RPN has its own backbone and pyramid (table 2,
            "unshared").
        scheme: how it is trained: ``joint``, or ``alternating``, the four steps of the paper.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    fpn: FPNSettings | None = field(default_factory=FPNSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    shared: bool = True
    scheme: Literal["joint", "alternating"] = "joint"


class FasterRCNN(Model):
    """Proposals by an RPN, then a class and a box for each."""

    Settings = FasterRCNNSettings

    def __init__(self, num_classes: int, settings: FasterRCNNSettings | None = None) -> None:
        """Build with random weights; see ``rcnn.parts.pretrained`` for others."""
        super().__init__()
        self.settings = settings or FasterRCNNSettings()
        self.backbone = build_backbone(self.settings.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, self.settings.fpn)
        if not self.settings.shared:
            self.rpn_backbone = build_backbone(self.settings.backbone)
            self.rpn_neck = build_neck(self.backbone.channels, self.backbone.strides, self.settings.fpn)
        self.rpn = RPN(self.neck.channels, self.neck.strides, self.settings.rpn)
        self.box = build_box_head(
            self.neck.channels,
            self.neck.roi_strides,
            num_classes,
            self.settings.box,
            backbone=self.settings.backbone,
        )
        self.to(memory_format=MEMORY_FORMAT)

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for: two backbones where they are not shared."""
        parts = super().pretrained_parts()
        if not self.settings.shared:
            parts.append(PretrainedPart("rpn_backbone", self.rpn_backbone, load_backbone_weights))
        return parts

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """Any data with objects."""
        return "the data has boxes only"

    @classmethod
    def light_settings(cls, light: Light) -> FasterRCNNSettings:
        """See docs/recipes.md."""
        return FasterRCNNSettings(light.backbone(light.levels), light.fpn, light.rpn, light.box)

    @classmethod
    def scheme(cls, settings: FasterRCNNSettings) -> Scheme:
        """Joint, or the four steps of the paper."""
        return settings.scheme

    @classmethod
    def no_start(cls, settings: FasterRCNNSettings) -> str | None:
        """The four steps start from ImageNet weights."""
        if settings.scheme == "alternating":
            return "the four steps of alternating training start from ImageNet weights, as published"
        return None

    @classmethod
    def check_settings(cls, settings: FasterRCNNSettings) -> None:
        """Refuse a cascade in the four steps."""
        if settings.scheme == "alternating" and settings.box.cascade is not None:
            raise ValueError(
                "model.box.cascade: alternating training includes Fast R-CNN, which has a single head; "
                "leave the cascade out, or train jointly"
            )

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Those of both stages."""
        features = self.neck(self.backbone(batch.tensors))
        anchors = self.rpn(self.rpn_features(features, batch.tensors))
        proposals, seeds = self.rpn.decode(anchors, batch.extents), batch.sampling_seeds()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, seeds
        )
        losses = self.rpn.loss(anchors, targets, seeds)
        return losses | self.box.losses(features, sampled, targets, seeds)

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Boxes and their classes."""
        features = self.neck(self.backbone(images))
        regions = self.rpn.decode(
            self.rpn(self.rpn_features(features, images)), sizes,
            min_proposals=max_detections, min_candidates=self.box.settings.max_detections,
        )  # fmt: skip
        return self.box.detect(features, regions, sizes, min_score=min_score, max_detections=max_detections)

    def rpn_features(self, features: list[Tensor], images: Tensor) -> list[Tensor]:
        """What the RPN reads: the second stage's features, or its own."""
        if self.settings.shared:
            return features
        own: list[Tensor] = self.rpn_neck(self.rpn_backbone(images))
        return own
