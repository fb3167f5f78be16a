"""The ways to train a model, by the names that models declare (``Model.scheme``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rcnn.loading import load_detector
from rcnn.metrics.metric import Evaluation
from rcnn.models import model_class
from rcnn.models.model import Model
from rcnn.processes.group import rank
from rcnn.structures import Instances
from rcnn.training import svms
from rcnn.training.alternating import AlternatingTrainer
from rcnn.training.callbacks import Callbacks
from rcnn.training.progress import RunLog
from rcnn.training.recipe import Recipe
from rcnn.training.run_folder import BEST
from rcnn.training.split import Split
from rcnn.training.trainer import Trainer, TrainState
from rcnn.training.validation import Validation

Measured = tuple[Evaluation, list[Instances]]


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Attributes:
        folder: where it is written.
        recipe: its settings.
        split: its data.
        network: with its initial weights, on ``device``.
        device: where to train.
        log: progress and lines; the first of ``callbacks``.
        callbacks: get all events.
        resumed: it continues from its last checkpoint.
    """

    folder: Path
    recipe: Recipe
    split: Split
    network: Model
    device: torch.device
    log: RunLog
    callbacks: Callbacks
    resumed: bool


@dataclass(frozen=True)
class Trained:
    """What a scheme leaves beside the files in the run folder.

    Attributes:
        state: at the end.
        measured: the evaluation and predictions of the best weights on all validation images, if known.
    """

    state: TrainState
    measured: Measured | None = None


def train_jointly(run: Run) -> Trained:
    """All losses at once, in one loop."""
    validation = Validation(run.network, run.recipe, run.split)
    trainer = _trainer(run, validation)
    trainer.run()
    best_is_last = trainer.state.best_iteration == trainer.state.iteration
    return Trained(trainer.state, validation.last if best_is_last else None)


def train_with_svms(run: Run) -> Trained:
    """Fine-tuning in one loop, then SVMs and box regressions on the best network: R-CNN.

    A run that is killed while they are fitted fits all of them again.
    """
    # The network is complete only once its SVMs are fitted; all images are evaluated after that.
    trainer = _trainer(run, Validation(run.network, run.recipe, run.split, all_at_end=False))
    if run.recipe.settings.finetune:
        trainer.run()
    else:
        trainer.save()
    if rank() == 0:
        began = time.perf_counter()
        detector = load_detector(run.folder, run.device)
        network: Any = detector.network
        data, seed = run.split.train, run.recipe.train.seed
        svms.fit(network, run.recipe.transform, data, seed=seed, say=run.log.say)
        detector.save(run.folder / BEST)
        trainer.state.seconds += time.perf_counter() - began
    return Trained(trainer.state)


def train_alternating(run: Run) -> Trained:
    """Faster R-CNN in the four steps of its paper, each with a network of its own."""
    steps = AlternatingTrainer(
        run.folder, run.recipe, run.split.train, run.split.val, run.device,
        measure=lambda network, recipe, val: Validation(network, recipe, replace(run.split, val=val)),
        callbacks=run.callbacks, say=run.log.say,
    )  # fmt: skip
    return Trained(steps.run())


def _trainer(run: Run, validation: Validation) -> Trainer:
    """The loop of the run, where it left off, once callbacks know that it starts."""
    trainer = Trainer(
        run.network, run.recipe, run.split.train, run.folder, evaluate=validation,
        describe=validation.detector.describe(), callbacks=run.callbacks, say=run.log.say,
    )  # fmt: skip
    if run.resumed:
        trainer.resume()
        run.log.say(f"resumed at iteration {trainer.state.iteration}")
    run.callbacks.call("on_start", trainer.event({}))
    run.callbacks.raise_failure()
    return trainer


def _check_alternating(recipe: Recipe) -> None:
    if recipe.train.start is not None:
        raise ValueError(
            "train.start: the four steps of alternating training start from ImageNet weights, as published; "
            "leave it out, or train jointly"
        )
    if recipe.train.freeze:
        raise ValueError(
            "train.freeze: the four steps of alternating training decide what trains; leave it out, or train "
            "jointly"
        )


def _check_svms(recipe: Recipe) -> None:
    svms.require_sklearn()


@dataclass(frozen=True)
class Scheme:
    """A way to train.

    Attributes:
        train: does it.
        check: raises ValueError if the recipe cannot be trained in this way, before the run starts.
        extends: whether a run can get another length.
    """

    train: Callable[[Run], Trained]
    check: Callable[[Recipe], None] = lambda recipe: None
    extends: bool = True


SCHEMES = {
    "joint": Scheme(train_jointly),
    "alternating": Scheme(train_alternating, _check_alternating, extends=False),
    "svms": Scheme(train_with_svms, _check_svms),
}
"""The names that models declare."""


def scheme_of(recipe: Recipe) -> Scheme:
    """How a recipe is trained.

    Raises:
        ValueError: no such model.
    """
    return SCHEMES[model_class(recipe.model).scheme(recipe.settings)]
