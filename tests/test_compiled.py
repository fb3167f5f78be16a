"""The compiled convolution against torch's; how it is built, kept, and done without."""

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
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn import compiled
from rcnn.prepared import Winograd, prepare
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
def convolution(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled.build(tmp_path_factory.mktemp("built"), VARIANTS[request.param])


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is looked for anew, in a cache of its own."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.delenv("RCNN_COMPILE", raising=False)
    compiled.convolution.cache_clear()
    yield
    compiled.convolution.cache_clear()


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
    convolution: Any, batch: int, channels: int, kernels: int, height: int, width: int, relu: bool
) -> None:
    generator = torch.Generator().manual_seed(height)
    images = torch.randn((batch, channels, height, width), generator=generator)
    weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((kernels, channels, 3, 3), (kernels,))
    )
    expected = functional.conv2d(images, weight, bias, padding=1)
    expected = expected.relu() if relu else expected
    packed = convolution.pack(weight)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = convolution(given, packed, bias, relu=relu)
        assert_close(found, expected, rtol=1e-4, atol=2e-4 * channels**0.5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(
        convolution(images, packed), functional.conv2d(images, weight, padding=1), rtol=1e-4, atol=2e-3
    )


@needs_compiler
def test_what_is_not_a_number_stays_so(convolution: Any) -> None:
    images = torch.zeros(1, 32, 8, 8)
    images[0, 0, 0, 0] = torch.nan
    found = convolution(images, convolution.pack(torch.ones(32, 32, 3, 3)), relu=True)
    assert found[0, :, 0, 0].isnan().all()
    assert not found[0, :, 4:, 4:].isnan().any()


@needs_compiler
def test_what_does_not_go_together_is_refused(convolution: Any) -> None:
    images, packed = torch.zeros(1, 32, 8, 8), convolution.pack(torch.ones(32, 32, 3, 3))
    with pytest.raises(ValueError, match="expected 32 channels"):
        convolution(torch.zeros(1, 64, 8, 8), packed)
    with pytest.raises(ValueError, match="float32"):
        convolution(images.double(), packed)
    with pytest.raises(ValueError, match="float32"):
        convolution(images, packed, torch.zeros(32, dtype=torch.float64))
    bias = torch.arange(64.0)[::2]
    assert torch.equal(convolution(images, packed, bias)[0, :, 0, 0], bias)


@needs_compiler
def test_it_is_built_once_for_each_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.build(tmp_path, PLAIN)
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", None)
        compiled.build(tmp_path, PLAIN)
        assert list(tmp_path.iterdir()) == [kept]
    monkeypatch.setattr(compiled, "_cpu", lambda: ["another"])
    compiled.build(tmp_path, PLAIN)
    assert len(list(tmp_path.iterdir())) == 2


@needs_compiler
def test_a_compiler_that_fails_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc by this name")
    monkeypatch.setenv("CC", "false")
    compiled.build(tmp_path, PLAIN)
    assert len(list(tmp_path.iterdir())) == 1


@needs_compiler
def test_what_the_compiler_says_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-option"):
        compiled.build(tmp_path, (*PLAIN, "--no-such-option"))


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"no library"])
def test_a_damaged_library_is_built_anew(tmp_path: Path, damage: bytes) -> None:
    compiled.build(tmp_path, PLAIN)
    (kept,) = tmp_path.iterdir()
    kept.unlink()  # what is loaded must not be written to
    kept.write_bytes(damage)
    compiled.build(tmp_path, PLAIN)
    assert list(tmp_path.iterdir()) == [kept]
    assert len(kept.read_bytes()) > 1000


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new"), [("4 * d[0] - 5 * d[2]", "4 * d[0] - 4 * d[2]"), ("int rcnn_winograd(", "int other(")]
)
def test_a_library_that_does_something_else_is_not_used(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "winograd.c"
    text = compiled.SOURCE.read_text()
    assert old in text
    source.write_text(text.replace(old, new))
    monkeypatch.setattr(compiled, "SOURCE", source)
    with pytest.raises(OSError, match=r"wrong|undefined symbol"):
        compiled.build(tmp_path, PLAIN)
    assert list(tmp_path.iterdir()) == [source]


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
        compiled.build(folder)
        (planted,) = folder.iterdir()
        planted.write_text("never to be looked at")
    else:
        monkeypatch.delenv("RCNN_CACHE")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert compiled.convolution() is not None
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
        monkeypatch.setattr(compiled, "build", lambda _: pytest.fail("it was built"))
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else name)
    assert compiled.convolution() is None
    plain = nn.Conv2d(256, 256, 3, padding=1)
    image = torch.rand(1, 256, 40, 40)
    with torch.no_grad():
        assert_close(Winograd(plain, relu=False)(image), plain(image), rtol=1e-3, atol=1e-4)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@needs_compiler
@pytest.mark.usefixtures("fresh")
@torch.no_grad()
def test_prepared_convolutions_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Conv2d(64, 32, 3, padding=1)
    layer, image = Winograd(plain, relu=True), torch.rand(2, 64, 20, 30)
    monkeypatch.setattr("rcnn.ops.winograd.convolve", None)
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
@pytest.mark.parametrize("state", ["float64", "bfloat16", "autocast"])
def test_the_state_of_torch_does_not_matter(state: str) -> None:
    before = torch.get_default_dtype()
    try:
        if state != "autocast":
            torch.set_default_dtype(getattr(torch, state))
        with torch.autocast("cpu", torch.bfloat16, enabled=state == "autocast"):
            assert compiled.convolution() is not None
    finally:
        torch.set_default_dtype(before)


@needs_compiler
def test_gradients_pass_through() -> None:
    plain = nn.Conv2d(32, 32, 3, padding=1)
    image = torch.rand(1, 32, 24, 24, requires_grad=True)
    (found,) = torch.autograd.grad(Winograd(plain, relu=False)(image).sum(), image)
    (expected,) = torch.autograd.grad(plain(image).sum(), image)
    assert_close(found, expected)


@needs_compiler
@torch.no_grad()
def test_what_records_a_network_sees_torch() -> None:
    layer, image = Winograd(nn.Conv2d(32, 32, 3, padding=1), relu=True), torch.rand(1, 32, 24, 24)
    expected = layer(image)
    assert_close(torch.export.export(layer, (image,)).module()(image), expected, rtol=1e-3, atol=1e-4)
    assert_close(torch.compile(layer, backend="eager")(image), expected, rtol=1e-3, atol=1e-4)


@needs_compiler
@torch.no_grad()
def test_prepared_networks_are_copied_and_pickled() -> None:
    network: Any = prepare(tiny_network(tiny_recipe()))
    layer, image = Winograd(nn.Conv2d(32, 32, 3, padding=1), relu=False), torch.rand(1, 32, 24, 24)
    expected = layer(image)
    network.extra = layer
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert same.extra._kernels is None
        assert torch.equal(same.extra(image), expected)


@needs_compiler
def test_odd_numbers_of_channels_do_not_fit(convolution: Any) -> None:
    assert convolution.fits(64, 256)
    assert not convolution.fits(33, 64)
    assert not convolution.fits(64, 33)
    assert not convolution.fits(16, 64)
