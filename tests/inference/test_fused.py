"""The prepared form of a network: same results, weights of the original untouched."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.importers.torchvision import torchvision_settings
from rcnn.inference.detector import Detector
from rcnn.inference.fused import ChannelsLastLinear, FusedCache, WinogradConv, fuse
from rcnn.kernels import winograd
from rcnn.models.fcn import FCN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.parts.rpn import RPNSettings
from rcnn.training.defaults import light_settings
from rcnn.transform import Transform
from tiny import tiny_network, tiny_recipe


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
        monkeypatch.setattr("rcnn.kernels.kernels.kernels", lambda: None)
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
    assert sum(isinstance(module, WinogradConv) for module in ready.modules()) > 10
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
    first = kept.of(network)
    assert kept.of(network) is first
    with torch.no_grad():
        network.rpn.objectness.bias.add_(1)
    second = kept.of(network)
    assert second is not first
    network.rpn.objectness.bias.data.add_(1)
    assert kept.of(network) is not second
    second = kept.of(network)
    network.load_state_dict(network.state_dict())
    assert kept.of(network) is not second


def test_other_precisions_are_left_alone() -> None:
    network = tiny_network(tiny_recipe()).double()
    assert FusedCache().of(network) is network


@torch.no_grad()
def test_few_tiles_take_the_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    layer = WinogradConv(convolution, "relu")

    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setattr("rcnn.kernels.winograd.convolve", refuse)
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
        assert torch.equal(found.boxes, expected.boxes)


def test_a_detector_finds_the_same_with_the_plain_network() -> None:
    torch.manual_seed(1)
    recipe = tiny_recipe()
    detector = Detector(tiny_network(recipe), Transform(), ("disk", "square"), min_score=0.0)
    image = torch.rand(3, 64, 96)
    (found,) = detector.predict(image)
    (expected,) = replace(detector, fuse=False).predict(image)
    assert len(found) == len(expected) > 0
    assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)
    assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fuse", [True, False])
def test_half_precision_finds_nearly_the_same(fuse: bool) -> None:
    torch.manual_seed(0)
    recipe = tiny_recipe()
    network: Any = tiny_network(recipe)
    for layer, spread in ((network.box.logits, 0.5), (network.mask.logits, 0.5)):
        nn.init.normal_(layer.weight, std=spread)
    detector = Detector(network.eval(), recipe.transform, ("disk", "square"), min_score=0.0, fuse=fuse)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (exact,), (found,) = detector.predict(image), replace(detector, half=True).predict(image)
    assert found.scores is not None
    assert exact.scores is not None
    assert found.scores.dtype == found.boxes.dtype == torch.float32
    assert not torch.equal(found.scores, exact.scores), "nothing was computed in half precision"
    assert_close(found.scores.mean(), exact.scores.mean(), rtol=0.05, atol=0)
    # The best of the one is among those of the other, in its place to a bfloat16's last digit.
    best = torchvision.ops.box_iou(exact.boxes[:1], found.boxes).max()
    assert best > 0.95


def test_pixels_classified_in_half_precision_are_floats() -> None:
    network = FCN(3, light_settings("fcn", "efficientnet_lite0", RPNSettings(), 0))
    detector = Detector(network.eval(), Transform(), (), semantic_names=("a", "b", "c"), half=True)
    (found,) = detector.predict(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert found.boxes.dtype == torch.float32
    assert found.semantic is not None


def test_changes_past_the_versions_are_seen() -> None:
    network: Any = tiny_network(tiny_recipe("faster_rcnn"))
    prepared = FusedCache()
    first = prepared.of(network)
    assert prepared.of(network) is first
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    assert prepared.of(network) is not first


def test_half_precision_converts_the_weights_once() -> None:
    network: Any = tiny_network(tiny_recipe())
    ready: Any = FusedCache().of(network, half=True)
    assert ready.rpn.objectness.weight.dtype == torch.bfloat16
    assert network.rpn.objectness.weight.dtype == torch.float32
    assert not any(isinstance(module, WinogradConv) for module in ready.modules())
