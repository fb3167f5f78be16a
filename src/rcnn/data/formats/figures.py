"""Figures that annotation tools draw, as outlines: rectangles, ellipses, turned shapes, bitmaps.

Convention:
    Angles are radians, clockwise as seen (y points down): the point (1, 0) turned by a quarter about the
    origin is (0, 1).

Legend: P corners.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.formats.outlines import rle_bounds
from rcnn.data.problems import Box
from rcnn.structures import Masks, Outline, Rle, Size

Part = npt.NDArray[np.float64]
"""The corners of a polygon, ``[P, 2]`` of x, y."""

# An ellipse of this many corners has 99.8 % of its area.
ELLIPSE_CORNERS = 64


def rectangle(box: Box) -> Part:
    """The corners of a box, clockwise from the upper left."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Part:
    """A polygon of 64 corners on an ellipse with half axes ``radii``, the first one turned by ``angle``."""
    turns = np.arange(ELLIPSE_CORNERS) * (2 * np.pi / ELLIPSE_CORNERS)
    points = np.stack([radii[0] * np.cos(turns), radii[1] * np.sin(turns)], 1) + np.array(centre)
    return turned(points, angle, centre)


def turned(points: Part, angle: float, about: tuple[float, float]) -> Part:
    """Points ``[P, 2]`` turned clockwise by ``angle`` around a point."""
    if angle == 0:
        return points
    cosine, sine = math.cos(angle), math.sin(angle)
    pivot = np.array(about)
    moved: Part = (points - pivot) @ np.array([[cosine, sine], [-sine, cosine]]) + pivot
    return moved


def bounds(outline: Outline) -> Box | None:
    """The box around a polygon or a run-length code; None if it is empty."""
    if isinstance(outline, dict):
        found = rle_bounds(outline)
        return None if found is None else (found[0], found[1], found[2], found[3])
    corners = np.concatenate([np.zeros((0, 2)), *outline])
    if not len(corners):
        return None
    (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
    return x1, y1, x2, y2


def window_code(bitmap: npt.NDArray[Any], origin: tuple[int, int], size: Size) -> Rle | None:
    """The run-length code of a bitmap ``[h, w]`` whose upper left pixel is at ``origin`` (y, x).

    What extends beyond the image is cut off; None if nothing is left.
    """
    (top, left), (height, width) = origin, size
    inside = np.asarray(bitmap) != 0
    inside = inside[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    if not inside.any():
        return None
    return Masks.from_patches([inside], [(max(top, 0), max(left, 0))], size).rle()[0]
