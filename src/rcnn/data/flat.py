"""Annotations of large data sets in flat arrays, which processes share and records are made from when needed.

Legend: I images, N objects, P parts of polygons, C corners, K keypoints per object, B bytes of text.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import (
    Annotation,
    Bitmap,
    Content,
    DatasetBuilder,
    Picture,
    PlainObjects,
    filled,
)
from rcnn.data.dataset import Dataset, DrawnMasks, LazyRecords, Record, StoredRecords
from rcnn.structures import Instances, Outline, Size, Skeleton

Arrays = Mapping[str, npt.NDArray[Any]]
CORNERS = "corners.bin"  # the file of the corners, which is written as they are read
VALUES_KEPT = 1 << 20  # of corners, before they are written
SHOWN_NAMES = 5


class Corners:
    """The corners of polygons, float64 ``[C, 2]``, in a file as soon as they are many."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.values = array("d")
        self.written = 0

    def add(self, part: npt.NDArray[np.float64]) -> None:
        """Add the corners of one part."""
        self.values.frombytes(np.ascontiguousarray(part, np.float64).tobytes())
        if self.file is not None and len(self.values) > VALUES_KEPT:
            self._flush(self.file)

    def _flush(self, file: Path) -> None:
        with file.open("ab") as out:
            self.values.tofile(out)
        self.written += len(self.values)
        self.values = array("d")

    def __len__(self) -> int:
        return (self.written + len(self.values)) // 2

    def array(self) -> npt.NDArray[np.float64]:
        """All of them; from the file, they are mapped into memory."""
        if self.file is None or not self.written:
            return np.array(self.values, np.float64).reshape(-1, 2)
        self._flush(self.file)
        return np.memmap(self.file, np.float64, "r").reshape(-1, 2)


