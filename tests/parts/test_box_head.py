"""The box head: losses by hand, decoding against a loop, class-agnostic and C4 forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from found import by_image
from rcnn.ops import boxes as box_ops
from rcnn.ops.losses import global_means
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Regions
from rcnn.parts.box_head import BoxHead, BoxHeadSettings, PoolSettings, RegionPool
from rcnn.parts.regions import SampledRegions

SETTINGS = BoxHeadSettings(channels=16, pool=PoolSettings(size=3))
NUM_CLASSES = 3
SIZE = (40, 60)
SIZES = torch.tensor([SIZE, SIZE]).float()


def head(settings: BoxHeadSettings = SETTINGS) -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(4, (4, 8), NUM_CLASSES, settings).eval()


def maps() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((2, 4, 10, 15), generator=draw), torch.randn((2, 4, 5, 8), generator=draw)]


def regions(count: int = 30) -> Regions:
    draw = torch.Generator().manual_seed(1)
    corner = torch.rand((count, 2), generator=draw) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand((count, 2), generator=draw) * 20], 1)
    return Regions(boxes, (torch.arange(count) >= count // 2).long())


def none() -> Regions:
    return Regions(torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("layers", ["fc", "conv"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_shapes(layers, class_agnostic):
    module = head(replace(SETTINGS, layers=layers, class_agnostic=class_agnostic, dropout=0.5))
    boxes = 1 if class_agnostic else NUM_CLASSES
    for own in (regions(), none()):
        logits, deltas = module(maps(), own)
        assert logits.shape == (len(own.boxes), NUM_CLASSES + 1)
        assert deltas.shape == (len(own.boxes), boxes, 4)


def test_the_backbones_last_stage_as_head():
    backbone = BackboneSettings("resnet18", (3,))
    settings = BoxHeadSettings(layers="stage", pool=PoolSettings(size=14))
    module = BoxHead(256, (16,), NUM_CLASSES, settings, backbone=backbone).eval()
    assert module.stage_channels == 512
    assert module.stage(torch.zeros((2, 256, 14, 14))).shape == (2, 512, 7, 7)
    logits, _ = module([torch.zeros((2, 256, 5, 5))], regions(4))
    assert logits.shape == (4, 4)
    with pytest.raises(ValueError, match="stage"):
        BoxHead(256, (16,), NUM_CLASSES, settings)


def sampled(labels, boxes, gt_boxes) -> SampledRegions:
    labels = torch.tensor(labels)
    own = Regions(torch.tensor(boxes, dtype=torch.float32), torch.zeros_like(labels))
    positive = labels < NUM_CLASSES
    return SampledRegions(own, labels, torch.zeros_like(labels), positive, torch.tensor(gt_boxes).float())


def test_loss_by_hand():
    box = [0, 0, 10, 10]
    chosen = sampled([2, 3], [box, box], [[0.5, 0, 10.5, 10], box])  # dx is 0.05, times 10
    logits = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 0]])
    deltas = torch.zeros((2, 3, 4))
    deltas[0, 2] = torch.tensor([0.0, 0, 0, 3.0])
    deltas[0, :2] = deltas[1] = 99.0  # other classes and the background do not count
    losses = global_means(head().loss(logits, deltas, chosen))
    assert_close(losses["classes"].item(), (math.log(3 + math.e) - 1 + math.log(4)) / 2)
    assert_close(losses["boxes"].item(), (0.5 * 0.5**2 + 2.5) / 2)
    agnostic = global_means(head(replace(SETTINGS, class_agnostic=True)).loss(logits, deltas[:, 2:], chosen))
    assert_close(agnostic, losses)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_loss_of_nothing_is_zero_and_reaches_every_parameter(beta):
    for chosen in (
        sampled([3, 3], [[0, 0, 9, 9]] * 2, [[0, 0, 9, 9]] * 2),
        SampledRegions(
            none(), *[torch.zeros(0, dtype=torch.int64)] * 2, torch.zeros(0).bool(), torch.zeros((0, 4))
        ),
    ):
        module = head(replace(SETTINGS, beta=beta))
        losses = global_means(module.loss(*module(maps(), chosen.regions), chosen))
        assert losses["boxes"] == 0
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def decoded_slowly(logits, deltas, own, image, settings):
    scores, found = logits.softmax(1), []
    for k in range(NUM_CLASSES):
        column = deltas[:, min(k, deltas.shape[1] - 1)]
        boxes = box_ops.clip(box_ops.decode(column[:, None], own.boxes, settings.weights)[:, 0], SIZE)
        good = (own.image_indices == image) & (scores[:, k] > settings.min_score)
        good &= box_ops.larger_than(boxes, settings.min_side)
        index = good.nonzero().squeeze(1)
        keep = index[box_ops.nms(boxes[index], scores[index, k], index * 0, settings.nms_iou)]
        found += [(scores[i, k].item(), k, boxes[i].tolist()) for i in keep]
    return sorted(found, key=lambda f: -f[0])[: settings.max_detections]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("count", [100, 7])
def test_decode_equals_the_loop(agnostic, count):
    draw, own = torch.Generator().manual_seed(2), regions()
    settings = replace(SETTINGS, class_agnostic=agnostic, max_detections=count, min_score=0.2, min_side=8)
    logits = torch.randn((30, 4), generator=draw)
    deltas = torch.randn((30, 1 if agnostic else 3, 4), generator=draw)
    detections = head(settings).decode(logits, deltas, own, SIZES)
    for image, found in enumerate(by_image(detections, (SIZE, SIZE))):
        expected = decoded_slowly(logits, deltas, own, image, settings)
        assert len(found) == len(expected) > 0
        assert_close(found.scores, torch.tensor([e[0] for e in expected]))
        assert found.labels.tolist() == [e[1] for e in expected]
        assert_close(found.boxes, torch.tensor([e[2] for e in expected]))


def test_decode_overrides():
    own = regions()
    logits, deltas = torch.zeros((30, 4)), torch.zeros((30, 3, 4))  # every class has 1/4
    module = head(replace(SETTINGS, max_detections=5, nms_iou=1.0))

    def counts(head, **limits):
        images = head.decode(logits, deltas, own, SIZES, **limits).image_index
        return torch.bincount(images, minlength=2).tolist()

    assert counts(module) == [5, 5]
    assert counts(module, max_detections=1000) == [45, 45]
    assert counts(module, min_score=0.25) == [0, 0]
    picky = head(replace(SETTINGS, min_score=0.3))
    assert counts(picky) == [0, 0]
    assert counts(picky, min_score=0.0)[0] > 0


def test_decode_of_nothing():
    found = head().decode(torch.zeros((0, 4)), torch.zeros((0, 3, 4)), none(), SIZES)
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_decoding_the_targets_gives_the_true_boxes():
    draw = torch.Generator().manual_seed(3)
    own = regions(12)
    goals = box_ops.clip(own.boxes + torch.rand((12, 4), generator=draw) * 3, SIZE)
    labels = torch.arange(12) % 3
    chosen = SampledRegions(own, labels, labels, torch.ones(12, dtype=torch.bool), goals)
    module = head(replace(SETTINGS, nms_iou=1.0))
    logits = torch.nn.functional.one_hot(labels, 4) * 20.0
    deltas = module.targets(chosen)[:, None].expand(12, 3, 4)
    boxes = module.decode(logits, deltas, own, SIZES).boxes
    assert_close(torch.cdist(goals, boxes, p=1).min(1).values, torch.zeros(12), rtol=0, atol=1e-3)


def test_region_pool_uses_the_levels_it_was_given():
    """An FPN has one level more for the RPN than for the heads."""
    pool = RegionPool((4, 8), PoolSettings(size=2, canonical_size=16, canonical_level=3))
    features = [torch.full((1, 1, 10, 15), 1.0), torch.full((1, 1, 5, 8), 2.0), torch.full((1, 1, 3, 4), 3.0)]
    boxes = torch.tensor([[4.0, 4, 14, 14], [4, 4, 30, 30], [0, 0, 60, 40]])
    pooled = pool(features, Regions(boxes, torch.zeros(3, dtype=torch.int64)))
    assert pooled.amax((1, 2, 3)).tolist() == [1, 2, 2]
