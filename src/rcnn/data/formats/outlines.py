"""Outlines as COCO writes them, polygons and run-length codes: what is wrong with them, and their masks.

Polygons are drawn each in its own window, pixel for pixel as pycocotools draws them on the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch

from rcnn.structures import Masks, Rle, Size

# Pixels. JSON has numbers that no float holds, and drawing a line takes memory by its length.
MAX_COORDINATE = 1e6
Outline = Rle | list[npt.NDArray[np.float64]]


def rasterise(outlines: Sequence[Outline], size: Size) -> Masks:
    """The masks of polygons (parts ``[P, 2]`` of x, y) and run-length codes on an image of ``size``."""
    patches, origins = [], []
    for outline in outlines:
        if isinstance(outline, dict):
            mask = Masks.from_rle([outline], size)
            x, y = mask.windows[0, :2].tolist()
            patches.append(next(mask.patches()))
            origins.append((y, x))
        else:
            patch, origin = _draw(outline, size)
            patches.append(patch)
            origins.append(origin)
    return Masks.from_patches(patches, origins, size)


def _draw(parts: list[npt.NDArray[np.float64]], size: Size) -> tuple[torch.Tensor, Size]:
    """A polygon's bitmap in its own window and the window's origin (y, x).

    pycocotools rounds corners to fifths of a pixel. Doing so before the polygon is moved to its window keeps
    the bitmap equal to the one drawn on the whole image, without the cost of the whole image.
    """
    from faster_coco_eval.core import mask as coco_mask

    fifths = [np.trunc(part * 5 + 0.5) for part in parts]
    corners = np.concatenate(fifths)
    left, top = np.clip(np.floor(corners.min(0) / 5).astype(int) - 1, 0, None).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(0) / 5).astype(int) + 1, size[::-1]).tolist()
    if right <= left or bottom <= top:
        return torch.zeros((0, 0), dtype=torch.uint8), (0, 0)
    # A negative corner is truncated towards zero: moved by three quarters of a fifth it comes out the same.
    moved = [part - 5 * np.array([left, top]) for part in fifths]
    polygons = [((part - 0.75 * (part < 0)) / 5).reshape(-1).tolist() for part in moved]
    codes = coco_mask.frPyObjects(polygons, bottom - top, right - left)
    bitmap = np.ascontiguousarray(coco_mask.decode(coco_mask.merge(codes)))
    return torch.from_numpy(bitmap), (top, left)


def is_number(value: Any, *, finite: bool = True) -> TypeGuard[float]:
    """Whether a JSON value is a number, not a truth value; NaN and the infinite only if ``finite`` is off."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MAX_COORDINATE or (isinstance(value, float) and not finite)


def polygon_fault(found: Any) -> str | None:
    """What is wrong with a list of polygons, None if it can be drawn."""
    if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
        return "Expected segmentation as a list of polygons [[x1, y1, x2, y2, …], …] or a run-length code."
    for part in found:
        if len(part) % 2 or not all(is_number(v) for v in part):
            return f"A polygon of {len(part)} values; expected pixels x1, y1, x2, y2, … in pairs."
    return None


def rle_fault(found: dict[str, Any], size: Size) -> str | None:
    """What is wrong with a run-length code, None if it can be decoded on an image of ``size``."""
    counts = found.get("counts")
    if found.get("size") != list(size):
        return f"The mask has the size (height, width) {found.get('size')}, its image {list(size)}."
    if isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts):
        covered = sum(counts)
    elif isinstance(counts, str) and counts.isascii():
        covered = _coded_pixels(counts)
    else:
        return "Expected the run-length code's counts as a list of integers or as text."
    if covered != size[0] * size[1]:
        return f"The run-length code covers {covered} pixels, its image has {size[0] * size[1]}."
    return None


def rle_bounds(code: Rle) -> tuple[float, ...] | None:
    """x1 y1 x2 y2 of a run-length code that can be decoded, None if no pixel is inside."""
    from faster_coco_eval.core import mask as coco_mask

    compressed = code if isinstance(code["counts"], str) else coco_mask.frPyObjects(code, *code["size"])
    x, y, width, height = np.asarray(coco_mask.toBbox(compressed)).reshape(-1).tolist()
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def _coded_pixels(text: str) -> int:
    """The sum of a compressed code's runs, -1 if it is none.

    Six bits a character, 48 added: five of the number, the lowest first, and one that says it goes on. From
    the fourth run on the number is the difference to the run before the last (pycocotools, ``rleToString``).
    """
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return -1
    last = (codes & 32) == 0
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    place = np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)]))
    if place.max() > 6:
        return -1
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[last] & 16) != 0
    numbers -= negative * (1 << (5 * (place[last] + 1)))
    runs = np.r_[numbers[:1], numbers[1::2].cumsum(), numbers[2::2].cumsum()]
    return int(runs.sum()) if runs.min() >= 0 else -1


STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, in x and y


def trace(patch: npt.NDArray[np.bool_], origin: Size) -> tuple[list[npt.NDArray[np.float64]], int]:
    """The outer edges of a bitmap along its pixels' borders, and how many holes they do not show.

    Convention: a single pixel at origin (y, x) = (2, 5) gives the corners ``5 2, 6 2, 6 3, 5 3``. Drawn by
    :func:`rasterise`, the corners of a bitmap without holes give the same bitmap.

    Args:
        patch: bool ``[h, w]``; pixels that touch at a corner only are different parts.
        origin: (y, x) of its upper left pixel.

    Returns:
        The parts as ``[P, 2]`` of x, y, clockwise as seen; the number of holes.
    """
    leaving = _edges(patch)
    parts, holes = [], 0
    while leaving:
        start = next(iter(leaving))
        corners = np.array(_follow(leaving, start), dtype=np.float64)
        after = np.roll(corners, -1, 0)
        if (corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0]).sum() > 0:
            parts.append(corners + np.array(origin[::-1]))
        else:
            holes += 1
    return parts, holes


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
