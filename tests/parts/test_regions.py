"""Sampling of proposals: which are positive, which are left out, what they should become."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rcnn.ops.matching import fold_seeds
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.regions import (
    SampledRegions,
    SamplingSettings,
    ignore_in_crowds,
    sample_proposals,
    split_crowds,
)
from rcnn.parts.truth_batch import TruthBatch

NUM_CLASSES = 3
TRUTH = Targets(
    (100, 100), torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 90]]), torch.tensor([2, 0]), crowd=None
)
PROPOSALS = torch.tensor(
    [
        [0.0, 0, 10, 9],  # IoU .9 with the first
        [50, 50, 70, 70],  # exactly .5 with the second
        [50, 50, 70, 69],  # .475: background
        [80, 0, 90, 10],  # nothing
        [0, 0, 2, 10],  # .2
    ]
)


def drawn(proposals, truth, **changes):
    settings = SamplingSettings(**changes)
    regions = Regions.from_lists([proposals])
    return sample_proposals(regions, [truth], NUM_CLASSES, settings, fold_seeds([0]))


def by_box(sampled):
    """label, positive and target of each region."""
    return {
        tuple(box): (label, positive, tuple(goal))
        for box, label, positive, goal in zip(
            sampled.regions.boxes.tolist(),
            sampled.labels.tolist(),
            sampled.is_positive.tolist(),
            sampled.gt_boxes.tolist(),
            strict=True,
        )
    }


def test_labels_and_targets_of_a_worked_case():
    regions = by_box(drawn(PROPOSALS, TRUTH, positive_fraction=1.0))
    first, second = (tuple(b) for b in TRUTH.boxes.tolist())
    assert len(regions) == 7  # the true boxes joined
    assert regions[first] == (2, True, first)
    assert regions[second] == (0, True, second)
    assert regions[0.0, 0.0, 10.0, 9.0] == (2, True, first)
    assert regions[50.0, 50.0, 70.0, 70.0] == (0, True, second)
    for background in [(50.0, 50.0, 70.0, 69.0), (80.0, 0.0, 90.0, 10.0), (0.0, 0.0, 2.0, 10.0)]:
        assert regions[background] == (NUM_CLASSES, False, background)


def test_without_the_truth_among_them():
    assert len(by_box(drawn(PROPOSALS, TRUTH, positive_fraction=1.0, append_gt=False))) == 5


def test_background_below_a_tenth_is_left_out_as_in_fast_rcnn():
    regions = by_box(drawn(PROPOSALS, TRUTH, positive_fraction=1.0, background_iou=(0.1, 0.5)))
    assert (80.0, 0.0, 90.0, 10.0) not in regions
    assert (0.0, 0.0, 2.0, 10.0) in regions


def test_counts_and_order():
    draw = torch.Generator().manual_seed(1)
    corner = torch.rand((2000, 2), generator=draw) * 60
    proposals = torch.cat([corner, corner + 10 + torch.rand((2000, 2), generator=draw) * 30], 1)
    near = TRUTH.boxes[1] + torch.rand((300, 4), generator=draw)
    sampled = drawn(torch.cat([proposals, near]), TRUTH, count=64, positive_fraction=0.25)
    assert len(sampled.labels) == 64
    assert sampled.is_positive.sum() == 16
    assert sampled.is_positive[:16].all()
    only = sampled.positives()
    assert len(only.labels) == 16
    assert (only.labels < NUM_CLASSES).all()
    assert_close(only.gt_boxes, TRUTH.boxes[only.gt_indices])
    assert_close(only.labels, TRUTH.labels[only.gt_indices])


def test_crowds_are_no_objects_and_no_background():
    truth = Targets(
        (100, 100),
        torch.tensor([[40.0, 0, 100, 100], [0, 0, 10, 10]]),
        torch.tensor([1, 2]),
        crowd=torch.tensor([True, False]),
    )
    inside, partly = [50.0, 50.0, 70.0, 70.0], [30.0, 20.0, 50.0, 40.0]  # the second: half
    sampled = drawn(torch.tensor([inside, partly, [40.0, 0, 100, 100]]), truth, positive_fraction=1.0)
    regions = by_box(sampled)
    assert set(regions) == {tuple(partly), (0.0, 0.0, 10.0, 10.0)}
    assert regions[0.0, 0.0, 10.0, 10.0][0] == 2
    assert sampled.gt_indices[sampled.is_positive].tolist() == [
        1
    ]  # an index into all instances, crowds counted


@pytest.mark.parametrize("proposals", [PROPOSALS, torch.zeros((0, 4))], ids=["some", "none"])
@pytest.mark.parametrize(
    "truth",
    [
        Targets.empty((100, 100)),
        Targets((100, 100), torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]), crowd=torch.tensor([True])),
    ],
    ids=["empty", "crowd"],
)
@pytest.mark.parametrize("low", [0.0, 0.1])
def test_without_objects_all_is_background(proposals, truth, low):
    sampled = drawn(proposals, truth, background_iou=(low, 0.5))
    assert len(sampled.labels) == len(proposals)
    assert (sampled.labels == NUM_CLASSES).all()
    assert not sampled.is_positive.any()
    assert_close(sampled.gt_boxes, sampled.regions.boxes)
    assert len(sampled.positives().labels) == 0


@pytest.mark.parametrize("append", [True, False])
def test_without_proposals(append):
    sampled = drawn(
        torch.zeros((0, 4)), TRUTH, positive_fraction=1.0, append_gt=append, background_iou=(0.1, 0.5)
    )
    assert len(sampled.labels) == (2 if append else 0)


def test_images_do_not_mix():
    other = Targets((100, 100), torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([1]))
    sampled = sample_proposals(
        Regions.from_lists([PROPOSALS, PROPOSALS[:0], PROPOSALS[:1]]),
        [TRUTH, Targets.empty((5, 5)), other],
        NUM_CLASSES,
        SamplingSettings(positive_fraction=1.0),
        fold_seeds([0, 1, 2]),
    )
    assert sampled.regions.image_indices.tolist() == [0] * 7 + [2] * 2
    assert sampled.labels[-2:].tolist() == [1, 1]


def test_regions_from_lists():
    regions = Regions.from_lists([PROPOSALS[:2], PROPOSALS[:0], PROPOSALS[2:3]])
    assert regions.image_indices.tolist() == [0, 0, 2]
    assert_close(regions.boxes, PROPOSALS[:3])
    assert [len(boxes) for boxes in regions.lists(4)] == [2, 0, 1, 0]


def test_split_crowds():
    assert split_crowds(TRUTH)[0].tolist() == [0, 1]
    assert split_crowds(TRUTH)[1].shape == (0, 4)


def test_only_negatives_are_ignored_in_crowds():
    labels = torch.tensor([[1, 0, -1, 0]] * 2)
    candidates = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 40]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [90, 90, 99, 99]])
    crowd = Targets((100, 100), boxes, torch.tensor([0, 0]), crowd=torch.tensor([True, True]))
    object_ = replace(crowd, crowd=None)
    truth = TruthBatch.from_targets([crowd, object_])
    for several in (candidates, candidates.expand(2, -1, -1)):
        ignored = ignore_in_crowds(labels, several, truth, 0.7)
        assert ignored.tolist() == [[1, -1, -1, 0], labels[1].tolist()]


def test_the_positives_of_each_image_are_counted():
    owner = torch.tensor([0, 0, 0, 1, 1, 3])
    positive = torch.tensor([False, True, True, True, True, True])
    boxes = torch.arange(24.0).view(6, 4)
    sampled = SampledRegions(Regions(boxes, owner), owner, owner, positive, boxes)
    for most, expected in ((None, [1, 2, 3, 4, 5]), (1, [1, 3, 5]), (2, [1, 2, 3, 4, 5])):
        left = sampled.positives(most)
        assert left.regions.boxes[:, 0].tolist() == [4.0 * i for i in expected]
        assert left.is_positive.all()


def test_padded_regions():
    lists = [PROPOSALS[:2], PROPOSALS[:0], PROPOSALS[2:5]]
    for regions in (Regions.from_lists(lists), replace(Regions.from_lists(lists), most=None)):
        boxes, there = regions.padded(3)
        assert there.tolist() == [[True, True, False], [False] * 3, [True] * 3]
        assert_close(boxes[there], torch.cat(lists))
    boxes, there = replace(Regions.from_lists(lists), most=5).padded(4)
    assert there.sum(1).tolist() == [2, 0, 3, 0]
    assert boxes.shape == (4, 5, 4)
    assert Regions.from_lists([PROPOSALS[:0]]).padded(1)[0].shape == (1, 0, 4)


def test_truth_of_one_shape():
    crowded = replace(TRUTH, crowd=torch.tensor([False, True]))
    truth = TruthBatch.from_targets([TRUTH, Targets.empty((5, 5)), crowded])
    assert truth.real.tolist() == [[True, True], [False, False], [True, False]]
    assert truth.has_objects[:, 0].tolist() == [True, False, True]
    assert TruthBatch.from_targets([TRUTH, TRUTH]).full
    assert not TruthBatch.from_targets([TRUTH, TRUTH[:1]]).full
    none = TruthBatch.from_targets([Targets.empty((5, 5))])
    assert none.boxes.shape == (1, 1, 4)
    assert not none.real.any()


def test_an_image_has_the_same_regions_in_any_batch_of_any_padding():
    draw = torch.Generator().manual_seed(1)
    corner = torch.rand((90, 2), generator=draw) * 60
    near = TRUTH.boxes[1] + torch.rand((30, 4), generator=draw)
    proposals = torch.cat([near, torch.cat([corner, corner + 20], 1)])
    other = Targets((100, 100), torch.rand((7, 4), generator=draw).cumsum(1) * 20, torch.zeros(7).long())
    settings, seeds = SamplingSettings(count=20), fold_seeds([5, 6])
    alone = sample_proposals(Regions.from_lists([proposals]), [TRUTH], NUM_CLASSES, settings, seeds[:1])
    both = Regions.from_lists([proposals, torch.cat([proposals, proposals + 3])])
    together = sample_proposals(both, [TRUTH, other], NUM_CLASSES, settings, seeds)
    mine = together.regions.image_indices == 0
    assert_close(together.regions.boxes[mine], alone.regions.boxes, rtol=0, atol=0)
    assert_close(together.gt_indices[mine][:5], alone.gt_indices[:5])
