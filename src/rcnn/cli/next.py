"""``rcnn next``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_error, print_text, progress_bar
from rcnn.cli.options import (
    Channels,
    CopyImages,
    Device,
    Exif,
    FormatsToCorrect,
    ModelSource,
    Plane,
    Precision,
    Trust,
    all_exist,
    chosen_reading,
    formats_of,
    load_model,
    writable_folder,
)


@app.command(
    "next",
    epilog=examples(
        "rcnn next runs/cells photos/ --count 20",
        "rcnn next nuclei photos/ --annotated cells/ --to labelme --out to_annotate",
    ),
)
def next_images(
    model: ModelSource,
    pool: Annotated[
        list[Path], typer.Argument(metavar="POOL", help="Image files and folders to choose from.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Number of images to choose.")] = 20,
    annotated: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGES",
            help="Images or folders that are annotated already; those that MODEL was trained on are known. "
            "Repeatable.",
            callback=all_exist,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder. Default: next, then next-2, …", callback=writable_folder
        ),
    ] = None,
    to: FormatsToCorrect = None,
    copy_images: CopyImages = True,
    device: Device = None,
    precision: Precision = "auto",
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    trust: Trust = None,
) -> None:
    """Choose the images of a pool that are most worth annotating, and predict them as a start.

    Those come first in which the model is unsure of many objects, and which look different from the images
    that are annotated or already chosen. They are listed in next.csv, and what the model finds in them is
    a data set to correct and to train on.
    """
    from rcnn.inference.next_images import next_folder, write_next
    from rcnn.inference.next_images import next_images as choose
    from rcnn.inference.output_files import OutputFiles
    from rcnn.inference.output_tables import check_output
    from rcnn.inference.sources import find_images

    files = OutputFiles(to=formats_of(to) or ("coco",), copy_images=copy_images)
    out = next_folder(out)
    check_output(out, overwrite=False)
    find_images(pool, exclude=out)  # a wrong path is reported before the model is loaded
    detector = load_model(model, device, precision=precision, trust=trust)
    detector = detector.with_reading(chosen_reading(channels, plane, exif, detector.reading))
    with progress_bar("looking") as progress:
        found = choose(detector, pool, count, annotated=annotated or (), progress=progress)
    with progress_bar("predicting") as progress:
        summary = write_next(detector, found, out, files=files, progress=progress)
    left_out = f", {found.annotated} annotated already" if found.annotated else ""
    print_text(
        f"{len(found.chosen)} of {found.pool} images{left_out}; written: {out}, listed in {out / 'next.csv'}"
    )
    for line in summary.lost_lines():
        print_text(line)
    if copy_images:
        print_text(f"to correct them: rcnn app {model} {out / files.to[0]}, or another program")
    failed = dict.fromkeys((*found.failed, *summary.failed))
    if failed:
        print_error("\n".join((f"{len(failed)} images could not be read or written:", *failed)))
        raise typer.Exit(1)
