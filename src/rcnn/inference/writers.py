"""What is written of predictions: overlays, COCO results, maps of classes, tables of objects and areas.

What needs torch imports it when called: the results of exported models are written without.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from rcnn.inference.exported import ExportedDetector
from rcnn.io.atomic import write_atomically, write_image
from rcnn.io.images import IMAGE_ENDINGS, ImageError, read_image, read_pixels
from rcnn.structures import arrays
from rcnn.structures.arrays import OBJECT_COLUMNS

if TYPE_CHECKING:
    from torch import Tensor

    from rcnn.inference.detector import Detector
    from rcnn.structures import Instances

COUNT_COLUMNS = ("image", "class", "count")
AREA_COLUMNS = ("image", "class", "pixels", "share")
# How data sets name the folders of their images, and those of the true masks beside them.
IMAGE_FOLDERS = ("images", "Images", "PNGImages", "JPEGImages", "leftImg8bit")
TRUTH_FOLDERS = ("masks", "labels", "PedMasks", "SegmentationClass", "SegmentationObject", "gtFine")


def save_instances(instances: Instances, path: Path) -> Path:
    """Write one image's objects; see :meth:`rcnn.Instances.save`.

    Raises:
        ValueError: an unknown ending, or an overlay where the image file is not known.
    """
    from rcnn.draw import draw

    path, ending = Path(path), Path(path).suffix.lower()
    if ending == ".json":
        image_id = 0 if instances.path is None else instances.path.name
        content = json.dumps(instances.to_coco(image_id)).encode()
    elif ending == ".csv":
        name = "" if instances.path is None else instances.path.name
        of_objects = bool(instances.class_names or len(instances))
        head, rows = (
            (OBJECT_COLUMNS, instances.numpy().rows()) if of_objects else (AREA_COLUMNS, area_rows(instances))
        )
        content = arrays.table([head, *([name, *row] for row in rows)]).encode(errors="surrogateescape")
    elif ending in (".png", ".jpg", ".jpeg"):
        if instances.path is None:
            raise ValueError(
                f"{path}: an overlay needs the image; predict from a file, or draw with rcnn.draw"
            )
        return write_picture(draw(read_image(instances.path), instances), path)
    else:
        raise ValueError(f"{path}: unknown ending {ending!r}; expected .json, .csv, .png or .jpg")
    write_atomically(path, content)
    return path


def area_rows(instances: Instances | arrays.Instances) -> list[list[str]]:
    """The columns of ``areas.csv`` after the image: class, its pixels and their share of the image."""
    if isinstance(instances, arrays.Instances) or instances.semantic is None:
        return []
    import torch

    areas = torch.bincount(instances.semantic.reshape(-1).long(), minlength=len(instances.semantic_names))
    total = max(1, instances.semantic.numel())
    named = zip(instances.semantic_names, areas.tolist(), strict=False)
    return [[name, str(area), f"{area / total:.4f}"] for name, area in named]


def write_map(instances: Instances, path: Path) -> Path:
    """Write the semantic map as a palette PNG: pixels are numbers of classes, in the overlay's colours."""
    import torch

    from rcnn.draw import semantic_colours

    assert instances.semantic is not None
    image = Image.fromarray(instances.semantic.to(torch.uint8).numpy()).convert("P")
    colours = semantic_colours(instances.semantic_names)
    image.putpalette([value for colour in colours for value in colour or (0, 0, 0)])
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    write_atomically(path, content.getvalue())
    return path


@dataclass(frozen=True)
class Summary:
    """What :func:`predict_to_files` did.

    Attributes:
        out: the folder written.
        counts: objects of each class over all images, classes without objects included.
        pixel_fractions: of the classes of pixels, the share of all pixels, where the model tells them.
        images: images predicted.
        failed: message of each image that could not be used.
        full: images with as many objects as may be reported, so that there may be more.
    """

    out: Path
    counts: dict[str, int]
    images: int
    failed: tuple[str, ...]
    pixel_fractions: dict[str, float] = field(default_factory=dict)
    full: tuple[str, ...] = ()


