"""From images as they are to what the network sees: one object for training, prediction and exported files.

Tensors are resized by torch, arrays by NumPy, for exported files where torch may be absent; a test holds the
two together. What comes after the network is ``rcnn.inference.postprocess``.

Legend: B images, C channels, H and W height and width, h and w those after resizing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rcnn.config import build_settings
from rcnn.config.ranges import check_ranges, ranged
from rcnn.io.reading import Reading
from rcnn.structures import Array, Size

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.parts.batch import ImageBatch

Floats = npt.NDArray[np.float32]
MAX_DENOMINATOR = 1000  # of a fixed scale as a fraction, which 32-bit integers times a side have room for


@dataclass(frozen=True)
class Transform:
    """Resize, normalise and pad; stored with every checkpoint.

    The resize factor is ``short_side / min(height, width)`` where a short side is set, else the fixed
    ``scale``; either way it is lowered until the long side fits ``max_long_side``.

    Attributes:
        short_side: pixels that the shorter side is resized to; None keeps the images' own scale.
        scale: the factor where ``short_side`` is None.
        max_long_side: limit on the longer side after resizing, pixels.
        mean: mean of each channel (RGB), for images in [0, 1].
        antialias: low-pass filter before shrinking; torchvision's published models do without.
        std: standard deviation of each channel. ImageNet weights of the default backbone expect
            x / 127.5 - 1: mean and standard deviation are 0.5.
        size_divisor: height and width of a batch are padded to a multiple of this.
        margin: pixels added before the resized sides are cut to whole ones: 154 * (320 / 154) is a little
            less than 320, and would be cut to 319. torchvision cuts it: its models use 0.
        read: how image files become pixels: channels, plane, orientation, range of intensities.
    """

    short_side: int | None = ranged(None, 1, 100000)
    scale: float = ranged(1.0, 0, 1000, above=True)
    max_long_side: int | None = ranged(None, 1, 1e6)
    mean: tuple[float, ...] = ranged((0.5, 0.5, 0.5), -1e6, 1e6)
    std: tuple[float, ...] = ranged((0.5, 0.5, 0.5), 0, 1e6, above=True)
    antialias: bool = True
    size_divisor: int = ranged(32, 1, 4096)
    margin: float = ranged(1e-6, 0, 1)
    read: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a size or factor that is not above 0, or different numbers of channels.
        """
        for name in ("short_side", "scale", "max_long_side", "size_divisor"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"transform.{name} {value}: expected a number above 0")
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f"transform.mean {list(self.mean)} and transform.std {list(self.std)}: "
                "expected one number per channel in both"
            )
        check_ranges(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Transform:
        """From a file's metadata, which has lists for tuples; entries that are not known are left out.

        Raises:
            ValueError: an entry of a wrong type or out of range.
        """
        read = _known(Reading, values.get("read", {}))
        return build_settings(cls(), {**_known(cls, values), "read": read}, "transform")

    @property
    def channels(self) -> int:
        """C, the number of channels of an image."""
        return len(self.mean)

    def factor(self, size: Size) -> float:
        """The resize factor of an image of ``size`` (height, width)."""
        factor = self.scale if self.short_side is None else self.short_side / min(size)
        if self.max_long_side is not None:
            factor = min(factor, self.max_long_side / max(size))
        return factor

    def factors(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """As :meth:`factor`, of many images: ``[I]`` for their sizes ``[I, 2]``, of which few differ."""
        kinds, of_image = np.unique(sizes, axis=0, return_inverse=True)
        found = np.array([self.factor((height, width)) for height, width in kinds.tolist()], np.float64)
        return found[of_image.reshape(-1)]

    def resized(self, size: Size) -> Size:
        """The (height, width) of an image of ``size`` after resizing; at least one pixel."""
        factor = self.factor(size)
        return max(1, int(size[0] * factor + self.margin)), max(1, int(size[1] * factor + self.margin))

    def resized_symbols(self, height: Any, width: Any) -> tuple[Any, Any]:
        """As :meth:`resized`, of sides that are symbols of a graph (``torch.SymInt``).

        In whole numbers, of which a file's 32-bit floats lose none. With a margin of 0 (torchvision's models)
        a side may be a pixel longer.
        """
        from torch import sym_max, sym_min

        halves = round(2 * self.margin)  # 1 where sides are rounded, 0 where they are cut

        def scaled(side: Any, target: Any, whole: Any) -> Any:
            return (2 * side * target + halves * whole) // (2 * whole)

        sides = (height, width)
        if self.short_side is None:
            scale = self.scale_fraction
            resized = [scaled(side, scale.numerator, scale.denominator) for side in sides]
        else:
            shortest = sym_min(height, width)
            resized = [scaled(side, self.short_side, shortest) for side in sides]
        if self.max_long_side is not None:
            longest = sym_max(height, width)
            limits = (scaled(side, self.max_long_side, longest) for side in sides)
            resized = [sym_min(*pair) for pair in zip(resized, limits, strict=True)]
        rows, columns = (sym_max(1, side) for side in resized)
        return rows, columns

    @property
    def scale_fraction(self) -> Fraction:
        """``scale`` as a fraction of small numbers, for :meth:`resized_symbols`."""
        return Fraction(self.scale).limit_denominator(MAX_DENOMINATOR)

    def padded(self, size: Size) -> Size:
        """``size`` rounded up to multiples of ``size_divisor``."""
        height, width = (-(-side // self.size_divisor) * self.size_divisor for side in size)
        return height, width

    def resize(self, image: Tensor) -> Tensor:
        """``[C, H, W]`` uint8 or float in [0, 1] to float in [0, 1] of the resized size.

        An image that has this size already is returned as it is: of 16 megapixels, floats would take 200 MB.
        """
        import torch
        from torch.nn import functional

        size = self.resized((image.shape[-2], image.shape[-1]))
        if size == tuple(image.shape[-2:]):
            return image
        pixels = image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image.to(torch.float32)
        shrinks = self.antialias and size[0] < image.shape[-2]
        return functional.interpolate(pixels[None], size, mode="bilinear", antialias=shrinks)[0]

    def resize_array(self, image: Array) -> Array:
        """As :meth:`resize`, of an array ``[H, W, C]``."""
        size = self.resized((image.shape[0], image.shape[1]))
        if size == image.shape[:2]:
            return image
        pixels = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
        return interpolate(pixels, size, antialias=self.antialias and size[0] < image.shape[0])

    def batch(self, images: Sequence[Tensor], least: Size = (1, 1)) -> ImageBatch:
        """Normalise and pad images that have their final size; uint8 or float ``[C, H, W]``.

        Args:
            images: of any sizes, all on one device, where the batch is made.
            least: (height, width) that the batch has at least.
        """
        import torch

        from rcnn.device import MEMORY_FORMAT, constant
        from rcnn.parts.batch import ImageBatch

        sizes = tuple((int(i.shape[-2]), int(i.shape[-1])) for i in images)
        height, width = self._common_size([*sizes, least])
        shape = (len(images), self.channels, height, width)
        device = images[0].device if len(images) else None
        tensors = torch.zeros(shape, device=device).to(memory_format=MEMORY_FORMAT)
        mean, std = (constant(values, tensors).view(-1, 1, 1) for values in (self.mean, self.std))
        for tensor, image, (h, w) in zip(tensors, images, sizes, strict=True):
            pixels = image.to(torch.float32) / 255 if image.dtype == torch.uint8 else image
            tensor[:, :h, :w] = (pixels - mean) / std
        return ImageBatch(tensors, sizes, size_divisor=self.size_divisor)

    def batch_arrays(self, images: Sequence[Array]) -> Floats:
        """As :meth:`batch`, of arrays ``[H, W, C]``: float32 ``[B, C, H, W]``."""
        height, width = self._common_size([image.shape[:2] for image in images])
        batch = np.zeros((len(images), self.channels, height, width), np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        for place, image in zip(batch, images, strict=True):
            pixels = image.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else image
            place[:, : image.shape[0], : image.shape[1]] = ((pixels - mean) / std).transpose(2, 0, 1)
        return batch

    def _common_size(self, sizes: Sequence[Size]) -> Size:
        """The padded size that holds images of all ``sizes``."""
        return self.padded((max(height for height, _ in sizes), max(width for _, width in sizes)))

    def resize_boxes(self, boxes: Tensor, size: Size) -> Tensor:
        """Boxes ``[N, 4]`` of an image of ``size`` on the resized one, clipped to it, without empty ones."""
        from rcnn.ops.boxes import clip

        height, width = self.resized(size)
        ratio = boxes.new_tensor([width / size[1], height / size[0]])
        scaled = clip(boxes * ratio.repeat(2), (height, width))
        return scaled[(scaled[:, 2:] > scaled[:, :2]).all(1)]

    def __call__(self, images: Sequence[Tensor]) -> ImageBatch:
        """Resize, normalise and pad ``[C, H, W]`` images of any sizes."""
        return self.batch([self.resize(image) for image in images])


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that a dataclass has fields for, with tuples for lists."""
    names = {spec.name for spec in fields(cls)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names}


def interpolate(pixels: Array, size: Size, *, antialias: bool = False) -> Floats:
    """Bilinear interpolation of ``[H, W, …]`` to ``size``, float32 ``[h, w, …]``, as torch computes it.

    Args:
        pixels: float32.
        size: (h, w).
        antialias: let the filter cover all pixels that become one, instead of the nearest two.
    """
    across = _resample(pixels.swapaxes(0, 1), size[1], antialias).swapaxes(0, 1)
    return _resample(across, size[0], antialias)


def _resample(lines: Array, count: int, antialias: bool) -> Floats:
    """``[L, …]`` to ``[count, …]`` by linear interpolation between the lines' centres."""
    if count == len(lines):
        return lines
    step = len(lines) / count
    reach = max(step, 1.0) if antialias else 1.0
    centres = (np.arange(count) + 0.5) * step
    first = np.floor(centres - reach + 0.5).astype(np.int64)
    index = first[:, None] + np.arange(math.ceil(2 * reach) + 1)
    weights = (1 - np.abs(index + 0.5 - centres[:, None]) / reach).clip(0)
    weights[(index < 0) | (index >= len(lines))] = 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    index = index.clip(0, len(lines) - 1)
    shape = (-1, *[1] * (lines.ndim - 1))
    result = np.zeros((count, *lines.shape[1:]), np.float32)
    for tap in range(index.shape[1]):
        result += weights[:, tap].reshape(shape) * lines[index[:, tap]]
    return result
