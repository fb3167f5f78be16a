"""What is written of predictions: overlays, a COCO file, maps of classes, tables of objects and areas.

The same files whatever predicts, a network or an exported file; for the latter without torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.data.cores import available_cores
from rcnn.data.formats.coco_text import CocoText
from rcnn.data.formats.writer import LOST_FILE
from rcnn.inference.identity import digest_of
from rcnn.inference.measured import ImageMeasured, Measurer
from rcnn.inference.output_files import OutputFiles, output_folder
from rcnn.inference.output_tables import ImageEntry, OutputTables, check_output, clear_output
from rcnn.inference.pictures import PictureNotes, Pictures, overlay_names
from rcnn.inference.sources import find_images, listed_ids
from rcnn.io.ahead import MAX_THREADS, ahead, working_threads
from rcnn.io.images import ImageError, read_image
from rcnn.io.reading import reason_of
from rcnn.parts.selective_search import require_opencv
from rcnn.structures import Array, Instances
from rcnn.structures.coco import category_entries

if TYPE_CHECKING:
    from rcnn.inference.annotation_folders import AnnotationFolders
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

MAX_BYTES = 2**26  # of the images that are given to the network in one call


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
        cut: by image, the number of objects that a tile cuts and whose rest was not found.
        lost: by format of ``OutputFiles.to``: how much of what kind it could not hold, which its ``lost.txt``
            lists.
        pixel_size: of a prediction that measures: the side of a pixel, and where it is from.
    """

    out: Path
    counts: dict[str, int]
    images: int
    failed: tuple[str, ...]
    precision: str
    pixel_fractions: dict[str, float] = field(default_factory=dict)
    full: tuple[str, ...] = ()
    cut: dict[str, int] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    pixel_size: str = ""

    def lost_lines(self) -> list[str]:
        """A line for each format that could not hold everything."""
        lines = []
        for name, kinds in self.lost.items():
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            lines += (
                [f"{name} cannot hold: {counts}; listed in {self.out / name / LOST_FILE}"] if counts else []
            )
        return lines


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
    overwrite: bool = False,
) -> Summary:
    """Predict images and folders, and write what was found into a folder.

    It then holds ``overlays/NAME.png`` (the number of an object is its row in ``objects.csv``),
    ``predictions.json`` (a COCO file with scores; ``file_name`` is the image's path below the given folder,
    ``category_id`` that of the data which the model was trained on), ``objects.csv`` and ``counts.csv``; for
    a model that classifies pixels ``maps/NAME.png`` and ``areas.csv``; and ``run.json``, which says what was
    asked for and in which precision the model computed. An image that cannot be read, or a picture that
    cannot be written, is skipped and reported.

    Tables are written as images are done. Whatever stops the prediction, what is done is kept, and the same
    call into the same folder continues; a folder that holds anything else is refused.

    With ``OutputFiles(to=("coco", "labels"))`` the objects are also written as data sets, each into the
    folder of its format; an object's number is its row in ``objects.csv`` there, too.

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
        files: the form of what is written, and further formats; None for the defaults.
        progress: called with the number of images done and of all.
        overwrite: replace what an earlier prediction wrote to ``out``.

    Raises:
        FileNotFoundError: an input that does not exist.
        ValueError: a folder without images, images that ``image_ids`` does not list, or an ``out`` that holds
            something else than this prediction, unfinished.
        OSError: the folder cannot be written, or no longer; what is done is kept.
    """
    out, files = output_folder(out), files or OutputFiles()
    images = find_images(inputs, exclude=out)
    check_output(out, overwrite=overwrite)
    ids: dict[str, int | str] = {name: number for number, name in enumerate(images, 1)}
    if image_ids is not None:
        ids = listed_ids(Path(image_ids), images)
    named = files.results_only and image_ids is None
    categories = category_entries(detector.class_names, detector.category_ids, detector.skeleton)
    predictions = CocoText(categories, results_only=files.results_only)
    asked: dict[str, Any] = {
        "min_score": detector.min_score if min_score is None else min_score, "max_detections": max_detections,
    }  # fmt: skip
    if getattr(getattr(detector, "network", None), "needs_proposals", False):
        require_opencv()
    folders = _folders(files, out, detector, images, ids)
    measurer = None
    if files.measuring is not None:
        measurer = files.measuring.prepared(images, detector)
        asked["measuring"] = asdict(files)["measuring"]
    if overwrite:
        clear_output(out)
    places = [str(path.resolve()) for path in images.values()]
    command = _command(detector, [asked, asdict(files), list(ids.items()), places])
    in_results = {name: name for name in images} if named else ids
    tables = OutputTables(
        out, detector, predictions, asked, command, image_ids=in_results, folders=folders, measurer=measurer
    )  # fmt: skip
    prediction = _Prediction(
        detector, {"min_score": min_score, "max_detections": max_detections}, images, tables,
        Pictures(detector, out, ids, files), measurer, overlay_names(list(images)),
    )  # fmt: skip
    # Interrupted, the tables are completed before threads that still draw are waited for.
    with tables.lock, working_threads(min(MAX_THREADS, available_cores())) as pool, tables:
        failed = prediction.run(pool, progress)
    return Summary(
        out, dict(tables.counts), tables.images, (*failed, *tables.failed), detector.used_precision,
        tables.pixel_fractions(), tuple(tables.full), dict(tables.cut),
        {} if folders is None else {name: dict(lost) for name, lost in folders.lost.items()},
        "" if measurer is None else measurer.pixel_size,
    )  # fmt: skip


