"""What is asked of the machine: memory that is kept, half precision where it pays."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rcnn import device as hardware
from rcnn.device import (
    auto_precision,
    autocast,
    choose_device,
    depthwise_fraction,
    exact_float,
    fast_bfloat16,
    has_own_memory,
    keep_freed_memory,
    return_freed_memory,
    training_precision,
)


class Glibc:
    """Notes what ``mallopt`` is asked for."""

    def __init__(self) -> None:
        self.asked: dict[int, int] = {}

    def gnu_get_libc_version(self) -> bytes:
        return b"2.40"

    def mallopt(self, option: int, value: int) -> int:
        self.asked[option] = value
        return 1


class OtherLibrary:
    """A C library without ``mallopt``, such as musl."""


def test_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Glibc()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    # malloc.h: M_TRIM_THRESHOLD -1, M_TOP_PAD -2, M_MMAP_THRESHOLD -3, which is refused above 32 MiB.
    assert library.asked.keys() == {-1, -2, -3}
    assert library.asked[-3] == 32 * 1024 * 1024
    assert all(0 < value < 2**31 for value in library.asked.values()), "a C int"


def test_glibc_accepts_the_values() -> None:
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("needs glibc")
    assert ctypes.CDLL(None).mallopt(hardware._M_MMAP_THRESHOLD, 32 * 2**20) == 1
    keep_freed_memory()
    keep_freed_memory()


def test_freed_memory_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    monkeypatch.setattr(sys, "platform", "linux")
    return_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    return_freed_memory()
    assert asked == [0]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_other_libraries_are_left_alone(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    if platform == "linux":
        monkeypatch.setattr(ctypes, "CDLL", lambda name: OtherLibrary())
    else:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("looked for the C library"))
    keep_freed_memory()


@pytest.mark.parametrize(
    ("matrix_units", "dot_products", "fast"),
    [(True, True, True), (False, True, True), (False, False, False)],
)
def test_a_cpu_is_fast_in_bfloat16_with_instructions_for_it(
    matrix_units: bool, dot_products: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dot_products)
    assert fast_bfloat16(torch.device("cpu")) is fast


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return supported or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert fast_bfloat16(torch.device("cuda:1")) is supported


def test_other_devices_stay_in_full_precision() -> None:
    assert fast_bfloat16(torch.device("meta")) is False


DENSE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=2))
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))


@pytest.mark.parametrize(
    ("network", "matrix_units", "dot_products", "precision"),
    [
        (DENSE, True, True, "bf16"),
        (DENSE, False, True, "float32"),
        (DENSE, False, False, "float32"),
        (DEPTHWISE, True, True, "float32"),
        (nn.Linear(2, 2), True, True, "bf16"),
    ],
)
def test_prediction_takes_bfloat16_where_it_pays(
    network: nn.Module,
    matrix_units: bool,
    dot_products: bool,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: dot_products)
    assert auto_precision(torch.device("cpu"), network) == precision
    assert auto_precision(torch.device("meta"), network) == "float32"


def test_the_fraction_of_depthwise_convolutions() -> None:
    assert depthwise_fraction(DENSE) == 0
    assert depthwise_fraction(DEPTHWISE) == pytest.approx(1 / 3)
    assert depthwise_fraction(nn.Conv2d(1, 1, 3)) == 0, "a single channel is no group"


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for wrong in ("tpu", "cuda:99", "foo"):
        with pytest.raises(ValueError, match=f"device {wrong}: not available here"):
            choose_device(wrong)


def test_mps_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has neither float64, nor memory of its own that is read late, and trains in float32."""
    device = torch.device("mps")
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match=r"device mps: not available here .*use cpu"):
            choose_device("mps")
    made: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda *size, device: made.append(device))
    assert choose_device("mps") == device
    assert made == [device]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None).type == "cpu"
    assert exact_float(device) == torch.float32
    assert exact_float(torch.device("cuda")) == exact_float(torch.device("cpu")) == torch.float64
    assert not has_own_memory(device)
    assert training_precision(device) == auto_precision(device, DENSE) == "float32"
    with autocast(device, "float32"):
        assert not torch.is_autocast_enabled("mps")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_model_that_was_loaded_before_a_fork_works_in_the_child() -> None:
    """As gunicorn does with preload_app; the child waited for threads of its parent without end."""
    script = (
        "import os, rcnn\n"
        "detector, image = rcnn.load('nuclei'), rcnn.sample_images('nuclei')[0]\n"
        "before = len(detector.predict(image)[0])\n"
        "child = os.fork()\n"
        "found = len(detector.predict(image)[0])\n"
        "if child == 0: os._exit(0 if found == before > 0 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    paths = os.pathsep.join([str(Path(hardware.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    threads = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, "-c", script], env={**threads, "PYTHONPATH": paths}, check=True, timeout=120
    )
