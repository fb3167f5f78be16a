"""The process of a training: how it is asked to stop, and what becomes of one that does not."""

import signal
import sys
import time
from pathlib import Path

import pytest

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
