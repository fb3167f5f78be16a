"""Base of all writers, of data sets and of predictions, which note every object that they cannot store.

A writer gets the images one by one; their files have already been copied to ``image_folder``. It notes all
content that is lost in :class:`DroppedContent`, object by object.

Formats with files of their own for each image derive from :class:`Writer`, those with one file for all images
from :class:`FileWriter`, which makes the text of each image by itself. So predictions can be written as they
come and continued after a break (``rcnn.inference.annotation_folders``): what a writer has to know of the
images before is what :meth:`Writer.note` is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from rcnn.structures import Instances, Size, Skeleton

LOST_FILE = "lost.txt"  # lists what a format cannot hold
APART = 0.5  # pixels by which a box may differ from that of its outline


class Described(Protocol):
    """What a writer knows of the data before it gets the images: a :class:`rcnn.data.dataset.Dataset` is one.

    Its attributes have the same meaning there.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in label order."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each label, or none: label + 1."""

    @property
    def skeleton(self) -> Skeleton | None:
        """The objects' keypoints."""

    @property
    def has_masks(self) -> bool:
        """Whether every image with objects has masks; of predictions: whether they may have."""

    @property
    def has_scores(self) -> bool:
        """Whether the objects are predictions."""

    @property
    def has_number_ids(self) -> bool:
        """Whether all images have a number as their id."""


@dataclass
class DroppedContent:
    """The lost content.

    Attributes:
        places: by kind of content, where it occurred: an image and the number of the object in it, counted
            from 1; or a class.
    """

    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, place: str) -> None:
        """Add one occurrence."""
        self.places.setdefault(kind, []).append(place)

    def take(self) -> dict[str, list[str]]:
        """What was noted since the last call."""
        taken, self.places = self.places, {}
        return taken


