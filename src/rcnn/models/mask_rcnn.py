"""Mask R-CNN (He et al. 2017, arXiv 1703.06870), with FPN or on a single map (C4).

Differs from the paper: trained end to end (its appendix), where its main tables have separately trained
proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import Light
from rcnn.models.model import Model, TrainingData
from rcnn.ops.losses import Losses
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.cascade import build_box_head
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings


@dataclass(frozen=True)
class MaskRCNNSettings:
    """Mask R-CNN with ResNet-50-FPN; that without a pyramid is the recipe ``mask_rcnn_r50_c4``.

    Attributes:
        backbone: the convolutional network.
        fpn: the pyramid on top of it; None: all heads read the backbone's last map.
        rpn: the first stage.
        box: the second stage: classes and boxes.
        mask: the third branch.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    fpn: FPNSettings | None = field(default_factory=FPNSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    mask: MaskHeadSettings = field(default_factory=MaskHeadSettings)


class MaskRCNN(Model):
    """Faster R-CNN with a mask for each detection."""

    Settings = MaskRCNNSettings
    needs_masks = True

    def __init__(self, num_classes: int, settings: MaskRCNNSettings | None = None) -> None:
        """Build with random weights; see ``rcnn.parts.pretrained`` for others."""
        super().__init__()
        self.settings = settings or MaskRCNNSettings()
        self.backbone = build_backbone(self.settings.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, self.settings.fpn)
        self.rpn = RPN(self.neck.channels, self.neck.strides, self.settings.rpn)
        self.box = build_box_head(
            self.neck.channels,
            self.neck.roi_strides,
            num_classes,
            self.settings.box,
            backbone=self.settings.backbone,
        )
        self.mask = MaskHead(self.box.stage_channels, self.neck.roi_strides, num_classes, self.settings.mask)
        self.to(memory_format=MEMORY_FORMAT)

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """Objects with masks."""
        return "every object has a mask" if data.has_masks else None

    @classmethod
    def light_settings(cls, light: Light) -> MaskRCNNSettings:
        """See docs/recipes.md."""
        return MaskRCNNSettings(light.backbone(light.levels), light.fpn, light.rpn, light.box, light.mask)

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Those of the RPN, the box head and the mask head."""
        features = self.neck(self.backbone(batch.tensors))
        anchors = self.rpn(features)
        proposals, seeds = self.rpn.decode(anchors, batch.extents), batch.sampling_seeds()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, seeds
        )
        positives = self.mask.select_positives(sampled, targets)
        pooled = self.box.stage(self.mask.pool(features, positives.regions))
        masks = self.mask.losses(pooled, positives, targets)
        return (
            self.rpn.loss(anchors, targets, seeds)
            | self.box.losses(features, sampled, targets, seeds)
            | masks
        )

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Boxes, their classes and masks."""
        features = self.neck(self.backbone(images))
        regions = self.rpn.decode(
            self.rpn(features),
            sizes,
            min_proposals=max_detections,
            min_candidates=self.box.settings.max_detections,
        )
        found = self.box.detect(features, regions, sizes, min_score=min_score, max_detections=max_detections)
        # The mask branch runs on the detections that are left, not on the proposals (§3, inference).
        pooled = self.box.stage(self.mask.pool(features, found.regions))
        return self.mask.decode(self.mask.head(pooled, found.labels), found)
