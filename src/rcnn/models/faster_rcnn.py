"""Faster R-CNN (Ren et al. 2015, arXiv 1506.01497), with FPN (Lin et al. 2016) or on a single map.

Trained jointly and approximately (§3.2): both stages' losses at once, proposals taken as constants; the four
steps of the paper are in ``rcnn.training.alternating``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.cascade import build_box_head
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.regions import Regions, sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.structures import ImageBatch, Instances, Output


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


class FasterRCNN(nn.Module):
    """Proposals by an RPN, then a class and a box for each."""

    Settings = FasterRCNNSettings
    needs_masks = False
    needs_external_proposals = False

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
        anchors = self.rpn(
            features if self.settings.shared else self.rpn_neck(self.rpn_backbone(batch.tensors))
        )
        if targets is None:
            most = self.settings.box.max_detections if max_detections is None else max_detections
            proposals = self.rpn.decode(anchors, batch.sizes, min_proposals=most)
            regions = Regions.from_lists(proposals)
            return Output(
                detections=self.box.detect(
                    features, regions, batch.sizes, min_score=min_score, max_detections=most
                )
            )
        proposals = self.rpn.decode(anchors, batch.sizes)
        generators = batch.generators()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, generators
        )
        losses = self.rpn.loss(anchors, targets, generators)
        return Output(losses | self.box.losses(features, sampled, targets, generators))
