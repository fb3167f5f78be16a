"""A detection that was watched, in NumPy: what each look of the network at an image, or at a tile, decided.

Boxes are those that the network computed, moved from the resized image to the image itself. Nothing is
detected here a second time: what is kept, dropped and selected are the notes of the stages.

Legend: N anchors of all levels, C boxes that enter the RPN's suppression, R regions, K classes, D pairs of a
region and a class that enter the last suppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.inference.detector import Detector
from rcnn.inference.predictor import as_array
from rcnn.inference.tiles import Tile
from rcnn.ops import boxes as box_ops
from rcnn.structures import Array, Instances, Size
from rcnn.structures.trace import Note, Trace, watching

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class NotExplainableError(ValueError):
    """A model whose stages cannot be watched; the message names it and says why."""


@dataclass(frozen=True)
class Scale:
    """From what a network sees to the image itself.

    Attributes:
        offset: x and y of the tile, in pixels of the resized image.
        ratio: image pixels per pixel of the resized image, along x and y.
    """

    offset: Floats
    ratio: Floats

    def boxes(self, seen: Any) -> Floats:
        """Boxes ``[…, 4]`` in pixels of the image."""
        moved: Floats = (as_array(seen) + np.tile(self.offset, 2)) * np.tile(self.ratio, 2)
        return moved.astype(np.float32)


@dataclass(frozen=True)
class Anchoring:
    """What an RPN made of its anchors.

    Attributes:
        boxes: ``[N, 4]``, the anchors.
        moved: ``[N, 4]``, the boxes that it makes of them, cut to the image.
        scores: ``[N]``, objectness in [0, 1].
        sizes: the number of anchors of each level.
        strides: of each level.
        candidates: ``[C]``, anchors that passed the top-k of their level and the least score and side.
        unsuppressed: rows of ``candidates`` that suppression left, best first.
        kept: those of them that became proposals, in the order of the regions.
        nms_iou: the highest IoU of two boxes of one level that are both kept.
        pre_nms: the top-k of each level.
        post_nms: the most proposals.
    """

    boxes: Floats
    moved: Floats
    scores: Floats
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    candidates: Indices
    unsuppressed: Indices
    kept: Indices
    nms_iou: float
    pre_nms: int
    post_nms: int

    @property
    def levels(self) -> Indices:
        """``[N]``, the level of each anchor."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


@dataclass(frozen=True)
class Pooling:
    """From which levels regions are read.

    Attributes:
        levels: ``[R]``, indices into ``strides``.
        strides: of the levels.
        grid: cells per side.
    """

    levels: Indices
    strides: tuple[int, ...]
    grid: int


@dataclass(frozen=True)
class Pass:
    """One look of the network.

    Attributes:
        window: the part of the image that it saw, x1 y1 x2 y2.
        anchoring: of the RPN; None where proposals are external.
        regions: ``[R, 4]``, the proposals.
        pooling: how the first head reads them; None where the image itself is warped.
        scores: ``[R, K]``.
        background: ``[R]``, its probability; None of SVMs.
        boxes: ``[R, K, 4]``, each region's box for each class, cut to the image.
        pair_regions: ``[D]``.
        pair_labels: ``[D]``.
        pair_boxes: ``[D, 4]``.
        unsuppressed: rows of the pairs that suppression left, best first.
        kept: those of them that were detected.
        inside: bool, which of ``kept`` this tile reports: their centre is in its core, or they are part of an
            object that is joined.
        limits: ``min_score min_side nms_iou max_detections``.
        maps: ``[len(kept), M, M]``, mask maps.
    """

    window: Floats
    anchoring: Anchoring | None
    regions: Floats
    pooling: Pooling | None
    scores: Floats
    background: Floats | None
    boxes: Floats
    pair_regions: Indices
    pair_labels: Indices
    pair_boxes: Floats
    unsuppressed: Indices
    kept: Indices
    inside: Bools
    limits: dict[str, float]
    maps: Floats | None

    @property
    def pair_scores(self) -> Floats:
        """``[D]``."""
        found: Floats = self.scores[self.pair_regions, self.pair_labels]
        return found


@dataclass(frozen=True)
class Watched:
    """A detection in one image, with every look of the network that it took.

    Attributes:
        found: what the detector returned, as without watching.
        passes: one, or one per tile.
        tiles: the tiles; empty where the image was seen whole.
        merged: for each pass, where in ``found`` each of its ``kept`` is; -1: nowhere.
        suppressed: likewise, whether the suppression among tiles dropped it.
        seen_size: of the whole image.
        sources: the paper and the function of each stage that noted something.
    """

    found: Instances
    passes: list[Pass]
    tiles: list[Tile]
    merged: list[Indices]
    suppressed: list[Bools]
    seen_size: Size
    sources: dict[str, tuple[str, CodeType]]

    def home(self, box: Floats) -> int:
        """The pass that reports an object: that of the tile whose core has the middle of its box."""
        if not self.tiles:
            return 0
        size = np.array(self.found.size[::-1], np.float32)
        centre = (box[:2] + box[2:]) / 2 * np.array(self.seen_size[::-1], np.float32) / size
        cores = np.array([tile.core for tile in self.tiles], np.float32)
        away = np.maximum(np.maximum(cores[:, :2] - centre, centre - cores[:, 2:]), 0).sum(1)
        return int(away.argmin())


