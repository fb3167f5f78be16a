"""A trained network at work: images in, objects out, in the images' own coordinates."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from rcnn.device import choose_device, fast_bfloat16, keep_freed_memory
from rcnn.inference import tiles
from rcnn.inference.exported import ExportedDetector, is_exported
from rcnn.inference.fused import FusedCache
from rcnn.io import checkpoint
from rcnn.io.images import image_size, read_image, rgb_pixels, to_rgb
from rcnn.io.packaged import packaged
from rcnn.ops.panoptic import MergeSettings
from rcnn.parts.selective_search import selective_search
from rcnn.structures import ImageBatch, Instances, Masks, Output, Size, Skeleton, arrays
from rcnn.training.recipe import build_settings, to_plain, with_model_settings
from rcnn.transform import Transform

ImageLike = str | Path | Image.Image | npt.NDArray[Any] | Tensor

# Where the weights are in a training run's checkpoint, the better ones first; others hold them alone.
WEIGHT_PREFIXES = ("ema.", "network.")
BATCHES_TO_SORT = 8
_OWN_METADATA = ("architecture", "model", "class_names", "transform", "min_score")


@dataclass(frozen=True)
class Detector:
    """A network with all that it takes to use it on images.

    Attributes:
        network: one of ``rcnn.models.MODELS``.
        transform: from images to what the network sees, and back.
        class_names: what the labels mean.
        min_score: detections below it are left out unless asked for.
        info: JSON values about where it comes from: metrics, versions, the data.
        skeleton: what the keypoints are, of a network that finds them.
        semantic_names: what the classes of pixels are, of a network that tells them.
        prepare: predict with the network's quicker form (``rcnn.inference.fused``), on a CPU; False: as it
        is.
        half: compute in bfloat16 where that is safe (autocast): quicker where ``hardware.fast_bfloat16`` says
            so; docs/speed.md has what it costs.
    """

    network: nn.Module
    transform: Transform
    class_names: tuple[str, ...]
    min_score: float = 0.5
    info: dict[str, Any] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    semantic_names: tuple[str, ...] = ()
    fuse: bool = True
    half: bool = False
    _fused_cache: FusedCache = field(default_factory=FusedCache, init=False, repr=False, compare=False)

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
        settings: Any = self.network.settings
        max_detections: int | None = getattr(getattr(settings, "box", settings), "max_detections", None)
        return max_detections

    def cap(self, size: Size) -> int | None:
        """The most objects of an image of ``size`` (height, width): of one seen in tiles, those of each."""
        resized = self.transform.resized(size)
        # A model that is given its proposals looks at the whole image.
        whole = getattr(self.network, "needs_external_proposals", False) or not tiles.needs_tiling(resized)
        parts = 1 if whole else len(tiles.make_tiles(resized))
        return None if self.max_detections is None else self.max_detections * parts

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.network.parameters()).device

    @property
    def inference_network(self) -> nn.Module:
        """The form of the network that predicts."""
        return self._fused_cache.get(self.network, half=self.half) if self.fuse else self.network

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
        proposals: Sequence[Tensor] | None = None,
    ) -> list[Instances]:
        """Find the objects.

        Args:
            images: one or a sequence of: a path; a PIL image; an array ``[H, W]``, ``[H, W, 3]`` or
                ``[H, W, 4]`` (RGB, alpha ignored); a tensor ``[3, H, W]``. Arrays and tensors hold integers,
                or floats in [0, 1].
            min_score: the lowest score returned; the detector's own where None.
            max_detections: the most objects per image; the model's setting where None.
            batch_size: images the network sees at once; those of like size go together, of eight batches.
            proposals: ``[P, 4]`` in pixels of each image, best first, for models that are given theirs (the
                others take no notice); None searches for them with the model's own settings.

        Returns:
            One an image, on the CPU, in the image's own coordinates, best score first.

        Raises:
            ValueError: an image that cannot be read, an array of another shape or range, a bad setting, or a
                network that is not in float32.
        """
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score must lie between 0 and 1, not {min_score}")
        if max_detections is not None and max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, not {max_detections}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        one = isinstance(images, str | Path | Image.Image | np.ndarray | Tensor)
        given: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        min_score = self.min_score if min_score is None else min_score
        if proposals is not None and len(proposals) != len(given):
            raise ValueError(f"proposals are of {len(proposals)} images, but there are {len(given)}")
        kind = next(self.network.parameters()).dtype
        if kind != torch.float32 and not self.half:
            raise ValueError(
                f"the network's weights are {kind}: make them float32, and predict with half=True"
            )
        results: list[Instances] = []
        # Of some batches' images those of like size go together, so that little is padded.
        window = batch_size if batch_size == 1 else BATCHES_TO_SORT * batch_size
        for start in range(0, len(given), window):
            part = slice(start, start + window)
            boxes = None if proposals is None else proposals[part]
            found = self._predict_sorted(given[part], batch_size, min_score, max_detections, boxes)
            results += [self._named(f, image) for f, image in zip(found, given[part], strict=True)]
        return results

    def _predict_sorted(
        self,
        given: Sequence[ImageLike],
        batch_size: int,
        min_score: float,
        max_detections: int | None,
        proposals: Sequence[Tensor] | None,
    ) -> list[Instances]:
        """The objects of each image, in the order of the images; batches are of images of like size."""
        if len(given) <= batch_size:
            return self._predict_batch([_tensor(i) for i in given], min_score, max_detections, proposals)
        # Files are decoded when their batch comes: all at once may not fit into memory.
        images = [image if isinstance(image, str | Path) else _tensor(image) for image in given]
        sizes = [
            self.transform.resized(_size(image) if isinstance(image, Tensor) else image_size(image))
            for image in images
        ]
        order = sorted(range(len(images)), key=lambda i: (sizes[i][0] > sizes[i][1], math.prod(sizes[i])))
        results: dict[int, Instances] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            boxes = None if proposals is None else [proposals[i] for i in chosen]
            tensors = [i if isinstance(i, Tensor) else read_image(i) for i in (images[j] for j in chosen)]
            found = self._predict_batch(tensors, min_score, max_detections, boxes)
            results |= zip(chosen, found, strict=True)
        return [results[i] for i in range(len(images))]

    def _named(self, instances: Instances, image: ImageLike) -> Instances:
        """The objects of an image with what the detector and the image's path say of them."""
        path = Path(image) if isinstance(image, str | Path) else None
        named = replace(instances, class_names=self.class_names, semantic_names=self.semantic_names)
        return replace(named, skeleton=self.skeleton, path=path)

    @torch.no_grad()
    def _predict_batch(
        self,
        tensors: Sequence[Tensor],
        min_score: float,
        max_detections: int | None,
        proposals: Sequence[Tensor] | None,
    ) -> list[Instances]:
        resized = [self.transform.resize(tensor) for tensor in tensors]
        boxes = [
            self.transform.resize_boxes(given, _size(tensor)).to(self.device)
            for tensor, given in zip(tensors, self._proposals(tensors, proposals), strict=False)
        ]
        # Proposals are of the whole image, and a model that is given them looks at nothing else.
        large = [] if boxes else [i for i, image in enumerate(resized) if tiles.needs_tiling(_size(image))]
        whole = [i for i in range(len(resized)) if i not in large]
        detections: dict[int, Instances] = {}
        training = self.network.training
        try:
            if any(module.training for module in self.network.modules()):
                self.network.eval()
            if whole:
                found = self._detect([resized[i] for i in whole], min_score, max_detections, boxes)
                detections |= zip(whole, found, strict=True)
            for i in large:
                detections[i] = self._detect_in_tiles(resized[i], min_score, max_detections)
        finally:
            if training:
                self.network.train()
        return [
            self.transform.invert(detections[i].to("cpu"), _size(tensor)) for i, tensor in enumerate(tensors)
        ]

    def _detect(
        self,
        resized: Sequence[Tensor],
        min_score: float,
        max_detections: int | None,
        proposals: Sequence[Tensor] = (),
    ) -> list[Instances]:
        """The objects of images that have their final size, in its coordinates."""
        batch = self.transform.batch(resized)
        batch = ImageBatch(batch.tensors.to(self.device), batch.sizes, proposals=tuple(proposals))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            found: Output = self.inference_network(batch, min_score=min_score, max_detections=max_detections)
        return list(found.detections)

    def _detect_in_tiles(self, resized: Tensor, min_score: float, max_detections: int | None) -> Instances:
        size = _size(resized)
        parts = tiles.make_tiles(size)
        found = [self._detect([part.pixels(resized)], min_score, max_detections)[0] for part in parts]
        box: Any = getattr(self.network.settings, "box", None)
        if box is None:  # a class for every pixel, and no object
            return tiles.merge_tiles(parts, found, size, 0)
        # The model's own cap is that of what it sees at once.
        max_detections = box.max_detections * len(parts) if max_detections is None else max_detections
        return tiles.merge_tiles(parts, found, size, max_detections, box.nms_iou)

    def _proposals(self, images: Sequence[Tensor], given: Sequence[Tensor] | None) -> Sequence[Tensor]:
        """What a model that does not make its own proposals looks at; nothing for the others."""
        if not getattr(self.network, "needs_external_proposals", False):
            return ()
        if given is not None:
            return given
        settings: Any = self.network.settings
        return [selective_search(to_bytes(image), settings.search) for image in images]

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says beside the weights, as JSON; :func:`load` builds the detector from it."""
        from rcnn.models import MODELS

        architecture = next(name for name, cls in MODELS.items() if type(self.network) is cls)
        return {
            **self.info,
            "architecture": architecture,
            "model": to_plain(self.network.settings),
            "class_names": list(self.class_names),
            "semantic_names": list(self.semantic_names),
            "skeleton": None if self.skeleton is None else asdict(self.skeleton),
            "transform": to_plain(self.transform),
            "min_score": self.min_score,
            "versions": versions(),
        }

    def save(self, path: str | Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
        """Write a checkpoint that :func:`load` reads.

        Args:
            path: the file, ``.safetensors``; replaced in one step.
            tensors: weights to store in place of the network's own, under the same names: an average, or half
                precision.

        Raises:
            OSError: the file could not be written; it names the path.
        """
        weights = self.network.state_dict() if tensors is None else tensors
        return checkpoint.write_checkpoint(path, weights, self.describe())


def load_detector(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    half: bool = False,
    settings: Sequence[str] = (),
) -> Detector:
    """Open a trained model.

    Args:
        path: a checkpoint, a run folder (its best checkpoint, else its last), the name of a model that comes
            with the package (``nuclei``), or of published weights such as ``maskrcnn_resnet50_fpn_coco``,
            which are downloaded.
        device: where it runs; None takes a GPU where there is one.
        half: predict in bfloat16, see :class:`Detector`; warns where the device is not quicker in it.
        settings: changes for prediction, such as ``model.box.nms_iou=0.4`` or ``transform.short_side=1000``.

    Raises:
        FileNotFoundError: there is no such file, folder or published model.
        ValueError: the file is no checkpoint, or does not fit this version of the package; no such device; a
            setting that is unknown or asks for other weights.
    """
    if is_exported(path):
        raise ValueError(
            f"{path}: an exported model, which rcnn.load opens; expected a network, such as the run or "
            "checkpoint that it was made from"
        )
    where = choose_device(device)
    file = _checkpoint_file(path)
    detector = _published(str(path)) if file is None else _read(file)
    detector = _changed(detector, settings) if settings else detector
    keep_freed_memory()
    detector.network.to(where).eval()
    if half and not fast_bfloat16(where):
        warnings.warn(f"half precision is slower than full precision on this {where}", stacklevel=2)
    return replace(detector, half=half)


@dataclass(frozen=True)
class TensorAdapter:
    """An exported model whose results are ``rcnn.structures.Instances``, for what works on tensors."""

    exported: ExportedDetector

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels mean."""
        return self.exported.class_names

    @property
    def min_score(self) -> float:
        """What is asked for where nothing is said."""
        return self.exported.min_score

    def predict(
        self, images: Any, *, min_score: float | None = None, max_detections: int | None = None
    ) -> list[Instances]:
        """As :meth:`rcnn.inference.exported.Exported.predict`; tensors ``[3, H, W]`` are images too.

        Asked for more detections than the file has candidates, it gives what there are.
        """
        max_detections = (
            None if max_detections is None else min(max_detections, self.exported.info["candidates"])
        )
        given = [i.permute(1, 2, 0).numpy() if isinstance(i, Tensor) else i for i in images]
        found = self.exported.predict(given, min_score=min_score, max_detections=max_detections)
        return [_with_tensors(one) for one in found]


