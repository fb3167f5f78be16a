"""Shards read: what is small of all images in flat arrays, images and masks when they are used.

Legend: I images, N objects, B bytes of text.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, LazyRecords, Objects, Record, StoredRecords
from rcnn.data.digests import short_digests
from rcnn.data.formats.outlines import rle_fault
from rcnn.data.formats.shard_rows import DIGEST_BYTES, PER_OBJECT, Meaning
from rcnn.data.stored_images import StoredImage
from rcnn.io.pillow_files import embedded_image
from rcnn.io.reading import ImageError
from rcnn.structures import Instances, Masks


class Texts(Sequence[bytes]):
    """Many short texts in little memory.

    Attributes:
        content: uint8 ``[B]``, one after the other.
        ends: int64 ``[I]``.
    """

    def __init__(self, content: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """These texts."""
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(texts), np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """All texts of several sequences."""
        before = np.cumsum([0, *(len(part.content) for part in parts)], dtype=np.int64)
        ends = [part.ends + start for part, start in zip(parts, before[:-1], strict=True)]
        content = [part.content for part in parts]
        empty = np.zeros(0, np.int64)
        return cls(np.concatenate([np.zeros(0, np.uint8), *content]), np.concatenate([empty, *ends]))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        first = int(self.ends[number - 1]) if number else 0
        return self.content[first : int(self.ends[number])].tobytes()


class StoredRow(ABC):
    """A row of a shard; picklable."""

    @property
    @abstractmethod
    def file(self) -> str:
        """The shard."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where in the shard it is, for messages."""

    @abstractmethod
    def value(self, column: str) -> Any:
        """What is there.

        Args:
            column: ``image``, the bytes of its file; ``masks``, COCO's run-length counts of each;
                ``semantic``, the class of every pixel as a PNG.

        Raises:
            ValueError: the file cannot be read any more.
        """


class ShardRecords(StoredRecords):
    """The records of all shards, made when they are asked for.

    Attributes:
        meaning: what the rows have in common.
        arrays: the small columns of all rows in flat arrays: ``counts``, ``sizes``, ``name``, ``id``,
            ``digests`` and others per image, ``boxes`` and ``labels`` per object; what only some images have
            with an array ``has_…``.
    """

    def __init__(self, meaning: Meaning, arrays: Mapping[str, Any]) -> None:
        """Records of these rows."""
        self.meaning, self.arrays = meaning, dict(arrays)
        self._first = np.cumsum(np.concatenate([[0], self.arrays["counts"]]), dtype=np.int64)
        # Where the values of each image begin, in what only some images have.
        self._begin = {
            name: np.r_[0, np.cumsum(np.where(has, np.diff(self._first), 0))]
            if has.any() and not has.all()
            else self._first
            for name in PER_OBJECT
            if (has := self.arrays.get(f"has_{name}")) is not None
        }

    @abstractmethod
    def row(self, number: int) -> StoredRow:
        """Where the row of an image is."""

    def __len__(self) -> int:
        return len(self.arrays["counts"])

    def folders(self) -> set[Path]:
        """None: no image is a file of its own."""
        return set()

    def record(self, number: int) -> Record:
        """The record of an image."""
        arrays, meaning, row = self.arrays, self.meaning, self.row(number)
        path = Path(row.file, os.fsdecode(arrays["name"][number]))
        first, last = self._first[number : number + 2].tolist()
        height, width = arrays["sizes"][number].tolist()
        own = {name: self._own(name, number) for name in PER_OBJECT}
        if own["keypoints"] is not None:
            own["keypoints"] = own["keypoints"].reshape(last - first, meaning.num_keypoints, 3)
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
        return Record(path, json.loads(arrays["id"][number]), truth, masks, semantic, image)

    def objects_of(self, indices: npt.NDArray[np.int64]) -> Objects:
        """The objects of some images, from the arrays."""
        arrays = self.arrays
        counts = arrays["counts"][indices]
        ends = np.cumsum(counts)
        # The numbers of their objects: each image's first one, and on from there.
        chosen = np.repeat(self._first[:-1][indices] - (ends - counts), counts) + np.arange(counts.sum())
        crowd = np.zeros(len(arrays["labels"]), np.bool_)
        crowd[np.repeat(arrays["has_crowd"], arrays["counts"])] = arrays["crowd"]
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
        names = self.arrays["name"]
        return (os.fsdecode(names[index]) for index in indices.tolist())

    def _own(self, name: str, index: int) -> Any:
        """The values of an image's objects; None if it has none of the kind."""
        if not self.arrays[f"has_{name}"][index]:
            return None
        each = 3 * self.meaning.num_keypoints if name == "keypoints" else 1
        first, last = (self._begin[name][index : index + 2] * each).tolist()
        return np.array(self.arrays[name][first:last])


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of several parts as one array each; a part gives up what is in them."""
    found: dict[str, Any] = {}
    for name in list(parts[0]) if parts else ():
        values = [part.pop(name) for part in parts]
        found[name] = Texts.joined(values) if isinstance(values[0], Texts) else np.concatenate(values)
    return found


def opened_shards(format: str, source: Path, records: ShardRecords) -> Dataset:
    """The data set of some records."""
    meaning = records.meaning
    return Dataset(
        format=format,
        source=source,
        class_names=meaning.class_names,
        records=LazyRecords(records),
        category_ids=meaning.category_ids,
        semantic_names=meaning.semantic_names,
        semantic_ids=meaning.semantic_ids,
        skeleton=meaning.skeleton,
    )


def digest_bytes(texts: Sequence[str]) -> npt.NDArray[np.uint8] | None:
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


@dataclass(frozen=True)
class RowImage(StoredImage):
    """Loads an image from its row.

    Attributes:
        row: where it is.
        name: of its file.
        digest: of the bytes of its file; None where it is not kept.
    """

    row: StoredRow
    name: str
    digest: bytes | None = None

    @property
    def path(self) -> Path:
        """The shard, and the name in it."""
        return Path(self.row.file, self.name)

    @property
    def place(self) -> str:
        """Where it is in the shard."""
        return self.row.place

    @property
    def content_digest(self) -> str:
        """As it is kept in the row, or of what is read."""
        return (self.digest or blake2b(self.content(), digest_size=DIGEST_BYTES).digest()).hex()

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


def _masks(row: StoredRow, count: int, size: tuple[int, int]) -> Masks:
    found = row.value("masks")
    codes = [{"size": list(size), "counts": counts} for counts in (found if isinstance(found, list) else ())]
    if len(codes) != count or any(rle_fault(code, size) is not None for code in codes):
        raise ValueError(f"{row.file}: {row.place}: its masks do not fit its objects")
    return Masks.from_rle(codes, size)


def _semantic(row: StoredRow, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    found = row.value("semantic")
    try:
        with embedded_image(found or b"", row.file, "PNG") as stored:
            if (stored.height, stored.width) != size:
                raise ValueError(f"it is of {stored.height} x {stored.width} pixels")
            return np.asarray(stored).astype(np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        place = f"{row.file}: {row.place}"
        raise ValueError(f"{place}: its classes of pixels cannot be read ({error})") from error
