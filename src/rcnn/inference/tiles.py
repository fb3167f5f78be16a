"""Images too large to be seen at once: cut into overlapping tiles, the objects found put together again.

An object counts where its centre is in the tile's core, the part that no other tile has nearer to its
middle. So an object up to ``OVERLAP`` pixels is seen whole by the tile that reports it. The parts of larger
ones are joined, see ``rcnn.inference.seams``. Images up to ``MAX_UNTILED_PIXELS`` pixels are seen whole,
without any of this.

In NumPy, for networks and exported files alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rcnn.inference.postprocess import Found, highest_pixels, pixel_classes
from rcnn.inference.seams import Sighted, joined, pieces_of, surest_keypoints
from rcnn.structures import VOID, Array, Size
from rcnn.structures.trace import watched

# Pixels as the network sees them. A tile of the default model, with a thousand objects, takes 600 megabytes.
MAX_UNTILED_PIXELS = 2048 * 2048
SIDE = 1280
OVERLAP = 384
# Two tiles may place the centre of one object on either side of their border by a few pixels.
SLACK = 4.0


@dataclass(frozen=True)
class Tile:
    """A part of an image: the window the network sees, and the core whose objects count; x1 y1 x2 y2."""

    window: tuple[int, int, int, int]
    core: tuple[float, float, float, float]

    @property
    def rows(self) -> slice:
        """The rows of the window."""
        return slice(self.window[1], self.window[3])

    @property
    def columns(self) -> slice:
        """The columns of the window."""
        return slice(self.window[0], self.window[2])

    @property
    def size(self) -> Size:
        """(height, width) of the window."""
        x1, y1, x2, y2 = self.window
        return y2 - y1, x2 - x1


def needs_tiling(size: Size) -> bool:
    """Whether an image of ``size`` (height, width), as the network would see it, is too large for that."""
    return size[0] * size[1] > MAX_UNTILED_PIXELS


def make_tiles(size: Size, side: int = SIDE, overlap: int = OVERLAP) -> list[Tile]:
    """Tiles that cover an image of ``size`` (height, width), row by row; their cores cover it once."""
    if not 0 <= overlap < side:
        raise ValueError(f"overlap must be at least 0 and less than the side {side}, not {overlap}")
    rows, columns = (_ranges(length, side, overlap) for length in size)
    return [
        Tile((x1, y1, x2, y2), (left, top, right, bottom))
        for y1, y2, top, bottom in rows
        for x1, x2, left, right in columns
    ]


def _ranges(length: int, side: int, overlap: int) -> list[tuple[int, int, float, float]]:
    """Along one side of the image: first and last pixel of each window, and of its core."""
    side = min(side, length)
    count = 1 if length <= side else -(-(length - overlap) // (side - overlap))
    # No larger than this number of tiles needs to be: what tiles share is looked at twice.
    side = -(-(length + (count - 1) * overlap) // count)
    starts = [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
    borders = [(a + b + side) / 2 for a, b in pairwise(starts)]
    lows, highs = [0.0, *borders], [*borders, float(length)]
    return [(s, s + side, low, high) for s, low, high in zip(starts, lows, highs, strict=True)]


def merge_tiles(
    tiles: Sequence[Tile], found: Sequence[Found], size: Size, max_detections: int, max_iou: float = 0.5
) -> Found:
    """The objects of a whole image of ``size`` from those found in its tiles, best score first.

    Args:
        tiles: of :func:`make_tiles`.
        found: the outputs for each tile, in its own coordinates; the pixel classes of the cores are kept.
        size: (height, width) of the image.
        max_detections: the most objects kept.
        max_iou: of two objects of one class that overlap by more, the one with the lower score is dropped.

    Returns:
        As each tile's, and bool ``cut``: which objects go on beyond a tile without their rest being found. If
        objects were joined, ``mask_maps`` are those of :func:`rcnn.inference.seams.pieces_of`.
    """
    placed = [_placed(tile, one) for tile, one in zip(tiles, found, strict=True)]
    parts = {name: np.concatenate([one[name] for one in placed]) for name in placed[0]}
    tile_of = np.repeat(np.arange(len(tiles)), [len(one["boxes"]) for one in placed])
    seen = Sighted(parts, tile_of, np.array([tile.window for tile in tiles], np.int64), size)
    in_core = _in_core(parts["boxes"], np.array([tile.core for tile in tiles], np.float32)[tile_of])
    objects = joined(seen, in_core)
    counted = np.zeros(len(objects.cut), bool)
    of_any = objects.owner >= 0
    np.logical_or.at(counted, objects.owner[of_any], (in_core | objects.needed)[of_any])
    chosen = [own for own, counts in zip(objects.parts(parts["scores"]), counted, strict=True) if counts]
    whole = _objects(parts, chosen) | {"cut": objects.cut[counted]}
    unsuppressed = nms(whole["boxes"], whole["scores"], whole["labels"], max_iou)
    best = unsuppressed[:max_detections]
    if (trace := watched()) is not None:
        rows = np.where(of_any & counted[objects.owner], counted.cumsum()[objects.owner] - 1, -1)
        trace.note("tiles", rows=rows, unsuppressed=unsuppressed, kept=best)
    whole = {name: values[best] for name, values in whole.items()}
    if "mask_maps" in whole and any(len(chosen[i]) > 1 for i in best):
        whole |= pieces_of(parts, [chosen[i] for i in best])
    classes = [pixel_classes(one, tile.size) for tile, one in zip(tiles, found, strict=True)]
    known = [one for one in classes if one is not None]
    return whole | ({"semantic": _joined_maps(tiles, known, size)} if known else {})


def _objects(parts: Found, chosen: Sequence[Array]) -> Found:
    """One row per object from those of its parts, best score first: its box is around all of them."""
    first = np.array([own[0] for own in chosen], np.int64)
    whole = {name: values[first] for name, values in parts.items()}
    for place, own in enumerate(chosen):
        if len(own) > 1:
            boxes = parts["boxes"][own]
            whole["boxes"][place] = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
            if "keypoints" in parts:
                whole["keypoints"][place] = surest_keypoints(parts["keypoints"], own)
    return whole


def _joined_maps(tiles: Sequence[Tile], classes: Sequence[Array], size: Size) -> Array:
    """The class of every pixel of the whole image, int64 ``[H, W]``: that of the tile whose core it is in."""
    whole = np.full(size, VOID, np.int64)
    for tile, own in zip(tiles, classes, strict=True):
        left, top, right, bottom = (round(edge) for edge in tile.core)
        x, y = tile.window[:2]
        whole[top:bottom, left:right] = own[top - y : bottom - y, left - x : right - x]
    return whole


def _placed(tile: Tile, found: Found) -> Found:
    """The objects of a tile in coordinates of the whole image, with keypoints in place of their maps."""
    objects = {name: values for name, values in found.items() if not name.startswith("semantic")}
    if "keypoint_maps" in objects:
        objects["keypoints"] = highest_pixels(objects.pop("keypoint_maps"), objects["boxes"])
    shift = np.array(tile.window[:2], np.float32)
    objects["boxes"] = objects["boxes"] + np.tile(shift, 2)
    if "keypoints" in objects:
        objects["keypoints"] = objects["keypoints"] + np.array([*shift, 0], np.float32)
    return objects


def _in_core(boxes: Array, cores: Array) -> Array:
    """Which boxes ``[N, 4]`` have their centre in the core, or at most ``SLACK`` pixels beside it."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centres >= cores[:, :2] - SLACK) & (centres <= cores[:, 2:] + SLACK)
    return np.asarray(inside.all(1))