class FlatBuilder(DatasetBuilder):
    """A builder that keeps objects in arrays instead of one by one.

    Objects may have polygons and run-length codes, but no bitmaps; images are files.

    Args:
        folder: where to keep the arrays, so that the data set is opened at once the next time; None keeps
            them in memory.
    """

    def __init__(self, format: str, source: Path, *holds: Content, folder: Path | None = None) -> None:
        super().__init__(format, source, *holds)
        self.folder = folder
        self.owners, self.categories, self.crowd = array("q"), array("q"), array("b")
        self.boxes, self.areas, self.points = array("d"), array("d"), array("f")
        self.parts, self.part_ends = array("q"), array("q")
        self.corners = Corners(None if folder is None else folder / CORNERS)
        self.codes, self.code_ends = bytearray(), array("q")
        self.bare: list[str] = []  # the first objects without an outline
        self.labels: Mapping[int, int] = {}
        self.places: dict[int, int] = {}  # of each picture, by its identity

    def relabel(self, labels: Mapping[int, int]) -> None:
        """Replace labels that are ids of categories by the indices of their classes."""
        self.labels = labels

    def add(self, picture: Picture) -> Picture:
        """Add an image."""
        self.places[id(picture)] = len(self.pictures)
        return super().add(picture)

    def put(self, picture: Picture, annotation: Annotation) -> None:
        """Add an object to an image."""
        assert isinstance(annotation.label, int)
        self.owners.append(self.places[id(picture)])
        self.categories.append(annotation.label)
        self.crowd.append(annotation.crowd)
        self.boxes.extend(annotation.box)
        self.areas.append(np.nan if annotation.area is None else annotation.area)
        if self.skeleton is not None:
            assert annotation.keypoints is not None
            self.points.frombytes(self.with_plain_visibility(annotation.keypoints).tobytes())
        outline = annotation.outline
        assert not isinstance(outline, Bitmap)
        if isinstance(outline, dict):
            self.codes += json.dumps(outline["counts"]).encode()
        elif outline is not None:
            for part in outline:
                self.corners.add(part)
                self.part_ends.append(len(self.corners))
        elif len(self.bare) <= SHOWN_NAMES:
            self.bare.append(annotation.name)
        self.parts.append(len(self.part_ends))
        self.code_ends.append(len(self.codes))

    def put_many(self, objects: PlainObjects) -> None:
        """Add objects to their images."""
        count, first = len(objects.names), objects.first_parts
        self.owners.extend(self.places[id(picture)] for picture in objects.pictures)
        self.categories.extend(objects.labels)
        self.crowd.frombytes(bytes(count))
        self.boxes.frombytes(np.ascontiguousarray(objects.boxes).tobytes())
        self.areas.frombytes(objects.areas.tobytes())
        self.parts.frombytes((first[1:] + len(self.part_ends)).tobytes())
        self.part_ends.frombytes((objects.part_ends + len(self.corners)).tobytes())
        self.corners.add(objects.corners)
        self.code_ends.extend([len(self.codes)] * count)
        bare = np.flatnonzero(first[1:] == first[:-1])[: SHOWN_NAMES + 1]
        self.bare += [objects.names[index] for index in bare.tolist()]

    def build(self) -> Dataset:
        """The data set, whose records are made from the arrays."""
        self.report_visibilities()
        objects, images = len(self.owners), len(self.pictures)
        parts, codes = (np.diff(np.r_[0, np.array(ends, np.int64)]) for ends in (self.parts, self.code_ends))
        bare = (parts == 0) & (codes == 0)
        drawn = "outlines" in self.holds and self.judge_outlines(objects, int(bare.sum()), self.bare)
        owners = np.array(self.owners, np.int64)
        order = np.argsort(owners, kind="stable")
        places = self._numbers()
        labels = np.array([self.labels[category] for category in self.categories], np.int64)
        boxes = np.array(self.boxes, np.float64).reshape(-1, 4)
        areas = np.array(self.areas, np.float64)
        own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        arrays = {
            "first": np.r_[0, np.bincount(owners, minlength=images).cumsum()],
            "boxes": boxes[order].astype(np.float32),
            "labels": labels[order],
            "crowd": np.array(self.crowd, np.bool_)[order],
            "areas": np.where(np.isnan(areas), own, areas)[order].astype(np.float32),
            "bare": bare[order],
            "row": order,
            "parts": np.r_[0, np.array(self.parts, np.int64)],
            "part_ends": np.r_[0, np.array(self.part_ends, np.int64)],
            "corners": self.corners.array(),
            "codes": np.frombuffer(bytes(self.codes), np.uint8),
            "code_ends": np.r_[0, np.array(self.code_ends, np.int64)],
            **places,
        }
        if self.skeleton is not None:
            arrays["points"] = np.array(self.points, np.float32).reshape(objects, self.num_keypoints, 3)[
                order
            ]
        facts = Facts(
            self.class_names, self.skeleton, drawn, bool((~np.isnan(areas)).any()), "crowd" in self.holds
        )
        return Dataset(
            format=self.format,
            source=self.source,
            class_names=self.class_names,
            records=LazyRecords(FlatRecords(FlatStore(arrays), facts)),
            problems=tuple(self.problems),
            category_ids=self.category_ids,
            skeleton=self.skeleton,
        )

    def _numbers(self) -> dict[str, npt.NDArray[Any]]:
        """The images: their sizes, ids and paths."""
        texts = {
            "paths": [os.fsencode(picture.path) for picture in self.pictures],
            "ids": [json.dumps(picture.image_id).encode() for picture in self.pictures],
        }
        found = {"sizes": np.array([picture.size for picture in self.pictures], np.int64).reshape(-1, 2)}
        for name, encoded in texts.items():
            found[name] = np.frombuffer(b"".join(encoded), np.uint8)
            found[f"{name[:-1]}_ends"] = np.r_[0, np.cumsum([len(one) for one in encoded], dtype=np.int64)]
        return found


@dataclass(frozen=True)
class Facts:
    """What all records have in common; fields as in :class:`Instances`.

    Attributes:
        class_names: what labels index.
        skeleton: the keypoints.
        drawn: whether there are masks.
        has_areas: whether annotations give areas.
        has_crowds: whether the format marks crowds.
    """

    class_names: tuple[str, ...]
    skeleton: Skeleton | None
    drawn: bool
    has_areas: bool
    has_crowds: bool

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Facts:
        """From the fields as JSON has them."""
        names, skeleton = tuple(values["class_names"]), Skeleton.from_json(values["skeleton"])
        return cls(**{**values, "class_names": names, "skeleton": skeleton})


