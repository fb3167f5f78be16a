"""Winograd's convolution against the direct one."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from rcnn.layers.winograd import convolve, kernel_gradient, transform_kernels


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_kernel_of_one_in_its_middle_gives_the_image_back() -> None:
    kernels = torch.zeros(1, 1, 3, 3)
    kernels[0, 0, 1, 1] = 1
    image = torch.arange(1.0, 31).view(1, 1, 5, 6)
    assert_close(convolve(image, transform_kernels(kernels)), image, rtol=1e-5, atol=1e-5)


def test_a_kernel_of_ones_sums_the_neighbours() -> None:
    found = convolve(torch.ones(1, 1, 3, 3), transform_kernels(torch.ones(1, 1, 3, 3)))
    expected = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]])
    assert_close(found[0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "channels", "kernels", "height", "width"),
    [
        (1, 3, 5, 1, 1),  # less than a tile
        (1, 8, 8, 33, 50),  # no multiple of a tile
        (2, 64, 32, 200, 30),  # several chunks of rows
        (70, 16, 8, 14, 14),  # several chunks of images, the last of them smaller
        (0, 4, 6, 14, 14),  # no images
    ],
)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("few", [1, 1000])
def test_equals_the_direct_convolution(
    batch: int,
    channels: int,
    kernels: int,
    height: int,
    width: int,
    relu: bool,
    few: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rcnn.layers.winograd.CHUNK", 2**13)
    monkeypatch.setattr("rcnn.layers.winograd.MIN_GROUPED_TILES", few)
    images = random(batch, channels, height, width)
    weight, bias = random(kernels, channels, 3, 3), random(kernels)
    expected = functional.conv2d(images, weight, bias, padding=1)
    expected = expected.relu() if relu else expected
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = convolve(given, transform_kernels(weight), bias, relu=relu)
        assert_close(found, expected, rtol=1e-4, atol=2e-4 * channels**0.5)
    exact = convolve(images.double(), transform_kernels(weight.double()), bias.double(), relu=relu)
    assert_close(exact.float(), expected, rtol=1e-4, atol=1e-5 * channels**0.5)


@pytest.mark.parametrize("chunk", [24, 60, 100, 2**17])  # a row or two of tiles, two images of three, all
def test_the_kernels_gradient_is_that_of_the_direct_convolution(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rcnn.layers.winograd.CHUNK", chunk)
    images, kernels = random(3, 6, 9, 14).double(), random(5, 6, 3, 3).double().requires_grad_()
    gradient = random(3, 5, 9, 14).double()
    (expected,) = torch.autograd.grad(functional.conv2d(images, kernels, padding=1), kernels, gradient)
    assert_close(kernel_gradient(images, gradient), expected)
