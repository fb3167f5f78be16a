"""``rcnn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text


@app.command(epilog=examples("rcnn report runs/cells"))
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Write a run's report.html anew."""
    from rcnn.training.run import rewrite_report

    print_text(f"written: {rewrite_report(run)}")