class FlatStore:
    """Arrays by name; those of a folder are mapped into memory, and opened again in each process.

    Args:
        arrays: the arrays.
        folder: where they are kept, one file each, if they are.
    """

    def __init__(self, arrays: Arrays, folder: Path | None = None) -> None:
        self.arrays, self.folder = arrays, folder

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def text(self, name: str, index: int) -> bytes:
        """A text by its index in ``paths``, ``ids`` or ``codes``."""
        first, last = self.arrays[f"{name[:-1]}_ends"][index : index + 2].tolist()
        return self.arrays[name][first:last].tobytes()

    @cached_property
    def folders(self) -> frozenset[str]:
        """The folders of the images."""
        text, ends = self.arrays["paths"].tobytes(), self.arrays["path_ends"].tolist()
        return frozenset(os.fsdecode(text[a:b].rpartition(b"/")[0]) for a, b in pairwise(ends))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return FlatStore, (self.arrays,)
        return opened_store, (self.folder,)


@lru_cache(maxsize=8)
def opened_store(folder: Path) -> FlatStore:
    """The store in a folder."""
    # As plain arrays, whose slices cost a third of a memmap's.
    arrays = {f.stem: np.load(f, mmap_mode="r").view(np.ndarray) for f in sorted(folder.glob("*.npy"))}
    corners = folder / CORNERS
    if corners.is_file():
        arrays["corners"] = np.memmap(corners, np.float64, "r").view(np.ndarray).reshape(-1, 2)
    return FlatStore(arrays, folder)


class FlatRecords(StoredRecords):
    """The records of a store."""

    def __init__(self, store: FlatStore, facts: Facts) -> None:
        self.store, self.facts = store, facts

    def __len__(self) -> int:
        return len(self.store["sizes"])

    def folders(self) -> set[Path]:
        """The folders of the image files."""
        return {Path(folder) for folder in self.store.folders}

    def record(self, number: int) -> Record:
        """The record of an image."""
        store, facts = self.store, self.facts
        first, last = store["first"][number : number + 2].tolist()
        height, width = store["sizes"][number].tolist()
        rows = slice(first, last)
        bare = store["bare"][rows]
        path = Path(os.fsdecode(store.text("paths", number)))
        truth = Instances(
            size=(height, width),
            boxes=np.array(store["boxes"][rows]),
            labels=np.array(store["labels"][rows]),
            crowd=np.array(store["crowd"][rows]) if facts.has_crowds else None,
            areas=np.array(store["areas"][rows]) if facts.has_areas else None,
            has_mask=~bare if facts.drawn and bare.any() else None,
            keypoints=np.array(store["points"][rows]) if "points" in store else None,
            class_names=facts.class_names,
            skeleton=facts.skeleton,
            path=path,
        )
        masks = DrawnMasks(partial(_outlines, store, number), (height, width)) if facts.drawn else None
        return Record(path, json.loads(store.text("ids", number)), truth, masks)


def _outlines(store: FlatStore, index: int) -> list[Outline]:
    """The outlines of the objects of an image."""
    first, last = store["first"][index : index + 2].tolist()
    height, width = store["sizes"][index].tolist()
    return [_outline(store, place, (height, width)) for place in range(first, last)]


def _outline(store: FlatStore, place: int, size: Size) -> Outline:
    """The outline of an object; without one, its box."""
    if store["bare"][place]:
        x1, y1, x2, y2 = store["boxes"][place].tolist()
        return filled((x1, y1, x2, y2))
    row = int(store["row"][place])
    code = store.text("codes", row)
    if code:
        return {"size": list(size), "counts": json.loads(code)}
    first, last = store["parts"][row : row + 2].tolist()
    ends = store["part_ends"][first : last + 1].tolist()
    return [np.array(store["corners"][a:b]) for a, b in pairwise(ends)]
