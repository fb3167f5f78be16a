"""The region proposal network: layout, labels, both normalisers, decoding."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops import boxes as box_ops
from rcnn.ops.losses import global_means
from rcnn.ops.matching import Sample, fold_seeds
from rcnn.parts.batch import Targets
from rcnn.parts.rpn import RPN, RPNOutput, RPNSettings

SETTINGS = RPNSettings(sizes=((16, 24), (48, 64)), ratios=(0.5, 1.0, 2.0))
STRIDES = (8, 16)
SIZE = (64, 96)


def network(settings: RPNSettings = SETTINGS, strides=STRIDES) -> RPN:
    torch.manual_seed(0)
    return RPN(8, strides, settings).eval()


def maps(batch: int = 2) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn((batch, 8, SIZE[0] // s, SIZE[1] // s), generator=draw) for s in STRIDES]


def truth(*boxes, crowd=None, size=SIZE) -> Targets:
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    crowd = None if crowd is None else torch.tensor(crowd)
    return Targets(size, corners, torch.zeros(len(corners), dtype=torch.int64), crowd=crowd)


def test_layout():
    output = network()(maps())
    counts = (8 * 12 * 6, 4 * 6 * 6)
    assert output.num_anchors_per_level == counts
    assert output.objectness.shape == (2, sum(counts))
    assert output.deltas.shape == (2, sum(counts), 4)
    assert output.anchors.shape == (sum(counts), 4)


@pytest.mark.parametrize("conv", ["conv", "separable"])
def test_each_logit_belongs_to_its_anchor(conv):
    """Channel a of cell (y, x) is anchor a there; channel 4 a + i its delta i."""
    rpn = network(replace(SETTINGS, conv=conv, convs=2))
    output = rpn(maps())
    for level, (features, stride) in enumerate(zip(maps(), STRIDES, strict=True)):
        hidden = rpn.conv(features)
        y, x, a = 2, 3, 4
        n = sum(output.num_anchors_per_level[:level]) + (y * hidden.shape[3] + x) * 6 + a
        assert_close(output.objectness[1, n], rpn.objectness(hidden)[1, a, y, x])
        assert_close(output.deltas[1, n], rpn.deltas(hidden)[1, 4 * a : 4 * a + 4, y, x])
        side, ratio = SETTINGS.sizes[level][a % 2], SETTINGS.ratios[a // 2]
        half = torch.tensor([side / math.sqrt(ratio), side * math.sqrt(ratio)]) / 2
        centre = torch.tensor([x * stride, y * stride])
        assert_close(output.anchors[n], torch.cat([centre - half, centre + half]))


def test_labels_by_the_papers_rules():
    rpn, anchors = network(), network()(maps()).anchors
    boxes = truth([20, 20, 44, 44], [1, 2, 4, 5])  # the second overlaps no anchor by .3
    index, labels = (each[0] for each in rpn.match(anchors, [boxes]))
    overlap = box_ops.iou(boxes.boxes, anchors)
    best = overlap.max(0).values
    is_best = (overlap == overlap.max(1, keepdim=True).values).any(0)
    assert (labels[(best >= 0.7) | is_best] == 1).all()
    assert (labels[(best < 0.3) & ~is_best] == 0).all()
    assert (labels[(best >= 0.3) & (best < 0.7) & ~is_best] == -1).all()
    assert (overlap[1][labels == 1] > 0).any()  # rule i: small as it is, it has an anchor
    assert_close(index[best > 0], overlap.argmax(0)[best > 0])


def test_anchors_across_the_border_do_not_train():
    rpn, anchors = network(replace(SETTINGS, cross_boundary=False)), network()(maps()).anchors
    labels = rpn.match(anchors, [truth([20, 20, 44, 44])])[1][0]
    inside = (anchors >= 0).all(1) & (anchors[:, 2] <= 96) & (anchors[:, 3] <= 64)
    assert (labels[~inside] == -1).all()
    assert set(labels[inside].tolist()) == {-1, 0, 1}


def test_an_object_at_the_border_has_its_best_anchor_inside():
    """py-faster-rcnn drops the crossing anchors first and looks for each object's best one then."""
    rpn, anchors = network(replace(SETTINGS, cross_boundary=False)), network()(maps()).anchors
    corner = truth([0, 0, 30, 20])
    labels = rpn.match(anchors, [corner])[1][0]
    inside = (anchors >= 0).all(1) & (anchors[:, 2] <= 96) & (anchors[:, 3] <= 64)
    overlap = box_ops.iou(corner.boxes, anchors)[0]
    assert not inside[overlap.argmax()]
    assert (labels[inside & (overlap == overlap[inside].max())] == 1).all()


