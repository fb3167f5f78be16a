"""Objects that the borders of tiles cut: parts of one object are joined, those without their rest are marked.

Two tiles see the same object where what they found of it agrees in the strip that both see: the same class,
and an IoU of at least ``MIN_AGREEMENT`` there, of masks if there are masks, else of boxes.

- If one of the tiles sees the object whole, the other one's part of it is dropped.
- If both see only a part, the parts are one object: the union of their boxes and masks, the best score.
- An object is marked as cut if a border cuts it behind which nothing was found that belongs to it.

In NumPy, for networks and exported files alike.

Legend: N objects of all tiles, in coordinates of the whole image; T tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rcnn.inference.postprocess import Found, paste_masks
from rcnn.structures import Array, Size

Bools = npt.NDArray[np.bool_]

MIN_AGREEMENT = 0.5  # IoU in the strip that two tiles share
# A network places the end of what is cut near the border, not exactly on it.
MIN_REACH = 4.0  # pixels
REACH = 0.05  # of the object's side
LOW = (True, True, False, False)  # of the sides x1 y1 x2 y2


@dataclass(frozen=True)
class Sighted:
    """What all tiles of an image found.

    Attributes:
        found: the objects of all tiles.
        tile: int64 ``[N]``: the tile that found each of them.
        windows: int64 ``[T, 4]``: the windows of the tiles.
        size: (height, width) of the image.
    """

    found: Found
    tile: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]
    size: Size

    @property
    def boxes(self) -> Array:
        """float32 ``[N, 4]``."""
        boxes: Array = self.found["boxes"]
        return boxes

    @cached_property
    def reach(self) -> Array:
        """``[N, 4]``: how near to a side of its window an object counts as touching it."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        reach: Array = np.tile(np.maximum(MIN_REACH, REACH * sides), 2)
        return reach

    @cached_property
    def cut(self) -> Bools:
        """``[N, 4]``: at which sides of its window, inside the image, an object may go on."""
        windows = self.windows[self.tile]
        height, width = self.size
        inside = windows != np.array([0, 0, width, height])
        cut: Bools = inside & (np.abs(self.boxes - windows) <= self.reach)
        return cut

    @property
    def is_cut(self) -> Bools:
        """``[N]``: which objects may go on beyond their window."""
        return np.asarray(self.cut.any(1))

    def agreeing(self) -> Iterator[tuple[int, int]]:
        """Pairs of objects of different tiles, at least one of them cut, that agree in what both see."""
        is_cut = self.is_cut
        members = [np.flatnonzero(self.tile == number) for number in range(len(self.windows))]
        for first, second in combinations(range(len(self.windows)), 2):
            strip = _intersection(self.windows[first], self.windows[second])
            if (strip[2:] <= strip[:2]).any():
                continue
            a, b = (own[_shared(self.boxes[own], strip) > 0] for own in (members[first], members[second]))
            for i, j in self._candidates(a, b, strip):
                if (is_cut[i] or is_cut[j]) and self._agreement(i, j, strip) >= MIN_AGREEMENT:
                    yield i, j

    def _candidates(self, a: Array, b: Array, strip: Array) -> Iterator[tuple[int, int]]:
        """Pairs of one class whose boxes overlap within the strip."""
        labels = self.found["labels"]
        one, other = (_clipped(self.boxes[own], strip) for own in (a, b))
        corners = _intersection(one[:, None], other[None])
        overlap = _area(corners) > 0
        overlap &= labels[a][:, None] == labels[b][None]
        for row, column in np.argwhere(overlap).tolist():
            yield int(a[row]), int(b[column])

    def _agreement(self, i: int, j: int, strip: Array) -> float:
        """The IoU of two objects within a strip."""
        pair = [i, j]
        if "mask_maps" not in self.found:
            one, other = _clipped(self.boxes[pair], strip)
            shared = _area(_intersection(one, other))
            return float(shared / max(_area(one) + _area(other) - shared, 1e-12))
        masks = paste_masks(self.found["mask_maps"][pair], self.boxes[pair], self.size)
        x1, y1, x2, y2 = strip.tolist()
        within = np.zeros((2, y2 - y1, x2 - x1), bool)
        for place, patch, (left, top, right, bottom) in zip(
            within, masks.patches(), masks.windows.tolist(), strict=True
        ):
            rows, columns = slice(max(top, y1), min(bottom, y2)), slice(max(left, x1), min(right, x2))
            if rows.start < rows.stop and columns.start < columns.stop:
                place[rows.start - y1 : rows.stop - y1, columns.start - x1 : columns.stop - x1] = patch[
                    rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
                ]
        return float(within.all(0).sum() / max(1, within.any(0).sum()))


