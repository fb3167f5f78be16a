"""From images as they are to what the network sees, and back: one object for training, use and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from rcnn.ops.boxes import clip
from rcnn.ops.masks import paste_masks
from rcnn.structures import ImageBatch, Instances, Size


@dataclass(frozen=True)
class Transform:
    """Resize, normalise and pad; stored with every checkpoint.

    The resize factor is ``short_side / min(height, width)`` where a short side is set, else the fixed
    ``scale``; either way it is lowered until the long side fits ``max_long_side``.

    Attributes:
        short_side: pixels the shorter side is brought to; None keeps the images' own scale.
        scale: the factor where ``short_side`` is None.
        max_long_side: limit on the longer side after resizing, pixels.
        mean: per channel, RGB, of images in [0, 1].
        antialias: low-pass filter before shrinking; torchvision's published models do without.
        std: likewise; ImageNet weights of the default backbone expect x / 127.5 - 1, that is 0.5 and 0.5.
        size_divisor: height and width of a batch are padded to a multiple of this.
        margin: pixels added before the resized sides are cut to whole ones: 154 * (320 / 154) is a little
            less than 320, and would be cut to 319. torchvision cuts it: its models use 0.
    """

    short_side: int | None = None
    scale: float = 1.0
    max_long_side: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    antialias: bool = True
    size_divisor: int = 32
    margin: float = 1e-6

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a size or factor that leaves nothing of an image.
        """
        for name in ("short_side", "scale", "max_long_side", "size_divisor"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"transform.{name} {value}: expected a number above 0")

    def factor(self, size: Size) -> float:
        """How much an image of ``size`` (height, width) is enlarged."""
        factor = self.scale if self.short_side is None else self.short_side / min(size)
        if self.max_long_side is not None:
            factor = min(factor, self.max_long_side / max(size))
        return factor

    def resized(self, size: Size) -> Size:
        """The (height, width) of an image of ``size`` after resizing; at least one pixel."""
        factor = self.factor(size)
        return max(1, int(size[0] * factor + self.margin)), max(1, int(size[1] * factor + self.margin))

    def resize(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` uint8 or float in [0, 1] to float in [0, 1] of the resized size.

        An image that has this size already is returned as it is: of 16 megapixels, floats would take 200 MB.
        """
        size = self.resized((image.shape[-2], image.shape[-1]))
        if size == tuple(image.shape[-2:]):
            return image
        pixels = image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image.to(torch.float32)
        shrinks = self.antialias and size[0] < image.shape[-2]
        return functional.interpolate(pixels[None], size, mode="bilinear", antialias=shrinks)[0]

    def batch(self, images: Sequence[Tensor]) -> ImageBatch:
        """Normalise and pad images that have their final size; uint8 or float ``[3, H, W]``."""
        sizes = tuple((int(i.shape[-2]), int(i.shape[-1])) for i in images)
        height, width = (
            -(-max(side) // self.size_divisor) * self.size_divisor for side in zip(*sizes, strict=True)
        )
        tensors = torch.zeros((len(images), 3, height, width)).to(memory_format=torch.channels_last)
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        for tensor, image, (h, w) in zip(tensors, images, sizes, strict=True):
            pixels = image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image
            tensor[:, :h, :w] = (pixels - mean) / std
        return ImageBatch(tensors, sizes)

    def resize_boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Boxes ``[N, 4]`` of an image of ``size`` on the resized image; what lies outside is cut or goes."""
        return _rescaled(boxes, size, self.resized(size))

    def __call__(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize, normalise and pad ``[3, H, W]`` images of any sizes."""
        return self.batch([self.resize(image) for image in images])

    def invert(self, instances: Instances, size: Size) -> Instances:
        """Detections on the resized image, brought back to the image's own ``size`` (height, width).

        The networks' maps of mask probabilities are pasted here, and the classes of pixels decided, at the
        image's own resolution.
        """
        height, width = instances.size
        ratio = instances.boxes.new_tensor([size[1] / width, size[0] / height])
        proposals = instances.proposals
        if proposals is not None:
            proposals = _rescaled(proposals, instances.size, size)
        keypoints = instances.keypoints
        if keypoints is not None:
            keypoints = torch.cat([keypoints[..., :2] * ratio, keypoints[..., 2:]], -1)
        boxes = clip(instances.boxes * ratio.repeat(2), size)
        masks = None if instances.mask_maps is None else paste_masks(instances.mask_maps, boxes, size)
        return replace(
            instances, size=size, boxes=boxes, masks=masks, mask_maps=None, keypoints=keypoints,
            proposals=proposals, semantic=_semantic_at(instances, size), semantic_logits=None,
        )  # fmt: skip


def _semantic_at(instances: Instances, size: Size) -> Tensor | None:
    """The class of every pixel of an image of ``size``, from the logits where there are any."""
    if instances.semantic_logits is not None:
        return largest_class(instances.semantic_logits, size)
    if instances.semantic is None or tuple(instances.semantic.shape) == size:
        return instances.semantic
    resized = functional.interpolate(instances.semantic[None, None].float(), size, mode="nearest-exact")
    return resized[0, 0].to(instances.semantic.dtype)


def largest_class(logits: Tensor, size: Size) -> Tensor:
    """The class of the largest of ``logits`` ``[C, h, w]`` at every pixel of ``size``, int64 ``[H, W]``.

    One class after the other is brought to size: all of them together would fill the memory for a photograph.
    """
    best = torch.full(size, -torch.inf, device=logits.device)
    found = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for label, plane in enumerate(logits.float()):
        if plane.shape != size:
            plane = functional.interpolate(plane[None, None], size, mode="bilinear")[0, 0]
        larger = plane > best
        best = torch.where(larger, plane, best)
        found[larger] = label
    return found


def _rescaled(boxes: Tensor, old: Size, new: Size) -> Tensor:
    """Boxes ``[P, 4]`` of an image of size ``old`` on the same image of size ``new``, without empty ones."""
    ratio = boxes.new_tensor([new[1] / old[1], new[0] / old[0]])
    scaled = clip(boxes * ratio.repeat(2), new)
    return scaled[(scaled[:, 2:] > scaled[:, :2]).all(1)]
