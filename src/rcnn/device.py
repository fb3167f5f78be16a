"""What the machine at hand can do, and settings of the process that make a CPU markedly faster."""

import ctypes
import os
import sys
from typing import Literal

import torch
from torch import nn

MAX_DEPTHWISE_FRACTION = 0.2

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
