"""The group of processes that work on one thing: how they meet, agree, share work, and end together.

Every function works in a single process, too. There are two groups of the same processes. In the first one
they compute together, step by step: whoever does not answer for a while is lost. In the second one they wait
for each other: before each step, say, or for the first process while it measures and writes a report. As long
as all are alive (``rcnn.processes.pulse``), that may take hours.

**Law:** what is reduced in the first group comes right after a wait in the second one, or in the same step,
so that no pause of a process, only its computing, counts there.

A process that is lost is not replaced, and gloo lets none rejoin: the others stop, within seconds if it was
killed, within a minute if it was stopped or hangs, and all are started again.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from rcnn.device import choose_device, exact_float
from rcnn.processes.launch import Launch, launched
from rcnn.processes.pulse import SILENT, pulse, reason_of_loss, wait_for

T = TypeVar("T")

JOIN_SECONDS = 300.0
ANSWER_SECONDS = 60.0
PATIENCE = timedelta(hours=12)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h

_waiting: dict[Any, Any] = {}  # the second group of each first one
_limits: dict[Any, tuple[float, float]] = {}  # of groups made here: seconds of first steps, and of later ones
_lost: set[str] = set()  # how other processes of the group were lost


def join(*, join_seconds: float = JOIN_SECONDS, answer_seconds: float = ANSWER_SECONDS) -> None:
    """Join the processes that this one was started with, if there are any.

    A group that exists already, such as Ray Train's, is taken as it is, and left to who made it.

    Args:
        join_seconds: how long to wait for the others to start.
        answer_seconds: after which a process that does not answer counts as lost.

    Raises:
        ValueError: the others did not come in time, or fewer GPUs than processes.
    """
    launch = launched()
    limits = max(join_seconds, answer_seconds), answer_seconds
    if dist.is_initialized():
        _second_group()
        if dist.group.WORLD in _limits:
            _limits[dist.group.WORLD] = limits
        return
    if launch is None:
        return
    _end_with_launcher()
    if torch.cuda.is_available():
        torch.cuda.set_device(_own_gpu(launch))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = _store(launch, timedelta(seconds=join_seconds))
        dist.init_process_group(
            backend, store=store, rank=launch.rank, world_size=launch.size,
            timeout=timedelta(seconds=limits[0]),
        )  # fmt: skip
        _limits[dist.group.WORLD] = limits
        _second_group()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"process {launch.rank} of {launch.size}: the others were not there within {join_seconds:g} s at "
            f"{launch.address}:{launch.port} ({reason}); start all of them at about the same time, with "
            "torchrun or srun, or give them longer with --join-timeout"
        ) from error
    atexit.register(_leave)


def _leave() -> None:
    """End the threads of the group before the interpreter ends, which would abort the process otherwise."""
    if SILENT not in _lost:  # else its threads wait, for hours, and would be waited for
        _waiting.clear()
    waits = bool(_lost) and torch.cuda.is_available()  # NCCL would wait for the process that is lost
    if dist.is_initialized() and not waits:
        dist.destroy_process_group()


def _store(launch: Launch, patience: timedelta) -> Any:
    """Where the processes meet: torchrun brings one, under srun the first process does."""
    place = "env://" if launch.by == "torchrun" else f"tcp://{launch.address}:{launch.port}"
    known = {} if launch.by == "torchrun" else {"rank": launch.rank, "world_size": launch.size}
    store, _, _ = next(rendezvous(place, timeout=patience, **known))
    store.set_timeout(patience)
    # torchrun's store outlives a restart and keeps the addresses of processes that were killed. Of several
    # machines each counts its own restarts, so that they could not agree on a name.
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(launch.size)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT") if launch.by == "torchrun" else None
    if restart is None or not one_machine:
        return store
    return dist.PrefixStore(f"rcnn-{restart}", store)  # type: ignore[attr-defined]


def _second_group() -> Any:
    """The group in which the processes wait for each other; all of them make it at the same time."""
    first = dist.group.WORLD
    if first not in _waiting:
        _waiting[first] = dist.new_group(backend="gloo", timeout=PATIENCE)
    return _waiting[first]


def limit_steps(*, first: bool) -> None:
    """Set how long a step waits for other processes, in a group that was made here.

    Args:
        first: whether kernels are chosen or compiled in the steps that follow, by one process for longer than
            by another: those may take as long as starting. All others may take as long as :func:`join` was
            told.
    """
    group = dist.group.WORLD
    if group in _limits:
        # torch before 2.14 has it under the other name alone.
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        set_timeout(timedelta(seconds=_limits[group][0 if first else 1]), group)


def _end_with_launcher() -> None:
    """Get SIGTERM when torchrun is killed, so that no training goes on without it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)


