"""A training run from data to report, in one folder.

The folder holds ``recipe.toml`` (complete, can be trained again), ``run.json`` (the data and how it was
split), ``environment.json``, ``metrics.jsonl``, ``log.txt``, ``last.safetensors`` (to resume from),
``best.safetensors`` (the model to use), ``evaluation.json`` and ``report.html``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from rcnn.data.check import align_dataset_classes, check, check_pair, refuse_or_skip
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import (
    SELECTIVE_SEARCH,
    default_cache,
    keys_in,
    read_proposals,
    with_proposals,
)
from rcnn.data.formats.open import open_data
from rcnn.device import barrier, choose_device, rank
from rcnn.evaluation.evaluator import (
    Evaluation,
    PixelEvaluator,
    evaluate,
    evaluate_predictions,
    semantic_evaluation,
)
from rcnn.evaluation.report import write_report
from rcnn.evaluation.tables import metric_tables
from rcnn.inference.detector import Detector, versions
from rcnn.io import checkpoint
from rcnn.io.atomic import write_atomically
from rcnn.loading import load_detector, load_initial_weights
from rcnn.metrics.registry import BASIC
from rcnn.models import (
    MODELS,
    build_model,
    has_object_classes,
    is_box_model,
    needs_pixel_classes,
    pixel_names,
)
from rcnn.models.rcnn import RCNN
from rcnn.parts.pretrained import NORMALISATIONS, backbone_normalisation, load_pretrained
from rcnn.structures import Instances
from rcnn.training import svms
from rcnn.training.alternating import AlternatingTrainer
from rcnn.training.defaults import describe_schedule, plan
from rcnn.training.recipe import Recipe, dump_recipe, load_recipe, with_settings
from rcnn.training.trainer import Trainer, TrainSettings, TrainState, append_line

VAL_FRACTION = 0.15
MAX_WARNINGS_SHOWN = 5
# Of an image looked at while training, on average: a megapixel takes half a second or so on two cores.
MEAN_EVAL_PIXELS = 1024 * 1024
UNPLOTTED_METRICS = ("voc10", "nuclei", "errors", "cityscapes", "proposals")  # families without a curve
SOURCE_KEYS = ("data", "val", "images", "val_images", "proposals", "val_proposals")
# More images than this are not all decoded before training; `rcnn data check` does it at any number.
MAX_DECODED_IMAGES = 5000

Source = str | Path | Dataset


@dataclass(frozen=True)
class Split:
    """The two parts of the data, and what there is to say about them."""

    train: Dataset
    val: Dataset
    messages: tuple[str, ...]


def train(
    data: Source | None = None,
    *,
    val: Source | None = None,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    proposals: str | Path | None = None,
    val_proposals: str | Path | None = None,
    model: str | None = None,
    backbone: str | None = None,
    recipe: str | Path | Recipe | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    skip_bad: bool = False,
    resume: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> Path:
    """Train a model on annotated images and report on it.

    Args:
        data: a folder or file that :func:`rcnn.open_data` reads, or an opened data set.
        val: the same for validation; None holds out a seeded part of ``data``.
        images: where the images of ``data`` lie, if not beside it.
        val_images: likewise for ``val``.
        proposals: a file of proposals, for models that do not make their own; None: selective search, kept
            in ``rcnn.data.external_proposals.default_cache()``.
        val_proposals: likewise for ``val``; None: those of ``proposals``.
        model: a key of ``MODELS``; None: what the data is annotated for, see
            ``rcnn.training.defaults.choose_model``.
        backbone: a key of ``BACKBONES``; None is EfficientNet-Lite0.
        recipe: train this one instead of choosing defaults from the data.
        minutes: training time by the clock.
        epochs: passes over the training images, instead of ``minutes``.
        out: the run's folder; must not hold a run already.
        seed: of everything random; 0 where the recipe has none.
        settings: changes to the recipe such as ``train.lr=0.001``.
        skip_bad: leave out images with errors instead of refusing the data.
        resume: the folder of an interrupted run; everything else is then read from it, but for data sets that
            were given opened, which have to be given again.
        workers: processes that prepare batches.
        device: ``cpu``, ``cuda``; None takes a GPU where there is one.
        console: where to print.

    Returns:
        The run's folder.

    Raises:
        ValueError: data, recipe or settings that cannot be used; the message names what and where.
        OSError: the folder cannot be written.
    """
    _init_distributed()
    console = Console(quiet=True) if rank() > 0 else console or Console(soft_wrap=True)
    sources = {
        "data": data, "val": val, "images": images, "val_images": val_images, "proposals": proposals,
        "val_proposals": val_proposals,
    }  # fmt: skip
    if resume is not None:
        return _resume(Path(resume), sources, workers, device, console)
    if data is None:
        raise ValueError("train needs a data set, or the folder of a run to resume")
    if minutes is not None and epochs is not None:
        raise ValueError(f"both minutes ({minutes:g}) and epochs ({epochs:g}) are given; choose one")
    if recipe is not None and (model or backbone):
        raise ValueError(
            "a recipe names its own model and backbone: leave out --model and --backbone, or change "
            "them with --set"
        )
    if any(text.partition("=")[0].strip() == "train.seed" for text in settings):
        raise ValueError("--set train.seed: give --seed instead, which the images held out follow, too")
    _device(device)  # a wrong one is reported before anything is made
    given = None if recipe is None else _recipe_with_overrides(recipe, minutes, epochs, seed, workers)
    # The split is that of the recipe's seed, so that a run's recipe gives the same run again.
    split_seed = given.train.seed if given else TrainSettings(seed=seed or 0).seed
    made = out is None or not Path(out).exists()
    folder = _shared_folder(data, out)
    with _remove_on_failure(folder) if made else nullcontext():
        architecture = given.model if given else model
        boxes_only = architecture is not None and is_box_model(architecture)
        split = _open_split(
            sources, skip_bad=skip_bad, seed=split_seed, boxes_only=boxes_only, console=console
        )
        if given is not None:
            name = recipe if isinstance(recipe, str | Path) else given.model
            chosen, reasons = given, [f"recipe: {name}"]
        else:
            chosen, reasons = plan(
                split.train,
                model=model,
                backbone=backbone,
                minutes=minutes,
                epochs=epochs,
                seed=seed or 0,
                workers=workers,
            )
        backbone_planned = chosen.settings.backbone.name
        chosen = with_settings(chosen, settings)
        if not any(text.strip().startswith(("transform.mean", "transform.std")) for text in settings):
            # The backbone may be another one now, and VGG-16 comes with two sets of weights.
            normalised = _normalised(chosen)
            if normalised != chosen:
                reasons.append(
                    f"input: normalised as the weights of {chosen.settings.backbone.name} found here expect"
                )
            chosen = normalised
        schedule = describe_schedule(chosen.train)
        reasons = [schedule if line.startswith("schedule: ") else line for line in reasons]
        used = f"backbone {chosen.settings.backbone.name} ("
        reasons = [line.replace(f"backbone {backbone_planned} (", used) for line in reasons]
        reasons += [f"setting: {text}" for text in settings]
        _check_recipe_fits(chosen, split)
        split = _with_proposals(split, chosen, sources, console)
        log = RunLog(folder / "log.txt", console, quiet=rank() > 0)
        for text in (*split.messages, *reasons, f"run: {folder}"):
            log.say(text)
        # Before there is a run: what it refuses leaves nothing behind.
        network = _network(chosen, split, pretrained=True)
    run_info = {"skip_bad": skip_bad, "seed": split_seed, "reasons": reasons}
    from_file = sources["proposals"] is not None
    run_info["parts"] = {
        "training": _fingerprint(split.train, with_proposals=from_file),
        "validation": _fingerprint(split.val, with_proposals=from_file),
    }
    _write_run_files(folder, chosen, sources, run_info)
    return _run(folder, chosen, split, reasons, device, console, network, resumed=False)


def _is_alternating(recipe: Recipe) -> bool:
    """Whether training is alternating: four steps, each of which builds a network of its own."""
    return bool(getattr(recipe.settings, "scheme", "joint") == "alternating")


def _network(recipe: Recipe, split: Split, *, pretrained: bool) -> Any:
    """What the recipe describes, with the weights that training begins with if so; None in steps."""
    torch.manual_seed(recipe.train.seed)
    names = split.train.class_names, split.train.semantic_names
    network: Any = build_model(recipe.model, recipe.settings, *names)
    if _is_alternating(recipe):
        return None
    if pretrained:
        load_pretrained(network)
        if recipe.train.start is not None:
            load_initial_weights(network, recipe.train.start)
    return network


def _run(
    folder: Path,
    recipe: Recipe,
    split: Split,
    reasons: Sequence[str],
    device: str | None,
    console: Console,
    network: Any,
    *,
    resumed: bool,
) -> Path:
    where = _device(device)
    if _is_alternating(recipe):
        return _run_alternating(folder, recipe, split, reasons, where, console)
    validation = Validation(network, recipe, split, where)
    with RunLog(folder / "log.txt", console, quiet=rank() > 0) as log:
        trainer = Trainer(
            network, recipe, split.train, folder, evaluate=validation,
            describe=validation.detector.describe(), device=where, say=log.say, tick=log.tick,
        )  # fmt: skip
        if resumed:
            trainer.resume()
            log.say(f"resumed at iteration {trainer.state.iteration}")
        if isinstance(network, RCNN) and not network.settings.finetune:
            trainer.save()
        else:
            trainer.run()
        if isinstance(network, RCNN) and rank() == 0:
            began = time.perf_counter()
            _fit_svms(folder, recipe, split.train, where, log)
            trainer.state.seconds += time.perf_counter() - began
    if rank() == 0:
        best_is_last = trainer.state.best_iteration == trainer.state.iteration
        measured = validation.last if best_is_last and not isinstance(network, RCNN) else None
        finish(folder, recipe, split, reasons, trainer.state, where, measured, console)
    barrier()
    return folder


def _run_alternating(
    folder: Path, recipe: Recipe, split: Split, reasons: Sequence[str], device: torch.device, console: Console
) -> Path:
    with RunLog(folder / "log.txt", console, quiet=rank() > 0) as log:
        progress = AlternatingTrainer(
            folder, recipe, split.train, split.val, device,
            measure=lambda net, its, val: Validation(net, its, replace(split, val=val), device),
            say=log.say, tick=log.tick,
        ).run()  # fmt: skip
    if rank() == 0:
        finish(folder, recipe, split, reasons, progress, device, None, console)
    barrier()
    return folder


def _fit_svms(folder: Path, recipe: Recipe, data: Dataset, device: torch.device, log: RunLog) -> None:
    """The stages of R-CNN after the loop, on its best network; a run killed in them begins them anew."""
    detector = load_detector(folder, device)
    svms.fit(detector.network, recipe.transform, data, seed=recipe.train.seed, say=log.say)
    detector.save(folder / "best.safetensors")


class Validation:
    """Measures the network under training on the validation part: often on a few images, last on all."""

    def __init__(self, network: nn.Module, recipe: Recipe, split: Split, device: torch.device) -> None:
        self.recipe, self.split, self.device = recipe, split, device
        skeleton = split.train.skeleton if "keypoint" in vars(recipe.settings) else None
        ids, things = split.train.category_ids, len(split.train.class_names)
        stuff = split.train.semantic_ids[things:] if ids else ()
        info = {"category_ids": list(ids)} if ids else {}
        self.detector = Detector(
            network, recipe.transform, split.train.class_names if has_object_classes(recipe.model) else (),
            skeleton=skeleton,
            semantic_names=pixel_names(network, split.train.class_names, split.train.semantic_names),
            # So that predictions can be compared with the data's own file.
            info=info | ({"stuff_ids": list(stuff)} if stuff else {}),
        )  # fmt: skip
        # Between, as it is trained; the figures that stay are those of full precision.
        self.interim_detector = replace(self.detector, half=recipe.train.half(device))
        self.subset = self._some(recipe.train.eval_images)
        self.last: tuple[Evaluation, list[Instances]] | None = None

    def _some(self, count: int) -> list[int]:
        """So many images of the part, chosen with the seed; fewer where they are large and take long."""
        order = np.random.default_rng([self.recipe.train.seed, 2]).permutation(len(self.split.val))[:count]
        sizes = [self.recipe.transform.resized(self.split.val.records[i].truth.size) for i in order]
        pixels = np.cumsum([height * width for height, width in sizes])
        within = int(np.searchsorted(pixels, count * MEAN_EVAL_PIXELS, side="right"))
        return sorted(int(i) for i in order[: max(1, within)])

    def __call__(self, full: bool) -> dict[str, float]:
        """Metrics by name, ``score`` among them, always of the same few images so that they make a curve.

        At the end all images are looked at; what that gives is kept in ``last``. Only the first process
        evaluates; the loss is computed by all of them, who agree on what it is divided by.
        """
        if rank() > 0:
            return {"val/loss": self.loss(), "score": 0.0}
        # R-CNN is not finished when the loop is: all images are looked at once its SVMs are there.
        full = full and not isinstance(self.detector.network, RCNN)
        val = self.split.val if full else self.split.val.subset(self.subset)
        detector = self.detector if full else self.interim_detector
        evaluation, predictions = evaluate(detector, val, metrics=None if full else BASIC)
        if full:
            self.last = (evaluation, predictions)
            evaluation = self._on_few(predictions, evaluation) if len(self.subset) < len(val) else evaluation
        metrics = {k: v for k, v in evaluation.metrics.items() if not k.startswith(UNPLOTTED_METRICS)}
        if evaluation.has_boxes:
            metrics["f1"] = evaluation.f1
        return {**metrics, "val/loss": self.loss(), "score": _headline(evaluation)}

    def _on_few(self, predictions: Sequence[Instances], evaluation: Evaluation) -> Evaluation:
        truths = [self.split.val.records[i].load_truth() for i in self.subset]
        few = [predictions[i] for i in self.subset]
        tallies = PixelEvaluator(self.split.val, self.detector)
        for truth, found in zip(truths, few, strict=True):
            tallies.add(truth, found)
        semantic = tallies.semantic
        if semantic is not None and not evaluation.has_boxes:
            return semantic_evaluation(semantic)
        return evaluate_predictions(
            truths,
            few,
            self.split.train.class_names,
            semantic=semantic,
            panoptic=tallies.panoptic,
            has_masks=evaluation.has_masks,
            has_keypoints=evaluation.has_keypoints,
            metrics=BASIC,
        )

    @torch.no_grad()
    def loss(self, count: int = 16) -> float:
        """The mean loss over crops of a few validation images, without random augmentation."""
        plain = self.recipe.augment.without_randomness()
        losses = []
        for index in self.subset[:count]:
            sample = plain(self.split.val[index], self.recipe.transform, np.random.default_rng([3, index]))
            batch = self.recipe.transform.batch([sample.image])
            moved = replace(batch, tensors=batch.tensors.to(self.device), seeds=(index,))
            output = self.detector.network(moved, [sample.truth.to(self.device)])
            losses.append(sum(float(v) for v in output.losses.values()))
        return float(np.mean(losses))


def finish(
    folder: Path, recipe: Recipe, split: Split, reasons: Sequence[str], progress: TrainState,
    device: torch.device, measured: tuple[Evaluation, list[Instances]] | None, console: Console,
) -> None:  # fmt: skip
    """Give the best model its threshold, write the evaluation and the report, print the table.

    ``measured`` is an evaluation of the best model on all validation images, where there is one already.
    """
    began = time.perf_counter()
    detector = load_detector(folder, device)
    evaluation, predictions = measured or evaluate(detector, split.val)
    measures = evaluation.to_json()
    info = {
        **detector.info,
        "metrics": measures["metrics"],
        "best_iteration": progress.best_iteration,
        "training_seconds": progress.seconds,
    }
    if isinstance(detector.network, RCNN):
        # Kept from the first time: what is fitted after the loop is in no checkpoint of it.
        info["training_seconds"] = detector.info.get("training_seconds", progress.seconds)
    # A partition's quality was measured with the threshold of its settings.
    merging = None if evaluation.panoptic is None else detector.merge
    threshold = evaluation.f1_threshold if merging is None else merging.min_score
    replace(detector, min_score=threshold, info=info).save(folder / "best.safetensors")
    write_atomically(folder / "evaluation.json", json.dumps(measures).encode())
    facts: dict[str, str] = {}
    for line in (*split.messages, *reasons):
        name, colon, text = line.partition(": ")
        if colon:
            facts[name] = f"{facts[name]}; {text}" if name in facts else text
    facts |= {
        "seed": str(recipe.train.seed),
        "steps": f"{progress.iteration} ({progress.skipped} skipped), best at {progress.best_iteration}",
    }
    if merging is not None:
        facts["threshold"] = f"{threshold:g}, of the objects that a partition is made of"
    elif evaluation.has_boxes:
        facts["threshold"] = f"{evaluation.f1_threshold:.3f}, where F1 is highest ({evaluation.f1:.3f})"
    seconds = {
        "training": info["training_seconds"],
        "evaluation while training": progress.eval_seconds,
        "final evaluation": time.perf_counter() - began,
    }
    write_report(
        folder / "report.html", title=f"{recipe.model} on {Path(*split.train.source.parts[-2:])}",
        facts=facts,
        history=read_history(folder), evaluation=evaluation, dataset=split.val, predictions=predictions,
        seconds=seconds,
    )  # fmt: skip
    console.print(evaluation.table())
    for table in metric_tables(evaluation):
        console.print(table.rich())
    for name in ("best.safetensors", "report.html"):
        console.print(f"{folder / name}", markup=False, highlight=False)


def rewrite_report(folder: str | Path, console: Console | None = None) -> Path:
    """Evaluate the best model of a run anew and write its report; also for one stopped before its end.

    Raises:
        ValueError: no run, or one without a model yet.
    """
    folder, console = Path(folder), console or Console(soft_wrap=True)
    recipe, split, run_info = _open_run(folder, {}, None, console)
    # Else images that were trained on might be measured on.
    _check_same_split(folder, {"validation": split.val}, run_info, f"or use rcnn evaluate {folder} DATA")
    metadata = checkpoint.read_metadata(folder / "last.safetensors")
    device = choose_device(None)
    finish(
        folder,
        recipe,
        split,
        run_info["reasons"],
        TrainState(**metadata["train_state"]),
        device,
        None,
        console,
    )
    return folder / "report.html"


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``, without one that a kill cut short."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


class RunLog:
    """The progress bar on the console, and the log file beside it."""

    def __init__(self, log: Path, console: Console, *, quiet: bool) -> None:
        self.log, self.quiet = log, quiet
        share, left = TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn(elapsed_when_finished=False)
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), share, TimeElapsedColumn(),
            TextColumn("left"), left,
        )  # fmt: skip
        self.bar = Progress(*columns, console=console, disable=quiet, transient=False)
        self.task = self.bar.add_task("training", total=1.0)

    def __enter__(self) -> RunLog:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def tick(self, fraction: float, losses: Mapping[str, float]) -> None:
        """Move the bar."""
        self.bar.update(
            self.task, completed=fraction, description=f"training, loss {sum(losses.values()):.3f}"
        )

    def say(self, text: str) -> None:
        """Write a line to the log and the console."""
        if self.quiet:
            return
        append_line(self.log, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        self.bar.console.print(text, markup=False, highlight=False)


def _headline(evaluation: Evaluation) -> float:
    value = evaluation.metrics[evaluation.headline_metric]
    return value if value == value else 0.0  # NaN: no truth at all


def _open_split(
    sources: Mapping[str, Source | None], *, skip_bad: bool, seed: int, boxes_only: bool, console: Console
) -> Split:
    with console.status("reading the data"):
        train_part, lines = _checked(sources["data"], sources["images"], skip_bad, boxes_only)
        if sources["val"] is not None:
            val_part, more = _checked(sources["val"], sources["val_images"], skip_bad, boxes_only)
            problems = check_pair(train_part, val_part)
            errors = [p for p in problems if p.severity == "error"]
            if errors:
                raise ValueError("\n".join(str(p).removeprefix("error: ") for p in errors))
            notes = [f"val: {val_part.source}, {len(val_part)} images", *(f"val {line}" for line in more[1:])]
            notes += map(str, problems)
            val_part = align_dataset_classes(val_part, train_part.class_names, train_part.semantic_names)
            return Split(train_part, val_part, (*lines, *notes))
    return _hold_out(train_part, lines, seed)


def _checked(place: Any, images: Any, skip_bad: bool, boxes_only: bool) -> tuple[Dataset, list[str]]:
    opened = place if isinstance(place, Dataset) else open_data(place, images)
    report = check(opened, decode=len(opened) <= MAX_DECODED_IMAGES)
    good, left_out = refuse_or_skip(opened, skip_bad, report=report, boxes_only=boxes_only)
    lines = [f"data: {line}" if i == 0 else line for i, line in enumerate(str(report).splitlines())]
    warned = list(map(str, report.warnings))
    if len(warned) > MAX_WARNINGS_SHOWN:
        more = len(warned) - MAX_WARNINGS_SHOWN
        warned[MAX_WARNINGS_SHOWN:] = [
            f"and {more} more warnings, listed by: rcnn data check {opened.source}"
        ]
    return good, [*lines, *(f"left out: {p}" for p in left_out), *warned]


def _hold_out(data: Dataset, lines: Sequence[str], seed: int) -> Split:
    if len(data) == 1:
        return Split(data, data, (*lines, "val: the one image there is, so the figures say little"))
    held = _choose_held_out(data, max(1, round(VAL_FRACTION * len(data))), seed)
    count, kept = len(held), sorted(set(range(len(data))) - set(held))
    names = ", ".join(str(data.records[i].image_id) for i in held[:8])
    more = f" and {count - 8} more" if count > 8 else ""
    note = f"val: {count} of {len(data)} images held out with seed {seed}: {names}{more}"
    return Split(data.subset(kept), data.subset(held), (*lines, note))


def _choose_held_out(data: Dataset, count: int, seed: int) -> list[int]:
    """At most so many images at random, at least one; the last image with objects of a class stays."""
    order = np.random.default_rng([seed, 3]).permutation(len(data)).tolist()
    truths = [record.truth for record in data.records]
    classes = [set((t.labels if t.crowd is None else t.labels[~t.crowd]).tolist()) for t in truths]
    left = Counter(label for of_image in classes for label in of_image)
    held: list[int] = []
    for i in order:
        if len(held) < count and all(left[label] > 1 for label in classes[i]):
            held.append(i)
            left.subtract(classes[i])
    return sorted(held or order[:1])


def _recipe_with_overrides(
    recipe: str | Path | Recipe,
    minutes: float | None,
    epochs: float | None,
    seed: int | None,
    workers: int | None,
) -> Recipe:
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    settings = chosen.train
    if minutes is not None or epochs is not None:
        settings = replace(settings, minutes=minutes, epochs=epochs)
    if seed is not None:
        settings = replace(settings, seed=seed)
    if workers is not None:
        settings = replace(settings, workers=workers)
    return replace(chosen, train=settings)


def _normalised(recipe: Recipe) -> Recipe:
    """The recipe with the mean and deviation of its backbone's weights: VGG-16 comes with two sets of them.

    Others than a backbone's stay, such as those of the detector that a run started from.
    """
    if (recipe.transform.mean, recipe.transform.std) not in NORMALISATIONS:
        return recipe
    mean, std = backbone_normalisation(recipe.settings.backbone.name)
    return replace(recipe, transform=replace(recipe.transform, mean=mean, std=std))


def _check_recipe_fits(recipe: Recipe, split: Split) -> None:
    settings = recipe.train
    if (settings.minutes is None) == (settings.epochs is None):
        raise ValueError(
            f"train.minutes is {settings.minutes} and train.epochs is {settings.epochs}: "
            "set exactly one of them"
        )
    length = settings.minutes or settings.epochs or 0.0
    if not length > 0:
        raise ValueError(f"a training of {length:g} minutes or epochs is none: set a number above 0")
    if settings.start is not None and _is_alternating(recipe):
        raise ValueError(
            "train.start: the four steps of alternating training begin with ImageNet weights, as published; "
            "leave it out, or train jointly"
        )
    if _is_alternating(recipe) and recipe.settings.box.cascade is not None:
        raise ValueError(
            "model.box.cascade: Fast R-CNN, which the four steps of alternating training train, has a single "
            "head; leave the cascade out, or train jointly"
        )
    if getattr(recipe.settings, "ranks", None) is not None:
        raise ValueError("model.ranks: layers are trained whole; `rcnn predict --svd` compresses them after")
    for part in (split.train, split.val):
        bare = any(len(r.truth) and r.masks is None for r in part.records)
        if getattr(recipe.settings, "mask", None) is not None and bare:
            raise ValueError(
                f"{part.source}: objects without masks, which {recipe.model} needs: choose --model "
                "faster_rcnn, or annotate the outlines; `rcnn data check` lists the objects that have none"
            )
        if needs_pixel_classes(recipe.model) and not part.has_semantic:
            raise ValueError(
                f"{part.source}: no semantic maps, which {recipe.model} learns from: choose another --model, "
                "or give label pictures with a classes.txt"
            )
        if (
            recipe.model == "panoptic_fpn"
            and part.semantic_names[: len(part.class_names)] != part.class_names
        ):
            raise ValueError(
                f"{part.source}: the semantic maps' classes are {', '.join(part.semantic_names[:5])}, …; "
                f"panoptic_fpn expects those of the objects first: {', '.join(part.class_names[:5])}, …"
            )
        if has_object_classes(recipe.model) and part is split.train and not part.has_objects:
            raise ValueError(
                f"{part.source}: no objects, only semantic maps, which {recipe.model} cannot learn from: "
                "choose --model fcn"
                if part.has_semantic
                else f"{part.source}: no image has an object, which {recipe.model} could learn: annotate some"
            )
        wanted = getattr(recipe.settings, "keypoint", None)
        count = 0 if part.skeleton is None else len(part.skeleton.names)
        if wanted is not None and not count:
            raise ValueError(f"{part.source}: its objects have no keypoints: choose another --model")
        if wanted is not None and wanted.count != count:
            raise ValueError(
                f"{part.source}: its objects have {count} keypoints, {recipe.model} is set to "
                f"{wanted.count}: give --set model.keypoint.count={count}, or choose another --model"
            )


def _shared_folder(data: Source, out: str | Path | None) -> Path:
    """The run's folder, made by the first process and told to the others."""
    folder = None
    if rank() == 0:
        folder = _new_folder(Path(out) if out is not None else _free_folder(data))
    shared = [folder]
    if dist.is_initialized():
        dist.broadcast_object_list(shared)
    assert shared[0] is not None
    return shared[0]


