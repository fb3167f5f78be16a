"""Each cause on a pass made by hand: one object, boxes on it and beside it, and who drops them.

The law: candidates only become fewer, and whatever a pass decided, there is one cause or a detection.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rcnn.evaluation.explain.chain import After, follow
from rcnn.evaluation.explain.passes import Anchoring, Pass
from rcnn.evaluation.explain.tables import suppressors
from rcnn.metrics.causes import CAUSES

OBJECT = np.array([10, 10, 30, 30], np.float32)
NEAR = np.array([12, 10, 32, 30], np.float32)  # IoU 0.82 with the object
NEIGHBOUR = np.array([18, 10, 38, 30], np.float32)  # IoU 0.43 with it, 0.54 with what is near
FAR = np.array([60, 60, 90, 90], np.float32)


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def anchoring(**changes: Any) -> Anchoring:
    """Three anchors: near the object, on its neighbour, far away; all become proposals."""
    boxes = np.stack([NEAR, NEIGHBOUR, FAR])
    whole = Anchoring(
        boxes, boxes.copy(), np.array([0.9, 0.8, 0.7], np.float32), (3,), (4,),
        rows(0, 1, 2), rows(0, 1, 2), rows(0, 1, 2), 0.7, 3, 3,
    )  # fmt: skip
    return replace(whole, **changes)


def made(rpn: Anchoring | None, **changes: Any) -> Pass:
    """What the second stage makes of the proposals: the object's class, the neighbour's, and background."""
    regions = np.stack([NEAR, NEIGHBOUR, FAR]) if rpn is None else rpn.moved[rpn.candidates[rpn.kept]]
    count = len(regions)
    scores = np.array([[0.8, 0.1], [0.9, 0.0], [0.1, 0.1]], np.float32)[:count]
    whole = Pass(
        window=np.array([0, 0, 100, 100], np.float32), anchoring=rpn, regions=regions, pooling=None,
        scores=scores, background=1 - scores.sum(1), boxes=np.repeat(regions[:, None], 2, 1),
        pair_regions=rows(0, 1), pair_labels=rows(0, 0), pair_boxes=regions[:2],
        unsuppressed=rows(1, 0), kept=rows(1, 0), inside=np.ones(2, np.bool_),
        limits={"min_score": 0.5, "min_side": 0.01, "nms_iou": 0.5, "max_detections": 10}, maps=None,
    )  # fmt: skip
    return replace(whole, **changes)


def after(own: Pass, **changes: Any) -> After:
    returned = np.ones(len(own.kept), np.bool_)
    return replace(After.without_truth(returned, ~returned, tiled=False), **changes)


def cause(own: Pass, label: int = 0, **changes: Any) -> tuple[str, str] | None:
    """The cause and the stage at which the last candidate for the object is lost; None where it is found."""
    lost = follow(own, OBJECT, label, after(own, **changes)).lost_at
    return None if lost is None else (lost.cause, lost.key)


def with_scores(own: Pass, *first: float) -> Pass:
    """The region near the object with other scores, and no pair of it."""
    scores = own.scores.copy()
    scores[0] = first
    return replace(
        own, scores=scores, background=1 - scores.sum(1), pair_regions=rows(1), pair_labels=rows(0),
        pair_boxes=own.pair_boxes[1:], unsuppressed=rows(0), kept=rows(0), inside=np.ones(1, np.bool_),
    )  # fmt: skip


def test_an_object_that_is_found() -> None:
    own = made(anchoring())
    chain = follow(own, OBJECT, 0, after(own))
    assert chain.lost_at is None
    assert chain.detections.tolist() == [1]  # the second of what is kept
    assert chain.regions.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("rpn", "expected"),
    [
        ({"boxes": np.stack([NEIGHBOUR, NEIGHBOUR, FAR]), "moved": np.stack([FAR, NEIGHBOUR, FAR])},
         ("anchors", "anchors")),
        ({"moved": np.stack([FAR, NEIGHBOUR, FAR])}, ("loose", "rpn_boxes")),
        ({"candidates": rows(1, 2), "unsuppressed": rows(0, 1), "kept": rows(0, 1)}, ("rpn_score", "top_k")),
        ({"unsuppressed": rows(1, 2), "kept": rows(1, 2)}, ("rpn_suppression", "rpn_nms")),
        ({"kept": rows(1, 2)}, ("rpn_score", "proposals")),
    ],
    ids=["no anchor", "moved away", "not among the best", "overlaps a neighbour", "beyond the cap"],
)  # fmt: skip
def test_what_an_rpn_drops(rpn: dict[str, Any], expected: tuple[str, str]) -> None:
    changed = anchoring(**rpn)
    own = made(changed)
    # Regions on the neighbour and far away are left; neither is near the object.
    moved = changed.moved[changed.candidates[changed.kept]]
    boxes = np.repeat(np.where((moved == NEAR).all(1)[:, None], FAR, moved)[:, None], 2, 1)
    own = replace(own, boxes=boxes, pair_boxes=boxes[own.pair_regions, 0])
    assert cause(own) == expected


def test_a_box_that_only_the_second_stage_makes_is_a_candidate_from_the_start() -> None:
    """An anchor beside the object whose proposal ends on it: it is the class scores that lose it."""
    rpn = anchoring(boxes=np.stack([FAR, NEIGHBOUR, FAR]), moved=np.stack([FAR, NEIGHBOUR, FAR]))
    own = made(rpn)
    boxes = own.boxes.copy()
    boxes[0] = NEAR
    assert cause(with_scores(replace(own, boxes=boxes), 0.1, 0.1)) == ("background", "not_background")


def test_external_proposals() -> None:
    assert cause(made(None)) is None
    own = made(None, regions=np.stack([FAR, NEIGHBOUR, FAR]))
    assert cause(replace(own, boxes=np.repeat(own.regions[:, None], 2, 1))) == ("external", "external")


def test_a_loose_box() -> None:
    own = made(anchoring())
    boxes = own.boxes.copy()
    boxes[0] = FAR
    assert cause(replace(own, boxes=boxes, pair_boxes=boxes[:2, 0])) == ("loose", "box")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.3, 0.1), ("background", "not_background")),
        ((0.2, 0.7), ("other_class", "class")),
        ((0.45, 0.2), ("threshold", "threshold")),
    ],
    ids=["background", "another class", "too low"],
)
def test_class_scores(scores: tuple[float, float], expected: tuple[str, str]) -> None:
    assert cause(with_scores(made(anchoring()), *scores)) == expected


def test_without_a_background_a_region_that_no_svm_accepts_is_background() -> None:
    own = replace(
        with_scores(made(None), 0.4, 0.1), background=None, limits={**made(None).limits, "min_score": 0.6}
    )
    assert cause(own) == ("background", "not_background")
    assert cause(replace(own, scores=np.where(own.scores == np.float32(0.4), 0.55, own.scores))) == (
        "threshold",
        "threshold",
    )


def test_a_cap_per_class_and_a_smallest_side() -> None:
    """Above the threshold, but not among the pairs: others of its class were better, or it is small."""
    own = with_scores(made(anchoring()), 0.8, 0.1)
    assert cause(own) == ("cap", "per_class")
    assert cause(replace(own, limits={**own.limits, "min_side": 25.0})) == ("threshold", "threshold")


def test_suppression_and_the_cap() -> None:
    own = made(anchoring())
    one = np.ones(1, np.bool_)
    assert cause(replace(own, unsuppressed=rows(1), kept=rows(1), inside=one)) == ("suppressed", "nms")
    assert cause(replace(own, kept=rows(1), inside=one)) == ("cap", "cap")
    assert cause(own, claimed=np.array([False, True])) == ("suppressed", "nms")


def test_tiles_and_masks() -> None:
    own = made(anchoring())
    neither = np.array([True, False])
    assert cause(replace(own, inside=neither), tiled=True) == ("tiles", "tiles")
    assert cause(own, tiled=True, suppressed=~neither) == ("suppressed", "tile_nms")
    assert cause(own, tiled=True, returned=neither) == ("cap", "tile_cap")
    assert cause(replace(own, maps=np.zeros((2, 4, 4), np.float32)), outlined=neither) == ("outline", "mask")


def test_a_pass_without_anything() -> None:
    nothing = np.zeros(0, np.int64)
    rpn = anchoring(candidates=nothing, unsuppressed=nothing, kept=nothing)
    own = made(
        rpn, pair_regions=nothing, pair_labels=nothing, pair_boxes=np.zeros((0, 4), np.float32),
        unsuppressed=nothing, kept=nothing, inside=np.zeros(0, np.bool_),
    )  # fmt: skip
    assert cause(own) == ("rpn_score", "top_k")


def random_pass(draw: np.random.Generator) -> Pass:
    """Anchors near and far, and decisions by chance."""
    number, classes = 40, 3
    corners = draw.uniform(0, 40, (number, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(8, 40, (number, 2))], 1).astype(np.float32)
    moved = boxes + draw.normal(0, 3, boxes.shape).astype(np.float32)
    candidates = draw.permutation(number)[:30]
    unsuppressed = draw.permutation(30)[:20]
    kept = unsuppressed[:12]
    rpn = Anchoring(boxes, moved, draw.random(number).astype(np.float32), (number,), (4,), candidates, unsuppressed, kept, 0.7, 30, 12)  # fmt: skip # noqa: E501
    logits = np.exp(2 * draw.normal(size=(12, classes + 1)))
    scores = (logits / logits.sum(1, keepdims=True)).astype(np.float32)
    own_boxes = moved[candidates[kept]][:, None] + draw.normal(0, 2, (12, classes, 4)).astype(np.float32)
    region, label = np.nonzero(scores[:, :classes] > 0.3)
    left = draw.permutation(len(region))[: max(1, len(region) // 2)]
    return Pass(
        np.array([0, 0, 80, 80], np.float32), rpn, moved[candidates[kept]], None, scores[:, :classes],
        scores[:, classes], own_boxes, region, label, own_boxes[region, label], left, left[:3],
        draw.random(len(left[:3])) < 0.7,
        {"min_score": 0.3, "min_side": 0.01, "nms_iou": 0.5, "max_detections": 3}, None,
    )  # fmt: skip


def test_the_law_holds_whatever_was_decided() -> None:
    draw = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        own = random_pass(draw)
        count = len(own.kept)
        ending = After(
            draw.random(count) < 0.3, draw.random(count) < 0.3, draw.random(count) < 0.8,
            draw.random(count) < 0.8, tiled=bool(draw.random() < 0.5),
        )  # fmt: skip
        chain = follow(own, OBJECT, int(draw.integers(3)), ending)
        numbers = [(step.own_entering, step.own_leaving) for step in chain.steps]
        assert all(entering >= leaving for entering, leaving in numbers)
        lost = chain.lost_at
        assert (lost is None) == bool(len(chain.detections))
        seen.add(None if lost is None else lost.cause)
        assert lost is None or lost.cause in CAUSES
    assert len(seen) >= 8


def test_who_suppressed_whom() -> None:
    boxes = np.stack([OBJECT, NEAR, FAR, NEAR])
    by = suppressors(boxes, rows(0, 0, 0, 1), rows(1, 2, 3), 0.5)
    assert by.tolist() == [1, -1, -1, -1]
