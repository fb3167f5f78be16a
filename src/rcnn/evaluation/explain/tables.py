"""The tables of an explanation, from the arrays of a pass: what entered each stage, and what became of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rcnn.evaluation.explain.chain import Chain
from rcnn.evaluation.explain.explanation import (
    Anchors,
    Detected,
    Level,
    MaskMap,
    Proposals,
    Region,
    Regions,
    Selected,
)
from rcnn.evaluation.explain.passes import Anchoring, Floats, Indices, Pass
from rcnn.metrics.matches import MATCH_IOU
from rcnn.structures import Instances, box_ious

MOST_ANCHORS = 100  # that are listed
ROUNDING = 1e-3  # of IoUs: boxes are compared in the image, but were suppressed as the network saw them


def detected(found: Instances) -> Detected:
    """What the model returns."""
    scores = np.zeros(len(found)) if found.scores is None else found.scores
    return Detected(found.boxes.tolist(), found.labels.tolist(), scores.tolist())


def levels(own: Pass) -> list[Level]:
    """The anchors of each level, as one cell and the steps by which it repeats."""
    if own.anchoring is None:
        return []
    found, start = [], 0
    for size, stride in zip(own.anchoring.sizes, own.anchoring.strides, strict=True):
        boxes = own.anchoring.boxes[start : start + size]
        start += size
        centres: Floats = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32)
        per_cell = _run(centres)
        firsts = centres[::per_cell]
        columns = int(np.isclose(firsts[:, 1], firsts[0, 1], atol=1e-3).sum())
        rows = len(firsts) // columns
        step = [
            float(firsts[1, 0] - firsts[0, 0]) if columns > 1 else 0.0,
            float(firsts[columns, 1] - firsts[0, 1]) if rows > 1 else 0.0,
        ]
        found.append(Level(stride, rows, columns, step, boxes[:per_cell].tolist()))
    return found


def _run(centres: Floats) -> int:
    """How many points in the beginning are the same."""
    other = np.flatnonzero(np.abs(centres - centres[0]).max(1) > 1e-2)
    return int(other[0]) if len(other) else len(centres)


def anchors(rpn: Anchoring | None, chain: Chain, proposal_rows: Indices) -> Anchors:
    """The anchors that match, best first.

    Args:
        rpn: the anchors; none without an RPN.
        chain: of the subject.
        proposal_rows: ``[N]``, the row of each anchor in the table of proposals; -1 where it is not there.
    """
    if rpn is None or chain.anchor_ious is None or chain.moved_ious is None:
        return Anchors()
    best = np.maximum(chain.anchor_ious, chain.moved_ious)
    chosen = np.flatnonzero(best >= MATCH_IOU)
    if not len(chosen):  # the nearest ones show why
        chosen = best.argsort(kind="stable")[::-1][:5]
    order = chosen[np.argsort(-best[chosen], kind="stable")][:MOST_ANCHORS]
    return Anchors(
        rpn.levels[order].tolist(), rpn.boxes[order].tolist(), chain.anchor_ious[order].tolist(),
        rpn.scores[order].tolist(), rpn.moved[order].tolist(), chain.moved_ious[order].tolist(),
        proposal_rows[order].tolist(),
    )  # fmt: skip


def proposals(own: Pass, chain: Chain) -> tuple[Proposals, Indices]:
    """What enters the RPN's suppression, best first, and the row of each anchor in it (-1: not there)."""
    rpn = own.anchoring
    if rpn is None:
        count = len(own.regions)
        rows = list(range(count))
        nothing = [-1] * count
        table = Proposals(
            own.regions.tolist(), [None] * count, nothing, ["kept"] * count, nothing,
            chain.region_ious.tolist(), rows,
        )  # fmt: skip
        return table, np.zeros(0, np.int64)
    assert chain.moved_ious is not None
    source, scores = rpn.candidates, rpn.scores[rpn.candidates]
    fates = np.full(len(source), "suppressed", dtype=object)
    fates[rpn.unsuppressed] = "beyond_top_k"
    fates[rpn.kept] = "kept"
    region = np.full(len(source), -1, np.int64)
    region[rpn.kept] = np.arange(len(rpn.kept))
    own_levels = rpn.levels[source]
    by = suppressors(rpn.moved[source], own_levels, rpn.unsuppressed, rpn.nms_iou)
    order = np.argsort(-scores, kind="stable")
    place = np.full(len(source) + 1, -1, np.int64)  # the last one stands for "by nothing"
    place[order] = np.arange(len(order))
    rows_of_anchors = np.full(len(rpn.boxes), -1, np.int64)
    rows_of_anchors[source] = place[:-1]
    table = Proposals(
        rpn.moved[source][order].tolist(), scores[order].tolist(), own_levels[order].tolist(),
        fates[order].tolist(), place[by[order]].tolist(), chain.moved_ious[source][order].tolist(),
        region[order].tolist(),
    )  # fmt: skip
    return table, rows_of_anchors


