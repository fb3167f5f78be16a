"""The registered operators against their references, and where they step aside."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn import kernels
from rcnn.kernels import operators
from rcnn.layers.conv import conv3x3
from rcnn.layers.operator import Operator
from rcnn.ops import boxes as box_ops
from rcnn.ops.convolution import convolve
from rcnn.ops.roi import roi_align

needs_kernels = pytest.mark.skipif(not kernels.register(), reason=kernels.status())


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the compiled functions that were called."""
    found = operators.kernels()
    assert found is not None
    names: list[str] = []
    for name in ("convolve_3x3", "convolve_1x1", "convolve_depthwise", "roi_align", "nms"):
        original = getattr(found, name)

        def watched(*args: Any, name: str = name, function: Any = original, **kwargs: Any) -> Tensor:
            names.append(name)
            result: Tensor = function(*args, **kwargs)
            return result

        monkeypatch.setattr(found, name, watched)
    return names


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def inputs(name: str) -> tuple[Operator, list[Any]]:
    """An operator, and arguments with which the compiled function is the faster one."""
    if name == "conv3x3":
        return conv3x3, [draw(1, 64, 60, 64), draw(64, 64, 3, 3), draw(64)]
    if name == "roi_align":
        boxes = torch.tensor([[0.0, 0, 50, 60], [10, 5, 30, 90], [20, 20, 20, 20]])
        zeros, levels = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1])
        return roi_align, [
            [draw(1, 64, 25, 25), draw(1, 64, 13, 13)],
            boxes,
            zeros,
            levels,
            [4, 8],
            7,
            2,
            True,
        ]
    if name == "nms":
        corners = 40 * torch.rand((300, 2), generator=torch.Generator().manual_seed(0))
        groups = torch.arange(300) % 3
        return box_ops.grouped_nms, [torch.cat([corners, corners + 10], 1), draw(300), groups, 0.5]
    side, groups = {"3x3": (3, 1), "1x1": (1, 1), "depthwise": (5, 64)}[name]
    layer = nn.Conv2d(64, 64, side, padding=side // 2, groups=groups).requires_grad_(False)
    packed = operators.pack(layer, "relu", added=name == "1x1")
    addend = draw(1, 64, 30, 30) if name == "1x1" else None
    return convolve, [draw(1, 64, 30, 30), layer.weight, layer.bias, packed, addend, 1, side // 2, "relu"]


FUNCTIONS = {
    "conv3x3": "convolve_3x3", "3x3": "convolve_3x3", "1x1": "convolve_1x1",
    "depthwise": "convolve_depthwise", "roi_align": "roi_align", "nms": "nms",
}  # fmt: skip
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "enable_grad": torch.enable_grad}


@needs_kernels
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_the_kernels_compute_what_the_reference_does(name: str, mode: str, computed: list[str]) -> None:
    operator, args = inputs(name)
    with MODES[mode]():
        found = operator(*args)
        assert computed == [FUNCTIONS[name]]
        assert_close(found, operator.reference(*args), rtol=1e-3, atol=5e-3)


@needs_kernels
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_types_and_autocast_are_left_to_torch(name: str, computed: list[str]) -> None:
    operator, args = inputs(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator(*args), operator.reference(*args))
    doubles = [_double(arg) for arg in args]
    with torch.no_grad():
        assert torch.equal(operator(*doubles), operator.reference(*doubles))
    assert computed == []


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(each) for each in value]
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


@needs_kernels
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "nms"])
def test_gradients_are_those_of_the_reference(name: str, computed: list[str]) -> None:
    operator, args = inputs(name)
    images = args[0][0] if isinstance(args[0], list) else args[0]
    images.requires_grad_()
    (found,) = torch.autograd.grad(operator(*args).sum(), images)
    assert computed == (["convolve_3x3"] * 2 if name == "conv3x3" else []), "only conv3x3 trains by kernels"
    (expected,) = torch.autograd.grad(operator.reference(*args).sum(), images)
    assert_close(found, expected, rtol=1e-3, atol=5e-3)


@needs_kernels
@pytest.mark.export
# torch.compile cannot trace torchvision's suppression without a warning of its own.
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "nms"])
@torch.no_grad()
def test_what_records_a_graph_sees_ordinary_torch(name: str, computed: list[str]) -> None:
    operator, args = inputs(name)
    expected = operator.reference(*args)
    found = torch.compile(lambda *given: operator(*given), backend="eager")(*args)
    assert_close(found, expected)

    class Module(nn.Module):
        def forward(self, *given: Any) -> Tensor:
            return operator(*given)

    exported = torch.export.export(Module(), tuple(args))
    assert_close(exported.module()(*args), expected)
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not [each for each in names if "rcnn" in each]
    assert computed == []


@needs_kernels
def test_many_boxes_are_suppressed_by_kernels(computed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = torch.rand(2000, 2).repeat(1, 2) + torch.tensor([0, 0, 1, 1]), torch.rand(2000)
    groups = torch.arange(2000) % 3
    kept = box_ops.nms(boxes, scores, groups, 0.5)
    assert computed == ["nms"]
    assert torch.equal(kept, torchvision.ops.batched_nms(boxes, scores, groups, 0.5))
    monkeypatch.setattr(operators, "kernels", lambda: None)
    assert torch.equal(kept, box_ops.nms(boxes, scores, groups, 0.5))


def test_odd_convolutions_have_no_packed_form() -> None:
    for layer in (
        nn.Conv2d(33, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 128, 3, padding=1, groups=64),
        nn.Conv2d(64, 64, 7, padding=3, groups=64),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(64, 8, 1),
        nn.Conv2d(64, 256, 1).double(),
    ):
        assert operators.pack(layer, "none") == []
    assert operators.pack(nn.Conv2d(64, 64, 3, padding=1), "hardswish") == []
    assert operators.pack(nn.Conv2d(64, 64, 3, padding=1, groups=64), "relu", added=True) == []


def test_without_a_library_nothing_is_registered(tmp_path: Path) -> None:
    code = (
        "import torch; from rcnn import kernels; from rcnn.layers.conv import conv3x3;"
        "print(kernels.register(), kernels.register(), kernels.status());"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('rcnn::conv3x3', 'CPU'))"
    )
    environment = {**os.environ, "RCNN_KERNELS": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False no kernels: disabled by RCNN_KERNELS=0", "False"]


@needs_kernels
def test_torch_and_the_kernels_share_one_openmp() -> None:
    code = """
import pathlib, torch
from torch import nn
from rcnn.inference.fused import fuse
layers = fuse(nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 256, 1)).eval())
torch.set_num_threads(2)
with torch.inference_mode():
    layers(torch.zeros(1, 64, 60, 60))
maps = pathlib.Path("/proc/self/maps").read_text().splitlines()
files = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
openmp = ("libgomp", "libiomp", "libomp")
print(*(file for file in files if pathlib.Path(file).name.startswith(openmp)), sep="\\n")
print(any(pathlib.Path(f).name == "_kernels.so" for f in files))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *libraries, loaded = done.stdout.splitlines()
    assert loaded == "True"
    assert len(libraries) == 1, libraries
