"""Recall of proposals: hand-worked, and against counting one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest

from objects import FAR, A, instances
from rcnn.metrics.recall import IOUS, best_overlaps, proposal_recall


def with_boxes(truth, boxes):
    return replace(truth, proposals=np.array(boxes, np.float32).reshape(-1, 4))


def test_the_worked_case() -> None:
    # 0 0 10 6 covers 60 of A's 100 pixels: IoU 0.6, reached at 0.5, 0.55 and 0.6.
    truth = with_boxes(instances([A, FAR]), [[0, 0, 10, 6], FAR])
    recall = proposal_recall([truth], counts=(1, 2, 50))
    assert recall.at_50 == (0.5, 1.0, 1.0)
    assert recall.at_70 == (0.0, 0.5, 0.5)
    assert recall.average == pytest.approx((0.15, 0.65, 0.65))
    assert (recall.objects, recall.per_image, recall.counts) == (2, 2.0, (1, 2, 50))


def test_against_counting() -> None:
    rng = np.random.default_rng(2)
    truths = []
    for number in range(4):
        corners = rng.random((5, 2)) * 60
        objects = np.concatenate([corners, corners + 10 + 20 * rng.random((5, 2))], 1)
        shifted = (objects[:, None] + 8 * rng.normal(size=(5, 6, 4))).reshape(-1, 4)
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        order = rng.permutation(30)[: 30 - 9 * number]
        truths.append(with_boxes(instances(objects), shifted[order]))
    counts = (1, 3, 10, 40)
    recall = proposal_recall(truths, counts)

    def iou(a: list[float], b: list[float]) -> float:
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return shared / (both - shared)

    def counted(count: int, level: float) -> float:
        found = [
            any(iou(box, proposal) >= level for proposal in truth.proposals[:count].tolist())
            for truth in truths
            for box in truth.boxes.tolist()
        ]
        return sum(found) / len(found)

    assert recall.at_50 == pytest.approx([counted(count, 0.5) for count in counts])
    assert recall.at_70 == pytest.approx([counted(count, 0.7) for count in counts])
    mean = [sum(counted(count, level) for level in IOUS) / 10 for count in counts]
    assert recall.average == pytest.approx(mean)
    assert 0 < recall.average[0] < recall.average[-1] < 1


def test_crowds_and_difficult_objects_do_not_count() -> None:
    truth = instances([A, FAR, [20, 20, 40, 40]], crowd=[True, False, False], difficult=[False, True, False])
    assert best_overlaps(with_boxes(truth, [[20, 20, 40, 30]]), (1,)).tolist() == [[0.5]]


def test_nothing_to_find_and_nothing_proposed() -> None:
    assert proposal_recall([with_boxes(instances([A]), [])]).at_50[-1] == 0
    empty = proposal_recall([with_boxes(instances([]), [A])])
    assert empty.objects == 0
    assert all(map(math.isnan, empty.average))
    with pytest.raises(ValueError, match="no proposals to measure"):
        proposal_recall([instances([A])])
