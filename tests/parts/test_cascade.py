"""A cascade worked by hand: heads whose layers say what they are told to."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from rcnn.ops.losses import global_means
from rcnn.ops.matching import fold_seeds
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.box_head import BoxHead, BoxHeadSettings, CascadeSettings, PoolSettings
from rcnn.parts.cascade import CascadeHead, build_box_head
from rcnn.parts.regions import SamplingSettings, sample_proposals

SIZE = (100, 100)
SIZES = torch.tensor([[100.0, 100.0]])
SETTINGS = BoxHeadSettings(
    channels=4,
    pool=PoolSettings(size=2),
    sampling=SamplingSettings(count=8),
    cascade=CascadeSettings(),
    min_score=0.0,
    nms_iou=1.0,
)


def head(*, biases=(), moves=()) -> CascadeHead:
    """One map of stride 4, two classes; every step answers with its own biases, whatever it sees."""
    built = build_box_head(3, (4,), 2, SETTINGS)
    assert isinstance(built, CascadeHead)
    with torch.no_grad():
        for step in built.steps:
            step.logits.weight.zero_()
            step.deltas.weight.zero_()
        for step, bias in zip(built.steps, biases, strict=False):
            step.logits.bias.copy_(torch.tensor(bias))
        for step, move in zip(built.steps, moves, strict=False):
            step.deltas.bias.copy_(torch.tensor(move))
    return built


FEATURES = [torch.rand(1, 3, 25, 25, generator=torch.Generator().manual_seed(0))]


def test_steps_ask_for_more_and_code_finer():
    steps = head().steps
    assert [s.settings.sampling.positive_iou for s in steps] == [0.5, 0.6, 0.7]
    assert [s.settings.weights for s in steps] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert [s.deltas.out_features for s in steps] == [4, 4, 4]
    assert [s.settings.sampling.append_gt for s in steps] == [True, False, False]
    with pytest.raises(ValueError, match="2 ious and 1 weights"):
        CascadeSettings(weights=((1.0, 1.0, 1.0, 1.0),))


def test_boxes_go_from_step_to_step_and_scores_are_averaged():
    """dx of 1, 2 and 3, divided by 10, 20 and 30: three times a tenth of the width to the right."""
    biases = [[2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]]
    cascade = head(biases=biases, moves=[[1.0, 0, 0, 0], [2.0, 0, 0, 0], [3.0, 0, 0, 0]])
    regions = Regions.from_lists([torch.tensor([[10.0, 20, 30, 40]])])
    found = cascade.detect(FEATURES, regions, SIZES)
    assert_close(found.boxes, torch.tensor([[16.0, 20, 36, 40]] * 2))
    mean = torch.tensor(biases).softmax(1).mean(0)[:2]
    assert_close(found.scores, mean.sort(descending=True).values)
    assert_close(found.labels, mean.argsort(descending=True))


def test_boxes_stay_in_the_image_between_steps():
    """Two widths to the right, cut at the border, then half of what is left to the left."""
    cascade = head(moves=[[20.0, 0, 0, 0], [-10.0, 0, 0, 0]])
    regions = Regions.from_lists([torch.tensor([[50.0, 0, 70, 20]])])
    found = cascade.detect(FEATURES, regions, SIZES)
    assert_close(found.boxes[0], torch.tensor([85.0, 0, 95, 20]))


def losses_with(truth: Targets, proposals, moves):
    cascade = head(biases=[[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]], moves=moves)
    sampled = sample_proposals(
        Regions.from_lists([proposals]), [truth], 2, SETTINGS.sampling, fold_seeds([0])
    )
    return cascade, global_means(cascade.losses(FEATURES, sampled, [truth], fold_seeds([0])))


def test_each_step_labels_the_boxes_of_the_one_before():
    """A proposal of IoU 0.55 and the true box itself; the first step moves both by a twentieth.

    0..20 becomes 1..21: IoU 19 / 21 with the truth, positive in all steps. The proposal, 20 wide and 5.8 to
    the left, becomes one of 4.8: IoU 15.2 / 24.8 = 0.61, positive in the second step and not in the third.
    """
    truth = Targets(SIZE, torch.tensor([[20.0, 0, 40, 20]]), torch.tensor([1]))
    proposals = torch.tensor([[14.2, 0, 34.2, 20]])
    _, losses = losses_with(truth, proposals, moves=[[0.5, 0, 0, 0]])
    expected = {1: [1, 1], 2: [1, 1], 3: [1, 2]}
    for step, labels in expected.items():
        logits = torch.tensor([[float(step), 0, 0]] * 2)
        assert_close(losses[f"classes_{step}"], cross_entropy(logits, torch.tensor(labels)))
    # Targets of the second step: dx is 20 times -1 / 20 and 4.8 / 20; smooth L1 over two regions.
    assert_close(losses["boxes_2"], torch.tensor((abs(-1.0) - 0.5 + 4.8 - 0.5) / 2))
    assert_close(losses["boxes_3"], torch.tensor((1.5 - 0.5) / 2))


def test_no_objects_and_no_boxes_left():
    nothing = Targets(SIZE, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for proposals in (torch.tensor([[0.0, 0, 30, 30]]), torch.zeros(0, 4)):
        # Each box moves out of the image: no region is left for the later steps.
        cascade, losses = losses_with(nothing, proposals, moves=[[1000.0, 0, 0, 0]])
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in cascade.parameters())
        assert losses["boxes_3"] == 0
    assert len(cascade.detect(FEATURES, Regions.from_lists([proposals]), SIZES)) == 0


def test_features_get_the_mean_gradient_and_heads_all_of_theirs():
    torch.manual_seed(0)
    one = replace(SETTINGS, cascade=None, class_agnostic=True)
    single, features = BoxHead(3, (4,), 2, one), FEATURES[0].clone().requires_grad_()
    cascade = CascadeHead(3, (4,), 2, SETTINGS)
    for step in cascade.steps:
        step.load_state_dict(single.state_dict())
        torch.nn.init.zeros_(step.deltas.weight)  # boxes stay, and later steps see the same
    torch.nn.init.zeros_(single.deltas.weight)
    truth = Targets(SIZE, torch.tensor([[20.0, 0, 40, 20]]), torch.tensor([1]))
    sampled = sample_proposals(
        Regions.from_lists([torch.tensor([[60.0, 60, 90, 90]])]), [truth], 2, one.sampling, fold_seeds([0])
    )
    losses = global_means(cascade.losses([features], sampled, [truth], fold_seeds([0])))
    assert list(losses) == [f"{name}_{n}" for n in (1, 2, 3) for name in ("classes", "boxes")]
    total = sum(loss for name, loss in losses.items() if name.startswith("classes"))
    (ours,) = torch.autograd.grad(total, features, retain_graph=True)
    own = torch.autograd.grad(total, cascade.steps[0].logits.bias)[0]
    alone = global_means(single.losses([features], sampled, [truth], fold_seeds([0])))["classes"]
    assert_close(ours, torch.autograd.grad(alone, features, retain_graph=True)[0], rtol=1e-4, atol=1e-8)
    assert_close(own, torch.autograd.grad(alone, single.logits.bias)[0])


def test_where_there_is_no_cascade():
    with pytest.raises(ValueError, match=r"box\.cascade: this model has no cascade"):
        BoxHead(3, (4,), 2, SETTINGS)
    with pytest.raises(ValueError, match=r'box\.cascade needs box\.layers "fc" or "conv"'):
        build_box_head(
            3, (4,), 2, replace(SETTINGS, layers="stage"), backbone=BackboneSettings("resnet18", (3,))
        )
