"""What is written of predictions: overlays, a COCO file, maps of classes, tables of objects and areas.

The same files whatever predicts, a network or an exported file; for the latter without torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.formats.coco_panoptic import PanopticWriter
from rcnn.data.formats.coco_text import CocoText
from rcnn.data.formats.writer import LOST_FILE
from rcnn.draw import semantic_colours
from rcnn.inference.identity import digest_of
from rcnn.inference.measured import ImageMeasured
from rcnn.inference.output_files import OutputFiles, noted, output_folder
from rcnn.inference.output_tables import OutputTables, check_output, clear_output
from rcnn.inference.sources import find_images, listed_ids
from rcnn.io.atomic import write_atomically, write_image
from rcnn.io.images import ImageError, read_image
from rcnn.io.reading import reason_of
from rcnn.parts.selective_search import require_opencv
from rcnn.structures import Array, Instances, merge
from rcnn.structures.coco import category_entries

if TYPE_CHECKING:
    from rcnn.inference.annotation_folders import AnnotationFolders
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

MEASURED_OPACITY = 0.6  # of masks whose colours are to be compared with a colour bar


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
    names = overlay_names(list(images))
    shown = _Pictures(detector, out, ids, files)
    failed: list[str] = []
    in_results = {name: name for name in images} if named else ids
    tables = OutputTables(
        out, detector, predictions, asked, command, image_ids=in_results, folders=folders, measurer=measurer
    )  # fmt: skip
    with tables, shown.completed(tables):
        for done, (image_id, path) in enumerate(images.items(), 1):
            if image_id not in tables.done:
                first = tables.counts.total() + 1
                try:
                    image = read_image(path, reading=detector.reading, channels=detector.channels)
                    found = detector.predict(image, min_score=min_score, max_detections=max_detections)[0]
                    measured = None if measurer is None else measurer.measured(image_id, path, found, first)
                except Exception as error:  # whatever a decoder raises must not lose the other images
                    failed.append(_explained(path, error))
                else:
                    most = max_detections or detector.cap(found.size)
                    full = most is not None and len(found) >= most
                    shown.write(image_id, names[image_id], first, image=image, found=found, measured=measured)
                    _add(tables, shown, image_id, path, found=found, full=full, measured=measured)
            if progress is not None:
                progress(done, len(images))
    return Summary(
        out, dict(tables.counts), tables.images, (*failed, *tables.failed), detector.used_precision,
        tables.pixel_fractions(), tuple(tables.full), dict(tables.cut),
        {} if folders is None else {name: dict(lost) for name, lost in folders.lost.items()},
        "" if measurer is None else measurer.pixel_size,
    )  # fmt: skip


def _add(
    tables: OutputTables,
    shown: _Pictures,
    image_id: str,
    path: Path,
    *,
    found: Instances,
    full: bool,
    measured: ImageMeasured | None,
) -> None:
    """Append an image whose pictures are written to the tables and to the folders of other formats."""
    annotations = tables.annotated(image_id, path, found, measured)
    tables.add(
        image_id, found, full=full, failed=[*shown.failed, *annotations.failed], partition=shown.partition,
        annotations=annotations, rows=None if measured is None else measured.rows,
    )  # fmt: skip


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


class _Pictures:
    """The pictures of a prediction: overlays, maps and partitions.

    Attributes:
        failed: what could not be written of the latest image.
        partition: its entries in ``panoptic.json``, of a panoptic model.
    """

    def __init__(
        self,
        detector: Detector | ExportedDetector,
        out: Path,
        ids: Mapping[str, int | str],
        files: OutputFiles,
    ) -> None:
        self.out, self.ids, self.files = out, ids, files
        self.failed: list[str] = []
        self.partition: dict[str, Any] | None = None
        # The objects were chosen by their scores before.
        self._settings = None if detector.merge is None else replace(detector.merge, min_score=0.0)
        stuff = detector.info.get("stuff_ids")
        ids_of_both = () if stuff is None else (*detector.category_ids, *stuff)
        self._writer = PanopticWriter(out / "panoptic.json", ids_of_both)

    def write(
        self,
        image_id: str,
        name: str,
        first: int,
        *,
        image: Array,
        found: Instances,
        measured: ImageMeasured | None = None,
    ) -> None:
        """Write those of one image, whose first object has the row ``first``.

        What cannot be written is noted, unless nothing can be.

        Raises:
            OSError: the disk is full or broken.
        """
        self.failed, self.partition = [], None
        pictured, indices = found, np.arange(len(found))
        with noted(f"{image_id}: its partition", self.failed):
            pictured, indices = self._partitioned(image_id, found, name)
        if self.files.overlays:
            with noted(f"{image_id}: its overlay", self.failed):
                numbers = (first + indices).tolist()
                options: dict[str, Any] = {"scale": self.files.overlay_scale, "numbers": numbers}
                if measured is None or measured.colours is None:
                    overlay = pictured.overlay(image, **options)
                else:
                    colours = [measured.colours[i] for i in indices.tolist()]
                    overlay = pictured.overlay(image, colours=colours, opacity=MEASURED_OPACITY, **options)
                    overlay = measured.with_colour_bar(overlay)
                ending = f".{self.files.overlay_format}"
                write_image(overlay, self.out / "overlays" / f"{name.removesuffix('.png')}{ending}")
        if found.semantic is not None:
            with noted(f"{image_id}: its map", self.failed):
                write_map(found.semantic, found.semantic_names, self.out / "maps" / name)

    def _partitioned(
        self, image_id: str, found: Instances, name: str
    ) -> tuple[Instances, npt.NDArray[np.int64]]:
        """What the picture of an image shows: what was found or, for a panoptic model, the partition.

        With it comes the index of each object that is shown among those that were found.
        """
        if self._settings is None:
            return found, np.arange(len(found))
        partition = merge(found, settings=self._settings)
        self._writer.add(self.ids[image_id], image_id, partition, png=name)
        self.partition = {
            "image": self._writer.images[-1],
            "annotation": self._writer.annotations[-1],
            "categories": self._writer.categories,
        }
        assert partition.objects is not None
        return partition.instances(), partition.objects

    @contextlib.contextmanager
    def completed(self, tables: OutputTables) -> Iterator[None]:
        """At the end of what is done inside, however it ends, write ``panoptic.json`` of all images done."""
        try:
            yield
        finally:
            if self._settings is not None:
                done = [row["partition"] for row in tables.done.values() if row["partition"]]
                self._writer.images = [entry["image"] for entry in done]
                self._writer.annotations = [entry["annotation"] for entry in done]
                self._writer.categories = done[-1]["categories"] if done else []
                self._writer.close()


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
