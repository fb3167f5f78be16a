"""Real groups of processes on this machine, as ``srun`` starts them; every wait is bounded."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rcnn

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "import sys; from rcnn.cli import main; sys.exit(main())"]


def environment(**more: str) -> dict[str, str]:
    """The environment of a new process, which finds the package and the helpers of the tests."""
    paths = [str(Path(rcnn.__file__).parents[1]), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    return {**os.environ, **own, **more}


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def wait_for(
    ready: Callable[[], bool], processes: Sequence[subprocess.Popen[str]] = (), seconds: float = 300
) -> None:
    """Wait until something is so; fails where that takes too long, or a process ends before."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "too late"
        for process in processes:
            if process.poll() is not None:
                raise AssertionError(process.communicate())
        time.sleep(0.02)


def called(words: str) -> set[int]:
    """The processes with these words in their command line."""
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            if words.encode() in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


class Group:
    """Two processes of one command; a context manager that ends what is left of them."""

    def __init__(self, words: Sequence[str], folders: Sequence[Path], **more: str) -> None:
        """Start a process in each folder: on its own machine, as far as files go."""
        shared = {
            "SLURM_NTASKS": str(len(folders)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        self.processes = [
            subprocess.Popen(
                list(words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
                env=environment(**shared, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **more),
            )
            for rank, folder in enumerate(folders)
        ]  # fmt: skip

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def ended(self, seconds: float = 300) -> list[tuple[int, str, str]]:
        """The exit code, output and errors of each process, once all have ended."""
        end = time.monotonic() + seconds
        said = [process.communicate(timeout=max(0.1, end - time.monotonic())) for process in self.processes]
        return [(process.returncode, *texts) for process, texts in zip(self.processes, said, strict=True)]


def succeeded(group: Group) -> list[str]:
    """What each process of a group printed; all of them did what was asked."""
    with group:
        ended = group.ended()
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    return [output for _, output, _ in ended]