@dataclass(frozen=True)
class _Seen:
    """An image on its way through a prediction, or why it was given up.

    Attributes:
        name: its name.
        image: its pixels.
        found: its objects, once it was predicted.
        first: the row of its first object.
        measured: what was measured of them.
        error: why it was given up.
    """

    name: str
    image: Array | None = None
    found: Instances | None = None
    first: int = 0
    measured: ImageMeasured | None = None
    error: str = ""


@dataclass(frozen=True)
class _Written:
    """What is to be noted of an image whose pictures are written; without an entry, it was given up."""

    seen: _Seen
    entry: ImageEntry | None = None
    pictures: PictureNotes = field(default_factory=PictureNotes)


@dataclass(frozen=True)
class _Prediction:
    """The way of all images: threads read them, the network sees them, threads draw and write them.

    Attributes:
        detector: what predicts.
        asked: what it is asked for.
        images: their files, by their names.
        tables: where they are noted, in order.
        pictures: what is drawn of them.
        measurer: measures the objects.
        names: of the pictures, by the images' names.
    """

    detector: Detector | ExportedDetector
    asked: Mapping[str, Any]
    images: Mapping[str, Path]
    tables: OutputTables
    pictures: Pictures
    measurer: Measurer | None
    names: Mapping[str, str]

    def run(self, pool: Executor, progress: Callable[[int, int], None] | None) -> list[str]:
        """Predict the images that are not done; a message for each that could not be used is returned."""
        left = [name for name in self.images if name not in self.tables.done]
        depth = 2 * self.detector.batch_size
        seen = self._predicted(ahead(pool, self._read, left, depth, least=depth))
        failed: list[str] = []
        before = len(self.images) - len(left)
        try:
            for done, one in enumerate(ahead(pool, self._written, seen, depth), before + 1):
                if one.entry is None:
                    failed.append(one.seen.error)
                else:
                    self._note(one.seen, one.entry, one.pictures)
                if progress is not None:
                    progress(done, len(self.images))
        finally:
            self.pictures.complete(self.tables.done.values())
        return failed

    def _read(self, name: str) -> _Seen:
        """In a thread: an image's pixels."""
        detector = self.detector
        try:
            return _Seen(
                name, read_image(self.images[name], reading=detector.reading, channels=detector.channels)
            )
        except Exception as error:  # whatever a decoder raises must not lose the other images
            return self._given_up(name, error)

    def _predicted(self, images: Iterable[_Seen]) -> Iterator[_Seen]:
        """The images with their objects, numbered in order."""
        first = self.tables.counts.total() + 1
        for group in _groups(images, self.detector.batch_size):
            for one in self._found(group):
                measured = self._measured(one, first)
                yield measured
                first += 0 if measured.found is None else len(measured.found)

    def _found(self, group: Sequence[_Seen]) -> list[_Seen]:
        """A group of images with their objects; one image that fails must not lose the others."""
        images = [one.image for one in group if one.image is not None]
        try:
            results = iter(self.detector.predict(images, **self.asked) if images else ())
        except Exception as error:
            if len(group) == 1:
                return [self._given_up(group[0].name, error)]
            return [seen for one in group for seen in self._found([one])]
        return [one if one.image is None else replace(one, found=next(results)) for one in group]

    def _measured(self, seen: _Seen, first: int) -> _Seen:
        """An image whose objects are numbered and, if wanted, measured."""
        if seen.found is None:
            return seen
        measured = None
        if self.measurer is not None:
            path = self.images[seen.name]
            try:
                measured = self.measurer.measured(seen.name, path, seen.found, first)
            except Exception as error:
                return self._given_up(seen.name, error)
        return replace(seen, first=first, measured=measured)

    def _given_up(self, name: str, error: Exception) -> _Seen:
        return _Seen(name, error=_explained(self.images[name], error))

    def _written(self, seen: _Seen) -> _Written:
        """In a thread: write an image's pictures, and make its text in the tables."""
        if seen.found is None or seen.image is None:
            return _Written(seen)
        most = self.asked["max_detections"] or self.detector.cap(seen.found.size)
        full = most is not None and len(seen.found) >= most
        pictures = self.pictures.write(
            seen.name, self.names[seen.name], seen.first,
            image=seen.image, found=seen.found, measured=seen.measured,
        )  # fmt: skip
        rows = None if seen.measured is None else seen.measured.rows
        entry = self.tables.entry(seen.name, seen.found, seen.first, full=full, rows=rows)
        return _Written(replace(seen, image=None), entry, pictures)

    def _note(self, seen: _Seen, entry: ImageEntry, pictures: PictureNotes) -> None:
        """Append an image to the tables and to the folders of other formats, whose files have an order."""
        assert seen.found is not None
        annotations = self.tables.annotated(seen.name, self.images[seen.name], seen.found, seen.measured)
        failed = [*pictures.failed, *annotations.failed]
        self.tables.add(entry, annotations, failed=failed, partition=pictures.partition)


