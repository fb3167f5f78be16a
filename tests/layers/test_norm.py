"""The frozen batch norm against its formula and torchvision's, in both directions and every precision."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from rcnn.layers.norm import FrozenBatchNorm


def norms(channels: int) -> tuple[FrozenBatchNorm, FrozenBatchNorm2d]:
    """Ours and torchvision's, with the same statistics."""
    torch.manual_seed(0)
    ours, theirs = FrozenBatchNorm(channels), FrozenBatchNorm2d(channels)
    for name in ("weight", "bias", "running_mean"):
        getattr(ours, name).copy_(torch.randn(channels))
    ours.running_var.copy_(torch.rand(channels) + 0.1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_a_worked_case() -> None:
    """(7 - 3) / sqrt(4) * 5 + 1 = 11, and a slope of 5 / sqrt(4)."""
    norm = FrozenBatchNorm(1, eps=0.0)
    for name, value in (("weight", 5.0), ("bias", 1.0), ("running_mean", 3.0), ("running_var", 4.0)):
        getattr(norm, name).fill_(value)
    x = torch.full((1, 1, 1, 1), 7.0, requires_grad=True)
    y = norm(x)
    y.backward()
    assert y.item() == 11.0
    assert x.grad is not None
    assert x.grad.item() == 2.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_torchvisions_rounded_once(dtype: torch.dtype, layout: torch.memory_format) -> None:
    ours, theirs = norms(6)
    values = torch.randn(2, 6, 5, 7).to(dtype).contiguous(memory_format=layout)
    gradient = torch.randn(2, 6, 5, 7).to(dtype).contiguous(memory_format=layout)
    x, exact = values.clone().requires_grad_(), values.double().requires_grad_()
    found, expected = ours(x), theirs.double()(exact)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    assert_close(found, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    found.backward(gradient)
    expected.backward(gradient.double())
    assert x.grad is not None
    assert exact.grad is not None
    assert_close(x.grad, exact.grad.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    with torch.no_grad():
        assert_close(ours(values), found.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 6, 5, 7), (3, 6), (2, 6, 4), (1, 6, 2, 3, 4)])
def test_any_number_of_dimensions_and_of_images(shape: tuple[int, ...]) -> None:
    ours, _ = norms(6)
    x = torch.randn(shape, requires_grad=True)
    found = ours(x)
    found.sum().backward()
    one = (1, -1, *[1] * (len(shape) - 2))
    scale = ours.weight / (ours.running_var + ours.eps).sqrt()
    assert_close(found, (x - ours.running_mean.view(one)) * scale.view(one) + ours.bias.view(one))
    assert_close(x.grad, scale.view(one).expand(shape))


def test_no_map_is_kept_for_the_gradient() -> None:
    """Or a training would need half as much memory again."""
    ours, _ = norms(6)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        ours(torch.randn(2, 6, 5, 7, requires_grad=True))
    assert kept
    assert all(tensor.shape == (6,) for tensor in kept)
