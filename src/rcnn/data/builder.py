"""Readers of all formats fill a :class:`DatasetBuilder`, which makes the data set.

A reader finds the files, parses their format and reports what it cannot parse. The builder checks boxes
against their images, numbers the classes, decides whether the outlines are usable, and makes records whose
masks are drawn only when they are needed.

Legend: N objects per image, K keypoints per object.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, DrawnMasks, Record
from rcnn.data.problems import Box, Problem, Severity, check_box, shortened, turned_problem
from rcnn.io.images import ImageError, image_header, image_size
from rcnn.io.reading import ChoiceError, current_reading
from rcnn.structures import Instances, Masks, Outline, Size, Skeleton

TRANSPOSED = 5  # EXIF orientations from here on swap width and height

Content = Literal["crowd", "difficult", "areas", "outlines"]
"""A property of objects that a format stores; every record then has it, even if no object uses it."""


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
        """The window as a box, which is tight if pixels touch all four sides."""
        x1, y1, x2, y2 = map(float, self.window)
        return x1, y1, x2, y2


@dataclass
class Annotation:
    """One usable object.

    Attributes:
        box: x1 y1 x2 y2, inside the image.
        label: the index of its class; or its name, if the classes are not known yet.
        name: how problems refer to it.
        outline: a polygon, a run-length code or a bitmap; within an image, either all objects have bitmaps or
            none.
        keypoints: float32 ``[K, 3]``.
        crowd: it is a region of many objects.
        difficult: VOC's mark for objects that the evaluation ignores.
        area: the area given by the annotation, if any.
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
    """One usable image with its annotations.

    Attributes:
        path: the image file.
        size: (height, width), upright.
        image_id: as in :class:`Record`.
        annotations: its objects.
        masks: loads their masks, if they are stored in one image; otherwise the outlines are drawn.
        semantic: loads the class of every pixel.
        image: makes the image, if there is no file.
    """

    path: Path
    size: Size
    image_id: int | str
    annotations: list[Annotation] = field(default_factory=list)
    masks: Callable[[], Masks] | None = None
    semantic: Callable[[], npt.NDArray[np.integer[Any]]] | None = None
    image: Callable[[], npt.NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class PlainObjects:
    """Objects without faults, keypoints and marks, many at a time.

    Attributes:
        pictures: the image of each.
        labels: as in :class:`Annotation`, like the following fields.
        names: likewise.
        boxes: float64 ``[N, 4]``, x1 y1 x2 y2.
        areas: float64 ``[N]``.
        corners: float64 ``[C, 2]``, of all polygons.
        part_ends: int64 ``[P]``, the number of corners up to the end of each part of a polygon.
        first_parts: int64 ``[N + 1]``, the number of parts before each object; without a part, it is a box.
    """

    pictures: Sequence[Picture]
    labels: Sequence[int]
    names: Sequence[str]
    boxes: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    corners: npt.NDArray[np.float64]
    part_ends: npt.NDArray[np.int64]
    first_parts: npt.NDArray[np.int64]

    @property
    def first_corners(self) -> npt.NDArray[np.int64]:
        """int64 ``[N + 1]``, the number of corners before each object."""
        ends: npt.NDArray[np.int64] = np.r_[0, self.part_ends][self.first_parts]
        return ends

    def between(self, start: int, end: int) -> PlainObjects:
        """The objects of a range."""
        first, last = self.first_parts[start], self.first_parts[end]
        corner, beyond = self.first_corners[[start, end]]
        return PlainObjects(
            self.pictures[start:end],
            self.labels[start:end],
            self.names[start:end],
            self.boxes[start:end],
            self.areas[start:end],
            self.corners[corner:beyond],
            self.part_ends[first:last] - corner,
            self.first_parts[start : end + 1] - first,
        )


class DatasetBuilder:
    """Collects images, objects and problems, and builds a :class:`Dataset`.

    Attributes:
        format: as in :class:`Dataset`, like the other fields of the same names.
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
        self.unsized: list[Path] = []
        self.odd_visibilities: Counter[str] = Counter()

    @property
    def num_keypoints(self) -> int:
        """K, 0 if there are no keypoints."""
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
        objects: int | None = None,
    ) -> None:
        """Add a problem; without ``file``, it concerns the source itself."""
        self.problems.append(
            Problem(file or self.source, what, advice, annotation, severity, is_outline_problem, objects)
        )

    def warn(
        self, what: str, advice: str, annotation: str | None = None, *, file: Path | None = None
    ) -> None:
        """Add a warning: a problem that is handled as ``advice`` states."""
        self.report(what, advice, annotation, file=file, severity="warning")

    def declare_classes(self, names: Iterable[str], category_ids: Sequence[int] = ()) -> None:
        """Set the classes, in label order; names that differ only in case are reported."""
        self.class_names, self.category_ids = tuple(names), tuple(category_ids)
        folded = [name.casefold() for name in self.class_names]
        same = [name for name in self.class_names if folded.count(name.casefold()) > 1]
        if same:
            what = f"Categories have names that are equal or differ only in case: {', '.join(same)}."
            self.warn(what, "They count as different classes; merge them if they are the same.")

    def declare_occurring_classes(self) -> None:
        """Make the names that occur, sorted, the classes.

        Names that differ only in case are one class, called by the most frequent spelling, with a warning.
        """
        found = (annotation.label for picture in self.pictures for annotation in picture.annotations)
        counts = Counter(str(name) for name in found)
        groups: dict[str, list[str]] = defaultdict(list)
        for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            groups[name.casefold()].append(name)
        for first, *others in groups.values():
            if others:
                spelled = ", ".join(f"{name} ({counts[name]})" for name in (first, *others))
                what = f"Class names differ only in case: {spelled}."
                self.warn(what, f"They are read as {first}.")
        self.class_names = tuple(sorted(group[0] for group in groups.values()))
        self.name_labels({name: group[0] for group in groups.values() for name in group})

    def name_labels(self, spellings: Mapping[str, str]) -> None:
        """Replace labels that are names by the index of the class that each spelling stands for."""
        numbers = {name: label for label, name in enumerate(self.class_names)}
        for picture in self.pictures:
            for annotation in picture.annotations:
                if isinstance(annotation.label, str):
                    annotation.label = numbers[spellings[annotation.label]]

    def relabel(self, labels: Mapping[int, int]) -> None:
        """Replace labels that are ids of categories by the indices of their classes."""
        for picture in self.pictures:
            for annotation in picture.annotations:
                assert isinstance(annotation.label, int)
                annotation.label = labels[annotation.label]

    def add(self, picture: Picture) -> Picture:
        """Add an image."""
        self.pictures.append(picture)
        return picture

    def put(self, picture: Picture, annotation: Annotation) -> None:
        """Add an object to an image."""
        picture.annotations.append(annotation)

    def put_many(self, objects: PlainObjects) -> None:
        """Add objects to their images."""
        parts = np.split(objects.corners, objects.part_ends[:-1]) if len(objects.part_ends) else []
        rows = zip(objects.pictures, objects.labels, objects.names, objects.boxes.tolist(), strict=True)
        for i, (picture, label, name, (x1, y1, x2, y2)) in enumerate(rows):
            outline = parts[objects.first_parts[i] : objects.first_parts[i + 1]] or None
            area = float(objects.areas[i])
            self.put(picture, Annotation((x1, y1, x2, y2), label, name, outline, area=area))

    def add_file(self, path: Path, image_id: int | str, annotation: str | None = None) -> Picture | None:
        """Add an image with the size of its file; if it cannot be read, None and an error."""
        size = measured(path, annotation)
        if isinstance(size, Problem):
            self.problems.append(size)
            return None
        return self.add(Picture(path, size, image_id))

    def note_unsized(self, path: Path, content: bytes | None = None) -> None:
        """Note an image whose annotation lacks its size, although the format has a place for it.

        With the size, it is known whether an image that EXIF turns was annotated turned.

        Args:
            path: the image file.
            content: of the file, if it is inside another one.
        """
        with suppress(ImageError):
            height, width = (header := image_header(path, content=content)).size
            if header.orientation >= TRANSPOSED and height != width and current_reading().exif is None:
                self.unsized.append(path)

    def usable_box(self, corners: Box, picture: Picture, name: str) -> Box | None:
        """The part of a box inside its image, None if it is unusable; faults are reported."""
        box, fault = check_box(corners, picture.size)
        if fault is not None:
            self.problems.append(fault.of(picture.path, name))
        return box

    def name_images(self) -> None:
        """Put the folder before ids that two images would share."""
        counts = Counter(picture.image_id for picture in self.pictures)
        for picture in self.pictures:
            if counts[picture.image_id] > 1:
                picture.image_id = f"{picture.path.parent.name}/{picture.image_id}"

    def build(self) -> Dataset:
        """The data set."""
        if self.unsized:
            self.problems.append(turned_problem(self.unsized))
        found = [annotation for picture in self.pictures for annotation in picture.annotations]
        bare = [annotation.name for annotation in found if annotation.outline is None]
        drawn = "outlines" in self.holds and self.judge_outlines(len(found), len(bare), bare)
        areas = "areas" in self.holds or any(annotation.area is not None for annotation in found)
        records = [self._record(picture, drawn=drawn, areas=areas) for picture in self.pictures]
        self.report_visibilities()
        return Dataset(
            format=self.format,
            source=self.source,
            class_names=self.class_names,
            records=records,
            problems=tuple(self.problems),
            category_ids=self.category_ids,
            semantic_names=self.semantic_names,
            semantic_ids=self.semantic_ids,
            skeleton=self.skeleton,
        )

    def _record(self, picture: Picture, *, drawn: bool, areas: bool) -> Record:
        found = picture.annotations
        masks = picture.masks
        bare = np.array([a.outline is None for a in found], np.bool_)
        if drawn and masks is None:
            masks = lazy_masks([a.outline or filled(a.box) for a in found], picture.size)
        truth = Instances(
            size=picture.size,
            boxes=np.array([a.box for a in found], np.float32).reshape(-1, 4),
            labels=np.array([a.label for a in found], np.int64),
            crowd=np.array([a.crowd for a in found], np.bool_) if "crowd" in self.holds else None,
            difficult=np.array([a.difficult for a in found], np.bool_) if "difficult" in self.holds else None,
            areas=np.array([_area(a) for a in found], np.float32) if areas else None,
            has_mask=~bare if drawn and bare.any() else None,
            keypoints=self._keypoints(found) if self.skeleton else None,
            class_names=self.class_names,
            semantic_names=self.semantic_names,
            skeleton=self.skeleton,
            path=picture.path,
        )
        return Record(picture.path, picture.image_id, truth, masks, picture.semantic, picture.image)

    def _keypoints(self, found: Sequence[Annotation]) -> npt.NDArray[np.float32]:
        """float32 ``[N, K, 3]``."""
        points = np.zeros((len(found), self.num_keypoints, 3), np.float32)
        for row, annotation in zip(points, found, strict=True):
            if annotation.keypoints is not None:
                row[:] = self.with_plain_visibility(annotation.keypoints)
        return points

    def with_plain_visibility(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Keypoints ``[K, 3]`` with visibilities 0, 1 or 2; others are noted for a warning.

        Those above 0 become 2, visible; those below, and NaN, become 0, not annotated.
        """
        given = points[:, 2]
        odd = ~np.isin(given, (0, 1, 2))
        if not odd.any():
            return points
        self.odd_visibilities.update(f"{value:g}" for value in given[odd].tolist())
        plain = points.copy()
        plain[odd, 2] = np.where(given[odd] > 0, 2, 0)
        plain[plain[:, 2] == 0] = 0
        return plain

    def report_visibilities(self) -> None:
        """Warn, once, of visibilities other than 0, 1 and 2."""
        if self.odd_visibilities:
            shown = shortened([value for value, _ in self.odd_visibilities.most_common()])
            what = (
                f"{self.odd_visibilities.total()} keypoints have a visibility other than 0, 1 and 2: {shown}."
            )
            advice = (
                "Above 0 they are taken for visible (2), else for not annotated (0); correct them if not so."
            )
            self.warn(what, advice, "keypoints")

    def judge_outlines(self, total: int, bare: int, names: Sequence[str]) -> bool:
        """Whether the outlines are used; objects without one are then known by their boxes alone.

        Args:
            total: number of objects.
            bare: number of those without an outline.
            names: the names of some of these, for messages.
        """
        if not bare or bare == total:
            return not bare
        if 2 * bare >= total:
            what = f"Only {total - bare} of {total} objects have a segmentation."
            self.warn(what, "The outlines are ignored and the boxes used.")
            return False
        what = f"{bare} of {total} objects have a box but no segmentation: {shortened(names)}."
        advice = "Their boxes are used; masks are neither learned from them nor measured on them."
        self.warn(what, advice, "objects")
        return True


def filled(box: Box) -> list[npt.NDArray[np.float64]]:
    """The outline of a box."""
    x1, y1, x2, y2 = box
    return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)]


