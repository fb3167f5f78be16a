"""What every model is to the rest of the package, which asks it and never for its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from rcnn.parts.batch import Detections, ImageBatch, Output, Regions, Targets, as_targets, in_equal_groups
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.pretrained import PretrainedPart, load_backbone_weights
from rcnn.structures import Instances


class Selection(Protocol):
    """Settings by which detections are selected: :class:`rcnn.parts.box_head.BoxHeadSettings` has them."""

    @property
    def min_score(self) -> float:
        """Detections below it are dropped."""

    @property
    def nms_iou(self) -> float:
        """A detection that overlaps a better one of its class by more is dropped."""

    @property
    def max_detections(self) -> int:
        """Per image, the best first."""


class Model(nn.Module):
    """A network from images to losses or detections, and what it declares about itself.

    Attributes:
        Settings: the frozen dataclass of its settings.
        settings: those that it was built with.
        finds_objects: whether it finds objects; else it classifies pixels only.
        needs_masks: whether it learns from masks.
        needs_keypoints: whether it learns from keypoints.
        needs_semantic: whether it learns from a class for every pixel.
        needs_proposals: whether it is given the regions that it looks at.
    """

    Settings: ClassVar[type[Any]]
    settings: Any
    finds_objects: bool = True
    needs_masks: bool = False
    needs_keypoints: bool = False
    needs_semantic: bool = False
    needs_proposals: bool = False

    @property
    def selection(self) -> Selection | None:
        """The settings by which detections are selected; None of a model that finds no objects."""
        selection: Selection | None = self.settings.box if self.finds_objects else None
        return selection

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Instances | Targets] | None = None,
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> Output:
        """Losses where targets are given (coordinates of the batch), otherwise detections.

        What is found in an image is the same alone and in any batch.

        Args:
            batch: images of any sizes.
            targets: the truth of each image.
            min_score: detections below it are left out; that of the settings where None.
            max_detections: the most of an image; that of the settings where None.

        Raises:
            ValueError: an image without what the model needs.
        """
        if targets is not None:
            return Output(self.losses(batch, as_targets(targets, batch.tensors.device)))
        if self.needs_proposals and len(batch.proposals) != len(batch):
            raise ValueError(
                f"this model is given its proposals: expected ImageBatch.proposals of {len(batch)} images, "
                f"got those of {len(batch.proposals)}"
            )
        selection = self.selection or BoxHeadSettings()
        detect = partial(
            self.detect,
            min_score=selection.min_score if min_score is None else min_score,
            max_detections=selection.max_detections if max_detections is None else max_detections,
        )
        return Output(detections=in_equal_groups(batch, detect))

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for: the backbone, and a head on its last map."""
        head: Any = self.box
        backbone = PretrainedPart("backbone", self.backbone, load_backbone_weights)
        return [backbone, *(head.pretrained_parts() if self.settings.fpn is None else [])]

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """One scalar each, to be summed; ``targets`` are on the device of the batch."""
        raise NotImplementedError

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """What is found in images that all need as much padding as they have.

        This is traced when a model is exported: numbers of images, their sides and the limits are not known
        then, so it has no loop over images.

        Args:
            images: float32 ``[B, C, H, W]``, normalised and padded.
            sizes: float32 ``[B, 2]``, the (height, width) that each image really covers.
            proposals: of a model that needs them.
            min_score: detections below it are left out.
            max_detections: the most of an image.
        """
        raise NotImplementedError
