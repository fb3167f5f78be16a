"""Options shared by several verbs, and functions that apply them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.console import print_error, warn_renamed
from rcnn.io.destinations import refuse_unwritable, refuse_unwritable_file, refuse_unwritable_folder
from rcnn.processes.launch import is_first

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.io.reading import Reading
    from rcnn.measuring.prediction import Measuring


PathCallback = Callable[[typer.CallbackParam, Path | None], Path | None]


def _refusing(refuse: Callable[[Path], None]) -> PathCallback:
    """A callback of an option that names an output; typer calls it when the options are read."""

    def callback(param: typer.CallbackParam, value: Path | None) -> Path | None:
        if value is not None:
            try:
                refuse(value)
            except ValueError as error:
                raise ValueError(f"{_shown_name(param)} {error}") from error
        return value

    return callback


# Every option and argument that names an output has one of these, so that what cannot be written is refused
# before anything is opened; every option that names an input has ``exists``.
writable_file = _refusing(refuse_unwritable_file)
writable_folder = _refusing(refuse_unwritable_folder)
writable = _refusing(refuse_unwritable)


def run_folder(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """As ``writable_folder``; of several processes only the first one writes."""
    return writable_folder(param, value) if is_first() else value


def exists(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Refuse an input that is not there when the options are read; data of your own have a dotted path.

    Raises:
        FileNotFoundError: it names the option and the path.
    """
    if value is None or value.exists():
        return value
    from rcnn.config import is_dotted_path

    if not is_dotted_path(str(value)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{_shown_name(param)} {value}")
    return value


def writable_place(param: typer.CallbackParam, value: str | None) -> str | None:
    """As ``writable_folder``, for an output that may also be the address of a store."""
    if value is not None and "://" not in value:
        writable_folder(param, Path(value))
    return value


def all_exist(param: typer.CallbackParam, values: list[Path] | None) -> list[Path] | None:
    """The same of an option that may be given several times; raises as :func:`exists`."""
    for value in values or ():
        exists(param, value)
    return values


def _shown_name(param: typer.CallbackParam) -> str:
    is_option = param.param_type_name == "option"
    return param.opts[0] if is_option else str(param.metavar)


DATA_HELP = "COCO JSON file, YOLO's data.yaml, or a folder of a known layout (docs/data.md)."
DataSource = Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP)]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.", callback=writable_folder)]
ImagesFolder = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder of the images, if not next to DATA.", callback=exists
    ),
]  # fmt: skip
DataFormat = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="NAME",
        help="Format of DATA: a name such as coco or yolo, or your own (my_package.formats:MyFormat). "
        "Default: detected.",
    ),
]  # fmt: skip
MODEL_HELP = (
    "Run folder, .safetensors file, exported file or folder, hf://USER/NAME, or a name listed by "
    "`rcnn models`."
)
ModelSource = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
NetworkSource = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Run folder, .safetensors file, hf://USER/NAME, or a name listed by `rcnn models`.",
    ),
]
ProposalsFile = Annotated[
    Path | None,
    typer.Option(
        "--proposals", metavar="FILE",
        help="External proposals (.npz, .mat, COCO .json) for models without an RPN. Default: selective "
        "search.",
        callback=exists,
    ),
]  # fmt: skip
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, … Default: a GPU if there is one.")]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write all results to this file; - prints them.",
        callback=writable_file,
    ),
]  # fmt: skip
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip images with errors instead of stopping.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust", metavar="MODULE",
        help="Python package that a model file or recipe may import code from, or all. Repeatable.",
    ),
]  # fmt: skip
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, bf16 or float32. auto: bf16 for prediction where it is clearly faster, float32 for "
        "evaluation.",
    ),
]
Half = Annotated[bool, typer.Option("--half", hidden=True, help="The old name of --precision bf16.")]
Svd = Annotated[
    str | None,
    typer.Option(
        "--svd", metavar="T6,T7",
        help="Compress the two fully connected layers of Fast R-CNN by truncated SVD to these ranks, for "
        "example 1024,256.",
    ),
]  # fmt: skip
ModelSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="Change a setting for prediction, for example model.box.nms_iou=0.4. Repeatable.",
    ),
]  # fmt: skip
Channels = Annotated[
    str | None,
    typer.Option(
        "--channels", metavar="0,2,1", help="Channels of the images to take, counted from 0. Default: all."
    ),
]
Plane = Annotated[
    str | None,
    typer.Option(
        "--plane", metavar="N",
        help="Plane of image stacks to take, counted from 0, or max or mean of all planes.",
    ),
]  # fmt: skip
Exif = Annotated[
    str | None,
    typer.Option(
        "--exif", metavar="HOW",
        help="turned or stored: whether objects were drawn on images turned by EXIF, or on stored pixels. "
        "Default: turned.",
    ),
]  # fmt: skip
MaxDetections = Annotated[
    int | None, typer.Option(min=1, help="Maximum detections per image. Default: the model's setting.")
]

