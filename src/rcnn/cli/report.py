"""``rcnn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text


@app.command(epilog=examples("rcnn report runs/cells"))
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
) -> None:
    """Regenerate a run's report.html."""
    from rcnn.training.run import rewrite_report

    print_text(f"written: {rewrite_report(run)}")
