"""A trained network at work: images in, objects out, in the images' own coordinates; and files of them."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from rcnn import checkpoint
from rcnn.data.image import IMAGE_ENDINGS, ImageError, _rgb, _scaled, read_image
from rcnn.draw import draw
from rcnn.hardware import keep_memory
from rcnn.recipe import build_settings, plain
from rcnn.structures import ImageBatch, Instances, Masks
from rcnn.transform import Transform

ImageLike = str | Path | Image.Image | npt.NDArray[Any] | Tensor

# Where the weights are in a training run's checkpoint, the better ones first; others hold them alone.
WEIGHT_PREFIXES = ("average.", "network.")
_OWN_METADATA = ("architecture", "model", "class_names", "transform", "min_score")
OBJECT_COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2", "area", "centroid_x", "centroid_y")
COUNT_COLUMNS = ("image", "class", "count")


@dataclass(frozen=True)
class Detector:
    """A network with all that it takes to use it on images.

    Attributes:
        network: one of ``rcnn.models.MODELS``.
        transform: from images to what the network sees, and back.
        class_names: what the labels mean.
        min_score: detections below it are left out unless asked for.
        info: JSON values about where it comes from: metrics, versions, the data.
    """

    network: nn.Module
    transform: Transform
    class_names: tuple[str, ...]
    min_score: float = 0.5
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.network.parameters()).device

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        batch_size: int = 1,
    ) -> list[Instances]:
        """Find the objects.

        Args:
            images: one or a sequence of: a path; a PIL image; an array ``[H, W]``, ``[H, W, 3]`` or
                ``[H, W, 4]`` (RGB, alpha ignored); a tensor ``[3, H, W]``. Arrays and tensors hold integers,
                or floats in [0, 1].
            min_score: the lowest score returned; the detector's own where None.
            max_detections: the most objects an image; the model's setting where None.
            batch_size: images the network sees at once.

        Returns:
            One an image, on the CPU, in the image's own coordinates, best score first.

        Raises:
            ValueError: an image that cannot be read, an array of another shape or range, a bad setting.
        """
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score must lie between 0 and 1, not {min_score}")
        if max_detections is not None and max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, not {max_detections}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        one = isinstance(images, str | Path | Image.Image | np.ndarray | Tensor)
        given: Sequence[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        lowest = self.min_score if min_score is None else min_score
        results: list[Instances] = []
        for start in range(0, len(given), batch_size):
            results += self._predict_batch(given[start : start + batch_size], lowest, max_detections)
        return results

    @torch.inference_mode()
    def _predict_batch(
        self, images: Sequence[ImageLike], min_score: float, max_detections: int | None
    ) -> list[Instances]:
        tensors = [_tensor(image) for image in images]
        batch = self.transform(tensors)
        batch = ImageBatch(batch.tensors.to(self.device), batch.sizes)
        self.network.eval()
        output = self.network(batch, min_score=min_score, max_detections=max_detections)
        results = []
        for image, tensor, found in zip(images, tensors, output.detections, strict=True):
            size = (int(tensor.shape[1]), int(tensor.shape[2]))
            instances = self.transform.invert(found.to("cpu"), size)
            path = Path(image) if isinstance(image, str | Path) else None
            results.append(replace(instances, class_names=self.class_names, path=path))
        return results

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says beside the weights, as JSON; :func:`load` builds the detector from it."""
        from rcnn.models import MODELS

        architecture = next(name for name, cls in MODELS.items() if type(self.network) is cls)
        return {
            **self.info,
            "architecture": architecture,
            "model": plain(self.network.settings),
            "class_names": list(self.class_names),
            "transform": plain(self.transform),
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
        return checkpoint.save(path, weights, self.describe())


def load(path: str | Path, device: str | torch.device | None = None) -> Detector:
    """Open a trained model.

    Args:
        path: a checkpoint, a run folder (its best checkpoint, else its last), or the name of published
            weights such as ``maskrcnn_resnet50_fpn_coco``, which are downloaded.
        device: where it runs; None takes a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such file, folder or published model.
        ValueError: the file is no checkpoint, or does not fit this version of the package.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    file = _checkpoint_file(path)
    detector = _published(str(path)) if file is None else _read(file)
    keep_memory()
    detector.network.to(device).eval()
    return detector


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
    if file.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (file / name).is_file():
                return file / name
        raise ValueError(
            f"{file}: no model in this folder; expected best.safetensors or last.safetensors of a run"
        )
    is_name = isinstance(path, str) and not file.suffix and len(file.parts) == 1
    return None if is_name and not file.exists() else file


def _published(name: str) -> Detector:
    from rcnn.weights import load_published

    try:
        detector: Detector = load_published(name)
    except KeyError as error:
        raise FileNotFoundError(f"{name}: no such file or folder, and no published model") from error
    return detector


def _read(file: Path) -> Detector:
    from rcnn.models import MODELS

    tensors, metadata = checkpoint.load(file)
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
    try:
        settings = build_settings(model.Settings(), metadata["model"], "model")
        transform = build_settings(Transform(), metadata["transform"], "transform")
        network: nn.Module = model(len(class_names), settings)
        network.load_state_dict(_weights(tensors))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{file}: made by another version of rcnn? {error}") from error
    info = {key: value for key, value in metadata.items() if key not in _OWN_METADATA}
    return Detector(network, transform, class_names, float(metadata["min_score"]), info)


def _weights(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The network's weights among a checkpoint's tensors."""
    for prefix in WEIGHT_PREFIXES:
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if found:
            return found
    return tensors


def _tensor(image: ImageLike) -> Tensor:
    """uint8 or float ``[3, H, W]`` of anything that counts as an image."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _array_tensor(_rgb(ImageOps.exif_transpose(image)))
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
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(f"an image array must be [H, W], [H, W, 3] or [H, W, 4]; got {list(array.shape)}")
    pixels = _pixels(array[:, :, :3])
    rgb = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))


def _pixels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """The values as uint8, or as float32 in [0, 1]."""
    if array.dtype.kind in "ui":
        return array if array.dtype == np.uint8 else _scaled(array)
    if array.dtype.kind != "f":
        raise ValueError(f"an image array must hold integers or floats; got {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"a float image must lie in [0, 1]; got {low:g} to {high:g}: divide, or pass integers"
        )
    return array.astype(np.float32)


def save_instances(instances: Instances, path: Path) -> Path:
    """Write one image's objects; see :meth:`rcnn.Instances.save`.

    Raises:
        ValueError: an unknown ending, or an overlay where the image file is not known.
    """
    path, ending = Path(path), Path(path).suffix.lower()
    if ending == ".json":
        image_id = 0 if instances.path is None else instances.path.name
        content = json.dumps(instances.to_coco(image_id)).encode()
    elif ending == ".csv":
        name = "" if instances.path is None else instances.path.name
        content = _csv([OBJECT_COLUMNS, *([name, *row] for row in object_rows(instances))]).encode()
    elif ending in (".png", ".jpg", ".jpeg"):
        if instances.path is None:
            raise ValueError(
                f"{path}: an overlay needs the image; predict from a file, or draw with rcnn.draw"
            )
        return write_picture(draw(read_image(instances.path), instances), path)
    else:
        raise ValueError(f"{path}: unknown ending {ending!r}; expected .json, .csv, .png or .jpg")
    checkpoint.write_atomically(path, content)
    return path


def object_rows(instances: Instances) -> list[list[str]]:
    """The columns of ``objects.csv`` after the image: class, score, box, area and centroid, in pixels.

    Area and centroid are the mask's where there are masks, else the box's.
    """
    boxes = instances.boxes
    if instances.masks is None:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        centroids = (boxes[:, :2] + boxes[:, 2:]) / 2
    else:
        areas, centroids = instances.masks.areas(), _centroids(instances.masks, boxes)
    scores = torch.ones(len(boxes)) if instances.scores is None else instances.scores
    numbers = torch.cat([boxes, areas[:, None], centroids], 1).tolist()
    return [
        [name, f"{score:.4f}", *(f"{value:.2f}" for value in row)]
        for name, score, row in zip(instances.names, scores.tolist(), numbers, strict=True)
    ]


def _centroids(masks: Masks, boxes: Tensor) -> Tensor:
    """float32 ``[N, 2]``: x and y of each mask's centre of mass; the box's centre for an empty mask."""
    centroids = (boxes[:, :2] + boxes[:, 2:]) / 2
    for centroid, patch, (x1, y1, _, _) in zip(
        centroids, masks.patches(), masks.windows.tolist(), strict=True
    ):
        ys, xs = patch.nonzero(as_tuple=True)
        if len(ys):
            # Pixel i covers [i, i + 1): its centre is at i + 0.5.
            centroid.copy_(torch.stack([xs.float().mean() + x1, ys.float().mean() + y1]) + 0.5)
    return centroids


@dataclass(frozen=True)
class Summary:
    """What :func:`predict_to_files` did.

    Attributes:
        out: the folder written.
        counts: objects of each class over all images, classes without objects included.
        images: images predicted.
        failed: message of each image that could not be used.
    """

    out: Path
    counts: dict[str, int]
    images: int
    failed: tuple[str, ...]


def predict_to_files(
    detector: Detector,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict images and folders, and write what was found into a folder.

    It then holds ``overlays/NAME.png``, ``predictions.json`` (COCO results; ``image_id`` is the image's path
    below the given folder), ``objects.csv`` and ``counts.csv``. The three tables appear when all images are
    done, or with what is done when the user interrupts. An image that cannot be read is passed over and
    reported.

    Args:
        detector: the trained model.
        inputs: image files, and folders to be searched at every depth.
        out: the folder; made where missing.
        min_score: as in :meth:`Detector.predict`.
        max_detections: likewise.
        progress: called with the number of images done and of all.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: a folder without images.
        OSError: the folder cannot be written.
    """
    out = Path(out)
    images = find_images(inputs, exclude=out)
    overlays = _overlay_names(list(images))
    failed: list[str] = []
    with _Tables(out, detector.class_names) as tables:
        for done, (image_id, path) in enumerate(images.items(), 1):
            try:
                image = read_image(path)
            except ImageError as error:
                failed.append(str(error))
            else:
                found = detector.predict(image, min_score=min_score, max_detections=max_detections)[0]
                write_picture(draw(image, found), out / "overlays" / overlays[image_id])
                tables.add(image_id, found)
            if progress is not None:
                progress(done, len(images))
    return Summary(out, dict(tables.counts), tables.images, tuple(failed))


def find_images(inputs: Sequence[str | Path], exclude: Path | None = None) -> dict[str, Path]:
    """The image files in files and folders, by a name that tells them apart.

    The name is the path below the given folder with ``/`` between its parts; where two inputs share it, the
    folder's own name comes before it, then a number. A file reached twice counts once. Hidden files and
    everything below ``exclude`` are left out.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: an input folder without images.
    """
    named: dict[str, Path] = {}
    seen: set[Path] = set()
    for given in map(Path, inputs):
        for path in _images_of(given, exclude):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            below = path.relative_to(given if given.is_dir() else given.parent).as_posix()
            folder = (given if given.is_dir() else given.parent).resolve().name
            names = (below, f"{folder}/{below}", *(f"{folder}-{i}/{below}" for i in range(2, len(named) + 3)))
            named[next(name for name in names if name not in named)] = path
    return named


def _images_of(given: Path, exclude: Path | None) -> list[Path]:
    """The file itself, or the image files at every depth of the folder."""
    if not given.exists():
        raise FileNotFoundError(f"{given}: no such image or folder")
    if not given.is_dir():
        return [given]
    hidden = None if exclude is None else exclude.resolve()
    found = [
        path
        for path in sorted(given.rglob("*"))
        if path.suffix.lower() in IMAGE_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(given).parts)
        and (hidden is None or hidden not in path.resolve().parents)
        and path.is_file()
    ]
    if not found:
        endings = " ".join(sorted(IMAGE_ENDINGS))
        raise ValueError(f"{given}: no images in this folder; looked for {endings}")
    return found


