"""``rcnn app``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text
from rcnn.cli.options import (
    Channels,
    DataFormat,
    Device,
    Exif,
    ModelSettings,
    Plane,
    Trust,
    chosen_reading,
    writable_folder,
)


@app.command(
    "app", epilog=examples("rcnn app nuclei", "rcnn app runs/cells new_images/", "rcnn app cells.json")
)
def page(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run folder, .safetensors file, exported file or folder, hf://USER/NAME, or a name listed "
            "by `rcnn models`.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Folder of images, or a data set to look at and correct."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of corrections, dropped images and trained models. Default: FOLDER-corrected, "
            "beside FOLDER.",
            callback=writable_folder,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine. Default: any free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    device: Device = None,
    settings: ModelSettings = None,
    format: DataFormat = None,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    trust: Trust = None,
) -> None:
    """Look at what a model finds, correct it and train on it, in the browser.

    The page is served to this machine alone and works without a network.

    Drop images into it, or give a FOLDER. A data set in place of FOLDER is opened to be looked at and
    corrected; it is never written to.
    """
    from rcnn.serve.app.launch import PageOptions, model_and_source, serve_page

    chosen, source = model_and_source(model, folder)
    options = PageOptions(
        chosen, source, out, port, format,
        chosen_reading(channels, plane, exif) if channels or plane or exif else None,
        {"device": device, "settings": settings or (), "trust": trust or ()},
    )  # fmt: skip

    def opened(address: str) -> None:
        print_text(f"the page: {address}\nstop with Ctrl-C; what you correct is saved as you go")

    serve_page(options, opened=opened, browser=browser)
