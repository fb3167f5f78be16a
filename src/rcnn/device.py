"""What the machine at hand can do, and settings of the process that make a CPU markedly faster."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

MAX_DEPTHWISE_FRACTION = 0.2
PINNING = ("cuda", "xpu")  # kinds of devices with memory of their own, which pinned memory is copied to
MEMORY_FORMAT = torch.channels_last  # of images, maps and kernels, on every device; docs/speed.md
WITHOUT_FLOAT64 = ("mps",)  # kinds of devices on which float64 does not exist
FLOAT16_CAPABILITY = (7, 0)  # Volta, the first with matrix units for float16

Arithmetic = Literal["bf16", "fp16", "float32"]
"""What is computed in; boxes, losses and weights are float32 in any."""

# glibc's names, malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory instead of handing it back to the system after every layer.

    A training step on a CPU frees and allocates the same hundreds of megabytes repeatedly; glibc's
    defaults return them each time, and the system clears every page again. Without this a step takes about
    a third longer. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the highest that glibc takes
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 256 * 2**20)


def return_freed_memory() -> None:
    """Hand back to the system what the allocator has kept of freed memory, all at once.

    Opening a large data set leaves many small holes, which a training would carry along to its end. Does
    nothing where the C library is not glibc.
    """
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if library is not None and hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def survive_fork() -> None:
    """Let forked processes compute, such as the workers of gunicorn with ``preload_app``; on one core each.

    The threads of OpenMP do not exist in a forked process, which would wait for them for ever. A single
    thread needs none of them.
    """
    if not _survives and hasattr(os, "register_at_fork"):
        _survives.append(True)
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


_survives: list[bool] = []


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; without a name a GPU if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that was built without CUDA
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(f"device {name}: not available here ({reason}); use cpu") from error
    return device


def exact_float(device: torch.device) -> torch.dtype:
    """The float type with the most digits that a device has."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def has_own_memory(device: torch.device) -> bool:
    """Whether a device has memory of its own, which pinned memory is copied to while the host goes on."""
    return device.type in PINNING


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device, without waiting for the device: from pinned memory, where it has its own.

    A copy from pageable memory lets the host wait until everything before it is done.
    """
    target = torch.device(device)
    if tensor.device.type != "cpu" or not has_own_memory(target):
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


def constant(values: tuple[Any, ...], like: Tensor) -> Tensor:
    """Numbers as a tensor of the type and on the device of ``like``, made once for each device."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
        return like.new_tensor(values)  # a graph has its own
    return constant_on(values, like.dtype, like.device)


@lru_cache(maxsize=256)
def constant_on(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As :func:`constant`."""
    with torch.inference_mode(False):  # so that those who train can use it, too
        return moved(torch.tensor(values, dtype=dtype), device)


class HostCopy:
    """Tensors on their way from a device to the host, which goes on meanwhile."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Begin to copy."""
        self._copies = [
            tensor.detach().to("cpu", non_blocking=has_own_memory(tensor.device)) for tensor in tensors
        ]
        kinds = {tensor.device.type for tensor in tensors if has_own_memory(tensor.device)} - {"meta"}
        self._arrived = [torch.Event(kind) for kind in kinds]
        for event in self._arrived:
            event.record()

    def wait(self) -> list[Tensor]:
        """The copies, once they are there."""
        for event in self._arrived:
            event.synchronize()
        return self._copies


def autocast(device: torch.device, precision: Arithmetic) -> contextlib.AbstractContextManager[Any]:
    """Computing in bfloat16 or float16 where that is safe, on this device; or in float32, nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions and products are markedly faster than float32 on this device.

    True for GPUs that have them and for CPUs with matrix units (AMX) or dot products (AVX512_BF16) for
    them; on other CPUs they are emulated and far slower.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def training_precision(device: torch.device) -> Arithmetic:
    """The precision that a network trains in where none is asked for.

    bfloat16 where it is fast; else float16 on GPUs with matrix units for it (V100, T4), whose small range
    needs scaled losses; else float32.
    """
    if fast_bfloat16(device):
        return "bf16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLOAT16_CAPABILITY:
        return "fp16"
    return "float32"


def auto_precision(device: torch.device, network: nn.Module) -> Literal["bf16", "float32"]:
    """The precision that a network predicts in where none is asked for.

    A fixed rule of the device's instructions and the network, measured (docs/speed.md), never a timing:
    bfloat16 on GPUs that have it and on CPUs with matrix units for it (AMX), for networks that are not
    dominated by depthwise convolutions, which gain little. On CPUs with dot products alone (AVX512_BF16) it
    is only a fifth faster than the compiled kernels in float32, which give the same results everywhere.
    """
    if device.type == "cuda":
        fast = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        fast = device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
    return "bf16" if fast and depthwise_fraction(network) <= MAX_DEPTHWISE_FRACTION else "float32"


def depthwise_fraction(network: nn.Module) -> float:
    """The fraction of a network's convolutions that are depthwise: each channel by itself."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    depthwise = [conv for conv in convolutions if conv.groups == conv.in_channels > 1]
    return len(depthwise) / max(1, len(convolutions))
