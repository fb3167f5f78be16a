"""Backbones: shapes against what they promise, freezing, the folding of batch norm."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn.layers.norm import fold_batch_norm
from rcnn.parts.backbone import BACKBONES, BackboneSettings, build_backbone, build_stage

SMALL = ("efficientnet_lite0", "resnet18", "mobilenet_v3_large", "vgg16")


def shake_batch_norm(module: nn.Module) -> None:
    """Statistics as after training, so that folding has something to do."""
    draw = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1, generator=draw)
            norm.running_var.uniform_(0.5, 2, generator=draw)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
            nn.init.normal_(norm.bias, 0, 0.1, generator=draw)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(64, 96), (33, 50)])
def test_maps_have_the_promised_channels_and_strides(name, size):
    levels = (1, 2, 3, 4)
    backbone = build_backbone(BackboneSettings(name, levels)).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros((2, 3, *size)))
    assert len(maps) == len(backbone.channels) == len(backbone.strides) == 4
    for features, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert features.shape[:2] == (2, channels)
        for own, whole in zip(features.shape[2:], size, strict=True):
            # VGG's pools round down, the others up.
            assert own == (whole // stride if name == "vgg16" else -(-whole // stride))


def test_alexnet_makes_thirteen_cells_of_227_pixels():
    backbone = build_backbone(BackboneSettings("alexnet", (0, 1, 2), frozen_stages=1)).eval()
    net = torchvision.models.alexnet(weights=None).eval()
    values = (v for k, v in net.state_dict().items() if k.startswith("features."))
    backbone.load_state_dict(dict(zip(backbone.state_dict(), values, strict=True)))
    images = torch.randn((1, 3, 227, 227), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps, expected = backbone(images), net.features[:-1](images)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 56), (192, 27, 27), (256, 13, 13)]
    assert backbone.strides == (4, 8, 16)
    assert_close(maps[-1], expected)
    # pool5 of the paper, 6 x 6: what R-CNN's adaptive pooling makes of 13 cells.
    assert_close(functional.adaptive_max_pool2d(maps[-1], 6), net.features(images))


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in (*SMALL, "alexnet")])
def test_larger_backbones_are_built_as_promised(name):
    backbone = build_backbone(BackboneSettings(name, (2, 4))).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros((1, 3, 64, 64)))
    assert [m.shape for m in maps] == [
        (1, c, 64 // s, 64 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_maps_equal_torchvisions_resnet():
    backbone = build_backbone(BackboneSettings("resnet18", (1, 4), norm="batch")).eval()
    net = torchvision.models.resnet18(weights=None)
    shake_batch_norm(net)
    net.eval()
    own = backbone.state_dict()
    backbone.load_state_dict(dict(zip(own, net.state_dict().values(), strict=False)))
    images = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
        last = net.layer4(net.layer3(net.layer2(first)))
        ours = backbone(images)
    assert_close(ours[0], first)
    assert_close(ours[1], last)


def test_maps_equal_timms_efficientnet():
    backbone = build_backbone(BackboneSettings("efficientnet_lite0", (1, 2, 3, 4), norm="batch")).eval()
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    shake_batch_norm(net)
    net.eval()
    values = net.state_dict().values()
    backbone.load_state_dict(dict(zip(backbone.state_dict(), values, strict=True)))
    images = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for own, theirs in zip(backbone(images), net(images)[1:], strict=True):
            assert_close(own, theirs)


def test_folding_batch_norm_changes_nothing():
    backbone = build_backbone(BackboneSettings("efficientnet_lite0", norm="batch")).eval()
    shake_batch_norm(backbone)
    images = torch.randn((1, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = backbone(images)
        fold_batch_norm(backbone)
        after = backbone(images)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    for own, expected in zip(after, before, strict=True):
        assert_close(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_frozen_norm_is_the_same_in_training(name):
    backbone = build_backbone(BackboneSettings(name, (2,)))
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(backbone.train()(images)[0], backbone.eval()(images)[0])


@pytest.mark.parametrize("frozen", [0, 2, 5])
def test_frozen_stages_do_not_train(frozen):
    backbone = build_backbone(BackboneSettings("resnet18", frozen_stages=frozen))
    maps = backbone(torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(0)))
    if frozen < 5:
        sum(m.sum() for m in maps).backward()
    for index, stage in enumerate(backbone.stages):
        for parameter in stage.parameters():
            assert parameter.requires_grad == (index >= frozen)
            assert (parameter.grad is not None) == (index >= frozen)


def test_stages_beyond_the_last_level_are_not_kept():
    assert len(build_backbone(BackboneSettings("resnet18", (2,))).stages) == 3


def test_the_last_stage_alone():
    stage, channels = build_stage(BackboneSettings("resnet18", (3,)), 4)
    with torch.no_grad():
        assert stage.eval()(torch.zeros((2, 256, 14, 14))).shape == (2, channels, 7, 7)


def test_errors_name_what_was_expected():
    with pytest.raises(ValueError, match=r"'zfnet'.*resnet50"):
        build_backbone(BackboneSettings("zfnet"))
    with pytest.raises(ValueError, match=r"levels \(5,\).*0 to 4.*strides"):
        build_backbone(BackboneSettings("resnet18", (5,)))
    with pytest.raises(ValueError, match="levels"):
        build_backbone(BackboneSettings("resnet18", ()))


@torch.no_grad()
def test_where_the_stride_lies():
    """At 1x1 every second row and column is never looked at; at 3x3 all are."""
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = torch.rand(1, 256, 8, 8, generator=torch.Generator().manual_seed(1))
    changed = features.clone()
    changed[:, :, 1::2, 1::2] += 1
    for place, sees in (("3x3", True), ("1x1", False)):
        backbone = build_backbone(BackboneSettings("resnet50", stride_at=place)).eval()
        assert [m.shape[-1] for m in backbone(images)] == [8, 4, 2, 1]
        block = backbone.stages[2][0]
        assert bool((block(features) != block(changed)).any()) == sees
    with pytest.raises(ValueError, match=r'stride_at "1x1" is for .* got resnet18'):
        BackboneSettings("resnet18", stride_at="1x1")


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large"])
def test_frozen_norms_keep_half_precision(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(name=name, frozen_stages=0))
    images = torch.rand(1, 3, 64, 96)
    expected = backbone(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(images)
    assert [map.dtype for map in found] == [torch.bfloat16] * len(expected)
    for half, full in zip(found, expected, strict=True):
        assert full.dtype == torch.float32
        assert float((half.float() - full).norm() / full.norm()) < 0.05


NETS = """
from torch import nn
from rcnn.parts.backbone import Stage

