"""The training loop, from the first batch to the last checkpoint.

Every random number is a function of the seed and the iteration, and the schedule one of training progress.
So a run that was killed continues from its last checkpoint to the same weights: bit for bit in an epoch run.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rcnn import kernels
from rcnn.data.loader import training_batches
from rcnn.data.workers import usable_workers
from rcnn.device import HostCopy, keep_freed_memory
from rcnn.io import checkpoint, interruption
from rcnn.io.interruption import held
from rcnn.parts.batch import ImageBatch, Targets
from rcnn.processes.group import (
    barrier,
    from_first_process,
    gathered,
    limit_steps,
    lost_process,
    mean_over_processes,
    rank,
    world_size,
)
from rcnn.training.arithmetic import arithmetic, compile_backbone, uncompiled
from rcnn.training.callbacks import Callbacks, TrainEvent, TrainingStopped
from rcnn.training.feature_cache import FeatureCache, open_cache, recurring_views
from rcnn.training.learner import Learner
from rcnn.training.run_folder import BEST, HISTORY, LAST, append_line, truncate_history
from rcnn.training.settings import TrainSettings
from rcnn.training.step_report import (
    Launched,
    LossValues,
    Settled,
    Verdict,
    named_losses,
)

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.data.geometry import TrainingSample
    from rcnn.training.recipe import Recipe

__all__ = ["LossValues", "TrainSettings", "TrainState", "Trainer", "TrainingStopped"]

WINDOW = 20  # steps whose mean losses make a row of metrics.jsonl
# The fraction of a run by the clock for evaluations during it; the last one and the report do not count.
MAX_EVAL_FRACTION = 0.05
INTERRUPTED_SAVE_BYTES = 150 * 2**20  # a larger checkpoint would let the user wait who pressed Ctrl-C
SAVE_COST = 20  # at least this many times as long as a checkpoint takes passes before the next one


@dataclass
class TrainState:
    """How far a run is; part of every checkpoint.

    Attributes:
        iteration: steps done.
        seconds: time spent training.
        eval_seconds: time spent evaluating.
        skipped: steps whose loss was not finite.
        skipped_in_a_row: consecutive ones of them, up to now.
        best: the best validation score so far, -1 before the first.
        best_iteration: where it was reached.
        stale: evaluations since.
        next_eval: the training progress at which the next evaluation is due.
        evaluating: an evaluation is due or under way; a resumed run begins with it.
    """

    iteration: int = 0
    seconds: float = 0.0
    eval_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float = -1.0
    best_iteration: int = 0
    stale: int = 0
    next_eval: float = 0.0
    evaluating: bool = False


class Trainer:
    """One training: network, optimiser, data, state, and the folder that they are written to."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        data: Dataset,
        out: Path,
        *,
        evaluate: Callable[[bool], Mapping[str, float]],
        describe: Mapping[str, Any],
        callbacks: Callbacks | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Prepare a training.

        Args:
            network: as the recipe describes it, with its initial weights, on the device to train on.
            recipe: all settings.
            data: the training images.
            out: the folder to write to, existing.
            evaluate: measures ``network`` on validation images (on all of them if True); metrics by name,
                with ``score``, the one to maximise. Every process calls it; the first one's score counts.
            describe: what checkpoints say of the model (class names and so on).
            callbacks: get ``on_step`` and ``on_evaluation``.
            say: takes a line for the log.
        """
        keep_freed_memory()
        kernels.register()
        self.network, self.recipe, self.settings = network, recipe, recipe.train
        self.data, self.out, self.device = data, out, next(network.parameters()).device
        self.evaluate, self.describe, self.say = evaluate, describe, say
        self.callbacks = callbacks or Callbacks()
        self.rank, self.world = rank(), world_size()
        self.learner = Learner(network, self.settings)
        self.state = TrainState(next_eval=self.settings.eval_every)
        self.window: dict[str, float] = {}
        self.window_steps = 0
        self.views = recurring_views(network, recipe, len(data), self.device)
        if self.settings.compile and not self.views:  # else the backbone computes each view once
            compile_backbone(network)
        self.features: FeatureCache | None = None  # while it runs, if views recur
        self._launched: list[Launched] = []
        self._unshared = 0.0  # seconds of this process that are not in the state yet

    @property
    def total(self) -> int:
        """Iterations of an epoch run."""
        steps = math.ceil((self.settings.epochs or 0) * len(self.data) / self.settings.batch_size)
        return 0 if self.settings.epochs == 0 else max(1, steps)

    def fraction(self) -> float:
        """Training progress, 0 to 1."""
        if self.settings.minutes is None:
            return min(1.0, self.state.iteration / self.total) if self.total else 1.0
        return min(1.0, self.state.seconds / (60 * self.settings.minutes))

    def event(self, values: Mapping[str, float]) -> TrainEvent:
        """What callbacks get now."""
        state = self.state
        epoch = state.iteration * self.settings.batch_size / len(self.data)
        return TrainEvent(
            self.out, self.recipe, state.iteration, epoch, self.fraction(), state.seconds, values
        )

    def run(self) -> None:
        """Train from the current state to the end.

        Raises:
            TrainingStopped: too many losses that are not finite, or a callback failed; there is a checkpoint.
            OSError: something could not be written.
        """
        settings, state = self.settings, self.state
        workers, why = usable_workers(settings.workers)
        if why:
            self.say(why)
        batches = training_batches(
            self.data, self.recipe.augment, self.recipe.transform, batch_size=settings.batch_size,
            seed=settings.seed, start=state.iteration, workers=workers, process=(self.rank, self.world),
            views=self.views, device=self.device,
        )  # fmt: skip
        if self.rank == 0 and not state.iteration:
            truncate_history(self.out, 0)  # of a run killed before it saved anything
        self.learner.start_training()
        self.features = open_cache(
            self.network, self.recipe, self.out, num_images=len(self.data), views=self.views, say=self.say
        )
        try:
            with arithmetic(self.settings):
                self._loop(batches)
        except (KeyboardInterrupt, SystemExit, RuntimeError) as error:
            stopped = interruption.asked() or lost_process(error) is not None
            if stopped and self._may_save(error):
                self.save()
            raise
        finally:
            limit_steps(first=True)  # of the next training
            if self.features is not None:
                self.features.close()
                self.features = None

    def _loop(self, batches: Iterator[list[TrainingSample]]) -> None:
        settings, state = self.settings, self.state
        saved, pause = time.monotonic(), settings.save_every
        if state.evaluating and self._evaluate():  # of a run that was interrupted meanwhile
            self.save()
        while self.fraction() < 1 and not self._should_stop():
            began = time.perf_counter()
            samples = next(batches)
            barrier()  # whatever kept one of them, a step's limit counts from here
            self._report(self._launch(samples, began))
            limit_steps(first=settings.compile)
            if state.evaluating:
                self._report(self._settle())
            better = state.evaluating and self._evaluate()
            due = better or time.monotonic() - saved > pause
            if due:
                self._report(self._settle())
            # While losses are not finite the last good checkpoint stays. A run that is killed and resumed
            # must know of the best weights that it has stored.
            if due and not state.skipped_in_a_row:
                began = time.monotonic()
                self.save()
                saved = time.monotonic()
                # With its optimiser's state a VGG-16 has 1.6 GB to write.
                pause = max(pause, SAVE_COST * (saved - began)) if settings.save_every else 0.0
            if self.callbacks.failed:
                self.save()
                self.callbacks.raise_failure()
        self._report(self._settle())
        self._share_seconds()
        self._write_window(self.event({}))
        self.save()

    def _report(self, settled: Sequence[Settled]) -> None:
        """Tell callbacks of steps that were read."""
        for step in settled:
            self.callbacks.call("on_step", step.event)

    def _may_save(self, error: BaseException) -> bool:
        """Whether an interrupted run is to be saved: after Ctrl-C only if that is done at once."""
        if self.state.skipped_in_a_row:
            return False
        bytes_ = 3 * sum(p.nbytes for p in self.network.parameters())  # with the optimiser's state
        return not isinstance(error, KeyboardInterrupt) or bytes_ <= INTERRUPTED_SAVE_BYTES

    def step(self, samples: Sequence[TrainingSample], began: float | None = None) -> LossValues:
        """One step of the optimiser; a loss or gradient that is not finite is counted and changes nothing.

        Args:
            samples: the batch of this process.
            began: the reading of the clock from which the step's time counts; None: now.

        Returns:
            Its losses, which the host waits for.
        """
        began = time.perf_counter() if began is None else began
        return [*self._launch(samples, began), *self._settle()][-1].losses

    def _launch(self, samples: Sequence[TrainingSample], began: float) -> list[Settled]:
        """Begin a step, and read the one before it; on a CPU this one."""
        verdict = self._compute_gradients(samples)
        with held():
            return self._finish_step(samples, verdict, began)

    def _finish_step(
        self, samples: Sequence[TrainingSample], verdict: Verdict, began: float
    ) -> list[Settled]:
        """Move the weights, or leave out the step; what must not be cut in two."""
        self.learner.update(verdict, self.state.iteration)
        # Counted before anything is written: a resumed run must know which rows its checkpoint covers.
        self.state.iteration += 1
        self._unshared = 0.0  # those of the steps before are in the verdict
        self._spend(time.perf_counter() - began)
        images = tuple(str(sample.image_id) for sample in samples)
        copy = HostCopy([verdict.values])
        self._launched.append(Launched(self.event({}), images, self.learner.lr, verdict.names, copy))
        settled = self._settle(left=1 if self.learner.late else 0)
        self.state.evaluating = self._evaluation_is_due()
        return settled

    def _settle(self, left: int = 0) -> list[Settled]:
        """Read the steps that were launched, but for the last ``left`` ones."""
        settled = []
        with held():
            while len(self._launched) > left:
                settled.append(self._launched.pop(0).read())
                self.state.seconds += settled[-1].seconds
                self._count(settled[-1])
        return settled

    def _compute_gradients(self, samples: Sequence[TrainingSample]) -> Verdict:
        """The gradients of a batch, see :meth:`rcnn.training.learner.Learner.compute_gradients`."""
        batch, targets = self.make_batch(samples)
        self.learner.set_lr(self.fraction())
        return self.learner.compute_gradients(batch, targets, self._unshared, self._kept_features(samples))

    def _count(self, step: Settled) -> None:
        """Note what came of a step."""
        if step.good:
            self.state.skipped_in_a_row = 0
            self._accumulate(step)
        elif not step.overflowed:
            self._skip(step)

    def make_batch(self, samples: Sequence[TrainingSample]) -> tuple[ImageBatch, list[Targets]]:
        """What the network takes: the padded batch, with a seed for each image, and its targets."""
        # Kept maps fit into any batch if all have one size.
        crop = self.recipe.augment.crop
        least = (crop, crop) if self.views else (1, 1)
        # On a CPU they are there; a device has what `training_batches` sent.
        samples = [sample.to(self.device) for sample in samples]
        batch = self.recipe.transform.batch([s.image for s in samples], least)
        first = self.state.iteration * self.settings.batch_size + self.rank * len(samples)
        seeds = tuple(self.settings.seed * 1_000_003 + first + i for i in range(len(samples)))
        # Dropout and the like draw from torch's own generator.
        torch.manual_seed(seeds[0])
        return replace(batch, seeds=seeds), [sample.targets for sample in samples]

    def save(self) -> None:
        """Write the last checkpoint: everything that a resumed run needs."""
        self._report(self._settle())
        if self.rank != 0:
            return
        with held():
            self._save()

    def _save(self) -> None:
        tensors, facts = self.learner.state()
        own = {"train_state": vars(self.state), "window": self.window, "window_steps": self.window_steps}
        checkpoint.write_checkpoint(self.out / LAST, tensors, {**self.describe, **own, **facts})

    def resume(self) -> None:
        """Restore the state of the last checkpoint, and cut the history to it."""
        # The folder may be on the first process's machine alone.
        tensors, metadata = from_first_process(lambda: checkpoint.read_checkpoint(self.out / LAST))
        self.learner.restore(tensors, metadata)
        self.state = TrainState(**metadata["train_state"])
        self.window, self.window_steps = metadata["window"], metadata["window_steps"]
        if self.rank == 0:
            truncate_history(self.out, self.state.iteration)

    # Parts of a step

    def _kept_features(self, samples: Sequence[TrainingSample]) -> contextlib.AbstractContextManager[Any]:
        views = [sample.view for sample in samples if sample.view is not None]
        return self.features.answering(views) if self.features and views else contextlib.nullcontext()

    def _skip(self, step: Settled) -> None:
        state, iteration = self.state, step.launched.event.iteration
        state.skipped += 1
        state.skipped_in_a_row += 1
        what = "gradient" if step.finite_losses else "loss"
        shown = ", ".join(f"{k} {v:.4g}" for k, v in step.losses.items())
        names = ", ".join(name for some in gathered(step.launched.images) for name in some)
        self.say(f"iteration {iteration}: the {what} is not finite ({shown}); step skipped; images: {names}")
        if state.skipped_in_a_row >= self.settings.max_bad_steps:
            if not (self.out / LAST).exists():
                self.save()
            or_float32 = " or train in float32 (--set train.amp=off)," if self.learner.scaling else ""
            raise TrainingStopped(
                f"{state.skipped_in_a_row} consecutive losses were not finite, from iteration "
                f"{iteration - state.skipped_in_a_row + 1} on; the last good weights are in "
                f"{self.out / LAST}. Lower the learning rate (--set train.lr={self.settings.lr / 4:g}),"
                f"{or_float32} or check the images named in the log."
            )

    # Evaluations

    def _evaluation_is_due(self) -> bool:
        """In a run by the clock, evaluations are skipped once they have taken a small part of it."""
        state, settings = self.state, self.settings
        if self.fraction() >= 1:
            return True
        if self.fraction() < state.next_eval:
            return False
        limit = math.inf
        if settings.minutes and not settings.patience:
            limit = 60 * MAX_EVAL_FRACTION * settings.minutes
        if state.eval_seconds <= limit:
            return True
        state.next_eval += settings.eval_every
        return False

    def _evaluate(self) -> bool:
        """Measure, and keep the weights if they are the best so far; whether they were kept."""
        state = self.state
        self._write_window(self.event({}))
        began = time.perf_counter()
        last = self.fraction() >= 1
        with self.learner.ema.applied(), self.learner.interpolation.applied(), uncompiled():
            self.network.eval()
            metrics = self.evaluate(last)
            with held():
                kept = self._keep_if_best(metrics)
                self._write(self.event({k: v for k, v in metrics.items() if k != "score"}))
                state.next_eval += self.settings.eval_every
                state.evaluating = False
        self.learner.start_training()
        (seconds,) = mean_over_processes([time.perf_counter() - began], self.device)
        state.eval_seconds += seconds
        self.callbacks.call("on_evaluation", self.event(metrics))
        return kept

    def _keep_if_best(self, metrics: Mapping[str, float]) -> bool:
        state = self.state
        score = from_first_process(lambda: metrics["score"])
        # The last of equal ones is kept; only a better one is progress, once there is any result.
        kept = score >= state.best
        state.stale = 0 if score > state.best or score == 0 == state.best else state.stale + 1
        if kept:
            state.best, state.best_iteration = score, state.iteration
            self._save_best(metrics)
        return kept

    def _save_best(self, metrics: Mapping[str, float]) -> None:
        if self.rank == 0:
            weights = {f"network.{k}": v for k, v in self.network.state_dict().items()}
            facts = {**self.describe, "metrics": dict(metrics)}
            checkpoint.write_checkpoint(self.out / BEST, weights, facts)

    def _should_stop(self) -> bool:
        stop = 0 < self.settings.patience <= self.state.stale
        if stop:
            self.say(f"stopped early: {self.state.stale} evaluations without a better result")
        return stop

    # The history

    def _accumulate(self, step: Settled) -> None:
        for key, value in step.losses.items():
            self.window[key] = self.window.get(key, 0.0) + value
        self.window_steps += 1
        if self.window_steps == WINDOW:
            self._write_window(step.event)

    def _write_window(self, event: TrainEvent) -> None:
        """Write the mean losses of the latest steps as the row of an event."""
        if self.window_steps:
            means = {name: value / self.window_steps for name, value in self.window.items()}
            self.window, self.window_steps = {}, 0
            self._write(replace(event, values=named_losses(means, event.values.get("lr", self.learner.lr))))

    def _write(self, event: TrainEvent) -> None:
        if self.rank == 0:
            where = {
                "iteration": event.iteration, "epoch": event.epoch, "seconds": round(event.seconds, 2),
            }  # fmt: skip
            row = {**where, **{k: v if math.isfinite(v) else None for k, v in event.values.items()}}
            append_line(self.out / HISTORY, json.dumps(row))

    # What all processes agree on

    def _spend(self, seconds: float) -> None:
        """Count the time of a step; of several processes, once they have agreed on it."""
        self._unshared += seconds
        if self.world == 1:
            self._share_seconds()

    def _share_seconds(self) -> None:
        (seconds,) = mean_over_processes([self._unshared], self.device)
        self.state.seconds += seconds
        self._unshared = 0.0
