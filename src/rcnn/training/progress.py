"""What a run shows while it trains: a progress bar, and lines that also go to ``log.txt``."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
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


def working(console: Console, what: str) -> AbstractContextManager[object]:
    """Show that something without a length is being done; in a notebook nothing, as rich needs ipywidgets."""
    return nullcontext() if console.is_jupyter else console.status(what)


def say(console: Console, text: str) -> None:
    """Print a text as it is: brackets are no markup, and control characters are escaped."""
    console.print(for_terminal(text, lines=True), markup=False, highlight=False)


class TerminalBar:
    """The bar of a terminal, redrawn in place; of a file, one line at the end."""

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

    def __init__(self, file: Path, console: Console, *, quiet: bool) -> None:
        """Prepare the bar, which moves inside ``with``.

        Args:
            file: the log file.
            console: where lines and the bar are shown.
            quiet: neither show nor write anything: of several processes, only the first one logs.
        """
        self.file, self.console, self.quiet = file, console, quiet
        in_notebook = console.is_jupyter and not quiet
        self.bar = NotebookBar() if in_notebook else TerminalBar(console, quiet=quiet)

    def __enter__(self) -> RunLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def on_step(self, event: TrainEvent) -> None:
        """Move the bar."""
        self.bar.move(event.fraction, f"training, loss {event.values['loss']:.3f}")

    def say(self, text: str) -> None:
        """Write a line to the log and the console."""
        if self.quiet:
            return
        text = for_terminal(text, lines=True)
        append_line(self.file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        say(self.console, text)
