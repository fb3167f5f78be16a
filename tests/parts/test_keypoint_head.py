"""The keypoint branch: its loss, of all regions or of some at a time."""

import math

import torch
from torch.testing import assert_close

from rcnn.ops.losses import global_means
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.keypoint_head import KeypointHead, KeypointHeadSettings
from rcnn.parts.regions import SampledRegions

SETTINGS = KeypointHeadSettings(count=2, convs=2, channels=6, pool=PoolSettings(size=4))


def head() -> KeypointHead:
    torch.manual_seed(0)
    return KeypointHead(4, (4,), SETTINGS).train()


def maps() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((1, 4, 5, 5), generator=draw).requires_grad_()]


def truth() -> Targets:
    """Three objects of two keypoints, one of which is outside of its region, one not annotated."""
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16], [2, 2, 18, 12]])
    keypoints = torch.tensor([[[1.0, 2, 2], [7, 5, 1]], [[30, 9, 2], [12, 15, 2]], [[3, 3, 0], [17, 11, 2]]])
    return Targets((20, 20), boxes, torch.zeros(3, dtype=torch.int64), keypoints=keypoints)


def all_of(truth: Targets) -> SampledRegions:
    count = len(truth)
    nothing = torch.zeros(count, dtype=torch.int64)
    positive = torch.ones(count, dtype=torch.bool)
    return SampledRegions(Regions(truth.boxes, nothing), nothing, torch.arange(count), positive, truth.boxes)


def losses(module: KeypointHead, features: list[torch.Tensor], of: Targets | None = None) -> torch.Tensor:
    chosen = all_of(truth() if of is None else of)
    pooled = module.pool(features, chosen.regions)
    return global_means(module.losses(pooled, chosen, [truth() if of is None else of]))["keypoints"]


def test_a_flat_map_costs_the_logarithm_of_its_cells():
    module = head()
    module.logits.weight.data.zero_()
    loss = losses(module, maps())
    assert_close(loss.item(), math.log(16 * 16))


def test_some_regions_at_a_time_have_the_loss_and_gradients_of_all(monkeypatch):
    found = []
    for at_once in (3, 2, 1):
        monkeypatch.setattr("rcnn.parts.keypoint_head.CHUNK_REGIONS", at_once)
        module, features = head(), maps()
        sizes, whole = [], module.head
        module.head = lambda pooled: (sizes.append(len(pooled)), whole(pooled))[1]  # noqa: B023
        loss = losses(module, features)
        assert sizes == {3: [3], 2: [2, 1], 1: [1, 1, 1]}[at_once]
        (2 * loss).backward()
        found.append([loss.detach(), features[0].grad, *(p.grad for p in module.parameters())])
    assert found[0][0] > 0
    assert_close(found[0], found[1])
    assert_close(found[0], found[2])


def test_no_regions_cost_nothing_and_reach_every_parameter():
    module, empty = head(), Targets.empty((20, 20))
    loss = losses(module, maps(), empty)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in module.parameters())
