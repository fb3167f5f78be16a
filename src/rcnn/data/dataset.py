"""What every reader returns: a list of records, the classes, and the problems found on the way.

A record holds what is small (path, size, boxes, labels) and knows how to load what is large (pixels, masks).
Statistics over a whole data set are therefore fast, and a sample is decoded only when it is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rcnn.data.problems import Problem, shortened
from rcnn.io.images import image_header, read_image
from rcnn.io.reading import DEFAULT, Reading, reading_as
from rcnn.structures import Instances, Masks, Outline, Size, Skeleton

MAX_LEFT_OUT = 1 / 20  # of the objects or images; if more are missing, nothing is measured unless asked for


@dataclass(frozen=True)
class DrawnMasks:
    """Loads masks by drawing outlines; training moves the outlines first, and draws what it sees of them.

    Attributes:
        outlines: loads them, one per object; picklable.
        size: (height, width) of the image.
    """

    outlines: Callable[[], Sequence[Outline]]
    size: Size

    def __call__(self) -> Masks:
        """The masks."""
        return Masks.from_outlines(self.outlines(), self.size)


@dataclass(frozen=True)
class Record:
    """One image of a data set, not yet decoded.

    Attributes:
        path: the image file.
        image_id: the id that results refer to (COCO's own, or the file name without its extension).
        truth: its objects, without masks; ``truth.size`` is the size of the decoded (EXIF-rotated) image.
        masks: loads the objects' masks, in the order of ``truth``; picklable; None if the data has none. A
            :class:`DrawnMasks` where they are outlines.
        semantic: loads the class of every pixel, int64 ``[H, W]``; picklable; None if the data has none.
        image: makes the image if ``path`` is only a name; picklable; None reads the file.
        reading: how the files of the image and of its masks are read.
    """

    path: Path
    image_id: int | str
    truth: Instances
    masks: Callable[[], Masks] | None = None
    semantic: Callable[[], npt.NDArray[np.integer[Any]]] | None = None
    image: Callable[[], npt.NDArray[np.uint8]] | None = None
    reading: Reading = DEFAULT

    def load_image(self) -> npt.NDArray[np.uint8]:
        """The image, uint8 ``[H, W, C]``: RGB, or the channels that its file has."""
        with reading_as(self.reading):
            return read_image(self.path) if self.image is None else self.image()

    def load_truth(self) -> Instances:
        """The objects with their masks, and the class of every pixel."""
        with reading_as(self.reading):
            return replace(
                self.truth,
                masks=self.truth.masks if self.masks is None else self.masks(),
                semantic=self.truth.semantic if self.semantic is None else self.semantic(),
            )


class StoredRecords(Sequence[Record], ABC):
    """Records of arrays, each made when it is asked for; what needs no record is asked of the arrays."""

    @abstractmethod
    def record(self, number: int) -> Record:
        """The record of an image, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...

    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self.record(number) for number in range(len(self))[index]]
        return self.record(range(len(self))[index])

    @abstractmethod
    def folders(self) -> set[Path]:
        """The folders of the image files."""

    def objects_of(self, indices: npt.NDArray[np.int64]) -> Objects | None:
        """The objects of some images, if the arrays are such that it takes no time; else None."""
        return None

    def digests_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64] | None:
        """The short digests (``rcnn.data.digests``) of some images' files; None where they are not kept."""
        return None

    def names_of(self, indices: npt.NDArray[np.int64]) -> Iterator[str]:
        """The names of some images' files."""
        return (self.record(index).path.name for index in indices.tolist())

    def shards_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The shard of each of some images; None where images are files of their own."""
        return None

    def read_ahead(self, number: int) -> None:
        """Begin to read an image of a shard that is needed soon; does nothing where images are files."""


class LazyRecords(Sequence[Record]):
    """Records that are made each time they are asked for, so that a large data set takes little memory.

    Args:
        source: makes the records of all images.
        indices: which of them, in this order; None: all.
        changes: picklable functions that each record passes through.
    """

    def __init__(
        self,
        source: Sequence[Record],
        indices: npt.NDArray[np.int64] | None = None,
        changes: tuple[Callable[[Record], Record], ...] = (),
    ) -> None:
        self.source = source
        self.indices = np.arange(len(source)) if indices is None else indices
        self.changes = changes

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> LazyRecords: ...

    def __getitem__(self, index: int | slice) -> Record | LazyRecords:
        if isinstance(index, slice):
            return LazyRecords(self.source, self.indices[index], self.changes)
        record = self.source[int(self.indices[index])]
        for change in self.changes:
            record = change(record)
        return record

    @property
    def stored(self) -> StoredRecords | None:
        """The arrays behind the records, if there are any; they know of no changes."""
        return self.source if isinstance(self.source, StoredRecords) else None

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> LazyRecords:
        """Some of the records, in the given order."""
        return LazyRecords(self.source, self.indices[np.asarray(indices, np.int64)], self.changes)

    def mapped(self, change: Callable[[Record], Record]) -> LazyRecords:
        """All records, changed."""
        return LazyRecords(self.source, self.indices, (*self.changes, change))


@dataclass(frozen=True)
class Objects:
    """The objects of all images in flat arrays.

    Attributes:
        boxes: float32 ``[N, 4]``.
        labels: int64 ``[N]``.
        crowd: bool ``[N]``.
        images: int64 ``[N]``, the image of each.
        sizes: int64 ``[I, 2]``, (height, width) of each image.
        counts: int64 ``[I]``, the number of objects in each.
        have_masks: bool ``[I]``.
        have_maps: bool ``[I]``.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    images: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    have_masks: npt.NDArray[np.bool_]
    have_maps: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Objects:
        """Those of some records, in one pass."""
        boxes, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
        crowd, sizes, have = [np.zeros(0, np.bool_)], [], []
        for record in records:
            truth = record.truth
            boxes.append(truth.boxes)
            labels.append(truth.labels)
            crowd.append(np.zeros(len(truth), np.bool_) if truth.crowd is None else truth.crowd)
            sizes.append(truth.size)
            have.append((record.masks is not None, record.semantic is not None))
        counts = np.array([len(one) for one in boxes[1:]], np.int64)
        known = np.array(have, np.bool_).reshape(-1, 2)
        return cls(
            np.concatenate(boxes), np.concatenate(labels), np.concatenate(crowd),
            np.repeat(np.arange(len(counts)), counts), np.array(sizes, np.int64).reshape(-1, 2), counts,
            known[:, 0], known[:, 1],
        )  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One image with its truth.

    Attributes:
        image: uint8 ``[H, W, C]``, as :meth:`Record.load_image` gives it.
        truth: its objects, with masks if the data has them.
        image_id: as in the record.
        outlines: those of the objects, in the place of their masks; None: they are drawn, or there are none.
    """

    image: npt.NDArray[np.uint8]
    truth: Instances
    image_id: int | str
    outlines: Sequence[Outline] | None = None


@dataclass(frozen=True)
class LeftOut:
    """What is missing from a data set because images with errors are left out.

    Attributes:
        objects: number of objects that could not be read, or are in images that are left out.
        all_objects: number of objects annotated.
        images: number of images left out.
        all_images: number of images.
    """

    objects: int
    all_objects: int
    images: int
    all_images: int

    @property
    def is_much(self) -> bool:
        """Whether so much is missing that figures of the rest may mislead: more than a twentieth, or all."""
        parts = ((self.objects, self.all_objects), (self.images, self.all_images))
        return any(lost > MAX_LEFT_OUT * total or 0 < total == lost for lost, total in parts)

    def __str__(self) -> str:
        """The part of a sentence that stands beside a figure; empty if nothing is missing."""
        objects = f"{self.objects} of {self.all_objects} objects unreadable" if self.objects else ""
        images = f"{self.images} of {self.all_images} images left out" if self.images else ""
        return ", ".join(filter(None, (objects, images)))


@dataclass(frozen=True, repr=False)
class Dataset:
    """An opened data set; ``dataset[i]`` decodes a :class:`Sample`.

    Attributes:
        format: the ``name`` of a row of ``rcnn.data.formats.registry.FORMATS``, ``shapes`` or
            ``Python object``.
        source: the file or folder that was opened.
        class_names: in label order.
        records: one per image, including images without objects.
        problems: what the reader found; a record with an ``error`` is in ``records`` only if it is usable.
        category_ids: the format's own id of each label (COCO); otherwise empty, meaning label + 1.
        semantic_names: the meaning of the values of the semantic maps, if there are any. In panoptic data,
            ``class_names`` (the things) come first, followed by the stuff.
        semantic_ids: the format's own id of each semantic class (COCO panoptic).
        skeleton: the objects' keypoints, if they have any.
        left_out: what images with errors took with them, once they are left out.
    """

    format: str
    source: Path
    class_names: tuple[str, ...]
    records: Sequence[Record]
    problems: Sequence[Problem] = field(default_factory=tuple)
    category_ids: tuple[int, ...] = ()
    semantic_names: tuple[str, ...] = ()
    semantic_ids: tuple[int, ...] = ()
    skeleton: Skeleton | None = None
    left_out: LeftOut | None = None

    def __repr__(self) -> str:
        """One line: what it is, how much there is of it, and whether it has errors."""
        errors = sum(problem.severity == "error" for problem in self.problems)
        names = shortened([*self.class_names, *self.semantic_names[len(self.class_names) :]])
        parts = [f"{len(self)} images", f"{len(self.objects.labels)} objects", f"classes: {names or 'none'}"]
        held = {"masks": self.has_masks, "keypoints": self.skeleton is not None, "maps": self.has_semantic}
        parts += [name for name, there in held.items() if there]
        parts += [f"{errors} errors"] if errors else []
        return f"Dataset({self.format}, {str(self.source)!r}: {'; '.join(parts)})"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return Sample(record.load_image(), record.load_truth(), record.image_id)

    def undrawn(self, index: int) -> Sample:
        """As ``dataset[index]``, with outlines that are not drawn where masks are made of them."""
        record = self.records[index]
        if not isinstance(record.masks, DrawnMasks):
            return self[index]
        outlines = record.masks.outlines()
        record = replace(record, masks=None)
        return Sample(record.load_image(), record.load_truth(), record.image_id, outlines)

    @property
    def objects(self) -> Objects:
        """The objects of all images, which statistics and checks are made of."""
        stored = self._unchanged
        # Not kept where they are made of arrays in no time: they would be in memory twice.
        made = None if stored is None else stored.source.objects_of(stored.indices)
        return self._objects if made is None else made

    @cached_property
    def _objects(self) -> Objects:
        return Objects.of(self.records)

    def names(self) -> Iterator[str]:
        """The name of each image's file."""
        stored = self._unchanged
        if stored is not None:
            return stored.source.names_of(stored.indices)
        return (record.path.name for record in self.records)

    @property
    def _unchanged(self) -> _Unchanged | None:
        """The arrays that the records are made of, if nothing changes them."""
        records = self.records
        if not isinstance(records, LazyRecords) or records.stored is None or records.changes:
            return None
        return _Unchanged(records.stored, records.indices)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be computed again: processes get a data set as small as it is."""
        return {name: value for name, value in self.__dict__.items() if name != "_objects"}

    @property
    def has_objects(self) -> bool:
        """Whether any image has an object; False for data with semantic maps only."""
        return bool(self.objects.counts.any())

    @property
    def has_semantic(self) -> bool:
        """Whether every image has a semantic map."""
        return bool(len(self)) and bool(self.objects.have_maps.all())

    @property
    def has_stuff(self) -> bool:
        """Whether the semantic maps have classes beyond those of the objects and a background."""
        things, stuff = self.class_names, self.semantic_names[len(self.class_names) :]
        begun = self.has_semantic and self.semantic_names[: len(things)] == things
        return begun and any(name.casefold() != "background" for name in stuff)

    @property
    def has_scores(self) -> bool:
        """Whether its objects are predictions: never."""
        return False

    @property
    def has_number_ids(self) -> bool:
        """Whether every image has a number as its id."""
        return all(isinstance(record.image_id, int) for record in self.records)

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks."""
        having = self.objects.have_masks[self.objects.counts > 0]
        return bool(len(having)) and bool(having.all())

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Dataset:
        """The same data set restricted to some of its images, in the given order."""
        records = self.records
        if isinstance(records, LazyRecords):
            return replace(self, records=records.subset(indices))
        return replace(self, records=[records[i] for i in indices])

    def mapped(self, change: Callable[[Record], Record], **fields: Any) -> Dataset:
        """The same data set with each record changed by a picklable function, and other ``fields``."""
        records = self.records
        if isinstance(records, LazyRecords):
            return replace(self, records=records.mapped(change), **fields)
        return replace(self, records=[change(record) for record in records], **fields)

    @property
    def reading(self) -> Reading:
        """How the files are read, the same for all records."""
        return self.records[0].reading if len(self) else Reading()

    @property
    def channels(self) -> int:
        """C of the images, by the first one; 3 of none."""
        if not len(self):
            return 3
        first = self.records[0]
        if first.image is None:
            return image_header(first.path, first.reading).channels
        return int(first.load_image().shape[2])

    def read_for(self, model: Reading) -> Dataset:
        """The same data set, its images read as a model reads them; see :meth:`Reading.of_model`."""
        return self.read_as(self.reading.of_model(model))

    def read_as(self, reading: Reading) -> Dataset:
        """The same data set, its images read in another way."""
        return self if reading == self.reading else self.mapped(partial(_read_as, reading=reading))

    def without_masks(self) -> Dataset:
        """The same data set without masks and semantic maps, which are slow to decode."""
        return self.mapped(_without_masks)

    def evenly_spaced(self, count: int) -> list[int]:
        """``count`` indices spread evenly over the images; all of them if there are fewer."""
        return evenly_spaced(len(self.records), count)

    def images(self, count: int) -> list[npt.NDArray[np.uint8]]:
        """Up to ``count`` images, spread evenly over the data set, uint8 ``[H, W, C]``.

        Raises:
            ValueError: there is no image.
        """
        if not len(self):
            raise ValueError(f"{self.source}: no usable image")
        return [self.records[index].load_image() for index in self.evenly_spaced(count)]


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` of the numbers below ``total``, spread evenly; all of them if there are fewer."""
    return sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)}) if total else []


@dataclass(frozen=True)
class _Unchanged:
    """Some of the records of a source, as it makes them."""

    source: StoredRecords
    indices: npt.NDArray[np.int64]


def _without_masks(record: Record) -> Record:
    return replace(record, masks=None, semantic=None)


def _read_as(record: Record, reading: Reading) -> Record:
    return replace(record, reading=reading)
