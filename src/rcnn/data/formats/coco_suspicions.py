"""Suspicious COCO annotations, found by comparing them with one another and with their outlines."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import DatasetBuilder, Picture, PlainObjects
from rcnn.data.formats.outlines import MIN_OVERLAP
from rcnn.data.problems import Box, Problem, shortened
from rcnn.structures import Size, paired_box_ious

NOTHING = hash(None)


class Suspicions:
    """Collects boxes and outlines as written in the file, and reports what is suspicious."""

    def __init__(self, builder: DatasetBuilder) -> None:
        self.builder = builder
        self.boxes = array("d")  # x, y, width, height
        self.sizes = array("q")  # height and width of the images
        self.digests = array("q")  # of image, class, box, outline and keypoints together
        self.names: list[str] = []
        self.pictures: list[Picture] = []
        # Bounds of outlines, their boxes, and the annotations that have both.
        self.outlined: list[tuple[Sequence[float], Box, str]] = []

    def look_at_numbers(self, bbox: Box, size: Size) -> None:
        """Record x, y, width, height as they are written, and the (height, width) of the image."""
        self.boxes.extend(bbox)
        self.sizes.extend(size)

    def look_at_box(self, picture: Picture, entry: Mapping[str, Any], bbox: Box, name: str) -> None:
        """Record the box of an annotation.

        Args:
            picture: its image.
            entry: the annotation; those in which all is equal are reported.
            bbox: x, y, width, height.
            name: the name of the annotation.
        """
        self.look_at_numbers(bbox, picture.size)
        self.digests.append(annotation_digest(picture.image_id, {**entry, "bbox": bbox}))
        self.names.append(name)
        self.pictures.append(picture)

    def look_at_many(self, objects: PlainObjects, digests: Sequence[int]) -> None:
        """Record the boxes of objects, with the digest of each one's annotation."""
        x1, y1, x2, y2 = objects.boxes.T
        self.boxes.frombytes(np.stack([x1, y1, x2 - x1, y2 - y1], 1).tobytes())
        self.sizes.extend(chain.from_iterable(picture.size for picture in objects.pictures))
        self.digests.extend(digests)
        self.names += objects.names
        self.pictures += objects.pictures

    def look_at_outline(
        self, bounds: Sequence[float], box: Box, what: str, picture: Picture, name: str
    ) -> None:
        """Report an outline (a ``mask``, or ``polygons``) that is not at its box."""
        if not _meet(bounds, box):
            shown = ", ".join(f"{value:g}" for value in bounds)
            edges = ", ".join(f"{value:g}" for value in box)
            verb = "is" if what == "mask" else "are"
            what = f"The {what} {verb} at {shown} (x1, y1, x2, y2), entirely outside the box at {edges}."
            self.builder.report(what, "Correct the segmentation or the bbox.", name, file=picture.path)
        else:
            self.outlined.append((bounds, box, f"{name} of {picture.path.name}"))

    def report(self) -> None:
        """Report bbox values that are corners or fractions of the image, and boxes unlike their polygons.

        Corners are recognised by the fact that nearly all fit into their images, while many would extend
        beyond them as x, y, width, height.
        """
        builder = self.builder
        if off := self._boxes_off_outlines():
            what = f"{len(off)} boxes overlap their outlines by less than half: {shortened(off)}."
            advice = "Look at them (rcnn data show). Is bbox x, y, width, height, for this image size?"
            builder.warn(what, advice, "boxes")
        self._report_twins()
        boxes = np.array(self.boxes).reshape(-1, 4)  # [N, 4]
        sizes = np.array(self.sizes).reshape(-1, 2)
        count = len(boxes)
        if count and boxes.max() <= 1 and (boxes % 1).any():
            what = f"All {count} boxes are between 0 and 1."
            builder.problems.insert(0, Problem(builder.source, what, "Give them in pixels, not fractions."))
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        fits = int(_fits(boxes, sizes).sum())
        beyond = int((~_fits(corners, sizes)).sum())
        if count and fits >= 0.95 * count and beyond >= 0.2 * count:
            what = f"{beyond} of {count} boxes extend beyond their image if bbox is x, y, width, height."
            advice = "As x1, y1, x2, y2 they would fit: subtract x1 and y1 from the last two numbers."
            builder.problems.insert(0, Problem(builder.source, what, advice))

    def _boxes_off_outlines(self) -> list[str]:
        """The annotations whose box hardly overlaps its outline."""
        bounds, boxes = (
            np.array([pair[i] for pair in self.outlined], np.float64).reshape(-1, 4) for i in (0, 1)
        )
        few = paired_box_ious(bounds, boxes) < MIN_OVERLAP
        return [self.outlined[index][2] for index in np.flatnonzero(few)]

    def _report_twins(self) -> None:
        """Report annotations that repeat an earlier one."""
        _, first, group = np.unique(np.array(self.digests), return_index=True, return_inverse=True)
        for index in np.flatnonzero(first[group] != np.arange(len(group))).tolist():
            what = f"It is identical to annotation {self.names[first[group[index]]]}."
            advice = "Both are used; delete one."
            self.builder.warn(what, advice, self.names[index], file=self.pictures[index].path)


def annotation_digest(image_id: int | str, entry: Mapping[str, Any]) -> int:
    """A hash of the image, class, box, outline and keypoints of an annotation."""
    drawn = _digest((entry.get("segmentation"), entry.get("keypoints")))
    return hash((image_id, entry["category_id"], *entry["bbox"], drawn))


def plain_digest(image_id: int | str, entry: Mapping[str, Any]) -> int:
    """The same, sooner, of an annotation without keypoints whose outline is none or lists of numbers."""
    drawn = entry.get("segmentation")
    if not drawn:
        return annotation_digest(image_id, entry)
    outline = hash((hash(tuple([hash(tuple(part)) for part in drawn])), NOTHING))
    return hash((image_id, entry["category_id"], *entry["bbox"], outline))


def _digest(value: Any) -> int:
    """A hash of numbers and texts in nested lists and objects."""
    if isinstance(value, list | tuple):
        flat = not any(isinstance(one, list | tuple | dict) for one in value[:1])
        with contextlib.suppress(TypeError):
            return hash(tuple(value)) if flat else hash(tuple(map(_digest, value)))
        return hash(tuple(map(_digest, value)))
    return hash(repr(value)) if isinstance(value, dict) else hash(value)


def _fits(corners: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which x1 y1 x2 y2 are boxes within their images, up to a pixel."""
    x1, y1, x2, y2 = corners.T
    fits: npt.NDArray[np.bool_] = (x1 < x2) & (x2 <= sizes[:, 1] + 1) & (y1 < y2) & (y2 <= sizes[:, 0] + 1)
    return fits


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes have a point in common."""
    return all(one[i] <= other[i + 2] and other[i] <= one[i + 2] for i in (0, 1))
