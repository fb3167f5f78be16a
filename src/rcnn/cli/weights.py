"""``rcnn weights import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text

weights_app = typer.Typer(no_args_is_help=True, help="Import weights from other programs.")
app.add_typer(weights_app, name="weights")


@weights_app.command(
    "import",
    epilog=examples(
        "rcnn weights import model_final_f10217.pkl --from detectron2 --out mask_rcnn",
        "rcnn weights import model_final.pth --from detectron2 --config config.yaml --out cells",
        "rcnn weights import epoch_12.pth --from mmdetection --classes names.txt --out cells",
    ),
)
def weights_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights file: .pkl, .pth, .pt or .safetensors.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="PROGRAM", help="Source program: torchvision, detectron2 or mmdetection."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Output file, .safetensors.")],
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text file of class names, one per line.")
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Channel order, rgb or bgr, if it differs from the program's default.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Detectron2's config.yaml, from the output folder of the training."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the model. Repeatable."),
    ] = None,
) -> None:
    """Convert a detector from another program to a checkpoint of rcnn."""
    from rcnn.importers.convert import import_weights

    imported = import_weights(
        file, source, classes=classes, channels=channels, settings=settings or [], config=config
    )
    path = imported.detector.save(out.with_name(f"{out.name.removesuffix('.safetensors')}.safetensors"))
    for note in imported.notes:
        print_text(note)
    print_text(f"written: {path}; use it with: rcnn predict {path} IMAGES")
