"""``rcnn models``."""

from __future__ import annotations

from collections.abc import Iterator

from rcnn.cli.console import app, examples, print_table

Rows = list[tuple[str, ...]]


@app.command(epilog=examples("rcnn models"))
def models() -> None:
    """List models, backbones and recipes, and the sources of their weights."""
    from rich.table import Table

    for title, columns, rows in _tables():
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        print_table(table)


def _tables() -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """Title, columns and rows; without torch."""
    from rcnn.catalogue import BACKBONES, MODELS, PUBLISHED
    from rcnn.loading import shipped
    from rcnn.training.recipe import recipe_summaries

    yield "Models (--model)", ("name", "task"), list(MODELS.items())
    yield "Backbones (--backbone)", ("name", "ImageNet weights"), list(BACKBONES.items())
    recipes: Rows = [(name, *summary) for name, summary in recipe_summaries().items()]
    yield "Recipes (--recipe)", ("name", "model", "backbone"), recipes
    trained: Rows = [(name, str(path)) for name, path in shipped().items()]
    yield "Trained models in this package (use as MODEL)", ("name", "file"), trained
    columns = ("name", "weights (downloaded, or from RCNN_WEIGHTS)")
    yield "Models trained on COCO (use as MODEL)", columns, list(PUBLISHED.items())
