"""Outlines of masks: polygons drawn into bitmaps, and bitmaps traced into polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
Outline = dict[str, Any] | list[npt.NDArray[np.float64]]
"""A COCO run-length code, or the parts of a polygon, ``[K, 2]`` of x, y each."""


def draw_polygon(parts: Sequence[npt.NDArray[np.float64]], size: Size) -> tuple[npt.NDArray[np.uint8], Size]:
    """The bitmap of a polygon in its own window, and the window's origin (y, x).

    pycocotools rounds corners to fifths of a pixel. Doing so before the polygon is moved to its window keeps
    the bitmap equal to the one drawn on the whole image, without the cost of the whole image.
    """
    from faster_coco_eval.core import mask as coco_mask

    if not parts:
        return np.zeros((0, 0), np.uint8), (0, 0)
    fifths = [np.trunc(part * 5 + 0.5) for part in parts]
    corners = np.concatenate(fifths)
    left, top = np.clip(np.floor(corners.min(0) / 5).astype(int) - 1, 0, None).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(0) / 5).astype(int) + 1, size[::-1]).tolist()
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.uint8), (0, 0)
    # A negative corner is truncated towards zero: moved by three quarters of a fifth it comes out the same.
    moved = [part - 5 * np.array([left, top]) for part in fifths]
    polygons = [((part - 0.75 * (part < 0)) / 5).reshape(-1).tolist() for part in moved]
    codes = coco_mask.frPyObjects(polygons, bottom - top, right - left)
    return np.ascontiguousarray(coco_mask.decode(coco_mask.merge(codes))), (top, left)


STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, in x and y


def trace(
    patch: npt.NDArray[np.bool_], origin: Size
) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.float64]]]:
    """The outer edges of a bitmap along its pixels' borders, and the edges of its holes.

    Convention: a single pixel at origin (y, x) = (2, 5) gives the corners ``5 2, 6 2, 6 3, 5 3``. Drawn by
    ``Masks.from_outlines``, the corners of a bitmap without holes give the same bitmap.

    Args:
        patch: bool ``[h, w]``; pixels that touch at a corner only are different parts.
        origin: (y, x) of its upper left pixel.

    Returns:
        The parts as ``[P, 2]`` of x, y, clockwise as seen; the holes likewise, counterclockwise.
    """
    leaving = _edges(patch)
    parts: list[npt.NDArray[np.float64]] = []
    holes: list[npt.NDArray[np.float64]] = []
    while leaving:
        start = next(iter(leaving))
        corners = np.array(_follow(leaving, start), dtype=np.float64)
        after = np.roll(corners, -1, 0)
        is_outer = (corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum() > 0
        (parts if is_outer else holes).append(corners + np.array(origin[::-1]))
    return parts, holes


def complete_polygons(patch: npt.NDArray[np.bool_], origin: Size) -> list[npt.NDArray[np.float64]]:
    """Polygons ``[P, 2]`` of x, y that give a bitmap back pixel for pixel; none where it is empty.

    Each part is a polygon. A bitmap with holes is a single one, since COCO's polygons only add up: the lines
    that lead to a hole and back cover no pixel, and what is inside twice is outside.

    Args:
        patch: bool ``[h, w]``.
        origin: (y, x) of its upper left pixel.
    """
    parts, holes = trace(patch, origin)
    return [as_one_polygon([*parts, *holes])] if holes else parts


def as_one_polygon(parts: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Several parts as one polygon, ``[P, 2]``, by lines that lead from the first to each other and back."""
    first, *others = parts
    pieces = [first]
    for part in others:
        pieces += [first[:1], part, part[:1]]
    return np.concatenate([*pieces, first[:1]] if others else pieces)


def _edges(patch: npt.NDArray[np.bool_]) -> dict[tuple[int, int], list[int]]:
    """The borders between inside and outside by their start: directions, the inside on the right hand."""
    padded = np.pad(patch, 1)
    inside = padded[1:-1, 1:-1]
    outside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    leaving: dict[tuple[int, int], list[int]] = {}
    for direction, (neighbour, (dx, dy)) in enumerate(
        zip(outside, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True)
    ):
        ys, xs = np.nonzero(inside & ~neighbour)
        for start in zip((xs + dx).tolist(), (ys + dy).tolist(), strict=True):
            leaving.setdefault(start, []).append(direction)
    return leaving


def _follow(leaving: dict[tuple[int, int], list[int]], start: tuple[int, int]) -> list[tuple[int, int]]:
    """Take one closed border out of ``leaving``: its corners."""
    place, before = start, leaving[start][0]
    first = before
    corners: list[tuple[int, int]] = []
    while True:
        # Where two borders cross, the right turn keeps to the same pixel.
        turns = leaving.get(place, [])
        right = (before + 1) % 4
        direction = right if right in turns and corners else turns[0] if corners else first
        turns.remove(direction)
        if not turns:
            del leaving[place]
        if direction != before or not corners:
            corners.append(place)
        dx, dy = STEPS[direction]
        place, before = (place[0] + dx, place[1] + dy), direction
        if place == start and (place not in leaving or (before + 1) % 4 == first):
            break
    return corners
