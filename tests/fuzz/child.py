"""The process that takes damaged inputs: one door, one input per line, one answer per line.

It limits itself: an input that takes more memory or processor time than a door allows ends it, and the test
has another one started. By hand: ``PYTHONPATH=src:tests python -m fuzz.child coco --seed 17``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import shutil
import socket
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.doors import DOORS, Door
from fuzz.mutations import mutate

MEMORY = 3 << 30  # bytes of addresses beyond those in use before the first input: 200 megapixels fit
BEFORE = ("rcnn.loading", "rcnn.training.run")  # what doors import later


@dataclass(frozen=True)
class Answer:
    """What an input led to.

    Attributes:
        outcome: ``read``, ``refused`` by a named error, or ``found`` for anything else.
        detail: the error, with its traceback if it was found.
        seconds: of processor time.
    """

    outcome: str
    detail: str
    seconds: float


class Room:
    """A folder with the whole files of a door, of which one at a time is damaged."""

    def __init__(self, door: Door, folder: Path) -> None:
        self.door, self.folder = door, folder
        self.path = door.make(folder)
        files = [file for pattern in door.damaged for file in sorted(folder.glob(pattern)) if file.is_file()]
        self.contents = {file: file.read_bytes() for file in files}
        self.files = files
        self.kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def take(self, seed: int | None) -> Answer:
        """Damage a file by the seed, open the path, and put everything back; None damages nothing."""
        if seed is not None:
            rng = random.Random(seed)
            # Small files, which hold the annotations, more often than pictures.
            file = min((rng.choice(self.files) for _ in range(2)), key=lambda f: f.suffix in PICTURES)
            file.write_bytes(mutate(self.contents[file], file.name, rng))
        start = _cpu_seconds()
        _allow(start + self.door.seconds)
        try:
            return self._opened(start)
        finally:
            self._put_back()

    def _opened(self, start: float) -> Answer:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", RuntimeWarning)  # of NumPy: a result that is wrong
                amount = self.door.open(self.path)
        except BaseException as error:
            outcome = "refused" if self._is_right(error) else "found"
            detail = repr(error)[:300] if outcome == "refused" else traceback.format_exc()[-4000:]
            return Answer(outcome, detail, _cpu_seconds() - start)
        return Answer("read", str(amount), _cpu_seconds() - start)

    def _is_right(self, error: BaseException) -> bool:
        """Whether an error is one of rcnn that names the file, and hides no lack of memory."""
        reason: BaseException | None = error
        while reason is not None:
            if isinstance(reason, MemoryError | RecursionError) and reason is error:
                return False
            if isinstance(reason, MemoryError):
                return False
            reason = reason.__cause__ or reason.__context__
        ours = type(error) in (ValueError, FileNotFoundError) or type(error).__module__.startswith("rcnn.")
        return ours and isinstance(error, ValueError | FileNotFoundError) and self.folder.name in str(error)

    def _put_back(self) -> None:
        for file in [f for f in self.folder.rglob("*") if f not in self.kept and f.is_file()]:
            file.unlink()
        for file, content in self.kept.items():
            if not file.is_file() or file.read_bytes() != content:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)


PICTURES = (".png", ".jpg", ".tif", ".safetensors", ".bin", ".xml")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _allow(seconds: float) -> None:
    """Let the system end this process once it has used so much processor time in all."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, hard))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve(control: socket.socket) -> None:
    """Start a child for each door that is asked for, one at a time, and say how it ended.

    A child is a copy of this process, in which everything is imported. It gets its door's name, a socket for
    seeds and answers, and a folder that is removed after it, whatever ends it.
    """
    while True:
        name, sockets, _, _ = socket.recv_fds(control, 1000, 1)
        if not name:
            return
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        child = os.fork()
        if child == 0:
            with control, socket.socket(fileno=sockets[0]) as line:
                _answer(name.decode(), folder, line)
            os._exit(0)
        os.close(sockets[0])
        _, status = os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)
        control.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _answer(door: str, folder: Path, line: socket.socket) -> None:
    """Answer the seeds that come in; before them, say who this is and whether the whole files are read."""
    with line.makefile("rw", encoding="utf-8") as talk:
        print(os.getpid(), file=talk, flush=True)
        room = _room(door, folder)
        print(json.dumps(asdict(room.take(None))), file=talk, flush=True)
        _limit_memory()
        for seed in talk:
            print(json.dumps(asdict(room.take(int(seed)))), file=talk, flush=True)


def _room(door: str, folder: Path) -> Room:
    os.environ["RCNN_CACHE"] = str(folder / "cache")
    tempfile.tempdir = str(folder / "temporary")
    for name in ("cache", "temporary", "room"):
        (folder / name).mkdir()
    return Room(DOORS[door], folder / "room")


def main() -> None:
    """Serve, or try one input by hand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("door", nargs="?")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--serve", type=int, help="number of the socket that doors are asked for by")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if chosen.serve is not None:
        for module in BEFORE:
            importlib.import_module(module)
        with socket.socket(fileno=chosen.serve) as control:
            serve(control)
        return
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        room = _room(chosen.door, Path(folder))
        whole = room.take(None)
        _limit_memory()
        damaged = whole if chosen.seed is None else room.take(chosen.seed)
        print(f"whole: {whole.outcome}", f"{damaged.outcome}: {damaged.detail}", sep="\n")


if __name__ == "__main__":
    main()
