"""The pyramid: torchvision's as oracle, any sizes, settings."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch.testing import assert_close

from rcnn.parts.fpn import FPN, FPNSettings, SingleMap, build_neck

CHANNELS, STRIDES = (8, 16, 32), (4, 8, 16)


def maps(sizes=((16, 24), (8, 12), (4, 6))) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((2, c, h, w), generator=draw) for c, (h, w) in zip(CHANNELS, sizes, strict=True)]


def test_equals_torchvisions():
    ours = FPN(CHANNELS, STRIDES, FPNSettings(channels=12))
    theirs = torchvision.ops.FeaturePyramidNetwork(
        list(CHANNELS), 12, torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    )
    for own, other in zip(
        [*ours.lateral, *ours.output], [*theirs.inner_blocks, *theirs.layer_blocks], strict=True
    ):
        for target, value in zip(own.parameters(), other.parameters(), strict=True):
            target.data.copy_(value)
    expected = theirs(OrderedDict((str(i), m) for i, m in enumerate(maps()))).values()
    for own, other in zip(ours(maps()), expected, strict=True):
        assert_close(own, other)


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("output", ["conv", "separable"])
@pytest.mark.parametrize(("coarsest", "levels"), [("pool", 4), ("none", 3)])
def test_every_level_has_the_width_and_its_size(norm, output, coarsest, levels):
    neck = FPN(CHANNELS, STRIDES, FPNSettings(12, norm, coarsest, output)).eval()
    features = neck(maps(((15, 23), (8, 12), (4, 6))))
    sizes = [(15, 23), (8, 12), (4, 6), (2, 3)][:levels]
    assert [f.shape for f in features] == [(2, 12, *size) for size in sizes]
    assert neck.channels == 12
    assert neck.strides == (4, 8, 16, 32)[:levels]
    assert neck.roi_strides == STRIDES


def test_the_coarsest_map_reaches_the_finest():
    neck = FPN(CHANNELS, STRIDES, FPNSettings(12))
    features = [m.requires_grad_() for m in maps()]
    neck(features)[0].sum().backward()
    assert all(f.grad is not None and f.grad.isfinite().all() and f.grad.abs().sum() > 0 for f in features)


def test_no_pyramid():
    neck = build_neck(CHANNELS, STRIDES, None)
    assert isinstance(neck, SingleMap)
    assert (neck.channels, neck.strides, neck.roi_strides) == (32, (16,), (16,))
    features = maps()
    assert neck(features) == [features[-1]]
    assert isinstance(build_neck(CHANNELS, STRIDES, FPNSettings()), FPN)
