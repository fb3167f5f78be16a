"""The algorithms of the 3x3 convolution: which is taken, and that all agree."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn import kernels
from rcnn.kernels import operators
from rcnn.layers import conv as convolution
from rcnn.layers import winograd
from rcnn.layers.conv import Conv3x3, conv3x3


@pytest.fixture
def taken(monkeypatch):
    """The shapes of maps that were convolved by Winograd's algorithm."""
    shapes, forward = [], convolution._Winograd3x3.forward

    def watched(ctx, images, weight, bias):
        shapes.append(tuple(images.shape))
        return forward(ctx, images, weight, bias)

    monkeypatch.setattr(convolution._Winograd3x3, "forward", staticmethod(watched))
    return shapes


def pair(channels=256):
    torch.manual_seed(0)
    ours, plain = Conv3x3(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def test_training_uses_winograds_algorithm_with_the_same_gradients(taken) -> None:
    ours, plain = pair()
    images = [torch.randn(2, 256, 24, 22).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    for layer, image in zip((ours, plain), images, strict=True):
        torch.relu_(layer(image)).square().mean().backward()
    assert taken == [(2, 256, 24, 22)]
    assert_close(images[0].grad, images[1].grad, rtol=1e-3, atol=1e-7)
    assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-6)
    assert_close(ours.bias.grad, plain.bias.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("way", ["kernels", "torch", "direct"])
@pytest.mark.parametrize("channels", [(64, 96), (192, 256)])
@pytest.mark.parametrize("trained", [("images",), ("weight", "bias"), ("images", "weight", "bias")])
def test_each_way_has_the_results_and_gradients_of_the_direct_convolution(
    way, channels, trained, monkeypatch
):
    if way != "kernels":
        monkeypatch.setattr(operators, "kernels", lambda: None)
    elif not kernels.register():
        pytest.skip(kernels.status())
    if way == "direct":
        monkeypatch.setattr(winograd, "is_faster", lambda *_: False)
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "images": (2, channels[0], 41, 42),
        "weight": (channels[1], channels[0], 3, 3),
        "bias": channels[1:],
    }
    given = {n: torch.randn(s, generator=draw).requires_grad_(n in trained) for n, s in shapes.items()}
    found, expected = conv3x3(*given.values()), functional.conv2d(*given.values(), padding=1)
    assert_close(found, expected, rtol=1e-3, atol=5e-3)
    weights, inputs = torch.randn(found.shape, generator=draw), [given[name] for name in trained]
    for one, other in zip(
        torch.autograd.grad(found, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
        strict=True,
    ):
        assert_close(one, other, rtol=1e-3, atol=2e-2)


def test_without_a_bias() -> None:
    images, weight = torch.randn(1, 64, 64, 64), torch.randn(64, 64, 3, 3).requires_grad_()
    (found,) = torch.autograd.grad(conv3x3(images, weight, None).square().mean(), weight)
    (expected,) = torch.autograd.grad(functional.conv2d(images, weight, padding=1).square().mean(), weight)
    assert_close(found, expected, rtol=1e-3, atol=1e-2)


def test_maps_of_128_channels_are_trained_in_c(taken) -> None:
    """The pyramid of `rcnn train`; without a compiler it has too few channels."""
    ours, plain = pair(128)
    image = torch.randn(4, 128, 32, 32)
    assert_close(ours(image), plain(image), rtol=1e-3, atol=1e-4)
    assert bool(taken) == kernels.register()


def test_gradients_under_autocast_are_in_full_precision(taken) -> None:
    ours, plain = pair()
    image = torch.randn(1, 256, 60, 64)
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
    ours, plain = pair(48)
    assert torch.equal(ours(image[:, :48]), plain(image[:, :48]))
    assert not taken
