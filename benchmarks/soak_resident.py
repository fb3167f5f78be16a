"""A process that lives as long as the soak and does what a notebook or a service does, again and again.

One request per line of its standard input, one answer per line of its standard output: a digest of the
result, and what the process holds afterwards.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, cast

from rich.console import Console

import rcnn
from benchmarks.soak_traces import tree
from rcnn.inference.detector import Detector
from rcnn.io.checkpoint import read_checkpoint

Row = dict[str, Any]


class Resident:
    """The long-living process, seen from outside; restarted when it dies.

    Attributes:
        rows: every answer, with the request's kind.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.rows: list[Row] = []
        self.lives = 0
        self._first: dict[str, str] = {}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, **paths: str) -> list[str]:
        """Have something done; returns what should not be."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps({"kind": kind, **paths}) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            if not line:
                self._process = None
                return [f"the long-living process ended with {process.wait(60)} while it should {kind}"]
            row = {"kind": kind, "life": self.lives, **json.loads(line)}
            self.rows.append(row)
        if "error" in row:
            return [f"{kind} in the long-living process: {row['error']}"]
        key = json.dumps([kind, paths], sort_keys=True)
        if self._first.setdefault(key, row["digest"]) != row["digest"]:
            return [f"{kind} in the long-living process gave another result than the first time"]
        return []

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self.lives += 1
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.soak_resident"], env=self.environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=(self.folder / f"resident-{self.lives}.txt").open("w"),
            )  # fmt: skip
        return self._process

    def close(self) -> None:
        """End the process, which notices that its input ended."""
        if self._process is not None:
            self._process.communicate(timeout=60)
            self._process = None

    def memory(self) -> Row:
        """How the process's memory went: medians of MB in quarters of its longest life."""
        life = max((row["life"] for row in self.rows), default=0)
        series = [row["mb"] for row in self.rows if row["life"] == life]
        quarter = len(series) // 4
        if not quarter:
            return {"requests": len(self.rows), "lives": self.lives}
        quarters = [sorted(series[i * quarter : (i + 1) * quarter]) for i in range(4)]
        own = [row for row in self.rows if row["life"] == life]
        return {
            "requests": len(self.rows),
            "lives": self.lives,
            "mb": [round(values[len(values) // 2], 1) for values in quarters],
            "files": [own[quarter]["files"], own[-1]["files"]],
            "threads": [own[quarter]["threads"], own[-1]["threads"]],
            "peak_mb": own[-1]["peak_mb"],
        }


def grown(memory: Row) -> list[str]:
    """Whether a process holds more and more: of the second quarter on, in which everything was done once."""
    finds = []
    if "mb" in memory and memory["requests"] >= 40:
        _, second, _, last = memory["mb"]
        if last - second > max(0.05 * second, 30):
            finds.append(f"memory grew from {second} to {last} MB")
        finds += [
            f"{what} grew from {memory[what][0]} to {memory[what][1]}"
            for what in ("files", "threads")
            if memory[what][1] > memory[what][0] + 2
        ]
    return finds


def _predict(model: str, data: str, _: Path) -> bytes:
    detector = cast("Detector", _loaded(model))
    found = detector.predict([sample.image for sample in rcnn.open_data(data)][:12], min_score=0.01)
    return repr([f.rows() for f in found]).encode()


def _evaluate(model: str, data: str, _: Path) -> bytes:
    measured = rcnn.evaluate(_loaded(model), rcnn.open_data(data))
    return repr(sorted(measured[0].metrics.items())).encode()


def _convert(model: str, data: str, folder: Path) -> bytes:
    written = b""
    for to in ("voc", "yolo", "masks"):
        rcnn.convert(data, folder / to, to=to)
        written += repr(sorted(tree(folder / to).items())).encode()
    return written


def _train(model: str, data: str, folder: Path) -> bytes:
    run = rcnn.train(
        data, recipe=Path(model) / "recipe.toml", out=folder / "run", console=Console(file=StringIO())
    )
    weights = read_checkpoint(run / "last.safetensors")[0]
    return b"".join(key.encode() + tensor.cpu().numpy().tobytes() for key, tensor in sorted(weights.items()))


DEEDS: dict[str, Callable[[str, str, Path], bytes]] = {
    "predict": _predict,
    "evaluate": _evaluate,
    "convert": _convert,
    "train": _train,
}
_models: dict[str, Any] = {}


def _loaded(model: str) -> Any:
    if model not in _models:
        _models[model] = rcnn.load(model)
    return _models[model]


def _held() -> Row:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "mb": pages * resource.getpagesize() / 2**20,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
    }


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(tempfile.mkdtemp())
        try:
            result = DEEDS[asked["kind"]](asked["model"], asked["data"], folder)
            row: Row = {"digest": hashlib.sha256(result).hexdigest()}
        except Exception as error:
            row = {"error": repr(error)[:1000]}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        answers.write(json.dumps({**row, **_held()}) + "\n")


if __name__ == "__main__":
    main()
