"""``rcnn weights import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text, warn_renamed
from rcnn.cli.options import exists, writable_file

weights_app = typer.Typer(no_args_is_help=True, help="Import weights from other programs.")
app.add_typer(weights_app, name="weights")


def _named(param: typer.CallbackParam, value: Path) -> Path:
    """The file that is written, which has this extension whatever was given."""
    if value.name:
        value = value.with_name(f"{value.name.removesuffix('.safetensors')}.safetensors")
    writable_file(param, value)
    return value


@weights_app.command(
    "import",
    epilog=examples(
        "rcnn weights import model_final_f10217.pkl --source detectron2 --out mask_rcnn",
        "rcnn weights import model_final.pth --source detectron2 --config config.yaml --out cells",
        "rcnn weights import epoch_12.pth --source mmdetection --classes names.txt --out cells",
    ),
)
def weights_import(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights file: .pkl, .pth, .pt or .safetensors.")
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Output file, .safetensors.", callback=_named)],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM", help="Program of the file: torchvision, detectron2 or mmdetection.  [required]"
        ),
    ] = None,
    old_source: Annotated[
        str | None, typer.Option("--from", hidden=True, help="The old name of --source.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of class names, one per line.", callback=exists),
    ] = None,
    channels: Annotated[
        str | None, typer.Option(help="Channel order, rgb or bgr, if it differs from the program's default.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Detectron2's config.yaml, from the output folder of the training.",
            callback=exists,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the model. Repeatable."),
    ] = None,
) -> None:
    """Convert a detector from another program to a checkpoint of rcnn."""
    if old_source is not None:
        warn_renamed("--from", "--source")
        source = source or old_source
    if source is None:
        raise ValueError("weights import: name the program of the file: --source detectron2, for example")
    from rcnn.importers.convert import import_weights

    imported = import_weights(
        file, source, classes=classes, channels=channels, settings=settings or [], config=config
    )
    path = imported.detector.save(out)
    for note in imported.notes:
        print_text(note)
    print_text(f"written: {path}; use it with: rcnn predict {path} IMAGES")
