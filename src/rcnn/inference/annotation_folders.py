"""Predictions as annotations: the folders of ``--to``, each a data set in one of the formats.

The writers are those of ``rcnn.data.formats``, by way of the table of formats. Images are written as they
are predicted. A format with a file for each image writes it at once. The one file of another format is a
table like those of :class:`rcnn.inference.output_tables.OutputTables`: the text of each image is appended,
the journal knows how far, and so the law of that module holds. So is ``lost.txt``, the list of what a format
cannot hold.

The number of an object is its row in ``objects.csv``, in every format that has room for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.data.convert import Conversion
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.registry import find_format, for_predictions, format_key, writable
from rcnn.data.formats.writer import LOST_FILE, DroppedContent, FileWriter, Item, Written
from rcnn.data.names import refuse_names
from rcnn.data.output_folder import copy_image, file_name, output_folder, writer_of
from rcnn.inference.output_files import noted
from rcnn.inference.output_tables import ImageEntry
from rcnn.io.reading import Reading
from rcnn.structures import Instances, Size, Skeleton

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector


@dataclass(frozen=True)
class FoundData:
    """What writers know of predictions before the first; see :class:`rcnn.data.formats.writer.Described`."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] = ()
    skeleton: Skeleton | None = None
    has_masks: bool = True
    has_scores: bool = True
    has_number_ids: bool = True

    @classmethod
    def of(cls, detector: Detector | ExportedDetector, ids: Mapping[str, int | str]) -> FoundData:
        """What a model finds in images with these ids."""
        numbered = all(isinstance(image_id, int) for image_id in ids.values())
        return cls(detector.class_names, detector.category_ids, detector.skeleton, has_number_ids=numbered)


