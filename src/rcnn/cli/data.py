"""``rcnn data check``, ``convert``, ``get`` and ``show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_error, print_text, progress_bar
from rcnn.cli.options import (
    Channels,
    DataFormat,
    DataSource,
    Exif,
    ImagesFolder,
    OutFolder,
    Plane,
    SkipBad,
    chosen_reading,
    open_dataset,
    writable_folder,
)

data_app = typer.Typer(
    no_args_is_help=True, help="Check, look at, convert, split, merge and download data sets."
)
app.add_typer(data_app, name="data")


@data_app.command(
    "check",
    epilog=examples(
        "rcnn data check cells/",
        "rcnn data check train.json --images photos/",
        "rcnn data check cells/ --fix cells_fixed",
    ),
)
def data_check(
    data: DataSource,
    images: ImagesFolder = None,
    format: DataFormat = None,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix",
            metavar="OUT",
            help="Write a corrected copy into this folder. What cannot be corrected safely is left out and "
            "listed with what to do.",
            callback=writable_folder,
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="Format of the copy, as for `rcnn data convert`.")
    ] = None,
) -> None:
    """List all problems of a data set, or of all its splits. The exit code is 1 if there are errors."""
    from rcnn.data.check import check
    from rcnn.data.fixing import fix_data
    from rcnn.data.formats.open import open_splits
    from rcnn.data.output_folder import refuse_output

    if fix is not None:
        refuse_output(fix, to)
    elif to is not None:
        raise ValueError("--to names the format of the copy; it needs --fix OUT")
    errors, reading = 0, chosen_reading(channels, plane, exif)
    splits = open_splits(data, images, format=format, reading=reading)
    if fix is not None:
        with progress_bar("copying") as progress:
            fixed = fix_data(splits, fix, to=to, progress=progress)
        print_text(str(fixed))
        return
    for name, dataset in splits.items():
        report = check(dataset)
        for problem in report.problems:
            print_text(str(problem))
        print_text(f"split {name}: {report}" if name else str(report))
        errors += len(report.errors)
    if errors:
        raise typer.Exit(1)


@data_app.command(
    "convert",
    epilog=examples(
        "rcnn data convert instances.json yolo --to yolo --images photos/",
        "rcnn data convert cells/ cells_coco --to coco",
    ),
)
def data_convert(
    data: DataSource,
    out: OutFolder,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="coco, voc, yolo, masks, labels (label images), or your own (my_package:FORMAT)."
        ),
    ],
    images: ImagesFolder = None,
    format: DataFormat = None,
    skip_bad: SkipBad = False,
    plane: Plane = None,
    exif: Exif = None,
) -> None:
    """Convert a data set to another format. Images are copied; what the format cannot hold is listed."""
    from rcnn.data.convert import convert
    from rcnn.data.output_folder import refuse_output

    refuse_output(out, to)
    dataset = open_dataset(data, images, format, chosen_reading(None, plane, exif))
    with progress_bar("converting") as progress:
        conversion = convert(dataset, out, to=to, skip_bad=skip_bad, progress=progress)
    for problem in conversion.skipped:
        print_text(f"skipped: {problem}")
    print_text(str(conversion))


@data_app.command(
    "get",
    epilog=examples(
        "rcnn data get voc2007 --out data",
        "rcnn train data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt --val …/test.txt",
    ),
)
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="voc2007, voc2012 or voc0712 (both).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.", callback=writable_folder)],
) -> None:
    """Download a published data set. Interrupted downloads are resumed."""
    from rcnn.data.archives import get_data

    print_text(f"ready: {get_data(name, out, print_text)}")


@data_app.command("show", epilog=examples("rcnn data show cells/ --out look --count 40"))
def data_show(
    data: DataSource,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Output folder.", callback=writable_folder)],
    images: ImagesFolder = None,
    format: DataFormat = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images, chosen at random.")] = 24,
    seed: Annotated[int, typer.Option(help="Random seed for choosing the images.")] = 0,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
) -> None:
    """Draw the annotations of some images, one file per image and a contact sheet."""
    from rcnn.data.show import show

    dataset = open_dataset(data, images, format, chosen_reading(channels, plane, exif))
    with progress_bar("drawing") as progress:
        shown = show(dataset, out, count=count, seed=seed, progress=progress)
    for error in shown.failed:
        print_error(f"not drawn: {error}")
    print_text(f"{shown.images} of {len(dataset)} images drawn; contact sheet: {shown.sheet}")
