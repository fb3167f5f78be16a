"""``rcnn weights import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text

weights_app = typer.Typer(no_args_is_help=True, help="Weights of other programs.")
app.add_typer(weights_app, name="weights")


@weights_app.command(
    "import",
    epilog=examples(
        "rcnn weights import model_final_f10217.pkl --from detectron2 --out mask_rcnn",
        "rcnn weights import epoch_12.pth --from mmdetection --classes names.txt --out cells",
    ),
)
def weights_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Their .pkl, .pth, .pt or .safetensors.")],
    source: Annotated[
        str, typer.Option("--from", metavar="PROGRAM", help="torchvision, detectron2 or mmdetection.")
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="The file to make, .safetensors.")],
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the classes, one a line.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="rgb or bgr, where the model is not as usual in its program.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model that is not the usual one."),
    ] = None,
) -> None:
    """Turn a detector that another program trained into a model for all verbs here."""
    from rcnn.importers.convert import import_weights

    imported = import_weights(file, source, classes=classes, channels=channels, settings=settings or [])
    path = imported.detector.save(out.with_name(f"{out.name.removesuffix('.safetensors')}.safetensors"))
    for note in imported.notes:
        print_text(note)
    print_text(f"written: {path}; use it with: rcnn predict {path} IMAGES --out DIR")