def test_crowds_are_neither_positive_nor_negative():
    rpn, anchors = network(), network()(maps()).anchors
    labels = rpn.match(anchors, [truth([0, 0, 48, 64], crowd=[True])])[1][0]
    covered = box_ops.covered_fraction(anchors, torch.tensor([[0.0, 0, 48, 64]]))[:, 0] > 0.7
    assert (labels[covered] == -1).all()
    assert (labels[~covered] == 0).all()
    assert covered.any()


def loss_of(settings, truths, seeds=(3, 4), output=None):
    rpn = network(settings)
    output = output or rpn(maps(len(truths)))
    return rpn, output, global_means(rpn.loss(output, truths, fold_seeds(seeds[: len(truths)])))


def test_loss_with_both_normalisers():
    """Eq. 1 divides by 256 an image and by the anchor positions, the codes by the anchors sampled."""
    truths = [truth([20, 20, 44, 44]), truth([40, 8, 90, 60])]
    _, output, sampled = loss_of(SETTINGS, truths)
    paper_settings = replace(SETTINGS, normaliser="paper", box_weight=10.0)
    paper = loss_of(paper_settings, truths)[2]
    positions = len(output.anchors) / 6
    assert_close(paper["rpn_objectness"], sampled["rpn_objectness"])  # 256 were sampled from each
    assert_close(paper["rpn_boxes"], sampled["rpn_boxes"] * 512 * 10 / (positions * 2))


def test_loss_over_given_anchors_by_hand():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 15, 15]])
    deltas = torch.zeros((1, 3, 4))
    deltas[0, 1] = torch.tensor([0.0, 0.05, 1.0, 0.0])
    output = RPNOutput(torch.tensor([[2.0, -1.0, 0.5]]), deltas, anchors, (3,))
    drawn = Sample(
        torch.tensor([[1, 0, 2]]), torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    )
    losses = global_means(network().sampled_loss(output, drawn, anchors[None, [1, 0, 2]]))
    assert_close(losses["rpn_objectness"].item(), (math.log1p(math.e) + math.log1p(math.exp(2))) / 2)
    assert_close(losses["rpn_boxes"].item(), (0.5 * 0.05**2 * 9 + 1 - 0.5 / 9) / 2)


