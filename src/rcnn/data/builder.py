"""What readers have in common: they fill a :class:`DatasetBuilder`, which makes the data set.

A reader looks for files, understands their format and reports what it does not understand. The builder checks
boxes against their images, numbers the classes, decides whether the outlines can be used, and makes records
whose masks are drawn when a sample is asked for.

Legend: N objects of an image, K keypoints of an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, Record
from rcnn.data.problems import Box, Problem, Severity, check_box
from rcnn.io.images import ImageError, image_size
from rcnn.structures import Instances, Masks, Outline, Size, Skeleton

Content = Literal["crowd", "difficult", "areas", "outlines"]
"""What a format says of objects; every record then has it, whether or not an object makes use of it."""


@dataclass(frozen=True)
class Bitmap:
    """An object's pixels in a window of its image.

    Attributes:
        pixels: bool ``[h, w]``.
        origin: (y, x) of the upper left pixel.
    """

    pixels: npt.NDArray[np.bool_]
    origin: tuple[int, int]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2."""
        y, x = self.origin
        return x, y, x + self.pixels.shape[1], y + self.pixels.shape[0]

    @property
    def box(self) -> Box:
        """The window; the box of an object whose pixels reach to all its sides."""
        x1, y1, x2, y2 = map(float, self.window)
        return x1, y1, x2, y2


@dataclass
class Annotation:
    """One object that can be used.

    Attributes:
        box: x1 y1 x2 y2, inside the image.
        label: the index of its class; or its name where the classes are known only at the end.
        name: what problems call it.
        outline: a polygon, a run-length code or a bitmap; all objects of an image have bitmaps, or none.
        keypoints: float32 ``[K, 3]``.
        crowd: a region of many objects.
        difficult: VOC's mark.
        area: the annotation's own area, where the format has one.
    """

    box: Box
    label: int | str
    name: str
    outline: Outline | Bitmap | None = None
    keypoints: npt.NDArray[np.float32] | None = None
    crowd: bool = False
    difficult: bool = False
    area: float | None = None


@dataclass
class Picture:
    """One image that can be used, and what is on it.

    Attributes:
        path: the image file.
        size: (height, width), upright.
        image_id: as in :class:`Record`.
        annotations: its objects.
        masks: makes their masks, where the format has a picture of all; else their outlines are drawn.
        semantic: makes the class of every pixel.
        image: makes the image, where there is no file.
    """

    path: Path
    size: Size
    image_id: int | str
    annotations: list[Annotation] = field(default_factory=list)
    masks: Callable[[], Masks] | None = None
    semantic: Callable[[], npt.NDArray[np.integer[Any]]] | None = None
    image: Callable[[], npt.NDArray[np.uint8]] | None = None


