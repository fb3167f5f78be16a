"""Losses: worked cases, a published implementation, gradients."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops.losses import MeanLoss, global_means, smooth_l1, sum_over_regions


def test_smooth_l1_of_a_worked_case():
    assert_close(smooth_l1(torch.tensor([0.5, -2.0]), torch.zeros(2), 1.0), torch.tensor(0.125 + 1.5))
    assert_close(smooth_l1(torch.tensor([0.5, -2.0]), torch.zeros(2), 0.0), torch.tensor(2.5))


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_equals_torchs(beta):
    draw = torch.Generator().manual_seed(0)
    prediction, target = torch.randn((40, 4), generator=draw), torch.randn((40, 4), generator=draw)
    expected = functional.smooth_l1_loss(prediction, target, reduction="sum", beta=beta)
    assert_close(smooth_l1(prediction, target, beta), expected)


def test_sigma_3_of_the_published_code():
    """py-faster-rcnn: 0.5 (sigma d)² below 1 / sigma², |d| - 0.5 / sigma² above."""
    for distance in (0.01, 0.1, 0.5, 3.0):
        published = 0.5 * 9 * distance**2 if distance < 1 / 9 else distance - 0.5 / 9
        assert_close(smooth_l1(torch.tensor(distance), torch.tensor(0.0), 1 / 9).item(), published)


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_has_a_finite_gradient(beta):
    prediction = torch.tensor([-3.0, 0.0, 1e-20, 0.05, 7.0], requires_grad=True)
    smooth_l1(prediction, torch.zeros(5), beta).backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().max() <= 1


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_smooth_l1_of_nothing_is_zero_with_a_gradient(beta):
    prediction = torch.zeros((0, 4), requires_grad=True)
    loss = smooth_l1(prediction, torch.zeros((0, 4)), beta)
    loss.backward()
    assert loss == 0
    assert prediction.grad.shape == (0, 4)


def test_means_in_one_process():
    total = torch.tensor(21.0)
    losses = {"a": MeanLoss(total, 7), "b": MeanLoss(total, torch.tensor(2)), "c": total}
    assert global_means(losses) == {"a": 3, "b": 10.5, "c": 21}
    assert list(global_means(losses)) == list(losses)
    assert global_means({"a": 0.5 * MeanLoss(total, 7)}) == {"a": 1.5}


@pytest.mark.parametrize("count", [0, torch.tensor(0)])
def test_a_mean_over_nothing_is_zero(count):
    assert global_means({"a": MeanLoss(torch.tensor(0.0), count)}) == {"a": 0}


@pytest.mark.parametrize("parts", [1, 2, 5, 9])
def test_the_sum_of_parts_has_the_value_and_gradients_of_the_whole(parts):
    torch.manual_seed(0)
    layer, goals = nn.Conv2d(3, 2, 3), torch.randn(5, 2, 4, 4)
    found, sizes = [], []
    for whole in (False, True):
        maps = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        layer.zero_grad()

        def total(part, some):
            sizes.append(len(part))
            return (layer(part.tanh()) - some).square().sum()

        hidden = maps * 2
        loss = total(hidden, goals) if whole else sum_over_regions(total, [hidden, goals], [layer], parts)
        (3 * loss).backward()
        found.append([loss.detach(), maps.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert max(sizes[:-1]) <= math.ceil(5 / parts)


def test_the_sum_of_parts_of_nothing_is_zero_and_reaches_every_weight():
    layer, maps = nn.Linear(3, 1), torch.zeros((0, 3), requires_grad=True)
    loss = sum_over_regions(lambda part: layer(part).sum(), [maps], [layer], 2)
    loss.backward()
    assert loss == 0
    assert maps.grad.shape == (0, 3)
    assert all(p.grad.abs().sum() == 0 for p in layer.parameters())


@pytest.mark.parametrize("of_maps", [False, True])
def test_the_sum_of_parts_without_trained_weights(of_maps):
    layer = nn.Linear(3, 1).requires_grad_(False)
    maps = torch.randn((4, 3), requires_grad=of_maps)
    loss = sum_over_regions(lambda part: layer(part).square().sum(), [maps], [layer], 2)
    assert_close(loss, layer(maps).square().sum())
    assert loss.requires_grad == of_maps
    if of_maps:
        assert_close(*torch.autograd.grad(loss, maps), *torch.autograd.grad(layer(maps).square().sum(), maps))


def test_the_sum_of_parts_of_maps_that_need_no_gradient():
    layer, maps = nn.Linear(3, 1), torch.randn(4, 3)
    given = [
        torch.autograd.grad(loss, list(layer.parameters()))
        for loss in (
            sum_over_regions(lambda part: layer(part).square().sum(), [maps], [layer], 2),
            layer(maps).square().sum(),
        )
    ]
    assert_close(given[0], given[1])


def test_the_sum_of_parts_scales_half_precision_without_rounding_the_scale():
    maps = torch.ones((4, 3), dtype=torch.bfloat16, requires_grad=True)
    loss = sum_over_regions(lambda part: part.float().sum() * 3, [maps], [], 2)
    (found,) = torch.autograd.grad(loss / 3.01, maps)
    assert found.dtype == torch.bfloat16
    assert_close(found, torch.full_like(found, 3 / 3.01), rtol=0, atol=0)


def test_the_sum_of_parts_keeps_gradients_but_not_what_layers_computed():
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)))
    maps = torch.randn(64, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        sum_over_regions(lambda part: layers(part).sum(), [maps], [layers], 8)
    outside = [shape for shape in kept if shape[0] == 64]
    assert outside == [(64, 8)]


def test_the_sum_of_parts_under_autocast():
    torch.manual_seed(0)
    layer, maps = nn.Conv2d(3, 2, 3), torch.randn(4, 3, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum_over_regions(lambda part: layer(part).float().square().sum(), [maps], [layer], 2)
    loss.backward()
    given = layer.weight.grad, maps.grad
    assert [g.dtype for g in given] == [torch.float32] * 2
    layer.zero_grad()
    (expected,) = torch.autograd.grad(layer(maps).square().sum(), maps)
    assert_close(given[1], expected, rtol=0.05, atol=0.05)