def _with_tensors(found: arrays.Instances) -> Instances:
    masks, points = found.masks, found.keypoints
    return Instances(
        found.size,
        torch.from_numpy(found.boxes),
        torch.from_numpy(found.labels),
        torch.from_numpy(found.scores),
        None
        if masks is None
        else Masks(torch.from_numpy(masks.pixels), torch.from_numpy(masks.windows), found.size),
        keypoints=None if points is None else torch.from_numpy(points),
        class_names=found.class_names,
        skeleton=found.skeleton,
        path=found.path,
    )


def shipped() -> dict[str, Path]:
    """The trained models that come with the package: name to file."""
    return {path.stem: path for path in sorted(packaged("trained").glob("*.safetensors"))}


def versions() -> dict[str, str]:
    """The versions of what a result depends on."""
    names = ("rcnn", "torch", "torchvision", "timm")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _checkpoint_file(path: str | Path) -> Path | None:
    """The file meant; None where the text can only be the name of published weights."""
    file = Path(path)
    is_name = isinstance(path, str) and not file.suffix and len(file.parts) == 1
    if file.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (file / name).is_file():
                return file / name
        if is_name and str(path) in shipped():  # a folder of data may have the name of its model
            return shipped()[str(path)]
        raise ValueError(
            f"{file}: no model in this folder; expected best.safetensors or last.safetensors of a run"
        )
    return shipped().get(str(path)) if is_name and not file.exists() else file


