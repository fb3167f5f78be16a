"""Winograd's convolution in C, compiled on the machine it runs on, for prediction.

``ops/winograd.c`` does what ``rcnn.ops.winograd`` does with torch alone, with vectors of the CPU's full width
and in turns that its caches hold. The C compiler of the system builds it in about a second; the library is
kept in the cache folder. Without a compiler or AVX, and elsewhere than on Linux, torch's way is taken: the
results are the same up to rounding. ``RCNN_COMPILE=0`` forbids it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from rcnn.download import cache_folder
from rcnn.ops import winograd

SOURCE = Path(__file__).parent / "ops" / "winograd.c"
# For the very CPU it runs on. gcc's OpenMP is the one whose threads torch has already.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
# The smallest that were measured; it was the quicker way for them, too.
LEAST_CHANNELS = 32
LEAST_TILES = 12

_log = logging.getLogger(__name__)


class Convolution:
    """The 3x3 convolution of a compiled library.

    Args:
        path: of the library.

    Raises:
        OSError: it cannot be loaded, or computes something else.
    """

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        try:
            self._convolve, lanes, wide = (
                getattr(library, f"rcnn_winograd{name}") for name in ("", "_lanes", "_wide")
            )
        except AttributeError as error:
            raise OSError(f"{path}: {error}") from error
        number, pointer, count = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        self._convolve.argtypes = (
            pointer, number, number, number, number, pointer, pointer, number, count, pointer, count,
        )  # fmt: skip
        self.lanes, self.wide = int(lanes()), int(wide())
        if not self._is_right():
            raise OSError(f"{path}: its results are wrong")

    @torch.no_grad()
    def _is_right(self) -> bool:
        generator = torch.Generator().manual_seed(0)
        images, kernels = (
            torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            for shape in ((2, 64, 9, 14), (64, 64, 3, 3))
        )
        with torch.autocast("cpu", enabled=False):
            expected = functional.conv2d(images, kernels, padding=1)
            return torch.allclose(self(images, self.pack(kernels)), expected, rtol=1e-3, atol=1e-2)

    def fits(self, channels: int, kernels: int) -> bool:
        """Whether it computes, and quicker than torch, a convolution of so many channels and kernels."""
        return (
            min(channels, kernels) >= LEAST_CHANNELS
            and channels % self.lanes == 0
            and kernels % self.wide == 0
        )

    def pays(self, images: Tensor) -> bool:
        """Whether it is the quicker way for these maps ``[B, C, H, W]``, and can be taken for them.

        They are float32 on a CPU and not tiny, and nobody records what is done to them.
        """
        if images.ndim != 4 or type(images) is not Tensor:
            return False
        batch, _, height, width = images.shape
        return (
            images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
            and batch * -(-height // 4) * -(-width // 4) >= LEAST_TILES
        )

    def pack(self, kernels: Tensor) -> Tensor:
        """``[36, K / wide, C, wide]`` of kernels ``[K, C, 3, 3]``, for :meth:`__call__`."""
        count, channels = kernels.shape[:2]
        points = winograd.transform_kernels(kernels).view(36, count // self.wide, self.wide, channels)
        return points.transpose(2, 3).contiguous()

    def __call__(
        self, images: Tensor, packed: Tensor, bias: Tensor | None = None, *, relu: bool = False
    ) -> Tensor:
        """As :func:`rcnn.ops.winograd.convolve`, with kernels of :meth:`pack`; float32, not for autograd.

        Raises:
            ValueError: sizes or types do not go together.
            MemoryError: there is no memory for it.
        """
        batch, channels, height, width = images.shape
        threads, count = torch.get_num_threads(), packed.shape[1] * self.wide
        given = [images, packed] if bias is None else [images, packed, bias]
        if packed.shape[2] != channels or {(t.dtype, t.device.type) for t in given} != {
            (torch.float32, "cpu")
        }:
            raise ValueError(
                f"maps {list(images.shape)} of {images.dtype} on {images.device}: expected {packed.shape[2]} "
                "channels, and everything in float32 on the CPU"
            )
        maps, shift = images.permute(0, 2, 3, 1).contiguous(), None if bias is None else bias.contiguous()
        output = images.new_empty((batch, height, width, count))
        if output.numel() and self._convolve(
            maps.data_ptr(), batch, height, width, channels, packed.data_ptr(),
            None if shift is None else shift.data_ptr(), count, relu, output.data_ptr(), threads,
        ):  # fmt: skip
            raise MemoryError(f"no memory for a convolution of maps {list(images.shape)}")
        return output.permute(0, 3, 1, 2)


@functools.cache
def convolution() -> Convolution | None:
    """The compiled convolution of this machine; None where it is not to be had, torch then does without."""
    if not sys.platform.startswith("linux") or os.environ.get("RCNN_COMPILE") == "0":
        return None
    try:
        return build(_own_folder())
    except Exception as error:  # whatever it is: a prediction must not fail for want of speed
        _log.info("convolutions are not compiled, torch computes them: %s", error)
        return None


def build(folder: Path | None, flags: tuple[str, ...] = FLAGS) -> Convolution:
    """The library in a folder, compiled into it if need be; without a folder for this process alone.

    Raises:
        OSError: there is no compiler that succeeds, or what it made does not work.
    """
    source = SOURCE.read_bytes()
    key = b"\0".join([source, *(text.encode() for text in (*flags, platform.machine(), *_cpu()))])
    name = f"winograd-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if folder is not None and (folder / name).is_file():
        try:
            return Convolution(folder / name)
        except OSError as error:
            _log.info("%s; it is built anew", error)
            (folder / name).unlink(missing_ok=True)
    compilers = filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc")))
    failures = []
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        built = Path(inside) / name
        for compiler in compilers:
            try:
                _compile(compiler, flags, built)
                found = Convolution(built)
            except OSError as error:
                failures.append(str(error))
                continue
            # Of processes that do the same at once the first one's stays: others may have loaded it.
            if folder is not None and not (folder / name).exists():
                with contextlib.suppress(OSError):
                    built.replace(folder / name)
            return found
    raise OSError("; ".join(failures) or "there is no C compiler (cc, gcc)")


def _compile(compiler: str, flags: tuple[str, ...], library: Path) -> None:
    command = [compiler, *flags, "-o", str(library), str(SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{compiler} does not end") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip()
        raise OSError(f"{compiler} failed: {said[-500:]}") from error


def _own_folder() -> Path | None:
    """Where libraries are kept: a part of the cache folder that nobody else can write to, or nowhere."""
    try:
        folder = (cache_folder() / "compiled").resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError) as error:  # the latter without a home
        _log.info("what is compiled cannot be kept: %s", error)
        return None
    owned = state.st_uid == os.getuid() and not state.st_mode & 0o022
    return folder if owned and os.access(folder, os.W_OK) else None


def _cpu() -> list[str]:
    """What tells this CPU from others that share the cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [next((line for line in lines if line.startswith(kind)), "") for kind in ("model name", "flags")]
