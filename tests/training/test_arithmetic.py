"""TF32, determinism and a compiled backbone: what is set, what it gives, and that all is put back."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.ops import roi_align

from rcnn.ops.losses import total_cross_entropy
from rcnn.ops.roi import assign_levels, roi_pool
from rcnn.training.arithmetic import (
    CUBLAS,
    arithmetic,
    compile_backbone,
    described,
    deterministic,
    sentence,
    tf32,
    uncompiled,
)
from rcnn.training.settings import TrainSettings
from rcnn.training.trainer import Trainer
from tiny import tiny_network, tiny_recipe, tiny_shapes

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def flags() -> tuple[Any, ...]:
    return (
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, os.environ.get(CUBLAS),
    )  # fmt: skip


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_for_convolutions_and_products_and_put_back(allowed: bool) -> None:
    before = flags()
    with tf32(allowed):
        assert flags()[:2] == (allowed, allowed)
    assert flags() == before
    inside = None

    def fails() -> None:
        nonlocal inside
        with arithmetic(TrainSettings(tf32=allowed, deterministic=True)):
            inside = flags()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert inside == (allowed, allowed, True, False, ":4096:8")
    assert flags() == before


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has one form alone")
def test_torchs_two_ways_of_setting_tf32_are_not_mixed() -> None:
    convolutions: Any = torch.backends.cudnn.conv
    try:
        convolutions.fp32_precision = "ieee"
        with pytest.raises(ValueError, match=r"TF32 was set with torch's fp32_precision.*set train\.tf32"):
            tf32(True).__enter__()
    finally:
        torch.backends.cudnn.allow_tf32 = True  # torch's default


def test_what_has_no_deterministic_form_is_refused_in_one_sentence() -> None:
    wanted = r"train\.deterministic: roi_pool_backward_kernel has no deterministic form on this device"
    with pytest.raises(ValueError, match=wanted), deterministic():
        raise RuntimeError(
            "roi_pool_backward_kernel does not have a deterministic implementation, but you set 'torch.use_…"
        )
    with pytest.raises(RuntimeError, match="out of memory"), deterministic():
        raise RuntimeError("out of memory")


def test_a_user_s_own_workspace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS, ":16:8")
    with deterministic():
        assert os.environ[CUBLAS] == ":16:8"
    assert os.environ[CUBLAS] == ":16:8"


def test_a_deterministic_training_is_that_of_a_cpu(tmp_path: Path) -> None:
    """A CPU gives the same bits anyway."""
    found = []
    for name, on in (("plain", False), ("deterministic", True)):
        recipe = tiny_recipe("faster_rcnn", amp="off", deterministic=on)
        (tmp_path / name).mkdir()
        trainer = Trainer(
            tiny_network(recipe), recipe, tiny_shapes(4), tmp_path / name, describe={},
            evaluate=lambda full: {"score": 0.0}, say=lambda text: None,
        )  # fmt: skip
        trainer.run()
        found.append(trainer.network.state_dict())
    assert_close(found[0], found[1], rtol=0, atol=0)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_log_says_how_is_computed() -> None:
    settings = TrainSettings(amp="off", deterministic=True)
    assert described(settings, CPU) == {
        "device": "cpu", "precision": "float32", "deterministic": True, "compile": False,
    }  # fmt: skip
    assert sentence(settings, CPU) == "computes in float32 on cpu, deterministic"


def test_a_gpu_s_card_and_tf32_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert sentence(TrainSettings(), torch.device("cuda")) == "computes in fp16 on Tesla T4, tf32"
    assert described(TrainSettings(tf32=False), torch.device("cuda"))["tf32"] is False


# What a device computes otherwise so that it is deterministic


def test_the_deterministic_roi_align_is_torchvisions() -> None:
    """Elsewhere than on a CPU it replaces the kernel, whose gradient is summed in any order."""
    torch.manual_seed(0)
    features = [torch.randn(2, 5, 32 // stride, 48 // stride) for stride in (1, 2)]
    corners = torch.rand(9, 2) * 60
    rois = torch.cat([corners, corners + 4 + 60 * torch.rand(9, 2)], 1)
    images, strides = torch.arange(9) % 2, (4, 8)
    levels = assign_levels(rois, strides, canonical_size=48.0, canonical_level=3)
    assert set(levels.tolist()) == {0, 1}
    pooled = roi_pool(features, rois, images, levels, strides, 7)
    for i in range(9):
        box = torch.cat([images[i : i + 1, None].float(), rois[i : i + 1]], 1)
        level = int(levels[i])
        expected = roi_align(features[level], box, 7, 1 / strides[level], 2, True)
        assert_close(pooled[i : i + 1], expected, rtol=1e-5, atol=1e-5)


def test_the_sum_of_cross_entropies_is_the_same_either_way() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 4, 5, 6), torch.randint(4, (2, 5, 6))
    classes[0, :2] = 255
    summed = nn.functional.cross_entropy(logits, classes, ignore_index=255, reduction="sum")
    assert_close(total_cross_entropy(logits, classes, ignored=255), summed)


# A compiled backbone


class Convolutional(nn.Module):
    """A backbone that compiles in seconds, and counts how often Python runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.layers(images).relu()]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Convolutional()


def test_a_compiled_backbone_gives_the_same_and_is_compiled_twice_for_any_number_of_sizes() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    torch.manual_seed(0)
    network, plain = Network(), Network()
    plain.load_state_dict(network.state_dict())
    compile_backbone(network)
    counters.clear()
    graphs = []
    for size in ((32, 48), (32, 48), (48, 32), (64, 64), (40, 72), (96, 56)):
        images = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
        (found,), (expected,) = network.backbone(images), plain.backbone(images)
        assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1, 2, 2, 2, 2], "one for crops, one for any other size"
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    assert not counters["graph_break"]
    assert network.state_dict().keys() == plain.state_dict().keys()
    with uncompiled():
        (found,) = network.backbone.eval()(torch.ones(1, 3, 16, 16))
    assert counters["stats"]["unique_graphs"] == 2
    assert_close(found, plain.backbone(torch.ones(1, 3, 16, 16))[0])
    torch._dynamo.reset()


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.compile: this model has no part named backbone"):
        compile_backbone(nn.Sequential(nn.Linear(2, 2)))
