"""What a run shows while it trains, on a terminal and in a notebook."""

import io
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rcnn.training import progress
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
    with RunLog(tmp_path / "log.txt", Console(file=file, width=100), quiet=False) as log:
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
