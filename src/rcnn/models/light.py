"""What the models' light settings have in common, which suit a laptop; docs/recipes.md has the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.selective_search import SelectiveSearchSettings

# Stages with the strides 4, 8, 16 and, where there is one, 32.
LEVELS = {"vgg16": (2, 3, 4), "alexnet": (0, 1, 2)}
LAST_STAGE = {"mobilenet_v3_large": 5, "alexnet": 2}  # 4 of all others
CROWDED_OBJECTS = 50  # objects of the fullest image
# Regions are read one level finer than in the FPN paper: the heads' maps are small anyway.
CANONICAL_SIZE = 112.0


@dataclass(frozen=True)
class Light:
    """What a model's light settings follow from, and the parts that several models have in common.

    Attributes:
        backbone_name: a key of ``BACKBONES``, or another name that ``build_backbone`` takes.
        anchors: sizes and ratios.
        max_objects: objects of the fullest image.
        num_keypoints: per object; 0 where there are none.
        has_masks: whether every object has a mask.
        search: how external proposals are searched for.
    """

    backbone_name: str
    anchors: RPNSettings
    max_objects: int
    num_keypoints: int = 0
    has_masks: bool = False
    search: SelectiveSearchSettings = field(default_factory=SelectiveSearchSettings)

    @property
    def max_detections(self) -> int:
        """Twice the training images' most objects: a cap that is never reached costs nothing."""
        return max(300, math.ceil(2 * self.max_objects / 100) * 100)

    @property
    def levels(self) -> tuple[int, ...]:
        """The stages with the strides 4, 8, 16 and, where there is one, 32."""
        return LEVELS.get(self.backbone_name, (1, 2, 3, 4))

    def backbone(self, levels: tuple[int, ...]) -> BackboneSettings:
        """The backbone with these levels; one that is not ours has nothing frozen: its stages may differ."""
        name = self.backbone_name
        frozen = 0 if ":" in name else 1 if name.startswith(("efficientnet", "alexnet")) else 2
        return BackboneSettings(name, levels, frozen_stages=frozen)

    @property
    def sizes(self) -> tuple[tuple[float, ...], ...]:
        """Anchor sizes, one tuple per level."""
        return self.anchors.sizes[: len(self.levels) + 1]

    @property
    def fpn(self) -> FPNSettings:
        """A pyramid of half the paper's width."""
        return FPNSettings(channels=128, coarsest="pool" if len(self.sizes) > len(self.levels) else "none")

    @property
    def rpn(self) -> RPNSettings:
        """Most objects of an image may be on one level, with several anchors each."""
        most = self.max_detections
        return replace(
            self.anchors, sizes=self.sizes, channels=64, pre_nms=(500, max(1000, 2 * most)),
            post_nms=(500, max(500, math.ceil(1.5 * most))),
        )  # fmt: skip

    @property
    def box(self) -> BoxHeadSettings:
        """Where objects are few, most proposals of a crop are background: more of it helps the scores."""
        crowded = self.max_objects > CROWDED_OBJECTS
        return BoxHeadSettings(
            channels=512,
            pool=PoolSettings(canonical_size=CANONICAL_SIZE),
            sampling=SamplingSettings(64, 0.5) if crowded else SamplingSettings(128, 0.25),
            beta=1 / 9,
            max_detections=self.max_detections,
        )

    @property
    def branch_pool(self) -> PoolSettings:
        """How the mask and keypoint heads read their regions."""
        return PoolSettings(size=14, sampling_ratio=1, canonical_size=CANONICAL_SIZE)

    @property
    def mask(self) -> MaskHeadSettings:
        """Two convolutions of 96 channels instead of four of 256."""
        return MaskHeadSettings(convs=2, channels=96, pool=self.branch_pool, max_regions=16)
