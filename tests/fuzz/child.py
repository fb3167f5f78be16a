"""The process that takes damaged inputs: one door, one input per line, one answer per line.

It limits itself: an input that takes more memory or processor time than a door allows ends it, and the test
starts another. By hand: ``PYTHONPATH=src:tests python -m fuzz.child coco --seed 17``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.doors import DOORS, Door
from fuzz.mutations import mutate

MEMORY = 3 << 30  # bytes of addresses beyond those in use before the first input: 200 megapixels fit
RIGHT = (ValueError,)  # and subclasses that rcnn defines


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


def main() -> None:
    """Answer the seeds of standard input, or the one of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("door")
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    os.environ["RCNN_CACHE"] = tempfile.mkdtemp()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        room = Room(DOORS[chosen.door], folder)
        print(json.dumps(asdict(room.take(None))), file=answers)
        _limit_memory()
        for seed in sys.stdin if chosen.seed is None else [chosen.seed]:
            answer = room.take(int(seed))
            print(json.dumps(asdict(answer)), file=answers)
            if chosen.seed is not None:
                print(answer.detail, file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(os.environ["RCNN_CACHE"], ignore_errors=True)


if __name__ == "__main__":
    main()
