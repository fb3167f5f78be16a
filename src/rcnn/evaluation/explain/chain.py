"""Which candidates for an object remain after each stage, and at which stage the last one is lost.

A candidate is a box that overlaps the object with IoU ≥ 0.5, or from which a later stage makes such a box: an
anchor and the box that the RPN makes of it, the proposal that this becomes, the box that the second stage
makes of that for the object's class, and the detection. The stage after which no candidate remains is the
cause. Candidates after a stage are some of those before it, so there is exactly one cause.

Legend: N anchors, R regions, D pairs of a region and a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rcnn.evaluation.explain.passes import Anchoring, Bools, Floats, Indices, Pass
from rcnn.metrics.matches import MATCH_IOU
from rcnn.structures import box_ious


@dataclass(frozen=True)
class Step:
    """What one stage leaves.

    Attributes:
        key: of the stage.
        cause: of a missed object whose last candidate is lost here.
        entering: the number of boxes in the whole window before it.
        leaving: likewise after it.
        own_entering: candidates for the object before it.
        own_leaving: likewise after it.
        best_iou: the highest IoU of those that are left, of those that entered where none is.
    """

    key: str
    cause: str
    entering: int
    leaving: int
    own_entering: int
    own_leaving: int
    best_iou: float


@dataclass(frozen=True)
class Chain:
    """The candidates for one object in one pass.

    Attributes:
        steps: in the order of the computation.
        anchor_ious: ``[N]``, of the anchors; None without an RPN.
        moved_ious: ``[N]``, of the boxes that the RPN makes of them.
        region_ious: ``[R]``, of the proposals.
        box_ious: ``[R]``, of the second stage's boxes for the object's class.
        pair_ious: ``[D]``.
        regions: bool ``[R]``, the candidates among the regions that got furthest.
        detections: rows of the pass's ``kept`` that are candidates to the end.
    """

    steps: list[Step]
    anchor_ious: Floats | None
    moved_ious: Floats | None
    region_ious: Floats
    box_ious: Floats
    pair_ious: Floats
    regions: Bools
    detections: Indices

    @property
    def lost_at(self) -> Step | None:
        """The stage at which the last candidate is lost; None where one remains."""
        return next((step for step in self.steps if not step.own_leaving), None)


@dataclass(frozen=True)
class After:
    """What happens to a pass's detections after it, for one object.

    Attributes:
        claimed: bool over ``kept``, whether a detection counts for another object.
        suppressed: bool over ``kept``, whether the suppression among tiles dropped it.
        returned: bool over ``kept``, whether it is in the result.
        outlined: bool over ``kept``, whether its mask agrees with the object's; all where boxes are compared.
        tiled: whether the image was seen in tiles.
    """

    claimed: Bools
    suppressed: Bools
    returned: Bools
    outlined: Bools
    tiled: bool = False

    @classmethod
    def without_truth(cls, returned: Bools, suppressed: Bools, *, tiled: bool) -> After:
        """Where nothing is known of other objects."""
        return cls(np.zeros_like(returned), suppressed, returned, np.ones_like(returned), tiled)


class _Narrowing:
    """Steps, each with the candidates that it leaves of those before."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(
        self, key: str, cause: str, counts: tuple[int, int], before: Bools, after: Bools, ious: Floats
    ) -> Bools:
        """Add a step; returns the candidates after it.

        Args:
            key: of the stage.
            cause: where the last candidate is lost here.
            counts: boxes in the whole window before and after it.
            before: which candidates enter.
            after: which the stage would let pass.
            ious: of each with the object.
        """
        left = before & after
        chosen = ious[left] if left.any() else ious[before]
        best = float(chosen.max(initial=0.0))
        self.steps.append(Step(key, cause, *counts, int(before.sum()), int(left.sum()), best))
        return left


def follow(own: Pass, box: Floats, label: int, after: After) -> Chain:
    """Follow the candidates for an object through the stages of a pass.

    Args:
        own: the pass.
        box: of the object, ``[4]`` in pixels of the image.
        label: its class.
        after: what happens to the detections of the pass.
    """
    region_ious, class_ious = _ious(own.regions, box), _ious(own.boxes[:, label], box)
    top, _ = likeliest(own)
    top_ious = _ious(own.boxes[np.arange(len(top)), np.maximum(top, 0)], box)
    good = (class_ious >= MATCH_IOU) | ((top >= 0) & (top_ious >= MATCH_IOU))
    narrowing = _Narrowing()
    count = len(own.regions)
    if own.anchoring is None:
        candidates = narrowing.add(
            "external", "external", (count, count), np.ones(count, np.bool_),
            (region_ious >= MATCH_IOU) | good, region_ious,
        )  # fmt: skip
        anchor_ious = moved_ious = None
    else:
        anchor_ious, moved_ious = (_ious(b, box) for b in (own.anchoring.boxes, own.anchoring.moved))
        candidates = _follow_anchors(own.anchoring, narrowing, anchor_ious, moved_ious, good)
    furthest = _Furthest(candidates)
    candidates = furthest.seen(
        narrowing.add("box", "loose", (count, count), candidates, good, np.maximum(class_ious, top_ious))
    )
    candidates = _follow_classes(own, narrowing, furthest, candidates, class_ious, top, label)
    pair_ious = _ious(own.pair_boxes, box)
    pairs = (own.pair_labels == label) & candidates[own.pair_regions] & (pair_ious >= MATCH_IOU)
    left = _follow_pairs(own, narrowing, pairs, pair_ious, after)
    furthest.seen(np.isin(np.arange(count), own.pair_regions[pairs]))
    furthest.seen(np.isin(np.arange(count), own.pair_regions[own.kept[left]]))
    return Chain(
        narrowing.steps, anchor_ious, moved_ious, region_ious, class_ious, pair_ious, furthest.regions, left
    )


