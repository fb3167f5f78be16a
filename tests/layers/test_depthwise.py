"""Depthwise convolutions: values and gradients against ``conv2d``'s own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from rcnn.layers.depthwise import convolve


def inputs(kernel: int, size: tuple[int, int], batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(kernel)
    images = torch.randn((batch, 6, *size), generator=draw).to(memory_format=torch.channels_last)
    weight, bias = torch.randn((6, 1, kernel, kernel), generator=draw), torch.randn(6, generator=draw)
    return images.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def test_a_hand_worked_gradient() -> None:
    # One pixel of 2 at row 1, column 3; a result's gradient of 1 at row 2, column 2: the weight between them
    # is one row above the kernel's middle and one column right of it.
    images = torch.zeros(1, 1, 5, 5)
    images[0, 0, 1, 3] = 2
    weight = torch.zeros(1, 1, 5, 5, requires_grad=True)
    convolve(images, weight, None, stride=1, padding=2)[0, 0, 2, 2].backward()
    expected = torch.zeros(1, 1, 5, 5)
    expected[0, 0, 1, 3] = 2
    assert_close(weight.grad, expected)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (2, 2), (2, 0), (1, 0)])
@pytest.mark.parametrize("size", [(9, 12), (5, 5), (16, 7)])
def test_equals_conv2d(kernel: int, stride: int, padding: int, size: tuple[int, int]) -> None:
    given = inputs(kernel, size)
    found = convolve(*given, stride=stride, padding=padding)
    expected = functional.conv2d(*given, stride, padding, groups=6)
    assert_close(found, expected)
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad(found, given, gradient)
    for own, theirs in zip(ours, torch.autograd.grad(expected, given, gradient), strict=True):
        assert_close(own, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_what_trains_gets_a_gradient(wanted: int) -> None:
    given = [tensor.requires_grad_(i == wanted) for i, tensor in enumerate(inputs(5, (6, 6)))]
    convolve(*given, stride=1, padding=2).sum().backward()
    assert [tensor.grad is not None for tensor in given] == [i == wanted for i in range(3)]


def test_no_images() -> None:
    images, weight, bias = inputs(5, (6, 6), batch=0)
    found = convolve(images, weight, bias, stride=1, padding=2)
    assert found.shape == (0, 6, 6, 6)
    found.sum().backward()
    assert_close(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_autocast_gives_what_it_gives_to_conv2d(kernel: int, stride: int) -> None:
    given = inputs(kernel, (12, 12))
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(*given, stride=stride, padding=2)
        expected = functional.conv2d(*given, stride, 2, groups=6)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert_close(found, expected, rtol=0.02, atol=0.1)
    ours = torch.autograd.grad(found.float().sum(), given)
    theirs = torch.autograd.grad(expected.float().sum(), given)
    for own, other, tensor in zip(ours, theirs, given, strict=True):
        assert own.dtype == tensor.dtype
        assert_close(own, other, rtol=0.05, atol=0.5)
