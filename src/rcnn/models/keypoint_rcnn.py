"""Keypoint R-CNN: Mask R-CNN for human pose (He et al. 2017, arXiv 1703.06870, §5), for any keypoints.

Differs from the paper: trained end to end (its appendix), where its main tables have separately trained
proposals; keypoints are decoded to parts of a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import Light
from rcnn.models.model import Model, TrainingData
from rcnn.ops.losses import Losses
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.box_head import BoxHead, BoxHeadSettings
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.keypoint_head import KeypointHead, KeypointHeadSettings
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings


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


class KeypointRCNN(Model):
    """Faster R-CNN with keypoints for each detection, and a mask where that is set."""

    Settings = KeypointRCNNSettings
    needs_keypoints = True

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
        self.needs_masks = s.mask is not None
        self.to(memory_format=MEMORY_FORMAT)

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """Objects with keypoints."""
        return None if data.skeleton is None else f"the objects have {len(data.skeleton.names)} keypoints"

    @classmethod
    def light_settings(cls, light: Light) -> KeypointRCNNSettings:
        """See docs/recipes.md; masks are learnt, too, where every object has one."""
        keypoint = KeypointHeadSettings(
            light.num_keypoints, convs=4, channels=128, pool=light.branch_pool, max_regions=16
        )
        mask = light.mask if light.has_masks else None
        return KeypointRCNNSettings(
            light.backbone(light.levels), light.fpn, light.rpn, light.box, keypoint, mask
        )

    @classmethod
    def needs_masks_with(cls, settings: KeypointRCNNSettings) -> bool:
        """Where it has a mask head."""
        return settings.mask is not None

    @classmethod
    def check_data(
        cls, settings: KeypointRCNNSettings, data: TrainingData, *, name: str, trains: bool = True
    ) -> None:
        """Refuse data with other keypoints, or without."""
        super().check_data(settings, data, name=name, trains=trains)
        count = 0 if data.skeleton is None else len(data.skeleton.names)
        if not count:
            raise ValueError(f"{data.source}: its objects have no keypoints: choose another --model")
        if settings.keypoint.count != count:
            raise ValueError(
                f"{data.source}: its objects have {count} keypoints, {name} is set to "
                f"{settings.keypoint.count}: give --set model.keypoint.count={count}, or choose another "
                "--model"
            )

    @classmethod
    def settings_for(cls, settings: KeypointRCNNSettings, data: TrainingData) -> KeypointRCNNSettings:
        """With a map for each keypoint of the data."""
        if data.skeleton is None:
            return settings
        return replace(settings, keypoint=replace(settings.keypoint, count=len(data.skeleton.names)))

    @property
    def reads_resized_image(self) -> bool:
        """Where keypoints are whole pixels of it."""
        settings: KeypointHeadSettings = self.keypoint.settings
        return not settings.refine

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Those of the RPN and of each head."""
        features = self.neck(self.backbone(batch.tensors))
        anchors = self.rpn(features)
        proposals, seeds = self.rpn.decode(anchors, batch.extents), batch.sampling_seeds()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, seeds
        )
        posed = self.keypoint.select_positives(sampled)
        branches = self.keypoint.losses(self.keypoint.pool(features, posed.regions), posed, targets)
        if self.mask is not None:
            outlined = self.mask.select_positives(sampled, targets)
            branches |= self.mask.losses(self.mask.pool(features, outlined.regions), outlined, targets)
        return (
            self.rpn.loss(anchors, targets, seeds)
            | self.box.losses(features, sampled, targets, seeds)
            | branches
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
        """Boxes, their classes and keypoints, and masks where they are set."""
        features = self.neck(self.backbone(images))
        regions = self.rpn.decode(
            self.rpn(features),
            sizes,
            min_proposals=max_detections,
            min_candidates=self.box.settings.max_detections,
        )
        found = self.box.detect(features, regions, sizes, min_score=min_score, max_detections=max_detections)
        posed = self.keypoint.decode(self.keypoint(features, found.regions), found)
        if self.mask is None:
            return posed
        return self.mask.decode(self.mask(features, found.regions, found.labels), posed)