def _groups(images: Iterable[_Seen], batch_size: int) -> Iterator[list[_Seen]]:
    """Images that are given to the network in one call: enough to find some of one size among them."""
    group: list[_Seen] = []
    for one in images:
        group.append(one)
        held = sum(each.image.nbytes for each in group if each.image is not None)
        if batch_size == 1 or len(group) == 2 * batch_size or held > MAX_BYTES:
            yield group
            group = []
    if group:
        yield group


def _folders(
    files: OutputFiles,
    out: Path,
    detector: Detector | ExportedDetector,
    images: Mapping[str, Path],
    ids: Mapping[str, int | str],
) -> AnnotationFolders | None:
    """The folders of the formats asked for; None of none, without importing what the formats need."""
    if not files.to:
        return None
    from rcnn.inference.annotation_folders import AnnotationFolders

    return AnnotationFolders(files.to, out, detector, images, ids, copy_images=files.copy_images)


def _command(detector: Detector | ExportedDetector, asked: Sequence[Any]) -> str:
    """A digest of what predicts and what was asked for: whether two predictions give the same files."""
    return hashlib.sha256(repr((asked, digest_of(detector))).encode(errors="surrogateescape")).hexdigest()


def _explained(path: Path, error: Exception) -> str:
    """What is said of an image; its name first."""
    if isinstance(error, ImageError):
        return str(error)
    return f"{path}: {type(error).__name__}: {reason_of(error) or 'no reason given'}"