def _overlay_names(image_ids: Sequence[str]) -> dict[str, str]:
    """``a/b.jpg`` becomes ``a/b.png``, or ``a/b.jpg.png`` where there is an ``a/b.tif`` too."""
    stems = {i: str(Path(i).with_suffix("")) for i in image_ids}
    # Not all file systems tell upper from lower case.
    taken = Counter(name.casefold() for name in (*stems.values(), *image_ids))
    return {i: f"{stem if taken[stem.casefold()] == 1 else i}.png" for i, stem in stems.items()}


class _Tables:
    """The three tables, written row by row beside their place and put there at the end."""

    def __init__(self, out: Path, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names
        self.counts = Counter(dict.fromkeys(class_names, 0))
        self.images = 0
        self.results = 0
        out.mkdir(parents=True, exist_ok=True)
        self.paths = [out / name for name in ("predictions.json", "objects.csv", "counts.csv")]

    def __enter__(self) -> _Tables:
        self.files: list[IO[str]] = [
            _part(path).open("w", encoding="utf-8", newline="") for path in self.paths
        ]
        self.files[0].write("[")
        self.files[1].write(_csv([OBJECT_COLUMNS]))
        self.files[2].write(_csv([COUNT_COLUMNS]))
        return self

    def add(self, image_id: str, found: Instances) -> None:
        """Append one image's objects; every class has its count, 0 included."""
        for result in found.to_coco(image_id):
            self.files[0].write((",\n" if self.results else "\n") + json.dumps(result, ensure_ascii=False))
            self.results += 1
        self.files[1].write(_csv([image_id, *row] for row in object_rows(found)))
        counts = Counter(found.names)
        self.files[2].write(_csv([image_id, name, counts[name]] for name in self.class_names))
        self.counts.update(counts)
        self.images += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = kind is None or issubclass(kind, KeyboardInterrupt)
        if keep:
            self.files[0].write("\n]\n")
        for file, path in zip(self.files, self.paths, strict=True):
            # A full disk fails here again; the first error is the one to be seen.
            with contextlib.nullcontext() if keep else contextlib.suppress(OSError):
                file.close()
            if keep:
                _part(path).replace(path)
            else:
                _part(path).unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_picture(picture: Tensor, path: Path) -> Path:
    """Write a uint8 ``[3, H, W]`` as ``.png`` or ``.jpg``, in one step; missing folders are made."""
    content = io.BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    # Speed over size: an overlay is looked at once.
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    image.save(content, kind, compress_level=1, quality=92)
    checkpoint.write_atomically(path, content.getvalue())
    return path
