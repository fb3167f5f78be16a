"""Base of all writers, which note every object that their format cannot store.

A writer gets the images one by one; their files have already been copied to ``image_folder``. It notes all
content that is lost in :class:`DroppedContent`, object by object.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.structures import Instances

APART = 0.5  # pixels by which a box may differ from that of its outline


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


@dataclass(frozen=True)
class Item:
    """One image to be written.

    Attributes:
        image: the copied file; its stem is unique.
        truth: its objects, with masks if there are any.
        numbers: the number of each object in :class:`DroppedContent`.
        image_id: as in the record.
    """

    image: Path
    truth: Instances
    numbers: tuple[int, ...]
    image_id: int | str

    def place(self, index: int) -> str:
        """How an object is named in :class:`DroppedContent`."""
        return f"{self.image.name}, object {self.numbers[index]}"

    def only(self, wanted: npt.NDArray[np.bool_]) -> Item:
        """The same image with some of its objects."""
        numbers = tuple(n for n, keep in zip(self.numbers, wanted.tolist(), strict=True) if keep)
        return replace(self, truth=self.truth[wanted], numbers=numbers)


class Writer:
    """Base of a writer: ``add`` every image, then ``finish``; subclasses implement ``write``."""

    holds: frozenset[str] = frozenset()  # of: crowds, difficult, outlines, keypoints
    image_folder: ClassVar[str] = "images"
    needs_outlines: ClassVar[bool] = False  # objects without an outline are lost

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        self.folder = folder
        self.dataset = dataset
        self.dropped = dropped

    def image_path(self, name: str) -> Path:
        """The path of an image with this name."""
        return self.folder / self.image_folder / name

    def add(self, item: Item) -> None:
        """Write one image's objects."""
        self.write(self._sifted(item))

    def write(self, item: Item) -> None:
        """Write one image, reduced to what the format can store."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what concerns all images."""

    def _sifted(self, item: Item) -> Item:
        """The image without the flags and objects that the format cannot store, each noted."""
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
        counts = Counter(int(v) for r in self.dataset.records for v in r.truth.labels.tolist())
        if self.dataset.class_names != ("object",):
            for label, name in enumerate(self.dataset.class_names):
                self.dropped.note("class names", f"{name} ({counts[label]} objects)")
