"""A training run from data to report, in one folder; ``rcnn.training.run_folder`` says what it holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rcnn.data.digests import pack_digests, unpack_digests
from rcnn.data.problems import DataError
from rcnn.data.workers import lost_worker, refuse_inside_worker
from rcnn.device import choose_device, return_freed_memory
from rcnn.evaluation.shares import evaluate_shares
from rcnn.io import checkpoint
from rcnn.io.destinations import refuse_unwritable_folder
from rcnn.io.interruption import answered
from rcnn.io.lock import FolderLock
from rcnn.loading import load_detector
from rcnn.models import build_model, model_class
from rcnn.models.model import Model
from rcnn.parts.pretrained import load_pretrained
from rcnn.parts.selective_search import require_opencv
from rcnn.processes.group import (
    ANSWER_SECONDS,
    JOIN_SECONDS,
    alive,
    barrier,
    from_first_process,
    join,
    lost_is_explained,
    process_device,
    rank,
    world_size,
)
from rcnn.training.arithmetic import described, sentence
from rcnn.training.callbacks import Callbacks, TrainEvent, open_callbacks
from rcnn.training.defaults import Reason
from rcnn.training.extension import extend_run
from rcnn.training.options import TrainOptions
from rcnn.training.planning import (
    check_batch_size,
    check_recipe,
    check_sync_bn,
    recipe_of_run,
    unswapped_flips,
)
from rcnn.training.progress import RunLog
from rcnn.training.recipe import Recipe, load_run_recipe
from rcnn.training.results import write_results
from rcnn.training.run_folder import (
    LAST,
    LOG,
    REPORT,
    folder_for,
    locked,
    new_folder,
    read_run,
    removed_on_failure,
    write_run,
)
from rcnn.training.same_command import COMMAND, command_of, is_auto, run_to_continue
from rcnn.training.schemes import Run, Trained, scheme_of
from rcnn.training.split import (
    HoldOut,
    Seen,
    Source,
    Sources,
    Split,
    bring_proposals,
    check_same_part,
    open_split,
)
from rcnn.training.start import (
    Start,
    begins_whole,
    differences,
    match,
    match_asked,
    open_start,
    ordered,
    renamed,
    take_weights,
)
from rcnn.training.trainer import TrainState


def train(
    data: Source | None = None,
    *,
    val: Source | None = None,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    format: str | None = None,
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
    start: str | Path | None = None,
    rename: Mapping[str, str] | None = None,
    keep_classes: bool = False,
    freeze: Sequence[str] = (),
    workers: int | None = None,
    device: str | None = None,
    callbacks: Sequence[object] = (),
    log: Sequence[str] = (),
    trust: bool | Iterable[str] = (),
    console: Console | None = None,
    json_log: bool = False,
    join_timeout: float = JOIN_SECONDS,
    step_timeout: float = ANSWER_SECONDS,
    trunk: str | None = None,
) -> Path:
    """Train a model on annotated images and report on it.

    Args:
        data: a folder or file that :func:`rcnn.open_data` reads, or one with splits, such as ``train/`` and
            ``valid/``; or an opened data set.
        val: the same for validation; None takes the split of ``data`` for it, or holds out a random part.
        images: where the images of ``data`` are, if not beside it.
        val_images: the same for ``val``.
        format: of ``data`` and ``val``, as :func:`rcnn.open_data` takes it; None: recognised.
        proposals: a file of external proposals, for models without an RPN; None: selective search, kept in
            ``rcnn.data.external_proposals.default_cache()``.
        val_proposals: the same for ``val``; None: those of ``proposals``.
        model: a key of ``MODELS`` or the dotted path of a class of your own (``my_package.nets:Mine``); None:
            the model that the data are annotated for, see ``rcnn.training.defaults.choose_model``.
        backbone: a key of ``BACKBONES``, ``timm:NAME``, or a dotted path; None: EfficientNet-Lite0, on a GPU
            ResNet-50 where its weights can be had.
        recipe: train this one instead of choosing defaults from the data.
        minutes: training time in minutes.
        epochs: number of passes over the training images, instead of ``minutes``.
        out: the run folder; must not hold a run already.
        seed: random seed; None: the recipe's, or 0.
        settings: changes to the recipe such as ``train.lr=0.001``.
        skip_bad: leave out images with errors instead of refusing the data.
        resume: the folder of an interrupted run; ``auto`` continues the one in ``out``, which the same
            arguments started, or starts it. Everything else is then read from it, except data sets that
            were passed opened and callbacks that were passed as objects, which have to be passed again. With
            ``minutes`` or ``epochs``, its new length in all: a finished run goes on.
        start: a trained model to start from, whatever :func:`rcnn.load` opens but exported files: its
            architecture, anchors, scale and weights are taken, and its classes matched by name.
        rename: what the data call a class: what ``start`` calls it.
        keep_classes: keep the classes of ``start`` that the data do not have.
        freeze: what does not train: ``backbone``, ``norms`` (the statistics of batch norms) or both.
        workers: processes that prepare batches.
        device: ``cpu``, ``cuda``; None takes a GPU if there is one. Of several processes each gets its own;
            names separated by commas are one per process of a machine.
        callbacks: objects with any of the methods ``on_start``, ``on_step``, ``on_evaluation`` and
            ``on_end``, or dotted paths of such, see ``rcnn.training.callbacks``.
        log: any of ``tensorboard``, ``mlflow`` and ``wandb``: log losses and metrics there.
        trust: packages whose code a recipe file may name by dotted path.
        console: where to print.
        json_log: print nothing but JSON objects to the standard output, a line each: messages, progress
            every minute, evaluations, and the final metrics.
        join_timeout: of several processes (torchrun, SLURM), how many seconds they wait for each other to
            start.
        step_timeout: after how many seconds one that does not answer, or is late in a step, counts as lost;
            one that was killed is noticed at once.
        trunk: the old name of ``backbone``.

    Returns:
        The run folder.

    Raises:
        ValueError: data, recipe or settings that cannot be used; the message names what and where.
        OSError: the folder cannot be written.
    """
    if trunk is not None:
        text = "trunk is now called backbone; the old name will be removed in 0.3"
        warnings.warn(text, FutureWarning, stacklevel=2)
    sources = Sources(data, val, images, val_images, proposals, val_proposals, format)
    options = TrainOptions(
        sources, model=model, backbone=backbone or trunk, recipe=recipe, minutes=minutes, epochs=epochs,
        out=out, seed=seed, settings=settings, skip_bad=skip_bad, resume=resume, start=start,
        rename=rename or {}, keep_classes=keep_classes, freeze=freeze, workers=workers,
        device=device, callbacks=callbacks, log=log, trust=trust,
        console=console or Console(soft_wrap=True, quiet=json_log), json_log=json_log,
    )  # fmt: skip
    refuse_inside_worker()
    join(join_seconds=join_timeout, answer_seconds=step_timeout)
    if rank() > 0:
        options = replace(options, console=Console(quiet=True))
    advice = "start all of them again: give --resume auto with the same command, or --resume RUN"
    with answered(bounded=world_size() > 1), lost_is_explained(advice), alive(step_timeout):
        return _begin(options)


def _begin(options: TrainOptions) -> Path:
    """Start a run or continue one; raises as :func:`train`."""
    if is_auto(options):
        # Only the first process needs to see the folder.
        folder = from_first_process(lambda: run_to_continue(options))
        options = replace(options, resume=folder)
        if folder is not None:
            options = replace(options, minutes=None, epochs=None)  # the run has it
    return start_run(options) if options.resume is None else resume_run(options)


def start_run(options: TrainOptions) -> Path:
    """Plan a run, write what describes it, and train; raises as :func:`train`."""
    options.check()
    device = process_device(options.device)
    callbacks = open_callbacks(options.callbacks, options.log) if rank() == 0 else []
    given = options.own_recipe()
    check_batch_size(options.settled(given))
    _refuse_missing_packages(options, given)
    is_new = options.out is None or not Path(options.out).exists()
    with ExitStack() as owned:
        folder = from_first_process(lambda: owned.enter_context(_claimed(options)).folder)
        # What is refused leaves nothing behind: the corrected command needs the folder.
        with removed_on_failure(folder, owned.close) if is_new else nullcontext():
            run, reasons = _planned(options, given, folder, device, callbacks)
        return _train(run, reasons, options.console)


def _refuse_missing_packages(options: TrainOptions, given: Recipe | None) -> None:
    """Refuse a model that needs packages which are not installed, before the data are opened.

    Raises:
        ValueError: no such model, or a missing package.
    """
    if given is not None:
        scheme_of(given).check(given)
    named = options.model if given is None else given.model
    if named is not None and model_class(named).needs_proposals and options.sources.proposals is None:
        require_opencv()


def _claimed(options: TrainOptions) -> FolderLock:
    """The run folder, named or not, for this process alone."""
    data, out = options.sources.data, options.out
    assert data is not None
    return folder_for(data) if out is None else new_folder(Path(out))


def _planned(
    options: TrainOptions, given: Recipe | None, folder: Path, device: torch.device, callbacks: list[object]
) -> tuple[Run, list[Reason]]:
    """The run, ready to train, and what describes it written."""
    seed = options.split_seed(given)
    start = open_start(options, given)
    own = start.detector.transform if start and start.whole else given.transform if given else None
    split = open_split(
        replace(options.sources, reading=options.reading(own)), skip_bad=options.skip_bad,
        held_out=HoldOut(seed, None if start is None else start.seen()),
        boxes_only=_boxes_suffice(given.model if given else options.model, start), console=options.console,
    )  # fmt: skip
    return_freed_memory()
    matched = None if start is None else match_asked(start, split, options.settled(given))
    split = split if matched is None else matched.split
    recipe, reasons = recipe_of_run(
        options,
        given,
        split,
        None if start is None or matched is None else start.model_for(matched),
        device=device,
    )
    reasons += [] if matched is None else matched.reasons()
    check_recipe(recipe, split)
    check_sync_bn(recipe, device)
    split = split.with_flip_pairs(recipe.augment.flip_pairs)
    reasons += unswapped_flips(recipe, split.train)
    split = _with_proposals(split, recipe, options.sources, options.console)
    log = RunLog(folder / LOG, options.console, quiet=rank() > 0, json_log=options.json_log)
    for text in (*split.messages, *reasons, f"run: {folder}"):
        log.say(str(text))
    network = new_network(recipe, split, pretrained=start is None or not start.whole)
    if start is not None and matched is not None:
        part = recipe.train.interpolation
        taken = [*differences(start, recipe), *take_weights(start, matched, network, interpolation=part)]
        reasons += taken
        for reason in taken:
            log.say(str(reason))
    info: dict[str, Any] = {
        **options.sources.to_json(),
        "skip_bad": options.skip_bad,
        "seed": seed,
        "reasons": [asdict(reason) for reason in reasons],
        "split": split.fingerprints(with_proposals=options.sources.proposals is not None),
        "callbacks": [callback for callback in options.callbacks if isinstance(callback, str)],
        "log": list(options.log),
        "arithmetic": described(recipe.train, device),
        "training_images": pack_digests(split.trained_on),
        COMMAND: command_of(options),
    }
    if start is not None:
        info["start"] = start.to_json(split)
    write_run(folder, recipe, info)
    run = Run(folder, recipe, split, network.to(device), device, log, Callbacks([log, *callbacks]), False)
    return run, reasons


def resume_run(options: TrainOptions) -> Path:
    """Continue an interrupted run from its last checkpoint; raises as :func:`train`."""
    folder, console = Path(options.resume or ""), options.console
    device = process_device(options.device)
    # A folder that holds no run is refused, and not locked.
    info = from_first_process(partial(read_run, folder))
    with ExitStack() as owned:
        from_first_process(lambda: owned.enter_context(locked(folder)).folder)
        log = RunLog(folder / LOG, console, quiet=rank() > 0, json_log=options.json_log)
        # The run's own folder is trusted: its user named these.
        names = options.callbacks or info.get("callbacks", ()), options.log or info.get("log", ())
        callbacks = open_callbacks(*names) if rank() == 0 else []
        if options.minutes is not None or options.epochs is not None:
            log.say(
                from_first_process(
                    partial(extend_run, folder, minutes=options.minutes, epochs=options.epochs)
                )
            )
        recipe, split, info = _open_run(folder, options.sources, console)
        if options.workers is not None:
            recipe = replace(recipe, train=replace(recipe.train, workers=options.workers))
        advice = "pass the same opened data sets again, or start a new run"
        for name, part in (("training", split.train), ("validation", split.val)):
            check_same_part(folder, name, part=part, info=info, advice=advice)
        check_recipe(recipe, split)
        check_sync_bn(recipe, device)
        started = from_first_process((folder / LAST).is_file)
        network = new_network(recipe, split, pretrained=not (started or begins_whole(info)))
        if not started and recipe.train.start is not None:
            start = open_start(replace(options, start=recipe.train.start), recipe)
            assert start is not None
            take_weights(start, match(start, split, rename={}, keep=recipe.train.keep_classes), network)
        network.to(device)
        run = Run(folder, recipe, split, network, device, log, Callbacks([log, *callbacks]), started)
        return _train(run, _reasons(info), console)


def rewrite_report(folder: str | Path, console: Console | None = None) -> Path:
    """Evaluate the best model of a run again and rewrite its report; also of a run that did not end.

    Raises:
        ValueError: no run, one without a model yet, or a folder that cannot be written.
    """
    folder, console = Path(folder), console or Console(soft_wrap=True)
    read_run(folder)
    refuse_unwritable_folder(folder)
    recipe, split, info = _open_run(folder, Sources(), console)
    # Else images that were trained on might be evaluated.
    advice = f"or use rcnn evaluate {folder} DATA"
    check_same_part(folder, "validation", part=split.val, info=info, advice=advice)
    state = TrainState(**checkpoint.read_metadata(folder / LAST)["train_state"])
    write_results(
        folder, recipe, split=split, reasons=_reasons(info), trained=Trained(state),
        device=choose_device(None), console=console,
    )  # fmt: skip
    return folder / REPORT


def new_network(recipe: Recipe, split: Split, *, pretrained: bool) -> Model:
    """What the recipe describes, with random weights by its seed; with those that training starts from if so.

    Raises:
        ValueError: settings that do not fit together, or weights that do not fit the network.
        OSError: weights cannot be downloaded.
    """
    torch.manual_seed(recipe.train.seed)
    data = split.train
    names = data.class_names, data.semantic_names
    network = build_model(recipe.model, recipe.settings, *names, skeleton=data.skeleton)
    if pretrained:
        load_pretrained(network)
    if "backbone" in recipe.train.freeze:
        for name in ("backbone", "rpn_backbone"):
            part: Any = getattr(network, name, None)
            if part is not None:
                part.freeze()
    return network


def _boxes_suffice(named: str | None, start: Start | None) -> bool:
    """Whether it is known that the model learns from boxes alone."""
    if start is not None and start.whole:
        return start.detector.network.boxes_suffice()
    return named is not None and model_class(named).boxes_suffice()


def _train(run: Run, reasons: Sequence[Reason], console: Console) -> Path:
    """Train by the model's scheme; the first process then writes the results.

    Raises:
        ValueError: a process that prepares batches, or another one of torchrun, was ended.
    """
    return_freed_memory()  # of the plan
    try:
        with run.log, run.log.ticking():
            run.log.say(sentence(run.recipe.train, run.device))
            trained = scheme_of(run.recipe).train(run)
    except (RuntimeError, BrokenPipeError) as error:
        lost = lost_worker(error, run.recipe.train.workers)
        if lost is None:
            raise
        raise ValueError(f"{lost}; continue with --resume {run.folder}") from error
    trained = _measured(run, trained)
    if rank() == 0:
        with run.log.ticking("evaluating the best weights and writing the report"):
            evaluation = write_results(
                run.folder, run.recipe, split=run.split, reasons=reasons, trained=trained, device=run.device,
                console=console,
            )  # fmt: skip
            state, batch = trained.state, run.recipe.train.batch_size
            event = TrainEvent(
                run.folder,
                run.recipe,
                iteration=state.iteration,
                epoch=state.iteration * batch / len(run.split.train),
                fraction=1.0,
                seconds=state.seconds,
                values=evaluation.metrics,
            )
            run.callbacks.call("on_end", event)
            run.callbacks.raise_failure()
    barrier()
    return run.folder


def _measured(run: Run, trained: Trained) -> Trained:
    """What the scheme left, with the best weights measured by all processes."""
    if world_size() == 1 or from_first_process(lambda: trained.measured is not None):
        return trained
    detector = from_first_process(lambda: load_detector(run.folder, "cpu"))
    detector.network.to(run.device)
    return replace(trained, measured=evaluate_shares(detector, run.split.val))


def _open_run(folder: Path, sources: Sources, console: Console) -> tuple[Recipe, Split, dict[str, Any]]:
    """The recipe, the data and ``run.json`` of a run that was started."""
    # Only the first process needs to see the folder.
    info, recipe = from_first_process(lambda: (read_run(folder), load_run_recipe(folder)))
    sources = replace(sources.or_else(info), reading=recipe.transform.read)
    try:
        return recipe, _opened_data(recipe, sources, info, console), info
    except DataError:
        raise  # it names the data set
    except ValueError as error:
        raise ValueError(f"{folder}: its data cannot be opened again: {error}") from error


def _opened_data(recipe: Recipe, sources: Sources, info: Mapping[str, Any], console: Console) -> Split:
    """The data of a run, divided and named as when it was started."""
    boxes_only = model_class(recipe.model).boxes_suffice()
    start, images = info.get("start"), info.get("training_images")
    held_out = HoldOut(
        info["seed"],
        None if start is None else Seen.of(start["source"], start),
        None if images is None else unpack_digests(images),
        by_order=images is None,
    )
    split = open_split(
        sources, skip_bad=info["skip_bad"], held_out=held_out, boxes_only=boxes_only, console=console
    )
    if start is not None:
        split = renamed(split, dict(recipe.train.rename))
        split = ordered(split, tuple(start["class_names"]), tuple(start["semantic_names"]))
    split = split.with_flip_pairs(recipe.augment.flip_pairs)
    return _with_proposals(split, recipe, sources, console)


def _with_proposals(split: Split, recipe: Recipe, sources: Sources, console: Console) -> Split:
    """The split with external proposals, if the model needs them.

    Raises:
        ValueError: proposals for a model that has an RPN.
    """
    if model_class(recipe.model).needs_proposals:
        return bring_proposals(split, sources, recipe.settings.search, console)
    if sources.proposals or sources.val_proposals:
        raise ValueError(
            f"--proposals is only for models without an RPN; {recipe.model} generates its own: remove it"
        )
    return split


def _reasons(info: Mapping[str, Any]) -> list[Reason]:
    return [Reason.from_json(stored) for stored in info["reasons"]]