def measured(path: Path, annotation: str | None = None) -> Size | Problem:
    """The size of an image file, or the problem why it cannot be read."""
    try:
        return image_size(path)
    except ImageError as error:
        advice = "" if isinstance(error, ChoiceError) else "Replace the image."
        return Problem(path, str(error).removeprefix(f"{path}: "), advice, annotation)


def lazy_masks(outlines: Sequence[Outline | Bitmap], size: Size) -> Callable[[], Masks]:
    """A picklable function that draws outlines on an image of ``size``; it keeps bitmaps bit-packed."""
    bitmaps = [outline for outline in outlines if isinstance(outline, Bitmap)]
    drawn = [outline for outline in outlines if not isinstance(outline, Bitmap)]
    if not bitmaps:
        return DrawnMasks(partial(list, drawn), size)
    assert not drawn
    bits = np.packbits(np.concatenate([bitmap.pixels.reshape(-1) for bitmap in bitmaps]))
    return partial(_unpacked, bits, np.array([bitmap.window for bitmap in bitmaps], np.int64), size)


def _unpacked(bits: npt.NDArray[np.uint8], windows: npt.NDArray[np.int64], size: Size) -> Masks:
    """Masks from the concatenated bits of their windows."""
    count = int((windows[:, 2:] - windows[:, :2]).prod(1).sum())
    return Masks(np.unpackbits(bits, count=count), windows, size)


def _area(annotation: Annotation) -> float:
    x1, y1, x2, y2 = annotation.box
    return (x2 - x1) * (y2 - y1) if annotation.area is None else annotation.area
