"""Keypoint R-CNN: Mask R-CNN for human pose (He et al. 2017, arXiv 1703.06870, §5), for any keypoints.

Differs from the paper: trained end to end (its appendix), where its main tables have separately trained
proposals; keypoints are decoded to parts of a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.box_head import BoxHead, BoxHeadSettings
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.keypoint_head import KeypointHead, KeypointHeadSettings
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import Regions, sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.structures import ImageBatch, Instances, Output


@dataclass(frozen=True)
class KeypointRCNNSettings:
    """Keypoint R-CNN with ResNet-50-FPN.

    Attributes:
        backbone: the convolutional network.
        fpn: the pyramid on top of it.
        rpn: the first stage.
        box: the second stage: classes and boxes.
        keypoint: the branch of the keypoints.
        mask: the branch of the masks, where both are trained together; None: no masks.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    fpn: FPNSettings | None = field(default_factory=FPNSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    keypoint: KeypointHeadSettings = field(default_factory=KeypointHeadSettings)
    mask: MaskHeadSettings | None = None


class KeypointRCNN(nn.Module):
    """Faster R-CNN with keypoints for each detection, and a mask where that is set."""

    Settings = KeypointRCNNSettings
    needs_external_proposals = False

    def __init__(self, num_classes: int, settings: KeypointRCNNSettings | None = None) -> None:
        """Build with random weights; see ``rcnn.parts.pretrained`` for others."""
        super().__init__()
        self.settings = s = settings or KeypointRCNNSettings()
        self.backbone = build_backbone(s.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, s.fpn)
        channels, strides = self.neck.channels, self.neck.roi_strides
        self.rpn = RPN(channels, self.neck.strides, s.rpn)
        self.box = BoxHead(channels, strides, num_classes, s.box, backbone=s.backbone)
        self.keypoint = KeypointHead(channels, strides, s.keypoint)
        self.mask = None if s.mask is None else MaskHead(channels, strides, num_classes, s.mask)
        self.to(memory_format=torch.channels_last)

    @property
    def needs_masks(self) -> bool:
        """Whether the truth must have masks."""
        return self.mask is not None

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
            found = Regions.from_lists([d.boxes for d in detections])
            detections = self.keypoint.decode(self.keypoint(features, found), detections)
            if self.mask is not None:
                labels = torch.cat([d.labels for d in detections])
                detections = self.mask.decode(self.mask(features, found, labels), detections)
            return Output(detections=detections)
        proposals = self.rpn.decode(anchors, batch.sizes)
        generators = batch.generators()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, generators
        )
        posed = self.keypoint.select_positives(sampled)
        branches = self.keypoint.losses(self.keypoint.pool(features, posed.regions), posed, targets)
        if self.mask is not None:
            outlined = self.mask.select_positives(sampled)
            branches |= self.mask.losses(self.mask.pool(features, outlined.regions), outlined, targets)
        return Output(
            self.rpn.loss(anchors, targets, generators)
            | self.box.losses(features, sampled, targets, generators)
            | branches
        )
