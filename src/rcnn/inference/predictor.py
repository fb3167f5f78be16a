"""Images of any kind in, their objects out: what networks and exported files have in common, without torch.

Images are read, brought to the model's input (:meth:`Model.prepare`) and put together in batches; what it
finds (:meth:`Model.find`) is brought back to each image's own size. Images larger than a network sees at once
go through it in tiles.

An image's result is the same alone and in any batch: only images that are padded to the same size share one,
as zeros beyond those that an image needs change what a network computes at its border.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy.typing as npt
from PIL import Image

from rcnn.inference.postprocess import Found, instances_of
from rcnn.inference.tiles import Tile, merge_tiles
from rcnn.io.images import as_pixels, image_size
from rcnn.io.reading import ImageError, Reading
from rcnn.structures import Array, Instances, Size, Skeleton

if TYPE_CHECKING:
    from torch import Tensor

    ImageLike = str | Path | Image.Image | npt.NDArray[Any] | Tensor

BATCHES_TO_SORT = 8

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        min_score: the lowest score returned.
        max_detections: the most objects per image; None: the model's own setting, of a large image for each
            of its tiles.
    """

    min_score: float
    max_detections: int | None


@dataclass(frozen=True)
class Prepared:
    """An image as a model takes it.

    Attributes:
        pixels: what the model computes on, of ``seen_size`` or, where the model resizes itself, ``size``.
        size: (height, width) of the image itself.
        seen_size: the size that what the model finds refers to.
        proposals: of a model that is given them, in coordinates of ``seen_size``.
        is_tile: whether it is a part of an image, to which what is found on it is brought back later.
    """

    pixels: Any
    size: Size
    seen_size: Size
    proposals: Any = None
    is_tile: bool = False


class Model(Protocol):
    """What :func:`predict` needs to know of a network or an exported file."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels index."""

    @property
    def semantic_names(self) -> tuple[str, ...]:
        """What the classes of pixels index."""

    @property
    def skeleton(self) -> Skeleton | None:
        """What the keypoints are."""

    @property
    def channels(self) -> int:
        """The number of channels of an image."""

    @property
    def reading(self) -> Reading:
        """How files are read."""

    @property
    def min_score(self) -> float:
        """The lowest score returned unless another is asked for."""

    @property
    def max_detections(self) -> int | None:
        """The most objects of what is seen at once; None of a model that finds none."""

    @property
    def candidates(self) -> int | None:
        """The most objects of what is seen at once that can be asked for; None: any number."""

    @property
    def nms_iou(self) -> float:
        """The highest IoU of two objects of one class; above it, the one with the lower score is dropped."""

    @property
    def batch_size(self) -> int:
        """The number of images that are seen at once unless another is asked for."""

    def batch_key(self, size: Size) -> tuple[int, ...]:
        """Images whose sizes have the same key can share a batch."""

    def tiles_of(self, size: Size) -> list[Tile]:
        """The tiles, in coordinates of what is seen, of an image of ``size``; none where it is seen whole."""

    def prepare(self, image: Array, proposals: Array | None) -> Prepared:
        """An image ``[H, W, C]`` as the model takes it."""

    def cut(self, image: Prepared, tile: Tile) -> Prepared:
        """A tile of a prepared image, as an image of its own."""

    def find(self, images: Sequence[Prepared], request: Request) -> list[Found]:
        """What is found in images that can share a batch, in coordinates of ``seen_size``."""


