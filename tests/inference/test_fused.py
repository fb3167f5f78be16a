"""The fused form of a network: same results, weights of the original untouched."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops import box_iou

from rcnn import kernels
from rcnn.importers.torchvision import torchvision_settings
from rcnn.inference.detector import Detector
from rcnn.inference.fused import ChannelsLastLinear, FusedCache, FusedConv, FusedResidual, WinogradConv, fuse
from rcnn.kernels import functions, operators
from rcnn.layers import winograd
from rcnn.layers.conv import Conv3x3
from rcnn.models.fcn import FCN
from rcnn.models.light import Light
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.fpn import FPN, FPNSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform
from tiny import tiny_network, tiny_recipe

needs_kernels = pytest.mark.skipif(not kernels.register(), reason=kernels.status())


@pytest.fixture(autouse=True)
def every_convolution_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_TILES", 4)


def lively(network: nn.Module) -> nn.Module:
    """Norms that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                tensor.data.uniform_(-0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_prepared_network_computes_the_same(
    name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(operators, "kernels", lambda: None)
    torch.manual_seed(0)
    network: Any = lively(MaskRCNN(3, torchvision_settings(name)))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ready: Any = fuse(network)
    assert {
        key: bool((value == before[key]).all()) for key, value in network.state_dict().items()
    } == dict.fromkeys(before, True)
    norms = [m for m in ready.modules() if isinstance(m, nn.BatchNorm2d | torchvision.ops.FrozenBatchNorm2d)]
    # The norms of the box head's convolutions are folded too: nothing of them is left.
    assert norms == []
    kind = FusedConv if compiled and kernels.register() else WinogradConv
    assert sum(isinstance(module, kind) for module in ready.modules()) > 10
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        maps, expected = ready.neck(ready.backbone(images)), network.neck(network.backbone(images))
        for found, same in zip(maps, expected, strict=True):
            assert_close(found, same, rtol=1e-3, atol=1e-3 * float(same.std()))
        assert_close(ready.rpn(expected).objectness, network.rpn(expected).objectness, rtol=1e-3, atol=1e-4)
        regions = torch.rand(3, 256, 7, 7).to(memory_format=torch.channels_last)
        assert_close(ready.box.layers(regions), network.box.layers(regions), rtol=1e-3, atol=1e-4)
        pooled = torch.rand(3, 256, 14, 14)
        assert_close(ready.mask.head(pooled), network.mask.head(pooled), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [0, 3, 60])
def test_pooled_regions_are_taken_as_they_lie(count: int) -> None:
    network: Any = tiny_network(tiny_recipe("faster_rcnn"))
    ready: Any = fuse(network)
    assert isinstance(ready.box.layers[1], ChannelsLastLinear)
    size = network.settings.box.pool.size
    pooled = torch.rand(count, network.neck.channels, size, size).to(memory_format=torch.channels_last)
    found = ready.box.layers(pooled)
    assert_close(found, network.box.layers(pooled))
    assert found.is_contiguous()
    assert not isinstance(network.box.layers[1], ChannelsLastLinear)


def test_max_pooling_comes_before_the_relu() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3), nn.ReLU())
    ready: Any = fuse(layers)
    assert [type(layer) for layer in ready][1:3] == [nn.MaxPool2d, nn.ReLU]
    image = torch.randn(2, 3, 20, 21)
    assert torch.equal(ready(image), layers(image))
    assert isinstance(layers[1], nn.ReLU)


def test_tensors_that_stay_are_shared() -> None:
    network: Any = tiny_network(tiny_recipe())
    ready: Any = fuse(network)
    assert ready is not network
    assert ready.box.logits.weight is network.box.logits.weight
    assert not ready.training


def test_a_network_without_convolutions_is_its_own_prepared_form() -> None:
    network = nn.Linear(2, 2)
    assert fuse(network) is network


def test_the_prepared_form_follows_the_weights() -> None:
    network: Any = tiny_network(tiny_recipe())
    kept = FusedCache()
    first = kept.get(network)
    assert kept.get(network) is first
    with torch.no_grad():
        network.rpn.objectness.bias.add_(1)
    second = kept.get(network)
    assert second is not first
    network.rpn.objectness.bias.data.add_(1)
    assert kept.get(network) is not second
    second = kept.get(network)
    network.load_state_dict(network.state_dict())
    assert kept.get(network) is not second


def test_other_precisions_are_left_alone() -> None:
    network = tiny_network(tiny_recipe()).double()
    assert FusedCache().get(network) is network


