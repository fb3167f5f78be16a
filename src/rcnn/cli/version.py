"""``rcnn --version``, ``rcnn --version -v`` and ``rcnn --debug``."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from rcnn.cli.console import app, print_text


def _print_version(ctx: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    try:
        print_text(f"rcnn {version_of('rcnn')}")
    except PackageNotFoundError:
        print_text("rcnn (a source tree, not installed)")
    if ctx.params.get("verbose"):
        from rcnn.kernels.about import installation

        for name, text in installation().items():
            print_text(f"{name}: {text}")
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", is_eager=True,
            help="With --version: also print versions of other packages, the CPU, and the compiled kernels.",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:  # fmt: skip
    """Find, outline, count and measure objects in images: train, evaluate and use R-CNN models."""
