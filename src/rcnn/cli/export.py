"""``rcnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text, progress_bar
from rcnn.cli.options import ImagesFolder, ModelSettings, NetworkSource, Trust, open_dataset


@app.command(
    epilog=examples(
        "rcnn export runs/cells --out cells.onnx",
        "rcnn export runs/cells --format openvino --out cells-openvino",
        "rcnn export runs/cells --format openvino --out cells-int8 --int8 cells/val",
    )
)
def export(
    model: NetworkSource,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where it goes: .onnx, .pt2, or a folder for openvino.")
    ],
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="onnx, openvino, torch, or your own exporter (my_package.exporters:MINE)."
        ),
    ] = "onnx",
    transform_inside: Annotated[
        bool,
        typer.Option("--transform-inside", help="Let the file itself resize and normalise images of bytes."),
    ] = False,
    int8: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA", help="Compute in eight-bit integers, fitted to these images (openvino only)."
        ),
    ] = None,
    images: ImagesFolder = None,
    settings: ModelSettings = None,
    trust: Trust = None,
) -> None:
    """Write a model as ONNX or OpenVINO, which predict without torch, or as a torch.export program.

    Use the file as MODEL in predict and evaluate.
    """
    from rcnn.evaluation.int8 import NUM_CALIBRATION_IMAGES, compare_int8
    from rcnn.inference.exported import open_exported
    from rcnn.inference.exporters import export as write
    from rcnn.loading import load_detector

    detector = load_detector(model, "cpu", settings=settings or (), trust=trust or ())
    dataset = None if int8 is None else open_dataset(int8, images)
    seen = () if dataset is None else dataset.images(NUM_CALIBRATION_IMAGES)
    written = write(detector, out, format, transform_inside=transform_inside, calibration=seen)
    print_text(f"written: {written}")
    if dataset is not None:
        with progress_bar("measuring what it costs") as progress:
            print_text(str(compare_int8(detector, open_exported(out), dataset, progress=progress)))
