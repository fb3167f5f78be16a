"""Which way the 3x3 convolution takes, and that its results do not tell."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rcnn.ops import winograd
from rcnn.parts.convolution import Conv3x3


@pytest.fixture
def taken(monkeypatch):
    """The shapes that went Winograd's way."""
    shapes, way = [], winograd.convolve_trained

    def watched(images, kernels, bias):
        shapes.append(tuple(images.shape))
        return way(images, kernels, bias)

    monkeypatch.setattr(winograd, "convolve_trained", watched)
    return shapes


def pair(channels=256):
    torch.manual_seed(0)
    ours, plain = Conv3x3(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def test_training_goes_winograds_way_with_the_same_gradients(taken) -> None:
    ours, plain = pair()
    images = [torch.randn(2, 256, 24, 22).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    for layer, image in zip((ours, plain), images, strict=True):
        torch.relu_(layer(image)).square().mean().backward()
    assert taken == [(2, 256, 24, 22)]
    assert_close(images[0].grad, images[1].grad, rtol=1e-3, atol=1e-7)
    assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-6)
    assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-3, atol=1e-6)


def test_gradients_under_autocast_are_in_full_precision(taken) -> None:
    ours, plain = pair()
    image = torch.randn(1, 256, 28, 32)
    losses = [layer(image).square().mean() for layer in (ours, plain)]
    with torch.autocast("cpu", torch.bfloat16):
        losses[0].backward()
    losses[1].backward()
    assert len(taken) == 1
    assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-6)


def test_everything_else_is_a_plain_convolution(taken) -> None:
    ours, plain = pair()
    image = torch.randn(2, 256, 24, 22)
    with torch.no_grad():
        assert torch.equal(ours(image), plain(image))
    assert torch.equal(ours(image[:, :, :8]), plain(image[:, :, :8]))  # few tiles
    assert torch.equal(ours(image[0]), plain(image[0]))  # no batch
    assert torch.equal(ours.double()(image.double()), plain.double()(image.double()))
    assert torch.equal(ours.float().eval()(image), plain.float()(image))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours.train()(image), plain(image))
    ours, plain = pair(64)
    assert torch.equal(ours(image[:, :64]), plain(image[:, :64]))
    assert not taken