def map_of(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


@torch.no_grad()
def test_few_tiles_take_the_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    layer = WinogradConv(convolution, "relu")

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(winograd, "convolve", refuse)
    image = torch.randn(1, 4, 4, 12)  # three tiles of four
    assert_close(layer(image), convolution(image).relu())
    with pytest.raises(AssertionError):
        layer(torch.randn(1, 4, 4, 13))


@torch.no_grad()
def test_autocast_leaves_nothing_behind() -> None:
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    layer, image = WinogradConv(convolution), torch.randn(1, 4, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(image), convolution(image))
    assert_close(layer(image), convolution(image), rtol=1e-4, atol=1e-4)


def test_a_detector_that_has_predicted_is_copied_and_pickled() -> None:
    recipe = tiny_recipe()
    detector = Detector(tiny_network(recipe), Transform(), ("disk", "square"), min_score=0.0)
    image = torch.rand(3, 64, 96)
    (expected,) = detector.predict(image)
    for same in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        (found,) = same.predict(image)
        assert np.array_equal(found.boxes, expected.boxes)


def test_a_detector_finds_the_same_with_the_plain_network() -> None:
    torch.manual_seed(1)
    recipe = tiny_recipe()
    detector = Detector(tiny_network(recipe), Transform(), ("disk", "square"), min_score=0.0)
    image = torch.rand(3, 64, 96)
    (found,) = detector.predict(image)
    (expected,) = replace(detector, fuse=False).predict(image)
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fuse", [True, False])
def test_bfloat16_finds_nearly_the_same(fuse: bool) -> None:
    torch.manual_seed(0)
    recipe = tiny_recipe()
    network: Any = tiny_network(recipe)
    for layer, spread in ((network.box.logits, 0.5), (network.mask.logits, 0.5)):
        nn.init.normal_(layer.weight, std=spread)
    detector = Detector(network.eval(), recipe.transform, ("disk", "square"), min_score=0.0, fuse=fuse)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (exact,) = replace(detector, precision="float32").predict(image)
    (found,) = replace(detector, precision="bf16").predict(image)
    assert found.scores is not None
    assert exact.scores is not None
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert not np.array_equal(found.scores, exact.scores), "nothing was computed in bfloat16"
    np.testing.assert_allclose(found.scores.mean(), exact.scores.mean(), rtol=0.05)
    # The best of the one is among those of the other, in its place to a bfloat16's last digit.
    best = box_iou(torch.from_numpy(exact.boxes[:1]), torch.from_numpy(found.boxes)).max()
    assert best > 0.95


def test_pixels_classified_in_bfloat16_are_floats() -> None:
    network = FCN(3, FCN.light_settings(Light("efficientnet_lite0", RPNSettings(), 0)))
    detector = Detector(network.eval(), Transform(), (), semantic_names=("a", "b", "c"), precision="bf16")
    (found,) = detector.predict(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert found.boxes.dtype == np.float32
    assert found.semantic is not None


def test_changes_past_the_versions_are_seen() -> None:
    network: Any = tiny_network(tiny_recipe("faster_rcnn"))
    prepared = FusedCache()
    first = prepared.get(network)
    assert prepared.get(network) is first
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    assert prepared.get(network) is not first


def test_bfloat16_converts_the_weights_once() -> None:
    network: Any = tiny_network(tiny_recipe())
    ready: Any = FusedCache().get(network, precision="bf16")
    assert ready.rpn.objectness.weight.dtype == torch.bfloat16
    assert network.rpn.objectness.weight.dtype == torch.float32
    assert not any(isinstance(module, FusedConv | WinogradConv) for module in ready.modules())


@needs_kernels
@torch.no_grad()
def test_prepared_networks_are_copied_and_pickled() -> None:
    network: Any = fuse(tiny_network(tiny_recipe()))
    layer, image = FusedConv(nn.Conv2d(32, 32, 3, padding=1)), torch.rand(1, 32, 24, 24)
    expected = layer(image)
    network.extra = layer
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert same.extra._packed is None
        assert torch.equal(same.extra(image), expected)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride_at", ["3x3", "1x1"])
def test_residual_blocks_add_their_shortcut_themselves(name: str, stride_at: Any) -> None:
    if (name, stride_at) == ("resnet18", "1x1"):
        pytest.skip("its blocks have no 1x1 convolution")
    torch.manual_seed(0)
    plain: Any = build_backbone(BackboneSettings(name, stride_at=stride_at)).eval()
    for norm in plain.modules():
        if isinstance(norm, torchvision.ops.FrozenBatchNorm2d):
            norm.bias.uniform_(-0.5, 0.5)
            norm.weight.uniform_(0.2, 0.6)
    ready: Any = fuse(plain)
    blocks = [module for module in ready.modules() if isinstance(module, FusedResidual)]
    assert len(blocks) == {"resnet18": 8, "resnet50": 16}[name]
    assert not any(isinstance(module, nn.ReLU) for block in blocks for module in block.shortcut.modules())
    images = torch.rand(2, 3, 96, 160)
    for found, expected in zip(ready(images), plain(images), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@needs_kernels
@torch.no_grad()
def test_norms_that_cannot_be_folded_stay() -> None:
    torch.manual_seed(0)
    backbone: Any = build_backbone(BackboneSettings("resnet18", norm="batch"))
    fpn: Any = FPN(backbone.channels, backbone.strides, FPNSettings(channels=64, norm="batch"))
    plain: Any = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(backbone, fpn)).eval()
    for norm in plain.modules():
        if isinstance(norm, nn.SyncBatchNorm):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
    images = torch.rand(1, 3, 64, 96)
    for found, expected in zip(fuse(plain)(images), plain(images), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@torch.no_grad()
def test_without_kernels_wide_convolutions_of_residual_blocks_still_use_winograds_algorithm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "kernels", lambda: None)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 192)
    ready: Any = fuse(build_backbone(BackboneSettings("resnet34")).eval())
    wide = [module for module in ready.modules() if isinstance(module, WinogradConv)]
    assert len(wide) == 11 + 5  # of the stages of 256 and 512 channels, but for the two with stride
    assert not any(isinstance(module, FusedResidual) for module in ready.modules())


@needs_kernels
@torch.no_grad()
def test_a_norm_that_comes_twice_stands_between_twice() -> None:
    norm = nn.BatchNorm2d(192, affine=False).eval()
    norm.running_mean.fill_(0.5)
    plain = nn.Sequential(norm, nn.Conv2d(192, 192, 1), norm, nn.ReLU()).eval()
    images = torch.rand(1, 192, 20, 20)
    assert_close(fuse(plain)(images), plain(images), rtol=1e-4, atol=1e-4)


@needs_kernels
@torch.no_grad()
def test_pyramids_add_the_coarser_map_in_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = FPN([24, 40, 48], [4, 8, 16], FPNSettings(channels=64)).eval()
    ready: Any = fuse(plain)
    assert all(isinstance(lateral, FusedConv) for lateral in ready.lateral)
    maps = [map_of(1, 24, 33, 47), map_of(1, 40, 17, 24), map_of(1, 48, 9, 12)]
    expected = plain(maps)
    monkeypatch.setattr(functions, "MIN_CELLS", 1)
    for found, same in zip(ready(maps), expected, strict=True):
        assert_close(found, same, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(functions, "MIN_CELLS", 10**6)  # by torch
    for found, same in zip(ready(maps), expected, strict=True):
        assert_close(found, same, rtol=1e-3, atol=1e-3)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize(
    ("activation", "taken"), [(nn.ReLU, True), (nn.ReLU6, True), (nn.Hardswish, True), (nn.GELU, False)]
)
def test_the_activation_after_a_1x1_convolution_is_taken_along(activation: Any, taken: bool) -> None:
    plain = nn.Sequential(
        nn.Conv2d(24, 192, 1), nn.BatchNorm2d(192), activation(), nn.Conv2d(192, 8, 1)
    ).eval()
    ready: Any = fuse(plain)
    assert isinstance(ready[0], FusedConv)
    assert isinstance(ready[2], nn.Identity if taken else activation)
    images = 3 * torch.randn(2, 24, 20, 30)
    assert_close(ready(images), plain(images), rtol=1e-4, atol=1e-4)


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 160), (75, 101), (8, 8)])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v3_large"])
def test_depthwise_convolutions_pad_and_clamp_themselves(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain: Any = lively(build_backbone(BackboneSettings(name, norm="batch")))
    ready: Any = fuse(plain)
    layers = [m for m in ready.modules() if isinstance(m, FusedConv) and m.groups > 1]
    assert len(layers) >= 13
    assert {layer.activation for layer in layers} == (
        {"relu6"} if name == "efficientnet_lite0" else {"relu", "hardswish"}
    )
    images = torch.rand(2, 3, *size)
    for found, expected in zip(ready(images), plain(images), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@needs_kernels
@torch.no_grad()
def test_a_fused_convolution_falls_back_on_torch() -> None:
    plain = nn.Conv2d(32, 192, 1)
    layer, images = FusedConv(plain, "relu"), torch.randn(2, 32, 20, 30)
    assert_close(layer(images), plain(images).relu())
    for given in (images[:1, :, :2, :2], images[0]):  # tiny; without a batch
        assert torch.equal(layer(given), plain(given).relu())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), plain(images).relu())
    with torch.enable_grad():
        assert layer(images).requires_grad
    exported = torch.export.export(layer, (images,))
    assert_close(exported.module()(images), layer(images))
    assert not any("rcnn" in str(node.target) for node in exported.graph.nodes)
    assert copy.deepcopy(layer)._packed is None


class Halved(Conv3x3):
    """As timm's weight-standardised convolutions, it computes with something else than its weights."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) / 2


Halved.__module__ = "someone.elses"


@torch.no_grad()
def test_convolutions_with_a_forward_of_their_own_stay() -> None:
    plain = nn.Sequential(Halved(64, 64)).eval()
    ready: Any = fuse(plain)
    assert type(ready[0]) is Halved
