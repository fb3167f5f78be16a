"""The images of the page: those of the folder or data set on the command line, and those dropped into it."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.lookup import absolute, is_within, reach_of
from rcnn.data.formats.open import open_data
from rcnn.data.formats.recognition import find_splits, guessed, recognised
from rcnn.inference.sources import find_images
from rcnn.io.images import IMAGE_ENDINGS, image_files, image_header, read_image, read_intensities
from rcnn.io.reading import Reading

CORRECTED = "corrected"
ANNOTATIONS = "annotations.json"
DROPPED = "images"  # the folder of images that were dropped into the page


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        number: its place in the collection.
        name: unique, as it is shown.
        path: the file.
        record: of a data set, with its truth.
        dropped: whether it was dropped into the page.
    """

    number: int
    name: str
    path: Path
    record: Record | None = None
    dropped: bool = False


@dataclass
class Collection:
    """All images; more may be dropped, none is taken out.

    Attributes:
        source: what was opened; None: only what is dropped.
        out: the folder of everything that the page writes.
        reading: how files are read.
        dataset: what was opened, if it is annotated.
        pictures: by number.
    """

    source: Path | None
    out: Path
    reading: Reading
    dataset: Dataset | None = None
    pictures: list[Picture] = field(default_factory=list)

    def read(self, picture: Picture) -> tuple[npt.NDArray[Any], bool]:
        """The pixels ``[H, W, C]`` in their own depth, and whether they are red, green and blue."""
        if picture.record is not None and picture.record.image is not None:
            return picture.record.load_image(), True
        return read_intensities(picture.path, self.reading)

    def read_for(self, picture: Picture, reading: Reading, channels: int) -> npt.NDArray[Any]:
        """The image as a model takes it."""
        if picture.record is not None and picture.record.image is not None:
            return picture.record.load_image()
        return read_image(picture.path, reading=reading, channels=channels)

    def measured_image(self, picture: Picture) -> Path | npt.NDArray[Any]:
        """The file whose values are measured; the pixels of an image that is inside an annotation file."""
        if picture.record is not None and picture.record.image is not None:
            return picture.record.load_image()
        return picture.path

    def file_name(self, picture: Picture) -> str:
        """The file as the corrected data set names it: relative to :attr:`out`."""
        return Path(os.path.relpath(picture.path, self.out)).as_posix()

    def drop(self, name: str, content: bytes) -> Picture:
        """Keep an image that was dropped into the page.

        Raises:
            ValueError: it is none, or cannot be read; nothing is kept of it.
            OSError: it cannot be written.
        """
        plain = safe_name(name)
        if Path(plain).suffix.lower() not in IMAGE_ENDINGS:
            raise ValueError(f"{plain}: not an image; expected {' '.join(IMAGE_ENDINGS)}")
        folder = self.out / DROPPED
        folder.mkdir(parents=True, exist_ok=True)
        path = _free(folder / plain, content)
        same = next((one for one in self.pictures if one.path == path), None)
        if same is not None:
            return same
        part = folder / f".{path.name}"
        try:
            part.write_bytes(content)
            image_header(part, self.reading)
            part.replace(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(part), plain)) from error
        finally:
            part.unlink(missing_ok=True)
        return self._add(path)

    def _add(self, path: Path) -> Picture:
        taken = {picture.name for picture in self.pictures}
        names = itertools.chain((path.name,), (f"{path.name} ({n})" for n in itertools.count(2)))
        name = next(name for name in names if name not in taken)
        picture = Picture(len(self.pictures), name, path, dropped=True)
        self.pictures.append(picture)
        return picture


def open_collection(
    source: Path | None, out: Path | None = None, reading: Reading | None = None, format: str | None = None
) -> Collection:
    """Open a folder of images, an image, or a data set; and the folder in which corrections are kept.

    Args:
        source: None: only images that are dropped into the page, or were earlier.
        out: None: beside the images, named after ``source``.
        reading: how files are read.
        format: of a data set; None: recognised.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: there are no images; a data set that cannot be opened; or an ``out`` from which a data set
            cannot refer to the images.
    """
    reading = reading or Reading()
    dataset = None if source is None else _dataset(source, reading, format)
    named: list[tuple[str, Path, Record | None]] = []
    if dataset is not None:
        reading = dataset.reading
        named = [(_shown_name(record, dataset), record.path, record) for record in dataset.records]
    elif source is not None:
        named = [(name, path, None) for name, path in find_images([source], exclude=out).items()]
    files = [path for _, path, record in named if record is None or record.image is None]
    place = out or _beside(source, files)
    _check_reach(place, files)
    pictures = [Picture(number, *one) for number, one in enumerate(_with_unique_names(named))]
    found = Collection(source, place, reading, dataset, pictures)
    if (place / DROPPED).is_dir():
        known = {picture.path.resolve() for picture in pictures}
        for path in image_files(place / DROPPED):
            if path.resolve() not in known:
                found._add(path)
    return found


def safe_name(name: str) -> str:
    """A file name that stays in its folder on every system, of what a browser calls a file."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", last).strip(" .")
    stem, ending = os.path.splitext(plain)  # noqa: PTH122 - of a name, not of a path
    while len(f"{stem}{ending}".encode()) > 200:
        stem = stem[:-1]
    return f"{stem or 'image'}{ending}"


def _free(path: Path, content: bytes) -> Path:
    """The path itself, or one with a number; a file of the same content may have it already."""
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not candidate.exists() or candidate.read_bytes() == content:
            return candidate
    raise AssertionError


def _dataset(source: Path, reading: Reading, format: str | None) -> Dataset | None:
    """The data set at a path; None where there are only images."""
    if source.is_file() and source.suffix.lower() in IMAGE_ENDINGS:
        return None
    try:
        return open_data(source, format=format, reading=reading)
    except ValueError:
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such image, folder or data set") from None
        named = format is not None or source.is_file()
        if named or recognised(source, {}) or guessed(source) or find_splits(source):
            raise
        return None


def _shown_name(record: Record, dataset: Dataset) -> str:
    source = dataset.source if dataset.source.is_dir() else dataset.source.parent
    path = absolute(record.path)
    return path.relative_to(absolute(source)).as_posix() if is_within(path, [absolute(source)]) else path.name


def _with_unique_names(
    named: Sequence[tuple[str, Path, Record | None]],
) -> list[tuple[str, Path, Record | None]]:
    taken: set[str] = set()
    unique = []
    for name, path, record in named:
        choices = itertools.chain((name,), (f"{name} ({n})" for n in itertools.count(2)))
        chosen = next(choice for choice in choices if choice not in taken)
        taken.add(chosen)
        unique.append((chosen, path, record))
    return unique


def _beside(source: Path | None, files: Sequence[Path]) -> Path:
    """Where corrections go: beside the images, as near to what was opened as can be."""
    if source is None:
        return Path(CORRECTED)
    whole = absolute(source)
    common = Path(os.path.commonpath([whole.parent, *(absolute(path).parent for path in files)]))
    common = common.parent if common == whole else common
    return common / f"{whole.stem if whole.is_file() else whole.name}-{CORRECTED}"


def _check_reach(out: Path, files: Sequence[Path]) -> None:
    reach = reach_of(absolute(out) / ANNOTATIONS)
    outside = next((path for path in files if not is_within(path, reach)), None)
    if outside is not None:
        raise ValueError(
            f"--out {out}: the corrected data set refers to its images relative to its own folder, and "
            f"{outside} is not in {reach[0]}; choose a folder beside the images"
        )
