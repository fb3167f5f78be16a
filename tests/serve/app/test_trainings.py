"""The process of a training: how it is asked to stop, and what becomes of one that does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rcnn.io.lock import FolderLock
from rcnn.serve.app import trainings
from rcnn.serve.app.trainings import Trainings

SLEEP = "import time; print('begun', flush=True); time.sleep(120)"


def begun(folder: Path) -> Trainings:
    """A training that runs, as far as it is concerned."""
    found = Trainings(folder)
    run = found.start(folder / "none.json", [])
    deadline = time.monotonic() + 60
    while "begun" not in run.said:
        assert time.monotonic() < deadline, run.said
        time.sleep(0.02)
    return found


def test_a_page_in_the_background_of_a_shell_stops_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = trainings.PROGRAM.replace("from rcnn.cli import main; main()", SLEEP)
    monkeypatch.setattr(trainings, "COMMAND", (sys.executable, "-c", program))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as such shells do
    try:
        found = begun(tmp_path)
        found.stop()
        assert found.latest is not None
        assert found.latest.process is not None
        assert found.latest.process.wait(30) == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)
        found.close()


def test_a_training_that_does_not_end_is_killed_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEP}"
    monkeypatch.setattr(trainings, "COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr(trainings, "PATIENCE", 0.2)
    found = begun(tmp_path)
    found.close()
    assert found.latest is not None
    assert found.latest.state == "failed", "there is nothing to go on with"


HOLD = """import signal, sys, time, pathlib; from rcnn.io.lock import FolderLock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
lock = FolderLock(pathlib.Path(sys.argv[1]), 'run'); print('begun', flush=True); time.sleep(120)"""


def test_the_training_of_a_page_that_was_killed_is_followed_and_stopped(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "model"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    with subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        found = Trainings(tmp_path)
        assert found.latest is not None
        assert found.latest.state == "running"
        with pytest.raises(ValueError, match="a training is running"):
            found.start(tmp_path / "none.json", [])
        found.stop()
        assert process.wait(30) == -signal.SIGINT
    assert found.latest.state == "failed", "it had saved nothing"


def test_a_lock_of_nobody_is_no_training(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "model"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (run / "last.safetensors").touch()
    (run / ".lock").write_text(f'{{"process": {os.getpid()}, "host": "here"}}')
    (training,) = Trainings(tmp_path).runs
    assert training.state == "stopped"
    with FolderLock(run, "run"):
        assert training.state == "running", "this process has it"
    assert training.state == "stopped"