@dataclass(frozen=True)
class Item:
    """One image to be written.

    Attributes:
        image: the copied file; its stem is unique.
        truth: its objects, with masks if there are any.
        numbers: the number of each object, in :class:`DroppedContent` and wherever the format has room for
            one: counted from 1 in each image of a data set, in all images of a prediction.
        image_id: as in the record.
        measurements: of predictions that are measured: the numbers of each object by their names.
    """

    image: Path
    truth: Instances
    numbers: tuple[int, ...]
    image_id: int | str
    measurements: tuple[Mapping[str, float], ...] = ()

    def place(self, index: int) -> str:
        """How an object is named in :class:`DroppedContent`."""
        return f"{self.image.name}, object {self.numbers[index]}"

    def only(self, wanted: npt.NDArray[np.bool_]) -> Item:
        """The same image with some of its objects."""
        kept = np.flatnonzero(wanted).tolist()
        return replace(
            self, truth=self.truth[wanted], numbers=tuple(self.numbers[i] for i in kept),
            measurements=tuple(self.measurements[i] for i in kept) if self.measurements else (),
        )  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What is remembered of an image that was written.

    Attributes:
        name: of its file.
        image_id: as in :class:`Item`.
        size: (height, width).
        counts: the number of its objects by class name.
    """

    name: str
    image_id: int | str
    size: Size
    counts: Mapping[str, int]

    @classmethod
    def of(cls, item: Item) -> Written:
        """What is written of an image that a writer is given."""
        return cls(item.image.name, item.image_id, item.truth.size, Counter(item.truth.names))


class Writer:
    """Base of a writer: ``add`` every image, then ``finish``; subclasses implement ``write``.

    Attributes:
        images: the number of images written.
        counts: the number of objects given, by class name.
    """

    holds: frozenset[str] = frozenset()  # of: crowds, difficult, outlines, keypoints
    image_folder: ClassVar[str] = "images"
    needs_outlines: ClassVar[bool] = False  # objects without an outline are lost
    keeps_logits: ClassVar[bool] = False  # of the keypoints of predictions
    for_predictions: ClassVar[bool] = True  # whether it can go on after a break, image by image

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        self.folder = folder
        self.dataset = dataset
        self.dropped = dropped
        self.images = 0
        self.counts: Counter[str] = Counter()

    def image_path(self, name: str) -> Path:
        """The path of an image with this name."""
        return self.folder / self.image_folder / name

    def add(self, item: Item) -> None:
        """Write one image's objects."""
        self.write(self.sifted(item))
        self.note(Written.of(item))

    def note(self, written: Written) -> None:
        """Count an image that is written, now or before a break."""
        self.images += 1
        self.counts.update(written.counts)

    def write(self, item: Item) -> None:
        """Write one image, reduced to what the format can store."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what concerns all images."""

    def sifted(self, item: Item) -> Item:
        """The image without the flags and objects that the format cannot store, each noted."""
        truth = item.truth
        if truth.scores is not None and truth.keypoints is not None and not self.keeps_logits:
            item = replace(item, truth=with_visibility(truth))
            truth = item.truth
        marks = {
            "difficult": ("difficult flags", truth.difficult),
            "keypoints": (
                "keypoints",
                None if truth.keypoints is None else (truth.keypoints != 0).any(2).any(1),
            ),
            "outlines": ("outlines", None if truth.masks is None else truth.outlined),
            "crowds": ("crowd regions", truth.crowd),
        }
        for held, (kind, present) in marks.items():
            if held not in self.holds and present is not None:
                for index in np.flatnonzero(present).tolist():
                    self.dropped.note(kind, item.place(index))
        if truth.semantic is not None:
            self.dropped.note("semantic maps", item.image.name)
        if "crowds" not in self.holds and truth.crowd is not None:
            return item.only(~truth.crowd)
        return item

    def drop(self, item: Item, wrong: npt.NDArray[np.bool_], kind: str) -> Item:
        """The image without objects that are lost, each noted."""
        for index in np.flatnonzero(wrong).tolist():
            self.dropped.note(kind, item.place(index))
        return item.only(~wrong)

    def with_outlines(self, item: Item) -> Item:
        """The image with only those objects that have a non-empty outline."""
        masks = item.truth.masks
        if masks is None:
            return self.drop(item, np.ones(len(item.truth), dtype=np.bool_), "objects without outline")
        item = self.drop(item, ~item.truth.outlined, "objects without outline")
        assert item.truth.masks is not None
        return self.drop(item, item.truth.masks.areas() == 0, "objects with an empty outline")

    def note_boxes(self, item: Item) -> None:
        """Note boxes that differ from those of their outlines, from which such formats derive them."""
        assert item.truth.masks is not None
        away = np.abs(item.truth.boxes - item.truth.masks.boxes())
        for index in np.flatnonzero((away > APART).any(1)).tolist():
            self.dropped.note("boxes that differ from their outlines", item.place(index))

    def note_classes(self) -> None:
        """Note the class names, for formats with a single unnamed class."""
        if self.dataset.class_names != ("object",):
            for name in self.dataset.class_names:
                self.dropped.note("class names", f"{name} ({self.counts[name]} objects)")


class FileWriter(Writer):
    """Base of the writer of a format with one file for all images.

    Subclasses implement ``text`` and, where something stands before and after the images, ``start`` and
    ``end``. What ``text`` returns depends on the image and on what was noted before, on nothing else.
    """

    file_name: ClassVar[str]

    def start(self) -> str:
        """What precedes the images."""
        return ""

    def text(self, item: Item) -> str:
        """What stands for one image, reduced to what the format can store."""
        raise NotImplementedError

    def end(self) -> str:
        """What follows the images; may note what concerns all of them."""
        return ""

    def write(self, item: Item) -> None:
        """Append one image to the file."""
        self._append(self.text(item))

    def finish(self) -> None:
        """Complete the file."""
        self._append(self.end())

    def _append(self, text: str) -> None:
        file = self.folder / self.file_name
        start = "" if file.exists() else self.start()
        with file.open("a", encoding="utf-8", newline="") as opened:
            opened.write(start + text)


def with_visibility(found: Instances) -> Instances:
    """Predictions whose keypoints are visible (2) where their logit is above 0, and hidden (1) elsewhere."""
    assert found.keypoints is not None
    seen = np.where(found.keypoints[..., 2:] > 0, 2, 1)
    return replace(found, keypoints=np.concatenate([found.keypoints[..., :2], seen], 2).astype(np.float32))
