"""``rcnn models``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rcnn.cli.console import app, examples, print_table

if TYPE_CHECKING:
    from rcnn.training.inventory import Inventory

Rows = list[tuple[str, ...]]


@app.command(epilog=examples("rcnn models"))
def models() -> None:
    """List models, backbones and recipes, and the sources of their weights."""
    from rich.table import Table

    from rcnn.metrics.shown import plain
    from rcnn.training.inventory import list_models

    for title, columns, rows in _tables(list_models()):
        table = Table(title=plain(title), title_justify="left")
        for column in columns:
            table.add_column(plain(column), overflow="fold")
        for row in rows:
            table.add_row(*map(plain, row))
        print_table(table)


def _tables(known: Inventory) -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """Title, columns and rows."""
    yield "Models (--model)", ("name", "task"), list(known.models.items())
    yield "Backbones (--backbone)", ("name", "ImageNet weights"), list(known.backbones.items())
    recipes: Rows = [(name, *summary) for name, summary in known.recipes.items()]
    yield "Recipes (--recipe)", ("name", "model", "backbone"), recipes
    trained: Rows = [(name, str(path)) for name, path in known.shipped.items()]
    yield "Trained models in this package (use as MODEL)", ("name", "file"), trained
    columns = ("name", "weights (downloaded, or from RCNN_WEIGHTS)")
    yield "Models trained on COCO (use as MODEL)", columns, list(known.published.items())