def suppressors(boxes: Floats, groups: Indices, unsuppressed: Indices, max_iou: float) -> Indices:
    """The row of the box that suppressed each box ``[N]``; -1 for those that suppression left.

    Args:
        boxes: ``[N, 4]``.
        groups: ``[N]``; boxes of different groups do not suppress each other.
        unsuppressed: rows that suppression left, best first.
        max_iou: of two boxes that are both left.
    """
    by = np.full(len(boxes), -1, np.int64)
    left = np.zeros(len(boxes), np.bool_)
    left[unsuppressed] = True
    for group in np.unique(groups[~left]):
        dropped = np.flatnonzero(~left & (groups == group))
        better = unsuppressed[groups[unsuppressed] == group]
        ious = box_ious(boxes[dropped], boxes[better])
        over = ious > max_iou - ROUNDING
        first = np.where(over.any(1), over.argmax(1), ious.argmax(1))
        by[dropped] = better[first]
    return by


def regions(own: Pass, chain: Chain, label: int, top: Indices, top_scores: Floats) -> Regions:
    """What the second stage reads and makes of it."""
    count = len(own.regions)
    of_level = np.full(count, -1) if own.pooling is None else own.pooling.levels
    return Regions(
        own.regions.tolist(), of_level.tolist(), top.tolist(), top_scores.tolist(),
        own.scores[:, label].tolist(), own.boxes[:, label].tolist(), chain.box_ious.tolist(),
    )  # fmt: skip


def selected(own: Pass, chain: Chain) -> Selected:
    """What enters the last suppression, best first."""
    count = len(own.pair_labels)
    fates = np.full(count, "suppressed", dtype=object)
    fates[own.unsuppressed] = "beyond_cap"
    fates[own.kept] = np.where(own.inside, "kept", "outside_tile")
    by = suppressors(own.pair_boxes, own.pair_labels, own.unsuppressed, own.limits["nms_iou"])
    scores = own.pair_scores
    order = np.argsort(-scores, kind="stable")
    place = np.full(count + 1, -1, np.int64)
    place[order] = np.arange(count)
    return Selected(
        own.pair_regions[order].tolist(), own.pair_labels[order].tolist(), own.pair_boxes[order].tolist(),
        scores[order].tolist(), fates[order].tolist(), place[by[order]].tolist(),
        chain.pair_ious[order].tolist(),
    )  # fmt: skip


def furthest_region(own: Pass, chain: Chain, label: int) -> Region | None:
    """The region of the candidate that got furthest: of the detection, else with the highest score."""
    if not chain.regions.any():
        return None
    row = int(np.where(chain.regions, own.scores[:, label] + 1e-3 * chain.box_ious, -1).argmax())
    if len(chain.detections):
        row = int(own.pair_regions[own.kept[chain.detections[0]]])
    pooled: Any = own.pooling
    level = -1 if pooled is None else int(pooled.levels[row])
    return Region(
        row, own.regions[row].tolist(), level, 0 if pooled is None else int(pooled.strides[level]),
        0 if pooled is None else pooled.grid, own.scores[row].tolist(),
        None if own.background is None else float(own.background[row]), own.boxes[row, label].tolist(),
        float(chain.box_ious[row]),
    )  # fmt: skip


def mask_map(own: Pass, rows_of_found: Indices, found: Instances, detection: int | None) -> MaskMap | None:
    """The map of a detection, a row of ``found``, if the model makes masks."""
    if detection is None or own.maps is None:
        return None
    rows = np.flatnonzero(rows_of_found == detection)
    if not len(rows):
        return None
    return MaskMap(detection, found.boxes[detection].tolist(), own.maps[rows[0]].tolist())
