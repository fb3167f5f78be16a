"""Parquet shards read: what is small of all images in flat arrays, images and masks when they are used.

Images are fetched with their neighbours: the rows of a group that were read last are kept, so that whoever
goes through the images shard by shard (as :mod:`rcnn.data.shard_order` does) reads each of them once.

Legend: I images, N objects, G groups of rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, LazyRecords, Objects, Record, StoredRecords
from rcnn.data.digests import short_digests
from rcnn.data.formats.parquet_shards import FLAGS, KEY, VERSION, parquet_modules, schema, shard_files
from rcnn.data.shard_order import OPEN_SHARDS
from rcnn.data.stored_images import StoredImage
from rcnn.io.pillow_files import embedded_image
from rcnn.io.reading import ImageError
from rcnn.structures import Instances, Masks, Skeleton

GROUPS_KEPT = OPEN_SHARDS + 1  # of the rows that were read last, in each process
DIGEST_BYTES = 16  # of an image file
ROWS_AT_ONCE = 10_000  # whose names are made at a time
LARGE = ("image", "masks", "semantic")
REQUIRED = ("name", "id", "digest", "height", "width", "boxes", "labels", "drawn", "mapped")
PER_OBJECT = ("areas", "keypoints", *FLAGS)


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
    meaning = Meaning.of_file(files[0])
    groups: list[dict[str, Any]] = []
    places: list[tuple[str, int]] = []
    for file in files:
        with _explained(file):
            opened = _opened(file)
            if Meaning.of_schema(opened.schema_arrow, file) != meaning:
                raise ValueError(f"{file}: its classes or keypoints are not those of {files[0]}")
            for number in range(opened.num_row_groups):
                groups.append(_small(opened, number, meaning, file))
                places.append((str(file), number))
    records = ShardRecords(meaning, places, _joined(groups))
    parquet_modules()[0].default_memory_pool().release_unused()
    return Dataset(
        format="parquet shards",
        source=path,
        class_names=meaning.class_names,
        records=LazyRecords(records),
        category_ids=meaning.category_ids,
        semantic_names=meaning.semantic_names,
        semantic_ids=meaning.semantic_ids,
        skeleton=meaning.skeleton,
    )


@dataclass(frozen=True)
class Meaning:
    """What the rows of all shards have in common; fields as in :class:`Dataset`."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    semantic_names: tuple[str, ...]
    semantic_ids: tuple[int, ...]
    skeleton: Skeleton | None

    @classmethod
    def of_file(cls, file: Path) -> Meaning:
        """That of a shard."""
        with _explained(file):
            return cls.of_schema(_opened(file).schema_arrow, file)

    @classmethod
    def of_schema(cls, found: Any, file: Path) -> Meaning:
        """That in the metadata of a shard, whose columns are checked, too.

        Raises:
            ValueError: other columns, or metadata that are damaged.
        """
        expected = schema({})
        for column in expected:
            if column.name not in found.names or found.field(column.name).type != column.type:
                raise ValueError(
                    f"{file}: no column {column.name} of type {column.type}: it is no shard of rcnn"
                )
        try:
            values = json.loads((found.metadata or {})[KEY])
            if values["version"] != VERSION:
                raise ValueError(f"version {values['version']}")
            names, semantic = _texts(values["class_names"]), _texts(values["semantic_names"])
            ids, semantic_ids = _numbers(values["category_ids"]), _numbers(values["semantic_ids"])
            if len(ids) not in (0, len(names)) or len(semantic_ids) not in (0, len(semantic)):
                raise ValueError("ids that are not one per class")
            return cls(names, ids, semantic, semantic_ids, Skeleton.from_json(values["skeleton"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: its metadata are not those of a shard ({error})") from error


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{values!r} instead of a list of names")
    return tuple(values)


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{values!r} instead of a list of numbers")
    return tuple(values)


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
    columns = [name for name in schema({}).names if name not in LARGE]
    table = opened.read_row_group(number, columns=columns, use_threads=False).combine_chunks()
    counts, boxes = _lengths(table, "labels"), _lengths(table, "boxes")
    keypoints = 0 if meaning.skeleton is None else 3 * len(meaning.skeleton.names)
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
        each = keypoints if name == "keypoints" else 1
        fits = np.array_equal(_lengths(table, name), np.where(present, counts * each, 0))
        _refuse(file, number, {f"{name} do not fit the objects": not fits})
        found |= {name: _flat(table, name), f"has_{name}": present}
    found |= {name: np.asarray(table.column(name)) for name in ("drawn", "mapped")}
    found |= {name: table.column(name).combine_chunks() for name in ("name", "id")}
    digests = _digests(table.column("digest").to_pylist())
    _refuse(file, number, {"a digest is not 32 hexadecimal digits": digests is None})
    found["digests"] = digests
    found["sizes"] = np.stack([np.asarray(table.column(n), np.int32) for n in ("height", "width")], 1)
    found["boxes"] = _flat(table, "boxes").reshape(-1, 4)
    found["labels"] = _flat(table, "labels")
    _refuse(file, number, _faults(found, len(meaning.class_names)))
    return found


def _refuse(file: Path, group: int, faults: Mapping[str, bool]) -> None:
    for fault, found in faults.items():
        if found:
            raise ValueError(f"{file}: in group {group} of its rows, {fault}: write the shards again")


def _named(found: Mapping[str, Any]) -> tuple[list[bytes], list[str]]:
    return found["name"].to_pylist(), found["id"].to_pylist()


def _is_named(name: bytes, image_id: str) -> bool:
    """Whether a name is that of a file, and an id a number or a text."""
    try:
        value = json.loads(image_id)
    except ValueError:
        return False
    is_file = name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
    return is_file and isinstance(value, int | str) and not isinstance(value, bool)


def _digests(texts: Sequence[str]) -> npt.NDArray[np.uint8] | None:
    """The digests of image files, uint8 ``[I, 16]``; None if one is something else."""
    if any(len(text) != 2 * DIGEST_BYTES for text in texts):
        return None
    try:
        values = bytes.fromhex("".join(texts))
    except ValueError:
        return None
    # Blanks are skipped, so that there may be too few.
    whole = len(values) == DIGEST_BYTES * len(texts)
    return np.frombuffer(values, np.uint8).reshape(-1, DIGEST_BYTES) if whole else None


def _lengths(table: Any, name: str) -> npt.NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.list_value_length(table.column(name)).fill_null(0)).astype(np.int64)


def _flat(table: Any, name: str) -> npt.NDArray[Any]:
    import pyarrow.compute as pc

    return np.asarray(pc.list_flatten(table.column(name)))


def _faults(found: Mapping[str, Any], classes: int) -> dict[str, bool]:
    """What may be impossible about the rows of a group, and whether it is so."""
    sizes, boxes, labels = found["sizes"], found["boxes"], found["labels"]
    limits = np.repeat(sizes[:, ::-1], found["counts"], axis=0)
    numbers = [boxes, found["areas"], found["keypoints"]]
    return {
        "the size of an image is 0 or less": bool((sizes < 1).any()),
        "a number is not finite": not all(np.isfinite(values).all() for values in numbers),
        f"a label is not one of {classes} classes": bool(((labels < 0) | (labels >= classes)).any()),
        "a box is empty or lies outside of its image": bool(
            (boxes < 0).any() or (boxes[:, 2:] > limits).any() or (boxes[:, :2] >= boxes[:, 2:]).any()
        ),
        "a name is not that of a file, or an id neither a number nor a text": not all(
            map(_is_named, *_named(found))
        ),
    }


def _joined(groups: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arrays of all groups as one each; what a group has is given up as soon as it is in them."""
    pa, _ = parquet_modules()
    rows = [len(group["counts"]) for group in groups]
    joined: dict[str, Any] = {
        "group": np.repeat(np.arange(len(groups), dtype=np.int32), rows),
        "starts": np.cumsum([0, *rows]),
        "first": np.cumsum(np.concatenate([[0], *(group.pop("counts") for group in groups)]), dtype=np.int64),
    }
    for name in list(groups[0]) if groups else ():
        parts = [group.pop(name) for group in groups]
        if name in ("name", "id"):
            large = pa.large_binary() if name == "name" else pa.large_string()
            joined[name] = pa.concat_arrays([part.cast(large) for part in parts])
        else:
            joined[name] = np.concatenate(parts)
    return joined


class ShardRecords(StoredRecords):
    """The records of all shards, made when they are asked for.

    Attributes:
        groups: int32 ``[I]``, the group of rows of each image.
    """

    def __init__(
        self, meaning: Meaning, places: Sequence[tuple[str, int]], arrays: Mapping[str, Any]
    ) -> None:
        """Records of these groups of rows, each a file and a number in it."""
        self.meaning, self.places, self.arrays = meaning, tuple(places), dict(arrays)
        self._points = 0 if meaning.skeleton is None else len(meaning.skeleton.names)
        self.groups: npt.NDArray[np.int32] = self.arrays["group"]
        # Where the values of each image begin, in what only some images have.
        first = self.arrays["first"]
        self._begin = {
            name: np.r_[0, np.cumsum(np.where(has, np.diff(first), 0))]
            if has.any() and not has.all()
            else first
            for name in PER_OBJECT
            if (has := self.arrays.get(f"has_{name}")) is not None
        }

    def __len__(self) -> int:
        return len(self.groups)

    def folders(self) -> set[Path]:
        """None: no image is a file of its own."""
        return set()

    def record(self, number: int) -> Record:
        """The record of an image."""
        arrays, meaning = self.arrays, self.meaning
        group = int(self.groups[number])
        row = StoredRow(*self.places[group], number - int(arrays["starts"][group]))
        path = Path(row.file).parent / os.fsdecode(arrays["name"][number].as_py())
        first, last = arrays["first"][number : number + 2].tolist()
        height, width = arrays["sizes"][number].tolist()
        own = {name: self._own(name, number) for name in PER_OBJECT}
        if own["keypoints"] is not None:
            own["keypoints"] = own["keypoints"].reshape(last - first, self._points, 3)
        truth = Instances(
            size=(height, width),
            boxes=np.array(arrays["boxes"][first:last]),
            labels=arrays["labels"][first:last].astype(np.int64),
            class_names=meaning.class_names,
            semantic_names=meaning.semantic_names,
            skeleton=meaning.skeleton,
            path=path,
            **own,
        )
        shape = (last - first, (height, width))
        masks = partial(_masks, row, *shape) if arrays["drawn"][number] else None
        semantic = partial(_semantic, row, (height, width)) if arrays["mapped"][number] else None
        image = RowImage(row, path.name, arrays["digests"][number].tobytes())
        return Record(path, json.loads(arrays["id"][number].as_py()), truth, masks, semantic, image)

    def objects_of(self, indices: npt.NDArray[np.int64]) -> Objects:
        """The objects of some images, from the arrays."""
        arrays = self.arrays
        counts = np.diff(arrays["first"])[indices]
        ends = np.cumsum(counts)
        # The numbers of their objects: each image's first one, and on from there.
        chosen = np.repeat(arrays["first"][:-1][indices] - (ends - counts), counts) + np.arange(counts.sum())
        crowd = np.zeros(len(arrays["labels"]), np.bool_)
        crowd[np.repeat(arrays["has_crowd"], np.diff(arrays["first"]))] = arrays["crowd"]
        return Objects(
            arrays["boxes"][chosen], arrays["labels"][chosen].astype(np.int64), crowd[chosen],
            np.repeat(np.arange(len(counts)), counts), arrays["sizes"][indices].astype(np.int64), counts,
            arrays["drawn"][indices], arrays["mapped"][indices],
        )  # fmt: skip

    def digests_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """The short digests of some images' files."""
        return short_digests(self.arrays["digests"])[indices]

    def names_of(self, indices: npt.NDArray[np.int64]) -> Iterator[str]:
        """The names of some images' files."""
        for first in range(0, len(indices), ROWS_AT_ONCE):
            names = self.arrays["name"].take(indices[first : first + ROWS_AT_ONCE]).to_pylist()
            yield from map(os.fsdecode, names)

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The group of rows of each of some images, which are read together."""
        return self.groups[indices].astype(np.int64)

    def _own(self, name: str, index: int) -> Any:
        """The values of an image's objects; None if it has none of the kind."""
        if not self.arrays[f"has_{name}"][index]:
            return None
        each = 3 * self._points if name == "keypoints" else 1
        first, last = (self._begin[name][index : index + 2] * each).tolist()
        return np.array(self.arrays[name][first:last])


@dataclass(frozen=True)
class StoredRow:
    """A row of a shard.

    Attributes:
        file: the shard.
        group: of rows in it.
        row: in the group.
    """

    file: str
    group: int
    row: int

    def value(self, column: str) -> Any:
        """What a large column has there.

        Raises:
            ValueError: the file cannot be read any more.
        """
        return _group(self.file, self.group).column(column)[self.row].as_py()


@dataclass(frozen=True)
class RowImage(StoredImage):
    """Loads an image from its row.

    Attributes:
        row: where it is.
        name: of its file.
        digest: of the bytes of its file.
    """

    row: StoredRow
    name: str
    digest: bytes

    @property
    def path(self) -> Path:
        """The shard, and the name in it."""
        return Path(self.row.file, self.name)

    @property
    def content_digest(self) -> str:
        """As it is kept in the row."""
        return self.digest.hex()

    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: there are none.
            ValueError: the shard cannot be read any more.
        """
        found: bytes | None = self.row.value("image")
        if found is None:
            raise ImageError(f"{self.path}: there is no image in its row.")
        return found


@lru_cache(maxsize=GROUPS_KEPT)
def _group(file: str, number: int) -> Any:
    """The large columns of a group of rows."""
    with _explained(Path(file)):
        opened = _opened(Path(file))
        return opened.read_row_group(number, columns=list(LARGE), use_threads=False).combine_chunks()


def _masks(row: StoredRow, count: int, size: tuple[int, int]) -> Masks:
    found = row.value("masks")
    height, width = size
    codes = [] if found is None else found
    right = len(codes) == count and all(
        code is not None and None not in code and min(code, default=-1) >= 0 and sum(code) == height * width
        for code in codes
    )
    if not right:
        raise ValueError(f"{row.file}: row {row.row} of group {row.group}: its masks do not fit its objects")
    return Masks.from_rle([{"size": [height, width], "counts": code} for code in codes], size)


def _semantic(row: StoredRow, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    found = row.value("semantic")
    try:
        with embedded_image(found or b"", str(row.file), "PNG") as stored:
            if (stored.height, stored.width) != size:
                raise ValueError(f"it is of {stored.height} x {stored.width} pixels")
            return np.asarray(stored).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        place = f"{row.file}: row {row.row} of group {row.group}"
        raise ValueError(f"{place}: its classes of pixels cannot be read ({error})") from error
