"""``rcnn evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcnn.cli.bulk import Actors, GpusPerActor, RayAddress, ray_options
from rcnn.cli.console import app, examples, print_table, print_text, progress_bar
from rcnn.cli.options import (
    Channels,
    DataFormat,
    Device,
    Exif,
    Half,
    ImagesFolder,
    JsonFile,
    ModelSettings,
    Plane,
    Precision,
    ProposalsFile,
    SkipBad,
    Svd,
    Trust,
    chosen_reading,
    exists,
    load_model,
    open_dataset,
)
from rcnn.processes.launch import is_first, launched

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector
    from rcnn.metrics.metric import Evaluation
    from rcnn.structures import Instances


@app.command(
    epilog=examples(
        "rcnn evaluate runs/cells cells/val",
        "rcnn evaluate runs/cells val.json --images photos/ --metrics coco,errors,speed --json result.json",
        "rcnn evaluate val.json --predictions theirs.json",
        "torchrun --nproc-per-node 2 --no-python rcnn evaluate runs/cells val.json",
        "rcnn evaluate runs/cells val.json --ray",
    )
)
def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DATA",
            help="Model: run folder, .safetensors file, exported file or folder, or a name listed by "
            "`rcnn models` (omit it with --predictions). Data: annotated images.",
        ),
    ],
    images: ImagesFolder = None,
    format: DataFormat = None,
    proposals: ProposalsFile = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Any of coco, panoptic, semantic, keypoints, voc07, voc10, nuclei, cityscapes, errors, "
            "proposals, speed, and your own (my_package.metrics:MINE), separated by commas. "
            "Default: those that suit the data, without speed."
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Evaluate these detections (predictions.json, COCO results) instead of a MODEL.",
            callback=exists,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Score threshold of metrics such as nuclei. Default: the model's threshold; with "
            "--predictions, the score of the highest F1."
        ),
    ] = None,
    causes: Annotated[
        bool | None,
        typer.Option(
            "--causes/--no-causes",
            help="Say why objects were missed: up to 50 images are predicted once more. "
            "Default: yes, unless --metrics chooses.",
        ),
    ] = None,
    json_file: JsonFile = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum detections per image. Default: 100, or the number of objects in the fullest image.",
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Lowest score to evaluate. Keep it low: precision-recall curves need weak detections.",
        ),
    ] = 0.01,
    channels: Channels = None,
    plane: Plane = None,
    exif: Exif = None,
    skip_bad: SkipBad = False,
    device: Device = None,
    precision: Precision = "auto",
    half: Half = False,
    svd: Svd = None,
    settings: ModelSettings = None,
    trust: Trust = None,
    ray: RayAddress = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = None,
) -> None:
    """Evaluate a model, or a file of detections, on annotated images.

    Under torchrun or srun, each process predicts a share of the images, and the first one measures.
    """
    _check_count(sources, of_file=predictions is not None)
    from rcnn.data.external_proposals import with_proposals
    from rcnn.evaluation.evaluator import evaluate as alone
    from rcnn.evaluation.evaluator import evaluate_results
    from rcnn.evaluation.preparation import usable_images, with_required_proposals
    from rcnn.metrics.registry import choose_metrics

    data = Path(sources[-1])
    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    choose_metrics(names)  # a wrong name is reported before anything is opened
    chosen: dict[str, Any] = {"max_detections": max_detections, "metrics": names}
    if predictions is not None:
        if causes:
            raise ValueError("evaluate: --causes needs the model that made the detections; remove it")
        if settings:
            raise ValueError("evaluate: --set changes a model, but --predictions uses none; remove it")
        dataset = open_dataset(data, images, format, chosen_reading(channels, plane, exif))
        dataset = dataset if proposals is None else with_proposals(dataset, proposals)
        evaluation, _ = evaluate_results(
            predictions, dataset, threshold=threshold, skip_bad=skip_bad, **chosen
        )
        _report(evaluation, {"predictions": str(predictions), "data": sources[-1]}, json_file)
        return
    on_ray = ray_options(ray, actors, gpus_per_actor)
    if on_ray is not None and svd is not None:
        raise ValueError("evaluate: --svd is for one process; remove it, or --ray")
    with _one_of_several(device) as device:
        detector = load_model(
            sources[0], device, precision=precision, half=half, svd=svd,
            settings=settings, trust=trust,
        )  # fmt: skip
        detector = detector.with_reading(chosen_reading(channels, plane, exif, detector.reading))
        dataset = open_dataset(data, images, format, detector.reading)
        dataset, left_out = usable_images(dataset, detector, skip_bad=skip_bad)
        for problem in left_out if is_first() else ():
            print_text(f"skipped: {problem}")
        with progress_bar("proposing") as progress:
            dataset = with_required_proposals(dataset, detector, proposals, metrics=names, progress=progress)
        if threshold is None:
            threshold = getattr(detector, "min_score", None)
        share = None
        if on_ray is not None:
            from rcnn.bulk.ray_evaluation import RayShare
            from rcnn.bulk.worker import WorkerOptions

            worker = WorkerOptions(
                device, "bf16" if half else precision, tuple(settings or ()), tuple(trust or ())
            )
            share = RayShare(sources[0], worker, on_ray)
        with progress_bar("evaluating") as progress:
            chosen |= {"min_score": min_score, "threshold": threshold, "progress": progress}
            measured: tuple[Evaluation, list[Instances]] | None
            if share is None and launched() is None:
                measured = alone(detector, dataset, **chosen)
            else:
                from rcnn.evaluation.shares import evaluate_shares

                measured = evaluate_shares(detector, dataset, share=share, **chosen)
    if measured is not None:
        used = {"model": sources[0], "precision": detector.for_measuring().used_precision}
        evaluation = measured[0]
        if causes if causes is not None else names is None:
            evaluation = _explained(evaluation, detector, dataset)
        _report(evaluation, {**used, "data": sources[-1]}, json_file)


@contextmanager
def _one_of_several(device: str | None) -> Iterator[str | None]:
    """Join the processes that this one was started with; yield its device. Alone, torch is not needed."""
    if launched() is None:
        yield device
        return
    from rcnn.processes.group import join, lost_is_explained, process_device

    join()
    with lost_is_explained("start all of them again"):
        yield str(process_device(device))


def _explained(evaluation: Evaluation, detector: Detector | ExportedDetector, dataset: Dataset) -> Evaluation:
    """The evaluation with the causes of missed objects; exported files run without torch and show none."""
    if not hasattr(detector, "network"):
        return evaluation
    from rcnn.evaluation.explain.missed import with_causes

    with progress_bar("explaining") as progress:
        return with_causes(evaluation, detector, dataset, progress)


def _report(evaluation: Evaluation, what: dict[str, Any], json_file: Path | None) -> None:
    """Print the table, or write the results as JSON, or both."""
    from rcnn.io.atomic import STDOUT, write_atomically

    to_stdout = str(json_file) == STDOUT
    if not to_stdout:  # which holds JSON alone then
        print_table(evaluation.table())
    if json_file is not None:
        write_atomically(json_file, json.dumps({**what, **evaluation.to_json()}, indent=1).encode())
        if not to_stdout:
            print_text(f"written: {json_file}")


def _check_count(sources: list[str], *, of_file: bool) -> None:
    """Refuse too few and too many arguments."""
    if len(sources) != (1 if of_file else 2):
        expected = (
            "DATA alone with --predictions" if of_file else "MODEL and DATA, or --predictions FILE DATA"
        )
        raise ValueError(f"evaluate: found {len(sources)} arguments, expected {expected}")