def rank() -> int:
    """The rank of this process; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process has reached this point, however long one of them works alone before it.

    Raises:
        LostProcessError: one of them is lost, and :func:`alive` noticed.
    """
    if world_size() > 1:
        wait_for(dist.barrier(group=_second_group(), async_op=True))


def process_device(name: str | None) -> torch.device:
    """The device of this process: each has a GPU of its own, or all work on their CPUs.

    Args:
        name: ``cpu``; ``cuda``: the GPU of the local rank; one name per local rank, separated by commas;
            None: a GPU if there is one.

    Raises:
        ValueError: the device does not exist here, or several processes of a machine would share it.
    """
    launch = launched()
    if world_size() == 1 or launch is None:
        return choose_device(name)
    if name is not None and "," in name:
        names = [each.strip() for each in name.split(",")]
        if launch.local_rank >= len(names):
            raise ValueError(
                f"--device {name}: {len(names)} devices, but this is process {launch.local_rank + 1} of its "
                "machine: give one per process"
            )
        return choose_device(names[launch.local_rank])
    if name is None or name == "cuda":
        wanted = name is not None or torch.cuda.is_available()
        return choose_device(f"cuda:{_own_gpu(launch)}" if wanted else "cpu")
    device = choose_device(name)
    if device.type == "cuda" and any(gathered(launch.local_rank)):
        raise ValueError(
            f"--device {name}: every process of a machine would use it: give --device cuda, which is another "
            "GPU for each, or one name per process, separated by commas"
        )
    return device


def _own_gpu(launch: Launch) -> int:
    """The number of the GPU of this process."""
    count = torch.cuda.device_count()
    if count <= 1:
        return 0  # SLURM shows each process its own alone (--gpus-per-task=1)
    if launch.local_rank >= count:
        raise ValueError(
            f"process {launch.local_rank + 1} of this machine has no GPU: there are {count}; start as many "
            "processes as there are GPUs, or use --device cpu"
        )
    return launch.local_rank


def from_first_process(make: Callable[[], T]) -> T:
    """The value that the first process makes, in all of them; likewise what is raised there.

    Raises:
        ValueError: or OSError: what ``make`` raised.
    """
    if world_size() == 1:
        return make()
    shared: list[T | Exception | None] = [None]
    if rank() == 0:
        try:
            shared = [make()]
        except (ValueError, OSError) as error:
            shared = [error]
    barrier()
    dist.broadcast_object_list(shared, group=_second_group())
    value = shared[0]
    if isinstance(value, Exception):
        raise value
    return value  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks, in all of them."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    barrier()
    dist.all_gather_object(values, value, group=_second_group())
    return values


def gathered_by_first(make: Callable[[], T]) -> list[T] | None:
    """What each process makes, in the order of their ranks, in the first one; None in the others.

    Raises:
        ValueError: or OSError: what ``make`` raised in one of them, in all of them.
    """
    made: T | None = None
    failed: Exception | None = None
    try:
        made = make()
    except (ValueError, OSError) as error:
        failed = error
    for other in gathered(failed):
        if other is not None:
            raise other
    if world_size() == 1:
        return [made]  # type: ignore[list-item]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(made, values, group=_second_group())
    return values


def mean_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """The mean of each number over all processes, in one reduction, so that they make the same decisions."""
    if world_size() == 1:
        return list(values)
    barrier()
    # NCCL takes tensors on a GPU only.
    stacked = torch.tensor(values, dtype=exact_float(device), device=device)
    dist.all_reduce(stacked)
    means: list[float] = (stacked / world_size()).tolist()
    return means


@contextmanager
def alive(seconds: float) -> Iterator[None]:
    """Inside, a process that is stopped, hangs or ends is noticed by the others, whatever they wait for.

    All of them enter it, at any time, and leave it.

    Args:
        seconds: without an answer, after which a process counts as lost.
    """
    barrier()  # of several trainings in one script, the first process may come later to the next
    with pulse(seconds) if world_size() > 1 else nullcontext():
        yield


@contextmanager
def lost_is_explained(advice: str) -> Iterator[None]:
    """Inside, torch's error about a lost process becomes one sentence.

    Raises:
        ValueError: another process of the group is lost.
    """
    try:
        yield
    except RuntimeError as error:
        lost = lost_process(error)
        if lost is None:
            raise
        raise ValueError(f"{lost}; {advice}") from error


def lost_process(error: BaseException) -> str | None:
    """What an error of torch says in one sentence, if it is that another process of the group is lost."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return None
    reason = reason_of_loss(error)
    if reason is None:
        return None
    _lost.add(reason)
    return f"process {rank()} stops, because {reason}"
