"""Several processes that train one model (``torchrun``): how they start and agree.

Every function works in a single process, too. ``rcnn.device`` has ``rank`` and ``barrier``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from rcnn.device import choose_device, rank

T = TypeVar("T")

# The other processes wait while the first one evaluates and writes the report.
TIMEOUT = timedelta(hours=12)


def join_torchrun() -> None:
    """Join the process group if this process was started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def process_device(name: str | None) -> torch.device:
    """The named device; without a name this process's GPU, or the CPU.

    Raises:
        ValueError: the device does not exist here.
    """
    own = f"cuda:{_local_rank()}" if torch.cuda.is_available() else None
    return choose_device(name or own)


def from_first_process(make: Callable[[], T]) -> T:
    """The value that the first process makes, in all of them; likewise what is raised there.

    Raises:
        ValueError: or OSError: what ``make`` raised.
    """
    shared: list[T | Exception | None] = [None]
    if rank() == 0:
        try:
            shared = [make()]
        except (ValueError, OSError) as error:
            shared = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    value = shared[0]
    if isinstance(value, Exception):
        raise value
    assert value is not None
    return value


def lost_process(error: Exception) -> ValueError | None:
    """What an error of torch says in one sentence, if it is that another process of the run has ended."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    if world_size() == 1 or not any(word in str(error) for word in words):
        return None
    return ValueError(f"process {rank()} stops, because another process of the run has ended")


def mean_over_processes(value: float, device: torch.device) -> float:
    """The mean over all processes, so that they make the same decisions."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=device)  # NCCL takes tensors on a GPU only
    dist.all_reduce(tensor)
    return float(tensor) / world_size()


def gather_names(names: Sequence[str]) -> list[str]:
    """The names of all processes, in the order of their ranks."""
    if world_size() == 1:
        return list(names)
    parts: list[list[str]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, list(names))
    return [name for part in parts for name in part]


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