@contextmanager
def _remove_on_failure(folder: Path) -> Iterator[None]:
    """A run that is refused leaves no folder of its making behind."""
    log = folder / "log.txt"
    logged = log.exists()
    try:
        yield
    except BaseException:
        if rank() == 0:
            with suppress(OSError):  # there is something else in it
                if not logged:
                    log.unlink(missing_ok=True)
                folder.rmdir()
        raise


def _new_folder(folder: Path) -> Path:
    if (folder / "run.json").exists():
        raise ValueError(
            f"{folder} holds a run already: go on with --resume {folder}, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = f"the run's folder cannot be made ({error.strerror}); choose another --out"
        raise OSError(error.errno, advice, str(folder)) from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write there; choose another --out", str(folder))
    return folder


def _free_folder(data: Source) -> Path:
    name = data.source.stem if isinstance(data, Dataset) else Path(data).stem
    number = 1
    while (
        (folder := Path("runs") / (name if number == 1 else f"{name}-{number}")).joinpath("run.json").exists()
    ):
        number += 1
    return folder


def _write_run_files(
    folder: Path, recipe: Recipe, sources: Mapping[str, Any], run_info: Mapping[str, Any]
) -> None:
    if rank() > 0:
        return
    known = {
        k: None if v is None else str(v.source if isinstance(v, Dataset) else Path(v).resolve())
        for k, v in sources.items()
    }
    environment = {
        "python": sys.version, "platform": platform.platform(), "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None, **versions(),
    }  # fmt: skip
    write_atomically(folder / "recipe.toml", dump_recipe(recipe).encode())
    write_atomically(folder / "environment.json", json.dumps(environment, indent=1).encode())
    # Last: from here on there is a run, which can be resumed.
    write_atomically(folder / "run.json", json.dumps({**known, **run_info}, indent=1).encode())


def _resume(
    folder: Path, given: Mapping[str, Any], workers: int | None, device: str | None, console: Console
) -> Path:
    recipe, split, run_info = _open_run(folder, given, workers, console)
    advice = "give data sets again that were given opened, or start a new run"
    _check_same_split(folder, {"training": split.train, "validation": split.val}, run_info, advice)
    _check_recipe_fits(recipe, split)
    started = (folder / "last.safetensors").is_file()
    network = _network(recipe, split, pretrained=not started)
    return _run(folder, recipe, split, run_info["reasons"], device, console, network, resumed=started)


def _open_run(
    folder: Path, given: Mapping[str, Any], workers: int | None, console: Console
) -> tuple[Recipe, Split, dict[str, Any]]:
    """The recipe, the data and the other facts of a run that was begun."""
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder}: no run.json, so no run; start one with rcnn train DATA --out {folder}")
    run_info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    recipe = _recipe_with_overrides(folder / "recipe.toml", None, None, None, workers)
    sources = {k: run_info.get(k) if given.get(k) is None else given[k] for k in SOURCE_KEYS}
    boxes_only = is_box_model(recipe.model)
    split = _open_split(
        sources, skip_bad=run_info["skip_bad"], seed=run_info["seed"], boxes_only=boxes_only, console=console
    )
    return recipe, _with_proposals(split, recipe, sources, console), run_info


