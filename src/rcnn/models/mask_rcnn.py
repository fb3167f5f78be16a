"""Mask R-CNN (He et al. 2017, arXiv 1703.06870), with FPN or on a single map (C4).

Differs from the paper: trained end to end (its appendix), where its main tables have separately trained
proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.cascade import build_box_head
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import Regions, sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.structures import ImageBatch, Instances, Output


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


class MaskRCNN(nn.Module):
    """Faster R-CNN with a mask for each detection."""

    Settings = MaskRCNNSettings
    needs_masks = True
    needs_external_proposals = False

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
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Instances] | None = None,
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> Output:
        """Losses where targets are given (coordinates of the batch), otherwise detections."""
        features = self.neck(self.backbone(batch.tensors))
        anchors = self.rpn(features)
        if targets is None:
            most = self.settings.box.max_detections if max_detections is None else max_detections
            proposals = self.rpn.decode(anchors, batch.sizes, min_proposals=most)
            regions = Regions.from_lists(proposals)
            detections = self.box.detect(
                features, regions, batch.sizes, min_score=min_score, max_detections=most
            )
            # The mask branch runs on the detections that are left, not on the proposals (§3, inference).
            found = Regions.from_lists([d.boxes for d in detections])
            labels = torch.cat([d.labels for d in detections])
            maps = self.mask.head(self.box.stage(self.mask.pool(features, found)), labels)
            return Output(detections=self.mask.decode(maps, detections))
        proposals = self.rpn.decode(anchors, batch.sizes)
        generators = batch.generators()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, generators
        )
        positives = self.mask.select_positives(sampled)
        masks = self.mask.losses(
            self.box.stage(self.mask.pool(features, positives.regions)), positives, targets
        )
        return Output(
            self.rpn.loss(anchors, targets, generators)
            | self.box.losses(features, sampled, targets, generators)
            | masks
        )