class AnnotationFolders:
    """The folders of all formats of a prediction.

    Attributes:
        names: of the folders.
        lost: the number of losses of each kind so far, by format.
    """

    def __init__(
        self,
        formats: Sequence[str],
        out: Path,
        detector: Detector | ExportedDetector,
        images: Mapping[str, Path],
        ids: Mapping[str, int | str],
        *,
        copy_images: bool = True,
    ) -> None:
        """Prepare the folders; nothing is written before :meth:`open`.

        Args:
            formats: writable keys of ``rcnn.data.formats.registry.FORMATS``, or dotted paths to custom ones.
            out: the output folder.
            detector: what predicts.
            images: all images by their names.
            ids: the id of each.
            copy_images: put the images into the folders.

        Raises:
            ValueError: a name of an image that a format cannot hold, or a model that finds no objects.
        """
        self.out, self.ids, self.copy_images, self.reading = out, ids, copy_images, detector.reading
        self.lost: dict[str, Counter[str]] = {}
        self._data = FoundData.of(detector, ids)
        if formats and not detector.class_names:
            raise ValueError(
                f"--to {formats[0]}: the model finds no objects, only classes of pixels; leave --to out"
            )
        self._keys = {folder_name(key): key for key in formats}
        self.names = list(self._keys)
        self._folders: dict[str, _Folder] = {}
        taken: set[str] = set()
        if formats:
            records = {name: _record(name, path, detector.reading) for name, path in images.items()}
            described = _as_dataset(self._data, out, list(records.values()))
            for key in formats:
                refuse_names([described], format_key(key))
                if format_key(key) in set(writable()) - set(for_predictions()):
                    raise ValueError(
                        f"--to {key}: data sets only; for predictions, expected any of "
                        f"{', '.join(for_predictions())}"
                    )
            self._file_names = {name: file_name(record, taken) for name, record in records.items()}
            self._refuse_renamed(images)

    def _refuse_renamed(self, images: Mapping[str, Path]) -> None:
        for name, path in images.items():
            if not self.copy_images and self._file_names[name] != path.name:
                raise ValueError(
                    f"{path}: its copy would be called {self._file_names[name]}, so that the annotations are "
                    "found only beside copies of the images: copy them, or rename the file"
                )

    def open(self) -> None:
        """Make the folders."""
        for name, key in self._keys.items():
            folder = self.out / name
            folder.mkdir(parents=True, exist_ok=True)
            dropped = DroppedContent()
            self._folders[name] = _Folder(name, writer_of(key, ())(folder, self._data, dropped), dropped)
            self.lost[name] = Counter()

    @property
    def files(self) -> list[str]:
        """The files that text is appended to, as paths below the output folder."""
        return [name for folder in self._folders.values() for name in folder.files]

    def start(self) -> dict[str, str]:
        """What the files begin with."""
        return {name: text for folder in self._folders.values() for name, text in folder.start().items()}

    def write(
        self,
        name: str,
        path: Path,
        found: Instances,
        first: int,
        measurements: tuple[Mapping[str, float], ...] = (),
    ) -> ImageEntry:
        """Write an image's objects, of which the first has the number ``first`` in all images.

        ``measurements`` are the numbers of each object by their names, if it was measured.

        Raises:
            ValueError: a format needs outlines, and the model finds boxes alone.
        """
        entry, copy = ImageEntry(), None
        for folder in self._folders.values():
            folder.refuse_boxes(found)
            target = folder.writer.image_path(self._file_names[name])
            numbers = tuple(range(first, first + len(found)))
            item = Item(target, replace(found, semantic=None), numbers, self.ids[name], measurements)
            failures = len(entry.failed)
            with noted(f"{name}: its annotation as {folder.name}", entry.failed):
                if self.copy_images:
                    copy_image(_record(name, path, self.reading), target, copy)
                    copy = target
                entry.texts |= folder.write(item)
            lost, text = folder.losses()
            if len(entry.failed) > failures:
                entry.unwritten.append(folder.name)
            else:
                entry.lost[folder.name] = lost
                entry.texts |= text
        return entry

    def note(self, row: Mapping[str, Any]) -> None:
        """Count an image that is written, by its line in the journal."""
        name = row["image"]
        size: Size = (row["size"][0], row["size"][1])
        for folder in self._folders.values():
            if folder.name not in row.get("unwritten", ()):
                written = Written(self._file_names[name], self.ids[name], size, row["counts"])
                folder.writer.note(written)
            self.lost[folder.name].update(row.get("lost", {}).get(folder.name, {}))

    def end(self) -> dict[str, str]:
        """What the files end with; other files that concern all images are written."""
        texts: dict[str, str] = {}
        for folder in self._folders.values():
            texts |= folder.end()
            lost, more = folder.losses()
            self.lost[folder.name].update(lost)
            texts |= more
        return texts

    def tidy(self) -> None:
        """Remove the lists of losses that are empty, once the prediction is finished."""
        for folder in self._folders.values():
            file = self.out / folder.lost_file
            if file.is_file() and not file.stat().st_size:
                file.unlink()


class _Folder:
    """One format of a prediction."""

    def __init__(self, name: str, writer: Any, dropped: DroppedContent) -> None:
        self.name, self.writer, self.dropped = name, writer, dropped
        self.lost_file = f"{name}/{LOST_FILE}"
        self._file = f"{name}/{writer.file_name}" if isinstance(writer, FileWriter) else None

    @property
    def files(self) -> list[str]:
        """Those that text is appended to."""
        return [self.lost_file] + ([] if self._file is None else [self._file])

    def start(self) -> dict[str, str]:
        """What they begin with."""
        return {} if self._file is None else {self._file: self.writer.start()}

    def refuse_boxes(self, found: Instances) -> None:
        """Refuse boxes for a format of outlines."""
        if self.writer.needs_outlines and len(found) and found.masks is None:
            raise ValueError(
                f"--to {self.name}: this format holds outlines, and the model finds boxes alone; choose csv, "
                "coco, voc, yolo or another that holds boxes"
            )

    def write(self, item: Item) -> dict[str, str]:
        """Write an image's files; what is to be appended to the format's one file is returned."""
        sifted = self.writer.sifted(item)
        if self._file is not None:
            return {self._file: self.writer.text(sifted)}
        self.writer.write(sifted)
        return {}

    def losses(self) -> tuple[dict[str, int], dict[str, str]]:
        """What was lost since the last call: the number of each kind, and the lines that list it."""
        taken = self.dropped.take()
        lines = "".join(f"{kind}: {place}\n" for kind, places in taken.items() for place in places)
        return {kind: len(places) for kind, places in taken.items()}, {self.lost_file: lines}

    def end(self) -> dict[str, str]:
        """Complete the format; what its one file ends with is returned."""
        if self._file is not None:
            return {self._file: self.writer.end()}
        self.writer.finish()
        return {}


