"""``rcnn bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_table
from rcnn.cli.options import DataFormat, Device, ImagesFolder, NetworkSource, Trust, open_dataset


@app.command(epilog=examples("rcnn bench runs/cells", "rcnn bench runs/cells cells/val --count 20"))
def bench(
    model: NetworkSource,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Annotated images to predict. Default: an image of noise."),
    ] = None,
    images: ImagesFolder = None,
    format: DataFormat = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images from DATA, evenly spaced.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Number of measured rounds.")] = 5,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Benchmark a model on this machine: images per second, time per stage, memory."""
    from rcnn.inference.benchmark import bench as measure
    from rcnn.loading import load_detector

    detector = load_detector(model, device, trust=trust or ())
    dataset = None if data is None else open_dataset(data, images, format, detector.reading)
    seen = () if dataset is None else dataset.images(count)
    print_table(measure(detector, seen, rounds).table())