def predict_to_files(
    detector: Detector | ExportedDetector,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    image_ids: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict images and folders, and write what was found into a folder.

    It then holds ``overlays/NAME.png``, ``predictions.json`` (COCO results; ``image_id`` is the image's path
    below the given folder, ``category_id`` that of the data which the model was trained on), ``objects.csv``
    and ``counts.csv``; of a model that classifies pixels ``maps/NAME.png`` and ``areas.csv``. The tables
    appear when all images are done, or with what is done when the user interrupts. An image that cannot be
    read is passed over and reported.

    Of a model that tells objects and the classes of pixels there are ``panoptic.json`` and
    ``panoptic/NAME.png`` too, in COCO's form, and overlays show these partitions.

    Args:
        detector: the trained model.
        inputs: image files, and folders to be searched at every depth.
        out: the folder; made where missing.
        min_score: as in :meth:`rcnn.Detector.predict`.
        max_detections: likewise.
        image_ids: a COCO file that lists the images; ``predictions.json`` and ``panoptic.json`` then have
            its ids and can be compared with it.
        progress: called with the number of images done and of all.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: a folder without images, or images that ``image_ids`` does not list.
        OSError: the folder cannot be written.
    """
    out = Path(out)
    images = find_images(inputs, exclude=out)
    ids = {} if image_ids is None else listed_ids(Path(image_ids), images)
    categories = getattr(detector, "category_ids", None)
    overlays = _overlay_names(list(images))
    failed: list[str] = []
    full: list[str] = []
    read: Callable[[Path], Any] = read_pixels if isinstance(detector, ExportedDetector) else read_image
    with _Tables(out, detector, categories, ids) as tables, _partitions(detector, out, ids) as shown:
        for done, (image_id, path) in enumerate(images.items(), 1):
            try:
                image = read(path)
            except ImageError as error:
                failed.append(str(error))
            else:
                found = detector.predict(image, min_score=min_score, max_detections=max_detections)[0]
                name = overlays[image_id]
                _write_pictures(image, shown(image_id, found, name), out, name)
                tables.add(image_id, found)
                max_detections = max_detections or (
                    detector.max_detections
                    if isinstance(detector, ExportedDetector)
                    else detector.cap(found.size)
                )
                full += [image_id] if max_detections is not None and len(found) >= max_detections else []
            if progress is not None:
                progress(done, len(images))
    return Summary(
        out, dict(tables.counts), tables.images, tuple(failed), tables.pixel_fractions(), tuple(full)
    )


@contextlib.contextmanager
def _partitions(
    detector: Any, out: Path, ids: Mapping[str, int | str]
) -> Iterator[Callable[[str, Any, str], Any]]:
    """What pictures show of an image: what was found or, where that parts the image, the partition.

    Partitions are written on the way; their JSON file, with the ids of images and categories that the tables
    have, in the end or when the user interrupts.
    """
    merging = getattr(detector, "merge", None)
    if merging is None:
        yield lambda image_id, found, name: found
        return
    from rcnn.data.formats.coco_panoptic import PanopticWriter
    from rcnn.ops.panoptic import merge

    stuff = detector.info.get("stuff_ids")
    writer = PanopticWriter(out / "panoptic.json", () if stuff is None else (*detector.category_ids, *stuff))

    def merged(image_id: str, found: Instances, name: str) -> Instances:
        # The objects were chosen by their scores before.
        partition = merge(found, settings=replace(merging, min_score=0.0))
        writer.add(ids.get(image_id, image_id), image_id, partition, png=name)
        return partition.instances()

    try:
        yield merged
    except KeyboardInterrupt:
        writer.close()
        raise
    writer.close()


def _write_pictures(image: Any, found: Instances | arrays.Instances, out: Path, name: str) -> None:
    """The overlay, on pixels ``[H, W, 3]`` for exported models, else ``[3, H, W]``; the map of classes."""
    if isinstance(found, arrays.Instances):
        write_image(arrays.overlay(image, found), out / "overlays" / name)
        return
    from rcnn.draw import draw

    write_picture(draw(image, found), out / "overlays" / name)
    if found.semantic is not None:
        write_map(found, out / "maps" / name)


def listed_ids(file: Path, images: Mapping[str, Path]) -> dict[str, int | str]:
    """The ids that a COCO file gives to images, by the images' names in :func:`find_images`.

    An image is found by its ``file_name``, whole or, where that is the only one of its kind, without folders.

    Raises:
        ValueError: no COCO file, or images that it does not list.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["images"]
        listed = {str(entry["file_name"]): entry["id"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected a COCO file with images that have id and file_name") from error
    short = Counter(Path(name).name for name in listed)
    bare = {Path(name).name: i for name, i in listed.items() if short[Path(name).name] == 1}

    def id_of(name: str, path: Path) -> int | str | None:
        # A folder's own name may stand before the path below it.
        names = (name, name.partition("/")[2], path.name)
        return next((listed[n] for n in names[:2] if n in listed), bare.get(path.name))

    ids = {name: id_of(name, path) for name, path in images.items()}
    given: dict[int | str, str] = {}
    for name, found in ids.items():
        if found is not None and (other := given.setdefault(found, name)) != name:
            raise ValueError(f"{file}: {other} and {name} are both its image {found}; give only one of them")
    missing = [name for name, found in ids.items() if found is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{file}: does not list {missing[0]}{more}; give only images that it has")
    return {name: found for name, found in ids.items() if found is not None}


def find_images(inputs: Sequence[str | Path], exclude: Path | None = None) -> dict[str, Path]:
    """The image files in files and folders, by a name that tells them apart.

    The name is the path below the given folder with ``/`` between its parts; where two inputs share it, the
    folder's own name comes before it, then a number. So it does where they differ in upper and lower case
    alone, which not all file systems tell. A file reached twice counts once. Hidden files, everything below
    ``exclude``, and the true masks of a data set beside its images are left out.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: an input folder without images, or one that lies in ``exclude``.
    """
    named: dict[str, Path] = {}
    taken: set[str] = set()
    seen: set[Path] = set()
    for given in map(Path, inputs):
        for path in _images_of(given, exclude):
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            below = path.relative_to(given if given.is_dir() else given.parent).as_posix()
            folder = (given if given.is_dir() else given.parent).resolve().name
            numbered = (f"{folder}-{i}/{below}" for i in itertools.count(2))
            names = itertools.chain((below, f"{folder}/{below}"), numbered)
            name = next(name for name in names if name.casefold() not in taken)
            named[name] = path
            taken.add(name.casefold())
    return named


def _images_of(given: Path, exclude: Path | None) -> list[Path]:
    """The file itself, or the image files at every depth of the folder."""
    if not given.exists():
        raise FileNotFoundError(f"{given}: no such image or folder")
    if not given.is_dir():
        return [given]
    hidden = None if exclude is None else exclude.resolve()
    if hidden is not None and hidden in (given.resolve(), *given.resolve().parents):
        raise ValueError(f"{given}: these images lie in {exclude}, where results are to go; choose another")
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
    return [path for path in found if not _is_truth(path, given)] or found


def _is_truth(path: Path, given: Path) -> bool:
    """Whether ``path`` lies below ``given`` in a folder of true masks that has one of images beside it."""
    folders = list(path.relative_to(given).parents)[:-1]
    return any(
        folder.name in TRUTH_FOLDERS and any((given / folder.parent / f).is_dir() for f in IMAGE_FOLDERS)
        for folder in folders
    )


def _overlay_names(image_ids: Sequence[str]) -> dict[str, str]:
    """``a/b.jpg`` becomes ``a/b.png``, or ``a/b.jpg.png`` where there is an ``a/b.tif`` too."""
    stems = {i: str(Path(i).with_suffix("")) for i in image_ids}
    # Not all file systems tell upper from lower case.
    taken = Counter(name.casefold() for name in (*stems.values(), *image_ids))
    return {i: f"{stem if taken[stem.casefold()] == 1 else i}.png" for i, stem in stems.items()}


class _Tables:
    """The tables, written row by row beside their place and put there at the end."""

    def __init__(
        self,
        out: Path,
        detector: Detector | ExportedDetector,
        category_ids: tuple[int, ...] | None,
        image_ids: Mapping[str, int | str],
    ) -> None:
        class_names = detector.class_names
        semantic_names: tuple[str, ...] = getattr(detector, "semantic_names", ())
        self.class_names, self.category_ids, self.image_ids = class_names, category_ids, image_ids
        self.counts = Counter(dict.fromkeys(class_names, 0))
        self.pixels = Counter(dict.fromkeys(semantic_names, 0))
        self.images = 0
        self.results = 0
        out.mkdir(parents=True, exist_ok=True)
        names = ["predictions.json", "objects.csv", "counts.csv"] if class_names else []
        self.paths = [out / name for name in (*names, *(["areas.csv"] if semantic_names else []))]

    def __enter__(self) -> _Tables:
        files: list[IO[str]] = [
            # Names of files need not be UTF-8.
            _part(path).open("w", encoding="utf-8", errors="surrogateescape", newline="")
            for path in self.paths
        ]
        self.files = {path.stem: file for path, file in zip(self.paths, files, strict=True)}
        self._write("predictions", "[")
        for name, head in (
            ("objects", OBJECT_COLUMNS),
            ("counts", COUNT_COLUMNS),
            ("areas", AREA_COLUMNS),
        ):
            self._write(name, arrays.table([head]))
        return self

    def _write(self, name: str, text: str) -> None:
        """To one of the tables, if this model has it."""
        if name in self.files:
            self.files[name].write(text)

    def add(self, image_id: str, found: Instances | arrays.Instances) -> None:
        """Append one image's objects and areas; every class has its row, with 0 too."""
        results = found.to_coco(self.image_ids.get(image_id, image_id), self.category_ids)
        commas = ("," if place else "" for place in range(self.results, self.results + len(results)))
        texts = "".join(f"{comma}\n{json.dumps(one)}" for comma, one in zip(commas, results, strict=True))
        objects = found if isinstance(found, arrays.Instances) else found.numpy()
        rows = arrays.table([image_id, *row] for row in objects.rows())
        # From here on nothing can fail but the disk.
        self._write("predictions", texts)
        self.results += len(results)
        self._write("objects", rows)
        counts = Counter(found.names)
        self._write("counts", arrays.table([image_id, name, counts[name]] for name in self.class_names))
        areas = area_rows(found)
        self._write("areas", arrays.table([image_id, *row] for row in areas))
        self.pixels.update({name: int(pixels) for name, pixels, _ in areas})
        self.counts.update(counts)
        self.images += 1

    def pixel_fractions(self) -> dict[str, float]:
        """Of each class of pixels the share of all pixels so far."""
        total = max(1, self.pixels.total())
        return {name: pixels / total for name, pixels in self.pixels.items()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = kind is None or issubclass(kind, KeyboardInterrupt)
        if keep:
            self._write("predictions", "\n]\n")
        for file, path in zip(self.files.values(), self.paths, strict=True):
            # A full disk fails here again; the first error is the one to be seen.
            with contextlib.nullcontext() if keep else contextlib.suppress(OSError):
                file.close()
            if keep:
                _part(path).replace(path)
            else:
                _part(path).unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def write_picture(picture: Tensor, path: Path) -> Path:
    """Write a uint8 ``[3, H, W]`` as ``.png`` or ``.jpg``, in one step; missing folders are made."""
    return write_image(Image.fromarray(picture.permute(1, 2, 0).numpy()), path)