def folder_name(key: str) -> str:
    """The folder of a format in an output folder: its key, or the name of a custom one."""
    return format_key(key) if ":" not in key else find_format(key).name


def write_annotations(
    found: Sequence[Instances],
    out: str | Path,
    *,
    to: str = "coco",
    images: Sequence[Any] | None = None,
    category_ids: Sequence[int] = (),
) -> Conversion:
    """Write the objects of images as a data set, which ``rcnn.open_data`` and other programs read.

    Objects are numbered over all images, in their order, wherever the format has room for a number.

    Args:
        found: the objects of each image, predictions or not; ``Instances.path`` names its file.
        out: the folder to create; it may exist if it is empty.
        to: a writable key of ``rcnn.data.formats.registry.FORMATS``, or a dotted path to a custom format.
        images: arrays ``[H, W, 3]`` uint8 in place of the files, written as PNG.
        category_ids: the id of each class in formats that have ids; by default label + 1.

    Raises:
        ValueError: an unknown format, a folder that is not empty, images without a file, or boxes alone for a
            format that needs outlines.
    """
    if images is not None and len(images) != len(found):
        raise ValueError(f"images: {len(images)} for the objects of {len(found)}; give one for each")
    records = [_given(one, None if images is None else images[i], i + 1) for i, one in enumerate(found)]
    names = next((one.class_names for one in found if one.class_names), ())
    skeleton = next((one.skeleton for one in found if one.skeleton is not None), None)
    data = FoundData(
        names, tuple(category_ids), skeleton,
        has_masks=all(one.masks is not None for one in found if len(one)),
        has_scores=all(one.scores is not None for one in found if len(one)),
    )  # fmt: skip
    make, target = writer_of(to, ()), Path(out)
    refuse_names([_as_dataset(data, target, records)], format_key(to))
    taken: set[str] = set()
    dropped, number = DroppedContent(), 1
    with output_folder(target) as folder:
        writer = make(folder, data, dropped)
        for record in records:
            one = record.truth
            _Folder(to, writer, dropped).refuse_boxes(one)
            image = writer.image_path(file_name(record, taken))
            copy_image(record, image)
            writer.add(Item(image, one, tuple(range(number, number + len(one))), record.image_id))
            number += len(one)
        writer.finish()
    return Conversion(target, len(records), number - 1, dropped.places)


def _as_dataset(data: FoundData, source: Path, records: Sequence[Record]) -> Dataset:
    """What is to be written, as far as names are concerned."""
    return Dataset("predictions", source, data.class_names, records, skeleton=data.skeleton)


def _record(name: str, path: Path, reading: Reading) -> Record:
    """An image that is predicted, as one of a data set."""
    return Record(path, name, Instances.empty((0, 0)), reading=reading)


def _given(found: Instances, image: Any, number: int) -> Record:
    """The objects of an image as a record of a data set, with its file or its pixels."""
    if found.path is None and image is None:
        raise ValueError(f"found[{number - 1}]: its image is not known; give images, or predict from files")
    path = Path(f"{number:06d}.png") if found.path is None else found.path
    return Record(path, number, found, image=None if image is None else lambda: image)
