"""Images too large to be seen at once: cut into overlapping tiles, the objects found put together again.

An object counts where its centre lies in the tile's core, the part that no other tile has nearer to its
middle. So an object up to ``OVERLAP`` pixels is seen whole by the tile that reports it; larger ones may be
cut. Nothing of this concerns images up to ``MAX_UNTILED_PIXELS`` pixels, which the networks see whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rcnn.ops.boxes import nms
from rcnn.structures import VOID, Instances, Size

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

    def pixels(self, image: Tensor) -> Tensor:
        """The window of ``[3, H, W]``."""
        x1, y1, x2, y2 = self.window
        return image[:, y1:y2, x1:x2]


def needs_tiling(size: Size) -> bool:
    """Whether an image of ``size`` (height, width), as the network would see it, is too large for that."""
    return size[0] * size[1] > MAX_UNTILED_PIXELS


def make_tiles(size: Size, side: int = SIDE, overlap: int = OVERLAP) -> list[Tile]:
    """Tiles that cover an image of ``size`` (height, width), row by row; their cores cover it just once."""
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
    # No larger than so many need to be: what tiles share is looked at twice.
    side = -(-(length + (count - 1) * overlap) // count)
    starts = [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
    borders = [(a + b + side) / 2 for a, b in pairwise(starts)]
    lows, highs = [0.0, *borders], [*borders, float(length)]
    return [(s, s + side, low, high) for s, low, high in zip(starts, lows, highs, strict=True)]


def merge_tiles(
    tiles: Sequence[Tile], found: Sequence[Instances], size: Size, max_detections: int, max_iou: float = 0.5
) -> Instances:
    """The objects of a whole image of ``size`` from those found in its tiles, best score first.

    Args:
        tiles: of :func:`cut`.
        found: in each tile's own coordinates, with ``mask_maps``, ``keypoints`` and ``semantic_logits`` where
            the network has any. Of the latter the classes of the cores' pixels are kept.
        size: (height, width) of the image.
        max_detections: the most objects kept.
        max_iou: of two objects of one class that overlap by more, the one with the lower score goes.
    """
    kept = [_in_core(tile, instances) for tile, instances in zip(tiles, found, strict=True)]
    values: dict[str, Any] = {}
    for name in ("boxes", "labels", "scores", "mask_maps", "keypoints"):
        parts = [getattr(instances, name) for instances in kept]
        if all(part is not None for part in parts):
            values[name] = torch.cat(parts)
    whole = replace(
        found[0], size=size, semantic=_joined_maps(tiles, found, size), semantic_logits=None, **values
    )
    return whole[nms(whole.boxes, values["scores"], whole.labels, max_iou)[:max_detections]]


def _joined_maps(tiles: Sequence[Tile], found: Sequence[Instances], size: Size) -> Tensor | None:
    """The class of every pixel of the whole image, int64 ``[H, W]``: that of the tile whose core it is in."""
    if any(instances.semantic_logits is None for instances in found):
        return None
    whole = torch.full(size, VOID, dtype=torch.int64, device=found[0].boxes.device)
    for tile, instances in zip(tiles, found, strict=True):
        assert instances.semantic_logits is not None
        classes = instances.semantic_logits.argmax(0)
        left, top, right, bottom = (round(edge) for edge in tile.core)
        x, y = tile.window[:2]
        whole[top:bottom, left:right] = classes[top - y : bottom - y, left - x : right - x]
    return whole


def _in_core(tile: Tile, instances: Instances) -> Instances:
    """The objects with their centre in the tile's core, in coordinates of the whole image."""
    x, y = tile.window[:2]
    boxes = instances.boxes + instances.boxes.new_tensor([x, y, x, y])
    points = instances.keypoints
    if points is not None:
        points = points + points.new_tensor([x, y, 0.0])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    core = boxes.new_tensor(tile.core)
    inside = ((centres >= core[:2] - SLACK) & (centres <= core[2:] + SLACK)).all(1)
    return replace(instances, boxes=boxes, keypoints=points)[inside]
