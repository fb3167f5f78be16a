"""``rcnn demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples
from rcnn.cli.options import writable_folder


@app.command(epilog=examples("rcnn demo", "rcnn demo --out demo --minutes 2"))
def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Run folder to create.", callback=writable_folder)
    ] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Training time in minutes.")] = 3.0,
) -> None:
    """Show what a bundled model finds in two photographs, then train a small one on generated images.

    The overlays, counts and table of the photographs are in DIR/found after a few seconds.
    """
    from rcnn.training.demo import run

    run(out, minutes)