class _Furthest:
    """The last candidates among the regions that were not empty."""

    def __init__(self, regions: Bools) -> None:
        self.regions = regions

    def seen(self, regions: Bools) -> Bools:
        """Keep them if there are any; returns them."""
        if regions.any():
            self.regions = regions
        return regions


def _ious(boxes: Floats, box: Floats) -> Floats:
    """The IoU ``[N]`` of boxes ``[N, 4]`` with one ``[4]``."""
    found: Floats = box_ious(boxes.astype(np.float64), box[None].astype(np.float64))[:, 0].astype(np.float32)
    return found


def likeliest(own: Pass) -> tuple[Indices, Floats]:
    """The most likely class of each region, -1 for the background, and its score.

    SVMs have no background: a region that none accepts, with a score of 0.5, is one.
    """
    background = np.full(len(own.scores), 0.5, np.float32) if own.background is None else own.background
    best = own.scores.argmax(1) if own.scores.shape[1] else np.full(len(own.scores), -1)
    score = own.scores.max(1, initial=0.0)
    is_background = background >= score
    return np.where(is_background, -1, best), np.where(is_background, background, score)


def _follow_anchors(
    rpn: Anchoring, narrowing: _Narrowing, anchor_ious: Floats, moved_ious: Floats, good: Bools
) -> Bools:
    """From anchors to regions; returns the candidates ``[R]`` among these."""
    number = len(rpn.boxes)
    source = rpn.candidates[rpn.kept]  # [R]
    later = np.zeros(number, np.bool_)
    later[source[good]] = True
    matching = (anchor_ious >= MATCH_IOU) | (moved_ious >= MATCH_IOU) | later
    everything = np.ones(number, np.bool_)
    best = np.maximum(anchor_ious, moved_ious)
    left = narrowing.add("anchors", "anchors", (number, number), everything, matching, best)
    left = narrowing.add(
        "rpn_boxes", "loose", (number, number), left, (moved_ious >= MATCH_IOU) | later, moved_ious
    )
    stages = (
        ("top_k", "rpn_score", rpn.candidates),
        ("rpn_nms", "rpn_suppression", rpn.candidates[rpn.unsuppressed]),
        ("proposals", "rpn_score", source),
    )
    entering = number
    for key, cause, kept in stages:
        stays = np.zeros(number, np.bool_)
        stays[kept] = True
        left = narrowing.add(key, cause, (entering, len(kept)), left, stays, moved_ious)
        entering = len(kept)
    return left[source]


def _follow_classes(
    own: Pass,
    narrowing: _Narrowing,
    furthest: _Furthest,
    candidates: Bools,
    class_ious: Floats,
    top: Indices,
    label: int,
) -> Bools:
    """From regions with a good box to those above the threshold, in the object's class."""
    count = len(own.regions)
    paired = np.zeros(count, np.bool_)
    paired[own.pair_regions[own.pair_labels == label]] = True
    sides = own.boxes[:, label, 2:] - own.boxes[:, label, :2]
    large = (sides >= own.limits["min_side"]).all(1)
    passes = paired | ((own.scores[:, label] > own.limits["min_score"]) & large)
    tests: tuple[tuple[str, str, Callable[[], Bools]], ...] = (
        ("not_background", "background", lambda: (top >= 0) | passes),
        ("class", "other_class", lambda: ((top == label) | passes) & (class_ious >= MATCH_IOU)),
        ("threshold", "threshold", lambda: passes),
        ("per_class", "cap", lambda: paired),
    )
    left = candidates
    for key, cause, test in tests:
        if key == "per_class" and not (passes & ~paired).any():
            continue
        counts = (count, count) if key != "threshold" else (count * own.scores.shape[1], len(own.pair_labels))
        left = furthest.seen(narrowing.add(key, cause, counts, left, test(), class_ious))
    return left


def _follow_pairs(own: Pass, narrowing: _Narrowing, pairs: Bools, ious: Floats, after: After) -> Indices:
    """From pairs of a region and a class to what is returned; the rows of ``kept`` that remain."""
    number = len(pairs)
    unsuppressed = np.isin(np.arange(number), own.unsuppressed)
    claimed = np.zeros(number, np.bool_)
    claimed[own.kept[after.claimed]] = True
    left = narrowing.add(
        "nms", "suppressed", (number, len(own.unsuppressed)), pairs, unsuppressed & ~claimed, ious
    )
    in_kept = np.isin(np.arange(number), own.kept)
    left = narrowing.add("cap", "cap", (len(own.unsuppressed), len(own.kept)), left, in_kept, ious)
    rows, own_ious, count = left[own.kept], ious[own.kept], len(own.kept)
    if after.tiled:
        inside, merged = int(own.inside.sum()), own.inside & ~after.suppressed
        rows = narrowing.add("tiles", "tiles", (count, inside), rows, own.inside, own_ious)
        rows = narrowing.add(
            "tile_nms", "suppressed", (inside, int(merged.sum())), rows, ~after.suppressed, own_ious
        )
        count = int(after.returned.sum())
        rows = narrowing.add("tile_cap", "cap", (int(merged.sum()), count), rows, after.returned, own_ious)
    if own.maps is not None:
        rows = narrowing.add("mask", "outline", (count, count), rows, after.outlined, own_ious)
    return np.flatnonzero(rows)