_FORMATS = (
    "coco, labels, masks, yolo, voc, labelme, imagej, geojson, label-studio, cvat, csv, createml, or your "
    "own (my_package.formats:MyFormat). Several: --to coco,labels."
)
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--to", metavar="FORMAT",
        help=f"Also write the objects as a data set, into a folder of its own: {_FORMATS} parquet alone: one "
        "row per image in shards, for any number of images.",
    ),
]  # fmt: skip
FormatsToCorrect = Annotated[
    list[str] | None,
    typer.Option(
        "--to", metavar="FORMAT",
        help=f"Data set of the images and of what the model finds in them: {_FORMATS} Default: coco.",
    ),
]  # fmt: skip
CopyImages = Annotated[
    bool,
    typer.Option(
        "--copy-images/--no-copy-images",
        help="Copy the images into the folders of --to. Without copies, name their folder (--images) when "
        "you open the data set.",
    ),
]


def formats_of(to: list[str] | None) -> tuple[str, ...]:
    """The formats of ``--to``, given once or several times, with commas or without."""
    return tuple(name.strip() for text in to or () for name in text.split(",") if name.strip())


def reading_settings(
    channels: str | None = None, plane: str | None = None, exif: str | None = None
) -> list[str]:
    """The options about reading images as settings of ``transform.read``.

    Raises:
        ValueError: an option of another form; it names the option.
    """
    settings = []
    if channels is not None:
        numbers = [number.strip() for number in channels.split(",")]
        if not all(number.isdecimal() for number in numbers):
            raise ValueError(f"--channels {channels}: expected numbers from 0, such as 0,2,1")
        settings.append(f"transform.read.channels=[{','.join(numbers)}]")
    if plane is not None:
        if not plane.isdecimal() and plane not in ("max", "mean"):
            raise ValueError(f"--plane {plane}: expected a number from 0, max or mean")
        settings.append(f"transform.read.plane={plane}")
    if exif is not None:
        if exif not in ("turned", "stored"):
            raise ValueError(f"--exif {exif}: expected turned or stored")
        settings.append(f"transform.read.exif={exif}")
    return settings


def new_names(rename: list[str]) -> dict[str, str]:
    """New names of classes by the old ones, of texts such as ``cells=cell``.

    Raises:
        ValueError: a text of another form.
    """
    names = {}
    for text in rename:
        old, equals, new = text.partition("=")
        if not equals or not old.strip() or not new.strip():
            raise ValueError(f"--rename {text}: expected OLD=NEW, such as cells=cell")
        names[old.strip()] = new.strip()
    return names


def chosen_reading(
    channels: str | None, plane: str | None, exif: str | None, base: Reading | None = None
) -> Reading:
    """How images are read by these options, on top of ``base``, such as a model's own reading.

    Raises:
        ValueError: as :func:`reading_settings`.
    """
    from rcnn.io.reading import Reading

    return (base or Reading()).changed(reading_settings(channels, plane, exif))


def chosen_measuring(
    kinds: str | None,
    pixel_size: str | None,
    background: str,
    regions: Path | None,
    colour_by: str | None,
    colour_range: str | None,
) -> Measuring | None:
    """What these options measure; None: nothing. Options about measuring without kinds measure shapes.

    Raises:
        ValueError: an option of another form; it names the option.
    """
    if kinds is None and not (pixel_size or regions or colour_by):
        if background != "ring" or colour_range:
            raise ValueError(
                "--background and --colour-range need --measure, such as --measure shape,intensity"
            )
        return None
    from rcnn.measuring.prediction import Measuring

    limits = None
    if colour_range is not None:
        try:
            low, high = (float(number) for number in colour_range.split(","))
        except ValueError as error:
            raise ValueError(f"--colour-range {colour_range}: expected two numbers, such as 0,500") from error
        limits = low, high
    by_intensity = colour_by is not None and colour_by.startswith("intensity")
    default = ["shape", "intensity"] if by_intensity else ["shape"]
    chosen = default if kinds is None else [kind.strip() for kind in kinds.split(",")]
    return Measuring(
        tuple(chosen), pixel_size, background, None if regions is None else str(regions), colour_by, limits
    )


def open_dataset(
    data: Path, images: Path | None = None, format: str | None = None, reading: Reading | None = None
) -> Dataset:
    """Open a data set, and report the number of its errors on the standard error."""
    from rcnn.data.formats.open import open_data

    dataset = open_data(data, images, format=format, reading=reading)
    errors = sum(problem.severity == "error" for problem in dataset.problems)
    if errors:
        print_error(f"warning: {errors} errors in {data}; list them with: rcnn data check {data}")
    return dataset


def load_model(
    model: str,
    device: str | None = None,
    *,
    precision: str = "auto",
    half: bool = False,
    svd: str | None = None,
    settings: list[str] | None = None,
    trust: list[str] | None = None,
) -> Any:
    """Load a model with these options."""
    from rcnn.loading import load

    if half:
        warn_renamed("--half", "--precision bf16")
    ranks = None if svd is None else _ranks(svd)
    given: Any = "bf16" if half else precision
    detector: Any = load(model, device, precision=given, settings=settings or (), trust=trust or ())
    if ranks is None:
        return detector
    if not hasattr(detector, "compressed"):
        raise ValueError(f"--svd {svd}: exported files cannot be compressed; remove the option")
    try:
        return detector.compressed(ranks)
    except ValueError as error:
        raise ValueError(f"--svd {svd}: {error}") from error


def _ranks(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    if not (first.strip().isdigit() and second.strip().isdigit()):
        raise ValueError(f"--svd {text}: expected two ranks, such as 1024,256")
    return int(first), int(second)
