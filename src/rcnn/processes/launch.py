"""How this process was started: alone, or as one of several by torchrun or by SLURM's ``srun``.

Only environment variables are read, and nothing heavy is imported. torchrun sets ``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT``; srun sets ``SLURM_PROCID``, ``SLURM_NTASKS`` and
``SLURM_LOCALID``, and the processes meet on the first node of its list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FIRST_PORT, PORTS = 20_000, 20_000  # where the processes of a SLURM job meet: one port per job


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        by: ``torchrun`` or ``srun``.
        rank: its number; the first one writes.
        size: the number of processes.
        local_rank: its number among those of this machine.
        address: where the first process listens.
        port: the port there.
    """

    by: str
    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """How this process was started; None if it works alone.

    Raises:
        ValueError: variables that are missing, are not numbers, or contradict each other.
    """
    if "WORLD_SIZE" in environment and "RANK" in environment:
        return _by_torchrun(environment)
    if "SLURM_PROCID" in environment:
        return _by_slurm(environment)
    return None


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    launch = launched()
    return launch is None or launch.rank == 0


def _by_torchrun(environment: Mapping[str, str]) -> Launch | None:
    size = _number(environment, "WORLD_SIZE")
    if size == 1:
        return None
    rank = _number(environment, "RANK")
    local = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else 0
    address, port = _given(environment, "MASTER_ADDR"), _number(environment, "MASTER_PORT")
    return _checked(Launch("torchrun", rank, size, local, address, port))


def _by_slurm(environment: Mapping[str, str]) -> Launch | None:
    # The number of the step is that of srun; the job may have asked for more.
    sizes = [name for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if name in environment]
    size = _number(environment, sizes[0]) if sizes else 1
    if size == 1:
        return None
    address = environment.get("MASTER_ADDR")
    if address is None:
        lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
        named = next((environment[name] for name in lists if environment.get(name)), None)
        if named is None:
            raise ValueError(
                "srun started this process without SLURM_JOB_NODELIST: set MASTER_ADDR to the name of the "
                "first machine"
            )
        address = first_host(named)
    port = (
        _number(environment, "MASTER_PORT")
        if "MASTER_PORT" in environment
        else FIRST_PORT + _number(environment, "SLURM_JOB_ID") % PORTS
        if "SLURM_JOB_ID" in environment
        else FIRST_PORT
    )
    rank, local = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_LOCALID")
    return _checked(Launch("srun", rank, size, local, address, port))


def _checked(launch: Launch) -> Launch:
    if launch.rank >= launch.size:
        raise ValueError(f"{launch.by} started process {launch.rank} of {launch.size}: ranks begin with 0")
    return launch


def _given(environment: Mapping[str, str], name: str) -> str:
    if name not in environment:
        raise ValueError(f"{name} is not set, although this is one of several processes: start with torchrun")
    return environment[name]


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _given(environment, name)
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"the environment variable {name} is {text!r}; expected a whole number")
    return int(text)


def first_host(nodes: str) -> str:
    """The first name of a SLURM list of nodes: ``gpu[03-05,9],login1`` is a list of five.

    Convention: ``gpu[03-05,9],login1`` begins with ``gpu03``.

    Raises:
        ValueError: a list that is not written as SLURM writes them.
    """
    host = next(_hosts(nodes), "")
    if not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError(f"the SLURM node list {nodes!r} begins with no name: set MASTER_ADDR")
    return host


def _hosts(nodes: str) -> Iterator[str]:
    """The first host of each entry, brackets replaced by the first number in them."""
    for entry in re.split(r",(?![^\[]*\])", nodes):
        yield re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", entry.strip())
