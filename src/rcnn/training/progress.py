"""What a run shows while it trains: a progress bar, and lines that also go to ``log.txt``."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rcnn.training.callbacks import TrainEvent
from rcnn.training.run_folder import append_line


class RunLog:
    """The progress bar on the console and the log file; a context manager and a callback."""

    def __init__(self, file: Path, console: Console, *, quiet: bool) -> None:
        """Prepare the bar, which moves inside ``with``.

        Args:
            file: the log file.
            console: where lines and the bar are shown.
            quiet: neither show nor write anything: of several processes, only the first one logs.
        """
        self.file, self.quiet = file, quiet
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
        )
        self.bar = Progress(*columns, console=console, disable=quiet, transient=False)
        self.task = self.bar.add_task("training", total=1.0)

    def __enter__(self) -> RunLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def on_step(self, event: TrainEvent) -> None:
        """Move the bar."""
        shown = f"training, loss {event.values['loss']:.3f}"
        self.bar.update(self.task, completed=event.fraction, description=shown)

    def say(self, text: str) -> None:
        """Write a line to the log and the console."""
        if self.quiet:
            return
        append_line(self.file, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        self.bar.console.print(text, markup=False, highlight=False)