def _fingerprint(part: Dataset, *, with_proposals: bool) -> dict[str, Any]:
    """What tells a part of the data from others: a sum over classes and the images' names and boxes.

    Proposals have a sum of their own, where they come of a file.
    """
    points = None if part.skeleton is None else part.skeleton.names
    digest = hashlib.sha256(repr((part.class_names, part.semantic_names, points)).encode())
    for record in part.records:
        truth = record.truth
        # Not the whole path: data may have moved.
        digest.update(repr((record.path.name, truth.size)).encode())
        digest.update(truth.boxes.numpy().tobytes() + truth.labels.numpy().tobytes())
    found = {"images": len(part), "sha256": digest.hexdigest()}
    if with_proposals:
        given = [r.truth.proposals.numpy().tobytes() for r in part.records if r.truth.proposals is not None]
        found["proposals"] = hashlib.sha256(b"".join(given)).hexdigest()
    return found


def _check_same_split(
    folder: Path, split: Mapping[str, Dataset], run_info: Mapping[str, Any], advice: str
) -> None:
    """Refuse data that are not those with which the run began: they might be split otherwise."""
    if run_info.get("parts") is None:
        raise ValueError(f"{folder}: begun by an earlier rcnn, which split data otherwise; {advice}")
    from_file = run_info.get("proposals") is not None
    for name, part in split.items():
        before, now = run_info["parts"][name], _fingerprint(part, with_proposals=from_file)
        if before != {key: now.get(key) for key in before}:
            raise ValueError(
                f"{folder}: its {name} part had {before['images']} images when the run began, now it has "
                f"{now['images']}, or their objects or proposals are others: put the data back as they were, "
                f"{advice}"
            )


