"""Boxes: worked cases, the laws of the coding, brute force for overlap and suppression."""

import math

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops import boxes as box_ops


def random_boxes(count: int, seed: int, span: float = 100.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=draw) * span
    return torch.cat([corner, corner + 1 + torch.rand((count, 2), generator=draw) * span / 2], 1)


@pytest.mark.parametrize(
    ("first", "second", "expected", "why"),
    [
        ((0, 0, 2, 1), (1, 0, 3, 1), 1 / 3, "the convention of the docstring"),
        ((0, 0, 4, 4), (0, 0, 4, 4), 1.0, "the same box"),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25, "one inside the other"),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0, "a common edge is no overlap"),
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0, "apart on both axes: two negative sides make no positive area"),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0, "both empty, not NaN"),
        ((1, 1, 1, 3), (0, 0, 4, 4), 0.0, "one empty"),
    ],
)
def test_iou_of_worked_cases(first, second, expected, why):
    value = box_ops.iou(
        torch.tensor([first], dtype=torch.float32), torch.tensor([second], dtype=torch.float32)
    )
    assert_close(value, torch.tensor([[expected]]), msg=why)


def test_iou_equals_counting_pixels():
    draw = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 12, (15, 2), generator=draw)
    boxes = torch.cat([corner, corner + torch.randint(0, 8, (15, 2), generator=draw)], 1)
    bitmaps = torch.zeros((15, 20, 20), dtype=torch.bool)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.tolist(), strict=True):
        bitmap[y1:y2, x1:x2] = True
    expected = torch.zeros((15, 15))
    for i in range(15):
        for j in range(15):
            union = int((bitmaps[i] | bitmaps[j]).sum())
            expected[i, j] = int((bitmaps[i] & bitmaps[j]).sum()) / union if union else 0
    assert_close(box_ops.iou(boxes.float(), boxes.float()), expected)
    assert_close(box_ops.area(boxes.float()), bitmaps.sum((1, 2)).float())


def test_intersection_and_covered_share():
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 12, 14], [3, 3, 3, 3]])
    regions = torch.tensor([[2.0, 0, 10, 10], [0, 0, 20, 20]])
    assert_close(box_ops.intersection(boxes, regions), torch.tensor([[8.0, 16], [0, 8], [0, 0]]))
    assert_close(box_ops.covered_fraction(boxes, regions), torch.tensor([[0.5, 1.0], [0, 1], [0, 0]]))


def test_nothing_in_nothing_out():
    none, some = torch.zeros((0, 4)), random_boxes(3, 0)
    assert box_ops.iou(none, some).shape == (0, 3)
    assert box_ops.iou(some, none).shape == (3, 0)
    assert box_ops.covered_fraction(some, none).shape == (3, 0)
    assert box_ops.area(none).shape == (0,)
    assert box_ops.encode(none, none).shape == (0, 4)
    assert box_ops.decode(torch.zeros((0, 5, 4)), none).shape == (0, 5, 4)
    assert box_ops.clip(none, (5, 5)).shape == (0, 4)
    assert box_ops.larger_than(none, 1).shape == (0,)
    assert box_ops.nms(none, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)


def test_coding_of_a_worked_case():
    anchor = torch.tensor([[0.0, 0, 10, 20]])
    box = torch.tensor([[5.0, 0, 25, 10]])  # centre 15, 5 from 5, 10; twice as wide, half as high
    expected = torch.tensor([[1.0, -0.25, math.log(2), math.log(0.5)]])
    assert_close(box_ops.encode(box, anchor), expected)
    weights = (10.0, 10.0, 5.0, 5.0)
    assert_close(box_ops.encode(box, anchor, weights), expected * torch.tensor(weights))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_decoding_inverts_encoding(weights):
    boxes, anchors = random_boxes(50, 1), random_boxes(50, 2)
    deltas = box_ops.encode(boxes, anchors, weights)
    assert_close(box_ops.decode(deltas[:, None], anchors, weights)[:, 0], boxes, rtol=1e-5, atol=1e-4)
    again = box_ops.encode(box_ops.decode(deltas[:, None], anchors, weights)[:, 0], anchors, weights)
    assert_close(again, deltas, rtol=1e-4, atol=1e-4)


def test_decoding_reads_each_class_on_its_own():
    anchors, deltas = random_boxes(4, 3), torch.randn((4, 3, 4), generator=torch.Generator().manual_seed(0))
    together = box_ops.decode(deltas, anchors)
    for k in range(3):
        assert_close(together[:, k], box_ops.decode(deltas[:, k : k + 1], anchors)[:, 0])


def test_zero_deltas_give_the_anchors():
    anchors = random_boxes(5, 4)
    assert_close(box_ops.decode(torch.zeros((5, 1, 4)), anchors)[:, 0], anchors)


def test_log_sizes_are_clamped_from_above_only():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    large = box_ops.decode(torch.tensor([[[0.0, 0, 50, 50]]]), anchor)[0, 0]
    assert_close(large, torch.tensor([-492.0, -492, 508, 508]), rtol=1e-5, atol=1e-3)  # 1000 pixels wide
    small = box_ops.decode(torch.tensor([[[0.0, 0, -50, -50]]]), anchor)[0, 0]
    assert_close(small, torch.tensor([8.0, 8, 8, 8]))


