"""Parquet shards read: what is small of all images in flat arrays, images and masks when they are used.

Legend: I images, N objects, G groups of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.data.formats.parquet_shards import KEY, parquet_modules, schema, shard_files
from rcnn.data.formats.shard_records import (
    ShardRecords,
    StoredRow,
    Texts,
    digest_bytes,
    joined,
    opened_shards,
)
from rcnn.data.formats.shard_rows import PER_OBJECT, Meaning, faults_of
from rcnn.data.shard_blocks import Block, fetched, read_ahead

LARGE = ("image", "masks", "semantic")
REQUIRED = ("name", "id", "digest", "height", "width", "boxes", "labels", "drawn", "mapped")


def read_parquet(path: str | Path) -> Dataset:
    """Open Parquet shards that ``rcnn data convert --to parquet`` wrote.

    Args:
        path: their folder, or one of them.

    Raises:
        ValueError: no shards, files of several data sets, or a damaged one; the message names it.
    """
    path = Path(path)
    files = shard_files(path)
    if not files:
        raise ValueError(
            f"{path}: no .parquet file; expected shards as rcnn data convert --to parquet writes them"
        )
    meaning = _meaning(files[0])
    groups: list[dict[str, Any]] = []
    places: list[RowGroup] = []
    for file in files:
        with _explained(file):
            opened = _opened(file)
            if _meaning_of_schema(opened.schema_arrow, file) != meaning:
                raise ValueError(f"{file}: its classes or keypoints are not those of {files[0]}")
            for number in range(opened.num_row_groups):
                groups.append(_small(opened, number, meaning, file))
                places.append(RowGroup(str(file), number))
    rows = [len(group["counts"]) for group in groups]
    records = ParquetRecords(meaning, joined(groups), places, rows)
    parquet_modules()[0].default_memory_pool().release_unused()
    return opened_shards("parquet shards", path, records)


def _meaning(file: Path) -> Meaning:
    """What the rows of a shard have in common."""
    with _explained(file):
        return _meaning_of_schema(_opened(file).schema_arrow, file)


def _meaning_of_schema(found: Any, file: Path) -> Meaning:
    """That in the metadata of a shard, whose columns are checked, too.

    Raises:
        ValueError: other columns, or metadata that are damaged.
    """
    for column in schema("{}"):
        if column.name not in found.names or found.field(column.name).type != column.type:
            raise ValueError(f"{file}: no column {column.name} of type {column.type}: it is no shard of rcnn")
    return Meaning.of_json((found.metadata or {}).get(KEY, b""), file)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Inside, pyarrow's errors about a file become one that names it."""
    pa, _ = parquet_modules()
    try:
        yield
    except (pa.ArrowException, OSError, OverflowError, MemoryError) as error:
        raise ValueError(f"{file}: not readable as Parquet ({str(error).partition(chr(10))[0]})") from error


def _opened(file: Path) -> Any:
    _, pq = parquet_modules()
    return pq.ParquetFile(file)


def _small(opened: Any, number: int, meaning: Meaning, file: Path) -> dict[str, Any]:
    """The columns of a group that are kept in memory, checked.

    Raises:
        ValueError: it names the file and the group.
    """
    columns = [name for name in schema("{}").names if name not in LARGE]
    table = opened.read_row_group(number, columns=columns, use_threads=False).combine_chunks()
    counts, boxes = _lengths(table, "labels"), _lengths(table, "boxes")
    _refuse(
        file,
        number,
        {
            "a value is missing": any(table.column(name).null_count for name in REQUIRED),
            "boxes are not four numbers per label": not np.array_equal(boxes, 4 * counts),
        },
    )
    found: dict[str, Any] = {"counts": counts}
    for name in PER_OBJECT:
        present = ~np.asarray(table.column(name).is_null())
        each = 3 * meaning.num_keypoints if name == "keypoints" else 1
        fits = np.array_equal(_lengths(table, name), np.where(present, counts * each, 0))
        _refuse(file, number, {f"{name} do not fit the objects": not fits})
        found |= {name: _flat(table, name), f"has_{name}": present}
    found |= {name: np.asarray(table.column(name)) for name in ("drawn", "mapped")}
    found |= {name: _texts(table, name) for name in ("name", "id")}
    digests = digest_bytes(table.column("digest").to_pylist())
    _refuse(file, number, {"a digest is not 32 hexadecimal digits": digests is None})
    found["digests"] = digests
    found["sizes"] = np.stack([np.asarray(table.column(n), np.int32) for n in ("height", "width")], 1)
    found["boxes"] = _flat(table, "boxes").reshape(-1, 4)
    found["labels"] = _flat(table, "labels")
    _refuse(file, number, faults_of(found, len(meaning.class_names)))
    return found


def _refuse(file: Path, group: int, faults: Mapping[str, bool]) -> None:
    for fault, found in faults.items():
        if found:
            raise ValueError(f"{file}: in group {group} of its rows, {fault}: write the shards again")


def _texts(table: Any, name: str) -> Texts:
    values = table.column(name).to_pylist()
    return Texts.of([value.encode() if isinstance(value, str) else value for value in values])


def _lengths(table: Any, name: str) -> npt.NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.list_value_length(table.column(name)).fill_null(0)).astype(np.int64)


def _flat(table: Any, name: str) -> npt.NDArray[Any]:
    import pyarrow.compute as pc

    return np.asarray(pc.list_flatten(table.column(name)))


class ParquetRecords(ShardRecords):
    """The records of Parquet shards.

    Attributes:
        places: the groups of rows.
        group: int32 ``[I]``, the group of each image.
        starts: int64 ``[G + 1]``, the number of images before each group.
    """

    def __init__(
        self, meaning: Meaning, arrays: Mapping[str, Any], places: Sequence[RowGroup], rows: Sequence[int]
    ) -> None:
        """Records of these groups of rows, with the number of rows in each."""
        super().__init__(meaning, arrays)
        self.places = tuple(places)
        self.group: npt.NDArray[np.int32] = np.repeat(np.arange(len(rows), dtype=np.int32), rows)
        self.starts = np.cumsum([0, *rows], dtype=np.int64)

    def row(self, number: int) -> StoredRow:
        """Where the row of an image is."""
        group = int(self.group[number])
        return ParquetRow(self.places[group], number - int(self.starts[group]))

    def read_ahead(self, number: int) -> None:
        """Begin to read the group of rows of an image."""
        read_ahead(self.places[int(self.group[number])])

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The group of rows of each of some images, which are read together."""
        return self.group[indices].astype(np.int64)


@dataclass(frozen=True)
class RowGroup(Block):
    """A group of rows.

    Attributes:
        file: the shard.
        number: of the group in it.
    """

    file: str
    number: int

    def read(self) -> Any:
        """Its large columns, a table."""
        with _explained(Path(self.file)):
            opened = _opened(Path(self.file))
            return opened.read_row_group(self.number, columns=list(LARGE), use_threads=False).combine_chunks()


@dataclass(frozen=True)
class ParquetRow(StoredRow):
    """A row of a group.

    Attributes:
        group: the group.
        index: of the row in it.
    """

    group: RowGroup
    index: int

    @property
    def file(self) -> str:
        """The shard."""
        return self.group.file

    @property
    def place(self) -> str:
        """The row and its group."""
        return f"row {self.index} of group {self.group.number}"

    def value(self, column: str) -> Any:
        """What a large column has there.

        Raises:
            ValueError: the file cannot be read any more.
        """
        return fetched(self.group).column(column)[self.index].as_py()
