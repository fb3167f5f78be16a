"""``rcnn predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from rcnn.cli.bulk import (
    PARQUET,
    Actors,
    GpusPerActor,
    OutlinesForm,
    RayAddress,
    RetryErrors,
    RowsPerShard,
    Shards,
    Status,
    predict_shards,
    print_status,
    ray_options,
)
from rcnn.cli.console import app, examples, print_error, print_text, progress_bar
from rcnn.cli.options import (
    MODEL_HELP,
    Channels,
    CopyImages,
    Device,
    Exif,
    Formats,
    Half,
    MaxDetections,
    ModelSettings,
    Plane,
    Precision,
    Svd,
    Trust,
    chosen_measuring,
    chosen_reading,
    exists,
    formats_of,
    load_model,
    reading_settings,
    writable_place,
)


@app.command(
    epilog=examples(
        "rcnn predict nuclei",
        "rcnn predict runs/cells new_images/",
        "rcnn predict runs/cells slides/ --measure shape,intensity --pixel-size 0.32um --colour-by area",
        "rcnn predict runs/cells a.jpg b.tif --out results --min-score 0.7 --overlay-format jpg",
        "rcnn predict runs/cells new_images/ --to coco,labels --no-overlays",
    )
)
def predict(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Image files and folders. Annotated masks next to the images of a data set are skipped. "
            "Default for the bundled model nuclei: the two photographs that come with it. With --to parquet "
            "also patterns, lists, tables, inventories, and addresses such as s3://bucket/folder.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Output folder for overlays and tables. Default: found, then found-2, …",
            callback=writable_place,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Drop detections with a lower score. Default: the model's threshold."
        ),
    ] = None,
    max_detections: MaxDetections = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace what an earlier prediction wrote to the output folder."),
    ] = False,
    image_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="COCO file whose image ids are used in predictions.json and panoptic.json.",
            callback=exists,
        ),
    ] = None,
    results_only: Annotated[
        bool,
        typer.Option(
            "--results-only",
            help="Write predictions.json as the bare list of results that COCO's evaluation reads.",
        ),
    ] = False,
    overlays: Annotated[
        bool,
        typer.Option(
            "--overlays/--no-overlays", help="Write overlays: images with the objects drawn on them."
        ),
    ] = True,
    overlay_scale: Annotated[
        int,
        typer.Option(min=1, help="Enlarge overlays by this factor, to make room for numbers and text."),
    ] = 1,
    overlay_format: Annotated[
        str, typer.Option(metavar="NAME", help="File format of overlays: png or jpg.")
    ] = "png",
    to: Formats = None,
    copy_images: CopyImages = True,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Measure the objects: shape, intensity, or both as shape,intensity. Writes "
            "measurements.csv, summary.csv and measurements.html.",
        ),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Side of a pixel, for example 0.32um, 50nm or 1200dpi; px measures in pixels. Default: from "
            "the metadata of TIFF files.",
        ),
    ] = None,
    background: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Background of intensities: ring around each object, or the whole image without objects.",
        ),
    ] = "ring",
    regions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Count objects inside regions: GeoJSON, ImageJ ROIs, COCO or a mask image; or a folder with "
            "one file per image.",
            callback=exists,
        ),
    ] = None,
    colour_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Colour the objects on overlays by a measurement, for example area."
        ),
    ] = None,
    colour_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Values of the first and last colour. Default: 2nd to 98th percentile of each image.",
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "auto",
    half: Half = False,
    svd: Svd = None,
    settings: ModelSettings = None,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    trust: Trust = None,
    rows_per_shard: RowsPerShard = 1000,
    outlines: OutlinesForm = "rle",
    shards: Shards = None,
    retry_errors: RetryErrors = False,
    ray: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
    status: Status = None,
) -> None:
    """Find objects in images; write overlays, predictions.json (COCO), objects.csv and counts.csv.

    The number on an object is its row in objects.csv.

    Panoptic and semantic models also write maps and areas.csv.

    What is done is kept if the command is stopped; the same command with the same --out continues.
    """
    if status is not None:
        print_status(status)
        return
    if model is None:
        raise ValueError("predict: give the MODEL to predict with, and the IMAGES")
    formats = formats_of(to)
    if PARQUET in formats:
        elsewhere = {
            "--svd": svd, "--overwrite": overwrite, "--image-ids": image_ids, "--results-only": results_only,
            "--measure": measure, "--pixel-size": pixel_size, "--regions": regions, "--colour-by": colour_by,
        }  # fmt: skip
        if len(formats) > 1 or out is None or images is None or any(elsewhere.values()):
            given = [name for name, value in elsewhere.items() if value]
            raise ValueError(
                f"--to {' '.join([','.join(formats), *given])}: expected IMAGES, --out and --to parquet alone"
            )
        from rcnn.bulk import BulkOptions
        from rcnn.bulk.worker import WorkerOptions

        changes = (*(settings or ()), *reading_settings(channels, plane, exif))
        worker = WorkerOptions(
            device, "bf16" if half else precision, changes, tuple(trust or ()), retry_errors=retry_errors
        )
        asked = BulkOptions(min_score, max_detections, cast("Any", outlines), rows_per_shard)
        predict_shards(
            model, images, out, asked, worker=worker, shards=shards,
            ray=ray_options(ray, actors, gpus_per_actor),
        )  # fmt: skip
        return
    bulk_only = {"--shards": shards, "--retry-errors": retry_errors, "--ray": ray}
    if any(bulk_only.values()):
        given = [name for name, value in bulk_only.items() if value]
        raise ValueError(f"{', '.join(given)}: only for --to parquet; add it, or leave the option out")
    from rcnn.inference.output_files import OutputFiles, output_folder
    from rcnn.inference.output_tables import check_output
    from rcnn.inference.sources import find_images
    from rcnn.inference.writers import predict_to_files

    form = cast("Any", overlay_format)
    measuring = chosen_measuring(measure, pixel_size, background, regions, colour_by, colour_range)
    files = OutputFiles(
        overlays, overlay_scale, form, results_only, formats, copy_images, measuring
    )  # fmt: skip
    shown = [Path(image) for image in images or ()] or _photographs(model)
    folder = output_folder(out)
    check_output(folder, overwrite=overwrite)
    find_images(shown, exclude=folder)  # a wrong path is reported before the model is loaded
    detector = load_model(
        model, device, precision=precision, half=half, svd=svd, settings=settings, trust=trust
    )
    detector = detector.with_reading(chosen_reading(channels, plane, exif, detector.reading))
    with progress_bar("predicting") as progress:
        summary = predict_to_files(
            detector, shown, folder, min_score=min_score, max_detections=max_detections, image_ids=image_ids,
            files=files, progress=progress, overwrite=overwrite,
        )  # fmt: skip
    found = [f"{count} {name}" for name, count in summary.counts.items() if count]
    found += [f"{name} {fraction:.1%}" for name, fraction in summary.pixel_fractions.items() if fraction]
    how = "" if summary.precision == "float32" else f"; precision: {summary.precision}"
    print_text(f"{summary.images} images: {', '.join(found) or 'no objects'}; written: {summary.out}{how}")
    if summary.pixel_size:
        print_text(
            f"side of a pixel: {summary.pixel_size}; distributions: {summary.out / 'measurements.html'}"
        )
    for line in summary.lost_lines():
        print_text(line)
    if summary.full:
        print_error(
            f"{len(summary.full)} images reached the maximum number of detections, for example "
            f"{summary.full[0]}; there may be more objects: raise --max-detections"
        )
    if summary.cut:
        print_error(
            f"{sum(summary.cut.values())} objects in {len(summary.cut)} images, for example "
            f"{next(iter(summary.cut))}, are cut by the border of a tile, and their rest was not found: box, "
            "mask and area are too small"
        )
    if summary.failed:
        print_error("\n".join((f"{len(summary.failed)} images could not be read or drawn:", *summary.failed)))
        raise typer.Exit(1)


def _photographs(model: str) -> list[Path]:
    """The photographs that come with a model, which are said to be used in place of a user's own."""
    from rcnn.config import did_you_mean
    from rcnn.loading import sample_images, shipped

    images = sample_images(model)
    if not images:
        names = [name for name in shipped() if sample_images(name)]
        hint = "" if Path(model).exists() else did_you_mean(model, names)
        raise ValueError(
            f"predict {model}: {hint}give the IMAGES to find objects in; only models that come with "
            f"photographs ({', '.join(names)}) need none"
        )
    print_text(
        f"no IMAGES given: using the photographs that come with {model}: {', '.join(map(str, images))}"
    )
    return images
