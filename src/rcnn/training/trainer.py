"""The training loop, from the first batch to the last checkpoint.

Every random number is a function of the seed and the iteration, and the schedule one of training progress.
So a run that was killed continues from its last checkpoint to the same weights: bit for bit in an epoch run.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from rcnn import kernels
from rcnn.data.loader import training_batches
from rcnn.data.workers import usable_workers
from rcnn.device import keep_freed_memory
from rcnn.io import checkpoint, interruption
from rcnn.io.interruption import held
from rcnn.parts.batch import ImageBatch, Output, Targets
from rcnn.processes.group import (
    from_first_process,
    gathered,
    lost_process,
    mean_over_processes,
    rank,
    world_size,
)
from rcnn.training.callbacks import Callbacks, TrainEvent, TrainingStopped
from rcnn.training.feature_cache import FeatureCache, open_cache, recurring_views
from rcnn.training.optimizer import WeightEMA, WeightInterpolation, build_optimizer, restore_memory_layout
from rcnn.training.run_folder import BEST, HISTORY, LAST, append_line, truncate_history
from rcnn.training.settings import TrainSettings

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.data.geometry import TrainingSample
    from rcnn.training.recipe import Recipe

__all__ = ["LossValues", "TrainSettings", "TrainState", "Trainer", "TrainingStopped"]

LossValues = dict[str, float]
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
        self.optimizer = build_optimizer(network, self.settings)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = WeightEMA(network, self.settings.ema)
        self.interpolation = WeightInterpolation(network, self.settings.interpolation)
        self.state = TrainState(next_eval=self.settings.eval_every)
        self.window: dict[str, float] = {}
        self.window_steps = 0
        self.views = recurring_views(network, recipe, len(data), self.device)
        self.features: FeatureCache | None = None  # while it runs, if views recur
        self.lr = 0.0  # of the latest step, for the heads
        self._unshared = 0.0  # seconds of this process that are not in the state yet
        self.parallel = self._parallel()

    def _parallel(self) -> nn.Module:
        """The network whose gradients are the means over all processes."""
        if self.world == 1:
            return self.network
        if self.settings.sync_bn:
            convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call] # inside it, under the same names
        # Of kernels of one pixel, whose strides mean nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # find_unused_parameters stays off: empty heads give zero gradients rather than none.
        return nn.parallel.DistributedDataParallel(self.network, gradient_as_bucket_view=True)

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
            views=self.views,
        )  # fmt: skip
        if self.rank == 0 and not state.iteration:
            truncate_history(self.out, 0)  # of a run killed before it saved anything
        self._start_training()
        self.features = open_cache(
            self.network, self.recipe, self.out, num_images=len(self.data), views=self.views, say=self.say
        )
        try:
            self._loop(batches)
        except (KeyboardInterrupt, SystemExit, RuntimeError) as error:
            stopped = interruption.asked() or lost_process(error) is not None
            if stopped and self._may_save(error):
                self.save()
            raise
        finally:
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
            losses = self.step(samples, began)
            self.callbacks.call("on_step", self.event(self._named(losses)))
            better = state.evaluating and self._evaluate()
            # While losses are not finite the last good checkpoint stays. A run that is killed and resumed
            # must know of the best weights that it has stored.
            if (better or time.monotonic() - saved > pause) and not state.skipped_in_a_row:
                began = time.monotonic()
                self.save()
                saved = time.monotonic()
                # With its optimiser's state a VGG-16 has 1.6 GB to write.
                pause = max(pause, SAVE_COST * (saved - began)) if settings.save_every else 0.0
            if self.callbacks.failed:
                self.save()
                self.callbacks.raise_failure()
        self._share_seconds()
        self._write_window()
        self.save()

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
        """
        began = time.perf_counter() if began is None else began
        good, losses = self._compute_gradients(samples)
        with held():
            self._finish_step(samples, losses, good)
            self._spend(time.perf_counter() - began)
            self.state.evaluating = self._evaluation_is_due()
        return losses

    def _compute_gradients(self, samples: Sequence[TrainingSample]) -> tuple[bool, LossValues]:
        """The losses of a batch and whether they and the gradients are finite.

        If they are not, or an interruption comes between, nothing has changed.
        """
        batch, targets = self.make_batch(samples)
        self._set_lr()
        statistics = [(buffer, buffer.clone()) for buffer in self._statistics()]
        self.optimizer.zero_grad(set_to_none=True)  # before memory is needed for this step's
        good = False
        try:
            with self._precision(), self._kept_features(samples):
                output: Output = self.parallel(batch, targets)
            loss = torch.stack(list(output.losses.values())).sum()
            losses = self._shared_losses({name: float(v.detach()) for name, v in output.losses.items()})
            if math.isfinite(sum(losses.values())):
                loss.backward()  # type: ignore[no-untyped-call]
                good = self._clip()
        finally:
            if not good:
                for buffer, before in statistics:
                    buffer.copy_(before)
        return good, losses

    def _finish_step(self, samples: Sequence[TrainingSample], losses: LossValues, good: bool) -> None:
        """Move the weights, or skip the step."""
        if good:
            self._update()
        # Counted before anything is written: a resumed run must know which rows its checkpoint covers.
        self.state.iteration += 1
        if good:
            self._accumulate(losses)
        else:
            self._skip(samples, losses)

    def make_batch(self, samples: Sequence[TrainingSample]) -> tuple[ImageBatch, list[Targets]]:
        """What the network takes: the padded batch, with a seed for each image, and its targets."""
        # Kept maps fit into any batch if all have one size.
        crop = self.recipe.augment.crop
        least = (crop, crop) if self.views else (1, 1)
        batch = self.recipe.transform.batch([s.image for s in samples], least)
        first = self.state.iteration * self.settings.batch_size + self.rank * len(samples)
        seeds = tuple(self.settings.seed * 1_000_003 + first + i for i in range(len(samples)))
        # Dropout and the like draw from torch's own generator.
        torch.manual_seed(seeds[0])
        tensors = batch.tensors.to(self.device, non_blocking=True)
        return ImageBatch(tensors, batch.sizes, seeds), [s.targets.to(self.device) for s in samples]

    def save(self) -> None:
        """Write the last checkpoint: everything that a resumed run needs."""
        if self.rank != 0:
            return
        with held():
            self._save()

    def _save(self) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        tensors |= {f"start.{k}": v for k, v in self.interpolation.start.items()}
        state = self.optimizer.state_dict()["state"]
        tensors |= {
            f"optimizer.{i}.{k}": torch.as_tensor(v)
            for i, entries in state.items()
            for k, v in entries.items()
        }
        extra = {
            "train_state": vars(self.state),
            "window": self.window,
            "window_steps": self.window_steps,
            "interpolation": self.interpolation.fraction,
        }
        checkpoint.write_checkpoint(self.out / LAST, tensors, {**self.describe, **extra})

    def resume(self) -> None:
        """Restore the state of the last checkpoint, and cut the history to it."""
        # The folder may be on the first process's machine alone.
        tensors, metadata = from_first_process(lambda: checkpoint.read_checkpoint(self.out / LAST))
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "start": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, rest = key.split(".", 1)
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        for part, kept in (("ema", self.ema.shadow), ("start", self.interpolation.start)):
            for key, value in kept.items():
                value.copy_(parts[part][key])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        restore_memory_layout(self.optimizer)
        self.state = TrainState(**metadata["train_state"])
        self.window, self.window_steps = metadata["window"], metadata["window_steps"]
        if self.rank == 0:
            truncate_history(self.out, self.state.iteration)

    # Parts of a step

    def _start_training(self) -> None:
        """Switch the network to training, but for the statistics that are frozen."""
        self.network.train()
        if "norms" in self.settings.freeze:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _set_lr(self) -> None:
        self.lr = self.settings.lr * self.settings.lr_factor(self.fraction())
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["multiple"]

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        bf16 = self.settings.uses_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def _kept_features(self, samples: Sequence[TrainingSample]) -> contextlib.AbstractContextManager[Any]:
        views = [sample.view for sample in samples if sample.view is not None]
        return self.features.answering(views) if self.features and views else contextlib.nullcontext()

    def _statistics(self) -> list[Tensor]:
        """The running statistics that a step in training changes."""
        norms = (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return [buffer for norm in norms if norm.training for buffer in norm.buffers()]

    def _clip(self) -> bool:
        """Clip the norm of the gradient; False where it is not finite, and would spoil all weights."""
        limit = self.settings.clip_norm
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(grads))
        if 0 < limit < norm < math.inf:  # scaling costs a pass over all gradients, so only where it is needed
            torch._foreach_mul_(grads, limit / norm)
        return math.isfinite(norm)

    def _update(self) -> None:
        """Let the optimiser and the EMA move."""
        self.optimizer.step()
        # A fused optimiser does not note that it wrote; the fused network of evaluations relies on it.
        torch.autograd.graph.increment_version(self._trained)
        self.ema.update(self.state.iteration)
        self.state.skipped_in_a_row = 0

    def _skip(self, samples: Sequence[TrainingSample], losses: LossValues) -> None:
        state = self.state
        state.skipped += 1
        state.skipped_in_a_row += 1
        what = "gradient" if math.isfinite(sum(losses.values())) else "loss"
        shown = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
        names = ", ".join(str(name) for some in gathered([s.image_id for s in samples]) for name in some)
        self.say(
            f"iteration {state.iteration}: the {what} is not finite ({shown}); step skipped; images: {names}"
        )
        if state.skipped_in_a_row >= self.settings.max_bad_steps:
            if not (self.out / LAST).exists():
                self.save()
            raise TrainingStopped(
                f"{state.skipped_in_a_row} consecutive losses were not finite, from iteration "
                f"{state.iteration - state.skipped_in_a_row + 1} on; the last good weights are in "
                f"{self.out / LAST}. Lower the learning rate (--set train.lr={self.settings.lr / 4:g}), or "
                "check the images named in the log."
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
        self._write_window()
        began = time.perf_counter()
        last = self.fraction() >= 1
        with self.ema.applied(), self.interpolation.applied():
            self.network.eval()
            metrics = self.evaluate(last)
            with held():
                kept = self._keep_if_best(metrics)
                self._write({k: v for k, v in metrics.items() if k != "score"})
                state.next_eval += self.settings.eval_every
                state.evaluating = False
        self._start_training()
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

    def _named(self, losses: LossValues) -> dict[str, float]:
        """Losses as the history and callbacks have them."""
        named = {f"loss/{name}": value for name, value in losses.items()}
        return {"loss": sum(losses.values()), **named, "lr": self.lr}

    def _accumulate(self, losses: LossValues) -> None:
        for key, value in losses.items():
            self.window[key] = self.window.get(key, 0.0) + value
        self.window_steps += 1
        if self.window_steps == WINDOW:
            self._write_window()

    def _write_window(self) -> None:
        if self.window_steps:
            means = {name: value / self.window_steps for name, value in self.window.items()}
            self.window, self.window_steps = {}, 0
            self._write(self._named(means))

    def _write(self, values: Mapping[str, float]) -> None:
        if self.rank == 0:
            event = self.event(values)
            where = {
                "iteration": event.iteration, "epoch": event.epoch, "seconds": round(event.seconds, 2),
            }  # fmt: skip
            row = {**where, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
            append_line(self.out / HISTORY, json.dumps(row))

    # What all processes agree on

    def _shared_losses(self, losses: LossValues) -> LossValues:
        """The means over all processes, in one reduction with the seconds of the step before."""
        *means, seconds = mean_over_processes([*losses.values(), self._unshared], self.device)
        self.state.seconds += seconds
        self._unshared = 0.0
        return dict(zip(losses, means, strict=True))

    def _spend(self, seconds: float) -> None:
        """Count the time of a step; of several processes, once they have agreed on it."""
        self._unshared += seconds
        if self.world == 1:
            self._share_seconds()

    def _share_seconds(self) -> None:
        (seconds,) = mean_over_processes([self._unshared], self.device)
        self.state.seconds += seconds
        self._unshared = 0.0
