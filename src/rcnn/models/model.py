"""What every model is to the rest of the package, which asks it and never for its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from torch import Tensor, nn

from rcnn.models.light import Light
from rcnn.ops.losses import Losses, global_means
from rcnn.parts.batch import Detections, ImageBatch, Output, Regions, Targets, as_targets, in_equal_groups
from rcnn.parts.box_head import BoxHead
from rcnn.parts.cascade import CascadeHead
from rcnn.parts.class_rows import ClassKeys, Rows, rows_of_parts
from rcnn.parts.pretrained import PretrainedPart, load_backbone_weights
from rcnn.structures import Instances, Skeleton

Scheme = Literal["joint", "alternating", "svms"]


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


class TrainingData(Protocol):
    """What models ask of the data that they are trained on; :class:`rcnn.data.dataset.Dataset` has it."""

    @property
    def source(self) -> Path:
        """Where it is, for messages."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of objects."""

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """The classes of pixels."""

    @property
    def skeleton(self) -> Skeleton | None:
        """What the objects' keypoints are, if they have any."""

    @property
    def has_objects(self) -> bool:
        """Whether any image has an object."""

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks."""

    @property
    def has_semantic(self) -> bool:
        """Whether every image has a class for every pixel."""

    @property
    def has_stuff(self) -> bool:
        """Whether pixel classes include stuff, beyond the classes of objects."""


class Model(nn.Module):
    """A network from images to losses or detections, and what it declares about itself.

    A model has the settings class ``Settings``, a constructor ``(num_classes, settings)``, :meth:`losses` and
    :meth:`detect`; everything else has defaults, for a model with ``backbone`` and, if it finds objects,
    ``box`` among its settings. ``rcnn.models.MODELS`` names ours; one of a user's own is named by its dotted
    path, ``my_package.nets:Mine``.

    Attributes:
        Settings: the frozen dataclass of its settings.
        settings: those that it was built with.
        finds_objects: whether it finds objects; else it classifies pixels only.
        needs_masks: whether it learns from masks.
        needs_keypoints: whether it learns from keypoints.
        needs_semantic: whether it learns from a class for every pixel.
        needs_proposals: whether it takes external proposals, and makes none.
        exportable: whether :meth:`detect` can be traced.
        reads_whole_images: whether its backbone sees each image once, and not regions of it.
    """

    Settings: ClassVar[type[Any]]
    settings: Any
    finds_objects: bool = True
    needs_masks: bool = False
    needs_keypoints: bool = False
    needs_semantic: bool = False
    needs_proposals: bool = False
    exportable: bool = True
    reads_whole_images: bool = True

    # What it computes

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Instances | Targets] | None = None,
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> Output:
        """Losses where targets are given (coordinates of the batch), otherwise detections.

        An image's result is the same alone and in any batch.

        Args:
            batch: images of any sizes.
            targets: the truth of each image.
            min_score: detections below it are left out; that of the settings where None.
            max_detections: the most per image; that of the settings where None.

        Raises:
            ValueError: an image without what the model needs.
        """
        if targets is not None:
            return Output(global_means(self.losses(batch, as_targets(targets, batch.tensors.device))))
        if self.needs_proposals and len(batch.proposals) != len(batch):
            raise ValueError(
                f"{type(self).__name__} needs external proposals: expected ImageBatch.proposals of "
                f"{len(batch)} images, got those of {len(batch.proposals)}"
            )
        if (selection := self.selection) is not None:
            min_score = selection.min_score if min_score is None else min_score
            max_detections = selection.max_detections if max_detections is None else max_detections
        detect = partial(self.detect, min_score=min_score or 0.0, max_detections=max_detections or 0)
        return Output(detections=in_equal_groups(batch, detect))

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """By name, to be summed: scalars or means; ``targets`` are on the device of the batch."""
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
        """Detections in images that share one padded size.

        This is traced when a model is exported: the number of images, their sides and the limits are not
        known then, so it has no loop over images.

        Args:
            images: float32 ``[B, C, H, W]``, normalised and padded.
            sizes: float32 ``[B, 2]``, the (height, width) that each image really covers.
            proposals: of a model that needs them.
            min_score: detections below it are left out.
            max_detections: the most per image.
        """
        raise NotImplementedError

    # What it finds

    @classmethod
    def selection_of(cls, settings: Any) -> Selection | None:
        """The settings by which detections are selected; None of a model that finds no objects."""
        selection: Selection | None = settings.box if cls.finds_objects else None
        return selection

    @property
    def selection(self) -> Selection | None:
        """As :meth:`selection_of`, of its own settings."""
        return self.selection_of(self.settings)

    @property
    def candidates(self) -> int | None:
        """The most detections per image that an exported file can be asked for; None where it finds none."""
        if self.selection is None:
            return None
        rpn = getattr(self.settings, "rpn", None)
        return max(self.selection.max_detections, 0 if rpn is None else rpn.pre_nms[1])

    @property
    def reads_resized_image(self) -> bool:
        """Whether what it finds is read at the resolution of the resized image, which must be known then."""
        return self.needs_semantic

    def pixel_names(self, class_names: Sequence[str], semantic_names: Sequence[str]) -> tuple[str, ...]:
        """What ``semantic_logits`` index, after training on data with these names; nothing without them."""
        return ()

    # How it is built and trained

    @classmethod
    def build(
        cls,
        settings: Any,
        class_names: Sequence[str],
        semantic_names: Sequence[str] = (),
        skeleton: Skeleton | None = None,
    ) -> Self:
        """With random weights, for data of these classes of objects and of pixels and these keypoints."""
        return cls(len(class_names), settings)

    @classmethod
    def suits(cls, data: TrainingData) -> str | None:
        """Why this is the model for such data; None where another is, or a user has to ask for it by name."""
        return None

    @classmethod
    def light_settings(cls, light: Light) -> Any:
        """Settings whose heads suit a laptop; by default the model's own, with the backbone asked for."""
        return cls.Settings(backbone=light.backbone(light.levels))

    @classmethod
    def boxes_suffice(cls) -> bool:
        """Whether it learns from boxes alone, so that faults in other annotations do not matter."""
        return not (cls.needs_masks or cls.needs_keypoints or cls.needs_semantic)

    @classmethod
    def needs_masks_with(cls, settings: Any) -> bool:
        """Whether it learns from masks with these settings."""
        return cls.needs_masks

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Refuse settings that it can be built with, but not trained.

        Raises:
            ValueError: such a setting, and what to do.
        """

    @classmethod
    def check_data(cls, settings: Any, data: TrainingData, *, name: str, trains: bool = True) -> None:
        """Refuse data that it cannot learn from.

        Args:
            settings: of the model.
            data: a part of the data.
            name: the model's, for messages.
            trains: whether the part is trained on, and not only measured with.

        Raises:
            ValueError: what is missing, and what to do.
        """
        if cls.needs_masks_with(settings) and data.has_objects and not data.has_masks:
            raise ValueError(
                f"{data.source}: objects without masks, which {name} needs: choose --model faster_rcnn, or "
                "annotate the outlines; `rcnn data check` lists the objects that have none"
            )
        if cls.needs_semantic and not data.has_semantic:
            raise ValueError(
                f"{data.source}: no semantic maps, which {name} learns from: choose another --model, or give "
                "label pictures with a classes.txt"
            )
        if cls.finds_objects and trains and not data.has_objects:
            raise ValueError(
                f"{data.source}: no objects, only semantic maps, which {name} cannot learn from: choose "
                "--model fcn"
                if data.has_semantic
                else f"{data.source}: no image has an object for {name} to learn from: annotate some"
            )

    @classmethod
    def scheme(cls, settings: Any) -> Scheme:
        """How it is trained.

        ``joint``: all losses at once; ``alternating``: see ``rcnn.training.alternating``; ``svms``: by the
        loop, and then SVMs are fitted on its features, see ``rcnn.training.svms``.
        """
        return "joint"

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be published weights for."""
        parts = [PretrainedPart("backbone", self.backbone, load_backbone_weights)]
        # Layers of a classifier do not fit regions pooled from a pyramid.
        if isinstance(box := getattr(self, "box", None), BoxHead | CascadeHead):
            stage = box.settings.layers == "stage"
            parts += box.pretrained_parts() if stage or self.settings.fpn is None else []
        return parts

    def class_rows(self, keys: ClassKeys) -> Rows:
        """The rows of its tensors that stand for classes, which a model for other classes takes over."""
        return rows_of_parts(self, keys)

    @classmethod
    def settings_for(cls, settings: Any, data: TrainingData) -> Any:
        """The settings of a trained model for other data: with as many outputs as these need."""
        return settings

    @classmethod
    def no_start(cls, settings: Any) -> str | None:
        """Why no other training can start from this model; None where one can."""
        return None

    def compressed(self, ranks: tuple[int, int]) -> Self:
        """Itself with smaller layers, for prediction.

        Raises:
            ValueError: it has no layers for that.
        """
        raise ValueError(
            f"{type(self).__name__} has no layers to compress; the checkpoint of a Fast R-CNN has"
        )
