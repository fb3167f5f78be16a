"""Outlines of masks: polygons drawn into bitmaps, and bitmaps traced into polygons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    parts: list[npt.NDArray[np.float64]] = []
    holes: list[npt.NDArray[np.float64]] = []
    for border in _borders(patch):
        after = np.roll(border, -1, 0)
        is_outer = (border[:, 0] * after[:, 1] - border[:, 1] * after[:, 0]).sum() > 0
        (parts if is_outer else holes).append(border + np.array(origin[::-1]))
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


def _borders(patch: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """The closed borders of a bitmap, as corners ``[P, 2]`` of x, y, with the inside on the right hand.

    A border leaves a corner to the right, down, left or up (0 to 3) and ends at the next corner in that row
    or column. Where two borders cross, each turns right, which keeps to the same pixel.
    """
    height, width = patch.shape
    padded = np.zeros((height + 2, width + 2), np.bool_)
    padded[1:-1, 1:-1] = patch
    steps = padded[1:] ^ padded[:-1]
    turns = steps[:, 1:] ^ steps[:, :-1]
    turns |= steps[:, 1:] & steps[:, :-1] & (padded[1:, 1:] ^ padded[1:, :-1])  # where borders cross
    ys, xs = np.divmod(np.flatnonzero(turns), width + 1)
    # The four pixels around each corner, clockwise from the one below and to the right.
    around = [padded[ys + dy, xs + dx] for dy, dx in ((1, 1), (1, 0), (0, 0), (0, 1))]
    leaving = np.stack([around[i] & ~around[i - 1] for i in range(4)])  # [4, corners]
    count = len(xs)
    by_column = np.argsort(xs, kind="stable")
    place = np.argsort(by_column)
    direction, corner = np.nonzero(leaving)
    step = 1 - (direction & 2)
    reached = np.where(direction & 1, by_column[(place[corner] + step) % max(1, count)], corner + step)
    is_crossing = leaving.sum(0) > 1
    turned = np.where(is_crossing[reached], (direction + 1) % 4, leaving.argmax(0)[reached])
    following = np.full(4 * count, -1)
    following[direction * count + corner] = turned * count + reached
    # Every border goes to the right somewhere.
    first = np.flatnonzero(leaving[0])
    starts = np.stack([first, first + 2 * count], 1).reshape(-1)
    points = np.stack([xs, ys], 1).astype(np.float64)
    return [points[np.array(border) % count] for border in _cycles(following.tolist(), starts.tolist())]


def _cycles(following: list[int], starts: Sequence[int]) -> Iterator[list[int]]:
    """The cycles of a permutation, each from the first of ``starts`` in it; -1 is in none."""
    for start in starts:
        cycle, place = [], start
        while (after := following[place]) >= 0:
            cycle.append(place)
            following[place] = -1
            place = after
        if cycle:
            yield cycle