def _published(name: str) -> Detector:
    from rcnn.parts.pretrained import load_published

    try:
        detector: Detector = load_published(name)
    except KeyError as error:
        raise FileNotFoundError(f"{name}: no such file or folder, and no published model") from error
    return detector


def _read(file: Path) -> Detector:
    from rcnn.models import MODELS, build_model

    tensors, metadata = checkpoint.read_checkpoint(file)
    missing = [key for key in _OWN_METADATA if key not in metadata]
    if missing:
        raise ValueError(f"{file}: no detector: its metadata lacks {', '.join(missing)}")
    architecture = metadata["architecture"]
    if architecture not in MODELS:
        raise ValueError(
            f"{file}: architecture {architecture!r} is unknown; expected one of: {', '.join(MODELS)}"
        )
    model: Any = MODELS[architecture]
    class_names = tuple(metadata["class_names"])
    semantic_names = tuple(metadata.get("semantic_names", ()))
    try:
        settings = build_settings(model.Settings(), metadata["model"], "model")
        transform = build_settings(Transform(), metadata["transform"], "transform")
        network = build_model(architecture, settings, class_names, semantic_names)
        network.load_state_dict(_weights(tensors))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: made by another version of rcnn? {error}") from error
    info = {key: value for key, value in metadata.items() if key not in _OWN_METADATA}
    skeleton = Skeleton.from_json(info.pop("skeleton", None))
    info.pop("semantic_names", None)
    return Detector(
        network, transform, class_names, float(metadata["min_score"]), info, skeleton, semantic_names
    )


