"""What every reader returns: a list of records, the classes, and the problems found on the way.

A record holds what is small (path, size, boxes, labels) and knows how to load what is large (pixels, masks).
Statistics over a whole data set are therefore fast, and a sample is decoded only when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.problems import Problem
from rcnn.io.images import image_header, read_image
from rcnn.io.reading import Reading, reading_as
from rcnn.structures import Instances, Masks, Skeleton

MAX_LEFT_OUT = 1 / 20  # of the objects or images; if more are missing, nothing is measured unless asked for


@dataclass(frozen=True)
class Record:
    """One image of a data set, not yet decoded.

    Attributes:
        path: the image file.
        image_id: the id that results refer to (COCO's own, or the file name without its extension).
        truth: its objects, without masks; ``truth.size`` is the size of the decoded (EXIF-rotated) image.
        masks: loads the objects' masks, in the order of ``truth``; picklable; None if the data has none.
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
    reading: Reading = field(default_factory=Reading)

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


@dataclass(frozen=True)
class Sample:
    """One image with its truth.

    Attributes:
        image: uint8 ``[H, W, C]``, as :meth:`Record.load_image` gives it.
        truth: its objects, with masks if the data has them.
        image_id: as in the record.
    """

    image: npt.NDArray[np.uint8]
    truth: Instances
    image_id: int | str


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


@dataclass(frozen=True)
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

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return Sample(record.load_image(), record.load_truth(), record.image_id)

    @property
    def has_objects(self) -> bool:
        """Whether any image has an object; False for data with semantic maps only."""
        return any(len(r.truth) for r in self.records)

    @property
    def has_semantic(self) -> bool:
        """Whether every image has a semantic map."""
        return bool(self.records) and all(r.semantic is not None for r in self.records)

    @property
    def has_stuff(self) -> bool:
        """Whether the semantic maps have classes beyond those of the objects and a background."""
        things, stuff = self.class_names, self.semantic_names[len(self.class_names) :]
        begun = self.has_semantic and self.semantic_names[: len(things)] == things
        return begun and any(name.casefold() != "background" for name in stuff)

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks."""
        with_objects = [r for r in self.records if len(r.truth)]
        return bool(with_objects) and all(r.masks is not None for r in with_objects)

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The same data set restricted to some of its images, in the given order."""
        return replace(self, records=[self.records[i] for i in indices])

    @property
    def reading(self) -> Reading:
        """How the files are read, the same for all records."""
        return self.records[0].reading if self.records else Reading()

    @property
    def channels(self) -> int:
        """C of the images, by the first one; 3 of none."""
        if not self.records:
            return 3
        first = self.records[0]
        if first.image is None:
            return image_header(first.path, first.reading).channels
        return int(first.load_image().shape[2])

    def read_for(self, model: Reading) -> Dataset:
        """The same data set, its images read as a model reads them; see :meth:`Reading.of_model`."""
        reading = self.reading.of_model(model)
        if reading == self.reading:
            return self
        return replace(self, records=[replace(record, reading=reading) for record in self.records])

    def without_masks(self) -> Dataset:
        """The same data set without masks and semantic maps, which are slow to decode."""
        return replace(self, records=[replace(r, masks=None, semantic=None) for r in self.records])

    def evenly_spaced(self, count: int) -> list[int]:
        """``count`` indices spread evenly over the images; all of them if there are fewer."""
        last = len(self.records) - 1
        return sorted({round(i * last / max(count - 1, 1)) for i in range(count)}) if last >= 0 else []

    def images(self, count: int) -> list[npt.NDArray[np.uint8]]:
        """Up to ``count`` images, spread evenly over the data set, uint8 ``[H, W, C]``.

        Raises:
            ValueError: there is no image.
        """
        if not len(self):
            raise ValueError(f"{self.source}: no usable image")
        return [self.records[index].load_image() for index in self.evenly_spaced(count)]
