"""What is compiled against torch; how it is built, kept, and done without."""

import copy
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn.inference.fused import FusedResidual, PointwiseConv, WinogradConv, prepare
from rcnn.kernels import compiled, kernels
from rcnn.kernels.kernels import ACTIVATIONS, SOURCES, Kernels
from rcnn.ops import boxes as box_ops
from rcnn.ops import roi
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.fpn import FPN, FPNSettings
from tiny import tiny_network, tiny_recipe

needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or "AVX" not in torch.backends.cpu.get_cpu_capability()
    or not any(map(shutil.which, ("cc", "gcc"))),
    reason="needs Linux, AVX and a C compiler",
)
PLAIN = ("-O1", "-mavx2", "-mfma", "-fPIC", "-shared")
VARIANTS = {"this CPU": compiled.FLAGS, "AVX2, one thread": PLAIN}


@pytest.fixture(scope="module", params=VARIANTS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return build(tmp_path_factory.mktemp("built"), VARIANTS[request.param])


def build(folder: Path | None, flags: tuple[str, ...] = PLAIN) -> Kernels:
    return compiled.build(SOURCES, Kernels, folder, flags)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is looked for anew, in a cache of its own."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.delenv("RCNN_COMPILE", raising=False)
    kernels.kernels.cache_clear()
    yield
    kernels.kernels.cache_clear()


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "channels", "kernels", "height", "width"),
    [
        (1, 32, 32, 1, 1),  # less than a tile
        (2, 64, 32, 33, 50),  # no multiple of a tile
        (1, 32, 64, 8, 12),  # whole tiles
        (3, 32, 96, 90, 121),  # several turns, the last of them smaller
        (70, 64, 64, 14, 14),  # images that share a turn
        (0, 32, 32, 14, 14),  # no images
    ],
)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.usefixtures("threads")
def test_equals_the_direct_convolution(
    built: Kernels, batch: int, channels: int, kernels: int, height: int, width: int, relu: bool
) -> None:
    generator = torch.Generator().manual_seed(height)
    images = torch.randn((batch, channels, height, width), generator=generator)
    weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((kernels, channels, 3, 3), (kernels,))
    )
    expected = functional.conv2d(images, weight, bias, padding=1)
    expected = expected.relu() if relu else expected
    packed = built.pack_3x3(weight)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = built.convolve_3x3(given, packed, bias, relu=relu)
        assert_close(found, expected, rtol=1e-4, atol=2e-4 * channels**0.5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(
        built.convolve_3x3(images, packed), functional.conv2d(images, weight, padding=1), rtol=1e-4, atol=2e-3
    )


@needs_compiler
def test_what_is_not_a_number_stays_so(built: Kernels) -> None:
    images = torch.zeros(1, 32, 8, 8)
    images[0, 0, 0, 0] = torch.nan
    found = built.convolve_3x3(images, built.pack_3x3(torch.ones(32, 32, 3, 3)), relu=True)
    assert found[0, :, 0, 0].isnan().all()
    assert not found[0, :, 4:, 4:].isnan().any()


@needs_compiler
def test_what_does_not_go_together_is_refused(built: Kernels) -> None:
    images, packed = torch.zeros(1, 32, 8, 8), built.pack_3x3(torch.ones(32, 32, 3, 3))
    with pytest.raises(ValueError, match="expected 32 channels"):
        built.convolve_3x3(torch.zeros(1, 64, 8, 8), packed)
    with pytest.raises(ValueError, match="float32"):
        built.convolve_3x3(images.double(), packed)
    with pytest.raises(ValueError, match="float32"):
        built.convolve_3x3(images, packed, torch.zeros(32, dtype=torch.float64))
    with pytest.raises(ValueError, match="36 channels: expected a multiple"):
        built.convolve_3x3(torch.zeros(1, 36, 8, 8), torch.zeros(36, 1, 36, built.panel_width))
    bias = torch.arange(64.0)[::2]
    assert torch.equal(built.convolve_3x3(images, packed, bias)[0, :, 0, 0], bias)


def map_of(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "channels", "kernels", "height", "width"),
    [
        (1, 3, 32, 1, 1),  # one cell
        (2, 40, 72, 13, 17),  # no multiple of a panel
        (1, 64, 64, 14, 56),  # whole tiles
        (1, 512, 160, 30, 31),  # few tiles at a time
        (3, 16, 5, 40, 50),  # less than a panel
        (1, 2048, 64, 5, 5),
        (0, 32, 64, 14, 14),  # no images
    ],
)
@pytest.mark.parametrize(
    ("stride", "addend"), [(1, None), (1, "same"), (1, "half"), (1, "odd"), (2, None), (2, "same")]
)
@pytest.mark.usefixtures("threads")
def test_equals_the_1x1_convolution(
    built: Kernels,
    batch: int,
    channels: int,
    kernels: int,
    height: int,
    width: int,
    stride: int,
    addend: str | None,
) -> None:
    images, weight, bias = (
        map_of(batch, channels, height, width),
        map_of(kernels, channels, 1, 1),
        torch.rand(kernels),
    )
    plain = functional.conv2d(images, weight, bias, stride)
    size = plain.shape[2:]
    sizes = {"same": size, "half": [-(-side // 2) for side in size], "odd": [side // 3 + 2 for side in size]}
    added = None if addend is None or 0 in size else map_of(batch, kernels, *sizes[addend])
    expected = plain if added is None else plain + functional.interpolate(added, size=size)
    packed = built.pack_1x1(weight, bias)
    found = built.convolve_1x1(images, packed, kernels, stride=stride, addend=added)
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * channels**0.5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    without = built.convolve_1x1(images.contiguous(), built.pack_1x1(weight, None), kernels, stride=stride)
    assert_close(
        without, functional.conv2d(images, weight, None, stride), rtol=1e-4, atol=1e-4 * channels**0.5
    )


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_torch(built: Kernels, activation: Any) -> None:
    numbers = torch.tensor([-torch.inf, -7, -3, -1, -0.0, 0, 2, 3, 6, 9, torch.inf, torch.nan])
    images = numbers.view(1, 1, 3, 4)
    form: Any = {"none": lambda x: x}.get(activation) or getattr(functional, activation)
    found = built.convolve_1x1(images, built.pack_1x1(torch.ones(1, 1, 1, 1), None), 1, activation=activation)
    assert_close(found, form(images.clone()), equal_nan=True)


@needs_compiler
def test_1x1_convolutions_refuse_what_does_not_go_together(built: Kernels) -> None:
    images, packed = torch.zeros(1, 8, 4, 4), built.pack_1x1(torch.ones(40, 8, 1, 1), None)
    for found, match in (
        (lambda: built.convolve_1x1(torch.zeros(1, 9, 4, 4), packed, 40), "expected 8 channels"),
        (lambda: built.convolve_1x1(images.double(), packed, 40), "float32"),
        (lambda: built.convolve_1x1(images, packed, 400), "400 kernels"),
        (lambda: built.convolve_1x1(images, packed, 40, addend=torch.zeros(1, 39, 4, 4)), "added"),
        (lambda: built.convolve_1x1(images, packed, 40, addend=torch.zeros(2, 40, 4, 4)), "added"),
        (lambda: built.convolve_3x3(torch.zeros(1, 32, 4, 4), built.pack_3x3(torch.ones(32, 32, 3, 3)),
                                    addend=torch.zeros(1, 32, 4, 5)), "added"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            found()


@needs_compiler
@pytest.mark.parametrize(
    ("size", "samples", "aligned"), [(7, 2, True), (7, 2, False), (1, 1, True), (14, 3, False)]
)
@pytest.mark.usefixtures("threads")
def test_equals_roi_align(
    built: Kernels, size: int, samples: int, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, strides = [map_of(2, 96, 20, 30), map_of(2, 96, 10, 15).contiguous()], [4, 8]
    generator = torch.Generator().manual_seed(size)
    corners = torch.rand((50, 2), generator=generator) * 150 - 25
    rois = torch.cat([corners, corners + torch.rand((50, 2), generator=generator) * 90], 1)
    rois[0], rois[1], rois[2] = (
        torch.tensor([0, 0, 120, 80]),
        500.0,
        torch.tensor([3, 3, 3, 3]),
    )  # all, beyond, empty
    images, levels = torch.arange(50) % 2, torch.arange(50) // 3 % 2
    found = built.roi_align(maps, rois, images, levels, strides, size, samples, aligned=aligned)
    monkeypatch.setattr(kernels, "kernels", lambda: None)
    expected = roi.roi_pool(
        maps, rois, images, levels, strides, size, sampling_ratio=samples, aligned=aligned
    )
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_regions_that_are_no_numbers_or_of_no_image_read_nothing_foreign(built: Kernels) -> None:
    maps, index = [torch.ones(1, 32, 5, 5)], torch.zeros(3, dtype=torch.int64)
    rois = torch.tensor([[torch.nan] * 4, [-torch.inf, 0, torch.inf, 9], [-1e30, -1e30, 1e30, 1e30]])
    found = built.roi_align(maps, rois, index, index, [1], 2, 2, aligned=True)
    assert torch.isin(found, torch.tensor([0.0, 0.25, 0.5, 1.0])).all()
    for images, levels in ((index + 1, index), (index - 1, index), (index, index + 1)):
        with pytest.raises(IndexError, match="on the levels"):
            built.roi_align(maps, rois, images, levels, [1], 2, 2, aligned=True)
    with pytest.raises(ValueError, match="cells in all"):
        built.roi_align([torch.ones(1, 32, 0, 5)], rois, index, index, [1], 2, 2, aligned=True)
    with pytest.raises(ValueError, match="2 images"):
        built.roi_align(maps, rois, index[:2], index, [1], 2, 2, aligned=True)
    empty = built.roi_align(maps, rois[:0], index[:0], index[:0], [1], 2, 2, aligned=True)
    assert empty.shape == (0, 32, 2, 2)


@needs_compiler
@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("max_iou", [0.3, 0.5, 0.7])
@pytest.mark.usefixtures("threads")
def test_suppression_keeps_what_torchvision_keeps(built: Kernels, count: int, max_iou: float) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.randint(0, 40, (count, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + torch.randint(0, 30, (count, 2), generator=generator)], 1)
    scores = torch.randint(0, 50, (count,), generator=generator) / 50  # ties, too
    groups = torch.randint(0, 5, (count,), generator=generator) * 2  # classes that nothing is of
    kept = [
        index[torchvision.ops.nms(boxes[index], scores[index], max_iou)]
        for index in ((groups == group).nonzero().squeeze(1) for group in range(9))
    ]
    expected = torch.cat(kept)
    found = built.nms(boxes, scores, groups, max_iou)
    assert torch.equal(found, expected[scores[expected].argsort(descending=True, stable=True)])


@needs_compiler
def test_many_boxes_are_suppressed_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = torch.rand(2000, 2).repeat(1, 2) + torch.tensor([0, 0, 1, 1]), torch.rand(2000)
    groups = torch.arange(2000) % 3
    monkeypatch.setattr(torchvision.ops, "nms", None)
    kept = box_ops.nms(boxes, scores, groups, 0.5)
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "kernels", lambda: None)
    assert torch.equal(kept, box_ops.nms(boxes, scores, groups, 0.5))


@needs_compiler
def test_it_is_built_once_for_each_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", None)
        build(tmp_path)
        assert list(tmp_path.iterdir()) == [kept]
    monkeypatch.setattr(compiled, "_cpu", lambda: ["another"])
    build(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@needs_compiler
def test_a_compiler_that_fails_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc by this name")
    monkeypatch.setenv("CC", "false")
    build(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@needs_compiler
def test_what_the_compiler_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-option"):
        build(tmp_path, (*PLAIN, "--no-such-option"))


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"no library"])
def test_a_damaged_library_is_built_anew(tmp_path: Path, damage: bytes) -> None:
    build(tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.unlink()  # what is loaded must not be written to
    kept.write_bytes(damage)
    build(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    assert len(kept.read_bytes()) > 1000


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4 * d[0] - 5 * d[2]", "4 * d[0] - 4 * d[2]"),
        ("int rcnn_winograd(", "int other("),
        ("load(bias + half * LANES)", "load(bias)"),
        ("(i + 0.5f) / samples", "(i + 0.4f) / samples"),
        ("kept[j] &= !", "kept[j] &= !!"),
        ("kept[j] &= !", "if (0) kept[j] &= !"),
    ],
)
def test_a_library_that_does_something_else_is_not_used(old: str, new: str, tmp_path: Path) -> None:
    sources = [tmp_path / source.name for source in SOURCES]
    for source, written in zip(SOURCES, sources, strict=True):
        written.write_text(source.read_text().replace(old, new))
    assert sum(old in source.read_text() for source in SOURCES) == 1
    with pytest.raises(OSError, match=r"wrong|undefined symbol"):
        compiled.build(sources, Kernels, tmp_path, PLAIN)
    assert sorted(tmp_path.iterdir()) == sources


@needs_compiler
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("why", ["a file", "others may write", "no home"])
def test_without_a_folder_of_its_own_it_is_built_for_the_process(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compiled"
    if why == "a file":
        folder.write_text("")
    elif why == "others may write":
        folder.mkdir()
        folder.chmod(0o777)
        build(folder)
        (planted,) = folder.iterdir()
        planted.write_text("never to be looked at")
    else:
        monkeypatch.delenv("RCNN_CACHE")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert kernels.kernels() is not None
    if why == "others may write":
        assert [file.read_text() for file in folder.iterdir()] == ["never to be looked at"]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("why", ["forbidden", "no compiler", "fails", "hangs", "something unforeseen"])
def test_without_a_library_torch_computes(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")

    def run(command: list[str], **_: Any) -> None:
        assert why != "forbidden"
        errors = {
            "hangs": subprocess.TimeoutExpired(command, 60),
            "fails": subprocess.CalledProcessError(1, "cc"),
        }
        raise errors.get(why, ZeroDivisionError())

    monkeypatch.setattr(subprocess, "run", run)
    if why == "forbidden":
        monkeypatch.setenv("RCNN_COMPILE", "0")
        monkeypatch.setattr(compiled, "build", lambda *_: pytest.fail("it was built"))
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else name)
    assert kernels.kernels() is None
    plain = nn.Conv2d(256, 256, 3, padding=1)
    image = torch.rand(1, 256, 40, 40)
    with torch.no_grad():
        assert_close(WinogradConv(plain)(image), plain(image), rtol=1e-3, atol=1e-4)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@needs_compiler
@pytest.mark.usefixtures("fresh")
@torch.no_grad()
def test_prepared_convolutions_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Conv2d(64, 32, 3, padding=1)
    layer, image = WinogradConv(plain, "relu"), torch.rand(2, 64, 20, 30)
    monkeypatch.setattr("rcnn.kernels.winograd.convolve", None)
    assert_close(layer(image), plain(image).relu(), rtol=1e-3, atol=1e-4)
    assert not torch.equal(layer(image), plain(image).relu()), "nothing was compiled"
    small = image[:1, :, :8, :8]
    assert torch.equal(layer(small), plain(small).relu()), "a few tiles take the direct way"
    assert torch.equal(layer(image[0]), plain(image[0]).relu()), "so does an image without a batch"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(image), plain(image).relu())
    assert torch.equal(layer.double()(image.double()), plain(image.double()).relu())
    (kept,) = (tmp_path / "compiled").iterdir()
    assert kept.suffix == ".so"
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_uid == os.getuid()


@needs_compiler
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("state", ["float64", "bfloat16", "autocast", "meta"])
def test_the_state_of_torch_does_not_matter(state: str) -> None:
    before = torch.get_default_dtype()
    try:
        if state in ("float64", "bfloat16"):
            torch.set_default_dtype(getattr(torch, state))
        device = torch.device("meta" if state == "meta" else "cpu")
        with torch.autocast("cpu", torch.bfloat16, enabled=state == "autocast"), device:
            assert kernels.kernels() is not None
    finally:
        torch.set_default_dtype(before)


@needs_compiler
def test_gradients_pass_through() -> None:
    plain = nn.Conv2d(32, 32, 3, padding=1)
    image = torch.rand(1, 32, 24, 24, requires_grad=True)
    (found,) = torch.autograd.grad(WinogradConv(plain)(image).sum(), image)
    (expected,) = torch.autograd.grad(plain(image).sum(), image)
    assert_close(found, expected)


@needs_compiler
@torch.no_grad()
def test_what_records_a_network_sees_torch() -> None:
    layer, image = WinogradConv(nn.Conv2d(32, 32, 3, padding=1), "relu"), torch.rand(1, 32, 24, 24)
    expected = layer(image)
    assert_close(torch.export.export(layer, (image,)).module()(image), expected, rtol=1e-3, atol=1e-4)
    assert_close(torch.compile(layer, backend="eager")(image), expected, rtol=1e-3, atol=1e-4)


@needs_compiler
@torch.no_grad()
def test_prepared_networks_are_copied_and_pickled() -> None:
    network: Any = prepare(tiny_network(tiny_recipe()))
    layer, image = WinogradConv(nn.Conv2d(32, 32, 3, padding=1)), torch.rand(1, 32, 24, 24)
    expected = layer(image)
    network.extra = layer
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert same.extra._packed is None
        assert torch.equal(same.extra(image), expected)


@needs_compiler
def test_odd_numbers_of_channels_do_not_fit(built: Kernels) -> None:
    assert built.supports_3x3(64, 256)
    assert not built.supports_3x3(33, 64)
    assert not built.supports_3x3(64, 33)
    assert not built.supports_3x3(16, 64)


@needs_compiler
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
    ready: Any = prepare(plain)
    blocks = [module for module in ready.modules() if isinstance(module, FusedResidual)]
    assert len(blocks) == {"resnet18": 8, "resnet50": 16}[name]
    assert not any(isinstance(module, nn.ReLU) for block in blocks for module in block.shortcut.modules())
    images = torch.rand(2, 3, 96, 160)
    for found, expected in zip(ready(images), plain(images), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@needs_compiler
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
    for found, expected in zip(prepare(plain)(images), plain(images), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@torch.no_grad()
def test_without_c_wide_convolutions_of_residual_blocks_still_take_winograds_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "kernels", lambda: None)
    ready: Any = prepare(build_backbone(BackboneSettings("resnet34")).eval())
    wide = [module for module in ready.modules() if isinstance(module, WinogradConv)]
    assert len(wide) == 11 + 5  # of the stages of 256 and 512 channels, but for the two with stride
    assert not any(isinstance(module, FusedResidual) for module in ready.modules())


@needs_compiler
@torch.no_grad()
def test_a_norm_that_comes_twice_stands_between_twice() -> None:
    norm = nn.BatchNorm2d(192, affine=False).eval()
    norm.running_mean.fill_(0.5)
    plain = nn.Sequential(norm, nn.Conv2d(192, 192, 1), norm, nn.ReLU()).eval()
    images = torch.rand(1, 192, 20, 20)
    assert_close(prepare(plain)(images), plain(images), rtol=1e-4, atol=1e-4)


@needs_compiler
@torch.no_grad()
def test_pyramids_add_the_coarser_map_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = FPN([24, 40, 48], [4, 8, 16], FPNSettings(channels=64)).eval()
    ready: Any = prepare(plain)
    assert all(isinstance(lateral, PointwiseConv) for lateral in ready.lateral)
    maps = [map_of(1, 24, 33, 47), map_of(1, 40, 17, 24), map_of(1, 48, 9, 12)]
    expected = plain(maps)
    monkeypatch.setattr(kernels, "MIN_CELLS", 1)
    for found, same in zip(ready(maps), expected, strict=True):
        assert_close(found, same, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(kernels, "MIN_CELLS", 10**6)  # by torch
    for found, same in zip(ready(maps), expected, strict=True):
        assert_close(found, same, rtol=1e-3, atol=1e-3)


@needs_compiler
@torch.no_grad()
@pytest.mark.parametrize(
    ("activation", "taken"), [(nn.ReLU, True), (nn.ReLU6, True), (nn.Hardswish, True), (nn.GELU, False)]
)
def test_the_activation_after_a_1x1_convolution_is_taken_along(activation: Any, taken: bool) -> None:
    plain = nn.Sequential(
        nn.Conv2d(24, 192, 1), nn.BatchNorm2d(192), activation(), nn.Conv2d(192, 8, 1)
    ).eval()
    ready: Any = prepare(plain)
    assert isinstance(ready[0], PointwiseConv)
    assert isinstance(ready[2], nn.Identity if taken else activation)
    images = 3 * torch.randn(2, 24, 20, 30)
    assert_close(ready(images), plain(images), rtol=1e-4, atol=1e-4)


@needs_compiler
@torch.no_grad()
def test_a_1x1_convolution_falls_back_on_torch() -> None:
    plain = nn.Conv2d(32, 192, 1)
    layer, images = PointwiseConv(plain, "relu"), torch.randn(2, 32, 20, 30)
    assert_close(layer(images), plain(images).relu())
    for given in (images[:1, :, :2, :2], images[0]):  # tiny; without a batch
        assert torch.equal(layer(given), plain(given).relu())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(images), plain(images).relu())
    with torch.enable_grad():
        assert layer(images).requires_grad
    assert_close(torch.export.export(layer, (images,)).module()(images), layer(images))
    assert copy.deepcopy(layer)._packed is None
