"""What a run shows while it trains, on a terminal and in a notebook."""

import io
import json
import math
import sys
import threading
import time
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rcnn.training import progress
from rcnn.training.callbacks import TrainEvent
from rcnn.training.progress import NotebookBar, RunLog, working


def step(fraction: float, loss: float) -> Any:
    return SimpleNamespace(fraction=fraction, values={"loss": loss})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook would show in the place of the bar, one text after the other."""
    texts: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            texts.append(data["text/plain"])

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        texts.append(data["text/plain"])
        return Handle()

    module: Any = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return texts


def test_a_notebook_has_one_line_that_replaces_itself(
    shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.2, 3.0, 3.0, 4.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    console = Console(force_jupyter=True, file=io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with RunLog(tmp_path / "log.txt", console, quiet=False) as log:
            assert isinstance(log.bar, NotebookBar)
            log.on_step(step(0.05, 2.0))  # within the first second: not shown
            log.on_step(step(0.25, 1.5))
    last = "training, loss 1.500: 25%, 3 s, 9 s left"
    assert shown == ["training", last, last]


def test_a_terminal_has_a_bar_and_a_quiet_one_nothing(tmp_path: Path) -> None:
    file = io.StringIO()
    with RunLog(tmp_path / "log.txt", Console(file=file, width=100, force_terminal=True), quiet=False) as log:
        log.on_step(step(0.5, 1.25))
        log.say("a line")
    assert "training, loss 1.250" in file.getvalue()
    assert "50 %" in file.getvalue()
    assert "a line" in file.getvalue()
    assert (tmp_path / "log.txt").read_text("utf-8").endswith(" a line\n")
    silent = io.StringIO()
    with RunLog(tmp_path / "none.txt", Console(file=silent), quiet=True) as log:
        log.on_step(step(0.5, 1.0))
        log.say("nothing")
    assert not silent.getvalue()
    assert not (tmp_path / "none.txt").exists()


def test_waiting_shows_nothing_in_a_notebook() -> None:
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with working(Console(force_jupyter=True, file=file), "reading the data"):
            pass
    assert not file.getvalue()
    with working(Console(force_terminal=True, file=file), "reading the data"):
        pass
    assert "reading the data" in file.getvalue()


def event(fraction: float, **values: float) -> TrainEvent:
    recipe: Any = None
    return TrainEvent(Path("run"), recipe, 10, 2.5, fraction, 3.0, values)


def test_without_a_terminal_there_is_a_line_per_evaluation_and_per_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute lasts 50 ms here; the main thread says nothing in it, as in a long evaluation."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    file = io.StringIO()
    log = RunLog(tmp_path / "log.txt", Console(file=file, width=200), quiet=False)
    with log, log.ticking():
        log.on_step(event(0.25, loss=1.5))
        deadline = time.monotonic() + 20
        while file.getvalue().count("loss 1.500") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        log.on_evaluation(event(0.25, score=0.5, **{"mask/AP": 0.5, "val/loss": 2.0}))
    lines = file.getvalue().splitlines()
    assert lines.count("evaluation: 25%, iteration 10, epoch 2.5, mask/AP 0.500, val/loss 2.000") == 1
    ticks = [
        line for line in lines if line.startswith("training: 25%, iteration 10, epoch 2.5, loss 1.500, ")
    ]
    assert len(ticks) >= 2
    assert len((tmp_path / "log.txt").read_text().splitlines()) == len(lines)
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_tick)")]
    with working(Console(file=file), "reading the data"):
        while "reading the data: 0 s so far" not in file.getvalue() and time.monotonic() < deadline + 20:
            time.sleep(0.01)
    assert "reading the data: 0 s so far" in file.getvalue()


def test_a_json_log_is_one_object_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path / "log.txt", Console(quiet=True), quiet=False, json_log=True)
    with log, log.ticking():
        log.say("data: two\nlines")
        log.on_step(event(0.25, loss=1.5))
        log.on_evaluation(event(0.25, **{"mask/AP": 0.5, "box/AP": math.nan}))
    log.on_end(event(1.0, **{"mask/AP": 0.75}))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == ["message", "evaluation", "end"]
    assert rows[1].items() >= {"iteration": 10, "epoch": 2.5, "fraction": 0.25, "mask/AP": 0.5}.items()
    assert "box/AP" not in rows[1]
    assert rows[2]["mask/AP"] == 0.75