def conv(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())

def stages(settings):
    return [Stage(conv(3, 4, 4), 4, 4), Stage(conv(4, 6, 2), 6, 8), Stage(conv(6, 8, 2), 8, 16)]

class Own(nn.Module):
    channels, strides = (4, 6), (4, 8)

    def __init__(self, settings):
        super().__init__()
        self.parts = nn.ModuleList([conv(3, 4, 4), conv(4, 6, 2)])

    def forward(self, images):
        fine = self.parts[0](images)
        return [fine, self.parts[1](fine)]

class Wrong(Own):
    strides = (4, 16)

class Bare(nn.Module):
    def __init__(self, settings):
        super().__init__()

def number(settings):
    return 7
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of a user's own."""
    (tmp_path / "own_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("nets")
def test_a_users_own_stages():
    backbone = build_backbone(BackboneSettings("own_nets:stages", (1, 2), frozen_stages=1))
    assert (backbone.channels, backbone.strides) == ((6, 8), (8, 16))
    assert [m.shape for m in backbone(torch.zeros(2, 3, 64, 96))] == [(2, 6, 8, 12), (2, 8, 4, 6)]
    assert [p.requires_grad for p in backbone.stages[0].parameters()] == [False] * 4
    assert build_stage(BackboneSettings("own_nets:stages", (1,)), 2)[1] == 8


@pytest.mark.usefixtures("nets")
def test_a_users_own_network():
    backbone = build_backbone(BackboneSettings("own_nets:Own"))
    assert (backbone.channels, backbone.strides) == ((4, 6), (4, 8))
    assert [m.shape for m in backbone(torch.zeros(2, 3, 64, 96))] == [(2, 4, 16, 24), (2, 6, 8, 12)]
    backbone.freeze()
    assert not any(m.training for m in backbone.train().modules())
    for name, reason in (
        ("Wrong", r"returns maps of shape .*\(6, 16, 20\).* do not fit .* strides \(4, 16\)"),
        ("Bare", "Bare lacks channels and strides"),
        ("number", "returned int; expected a module with channels and strides, or a list"),
        ("absent", r"own_nets has no absent; it has .*stages"),
    ):
        with pytest.raises(ValueError, match=f"own_nets:{name}.*{reason}"):
            build_backbone(BackboneSettings(f"own_nets:{name}"))
    with pytest.raises(ValueError, match=r"no module no_nets; install its package, or .*PYTHONPATH"):
        build_backbone(BackboneSettings("no_nets:build"))
