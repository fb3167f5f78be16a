"""What is written of predictions: overlays, a COCO file, maps of classes, tables of objects and areas.

The same files whatever predicts, a network or an exported file; for the latter without torch.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.formats.coco_panoptic import PanopticWriter
from rcnn.draw import semantic_colours
from rcnn.inference.output_files import OutputFiles, output_folder
from rcnn.inference.predictions_file import PredictionsText
from rcnn.inference.sources import find_images, listed_ids
from rcnn.io.atomic import write_atomically, write_image
from rcnn.io.images import ImageError, read_image
from rcnn.structures import AREA_COLUMNS, OBJECT_COLUMNS, Array, Instances, merge, table

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

COUNT_COLUMNS = ("image", "class", "count")


@dataclass(frozen=True)
class Summary:
    """What :func:`predict_to_files` did.

    Attributes:
        out: the folder written.
        counts: objects of each class over all images, classes without objects included.
        images: images predicted.
        failed: message of each image that could not be used.
        precision: what the model computed in: ``float32``, ``bf16`` or ``int8``.
        pixel_fractions: the fraction of all pixels that each class of pixels has, if the model finds them.
        full: images with as many objects as can be reported, so that there may be more.
    """

    out: Path
    counts: dict[str, int]
    images: int
    failed: tuple[str, ...]
    precision: str
    pixel_fractions: dict[str, float] = field(default_factory=dict)
    full: tuple[str, ...] = ()


def predict_to_files(
    detector: Detector | ExportedDetector,
    inputs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    image_ids: str | Path | None = None,
    files: OutputFiles | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict images and folders, and write what was found into a folder.

    It then holds ``overlays/NAME.png`` (the number of an object is its row in ``objects.csv``),
    ``predictions.json`` (a COCO file with scores; ``file_name`` is the image's path below the given folder,
    ``category_id`` that of the data which the model was trained on), ``objects.csv`` and ``counts.csv``; for
    a model that classifies pixels ``maps/NAME.png`` and ``areas.csv``; and ``run.json``, which says what was
    asked for and in which precision the model computed. The tables appear when all images are done, or with
    what is done when the user interrupts. An image that cannot be read is skipped and reported.

    A model that finds objects and the classes of pixels also gives ``panoptic.json`` and
    ``panoptic/NAME.png``, in COCO's form, and overlays show these partitions.

    Args:
        detector: the trained model.
        inputs: image files, and folders to be searched at every depth.
        out: the folder; made where missing. None: ``found``, or ``found-2`` and so on.
        min_score: as in :meth:`rcnn.Detector.predict`.
        max_detections: likewise.
        image_ids: a COCO file that lists the images; ``predictions.json`` and ``panoptic.json`` then have
            its ids and can be compared with it. By default images are numbered from 1.
        files: the form of overlays and ``predictions.json``; None for the defaults.
        progress: called with the number of images done and of all.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: a folder without images, or images that ``image_ids`` does not list.
        OSError: the folder cannot be written.
    """
    out, files = output_folder(out), files or OutputFiles()
    images = find_images(inputs, exclude=out)
    ids: dict[str, int | str] = {name: number for number, name in enumerate(images, 1)}
    if image_ids is not None:
        ids = listed_ids(Path(image_ids), images)
    named = files.results_only and image_ids is None
    predictions = PredictionsText(detector, {} if named else ids, results_only=files.results_only)
    overlays = overlay_names(list(images))
    failed: list[str] = []
    full: list[str] = []
    asked = {
        "min_score": detector.min_score if min_score is None else min_score, "max_detections": max_detections,
    }  # fmt: skip
    with _Tables(out, detector, predictions, asked) as tables, _partitions(detector, out, ids) as shown:
        for done, (image_id, path) in enumerate(images.items(), 1):
            try:
                image = read_image(path, reading=detector.reading, channels=detector.channels)
            except ImageError as error:
                failed.append(str(error))
            else:
                found = detector.predict(image, min_score=min_score, max_detections=max_detections)[0]
                name = overlays[image_id]
                pictured, indices = shown(image_id, found, name)
                if files.overlays:
                    numbers = (tables.counts.total() + 1 + indices).tolist()
                    overlay = pictured.overlay(image, scale=files.overlay_scale, numbers=numbers)
                    ending = f".{files.overlay_format}"
                    write_image(overlay, out / "overlays" / f"{name.removesuffix('.png')}{ending}")
                if found.semantic is not None:
                    write_map(found.semantic, found.semantic_names, out / "maps" / name)
                tables.add(image_id, found)
                most = max_detections or detector.cap(found.size)
                full += [image_id] if most is not None and len(found) >= most else []
            if progress is not None:
                progress(done, len(images))
    return Summary(
        out, dict(tables.counts), tables.images, tuple(failed), detector.used_precision,
        tables.pixel_fractions(), tuple(full),
    )  # fmt: skip


