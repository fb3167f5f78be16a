"""``rcnn data split``, ``merge`` and ``stats``: data sets divided, joined and looked at as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rcnn.cli.console import examples, print_text, progress_bar
from rcnn.cli.data import data_app
from rcnn.cli.options import (
    DataFormat,
    DataSource,
    ImagesFolder,
    OutFolder,
    SkipBad,
    new_names,
    open_dataset,
    writable_file,
)

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="Format of OUT, as for `rcnn data convert`. Default: that of DATA, or COCO if that cannot be "
        "written.",
    ),
]


@data_app.command(
    "split",
    epilog=examples(
        "rcnn data split cells/ cells_split --val 0.15 --test 0.15", "rcnn train cells_split --minutes 20"
    ),
)
def data_split(
    data: DataSource,
    out: OutFolder,
    val: Annotated[float, typer.Option(help="Fraction of the images for validation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Fraction of the images for testing.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Random seed for choosing the images.")] = 0,
    to: To = None,
    images: ImagesFolder = None,
    format: DataFormat = None,
    skip_bad: SkipBad = False,
) -> None:
    """Divide a data set into OUT/train, OUT/val and OUT/test. Images are copied.

    Validation images are the ones that `rcnn train` holds out with the same seed. The last image with a class
    stays in train, and so do all copies of an image.
    """
    from rcnn.data.output_folder import refuse_output
    from rcnn.data.splitting import split_data

    refuse_output(out, to)
    dataset = open_dataset(data, images, format)
    with progress_bar("copying") as progress:
        parts = split_data(
            dataset, out, val=val, test=test, seed=seed, to=to, skip_bad=skip_bad, progress=progress
        )
    _print(parts)


@data_app.command(
    "merge",
    epilog=examples(
        "rcnn data merge cells_2023/ cells_2024/ cells",
        "rcnn data merge a/ b.json all --rename Zelle=cell --rename cells=cell",
    ),
)
def data_merge(
    sources: Annotated[list[Path], typer.Argument(metavar="DATA DATA…", help="Two or more data sets.")],
    out: OutFolder,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Another name for a class. Repeatable."),
    ] = None,
    copies: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="For an image that occurs again with other objects: `first` keeps the objects of the first, "
            "`join` those of both. Default: such images are refused.",
        ),
    ] = None,
    to: To = None,
    skip_bad: SkipBad = False,
) -> None:
    """Merge data sets into one. Images are copied, and each is kept once.

    Classes are matched by name, without regard to case. Data sets with splits are merged split by split.
    """
    from rcnn.data.merging import merge_data

    how: Any = copies
    with progress_bar("copying") as progress:
        merged = merge_data(
            sources,
            out,
            rename=new_names(rename or []),
            copies=how,
            to=to,
            skip_bad=skip_bad,
            progress=progress,
        )
    _print(merged)


@data_app.command(
    "stats",
    epilog=examples(
        "rcnn data stats cells/ --out cells.html", "rcnn data stats train.json val.json --out both.html"
    ),
)
def data_stats(
    sources: Annotated[list[Path], typer.Argument(metavar="DATA…", help="One or more data sets.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The HTML file to write.", callback=writable_file)
    ] = Path("stats.html"),
) -> None:
    """Write a page about data sets: suspicious objects first, duplicates, classes, sizes, shapes, positions.

    All splits of a folder are opened, and compared with one another.
    """
    from rcnn.evaluation.data_page import data_stats as write_page

    with progress_bar("looking") as progress:
        page = write_page(sources, out, progress=progress)
    print_text(f"written: {page}")


def _print(made: Any) -> None:
    for problem in made.skipped:
        print_text(f"skipped: {problem}")
    print_text(str(made))
