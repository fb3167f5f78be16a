"""``rcnn explain``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.console import app, examples, print_table, print_text, progress_bar
from rcnn.cli.options import (
    Channels,
    DataFormat,
    Device,
    Exif,
    ImagesFolder,
    JsonFile,
    MaxDetections,
    ModelSettings,
    NetworkSource,
    Plane,
    Precision,
    ProposalsFile,
    SkipBad,
    Trust,
    chosen_reading,
    load_model,
    open_dataset,
    writable_file,
)

if TYPE_CHECKING:
    from rcnn.evaluation.explain.explanation import Explanation
    from rcnn.metrics.causes import Causes

MOST_LISTED = 20  # missed objects in the terminal


@dataclass(frozen=True)
class Outputs:
    """The files to write.

    Attributes:
        picture: PNG or JPEG.
        html: the page.
        json: all values.
    """

    picture: Path | None
    html: Path | None
    json: Path | None

    @property
    def to_stdout(self) -> bool:
        """Whether standard output holds JSON alone."""
        from rcnn.io.atomic import STDOUT

        return str(self.json) == STDOUT


@app.command(
    epilog=examples(
        "rcnn explain runs/cells cells/val",
        "rcnn explain runs/cells photo.jpg --at 210,145 --html why.html",
        "rcnn explain runs/cells cells/val --image a7.png --object 3 --picture why.png",
    )
)
def explain(
    model: NetworkSource,
    source: Annotated[
        Path,
        typer.Argument(metavar="IMAGE|DATA", help="An image file, or annotated images (docs/data.md)."),
    ],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="Place in the image, in pixels, or a box X1,Y1,X2,Y2. Default: the best detection, or the "
            "first missed object of --image.",
        ),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Class to look for at this place. Default: likeliest."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="One image of DATA: its file name or id.")
    ] = None,
    object_number: Annotated[
        int | None,
        typer.Option("--object", min=1, metavar="N", help="Annotated object of --image, counted from 1."),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a picture of the stages, PNG or JPEG.", callback=writable_file
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page that needs no network.", callback=writable_file),
    ] = None,
    json_file: JsonFile = None,
    min_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score threshold. Default: the model's."),
    ] = None,
    max_detections: MaxDetections = None,
    images: ImagesFolder = None,
    format: DataFormat = None,
    proposals: ProposalsFile = None,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    skip_bad: SkipBad = False,
    device: Device = None,
    precision: Precision = "auto",
    settings: ModelSettings = None,
    trust: Trust = None,
) -> None:
    """Show why objects are found or missed, stage by stage.

    With DATA: the cause of every missed object. With IMAGE, or DATA and --image: one object or place.
    """
    from rcnn.evaluation.explain.explain import check_explainable
    from rcnn.evaluation.explain.explain import explain as explain_place
    from rcnn.evaluation.explain.missed import explain_data, explain_object, find_image
    from rcnn.evaluation.preparation import usable_images, with_required_proposals
    from rcnn.io.images import IMAGE_ENDINGS

    outputs = Outputs(picture, html, json_file)
    is_image = source.suffix.lower() in IMAGE_ENDINGS and source.is_file()
    _check_options(source, is_image, outputs, image=image, number=object_number, at=at, class_name=class_name)
    place = None if at is None else _place(at)
    detector = load_model(model, device, precision=precision, settings=settings, trust=trust)
    check_explainable(detector)
    detector = detector.with_reading(chosen_reading(channels, plane, exif, detector.reading))
    asked: dict[str, Any] = {"min_score": min_score, "max_detections": max_detections}
    if is_image:
        if proposals is not None:
            raise ValueError("--proposals: only for DATA; an image's are searched for")
        found = explain_place(detector, source, at=place, class_name=class_name, **asked)
        _write(found, _pixels(source, detector.reading), outputs)
        return
    dataset = open_dataset(source, images, format, detector.reading)
    dataset, left_out = usable_images(dataset, detector, skip_bad=skip_bad)
    for problem in left_out:
        print_text(f"skipped: {problem}")
    if image is not None:
        dataset = dataset.subset([find_image(dataset, image)])
        objects = len(dataset.records[0].truth)
        if object_number is not None and object_number > objects:
            raise ValueError(f"--object {object_number}: {image} has {objects} objects, counted from 1")
    with progress_bar("proposing") as progress:
        dataset = with_required_proposals(dataset, detector, proposals, progress=progress)
    if image is not None:
        index = None if object_number is None else object_number - 1
        found = explain_object(detector, dataset, 0, at=place, index=index, **asked)
        _write(found, dataset[0].image, outputs)
        return
    with progress_bar("explaining") as progress:
        causes = explain_data(detector, dataset, progress=progress, **asked)
    _write_causes(causes, dataset, outputs, title=f"Why {model} misses objects of {source}")


def _check_options(
    source: Path,
    is_image: bool,
    outputs: Outputs,
    *,
    image: str | None,
    number: int | None,
    at: str | None,
    class_name: str | None,
) -> None:
    """Refuse options that do not belong together.

    Raises:
        ValueError: it names them.
    """
    if is_image and (image is not None or number is not None):
        raise ValueError(
            f"explain: --image and --object choose from annotated images, but {source} is one image"
        )
    if not is_image and image is None:
        given = [
            name
            for name, value in (("--at", at), ("--object", number), ("--picture", outputs.picture))
            if value is not None
        ]
        if given:
            raise ValueError(f"explain: {given[0]} is about one image: choose it with --image NAME")
    if not is_image and class_name is not None:
        raise ValueError(
            "explain: --class is for an image without annotations; annotated objects have a class"
        )
    if outputs.picture is not None and outputs.picture.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--picture {outputs.picture}: expected a name that ends in .png or .jpg")


def _place(text: str) -> list[float]:
    """The numbers of a place.

    Raises:
        ValueError: a text of another form.
    """
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--at {text}: expected X,Y or X1,Y1,X2,Y2 in pixels, such as 210,145") from error


def _pixels(file: Path, reading: Any) -> Any:
    """The pixels of an image file, read as the model reads it."""
    from rcnn.io.images import read_image
    from rcnn.io.reading import reading_as

    with reading_as(reading):
        return read_image(file)


def _write(found: Explanation, image: Any, outputs: Outputs) -> None:
    """Print the stages of one explanation, and write what was asked for."""
    from rcnn.evaluation.explain.drawing import picture
    from rcnn.evaluation.explain.pages import explanation_page
    from rcnn.io.atomic import write_atomically
    from rcnn.io.picture_files import write_image

    if not outputs.to_stdout:
        print_text(found.verdict)
        print_table(found.table())
    if outputs.picture is not None:
        write_image(picture(image, found), outputs.picture)
    if outputs.html is not None:
        write_atomically(outputs.html, explanation_page(image, found).encode())
    if outputs.json is not None:
        write_atomically(outputs.json, found.json_text().encode())
    _say_written(outputs)


def _write_causes(causes: Causes, dataset: Any, outputs: Outputs, *, title: str) -> None:
    """Print the causes of a data set, and write what was asked for."""
    from rcnn.evaluation.explain.pages import causes_page
    from rcnn.io.atomic import write_atomically

    if not outputs.to_stdout:
        print_table(causes.table().rich())
        for cause, advice in list(causes.advice().items())[:3]:
            print_text(f"{cause}: what may help: {advice}")
        for line in causes.lines(MOST_LISTED):
            print_text(line)
    if outputs.html is not None:
        write_atomically(outputs.html, causes_page(causes, dataset, title=title).encode())
    if outputs.json is not None:
        write_atomically(outputs.json, json.dumps(causes.to_json(), indent=1).encode())
    _say_written(outputs)


def _say_written(outputs: Outputs) -> None:
    files = [str(path) for path in (outputs.picture, outputs.html, outputs.json) if path is not None]
    if files and not outputs.to_stdout:
        print_text(f"written: {', '.join(files)}")