@contextlib.contextmanager
def _partitions(
    detector: Detector | ExportedDetector, out: Path, ids: Mapping[str, int | str]
) -> Iterator[Callable[[str, Instances, str], tuple[Instances, npt.NDArray[np.int64]]]]:
    """What the picture of an image shows: what was found or, for a panoptic model, the partition.

    With it comes the index of each object that is shown among those that were found.

    Partitions are written on the way; their JSON file, with the tables' ids of images and categories, at the
    end or when the user interrupts.
    """
    merging = detector.merge
    if merging is None:
        yield lambda image_id, found, name: (found, np.arange(len(found)))
        return
    # The objects were chosen by their scores before.
    settings, stuff = replace(merging, min_score=0.0), detector.info.get("stuff_ids")
    writer = PanopticWriter(out / "panoptic.json", () if stuff is None else (*detector.category_ids, *stuff))

    def merged(image_id: str, found: Instances, name: str) -> tuple[Instances, npt.NDArray[np.int64]]:
        partition = merge(found, settings=settings)
        writer.add(ids[image_id], image_id, partition, png=name)
        assert partition.objects is not None
        return partition.instances(), partition.objects

    try:
        yield merged
    except KeyboardInterrupt:
        writer.close()
        raise
    writer.close()


def write_map(classes: Array, names: Sequence[str], path: Path) -> Path:
    """Write classes of pixels ``[H, W]`` as a palette PNG: their numbers, in the overlay's colours."""
    image = Image.fromarray(classes.astype(np.uint8)).convert("P")
    image.putpalette([value for colour in semantic_colours(names) for value in colour or (0, 0, 0)])
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    write_atomically(path, content.getvalue())
    return path


def overlay_names(image_ids: Sequence[str]) -> dict[str, str]:
    """``a/b.jpg`` becomes ``a/b.png``, or ``a/b.jpg.png`` where there is an ``a/b.tif`` too."""
    stems = {i: str(Path(i).with_suffix("")) for i in image_ids}
    # Some file systems do not distinguish upper from lower case.
    taken = Counter(name.casefold() for name in (*stems.values(), *image_ids))
    return {i: f"{stem if taken[stem.casefold()] == 1 else i}.png" for i, stem in stems.items()}


class _Tables:
    """The tables and ``run.json``, written row by row under other names and renamed at the end."""

    def __init__(
        self,
        out: Path,
        detector: Detector | ExportedDetector,
        predictions: PredictionsText,
        asked: Mapping[str, Any],
    ) -> None:
        self.class_names, self.predictions = detector.class_names, predictions
        self.run = {
            "rcnn": importlib.metadata.version("rcnn"), "precision": detector.used_precision, **asked,
        }  # fmt: skip
        self.counts = Counter(dict.fromkeys(detector.class_names, 0))
        self.pixels = Counter(dict.fromkeys(detector.semantic_names, 0))
        self.images = 0
        out.mkdir(parents=True, exist_ok=True)
        names = ["predictions.json", "objects.csv", "counts.csv"] if detector.class_names else []
        names += ["areas.csv"] if detector.semantic_names else []
        self.paths = [out / name for name in (*names, "run.json")]

    def __enter__(self) -> _Tables:
        files: list[IO[str]] = [
            # File names need not be UTF-8.
            _part(path).open("w", encoding="utf-8", errors="surrogateescape", newline="")
            for path in self.paths
        ]
        self.files = {path.stem: file for path, file in zip(self.paths, files, strict=True)}
        self._write("predictions", self.predictions.start())
        heads = {"objects": OBJECT_COLUMNS, "counts": COUNT_COLUMNS, "areas": AREA_COLUMNS}
        for name, head in heads.items():
            self._write(name, table([head]))
        return self

    def _write(self, name: str, text: str) -> None:
        """To one of the tables, if this model has it."""
        if name in self.files:
            self.files[name].write(text)

    def add(self, image_id: str, found: Instances) -> None:
        """Append one image's objects and areas; every class has its row, with 0 too."""
        objects = self.predictions.add(image_id, found)
        first = self.counts.total() + 1
        rows = table([number, image_id, *row] for number, row in enumerate(found.rows(), first))
        # From here on nothing can fail but the disk.
        self._write("predictions", objects)
        self._write("objects", rows)
        counts = Counter(found.names)
        self._write("counts", table([image_id, name, counts[name]] for name in self.class_names))
        areas = found.area_rows()
        self._write("areas", table([image_id, *row] for row in areas))
        self.pixels.update({name: int(pixels) for name, pixels, _ in areas})
        self.counts.update(counts)
        self.images += 1

    def pixel_fractions(self) -> dict[str, float]:
        """The fraction of all pixels so far that each class has."""
        total = max(1, self.pixels.total())
        return {name: pixels / total for name, pixels in self.pixels.items()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keep = kind is None or issubclass(kind, KeyboardInterrupt)
        if keep:
            self._write("predictions", self.predictions.end())
            self._write("run", json.dumps({**self.run, "images": self.images}, indent=1))
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