class DatasetBuilder:
    """Collects images, objects and problems, and makes a :class:`Dataset` of them.

    Attributes:
        format: as in :class:`Dataset`; the other fields of that name likewise.
        pictures: the images, in the order of the records.
    """

    def __init__(self, format: str, source: Path, *holds: Content) -> None:
        self.format = format
        self.source = source
        self.holds: frozenset[Content] = frozenset(holds)
        self.problems: list[Problem] = []
        self.pictures: list[Picture] = []
        self.class_names: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()
        self.semantic_names: tuple[str, ...] = ()
        self.semantic_ids: tuple[int, ...] = ()
        self.skeleton: Skeleton | None = None

    @property
    def num_keypoints(self) -> int:
        """K, 0 where there are none."""
        return 0 if self.skeleton is None else len(self.skeleton.names)

    def report(
        self,
        what: str,
        advice: str,
        annotation: str | None = None,
        *,
        file: Path | None = None,
        severity: Severity = "error",
        is_outline_problem: bool = False,
    ) -> None:
        """Note a problem, of the source itself where no other file is named."""
        self.problems.append(
            Problem(file or self.source, what, advice, annotation, severity, is_outline_problem)
        )

    def warn(
        self, what: str, advice: str, annotation: str | None = None, *, file: Path | None = None
    ) -> None:
        """Note a problem that is dealt with as ``advice`` says."""
        self.report(what, advice, annotation, file=file, severity="warning")

    def declare_classes(self, names: Iterable[str], category_ids: Sequence[int] = ()) -> None:
        """Set the classes, in label order; names that differ in upper and lower case only are reported."""
        self.class_names, self.category_ids = tuple(names), tuple(category_ids)
        folded = [name.casefold() for name in self.class_names]
        same = [name for name in self.class_names if folded.count(name.casefold()) > 1]
        if same:
            what = f"Categories have the same name, up to upper and lower case: {', '.join(same)}."
            self.warn(what, "They count as different classes; merge them if they are not.")

    def name_labels(self, spellings: Mapping[str, str]) -> None:
        """Number the labels that are names so far, by the class that each spelling stands for."""
        numbers = {name: label for label, name in enumerate(self.class_names)}
        for picture in self.pictures:
            for annotation in picture.annotations:
                if isinstance(annotation.label, str):
                    annotation.label = numbers[spellings[annotation.label]]

    def add(self, picture: Picture) -> Picture:
        """One more image."""
        self.pictures.append(picture)
        return picture

    def add_file(self, path: Path, image_id: int | str, annotation: str | None = None) -> Picture | None:
        """One more image, of the size that its file says; None, and an error, where that cannot be read."""
        size = measured(path, annotation)
        if isinstance(size, Problem):
            self.problems.append(size)
            return None
        return self.add(Picture(path, size, image_id))

    def usable_box(self, corners: Box, picture: Picture, name: str) -> Box | None:
        """The part of a box inside its image, None if it cannot be used; what is wrong is reported."""
        box, fault = check_box(corners, picture.size)
        if fault is not None:
            self.problems.append(fault.of(picture.path, name))
        return box

    def build(self) -> Dataset:
        """Everything collected, as a data set."""
        drawn = "outlines" in self.holds and self._judge_outlines()
        areas = "areas" in self.holds or any(a.area is not None for p in self.pictures for a in p.annotations)
        return Dataset(
            format=self.format,
            source=self.source,
            class_names=self.class_names,
            records=[self._record(picture, drawn=drawn, areas=areas) for picture in self.pictures],
            problems=tuple(self.problems),
            category_ids=self.category_ids,
            semantic_names=self.semantic_names,
            semantic_ids=self.semantic_ids,
            skeleton=self.skeleton,
        )

    def _record(self, picture: Picture, *, drawn: bool, areas: bool) -> Record:
        found = picture.annotations
        truth = Instances(
            size=picture.size,
            boxes=np.array([a.box for a in found], np.float32).reshape(-1, 4),
            labels=np.array([a.label for a in found], np.int64),
            crowd=np.array([a.crowd for a in found], np.bool_) if "crowd" in self.holds else None,
            difficult=np.array([a.difficult for a in found], np.bool_) if "difficult" in self.holds else None,
            areas=np.array([_area(a) for a in found], np.float32) if areas else None,
            keypoints=self._keypoints(found) if self.skeleton else None,
            class_names=self.class_names,
            semantic_names=self.semantic_names,
            skeleton=self.skeleton,
            path=picture.path,
        )
        masks = picture.masks
        if drawn and masks is None:
            outlines = [a.outline for a in found if a.outline is not None]
            masks = lazy_masks(outlines, picture.size) if len(outlines) == len(found) else None
        return Record(picture.path, picture.image_id, truth, masks, picture.semantic, picture.image)

    def _keypoints(self, found: Sequence[Annotation]) -> npt.NDArray[np.float32]:
        """float32 ``[N, K, 3]``."""
        points = np.zeros((len(found), self.num_keypoints, 3), np.float32)
        for row, annotation in zip(points, found, strict=True):
            if annotation.keypoints is not None:
                row[:] = annotation.keypoints
        return points

    def _judge_outlines(self) -> bool:
        """Whether the data set has outlines; if it does, objects without one are errors."""
        bare = [(p, a) for p in self.pictures for a in p.annotations if a.outline is None]
        total = sum(len(picture.annotations) for picture in self.pictures)
        if not bare or len(bare) == total:
            return not bare
        if 2 * len(bare) > total:
            what = f"Only {total - len(bare)} of {total} objects have a segmentation."
            self.warn(what, "The outlines are left out and the boxes used.")
            return False
        for picture, annotation in bare:
            what = "The segmentation is missing or empty, other objects of the file have one."
            advice = "Draw it, delete the object, or train on boxes alone (--model faster_rcnn)."
            self.report(what, advice, annotation.name, file=picture.path, is_outline_problem=True)
        return True


def measured(path: Path, annotation: str | None = None) -> Size | Problem:
    """The size of an image file, or why it cannot be read."""
    try:
        return image_size(path)
    except ImageError as error:
        return Problem(path, str(error).removeprefix(f"{path}: "), "Replace the image.", annotation)


def lazy_masks(outlines: Sequence[Outline | Bitmap], size: Size) -> Callable[[], Masks]:
    """What draws outlines on an image of ``size``; picklable, and bitmaps are kept bit-packed."""
    bitmaps = [outline for outline in outlines if isinstance(outline, Bitmap)]
    drawn = [outline for outline in outlines if not isinstance(outline, Bitmap)]
    if not bitmaps:
        return partial(Masks.from_outlines, drawn, size)
    assert not drawn
    bits = np.packbits(np.concatenate([bitmap.pixels.reshape(-1) for bitmap in bitmaps]))
    return partial(_unpacked, bits, np.array([bitmap.window for bitmap in bitmaps], np.int64), size)


def _unpacked(bits: npt.NDArray[np.uint8], windows: npt.NDArray[np.int64], size: Size) -> Masks:
    """Masks from the bits of their windows, one after the other."""
    count = int((windows[:, 2:] - windows[:, :2]).prod(1).sum())
    return Masks(np.unpackbits(bits, count=count), windows, size)


def _area(annotation: Annotation) -> float:
    x1, y1, x2, y2 = annotation.box
    return (x2 - x1) * (y2 - y1) if annotation.area is None else annotation.area
