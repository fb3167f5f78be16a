"""Winograd's convolution in C, compiled on the machine it runs on, for prediction.

``ops/winograd.c`` does what ``rcnn.ops.winograd`` does with torch alone, with vectors of the CPU's full width
and in turns that its caches hold. The C compiler of the system builds it within a second, once; the library
is kept in the cache folder. Where there is no compiler, or the CPU has no AVX, torch's way is taken: the
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
# For the very CPU it runs on. OpenMP is the one whose threads torch has already.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
LEAST_CHANNELS = 32  # of what was measured the least; it was quicker there already
LEAST_TILES = 12

_log = logging.getLogger(__name__)


class Convolution:
    """The 3x3 convolutions of one compiled library.

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
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((2, 64, 9, 14), generator=generator)
        kernels = torch.randn((64, 64, 3, 3), generator=generator)
        found = self(images, self.pack(kernels))
        if not torch.allclose(found, functional.conv2d(images, kernels, padding=1), rtol=1e-3, atol=1e-2):
            raise OSError(f"{path}: its results are wrong")

    def fits(self, channels: int, kernels: int) -> bool:
        """Whether it computes, and quicker than torch, a convolution of so many channels and kernels."""
        return (
            min(channels, kernels) >= LEAST_CHANNELS
            and channels % self.lanes == 0
            and kernels % self.wide == 0
        )

    def pays(self, images: Tensor) -> bool:
        """Whether it is the quicker way for these maps ``[B, C, H, W]``: float32 and not tiny."""
        batch, _, height, width = images.shape
        return (
            images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
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
        """As :func:`rcnn.ops.winograd.convolve`, with kernels of :meth:`pack`; float32, not for autograd."""
        batch, channels, height, width = images.shape
        threads, count = torch.get_num_threads(), packed.shape[1] * self.wide
        maps = images.permute(0, 2, 3, 1).contiguous()
        output = images.new_empty((batch, height, width, count))
        if output.numel() and self._convolve(
            maps.data_ptr(), batch, height, width, channels, packed.data_ptr(),
            None if bias is None else bias.data_ptr(), count, relu, output.data_ptr(), threads,
        ):  # fmt: skip
            raise MemoryError(f"no memory for a convolution of maps {list(images.shape)}")
        return output.permute(0, 3, 1, 2)


@functools.cache
def convolution() -> Convolution | None:
    """The compiled convolution of this machine; None where it is not to be had, torch then does without."""
    if not sys.platform.startswith("linux") or os.environ.get("RCNN_COMPILE") == "0":
        return None
    try:
        return build(cache_folder())
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("convolutions are not compiled, torch computes them: %s", error)
        return None


def build(folder: Path, flags: tuple[str, ...] = FLAGS) -> Convolution:
    """Compile the convolution into a folder, unless it is there; it works, too, if that cannot be written.

    Raises:
        OSError: there is no compiler, or what it made does not work.
        subprocess.SubprocessError: no compiler succeeds or ends.
    """
    source = SOURCE.read_bytes()
    machine = [platform.machine(), *_cpu()]
    digest = hashlib.sha256(b"\0".join([source, *(text.encode() for text in (*flags, *machine))])).hexdigest()
    path = folder / f"winograd-{digest[:16]}.so"
    if path.is_file():
        try:
            return Convolution(path)
        except OSError as error:
            _log.info("%s; it is built anew", error)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder)
    except OSError:
        place = tempfile.TemporaryDirectory()
    with place as inside:
        built = Path(inside) / path.name
        _compile(built, flags)
        found = Convolution(built)
        # In one step, as other processes may do the same; what is loaded stays loaded if it cannot be kept.
        with contextlib.suppress(OSError):
            built.replace(path)
    return found


def _compile(library: Path, flags: tuple[str, ...]) -> None:
    """Run the first compiler that succeeds."""
    failure: Exception = OSError("there is no C compiler (cc, gcc, clang)")
    for compiler in filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))):
        try:
            subprocess.run(
                [compiler, *flags, "-o", str(library), str(SOURCE)],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            failure = error
        else:
            return
    raise failure


def _cpu() -> list[str]:
    """What tells this CPU from others that share the cache folder: the first lines of its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [
        next((line for line in lines if line.startswith(kind)), "")
        for kind in ("model name", "flags", "Features")
    ]
