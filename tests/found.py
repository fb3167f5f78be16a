"""What a network found in a batch, image by image."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rcnn.inference.postprocess import instances_of, split_images
from rcnn.parts.batch import Detections, ImageBatch
from rcnn.structures import Instances, Size


@dataclass(frozen=True)
class Found:
    """The fields of ``Detections`` for one image, tensors; semantic logits without padding."""

    size: Size
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_maps: Tensor | None = None
    keypoints: Tensor | None = None
    keypoint_maps: Tensor | None = None
    semantic_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def by_image(detections: Detections | None, sizes: tuple[Size, ...]) -> list[Found]:
    """One per image of a batch with these sizes."""
    assert detections is not None
    assert (detections.image_index.diff() >= 0).all()
    parts: list[Any] = split_images(detections.tensors(), sizes)  # type: ignore[arg-type]
    return [Found(size, **part) for size, part in zip(sizes, parts, strict=True)]


def in_pixels(
    detections: Detections | None, batch: ImageBatch, sizes: list[Size], **names: Any
) -> list[Instances]:
    """Results in the images' own ``sizes``."""
    assert detections is not None
    arrays = {name: values.numpy() for name, values in detections.tensors().items()}
    parts = split_images(arrays, batch.sizes)
    return [
        instances_of(part, seen, size, **names)
        for part, seen, size in zip(parts, batch.sizes, sizes, strict=True)
    ]
