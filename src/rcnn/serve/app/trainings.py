"""Training on what is done: ``rcnn train`` as a process of its own, followed by the files of its run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcnn.io.folders import free_folder
from rcnn.io.lock import FolderInUseError, writer_of_folder
from rcnn.training.run_folder import BEST, EVALUATION, LAST, REPORT, RUN, read_history

RUNS = "runs"
# A page that was started in the background of a shell has SIGINT ignored, and so would the training.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from rcnn.cli import main; main()"
)
COMMAND = (sys.executable, "-c", PROGRAM, "train")
PATIENCE = 30  # seconds that a training has to save its state when the page ends
LINES = 200  # of what the command said, that are kept


@dataclass
class Training:
    """A run, and the process that works on it.

    Attributes:
        folder: of the run.
        process: while this page started it; None of one that was found, which may be the work of a page that
            was killed, and still go on.
        said: the last lines of the command.
        stopped: whether a person stopped it.
    """

    folder: Path
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    stopped: bool = False
    fraction: float = 0.0

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``stopped`` (it can be resumed) or ``failed``."""
        if self.process is not None and self.process.poll() is None:
            return "running"
        if self.process is None and self.elsewhere is not None:
            return "running"
        if (self.folder / EVALUATION).is_file():
            return "finished"
        return "stopped" if (self.folder / LAST).is_file() else "failed"

    @property
    def elsewhere(self) -> FolderInUseError | None:
        """Which other process works on the run; None: none does."""
        try:
            return writer_of_folder(self.folder)
        except OSError:  # a folder that cannot be written is nobody's
            return None

    def ask_to_stop(self) -> None:
        """Ask its process to stop, as Ctrl-C does.

        Raises:
            ValueError: it is the process of another machine.
        """
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            return
        writer = self.elsewhere
        if writer is not None and writer.process is None:
            raise ValueError(f"{writer}; stop it there")
        if writer is not None and writer.process is not None:
            os.kill(writer.process, signal.SIGINT)

    @property
    def model(self) -> Path | None:
        """What ``rcnn.load`` opens; None: there is no model yet."""
        return self.folder if (self.folder / BEST).is_file() else None

    def describe(self) -> dict[str, Any]:
        """What the page has to know: the state, the curves, and the words of an error."""
        rows = read_history(self.folder) if self.folder.is_dir() else []
        return {
            "name": self.folder.name, "state": self.state, "rows": rows, "said": self.said[-12:],
            "fraction": 1.0 if self.state == "finished" else self.fraction,
            "has_model": self.model is not None, "has_report": (self.folder / REPORT).is_file(),
        }  # fmt: skip


class Trainings:
    """The runs in the folder of corrections; one process works at a time."""

    def __init__(self, out: Path) -> None:
        self._folder = out / RUNS
        self._lock = threading.Lock()
        found = sorted(self._folder.glob(f"*/{RUN}"), key=lambda file: file.stat().st_mtime)
        self.runs = [Training(file.parent) for file in found]

    @property
    def latest(self) -> Training | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    def named(self, name: str) -> Training:
        """A run by the name of its folder.

        Raises:
            ValueError: there is none.
        """
        found = next((run for run in self.runs if run.folder.name == name), None)
        if found is None:
            raise ValueError(f"{name}: no such training")
        return found

    def start(self, data: Path, options: Sequence[str]) -> Training:
        """Start to train on a data set.

        Args:
            data: the COCO file.
            options: further words for ``rcnn train``.

        Raises:
            ValueError: a training is running.
        """
        with self._lock:
            self._refuse_second()
            folder = free_folder(self._folder / "model", Path.exists)
            self.runs.append(Training(folder))
            self._begin(self.runs[-1], [str(data), "--out", str(folder), *options])
            return self.runs[-1]

    def resume(self, name: str) -> Training:
        """Go on with a training that was stopped.

        Raises:
            ValueError: a training is running, or there is nothing to go on with.
        """
        with self._lock:
            self._refuse_second()
            training = self.named(name)
            if training.state != "stopped":
                raise ValueError(f"{name}: this training is {training.state}; only a stopped one goes on")
            training.stopped = False
            self._begin(training, ["--resume", str(training.folder)])
            return training

    def stop(self) -> Training | None:
        """Ask the running training to stop, as Ctrl-C does: it can be resumed."""
        training = next((run for run in self.runs if run.state == "running"), None)
        if training is not None:
            training.stopped = True
            training.ask_to_stop()
        return training

    def close(self) -> None:
        """Stop what is running, and wait for it; kill what does not end: it goes on from its checkpoint."""
        with contextlib.suppress(ValueError):  # that of another machine goes on
            self.stop()
        training = next((run for run in self.runs if run.state == "running"), None)
        if training is None or training.process is None:
            return
        try:
            training.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            training.process.kill()
            training.process.wait()

    def _refuse_second(self) -> None:
        if any(run.state == "running" for run in self.runs):
            raise ValueError("a training is running; stop it first")

    def _begin(self, training: Training, options: Sequence[str]) -> None:
        training.said.clear()
        training.process = subprocess.Popen(
            [*COMMAND, *options, "--json-log"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", env={**os.environ, "NO_COLOR": "1"}, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=_listen, args=(training, training.process), daemon=True).start()


def _listen(training: Training, process: subprocess.Popen[str]) -> None:
    """Keep what the command says, until it ends."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            text = line.strip()
            try:
                event = json.loads(text)
            except ValueError:
                event = {"text": text}
            if isinstance(event, dict) and event.get("text"):
                training.said.append(str(event["text"]))
                training.fraction = float(event.get("fraction") or training.fraction)
                del training.said[:-LINES]
    process.wait()