def watch(
    detector: Detector,
    image: Any,
    *,
    min_score: float | None = None,
    max_detections: int | None = None,
    proposals: Array | None = None,
) -> Watched:
    """Detect in one image, by :meth:`rcnn.Detector.predict` itself, and keep what its stages noted.

    Raises:
        ValueError: as of ``predict``.
        NotExplainableError: a model without stages to watch.
    """
    with watching() as trace:
        (found,) = detector.predict(
            image, min_score=min_score, max_detections=max_detections,
            proposals=None if proposals is None else [proposals],
        )  # fmt: skip
    tiles = detector.tiles_of(found.size)
    seen = detector.transform.resized(found.size)
    ratio = np.array([found.size[1] / seen[1], found.size[0] / seen[0]], np.float32)
    windows = [np.array(tile.window, np.float32) for tile in tiles]
    windows = windows or [np.array([0, 0, seen[1], seen[0]], np.float32)]
    groups = _looks(trace)
    if len(groups) != len(windows):
        raise NotExplainableError(
            f"{type(detector.network).__name__} does not show its stages: expected the notes of a box head "
            f"for each of {len(windows)} looks at the image, found {len(groups)}; only models whose detect "
            "uses the parts of this package (BoxHead, CascadeHead) can be explained"
        )
    passes = [_pass(own, window, ratio) for own, window in zip(groups, windows, strict=True)]
    merged, suppressed = _merged(trace, passes, len(found))
    sources = {note.stage: (note.paper, note.code) for note in reversed(trace.notes)}
    return Watched(found, passes, tiles, merged, suppressed, seen, sources)


def _looks(trace: Trace) -> list[list[Note]]:
    """The notes of each look of the network: each ends with what comes after its last selection."""
    looks: list[list[Note]] = []
    ended = True
    for note in trace.notes:
        if note.stage == "tiles":
            continue
        if ended and note.stage in ("rpn.level", "rpn", "regions"):
            looks.append([])
            ended = False
        if looks:
            looks[-1].append(note)
        ended = ended or note.stage == "selection"
    return [own for own in looks if any(note.stage == "selection" for note in own)]


def _pass(notes: Sequence[Note], window: Floats, ratio: Floats) -> Pass:
    """What the notes of one look say, in pixels of the image."""
    scale = Scale(window[:2], ratio)
    first: dict[str, dict[str, Any]] = {}
    for note in notes:
        first.setdefault(note.stage, note.values)
    chosen = first["selection"]
    scores = as_array(chosen["scores"])
    boxes = scale.boxes(box_ops.clip(chosen["boxes"], chosen["sizes"][0]))
    boxes = np.broadcast_to(boxes, (len(scores), scores.shape[1], 4))
    kept = as_array(chosen["kept"])
    limits = {name: float(chosen[name]) for name in ("min_score", "min_side", "nms_iou", "max_detections")}
    return Pass(
        scale.boxes(np.array([0, 0, *(window[2:] - window[:2])], np.float32)),
        _anchoring(notes, scale),
        scale.boxes(first["regions"]["regions"].boxes),
        _pooling(first.get("pool")),
        scores,
        (1 - scores.sum(1)).clip(0, 1) if chosen["background"] else None,
        boxes,
        as_array(chosen["regions"]),
        as_array(chosen["labels"]),
        scale.boxes(chosen["selected"]),
        as_array(chosen["unsuppressed"]),
        kept,
        np.ones(len(kept), np.bool_),
        limits,
        as_array(first["masks"]["maps"]) if "masks" in first else None,
    )


def _pooling(note: dict[str, Any] | None) -> Pooling | None:
    if note is None:
        return None
    return Pooling(as_array(note["levels"]), tuple(note["strides"]), note["size"])


def _anchoring(notes: Sequence[Note], scale: Scale) -> Anchoring | None:
    """What the RPN noted; None without one."""
    rpn = next((note.values for note in notes if note.stage == "rpn"), None)
    if rpn is None:
        return None
    output = rpn["output"]
    own = (note.values for note in notes if note.stage == "rpn.level")
    candidates = [as_array(level["anchors"])[as_array(level["kept"])] for level in own]
    moved = box_ops.decode(output.deltas[0][:, None], output.anchors)[:, 0]
    return Anchoring(
        scale.boxes(output.anchors),
        scale.boxes(box_ops.clip(moved, rpn["sizes"][0])),
        as_array(output.objectness[0].sigmoid()),
        tuple(output.num_anchors_per_level),
        tuple(rpn["strides"]),
        np.concatenate(candidates),
        as_array(rpn["unsuppressed"]),
        as_array(rpn["kept"]),
        rpn["nms_iou"],
        int(rpn["pre_nms"]),
        int(rpn["post_nms"]),
    )


def _merged(trace: Trace, passes: list[Pass], count: int) -> tuple[list[Indices], list[Bools]]:
    """Where in the result each pass's detections are; those of tiles learn which are inside its core."""
    whole = next((note.values for note in trace.notes if note.stage == "tiles"), None)
    if whole is None:
        assert len(passes[0].kept) == count
        return [np.arange(count)], [np.zeros(count, np.bool_)]
    position = np.full(len(whole["rows"]) + 1, -1, np.int64)
    position[whole["kept"]] = np.arange(count)
    ends = np.cumsum([len(own.kept) for own in passes])
    merged, suppressed = [], []
    for place, rows in enumerate(np.split(whole["rows"], ends[:-1])):
        inside = rows >= 0
        passes[place] = replace(passes[place], inside=inside)
        merged.append(position[rows])
        suppressed.append(inside & ~np.isin(rows, whole["unsuppressed"]))
    return merged, suppressed
