"""What a run shows while it trains: a progress bar, and lines that also go to ``log.txt``.

**Law:** without a terminal, where a bar cannot move, there is a line for each evaluation and at least one per
minute, so that a run on a cluster does not look hung. The log file has these lines in any case.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rcnn.io.escaping import for_terminal
from rcnn.training.callbacks import TrainEvent
from rcnn.training.run_folder import append_line

LINE_SECONDS = 60.0  # at least one line in this time where there is no terminal
SHOWN_METRICS = 4


class Ticker:
    """Says every minute what is being done, in a thread of its own; a context manager."""

    def __init__(self, say: Callable[[str], None], describe: Callable[[], str]) -> None:
        """Prepare to call ``say`` with what ``describe`` returns, unless :meth:`touch` was called since."""
        self._say, self._describe = say, describe
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def touch(self) -> None:
        """Something was said just now."""
        self._last = time.monotonic()

    def __enter__(self) -> Ticker:
        self.touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._ended.wait(max(0.0, self._last + LINE_SECONDS - time.monotonic())):
            if time.monotonic() - self._last >= LINE_SECONDS:
                self.touch()
                with suppress(OSError):  # of a full disk, which the training itself reports
                    self._say(self._describe())


def working(console: Console, what: str) -> AbstractContextManager[object]:
    """Show that something without a length is being done; in a notebook nothing, as rich needs ipywidgets."""
    if console.is_jupyter or console.quiet:
        return nullcontext()
    if console.is_terminal:
        return console.status(what)
    began = time.monotonic()
    return Ticker(lambda text: say(console, text), lambda: f"{what}: {time.monotonic() - began:.0f} s so far")


def say(console: Console, text: str) -> None:
    """Print a text as it is: brackets are no markup, and control characters are escaped."""
    console.print(for_terminal(text, lines=True), markup=False, highlight=False)


class NoBar:
    """In place of a bar where nothing can move."""

    def start(self) -> None:
        """Do nothing."""

    stop = start

    def move(self, fraction: float, description: str) -> None:
        """Do nothing."""


class TerminalBar:
    """The bar of a terminal, redrawn in place."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        """Prepare the bar; it is shown from :meth:`start` on, unless it is ``quiet``."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        self._bar = Progress(*columns, console=console, disable=quiet, transient=False)
        self._task = self._bar.add_task("training", total=1.0)
        self.start, self.stop = self._bar.start, self._bar.stop

    def move(self, fraction: float, description: str) -> None:
        """Show how much is done, 0 to 1."""
        self._bar.update(self._task, completed=fraction, description=description)


class NotebookBar:
    """The bar of a notebook: a line below the cell that replaces itself. rich's own would need ipywidgets."""

    def __init__(self) -> None:
        self._began = self._shown = 0.0
        self._text = "training"
        self._handle: Any = None

    def start(self) -> None:
        """Show the line."""
        show = import_module("IPython.display").display  # wherever there is a notebook
        self._began = self._shown = time.monotonic()
        self._handle = show({"text/plain": self._text}, raw=True, display_id=True)

    def move(self, fraction: float, description: str) -> None:
        """Show how much is done, 0 to 1; at most once per second."""
        now = time.monotonic()
        left = (now - self._began) * (1 - fraction) / fraction if fraction else 0.0
        self._text = f"{description}: {fraction:.0%}, {now - self._began:.0f} s, {left:.0f} s left"
        if now - self._shown >= 1:
            self._show()

    def stop(self) -> None:
        """Show the last state."""
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._handle is not None:
            self._handle.update({"text/plain": self._text}, raw=True)


class RunLog:
    """The progress bar on the console and the log file; a context manager and a callback."""

    def __init__(self, file: Path, console: Console, *, quiet: bool, json_log: bool = False) -> None:
        """Prepare the bar, which moves inside ``with``.

        Args:
            file: the log file.
            console: where lines and the bar are shown.
            quiet: neither show nor write anything: of several processes, only the first one logs.
            json_log: print each line as a JSON object to the standard output instead.
        """
        self.file, self.console, self.quiet, self.json_log = file, console, quiet, json_log
        self.has_bar = not (quiet or json_log) and (console.is_terminal or console.is_jupyter)
        self.bar: NotebookBar | TerminalBar | NoBar = NoBar()
        if self.has_bar:
            self.bar = NotebookBar() if console.is_jupyter else TerminalBar(console, quiet=False)
        self._began = 0.0 if self.has_bar else time.monotonic()
        self._text = "training"
        self._latest: dict[str, Any] = {}
        self._ticker: Ticker | None = None

    def __enter__(self) -> RunLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def ticking(self, what: str = "training") -> AbstractContextManager[object]:
        """Inside, a line every minute says ``what`` is being done and how far, where no bar shows that."""
        self._text = what
        if self.quiet or self.has_bar:
            return nullcontext()
        self._ticker = Ticker(lambda text: self._put("progress", text, self._latest), lambda: self._text)
        return self._ticker

    def on_step(self, event: TrainEvent) -> None:
        """Move the bar."""
        loss = event.values["loss"]
        self.bar.move(event.fraction, f"training, loss {loss:.3f}")
        if not (self.has_bar or self.quiet):
            done = time.monotonic() - self._began
            left = done * (1 - event.fraction) / event.fraction if event.fraction else 0.0
            self._text = f"training: {_place(event)}, loss {loss:.3f}, {left / 60:.0f} min left"
            self._latest = {**_numbers(event), "loss": loss}

    def on_evaluation(self, event: TrainEvent) -> None:
        """Say what was measured."""
        values = {name: value for name, value in event.finite_values.items() if name != "score"}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in list(values.items())[:SHOWN_METRICS])
        text = f"evaluation: {_place(event)}, {shown or 'nothing to measure'}"
        self._put("evaluation", text, {**_numbers(event), **values}, on_console=not self.has_bar)

    def on_end(self, event: TrainEvent) -> None:
        """With ``json_log``, print the final metrics."""
        if self.json_log:
            self._print("end", str(event.folder), {**_numbers(event), **event.finite_values})

    def say(self, text: str) -> None:
        """Write a line to the log and the console."""
        self._put("message", text, {})

    def _put(self, event: str, text: str, values: Mapping[str, Any], *, on_console: bool = True) -> None:
        if self.quiet:
            return
        text = for_terminal(text, lines=True)
        append_line(self.file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        if self._ticker is not None:
            self._ticker.touch()
        if self.json_log:
            self._print(event, text, values)
        elif on_console:
            say(self.console, text)

    def _print(self, event: str, text: str, values: Mapping[str, Any]) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        print(json.dumps({"time": when, "event": event, "text": text, **values}), flush=True)


def _place(event: TrainEvent) -> str:
    return f"{event.fraction:.0%}, iteration {event.iteration}, epoch {event.epoch:.1f}"


def _numbers(event: TrainEvent) -> dict[str, Any]:
    return {
        "iteration": event.iteration, "epoch": event.epoch, "fraction": event.fraction,
        "seconds": event.seconds,
    }  # fmt: skip
