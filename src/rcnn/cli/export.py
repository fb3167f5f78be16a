"""``rcnn export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rcnn.cli.console import app, examples, print_text, progress_bar
from rcnn.cli.options import ImagesFolder, ModelSettings, NetworkSource, Trust, exists, open_dataset, writable


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
        Path,
        typer.Option(
            metavar="FILE", help="Output file (.onnx, .pt2), or folder for openvino.", callback=writable
        ),
    ],
    format: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="onnx, openvino, torch, or an exporter of your own (my_package.exporters:MINE).",
        ),
    ] = "onnx",
    transform_inside: Annotated[
        bool,
        typer.Option("--transform-inside", help="Include resizing and normalisation in the exported file."),
    ] = False,
    int8: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Quantise to int8, calibrated on these images (openvino only).",
            callback=exists,
        ),
    ] = None,
    images: ImagesFolder = None,
    settings: ModelSettings = None,
    trust: Trust = None,
) -> None:
    """Export a model to ONNX or OpenVINO, which run without torch, or to torch.export.

    predict and evaluate take the exported file as MODEL.
    """
    from rcnn.evaluation.int8 import NUM_CALIBRATION_IMAGES, compare_int8
    from rcnn.inference.exported import open_exported
    from rcnn.inference.exporters import check_export
    from rcnn.inference.exporters import export as write
    from rcnn.loading import load_detector

    check_export(out, format, calibrates=int8 is not None)
    detector = load_detector(model, "cpu", settings=settings or (), trust=trust or ())
    dataset = None if int8 is None else open_dataset(int8, images, reading=detector.reading)
    seen = () if dataset is None else dataset.images(NUM_CALIBRATION_IMAGES)
    written = write(detector, out, format, transform_inside=transform_inside, calibration=seen)
    print_text(f"written: {written}")
    if dataset is not None:
        with progress_bar("comparing with the network") as progress:
            print_text(str(compare_int8(detector, open_exported(out), dataset, progress=progress)))
