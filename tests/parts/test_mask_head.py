"""The mask branch: only the true class counts, targets, selection, decoding."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from blobs import as_masks
from rcnn.ops.losses import global_means
from rcnn.parts.batch import Detections, Regions, TargetMasks, Targets
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import SampledRegions

SETTINGS = MaskHeadSettings(convs=2, channels=6, pool=PoolSettings(size=4))
NUM_CLASSES = 3
SIZE = (20, 20)


def head(settings: MaskHeadSettings = SETTINGS) -> MaskHead:
    torch.manual_seed(0)
    return MaskHead(4, (4, 8), NUM_CLASSES, settings).eval()


def maps() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((2, 4, 5, 5), generator=draw), torch.randn((2, 4, 3, 3), generator=draw)]


def truth() -> Targets:
    """Two objects: the left half of 0 0 8 8, and all of 8 8 16 16."""
    bitmaps = torch.zeros((2, *SIZE))
    bitmaps[0, 0:8, 0:4] = bitmaps[1, 8:16, 8:16] = 1
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16]])
    return Targets(SIZE, boxes, torch.tensor([2, 0]), masks=as_masks(bitmaps.bool()))


def sampled(images, owners, labels, positive) -> SampledRegions:
    boxes = truth().boxes[torch.tensor(owners, dtype=torch.int64)]
    images, owners, labels = (torch.tensor(v, dtype=torch.int64) for v in (images, owners, labels))
    return SampledRegions(
        Regions(boxes, images), labels, owners, torch.tensor(positive, dtype=torch.bool), boxes
    )


@pytest.mark.parametrize("convs", [0, 2])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_shapes(convs, norm, class_agnostic):
    module = head(replace(SETTINGS, convs=convs, norm=norm, class_agnostic=class_agnostic))
    channels = 1 if class_agnostic else NUM_CLASSES
    some = sampled([0, 0, 1], [0, 1, 0], [2, 0, 2], [True] * 3).regions
    assert module(maps(), some).shape == (3, channels, 8, 8)
    none = sampled([], [], [], []).regions
    assert module(maps(), none).shape == (0, channels, 8, 8)


def test_targets_of_a_worked_case():
    chosen = sampled([0, 0, 1], [0, 1, 0], [2, 0, 2], [True] * 3)
    target_masks = head().targets(chosen, [truth(), truth()], 4)
    left = torch.tensor([[1.0, 1, 0, 0]] * 4)
    assert_close(target_masks, torch.stack([left, torch.ones((4, 4)), left]))


def test_only_the_true_class_counts():
    chosen = sampled([0], [0], [2], [True])
    logits = torch.zeros((1, NUM_CLASSES, 4, 4))
    logits[0, 2, :, 0] = 2.0
    logits[0, :2] = torch.randn((2, 4, 4), generator=torch.Generator().manual_seed(0)) * 50
    logits.requires_grad_()
    loss = global_means(head().loss(logits, chosen, [truth()]))["masks"]
    # A column of 2 where it should be 1, three of 0: log(1 + e^-2) and log 2.
    assert_close(loss.item(), (math.log1p(math.exp(-2)) + 3 * math.log(2)) / 4)
    loss.backward()
    assert logits.grad[0, :2].abs().sum() == 0
    assert logits.grad[0, 2].abs().sum() > 0


@pytest.mark.parametrize(
    "changed",
    [{}, {"class_agnostic": True}, {"activation": "softmax"}, {"layers": "mlp"}],
    ids=["sigmoid", "agnostic", "softmax", "mlp"],
)
@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("at_once", [2 * 4 * 6 * 4 * 4, 2**24], ids=["two regions at a time", "all at once"])
def test_the_own_map_alone_gives_the_same_loss_gradients_and_probabilities(
    changed, count, at_once, monkeypatch
):
    monkeypatch.setattr("rcnn.parts.mask_head.CHUNK_ELEMENTS", at_once)
    chosen = sampled([0, 0, 1][:count], [0, 1, 0][:count], [2, 0, 2][:count], [True] * count)
    found = []
    for labels in (None, chosen.labels):
        with torch.no_grad():
            predicted = head(replace(SETTINGS, **changed))(maps(), chosen.regions, labels)
        module = head(replace(SETTINGS, **changed)).train()
        logits = module(maps(), chosen.regions, labels)
        assert_close(predicted, logits.detach())
        global_means(module.loss(logits, chosen, [truth(), truth()]))["masks"].backward()
        probabilities = module.probabilities(logits, chosen.labels).detach()
        found.append([probabilities, *(p.grad for p in module.parameters())])
    assert_close(found[0], found[1])
    if not changed:
        assert logits.shape == (count, 1, 8, 8)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"norm": True},
        {"convs": 0},
        {"class_agnostic": True},
        {"activation": "softmax"},
        {"layers": "mlp"},
    ],
    ids=["sigmoid", "norm", "no convolutions", "agnostic", "softmax", "mlp"],
)
@pytest.mark.parametrize("frozen", ["none", "upsample", "all"])
def test_some_regions_at_a_time_have_the_loss_and_gradients_of_all(changed, frozen, monkeypatch):
    chosen, found = sampled([0, 0, 1], [0, 1, 0], [2, 0, 2], [True] * 3), []
    for at_once in (2**24, 2 * 4 * 6 * 4 * 4):  # all; two
        monkeypatch.setattr("rcnn.parts.mask_head.CHUNK_ELEMENTS", at_once)
        module = head(replace(SETTINGS, **changed)).train()
        module.requires_grad_(frozen != "all")
        module.upsample.requires_grad_(frozen == "none")
        sizes, upsample = [], module._enlarged
        module._enlarged = lambda hidden, labels: (sizes.append(len(hidden)), upsample(hidden, labels))[1]  # noqa: B023
        features = [m.requires_grad_() for m in maps()]
        pooled, truths = module.pool(features, chosen.regions), [truth(), truth()]
        loss = global_means(module.losses(pooled, chosen, truths))["masks"]
        assert sizes == ([] if "layers" in changed else [3] if at_once == 2**24 else [2, 1])
        (2 * loss).backward()
        found.append([loss.detach(), *(f.grad for f in features), *(p.grad for p in module.parameters())])
        with torch.no_grad():
            again = global_means(module.losses(pooled, chosen, truths))
        assert_close(again["masks"], loss.detach())
    assert_close(found[0], found[1])


def test_class_agnostic_loss():
    chosen = sampled([0, 0], [0, 1], [2, 0], [True] * 2)
    losses = head(replace(SETTINGS, class_agnostic=True)).loss(torch.zeros((2, 1, 4, 4)), chosen, [truth()])
    assert_close(global_means(losses)["masks"].item(), math.log(2))


@pytest.mark.parametrize(
    "empty",
    [Targets.empty(SIZE), Targets.empty(SIZE, masks=TargetMasks.empty(SIZE))],
    ids=["without masks", "with no masks"],
)
def test_loss_without_positives_reaches_every_parameter(empty):
    module, chosen = head(), sampled([], [], [], [])
    loss = global_means(module.loss(module(maps(), chosen.regions), chosen, [empty, truth()]))["masks"]
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in module.parameters())


def test_norm_statistics_survive_a_batch_without_positives():
    module, chosen = head(replace(SETTINGS, norm=True)).train(), sampled([], [], [], [])
    module(maps(), chosen.regions)
    assert all(b.isfinite().all() for b in module.buffers())


def test_objects_without_masks_are_refused():
    chosen = sampled([0], [0], [2], [True])
    with pytest.raises(ValueError, match="has no masks"):
        head().targets(chosen, [replace(truth(), masks=None)], 4)


def test_select_takes_positives_only():
    chosen = sampled([0, 0, 1, 1], [0, 1, 0, 0], [2, 0, 2, 3], [True, True, True, False])
    assert len(head().select_positives(chosen, [truth()] * 4).labels) == 3


def test_select_limits_each_image():
    images, positive = [0] * 5 + [1] * 3 + [3] * 4, [True] * 4 + [False] + [True] * 3 + [False] * 3 + [True]
    chosen = sampled(images, [0] * 12, [2] * 12, positive)
    few = head(replace(SETTINGS, max_regions=2)).select_positives(chosen, [truth()] * 4)
    assert few.regions.image_indices.tolist() == [0, 0, 1, 1, 3]
    assert few.is_positive.all()
    none = head(replace(SETTINGS, max_regions=2)).select_positives(sampled([], [], [], []), [truth()])
    assert len(none.labels) == 0


def test_objects_known_by_their_boxes_alone_are_not_learned_as_masks():
    chosen = sampled([0, 0, 1, 1], [0, 1, 0, 0], [2, 0, 2, 3], [True, True, True, False])
    some = replace(truth(), has_mask=torch.tensor([False, True]))
    kept = head().select_positives(chosen, [some, truth()])
    assert kept.regions.image_indices.tolist() == [0, 1]
    assert kept.gt_indices.tolist() == [1, 0]
    # Before the limit, so that it does not count them.
    one = head(replace(SETTINGS, max_regions=1)).select_positives(chosen, [some, some])
    assert one.gt_indices.tolist() == [1]
    # What their masks hold makes no difference.
    losses = []
    for pixels in (0, 1):
        assert some.masks is not None
        masks = replace(some.masks, pixels=some.masks.pixels.clone())
        masks.pixels[: int(masks.window_areas[0])] = pixels
        changed = replace(some, masks=masks)
        kept = head().select_positives(chosen, [changed, truth()])
        logits = head()(maps(), kept.regions)
        losses.append(global_means(head().loss(logits, kept, [changed, truth()]))["masks"])
    assert losses[0] == losses[1]


def test_decode_reads_the_predicted_class():
    logits = torch.randn((3, NUM_CLASSES, 8, 8), generator=torch.Generator().manual_seed(0))
    boxes = truth().boxes[[0, 1, 0]]
    detections = Detections(boxes, torch.tensor([2, 0, 1]), torch.rand(3), torch.tensor([0, 0, 2]))
    found = head().decode(logits, detections)
    assert_close(found.mask_maps, torch.stack([logits[0, 2], logits[1, 0], logits[2, 1]]).sigmoid())
    assert found.boxes is boxes
    agnostic = head(replace(SETTINGS, class_agnostic=True)).decode(logits[:, :1], detections)
    assert_close(agnostic.mask_maps, logits[:, 0].sigmoid())
