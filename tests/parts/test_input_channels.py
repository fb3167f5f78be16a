"""Backbones for any number of channels: the kernels of RGB spread over them."""

import pytest
import torch

from rcnn.parts.backbone import BackboneSettings, build_backbone, spread_channels
from rcnn.parts.pretrained import load_backbone_weights


def test_the_convention() -> None:
    kernels = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(
        spread_channels(kernels, 5).flatten(), torch.tensor([6.0, 12.0, 18.0, 6.0, 12.0])
    )


@pytest.mark.parametrize("channels", [1, 2, 6, 9])
def test_equal_channels_give_about_what_gray_gave(channels: int) -> None:
    kernels = torch.rand(4, 3, 3, 3)
    if channels % 3 == 0:  # all colours as often
        torch.testing.assert_close(spread_channels(kernels, channels).sum(1), kernels.sum(1))
    assert spread_channels(kernels, channels).shape == (4, channels, 3, 3)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenet_v3_large", "timm:resnet18"])
def test_backbones_take_them(name: str) -> None:
    settings = BackboneSettings(name, input_channels=5)
    backbone = build_backbone(settings).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 5, 64, 96))
    assert [m.shape[-2:] for m in maps] == [(64 // s, 96 // s) for s in backbone.strides]


def test_pretrained_kernels_are_spread() -> None:
    plain, wide = (build_backbone(BackboneSettings("efficientnet_lite0", input_channels=c)) for c in (3, 5))
    for backbone, channels in ((plain, 3), (wide, 5)):
        assert load_backbone_weights(
            backbone, BackboneSettings("efficientnet_lite0", input_channels=channels)
        )
    first = {c: next(p for p in b.parameters() if p.ndim == 4) for c, b in ((3, plain), (5, wide))}
    torch.testing.assert_close(first[5], spread_channels(first[3], 5))