def predict(
    model: Model,
    images: ImageLike | Sequence[ImageLike],
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    batch_size: int | None = None,
    proposals: Sequence[Array | Tensor] | None = None,
    on_error: OnError = "raise",
) -> list[Any]:
    """Find the objects; see :meth:`rcnn.Detector.predict`, which this is for any model."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error {on_error!r}: expected raise or skip")
    request = _checked(model, min_score, max_detections)
    batch_size = model.batch_size if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    one = isinstance(images, str | Path | Image.Image) or hasattr(images, "ndim")
    given: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
    if proposals is not None and len(proposals) != len(given):
        raise ValueError(f"proposals are those of {len(proposals)} images, but there are {len(given)}")
    boxes = [None] * len(given) if proposals is None else [as_array(b) for b in proposals]
    numbers = [f"image {i + 1} of {len(given)}" if len(given) > 1 else "" for i in range(len(given))]
    names = [str(i) if isinstance(i, str | Path) else n for i, n in zip(given, numbers, strict=True)]
    asked = [_Given(*one) for one in zip(given, boxes, names, strict=True)]
    results: list[Instances | None] = []
    # Within several batches' images those of the same size go together.
    window = batch_size if batch_size == 1 else BATCHES_TO_SORT * batch_size
    for start in range(0, len(asked), window):
        part = asked[start : start + window]
        try:
            results += _predict_sorted(model, part, batch_size, request)
        except Exception:
            if on_error == "raise":
                raise
            results += [_predict_or_none(model, one, request) for one in part]
    return results


@dataclass(frozen=True)
class _Given:
    """An image as it was given, its proposals, and how messages name it; the only one needs no name."""

    image: Any
    proposals: Any
    name: str

    def pixels(self, model: Model) -> Array:
        """Its pixels; raises an error that names it, whatever a decoder raises."""
        with self.named():
            return pixels_of(self.image, model.channels, model.reading)

    def size(self, model: Model) -> Size:
        """Its height and width, from a file's header where that says it."""
        with self.named():
            if isinstance(self.image, str | Path):
                return image_size(self.image, model.reading)
            height, width = pixels_of(self.image, model.channels, model.reading).shape[:2]
            return height, width

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors inside name the image."""
        try:
            yield
        except ImageError:
            raise
        except Exception as error:
            if not self.name:
                raise
            said = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            kind = ImageError if isinstance(self.image, str | Path) else ValueError
            raise kind(f"{self.name}: {said}{error}") from error


def _predict_or_none(model: Model, given: _Given, request: Request) -> Instances | None:
    """The objects of one image; None, with a warning, where that fails."""
    try:
        return _predict_sorted(model, [given], 1, request)[0]
    except Exception as error:
        named = str(error) if given.name in str(error) else f"{given.name}: {error}"
        warnings.warn(f"skipped: {named}", stacklevel=5)
        return None


def cap(model: Model, size: Size) -> int | None:
    """The most objects of an image of ``size`` (height, width): of one seen in tiles, those of each."""
    return None if model.max_detections is None else model.max_detections * max(1, len(model.tiles_of(size)))


def _checked(model: Model, min_score: float | None, max_detections: int | None) -> Request:
    """What is asked for, if it can be.

    Raises:
        ValueError: a setting out of range.
    """
    if min_score is not None and not 0 <= min_score <= 1:
        raise ValueError(f"min_score must be between 0 and 1, not {min_score}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, not {max_detections}")
    if max_detections is not None and model.candidates is not None and max_detections > model.candidates:
        raise ValueError(
            f"max_detections must be 1 to {model.candidates}, not {max_detections}: an exported file looks "
            "at a fixed number of candidates; export the model again with a higher rpn.pre_nms"
        )
    return Request(model.min_score if min_score is None else min_score, max_detections)


def _predict_sorted(
    model: Model, given: Sequence[_Given], batch_size: int, request: Request
) -> list[Instances]:
    """The objects of each image, in the order of the images; batches are of images that can share one."""
    # Files are decoded when their batch comes: all at once may not fit into memory.
    groups = [[0]] if len(given) == 1 else sharing_batches(model, [one.size(model) for one in given])
    results: dict[int, Instances] = {}
    for group in groups:
        for start in range(0, len(group), batch_size):
            chosen = group[start : start + batch_size]
            arrays = [given[i].pixels(model) for i in chosen]
            prepared = [model.prepare(a, given[i].proposals) for i, a in zip(chosen, arrays, strict=True)]
            for i, image, found in zip(chosen, prepared, _find(model, prepared, request), strict=True):
                results[i] = _instances(model, found, image, given[i].image)
    return [results[i] for i in range(len(given))]


def sharing_batches(model: Model, sizes: Sequence[Size]) -> list[list[int]]:
    """Which images can share a batch, small ones first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, size in enumerate(sizes):
        groups.setdefault(model.batch_key(size), []).append(i)
    return [groups[size] for size in sorted(groups, key=lambda size: (size[0] > size[1], math.prod(size)))]


def _find(model: Model, images: Sequence[Prepared], request: Request) -> list[Found]:
    """What is found in images that can share a batch; large ones are seen by themselves, in tiles."""
    tiles = [model.tiles_of(image.size) for image in images]
    whole = [image for image, parts in zip(images, tiles, strict=True) if not parts]
    found = iter(model.find(whole, request) if whole else [])
    return [
        _find_in_tiles(model, image, parts, request) if parts else next(found)
        for image, parts in zip(images, tiles, strict=True)
    ]


def _find_in_tiles(model: Model, image: Prepared, tiles: Sequence[Tile], request: Request) -> Found:
    found = [model.find([model.cut(image, tile)], request)[0] for tile in tiles]
    most = cap(model, image.size) if request.max_detections is None else request.max_detections
    return merge_tiles(tiles, found, image.seen_size, most or 0, model.nms_iou)


def _instances(model: Model, found: Found, image: Prepared, given: Any) -> Instances:
    """The objects of an image with what the model and the image's path say of them."""
    return instances_of(
        found, image.seen_size, image.size,
        class_names=model.class_names, semantic_names=model.semantic_names, skeleton=model.skeleton,
        path=Path(given) if isinstance(given, str | Path) else None,
    )  # fmt: skip


def pixels_of(image: Any, channels: int, reading: Reading | None = None) -> Array:
    """uint8 or float32 ``[H, W, C]`` of anything that counts as an image, tensors ``[C, H, W]`` included.

    Arguments as of :func:`rcnn.io.images.as_pixels`.

    Raises:
        ValueError: something else, or another number of channels.
    """
    if _is_tensor(image):
        if image.ndim != len("CHW"):
            raise ValueError(f"an image tensor must be [{channels}, H, W]; got {list(image.shape)}")
        values = image.detach().float() if image.is_floating_point() else image
        image = values.cpu().permute(1, 2, 0).numpy()
    return as_pixels(image, channels, reading)


def as_array(values: Any) -> Array:
    """A tensor's values as an array; arrays as they are."""
    if not _is_tensor(values):
        array: Array = values
        return array
    # NumPy has no bfloat16.
    plain = values.detach().float() if values.is_floating_point() else values.detach()
    found: Array = plain.cpu().numpy()
    return found


def _is_tensor(value: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