@dataclass(frozen=True)
class Objects:
    """The objects of an image, each of one part or several.

    Attributes:
        owner: int64 ``[N]``: the object that each part belongs to; -1: another tile sees it whole.
        needed: bool ``[N]``: of those, the ones seen whole that must not be lost.
        cut: bool ``[M]``: which of the M objects are cut by a border of a tile.
    """

    owner: npt.NDArray[np.int64]
    needed: Bools
    cut: Bools

    def parts(self, scores: Array) -> list[npt.NDArray[np.int64]]:
        """The indices of each object's parts, best score first."""
        order = np.lexsort((-scores, self.owner))
        order = order[np.searchsorted(self.owner[order], 0) :]
        ends = np.searchsorted(self.owner[order], np.arange(1, len(self.cut)))
        return np.split(order, ends) if len(self.cut) else []


def joined(seen: Sighted, in_core: Bools) -> Objects:
    """Which parts are one object, and which objects remain cut.

    Args:
        seen: what all tiles found.
        in_core: ``[N]``: which objects have their centre in the core of their tile.
    """
    open_sides: Bools = seen.cut.copy()
    is_cut = seen.is_cut
    owner = np.arange(len(is_cut))
    needed: Bools = np.zeros(len(is_cut), np.bool_)
    dropped: set[int] = set()
    for i, j in seen.agreeing():
        if is_cut[i] and is_cut[j]:
            owner[owner == owner[j]] = owner[i]
            open_sides[i] &= ~_beyond(seen, i, j)
            open_sides[j] &= ~_beyond(seen, j, i)
            continue
        part, whole = (i, j) if is_cut[i] else (j, i)
        if _within(seen, part, whole):
            dropped.add(part)
            needed[whole] |= in_core[part]
    gone: Bools = np.isin(owner, owner[sorted(dropped)])
    owner[gone] = -1
    numbers, places = np.unique(owner[~gone], return_inverse=True)
    owner[~gone] = places
    cut: Bools = np.zeros(len(numbers), np.bool_)
    np.logical_or.at(cut, owner[~gone], open_sides[~gone].any(1))
    return Objects(owner, needed, cut)


def _beyond(seen: Sighted, part: int, other: int) -> Bools:
    """``[4]``: beyond which sides of its window a part is seen by the other one's tile, all along."""
    own, theirs, box = seen.windows[seen.tile[part]], seen.windows[seen.tile[other]], seen.boxes[part]
    further: Bools = np.where(LOW, theirs < own, theirs > own)
    covers_y = theirs[1] <= box[1] and theirs[3] >= box[3]
    covers_x = theirs[0] <= box[0] and theirs[2] >= box[2]
    seen_beyond: Bools = further & np.array([covers_y, covers_x, covers_y, covers_x])
    return seen_beyond


def _within(seen: Sighted, part: int, other: int) -> bool:
    """Whether a part is inside the window of the other one's tile."""
    window, box, reach = seen.windows[seen.tile[other]], seen.boxes[part], seen.reach[part]
    outside = np.where(LOW, window - box, box - window)
    return bool((outside <= reach).all())


def pieces_of(found: Found, chosen: Sequence[Array]) -> Found:
    """The maps of masks of objects that may have several parts, best score first within each object.

    Args:
        found: the parts.
        chosen: the indices of each object's parts.

    Returns:
        ``mask_maps`` of all parts, ``mask_boxes`` with their boxes, and ``mask_owner`` with the index of the
        object that each belongs to.
    """
    flat = np.concatenate([np.zeros(0, np.int64), *chosen])
    owner = np.repeat(np.arange(len(chosen)), [len(parts) for parts in chosen])
    return {"mask_maps": found["mask_maps"][flat], "mask_boxes": found["boxes"][flat], "mask_owner": owner}


def surest_keypoints(keypoints: Array, parts: Array) -> Array:
    """``[K, 3]``: each keypoint from the part that is surest of it."""
    own = keypoints[parts]  # [parts, K, 3]
    surest: Array = own[own[..., 2].argmax(0), np.arange(own.shape[1])]
    return surest


def _intersection(one: Array, other: Array) -> Array:
    """x1 y1 x2 y2 of what two boxes share; empty where it ends before it begins."""
    low = np.maximum(one[..., :2], other[..., :2])
    return np.concatenate([low, np.minimum(one[..., 2:], other[..., 2:])], -1)


def _clipped(boxes: Array, strip: Array) -> Array:
    return _intersection(boxes, np.broadcast_to(strip, boxes.shape))


def _shared(boxes: Array, strip: Array) -> Array:
    """``[N]``: the area of each box within a strip."""
    return _area(_clipped(boxes, strip))


def _area(boxes: Array) -> Array:
    area: Array = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1)
    return area