def test_perfect_output_has_no_loss():
    rpn, boxes = network(), truth([20, 20, 44, 44])
    anchors = rpn(maps()).anchors
    labels = rpn.match(anchors, [boxes])[1]
    deltas = box_ops.encode(boxes.boxes.expand_as(anchors), anchors)[None]
    output = RPNOutput(torch.where(labels == 1, 30.0, -30.0), deltas, anchors, (len(anchors),))
    for loss in global_means(rpn.loss(output, [boxes], fold_seeds([0]))).values():
        assert loss < 1e-6
    proposals = rpn.decode(output, torch.tensor([SIZE]).float()).boxes
    assert_close(proposals[:1], boxes.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("normaliser", ["sampled", "paper"])
@pytest.mark.parametrize(
    ("truths", "why"),
    [
        ([truth(), truth()], "no objects"),
        ([truth([0, 0, 96, 64], crowd=[True])] * 2, "only crowds"),
        ([truth([20, 20, 44, 44]), truth()], "one empty image"),
        ([truth(size=(1, 1))] * 2, "every anchor crosses the border"),
    ],
)
def test_loss_is_finite_and_reaches_every_parameter(normaliser, truths, why):
    settings = replace(SETTINGS, normaliser=normaliser, cross_boundary=False)
    rpn, _, losses = loss_of(settings, truths)
    assert list(losses) == ["rpn_objectness", "rpn_boxes"]
    sum(losses.values()).backward()
    for parameter in rpn.parameters():
        assert parameter.grad is not None, why
        assert parameter.grad.isfinite().all(), why


def test_sampling_follows_the_seed():
    truths = [truth([20, 20, 44, 44])]
    settings = replace(SETTINGS, count=32)
    first, again, other = (loss_of(settings, truths, seeds)[2] for seeds in ((3,), (3,), (5,)))
    assert_close(first, again, rtol=0, atol=0)
    assert first["rpn_objectness"] != other["rpn_objectness"]


def proposals_slowly(output, image, size, settings, mode):
    """§3.3: per level the best, clipped, small ones dropped; suppression within levels; the best of all."""
    logits, start, found = output.objectness[image], 0, []
    for level, count in enumerate(output.num_anchors_per_level):
        order = logits[start : start + count].argsort(descending=True)[: settings.pre_nms[mode]] + start
        boxes = box_ops.decode(output.deltas[image, order][:, None], output.anchors[order])[:, 0]
        boxes = box_ops.clip(boxes, size)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= settings.min_side).all(1)
        boxes, scores = boxes[large], logits[order][large]
        keep = box_ops.nms(boxes, scores, torch.full((len(boxes),), level), settings.nms_iou)
        found += list(zip(scores[keep].tolist(), boxes[keep].tolist(), strict=True))
        start += count
    found.sort(key=lambda pair: -pair[0])
    return torch.tensor([box for _, box in found[: settings.post_nms[mode]]])


@pytest.mark.parametrize("training", [True, False])
def test_decode_equals_the_loop(training):
    settings = replace(SETTINGS, pre_nms=(200, 80), post_nms=(120, 50), min_side=4)
    rpn = network(settings).train(training)
    for layer in (rpn.objectness, rpn.deltas):
        torch.nn.init.normal_(layer.weight, std=1, generator=torch.Generator().manual_seed(0))
    output = rpn(maps())
    sizes = [(60, 96), (64, 50)]
    for image, proposals in enumerate(rpn.decode(output, torch.tensor(sizes).float()).lists(2)):
        expected = proposals_slowly(output, image, sizes[image], settings, 0 if training else 1)
        assert_close(proposals, expected)
        assert not proposals.requires_grad


def counts(rpn, output, size=SIZE, **limits) -> list[int]:
    return [len(own) for own in rpn.decode(output, torch.tensor([size] * 2).float(), **limits).lists(2)]


def test_decode_more_where_more_are_wanted():
    rpn = network(replace(SETTINGS, pre_nms=(5, 5), post_nms=(4, 4), nms_iou=1.0))
    output = rpn(maps())
    assert counts(rpn, output) == [4, 4]
    assert counts(rpn, output, min_proposals=100) == [100, 100]
    assert counts(rpn, output, min_proposals=3) == [4, 4]
    assert counts(rpn, output, min_proposals=torch.tensor(100)) == [10, 10]  # in graphs of 5 a level
    assert counts(rpn, output, min_proposals=torch.tensor(100), min_candidates=50) == [100, 100]


def test_decode_filters():
    output = network()(maps())
    assert counts(network(replace(SETTINGS, min_side=16)), output, (1, 1)) == [0, 0]
    assert counts(network(replace(SETTINGS, min_objectness=0.999)), output) == [0, 0]


def test_objectness_is_a_softmax_of_two_in_disguise():
    """One logit s and a sigmoid, as against two with s = s1 - s0 and a softmax."""
    two = torch.randn((50, 2), generator=torch.Generator().manual_seed(0))
    label = (torch.arange(50) % 3 == 0).long()
    one = functional.binary_cross_entropy_with_logits(two[:, 1] - two[:, 0], label.float())
    assert_close(one, functional.cross_entropy(two, label))


def test_levels_must_agree():
    with pytest.raises(ValueError, match=r"rpn.sizes has 2 levels.*have 3"):
        RPN(8, (4, 8, 16), SETTINGS)