def nms(boxes: Array, scores: Array, labels: Array, max_iou: float) -> Array:
    """As ``rcnn.ops.boxes.nms``, in NumPy, as exported files run without torch: indices kept, best first.

    The boxes are those of a whole image: each is compared only with those that begin near it along x.

    Args:
        boxes: float32 ``[N, 4]``.
        scores: ``[N]``.
        labels: ``[N]``; boxes of different labels do not suppress each other.
        max_iou: a box that overlaps a better one by more than this goes.
    """
    left, right = boxes[:, 0], boxes[:, 2]
    by_left = np.argsort(left, kind="stable")
    lefts, widest = left[by_left], (right - left).max(initial=0.0)
    first = np.searchsorted(lefts, left - widest).tolist()
    last = np.searchsorted(lefts, right, side="right").tolist()
    areas = (right - left) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), bool)
    kept = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if not alive[i]:
            continue
        kept.append(i)
        near = by_left[first[i] : last[i]]
        sides = np.minimum(boxes[near, 2:], boxes[i, 2:]) - np.maximum(boxes[near, :2], boxes[i, :2])
        shared = sides.clip(0).prod(1)
        iou = shared / np.maximum(areas[near] + areas[i] - shared, np.float32(1e-12))
        alive[near[(iou > np.float64(max_iou)) & (labels[near] == labels[i])]] = False
    return np.array(kept, np.int64)