def _changed(detector: Detector, assignments: Sequence[str]) -> Detector:
    """The detector with some settings changed that its weights do not depend on."""
    from rcnn.models import build_model

    architecture, network = detector.describe()["architecture"], detector.network
    settings, transform = with_model_settings(architecture, network.settings, detector.transform, assignments)
    changed = build_model(architecture, settings, detector.class_names, detector.semantic_names)
    try:
        changed.load_state_dict(network.state_dict())
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{', '.join(assignments)}: the weights are for other settings: {first}") from error
    # What was measured of it was measured with its own settings.
    info = {key: value for key, value in detector.info.items() if key != "metrics"}
    return replace(detector, network=changed, transform=transform, info=info)


def _weights(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The network's weights among a checkpoint's tensors."""
    for prefix in WEIGHT_PREFIXES:
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if found:
            return found
    return tensors


def _size(image: Tensor) -> Size:
    """(height, width) of ``[3, H, W]``."""
    return int(image.shape[1]), int(image.shape[2])


def to_bytes(image: Tensor) -> Tensor:
    """uint8 of an image that is uint8, or float in [0, 1]."""
    return image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)


def _tensor(image: ImageLike) -> Tensor:
    """uint8 or float ``[3, H, W]`` of anything that counts as an image."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _array_tensor(to_rgb(ImageOps.exif_transpose(image)))
    if isinstance(image, np.ndarray):
        return _array_tensor(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
            raise ValueError(f"an image tensor must be [3, H, W]; got {list(image.shape)}")
        values = image.detach().float() if image.is_floating_point() else image
        return _array_tensor(values.cpu().permute(1, 2, 0).numpy())
    raise ValueError(
        f"expected a path, a PIL image, an array or a tensor as image; got {type(image).__name__}"
    )


def _array_tensor(array: npt.NDArray[Any]) -> Tensor:
    """``[H, W]`` or ``[H, W, C]`` to ``[3, H, W]``."""
    return torch.from_numpy(np.array(rgb_pixels(array).transpose(2, 0, 1), order="C"))
