"""Commands that are ended at random, and what is left of them: processes, files, shared memory.

Every command carries a mark in its environment, which its children inherit, so that /proc finds them wherever
they went. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "RCNN_SOAK_MARK"
SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 10.0  # seconds that workers may need to notice that their parent ended
LONGEST = 900.0  # seconds of any command
GRACE = {signal.SIGKILL: 10.0, signal.SIGINT: 15.0, signal.SIGTERM: 40.0}  # on a machine that is busy
CODES = {signal.SIGKILL: (-9,), signal.SIGINT: (130, 0), signal.SIGTERM: (143, 0)}


@dataclass(frozen=True)
class Kill:
    """When a command is ended, and how.

    Attributes:
        number: the signal.
        seconds: how long after the command began.
        begun: a file; the seconds count from when it is there.
        times: how often the signal is sent, as somebody does who presses Ctrl-C again.
    """

    number: signal.Signals
    seconds: float
    begun: Path | None = None
    times: int = 1


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: of its exit; minus the signal that ended it.
        text: what it printed.
        seconds: from the signal, if one was sent, to its end.
        killed: the signal that was sent; None if the command ended before.
        answers: whether the command had taken over its signals by then. Before, Python is starting.
        finds: what should not be.
    """

    code: int
    text: str
    seconds: float
    killed: signal.Signals | None
    answers: bool
    finds: list[str] = field(default_factory=list)


def run(words: Sequence[str], folder: Path, environment: dict[str, str], kill: Kill | None = None) -> Ended:
    """Run a command in a folder, in a session of its own, and end it if asked.

    Returns:
        How it ended; among its finds are processes and temporary files that it left.
    """
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    temporary, printed_to = folder / f"tmp-{mark}", folder / f"printed-{mark}"
    temporary.mkdir()
    begun = time.monotonic()
    with printed_to.open("w+", encoding="utf-8", errors="replace") as printed:
        process = subprocess.Popen(
            words, cwd=folder, env={**environment, MARK: mark, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        killed, answers = _kill(process, kill, begun) if kill else (None, True)
        since = time.monotonic() if killed else begun
        finds = _waited(process, GRACE[killed] if killed else LONGEST)
        seconds = time.monotonic() - since
        finds += _processes_left(mark)
        printed.seek(0)
        ended = Ended(process.returncode, printed.read(), seconds, killed, answers, finds)
    if killed != signal.SIGKILL:  # which nobody can clean up after
        ended.finds += [f"left in TMPDIR: {path.name}" for path in temporary.iterdir()]
    if not ended.finds:
        shutil.rmtree(temporary)
    if killed and answers:
        ended.finds += _answer(ended, killed)
    return ended


def _kill(process: subprocess.Popen[bytes], kill: Kill, begun: float) -> tuple[signal.Signals | None, bool]:
    end = begun + LONGEST
    while kill.begun is not None and not kill.begun.exists() and process.poll() is None:
        if time.monotonic() > end:
            return None, True
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(kill.seconds)
        return None, True
    answers = _catches(process.pid, signal.SIGTERM)
    for _ in range(kill.times):
        with contextlib.suppress(ProcessLookupError):
            # A terminal sends Ctrl-C to all processes of a command.
            send = os.killpg if kill.number == signal.SIGINT else os.kill
            send(process.pid, kill.number)
        time.sleep(0.1 if kill.times > 1 else 0)
    return kill.number, answers


def _waited(process: subprocess.Popen[bytes], seconds: float) -> list[str]:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return [f"did not end within {seconds:.0f} s"]
    return []


def _answer(ended: Ended, killed: signal.Signals) -> list[str]:
    """What should not be about how a signal was answered."""
    finds = []
    if ended.code not in CODES[killed]:
        finds.append(f"{killed.name} was answered with exit code {ended.code}: {ended.text[-600:]}")
    if "Traceback" in ended.text:
        finds.append(f"{killed.name} was answered with a traceback: {ended.text[-1500:]}")
    return finds


def _catches(process: int, number: signal.Signals) -> bool:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def living(mark: str) -> Iterator[int]:
    """The processes that carry a mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _processes_left(mark: str) -> list[str]:
    end = time.monotonic() + PATIENCE
    while left := list(living(mark)):
        if time.monotonic() > end:
            finds = []
            for process in left:
                with contextlib.suppress(OSError):
                    words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    finds.append(f"process left: {words[:200]}")
                    os.kill(process, signal.SIGKILL)
            return finds
        time.sleep(0.05)
    return []


def strays(folder: Path, allowed: Sequence[str] = ()) -> list[str]:
    """Hidden and partial files and folders below a folder, as finds."""
    found = [path for path in folder.rglob("*") if path.name.startswith(".") or path.name.endswith(".part")]
    return [f"left over: {path.relative_to(folder)}" for path in found if path.name not in allowed]


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shared_memory() -> set[str]:
    """The names of what is in /dev/shm, those excepted that a living process uses."""
    names = {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    used = ""
    if names:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    used += (entry / "maps").read_text()
    return {name for name in names if f"{SHARED_MEMORY}/{name}" not in used}
