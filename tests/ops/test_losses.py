"""Losses: worked cases, a published implementation, gradients."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops.losses import mean_over, smooth_l1


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


def test_mean_over_in_one_process():
    assert mean_over(7, torch.device("cpu")) == 7
    assert mean_over(0, torch.device("cpu")) == 1
