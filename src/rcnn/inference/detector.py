"""A trained network at work: images in, objects out, in the images' own coordinates."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor, nn

from rcnn.config import did_you_mean, to_plain
from rcnn.device import HostCopy, auto_precision, autocast, moved
from rcnn.inference import predictor
from rcnn.inference.device_paste import paste_on_device
from rcnn.inference.fused import FusedCache
from rcnn.inference.postprocess import Found, split_images
from rcnn.inference.predictor import Prepared, Request, as_array
from rcnn.inference.tiles import Tile, make_tiles, needs_tiling
from rcnn.io import checkpoint
from rcnn.io.images import to_bytes
from rcnn.io.reading import Reading
from rcnn.models import model_name
from rcnn.models.model import Model
from rcnn.ops.semantic import largest_class
from rcnn.parts.batch import Detections
from rcnn.parts.selective_search import selective_search
from rcnn.structures import Array, Instances, MergeSettings, Size, Skeleton
from rcnn.transform import Transform

if TYPE_CHECKING:
    from rcnn.inference.predictor import ImageLike, OnError

Precision = Literal["auto", "bf16", "float32"]
DEVICE_BATCH = 8  # images of one size that a GPU sees at once
PIXELS_AT_ONCE = 400_000  # of a batch on a CPU: the maps of more leave its caches


@dataclass(frozen=True)
class Detector:
    """A network with all that it takes to use it on images.

    Attributes:
        network: one of ``rcnn.models.MODELS``, or of a class of your own.
        transform: from images to what the network sees.
        class_names: what the labels index.
        min_score: detections below it are left out unless asked for.
        info: JSON values about where it comes from: metrics, versions, the data.
        skeleton: what the keypoints are, of a network that finds them.
        semantic_names: what the classes of pixels are, of a network that finds them.
        fuse: on a CPU predict with the network's faster form (``rcnn.inference.fused``); False: as it is.
        precision: ``bf16`` computes in bfloat16 where that is safe (autocast), ``float32`` never; ``auto``
            takes ``bf16`` where it is markedly faster (:func:`rcnn.device.auto_precision`). docs/speed.md has
            what it costs.
        half: the old name: True for ``bf16``, False for ``float32``.
    """

    network: Model
    transform: Transform
    class_names: tuple[str, ...]
    min_score: float = 0.5
    info: dict[str, Any] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    semantic_names: tuple[str, ...] = ()
    fuse: bool = True
    precision: Precision = "auto"
    half: InitVar[bool | None] = None
    _fused_cache: FusedCache = field(default_factory=FusedCache, init=False, repr=False, compare=False)

    def __post_init__(self, half: bool | None) -> None:
        """Check the precision; warn of the old name.

        Raises:
            ValueError: an unknown precision.
        """
        if half is not None:
            object.__setattr__(self, "precision", precision_of(half))
        if self.precision not in get_args(Precision):
            names = get_args(Precision)
            hint = did_you_mean(str(self.precision), names)
            raise ValueError(f"precision {self.precision!r}: {hint}expected one of {', '.join(names)}")

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each label in COCO results: of the data it was trained on, else label + 1."""
        ids = self.info.get("category_ids")
        return tuple(range(1, len(self.class_names) + 1)) if ids is None else tuple(map(int, ids))

    @property
    def merge(self) -> MergeSettings | None:
        """How its objects and classes of pixels become one partition; None where it does not find both."""
        settings: MergeSettings | None = getattr(self.network.settings, "merge", None)
        return settings

    @property
    def max_detections(self) -> int | None:
        """The most objects of an image that is seen at once; None of a network that finds none."""
        selection = self.network.selection
        return None if selection is None else selection.max_detections

    @property
    def candidates(self) -> int | None:
        """The most objects of an image that can be asked for; None: any number."""
        return None

    @property
    def nms_iou(self) -> float:
        """The highest IoU of two objects of one class; above it, the one with the lower score is dropped."""
        selection = self.network.selection
        return 1.0 if selection is None else selection.nms_iou

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return self.transform.channels

    @property
    def reading(self) -> Reading:
        """How files are read."""
        return self.transform.read

    def with_reading(self, reading: Reading) -> Detector:
        """The detector that reads files in this way."""
        return replace(self, transform=replace(self.transform, read=reading))

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.network.parameters()).device

    @property
    def batch_size(self) -> int:
        """The number of images that the network sees at once unless another is asked for."""
        return 1 if self.device.type == "cpu" else DEVICE_BATCH

    @property
    def used_precision(self) -> Literal["bf16", "float32"]:
        """What it computes in: ``precision``, or what ``auto`` stands for on its device."""
        return auto_precision(self.device, self.network) if self.precision == "auto" else self.precision

    def for_measuring(self) -> Detector:
        """The detector whose results are measured: in float32, unless bfloat16 was asked for by name."""
        return replace(self, precision="float32") if self.precision == "auto" else self

    def compressed(self, ranks: tuple[int, int]) -> Detector:
        """The detector with fully connected layers compressed to these ranks, for prediction.

        Raises:
            ValueError: its network has no layers for that.
        """
        return replace(self, network=self.network.compressed(ranks))

    @property
    def inference_network(self) -> nn.Module:
        """The form of the network that predicts."""
        if not self.fuse:
            return self.network
        return self._fused_cache.get(self.network, precision=self.used_precision)

    @overload
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array | Tensor] | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Instances]: ...

    @overload
    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array | Tensor] | None = None,
        on_error: Literal["skip"],
    ) -> list[Instances | None]: ...

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        proposals: Sequence[Array | Tensor] | None = None,
        on_error: OnError = "raise",
    ) -> list[Instances] | list[Instances | None]:
        """Find the objects.

        Args:
            images: one or a sequence of: a path; a PIL image; an array ``[H, W]``, ``[H, W, 3]`` or
                ``[H, W, 4]`` (RGB, alpha ignored); a tensor ``[3, H, W]``. Arrays and tensors hold integers,
                or floats in [0, 1]. A model for another number of channels C takes arrays ``[H, W, C]``, with
                the channels that it took, in order. Files are read as in training (``transform.read``).
            min_score: the lowest score returned; the detector's own where None.
            max_detections: the most objects per image; the model's setting where None.
            batch_size: images the network sees at once: those that are padded to the same size, within eight
                batches, and on a CPU at most 400,000 pixels of them, as larger batches would be slower there;
                None: 8 on a GPU, 1 on a CPU. An image's result is the same alone and in any batch.
            proposals: ``[P, 4]`` in pixels of each image, best first, for models that take external proposals
                (the others ignore them); None searches for them with the model's own settings.
            on_error: ``raise``: an image that cannot be read ends the prediction; ``skip``: it has None in
                the list, with a warning that names it, and the others are kept.

        Returns:
            One per image, in the image's own coordinates, best score first.

        Raises:
            ValueError: an image that cannot be read, an array of another shape or range, a bad setting, or a
                network that is not in float32.
        """
        kind = next(self.network.parameters()).dtype
        if kind != torch.float32 and self.used_precision != "bf16":
            raise ValueError(
                f'the network\'s weights are {kind}: make them float32, and predict with precision="bf16"'
            )
        return predictor.predict(
            self, images, min_score=min_score, max_detections=max_detections, batch_size=batch_size,
            proposals=proposals, on_error=on_error,
        )  # fmt: skip

    def cap(self, size: Size) -> int | None:
        """The most objects of an image of ``size`` (height, width): of one seen in tiles, those of each."""
        return predictor.cap(self, size)

    def batch_key(self, size: Size) -> tuple[int, ...]:
        """The size that an image of ``size`` is padded to: images can share a batch where it is the same."""
        return self.transform.padded(self.transform.resized(size))

    def tiles_of(self, size: Size) -> list[Tile]:
        """The tiles of an image of ``size``, after resizing; none if it is seen whole."""
        resized = self.transform.resized(size)
        # External proposals are those of the whole image, and such a model looks at nothing else.
        return make_tiles(resized) if needs_tiling(resized) and not self.network.needs_proposals else []

    def prepare(self, image: Array, proposals: Array | None) -> Prepared:
        """An image ``[H, W, C]`` as a resized tensor ``[C, h, w]``, with what the model looks at."""
        size: Size = image.shape[:2]
        resized = self.transform.resized(size)
        tensor = self.transform.resize(torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")))
        if not self.network.needs_proposals:
            return Prepared(tensor, size, resized)
        if proposals is None:
            proposals = selective_search(to_bytes(image), self.network.settings.search)
        boxes = self.transform.resize_boxes(torch.from_numpy(np.array(proposals, np.float32)), size)
        return Prepared(tensor, size, resized, moved(boxes, self.device))

    def cut(self, image: Prepared, tile: Tile) -> Prepared:
        """A tile of a prepared image, as an image of its own."""
        return Prepared(image.pixels[:, tile.rows, tile.columns], tile.size, tile.size, is_tile=True)

    def find(self, images: Sequence[Prepared], request: Request) -> list[Found]:
        """What is found in images that can share a batch, in coordinates of the resized images.

        A batch that fills more than the caches of a CPU, or than a device's memory, is divided.
        """
        most = len(images)
        if self.device.type == "cpu":
            most = max(1, PIXELS_AT_ONCE // math.prod(self.transform.padded(images[0].seen_size)))
        try:
            if len(images) <= most:
                return self._find(images, request)
        except torch.cuda.OutOfMemoryError:
            if len(images) == 1:
                raise
            most = len(images) // 2
        return [*self.find(images[:most], request), *self.find(images[most:], request)]

    @torch.no_grad()
    def _find(self, images: Sequence[Prepared], request: Request) -> list[Found]:
        batch = self.transform.batch([image.pixels for image in images])
        given = tuple(image.proposals for image in images) if self.network.needs_proposals else ()
        batch = replace(batch, tensors=moved(batch.tensors, self.device), proposals=given)
        with _evaluating(self.network), autocast(self.device, self.used_precision):
            detections: Detections = self.inference_network(
                batch, min_score=request.min_score, max_detections=request.max_detections
            ).detections
        outputs = detections.tensors()
        pastes = self.device.type != "cpu" and not any(image.is_tile for image in images)
        masks = outputs.pop("mask_maps", None) if pastes else None
        logits = outputs.pop("semantic_logits", ())
        maps = [
            largest_class(own[:, : image.seen_size[0], : image.seen_size[1]], image.size)
            for own, image in zip(logits, images, strict=False)
        ]
        # The host waits once, for all of them, and once more for masks, whose number it must know.
        read = [as_array(values) for values in HostCopy([*outputs.values(), *maps]).wait()]
        arrays = dict(zip(outputs, read, strict=False))
        found = split_images(arrays, batch.sizes)
        for one, classes in zip(found, read[len(outputs) :], strict=False):
            one["semantic"] = classes
        if masks is not None:
            paste_on_device(found, masks, arrays["image_index"], images)
        return found

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says beside the weights, as JSON; ``rcnn.load`` builds the detector from it."""
        return {
            **self.info,
            "architecture": model_name(self.network),
            "model": to_plain(self.network.settings),
            "class_names": list(self.class_names),
            "semantic_names": list(self.semantic_names),
            "skeleton": None if self.skeleton is None else asdict(self.skeleton),
            "transform": to_plain(self.transform),
            "min_score": self.min_score,
            "versions": versions(),
        }

    def save(self, path: str | Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write a checkpoint that :func:`rcnn.load` reads.

        Args:
            path: the file, ``.safetensors``; replaced in one step.
            tensors: weights to store in place of the network's own, under the same names: an average, or half
                precision.

        Raises:
            OSError: the file could not be written; it names the path.
        """
        weights = self.network.state_dict() if tensors is None else tensors
        return checkpoint.write_checkpoint(path, weights, self.describe())


def precision_of(half: bool) -> Literal["bf16", "float32"]:
    """What the old setting ``half`` is called now; warns that it has another name."""
    precision: Literal["bf16", "float32"] = "bf16" if half else "float32"
    text = f'half={half} is now precision="{precision}"; the old name will be removed in 0.3'
    warnings.warn(text, FutureWarning, stacklevel=4)
    return precision


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and afterwards in training mode again if it was."""
    training = network.training
    if any(module.training for module in network.modules()):
        network.eval()
    try:
        yield
    finally:
        if training:
            network.train()


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    names = ("rcnn", "torch", "torchvision", "timm")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
