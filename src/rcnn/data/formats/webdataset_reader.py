"""WebDataset's tar shards read: places of samples in flat arrays, images and masks when they are used.

Shards that rcnn wrote begin with a member ``__rcnn__``, which says what labels and keypoints mean; others are
read by :mod:`rcnn.data.formats.webdataset_coco`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.data.formats.shard_records import ShardRecords, StoredRow, joined, opened_shards
from rcnn.data.formats.shard_rows import Meaning
from rcnn.data.formats.tar_places import PlacesBuilder, TarPlaces
from rcnn.data.formats.tar_shards import (
    MAPS,
    META,
    TarSample,
    explained,
    is_tar_of_samples,
    members_of,
    samples_of,
    split_patterns,
    tar_files,
)
from rcnn.data.formats.webdataset_coco import read_coco_samples
from rcnn.data.formats.webdataset_json import columns_of, small_row

NAME = "webdataset"
ROWS_AT_ONCE = 1000  # that become arrays together


def is_webdataset(path: Path, images: Path | None = None) -> bool:
    """Whether a path is a shard, or has the shards of one split.

    Raises:
        ValueError: names with braces that are not there.
    """
    files = tar_files(path)
    return bool(files) and images is None and not split_patterns(path) and is_tar_of_samples(files[0])


def read_webdataset(path: str | Path) -> Dataset:
    """Open tar shards of images with their annotations.

    Args:
        path: a shard, a folder of shards, or names with braces or an asterisk.

    Raises:
        ValueError: no shards, files of several data sets, a damaged or compressed one; the message names it.
    """
    path = Path(path)
    files = tar_files(path)
    if not files:
        raise ValueError(f"{path}: no .tar file; expected shards with an image and its .json for each key")
    if patterns := split_patterns(path):
        names = ", ".join(map(str, patterns))
        raise ValueError(f"{path}: it has shards of several splits; name one of them: {names}")
    meanings = [_meaning(file) for file in files]
    first = meanings[0]
    for file, meaning in zip(files, meanings, strict=True):
        if meaning != first:
            raise ValueError(f"{file}: its classes or keypoints are not those of {files[0]}")
    if first is None:
        return read_coco_samples(NAME, path, files)
    return _read_own(path, files, first)


def _meaning(file: Path) -> Meaning | None:
    """What the samples of a shard have in common; None if rcnn did not write it."""
    with contextlib.closing(members_of(file)) as members:
        member = next(members, None)
    if member is None or member.name != META:
        return None
    with explained(file), file.open("rb") as opened:
        opened.seek(member.offset_data)
        return Meaning.of_json(opened.read(member.size), file)


def _read_own(path: Path, files: Sequence[Path], meaning: Meaning) -> Dataset:
    places = PlacesBuilder()
    parts = []
    for file in files:
        with explained(file), file.open("rb") as opened:
            samples = samples_of(file)
            while chunk := list(_rows(file, opened, samples, places, meaning)):
                parts.append(_columns(file, chunk, meaning))
    found = places.build()
    for number in found.repeated():
        row = found.row(number)
        raise ValueError(f"{row.file}: {row.place} is in the shards twice: remove one, or write them again")
    if not parts:
        parts = [_columns(path, [], meaning)]
    return opened_shards(NAME, path, TarRecords(meaning, joined(parts), found))


def _rows(
    file: Path, opened: BinaryIO, samples: Iterator[TarSample], places: PlacesBuilder, meaning: Meaning
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The next samples: the key, the row, and whether there is a class of every pixel.

    Raises:
        ValueError: a damaged sample; the message names the file and the key.
    """
    for done, sample in enumerate(samples, 1):
        image, annotations = sample.image(), sample.annotations()
        lacking = [name for name, part in (("image", image), ("json", annotations)) if part is None]
        if image is None or annotations is None or sample.faults:
            what = "; ".join([*sample.faults, *(f"It has no {name}." for name in lacking)])
            raise ValueError(f"{file}: sample {sample.key}: {what} Write the shards again.")
        opened.seek(annotations.offset)
        try:
            row = small_row(opened.read(annotations.size), meaning)
        except ValueError as error:
            raise ValueError(f"{file}: sample {sample.key}: {error}: write the shards again") from error
        places.add(file, sample, image[1], annotations)
        yield sample.key, row, MAPS in sample.members
        if done == ROWS_AT_ONCE:
            return


def _columns(
    file: Path, rows: Sequence[tuple[str, dict[str, Any], bool]], meaning: Meaning
) -> dict[str, Any]:
    """Rows as arrays, checked.

    Raises:
        ValueError: one contradicts itself; the message names the file and the key.
    """
    try:
        return columns_of([row for _, row, _ in rows], [mapped for *_, mapped in rows], meaning)
    except ValueError as error:
        for key, row, mapped in rows if len(rows) > 1 else ():
            _columns(file, [(key, row, mapped)], meaning)
        raise ValueError(f"{file}: sample {rows[0][0]}: {error}: write the shards again") from error


class TarRecords(ShardRecords):
    """The records of tar shards that rcnn wrote."""

    def __init__(self, meaning: Meaning, arrays: dict[str, Any], places: TarPlaces) -> None:
        """Records of these samples."""
        super().__init__(meaning, arrays)
        self.places = places

    def row(self, number: int) -> StoredRow:
        """Where a sample is."""
        return self.places.row(number)

    def read_ahead(self, number: int) -> None:
        """Begin to read the block of an image."""
        self.places.read_ahead(number)

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The block of each of some samples, which are read together."""
        return self.places.shards_of(indices)
