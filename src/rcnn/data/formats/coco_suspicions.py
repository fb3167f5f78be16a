"""Suspicious COCO annotations, found by comparing them with one another and with their outlines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.problems import Box, Problem, shortened
from rcnn.structures import Size

MIN_OVERLAP = 0.5  # IoU of a box and its outline; below, they hardly belong together


class Suspicions:
    """Collects boxes and outlines as written in the file, and reports what is suspicious."""

    def __init__(self, builder: DatasetBuilder) -> None:
        self.builder = builder
        self.boxes: list[tuple[Box, Size]] = []  # x, y, width, height, with the size of the image
        # Annotations by image, class and bbox, each with its name and its outline and keypoints.
        self.twins: dict[tuple[Any, ...], list[tuple[str, Any]]] = defaultdict(list)
        self.off: list[str] = []  # annotations whose box hardly overlaps their polygons

    def look_at_box(self, picture: Picture, label: int, bbox: Box, drawn: Any, name: str) -> None:
        """Record a box, and report an annotation that repeats an earlier one.

        Args:
            picture: its image.
            label: its class.
            bbox: x, y, width, height.
            drawn: its outline and keypoints, which must be equal, too.
            name: the name of the annotation.
        """
        twins = self.twins[picture.image_id, label, *bbox]
        first = next((other for other, same in twins if same == drawn), None)
        if first is None:
            twins.append((name, drawn))
        elif first != name:
            what = f"It is identical to annotation {first}."
            self.builder.warn(what, "Both are used; delete one.", name, file=picture.path)
        self.boxes.append((bbox, picture.size))

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
        elif _overlap(bounds, box) < MIN_OVERLAP:
            self.off.append(f"{name} of {picture.path.name}")

    def report(self) -> None:
        """Report bbox values that are corners or fractions of the image, and boxes unlike their polygons.

        Corners are recognised by the fact that nearly all fit into their images, while many would extend
        beyond them as x, y, width, height.
        """
        builder = self.builder
        if self.off:
            what = f"{len(self.off)} boxes overlap their outlines by less than half: {shortened(self.off)}."
            advice = "Look at them (rcnn data show). Is bbox x, y, width, height, for this image size?"
            builder.warn(what, advice, "boxes")
        count = len(self.boxes)
        numbers = [value for box, _ in self.boxes for value in box]
        if count and max(numbers) <= 1 and any(value % 1 for value in numbers):
            what = f"All {count} boxes are between 0 and 1."
            builder.problems.insert(0, Problem(builder.source, what, "Give them in pixels, not fractions."))
        fits = sum(_fits(x, y, a, b, size) for (x, y, a, b), size in self.boxes)
        beyond = sum(not _fits(x, y, x + a, y + b, size) for (x, y, a, b), size in self.boxes)
        if count and fits >= 0.95 * count and beyond >= 0.2 * count:
            what = f"{beyond} of {count} boxes extend beyond their image if bbox is x, y, width, height."
            advice = "As x1, y1, x2, y2 they would fit: subtract x1 and y1 from the last two numbers."
            builder.problems.insert(0, Problem(builder.source, what, advice))


def _fits(x1: float, y1: float, x2: float, y2: float, size: Size) -> bool:
    return x1 < x2 <= size[1] + 1 and y1 < y2 <= size[0] + 1


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The IoU of two boxes."""
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    both = sides[0] * sides[1]
    return both / max(sum(areas) - both, 1e-9)


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes have a point in common."""
    return all(one[i] <= other[i + 2] and other[i] <= one[i + 2] for i in (0, 1))
