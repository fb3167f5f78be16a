"""What the writers of annotation formats share: what each can hold, and what of the objects it cannot.

Every writer is given the images one by one, their files being copied already to where ``image_folder`` says.
What it leaves out it says to :class:`DroppedContent`, object by object.
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

APART = 0.5  # pixels between a box and its outline's beyond which they differ


@dataclass
class DroppedContent:
    """What was left out, kind by kind: the places.

    Attributes:
        places: of each kind, where; an image and the number of an object in it, counted from 1, or a class.
    """

    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, place: str) -> None:
        """Count one more of a kind."""
        self.places.setdefault(kind, []).append(place)


@dataclass(frozen=True)
class Item:
    """One image on its way.

    Attributes:
        image: the copied file; its stem is unlike that of all others.
        truth: its objects, with masks where there are any.
        numbers: what each object is called in :class:`DroppedContent`.
        image_id: as in the record.
    """

    image: Path
    truth: Instances
    numbers: tuple[int, ...]
    image_id: int | str

    def place(self, index: int) -> str:
        """What an object is called."""
        return f"{self.image.name}, object {self.numbers[index]}"

    def only(self, wanted: npt.NDArray[np.bool_]) -> Item:
        """The image with some of its objects."""
        numbers = tuple(n for n, keep in zip(self.numbers, wanted.tolist(), strict=True) if keep)
        return replace(self, truth=self.truth[wanted], numbers=numbers)


class Writer:
    """One format; ``add`` every image, then ``finish``."""

    holds: frozenset[str] = frozenset()  # of: crowds, difficult, outlines, keypoints
    image_folder: ClassVar[str] = "images"
    needs_outlines: ClassVar[bool] = False  # objects without are lost

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        self.folder = folder
        self.dataset = dataset
        self.dropped = dropped

    def image_path(self, name: str) -> Path:
        """Where an image of this name belongs."""
        return self.folder / self.image_folder / name

    def add(self, item: Item) -> None:
        """Write one image's objects."""
        self.write(self._sifted(item))

    def write(self, item: Item) -> None:
        """Write what the format can hold."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what belongs to all images together."""

    def _sifted(self, item: Item) -> Item:
        """The image without the marks and the objects that the format has no place for, each noted."""
        truth = item.truth
        marks = {
            "difficult": ("marks difficult", truth.difficult),
            "keypoints": (
                "keypoints",
                None if truth.keypoints is None else (truth.keypoints != 0).any(2).any(1),
            ),
            "outlines": ("outlines", None if truth.masks is None else np.ones(len(truth), np.bool_)),
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
        """The image without some objects that are lost as a whole."""
        for index in np.flatnonzero(wrong).tolist():
            self.dropped.note(kind, item.place(index))
        return item.only(~wrong)

    def with_outlines(self, item: Item) -> Item:
        """The image with those objects that have an outline with a pixel."""
        masks = item.truth.masks
        if masks is None:
            return self.drop(item, np.ones(len(item.truth), dtype=np.bool_), "objects without outline")
        return self.drop(item, masks.areas() == 0, "objects with an empty outline")

    def note_boxes(self, item: Item) -> None:
        """Boxes that are not those around their outlines, which is what such formats give back."""
        assert item.truth.masks is not None
        away = np.abs(item.truth.boxes - item.truth.masks.boxes())
        for index in np.flatnonzero((away > APART).any(1)).tolist():
            self.dropped.note("boxes other than around the outline", item.place(index))

    def note_classes(self) -> None:
        """The names of the classes, where the format has one without a name."""
        counts = Counter(int(v) for r in self.dataset.records for v in r.truth.labels.tolist())
        if self.dataset.class_names != ("object",):
            for label, name in enumerate(self.dataset.class_names):
                self.dropped.note("names of classes", f"{name} ({counts[label]} objects)")
