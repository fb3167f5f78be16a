"""Lines of YOLO's text files that look like another format, judged together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Picture
from rcnn.data.problems import Problem

BOX, MIN_OUTLINE_VALUES = 5, 7  # numbers per line
ORIENTED = 9  # numbers of four corners
FITTING, BEYOND = 0.95, 0.2  # fractions of the boxes, as for COCO
SLACK = 0.02  # of the image, beyond its border
FARTHEST = 1e6  # from the origin, in sizes of the image; of numbers beyond it nothing can be said
SQUARE = 0.1  # cosine of the corners of an oriented box
MIN_POSES = 2  # lines that must look like poses; an outline may do so by chance

Row = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """The numbers of one line.

    Attributes:
        picture: its image.
        place: the file and the number of the line, for messages.
        row: the numbers.
    """

    picture: Picture
    place: str
    row: Row


def fields_of(line: str) -> tuple[str, ...]:
    """The values of a line, separated by blanks or by commas.

    >>> fields_of("0 0.5 0.5 0.2 0.4"), fields_of("0, .5, .5, .2, .4")
    (('0', '0.5', '0.5', '0.2', '0.4'), ('0', '.5', '.5', '.2', '.4'))
    """
    words = line.split()
    if len(words) == 1 or all(word.endswith(",") for word in words[:-1]):
        return tuple(word for word in line.replace(",", " ").split())
    return tuple(words)


def suspicions(source: Path, lines: Sequence[Line], has_keypoints: bool) -> list[Problem]:
    """What the lines of a data set look like, if not like what they are read as.

    Args:
        source: of the data set, for the problems.
        lines: all lines.
        has_keypoints: the settings declare keypoints.
    """
    boxes = np.array([line.row for line in lines if len(line.row) == BOX]).reshape(-1, BOX)
    found = _misread_boxes(boxes[:, 1:])
    long = [line for line in lines if len(line.row) >= MIN_OUTLINE_VALUES]
    lengths = {len(line.row) for line in long}
    if has_keypoints or len(lengths) != 1:
        return _problems(source, found)
    rows = np.array([line.row for line in long])
    if not (np.abs(rows) <= FARTHEST).all():
        return _problems(source, found)
    size = lengths.pop()
    for dimensions in (3, 2):
        if (size - BOX) % dimensions == 0 and _are_poses(rows, dimensions):
            count = (size - BOX) // dimensions
            what = f"All {len(rows)} long lines look like boxes followed by {count} keypoints."
            return _problems(source, found, (what, f"Add kpt_shape: [{count}, {dimensions}] to data.yaml."))
    if size == ORIENTED and _are_oriented([line.picture.size for line in long], rows):
        what = f"All {len(rows)} outlines have four corners, like oriented boxes."
        advice = "They are read as outlines, with upright boxes around them."
        return [*_problems(source, found), Problem(source, what, advice, "lines", "warning")]
    return _problems(source, found)


def _problems(source: Path, *found: tuple[str, str] | None) -> list[Problem]:
    return [Problem(source, *item, "lines") for item in found if item is not None]


def _misread_boxes(boxes: Row) -> tuple[str, str] | None:
    """What and advice if boxes look like corners, or like their upper left corner with the size."""
    if not len(boxes) or not (np.abs(boxes) <= FARTHEST).all() or boxes.max() > 1 + SLACK:
        return None
    a, b = boxes[:, :2], boxes[:, 2:]
    beyond = ((a - b / 2 < -SLACK) | (a + b / 2 > 1 + SLACK)).any(1)
    if beyond.sum() < max(2, BEYOND * len(boxes)):
        return None
    outside = f"{beyond.sum()} of {len(boxes)} boxes extend beyond their image if they are centre and size."
    if (b > a).all(1).mean() >= FITTING:
        return outside, "As corners x1 y1 x2 y2 they would fit: write the centre, width and height."
    if (a + b <= 1 + SLACK).all(1).mean() >= FITTING:
        advice = "With the upper left corner first they would fit: add half of the width and height to it."
        return outside, advice
    return None


def _are_poses(rows: Row, dimensions: int) -> bool:
    """Whether all rows are a box followed by keypoints inside it, or by visibilities 0, 1 and 2."""
    points = rows[:, BOX:].reshape(len(rows), -1, dimensions)
    centre, half = rows[:, None, 1:3], rows[:, None, 3:5] / 2
    shown = points[:, :, :2].any(2)
    inside = (np.abs(points[:, :, :2] - centre) <= half + SLACK).all(2) | ~shown
    if dimensions == 3:
        flags = points[:, :, 2]
        return bool(np.isin(flags, (0, 1, 2)).all())
    return len(rows) >= MIN_POSES and bool(inside.all())


def _are_oriented(sizes: Sequence[tuple[int, int]], rows: Row) -> bool:
    """Whether all rows are rectangles, some of them not upright."""
    scale = np.array([size[::-1] for size in sizes], np.float64)[:, None]
    corners = rows[:, 1:].reshape(-1, 4, 2) * scale
    sides = np.roll(corners, -1, 1) - corners
    lengths = np.maximum(np.linalg.norm(sides, axis=2), 1e-9)
    turns = np.abs((sides * np.roll(sides, -1, 1)).sum(2)) / (lengths * np.roll(lengths, -1, 1))
    upright = (np.abs(sides) <= SQUARE * lengths[:, :, None]).any(2).all(1)
    return bool((turns <= SQUARE).all() and not upright.all())
