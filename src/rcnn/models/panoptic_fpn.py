"""Panoptic FPN: Mask R-CNN with a semantic branch (Kirillov et al. 2019, arXiv 1901.02446).

Objects and the classes of pixels come out side by side; ``rcnn.structures.panoptic.merge`` makes one
partition of them. Loss: ``instance_weight (classes + boxes + masks) + semantic_weight semantic``, and the
RPN's losses, which the paper does not weigh.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from rcnn.config.ranges import check_ranges, ranged
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
from rcnn.parts.semantic_head import SemanticHead, SemanticHeadSettings
from rcnn.structures import OTHER, MergeSettings, Skeleton, stuff_names


@dataclass(frozen=True)
class PanopticFPNSettings:
    """Panoptic FPN with ResNet-50; the defaults are the paper's for COCO.

    Attributes:
        backbone: the convolutional network.
        fpn: the pyramid on top of it.
        rpn: the first stage.
        box: the second stage: classes and boxes.
        mask: the branch of the masks.
        semantic: the semantic branch, which classifies pixels.
        instance_weight: weight of the losses of the second stage and the masks, lambda i.
        semantic_weight: weight of the loss of the semantic branch, lambda s.
        merge: how both become one partition.
    """

    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    fpn: FPNSettings = field(default_factory=FPNSettings)
    rpn: RPNSettings = field(default_factory=RPNSettings)
    box: BoxHeadSettings = field(default_factory=BoxHeadSettings)
    mask: MaskHeadSettings = field(default_factory=MaskHeadSettings)
    semantic: SemanticHeadSettings = field(default_factory=SemanticHeadSettings)
    instance_weight: float = ranged(1.0, 0, 1e6)
    semantic_weight: float = ranged(0.5, 0, 1e6)
    merge: MergeSettings = field(default_factory=MergeSettings)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class PanopticFPN(Model):
    """Mask R-CNN, and the class of every pixel from the same pyramid."""

    Settings = PanopticFPNSettings
    needs_masks = True
    needs_semantic = True

    def __init__(
        self, num_classes: int, settings: PanopticFPNSettings | None = None, *, num_stuff: int = 1
    ) -> None:
        """Build with random weights for these numbers of classes; see ``rcnn.parts.pretrained`` for others.

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
        self.to(memory_format=MEMORY_FORMAT)

    @classmethod
    def build(
        cls,
        settings: PanopticFPNSettings,
        class_names: Sequence[str],
        semantic_names: Sequence[str] = (),
        skeleton: Skeleton | None = None,
    ) -> Self:
        """With random weights, for data of these things and the stuff among the classes of pixels."""
        stuff = stuff_names(tuple(class_names), tuple(semantic_names))
        return cls(len(class_names), settings, num_stuff=len(stuff))

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """Objects with masks and stuff around them."""
        if data.has_masks and data.has_stuff and data.skeleton is None:
            return "every object has a mask, and every pixel a class"
        return None

    @classmethod
    def light_settings(cls, light: Light) -> PanopticFPNSettings:
        """See docs/recipes.md."""
        semantic = SemanticHeadSettings(channels=64)
        return PanopticFPNSettings(
            light.backbone(light.levels), light.fpn, light.rpn, light.box, light.mask, semantic
        )

    @classmethod
    def check_data(
        cls, settings: PanopticFPNSettings, data: TrainingData, *, name: str, trains: bool = True
    ) -> None:
        """Refuse semantic maps whose first classes are not those of the objects."""
        super().check_data(settings, data, name=name, trains=trains)
        if data.semantic_names[: len(data.class_names)] != data.class_names:
            raise ValueError(
                f"{data.source}: the semantic maps' classes are {', '.join(data.semantic_names[:5])}, …; "
                f"{name} expects those of the objects first: {', '.join(data.class_names[:5])}, …"
            )

    def pixel_names(self, class_names: Sequence[str], semantic_names: Sequence[str]) -> tuple[str, ...]:
        """What ``semantic_logits`` index: all things as one, or the things, and then the stuff."""
        things = (OTHER,) if self.settings.semantic.things == "other" else tuple(class_names)
        return things + stuff_names(tuple(class_names), tuple(semantic_names))

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Those of the RPN, of the second stage and the masks, and of the pixels, weighted."""
        s = self.settings
        features = self.neck(self.backbone(batch.tensors))
        anchors = self.rpn(features)
        pixels = self.semantic(features)
        proposals, seeds = self.rpn.decode(anchors, batch.extents), batch.sampling_seeds()
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, seeds
        )
        positives = self.mask.select_positives(sampled, targets)
        masks = self.mask.losses(self.mask.pool(features, positives.regions), positives, targets)
        of_objects = self.box.losses(features, sampled, targets, seeds) | masks
        return (
            self.rpn.loss(anchors, targets, seeds)
            | {name: s.instance_weight * loss for name, loss in of_objects.items()}
            | {k: s.semantic_weight * loss for k, loss in self.semantic.loss(pixels, targets).items()}
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
        """Boxes, their classes and masks, and logits for every pixel."""
        features = self.neck(self.backbone(images))
        pixels = self.semantic(features)
        regions = self.rpn.decode(
            self.rpn(features),
            sizes,
            min_proposals=max_detections,
            min_candidates=self.box.settings.max_detections,
        )
        found = self.box.detect(features, regions, sizes, min_score=min_score, max_detections=max_detections)
        masked = self.mask.decode(self.mask(features, found.regions, found.labels), found)
        return self.semantic.decode(pixels, masked)