def _with_proposals(split: Split, recipe: Recipe, sources: Mapping[str, Any], console: Console) -> Split:
    """The parts with proposals, where the model does not make its own."""
    if recipe.model == "rcnn":
        svms.require_sklearn()
    if not getattr(MODELS[recipe.model], "needs_external_proposals", False):
        if sources["proposals"] or sources["val_proposals"]:
            raise ValueError(f"proposals are given, but {recipe.model} makes its own: leave them out")
        return split
    of_train = sources["proposals"] or SELECTIVE_SEARCH
    of_val = sources["val_proposals"] or of_train
    if of_val == of_train != SELECTIVE_SEARCH:
        _check_distinct_names(split, str(of_train))
    if rank() > 0:
        barrier()  # the first process searches; the others find what it kept
    with console.status("searching for proposals"):
        train_part, val_part = (
            with_proposals(part, source, cache=default_cache(), settings=recipe.settings.search)
            for part, source in ((split.train, of_train), (split.val, of_val))
        )
    if rank() == 0:
        barrier()
    mean = np.mean([len(r.truth.proposals) for r in train_part.records if r.truth.proposals is not None])
    return replace(
        split, train=train_part, val=val_part,
        messages=(*split.messages, f"proposals: {of_train}, {mean:.0f} an image"),
    )  # fmt: skip


def _check_distinct_names(split: Split, proposals: str) -> None:
    """Refuse one file of proposals in which two images have one name, as ids of COCO's parts may be alike."""
    known = {str(key) for key in read_proposals(proposals)}
    train, val = (zip(keys_in(p, known, proposals), p.records, strict=True) for p in (split.train, split.val))
    paths = {key: record.path for key, record in train}
    for key, record in val:
        other = paths.get(key, record.path)
        if other.resolve() != record.path.resolve():
            raise ValueError(
                f"{proposals}: {other}, to train on, and {record.path}, to validate on, are both {key}: give "
                "the proposals of those to validate on as --val-proposals"
            )


def _device(name: str | None) -> torch.device:
    """The device named, or of several GPUs this process's own."""
    of_process = f"cuda:{_local_rank()}" if torch.cuda.is_available() else None
    return choose_device(name or of_process)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _init_distributed() -> None:
    """Take part in a torchrun, where there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    # The other processes wait while the first evaluates and writes the report.
    patience = timedelta(hours=12)
    if torch.cuda.is_available():
        torch.cuda.set_device(_local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience)
    else:
        dist.init_process_group("gloo", timeout=patience)
