"""Training callbacks: plain objects that follow a run, and three that log to other programs.

A callback has any of four methods, each with one argument, a :class:`TrainEvent`::

    class Beep:
        def on_start(self, event): ...        # before the first step, also of a resumed run
        def on_step(self, event): ...         # after each step: the losses
        def on_evaluation(self, event): ...   # after each evaluation during training: the metrics
        def on_end(self, event): ...          # after the final evaluation and the report

It is passed as an object, or as the dotted path of an object, a class or a function that makes one:
``rcnn.train(data, callbacks=[Beep(), "my_package.callbacks:Other"])``. There is nothing to subclass. If a
callback raises an exception, the run saves a checkpoint and stops; it can be resumed. Of several processes
(torchrun) only the first one has callbacks. A run that is interrupted or stopped by an error ends without
``on_end``.

:data:`LOGS` are the callbacks with a name: ``rcnn.train(data, log=["tensorboard"])``.
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rcnn.config import did_you_mean, resolve
from rcnn.extras import install_command
from rcnn.io.telemetry import without_telemetry
from rcnn.training.recipe import Recipe, recipe_tables

Moment = Literal["on_start", "on_step", "on_evaluation", "on_end"]
MOMENTS: tuple[Moment, ...] = ("on_start", "on_step", "on_evaluation", "on_end")


@dataclass(frozen=True)
class TrainEvent:
    """What a callback is given.

    Attributes:
        folder: the run folder.
        recipe: the settings of the run.
        iteration: steps done so far.
        epoch: passes over the training images so far.
        fraction: training progress, 0 to 1.
        seconds: time spent training so far, without evaluations.
        values: numbers by name. ``on_step``: ``loss``, ``loss/NAME`` for each part of it, and ``lr``.
            ``on_evaluation``: metrics on some validation images such as ``mask/AP``, ``val/loss``, and
            ``score``, by which the best weights are chosen. ``on_end``: the metrics of the best weights on
            all validation images. NaN where there is nothing to measure. Empty in ``on_start``.
    """

    folder: Path
    recipe: Recipe
    iteration: int
    epoch: float
    fraction: float
    seconds: float
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def finite_values(self) -> dict[str, float]:
        """``values`` without NaN and infinities."""
        return {name: value for name, value in self.values.items() if math.isfinite(value)}


class TrainingStopped(ValueError):  # noqa: N818 -- an outcome of a run, not a mistake of the caller
    """The run cannot continue; what was reached is in its folder."""


class Callbacks:
    """Several callbacks as one.

    An exception is kept until :meth:`raise_failure`, so that a step is completed before the run stops.
    """

    def __init__(
        self, callbacks: Sequence[object] = (), adapt: Callable[[TrainEvent], TrainEvent] | None = None
    ) -> None:
        """Collect callbacks.

        Args:
            callbacks: objects with any of the four methods.
            adapt: changes events on their way, for a run that consists of several trainings.
        """
        self.callbacks, self._adapt = tuple(callbacks), adapt
        self._failure: tuple[str, Exception] | None = None

    def call(self, moment: Moment, event: TrainEvent) -> None:
        """Call one method of all callbacks that have it."""
        event = event if self._adapt is None else self._adapt(event)
        for callback in self.callbacks:
            try:
                method = getattr(callback, moment, None)
                if method is not None:
                    method(event)
            except Exception as error:  # whatever a user's code raises must not lose the run
                name = f"{type(callback).__module__}.{type(callback).__qualname__}.{moment}"
                text = (
                    f"the callback {name} failed after {event.iteration} steps with "
                    f"{type(error).__name__}: {error}. Fix it, then continue with --resume {event.folder}"
                )
                self._failure = self._failure or (text, error)

    @property
    def failed(self) -> bool:
        """Whether a callback raised an exception."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raise what a callback raised, if any.

        Raises:
            TrainingStopped: it names the callback and how to continue.
        """
        if self._failure is not None:
            text, error = self._failure
            raise TrainingStopped(text) from error


def open_callbacks(callbacks: Sequence[object] = (), log: Sequence[str] = ()) -> list[object]:
    """The callback objects; those with a name first.

    Args:
        callbacks: objects, or dotted paths of an object, a class or a function without arguments.
        log: keys of :data:`LOGS`.

    Raises:
        ValueError: an unknown name, a package that is not installed, or an object without any of the methods.
    """
    unknown = [name for name in log if name not in LOGS]
    if unknown:
        hint = did_you_mean(unknown[0], LOGS)
        raise ValueError(f"log {unknown[0]!r}: unknown; {hint}expected one of {', '.join(LOGS)}")
    opened: list[object] = [LOGS[name]() for name in dict.fromkeys(log)]
    for given in callbacks:
        callback = resolve(given) if isinstance(given, str) else given
        if isinstance(callback, type) or (callable(callback) and not _has_methods(callback)):
            callback = callback()
        if not _has_methods(callback):
            name = given if isinstance(given, str) else type(given).__name__
            raise ValueError(f"callback {name}: none of the methods {', '.join(MOMENTS)}")
        opened.append(callback)
    return opened


def _has_methods(callback: object) -> bool:
    return any(hasattr(callback, moment) for moment in MOMENTS)


class TensorBoard:
    """Writes losses and metrics to ``tensorboard/`` in the run folder: ``tensorboard --logdir RUN``."""

    def __init__(self) -> None:
        """Require the package.

        Raises:
            ValueError: TensorBoard is not installed.
        """
        _required("tensorboard")
        self._make: Any = import_module("torch.utils.tensorboard").SummaryWriter

    def on_start(self, event: TrainEvent) -> None:
        """Open the file; values that an interrupted run wrote after its last checkpoint are hidden."""
        self.writer = self._make(event.folder / "tensorboard", purge_step=event.iteration + 1)

    def on_step(self, event: TrainEvent) -> None:
        """Write the losses and the learning rate."""
        self._write(event)

    def on_evaluation(self, event: TrainEvent) -> None:
        """Write the metrics."""
        self._write(event)
        self.writer.flush()

    def on_end(self, event: TrainEvent) -> None:
        """Write the final metrics and close the file."""
        self._write(event, "final/")
        self.writer.close()

    def _write(self, event: TrainEvent, prefix: str = "") -> None:
        for name, value in event.finite_values.items():
            self.writer.add_scalar(prefix + name, value, event.iteration)


class MLflow:
    """Logs to MLflow's tracking server (``MLFLOW_TRACKING_URI``, by default the folder ``mlruns``)."""

    def __init__(self) -> None:
        """Require the package.

        Raises:
            ValueError: MLflow is not installed.
        """
        with without_telemetry("mlflow"):
            self.mlflow: Any = _required("mlflow")

    def on_start(self, event: TrainEvent) -> None:
        """Start a run of MLflow, or continue the one of a resumed run."""
        file = event.folder / "mlflow.txt"
        known = file.read_text(encoding="utf-8") if file.is_file() else None
        run = self.mlflow.start_run(run_id=known, run_name=event.folder.name)
        file.write_text(run.info.run_id, encoding="utf-8")
        backbone = event.recipe.settings.backbone.name
        self.mlflow.log_params({"model": event.recipe.model, "backbone": backbone})
        self.mlflow.log_artifact(str(event.folder / "recipe.toml"))

    def on_step(self, event: TrainEvent) -> None:
        """Log the losses and the learning rate, without waiting for the server."""
        self._log(event, synchronous=False)

    def on_evaluation(self, event: TrainEvent) -> None:
        """Log the metrics."""
        self._log(event)

    def on_end(self, event: TrainEvent) -> None:
        """Log the final metrics and the report, and end the run."""
        self._log(event, "final/")
        self.mlflow.log_artifact(str(event.folder / "report.html"))
        self.mlflow.end_run()

    def _log(self, event: TrainEvent, prefix: str = "", *, synchronous: bool = True) -> None:
        # MLflow allows few characters in names; there are @ in ours, and anything in names of keypoints.
        values = {re.sub(r"[^\w\-./ ]", "_", prefix + k): v for k, v in event.finite_values.items()}
        self.mlflow.log_metrics(values, step=event.iteration, synchronous=synchronous)