def test_coding_of_empty_boxes_is_finite():
    empty = torch.tensor([[3.0, 3, 3, 3]])
    assert box_ops.encode(empty, random_boxes(1, 0)).isfinite().all()
    assert box_ops.encode(random_boxes(1, 0), empty).isfinite().all()


def test_gradients_of_the_coding():
    boxes, anchors = random_boxes(3, 5).double(), random_boxes(3, 6).double()
    assert torch.autograd.gradcheck(lambda b: box_ops.encode(b, anchors), boxes.requires_grad_())
    deltas = torch.randn((3, 2, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda d: box_ops.decode(d, anchors), deltas.requires_grad_())


def test_gradient_of_iou_is_finite():
    first = random_boxes(4, 7).requires_grad_()
    box_ops.iou(first, random_boxes(4, 8)).sum().backward()
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0


def test_clip_cuts_x_at_the_width_and_y_at_the_height():
    boxes = torch.tensor([[[-5.0, -6, 300, 400]], [[10, 20, 30, 40]], [[500, 500, 600, 600]]])
    expected = torch.tensor([[[0.0, 0, 200, 100]], [[10, 20, 30, 40]], [[200, 100, 200, 100]]])
    assert_close(box_ops.clip(boxes, (100, 200)), expected)
    own = torch.tensor([[100.0, 200], [20, 25], [1000, 550]])
    expected[1:, 0] = torch.tensor([[10.0, 20, 25, 20], [500, 500, 550, 600]])
    assert_close(box_ops.clip(boxes[:, 0], own), expected[:, 0])


def test_larger_than_needs_both_sides():
    boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 15.9, 30], [0, 0, 30, 15.9], [5, 5, 5, 5]])
    assert box_ops.larger_than(boxes, 16).tolist() == [True, False, False, False]
    assert box_ops.larger_than(boxes, 0).tolist() == [True, True, True, False], "no area is no box"


def greedy(boxes, scores, groups, max_iou):
    """Suppression as the papers tell it."""
    suppresses = (box_ops.iou(boxes, boxes) > max_iou) & (groups[:, None] == groups)
    left, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for best in scores.argsort(descending=True).tolist():
        if left[best]:
            kept.append(best)
            left &= ~suppresses[best]
    return kept


@pytest.mark.parametrize("max_iou", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("num_groups", [1, 4])
def test_nms_equals_the_greedy_loop(max_iou, num_groups):
    draw = torch.Generator().manual_seed(num_groups)
    boxes, scores = random_boxes(120, 9), torch.rand(120, generator=draw)
    groups = torch.randint(0, num_groups, (120,), generator=draw)
    assert box_ops.nms(boxes, scores, groups, max_iou).tolist() == greedy(boxes, scores, groups, max_iou)


def test_nms_of_many_boxes_equals_the_greedy_loop():
    """torchvision goes another way above 1000 boxes."""
    draw = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(1100, 10), torch.rand(1100, generator=draw)
    groups = torch.randint(0, 3, (1100,), generator=draw)
    assert box_ops.nms(boxes, scores, groups, 0.4).tolist() == greedy(boxes, scores, groups, 0.4)


def test_nms_keeps_what_overlaps_exactly_as_much_as_allowed():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])  # IoU 1/2
    scores, groups = torch.tensor([0.5, 0.9]), torch.zeros(2, dtype=torch.int64)
    assert box_ops.nms(boxes, scores, groups, 0.5).tolist() == [1, 0]
    assert box_ops.nms(boxes, scores, groups, 0.49).tolist() == [1]


@pytest.mark.parametrize("num_groups", [1, 7, 900])
def test_nms_in_cells_equals_that_in_groups(num_groups, monkeypatch):
    """What exported files hold; with empty groups, groups of one box, and the order of the whole."""
    draw = torch.Generator().manual_seed(num_groups)
    corners = 100 * torch.rand((1500, 2), generator=draw)
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand((1500, 2), generator=draw)], 1)
    scores = torch.randperm(1500, generator=draw) / 1500
    groups = 2 * torch.randint(num_groups, (1500,), generator=draw)
    expected = greedy(boxes, scores, groups, 0.5)
    assert box_ops.nms(boxes, scores, groups, 0.5).tolist() == expected
    monkeypatch.setattr("rcnn.ops.boxes.is_exporting", lambda: True)
    assert box_ops.nms(boxes, scores, groups, 0.5).tolist() == expected
    assert box_ops.nms(boxes[:0], scores[:0], groups[:0], 0.5).tolist() == []


def test_groups_far_from_the_first_suppress_as_exactly():
    """Suppression by coordinates that are shifted apart would lose the thousandth that decides here."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5.001]]).repeat(1000, 1)
    groups, scores = torch.arange(1000).repeat_interleave(2), torch.rand(2000)
    assert len(box_ops.nms(boxes, scores, groups, 0.5001)) == 2000
    assert len(box_ops.nms(boxes, scores, groups, 0.5)) == 1000


def test_nms_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert box_ops.nms(torch.zeros((0, 4)), torch.zeros(0), none, 0.5).shape == (0,)


def test_the_first_of_each_owner_by_hand():
    owners = torch.tensor([1, 0, 1, 1, 3])
    assert box_ops.first_of_each(owners, 4, 2).tolist() == [1, 0, 2, 4]
    assert box_ops.first_of_each(owners, 4, torch.tensor(1)).tolist() == [1, 0, 4]
    assert box_ops.first_of_each(owners[:0], 4, 2).tolist() == []
