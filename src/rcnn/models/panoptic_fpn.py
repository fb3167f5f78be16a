"""Panoptic FPN: Mask R-CNN with a semantic branch (Kirillov et al. 2019, arXiv 1901.02446).

Objects and the classes of pixels come out side by side; ``rcnn.ops.panoptic.merge`` makes one partition of
them. Loss: ``instance_weight (classes + boxes + masks) + semantic_weight semantic``, and the RPN's losses,
which the paper does not weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from rcnn.ops.panoptic import OTHER, MergeSettings
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.cascade import build_box_head
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import Regions, sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.parts.semantic_head import SemanticHead, SemanticHeadSettings
from rcnn.structures import ImageBatch, Instances, Output


@dataclass(frozen=True)
class PanopticFPNSettings:
    """Panoptic FPN with ResNet-50; the defaults are the paper's for COCO.

    Attributes:
        backbone: the convolutional network.
        fpn: the pyramid on top of it.
        rpn: the first stage.
        box: the second stage: classes and boxes.
        mask: the branch of the masks.
        semantic: the branch of the pixels' classes.
        instance_weight: lambda i, of the losses of the second stage and the masks.
        semantic_weight: lambda s, of the loss of the pixels.
        merge: how both become one partition.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    fpn: FPNSettings = field(default_factory=FPNSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    mask: MaskHeadSettings = field(default_factory=MaskHeadSettings)
    semantic: SemanticHeadSettings = field(default_factory=SemanticHeadSettings)
    instance_weight: float = 1.0
    semantic_weight: float = 0.5
    merge: MergeSettings = field(default_factory=MergeSettings)


class PanopticFPN(nn.Module):
    """Mask R-CNN, and the class of every pixel from the same pyramid."""

    Settings = PanopticFPNSettings
    needs_masks = True
    needs_external_proposals = False

    def __init__(
        self, num_classes: int, settings: PanopticFPNSettings | None = None, *, num_stuff: int = 1
    ) -> None:
        """Build with random weights for so many classes of things and of stuff; ``rcnn.parts.pretrained``.

        Raises:
            ValueError: a backbone without padding.
        """
        super().__init__()
        self.settings = s = settings or PanopticFPNSettings()
        if s.backbone.name == "alexnet":
            raise ValueError(
                "backbone alexnet: its maps do not cover the whole image; choose another backbone"
            )
        self.backbone = build_backbone(s.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, s.fpn)
        channels, strides = self.neck.channels, self.neck.roi_strides
        self.rpn = RPN(channels, self.neck.strides, s.rpn)
        self.box = build_box_head(channels, strides, num_classes, s.box, backbone=s.backbone)
        self.mask = MaskHead(channels, strides, num_classes, s.mask)
        self.semantic = SemanticHead(channels, strides, num_classes, num_stuff, s.semantic)
        self.to(memory_format=torch.channels_last)

    def pixel_names(self, things: Sequence[str], stuff: Sequence[str]) -> tuple[str, ...]:
        """What the classes of ``semantic_logits`` are called."""
        return ((OTHER,) if self.settings.semantic.things == "other" else tuple(things)) + tuple(stuff)

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
        pixels = self.semantic(features)
        if targets is None:
            most = self.settings.box.max_detections if max_detections is None else max_detections
            proposals = self.rpn.decode(anchors, batch.sizes, min_proposals=most)
            regions = Regions.from_lists(proposals)
            detections = self.box.detect(
                features, regions, batch.sizes, min_score=min_score, max_detections=most
            )
            found = Regions.from_lists([d.boxes for d in detections])
            labels = torch.cat([d.labels for d in detections])
            detections = self.mask.decode(self.mask(features, found, labels), detections)
            return Output(detections=self.semantic.decode(pixels, batch, detections))
        proposals = self.rpn.decode(anchors, batch.sizes)
        generators = batch.generators()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, generators
        )
        positives = self.mask.select_positives(sampled)
        masks = self.mask.losses(self.mask.pool(features, positives.regions), positives, targets)
        of_objects = self.box.losses(features, sampled, targets, generators) | masks
        s = self.settings
        return Output(
            self.rpn.loss(anchors, targets, generators)
            | {name: s.instance_weight * loss for name, loss in of_objects.items()}
            | {k: s.semantic_weight * loss for k, loss in self.semantic.loss(pixels, targets).items()}
        )