class WeightsAndBiases:
    """Logs to Weights & Biases; the project is ``WANDB_PROJECT``, by default ``rcnn``."""

    def __init__(self) -> None:
        """Require the package.

        Raises:
            ValueError: W&B is not installed.
        """
        self.wandb: Any = _required("wandb")

    def on_start(self, event: TrainEvent) -> None:
        """Start a run of W&B, or continue the one of a resumed run."""
        file = event.folder / "wandb.txt"
        if not file.is_file():
            file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        own = file.read_text(encoding="utf-8")
        settings: dict[str, Any] = {} if "WANDB_PROJECT" in os.environ else {"project": "rcnn"}
        self.run = self.wandb.init(
            name=event.folder.name, id=own, resume="allow", dir=str(event.folder),
            config=recipe_tables(event.recipe), **settings,
        )  # fmt: skip

    def on_step(self, event: TrainEvent) -> None:
        """Log the losses and the learning rate."""
        self.run.log(event.finite_values, step=event.iteration)

    def on_evaluation(self, event: TrainEvent) -> None:
        """Log the metrics."""
        self.run.log(event.finite_values, step=event.iteration)

    def on_end(self, event: TrainEvent) -> None:
        """Put the final metrics into the summary, and end the run."""
        self.run.summary.update({f"final/{name}": value for name, value in event.finite_values.items()})
        self.run.finish()


LOGS: dict[str, Callable[[], object]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
"""Callbacks by the names that ``log`` and ``--log`` take."""


def _required(package: str) -> ModuleType:
    """A package that is an extra of rcnn.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        advice = install_command(package)
        raise ValueError(f"log {package}: the package {package} is not installed; {advice}") from error
