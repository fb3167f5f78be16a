"""The compiled convolution against torch's; how it is built, kept, and done without."""

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
from rcnn.prepared import Winograd

needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or "AVX" not in torch.backends.cpu.get_cpu_capability()
    or not any(map(shutil.which, ("cc", "gcc", "clang"))),
    reason="needs Linux, AVX and a C compiler",
)
PLAIN = ("-O1", "-mavx2", "-mfma", "-fPIC", "-shared")
VARIANTS = {"this CPU": compiled.FLAGS, "AVX2, one thread": PLAIN}


@pytest.fixture(scope="module", params=VARIANTS)
def convolution(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled.build(tmp_path_factory.mktemp("built"), VARIANTS[request.param])


@pytest.fixture
def fresh() -> Iterator[None]:
    """The library is looked for anew, before and after."""
    compiled.convolution.cache_clear()
    yield
    compiled.convolution.cache_clear()


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
def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.build(tmp_path / "cache", PLAIN)
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(subprocess, "run", None)
    compiled.build(tmp_path / "cache", PLAIN)
    assert list((tmp_path / "cache").iterdir()) == [kept]


@needs_compiler
def test_a_compiler_that_fails_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    if not any(map(shutil.which, ("gcc", "clang"))):
        pytest.skip("needs gcc or clang by these names")
    compiled.build(tmp_path, PLAIN)
    assert len(list(tmp_path.iterdir())) == 1


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
def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert compiled.build(tmp_path / "file", PLAIN).wide == 16


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
        compiled.build(tmp_path / "cache", PLAIN)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("why", ["forbidden", "no compiler", "fails", "hangs"])
def test_without_a_library_torch_computes(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")

    def run(command: list[str], **_: Any) -> None:
        if why == "hangs":
            raise subprocess.TimeoutExpired(command, 60)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", run)
    if why == "forbidden":
        monkeypatch.setenv("RCNN_COMPILE", "0")
    monkeypatch.setattr(shutil, "which", lambda name: None if why == "no compiler" else name)
    assert compiled.convolution() is None
    plain = nn.Conv2d(256, 256, 3, padding=1)
    image = torch.rand(1, 256, 40, 40)
    with torch.no_grad():
        assert_close(Winograd(plain, relu=False)(image), plain(image), rtol=1e-3, atol=1e-4)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
@pytest.mark.usefixtures("fresh")
def test_prepared_convolutions_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))
    monkeypatch.delenv("RCNN_COMPILE", raising=False)
    plain = nn.Conv2d(64, 32, 3, padding=1)
    layer, image = Winograd(plain, relu=True), torch.rand(2, 64, 20, 30)
    monkeypatch.setattr("rcnn.ops.winograd.convolve", None)
    with torch.no_grad():
        assert_close(layer(image), plain(image).relu(), rtol=1e-3, atol=1e-4)
        small = image[:1, :, :8, :8]
        assert torch.equal(layer(small), plain(small).relu()), "a few tiles take the direct way"
        assert not torch.equal(layer(image), plain(image).relu()), "nothing was compiled"
        assert layer(image.bfloat16().float()).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(image), plain(image).relu())
    assert [file.suffix for file in tmp_path.iterdir()] == [".so"]


def test_odd_numbers_of_channels_do_not_fit() -> None:
    found = compiled.convolution()
    if found is None:
        pytest.skip("nothing is compiled here")
    assert found.fits(64, 256)
    assert not found.fits(33, 64)
    assert not found.fits(64, 33)
    assert not found.fits(16, 64)
