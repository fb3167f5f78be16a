"""Training: one plain loop, from the first batch to the report.

The schedule runs on a fraction of the way done, 0 to 1: of the iterations (``epochs``) or of the time spent
training (``minutes``). Warm-up and decay depend on nothing else. Every random number is a function of the
seed and the iteration, so a run that was killed goes on from its last checkpoint to the same weights, in
epoch mode bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rcnn.data.loader import training_batches
from rcnn.device import fast_bfloat16, keep_freed_memory
from rcnn.io import checkpoint
from rcnn.io.atomic import write_atomically
from rcnn.structures import ImageBatch, Instances, Output

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset, Sample
    from rcnn.training.recipe import Recipe

LossValues = dict[str, float]
MAX_EVAL_FRACTION = (
    0.05  # of a run by the clock, for evaluations between; the last one and the report come on top
)


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training images; exactly one of ``epochs`` and ``minutes`` is set.
        minutes: training time by the clock; evaluation is counted apart.
        batch_size: images in a step, of all processes together.
        optimizer: ``adamw`` or ``sgd`` (the papers').
        lr: the highest learning rate.
        momentum: of SGD.
        weight_decay: on weights; not on biases and norms.
        backbone_lr: learning rate of the pretrained backbone, as a multiple of ``lr``.
        warmup: fraction of the way over which the learning rate rises from nothing.
        schedule: ``cosine`` to zero, or ``steps``.
        steps: fractions of the way after which the rate is multiplied by ``step_factor``.
        step_factor: see ``steps``.
        clip_norm: the gradient's norm is cut to this; 0 is off.
        ema: decay per step of the moving average of the weights, which is what is evaluated and kept; 0 is
            off.
        amp: half precision in training: ``auto`` is bfloat16 where the device computes in it markedly
            quicker (GPUs, CPUs with instructions for it), full precision elsewhere.
        eval_every: fraction of the way between two evaluations; 0 is one after each step. By the clock,
            without ``patience``, once they have taken a twentieth of it only the last one follows.
        eval_images: at most this many validation images in each of them (the last one takes all).
        patience: stop after this many evaluations without a better result; 0 is never.
        max_bad_steps: losses that are not finite in a row before the run gives up.
        save_every: seconds between two checkpoints; more where they would take a twentieth of the time.
        seed: of everything random.
        workers: processes that prepare batches.
        start: a run folder or checkpoint whose weights to begin with, wherever names and shapes agree.
    """

    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 6e-4
    momentum: float = 0.9
    weight_decay: float = 0.01
    backbone_lr: float = 1.0
    warmup: float = 0.03
    schedule: Literal["cosine", "steps"] = "cosine"
    steps: tuple[float, ...] = (2 / 3, 8 / 9)
    step_factor: float = 0.1
    clip_norm: float = 10.0
    ema: float = 0.0
    amp: Literal["auto", "off"] = "auto"
    eval_every: float = 0.25
    eval_images: int = 40
    patience: int = 0
    max_bad_steps: int = 10
    save_every: float = 60.0
    seed: int = 0
    workers: int = 1
    start: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting outside its range, named.
        """
        fits: dict[str, tuple[bool, str]] = {
            "batch_size": (self.batch_size >= 1, "at least 1 image"),
            "lr": (0 <= self.lr < math.inf, "a number, 0 or more"),
            "backbone_lr": (0 <= self.backbone_lr < math.inf, "a multiple of lr, 0 or more"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number, 0 or more"),
            "momentum": (0 <= self.momentum < 1, "a number from 0 to below 1"),
            "warmup": (0 <= self.warmup < 1, "a fraction of the way, not steps"),
            "steps": (all(0 < step < 1 for step in self.steps), "fractions of the way, not epochs"),
            "step_factor": (0 < self.step_factor <= 1, "a number above 0, at most 1"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "a number, 0 for off"),
            "ema": (0 <= self.ema < 1, "a number from 0 to below 1"),
            "eval_every": (self.eval_every >= 0, "a fraction of the way; 0 is after each step"),
            "eval_images": (self.eval_images >= 1, "at least 1 image"),
            "patience": (self.patience >= 0, "a number of evaluations, 0 for never"),
            "max_bad_steps": (self.max_bad_steps >= 1, "at least 1"),
            "save_every": (self.save_every >= 0, "seconds, 0 or more"),
            "seed": (0 <= self.seed < 2**32, "a whole number from 0 to 4294967295"),
            "workers": (self.workers >= 0, "0 or more processes"),
        }
        for name, (good, expected) in fits.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}: expected {expected}")

    def half(self, device: torch.device) -> bool:
        """Whether ``amp`` means bfloat16 on this device."""
        return self.amp == "auto" and fast_bfloat16(device)

    def lr_factor(self, fraction: float) -> float:
        """The learning rate as a share of ``lr`` at a fraction of the way, warm-up included."""
        warm = min(1.0, (fraction + 1e-3) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return warm * self.step_factor ** sum(fraction >= step for step in self.steps)


class TrainingStopped(ValueError):  # noqa: N818 -- an outcome of a run, not a mistake of the caller
    """The run cannot go on; what was reached is in its folder."""


@dataclass
class TrainState:
    """Where a run is; part of every checkpoint.

    Attributes:
        iteration: steps done.
        seconds: time spent training.
        eval_seconds: time spent evaluating.
        skipped: steps whose loss was not finite.
        skipped_in_a_row: of these, the last ones without a good one between.
        best: the best validation result so far, -1 before the first.
        best_iteration: where it was reached.
        stale: evaluations since.
        next_eval: the fraction of the way at which the next evaluation is due.
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


class WeightEMA:
    """The moving average of a model's weights (EMA), or the weights themselves where the decay is 0."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = network
        self.shadow = {k: v.detach().clone() for k, v in network.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move towards the current weights; early on faster, so that the start is soon forgotten."""
        if not self.decay:
            return
        step = 1 - min(self.decay, (1 + iteration) / (10 + iteration))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.shadow[key].lerp_(value, step)
            else:
                self.shadow[key].copy_(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        own = {k: v.detach().clone() for k, v in self.network.state_dict().items()} if self.decay else {}
        if self.decay:
            self.network.load_state_dict(self.shadow)
        try:
            yield
        finally:
            if self.decay:
                self.network.load_state_dict(own)


class Trainer:
    """One run: network, optimiser, data, progress, and the folder that they are written to."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        data: Dataset,
        out: Path,
        *,
        evaluate: Callable[[bool], Mapping[str, float]],
        describe: Mapping[str, Any],
        device: torch.device,
        say: Callable[[str], None] = print,
        tick: Callable[[float, LossValues], None] = lambda fraction, losses: None,
    ) -> None:
        """Prepare a run.

        Args:
            network: as the recipe describes it, pretrained where wanted.
            recipe: settings of everything.
            data: the training images.
            out: the run's folder, existing.
            evaluate: measures ``network`` on validation images (all of them if True), metrics by name, with
                ``score`` among them, the one to maximise; called by every process, that of the first counts.
            describe: what a checkpoint says of the model (class names and so on).
            device: where to train.
            say: takes a line for the log.
            tick: takes the fraction of the way done and the latest losses, for a progress bar.
        """
        keep_freed_memory()
        self.network, self.recipe, self.settings = network.to(device), recipe, recipe.train
        self.data, self.out, self.device = data, out, device
        self.evaluate, self.describe, self.say, self.tick = evaluate, describe, say, tick
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.optimizer = build_optimizer(network, self.settings)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = WeightEMA(network, self.settings.ema)
        self.state = TrainState(next_eval=self.settings.eval_every)
        self.window: dict[str, float] = {}
        self.window_steps = 0
        self.lr = 0.0  # of the latest step, for the heads
        # find_unused_parameters stays off: empty heads give zero gradients rather than none.
        self.parallel: nn.Module = nn.parallel.DistributedDataParallel(network) if self.world > 1 else network

    @property
    def total(self) -> int:
        """Iterations of an epoch run."""
        return max(1, math.ceil((self.settings.epochs or 0) * len(self.data) / self.settings.batch_size))

    def fraction(self) -> float:
        """How much of the way is done, 0 to 1."""
        if self.settings.minutes is None:
            return min(1.0, self.state.iteration / self.total)
        return min(1.0, self.state.seconds / (60 * self.settings.minutes))

    def run(self) -> None:
        """Train from where ``progress`` is to the end."""
        settings, progress = self.settings, self.state
        batches = training_batches(
            self.data, self.recipe.augment, self.recipe.transform, batch_size=settings.batch_size,
            seed=settings.seed, start=progress.iteration, workers=settings.workers, rank=self.rank,
            world_size=self.world,
        )  # fmt: skip
        if self.rank == 0 and not progress.iteration:
            _truncate_metrics(self.out / "metrics.jsonl", 0)  # of a run killed before it saved anything
        saved, pause = time.monotonic(), settings.save_every
        self.network.train()
        while self.fraction() < 1 and not self._should_stop():
            began = time.perf_counter()
            self.step(next(batches))
            progress.seconds += self._mean_over_processes(time.perf_counter() - began)
            better = self._evaluation_is_due() and self._evaluate()
            # While losses are not finite the last good checkpoint stays. A run that is killed and resumed
            # must know of the best weights that it has stored.
            if (better or time.monotonic() - saved > pause) and not progress.skipped_in_a_row:
                began = time.monotonic()
                self.save()
                saved = time.monotonic()
                # With its optimiser's state a VGG-16 has 1.6 GB to write.
                pause = max(pause, 20 * (saved - began)) if settings.save_every else 0.0
        self._write_window()
        self.save()

    def step(self, samples: Sequence[Sample]) -> LossValues:
        """One step of the optimiser; a loss or gradient that is not finite is counted and changes nothing."""
        progress, fraction = self.state, self.fraction()
        batch, truths = self.make_batch(samples)
        self.lr = self.settings.lr * self.settings.lr_factor(fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["multiple"]
        statistics = [(buffer, buffer.clone()) for buffer in self._statistics()]
        self.optimizer.zero_grad(set_to_none=True)  # before memory is needed for this step's
        with self._precision():
            output: Output = self.parallel(batch, truths)
        loss = torch.stack(list(output.losses.values())).sum()
        losses = {k: self._mean_over_processes(float(v.detach())) for k, v in output.losses.items()}
        good = math.isfinite(sum(losses.values()))
        if good:
            loss.backward()  # type: ignore[no-untyped-call]
            good = self._clip()
        if good:
            self.optimizer.step()
            # A fused optimiser does not say that it wrote; the prepared network of the evaluation goes by it.
            torch.autograd.graph.increment_version(self._trained)
            self.ema.update(progress.iteration)
            progress.skipped_in_a_row = 0
        else:
            for buffer, before in statistics:
                buffer.copy_(before)
        # Counted before anything is written: a resumed run must know which rows its checkpoint covers.
        progress.iteration += 1
        if good:
            self._accumulate(losses)
        else:
            self._skip(samples, losses)
        self.tick(self.fraction(), losses)
        return losses

    def _statistics(self) -> list[Tensor]:
        """The running statistics that a step in training changes."""
        norms = (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return [buffer for norm in norms if norm.training for buffer in norm.buffers()]

    def make_batch(self, samples: Sequence[Sample]) -> tuple[ImageBatch, list[Instances]]:
        """What the network takes: the padded batch, with a seed for each image, and its truth."""
        batch = self.recipe.transform.batch([s.image for s in samples])
        first = self.state.iteration * self.settings.batch_size + self.rank * len(samples)
        seeds = tuple(self.settings.seed * 1_000_003 + first + i for i in range(len(samples)))
        # Dropout and the like draw from torch's own generator.
        torch.manual_seed(seeds[0])
        tensors = batch.tensors.to(self.device, non_blocking=True)
        return ImageBatch(tensors, batch.sizes, seeds), [s.truth.to(self.device) for s in samples]

    def save(self) -> None:
        """Write the last checkpoint: all that a resumed run needs."""
        if self.rank != 0:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        state = self.optimizer.state_dict()["state"]
        tensors |= {
            f"optimizer.{i}.{k}": torch.as_tensor(v)
            for i, entries in state.items()
            for k, v in entries.items()
        }
        extra = {"train_state": vars(self.state), "window": self.window, "window_steps": self.window_steps}
        checkpoint.write_checkpoint(self.out / "last.safetensors", tensors, {**self.describe, **extra})

    def resume(self) -> None:
        """Take up the state of the last checkpoint, and cut the log of metrics to it."""
        tensors, metadata = checkpoint.read_checkpoint(self.out / "last.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "optimizer": {}}
        for key, value in tensors.items():
            part, rest = key.split(".", 1)
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        for key, value in self.ema.shadow.items():
            value.copy_(parts["ema"][key])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        _lay_out_like_parameters(self.optimizer)
        self.state = TrainState(**metadata["train_state"])
        self.window, self.window_steps = metadata["window"], metadata["window_steps"]
        if self.rank == 0:
            _truncate_metrics(self.out / "metrics.jsonl", self.state.iteration)

    def _evaluation_is_due(self) -> bool:
        """By the clock, those between are left out where they would take more than a small part of a run."""
        progress, settings = self.state, self.settings
        if self.fraction() >= 1:
            return True
        if self.fraction() < progress.next_eval:
            return False
        limit = (
            60 * MAX_EVAL_FRACTION * settings.minutes
            if settings.minutes and not settings.patience
            else math.inf
        )
        if progress.eval_seconds <= limit:
            return True
        progress.next_eval += settings.eval_every
        return False

    def _evaluate(self) -> bool:
        """Measure, and keep the weights if they are the best so far; whether they were kept."""
        progress = self.state
        self._write_window()
        progress.next_eval += self.settings.eval_every
        began = time.perf_counter()
        last = self.fraction() >= 1
        with self.ema.applied():
            self.network.eval()
            metrics = self.evaluate(last)
            score = self._mean_over_processes(metrics["score"] * self.world if self.rank == 0 else 0.0)
            # Of equal ones the last is kept; only a better one has got on, once there is any result.
            kept = score >= progress.best
            progress.stale = 0 if score > progress.best or score == 0 == progress.best else progress.stale + 1
            if kept:
                progress.best, progress.best_iteration = score, progress.iteration
                if self.rank == 0:
                    weights = {f"network.{k}": v for k, v in self.network.state_dict().items()}
                    checkpoint.write_checkpoint(
                        self.out / "best.safetensors", weights, {**self.describe, "metrics": dict(metrics)}
                    )
        self.network.train()
        progress.eval_seconds += self._mean_over_processes(time.perf_counter() - began)
        self._write({k: v for k, v in metrics.items() if k != "score"})
        return kept

    def _should_stop(self) -> bool:
        stop = 0 < self.settings.patience <= self.state.stale
        if stop:
            self.say(f"stopped early: {self.state.stale} evaluations without a better result")
        return stop

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        half = self.settings.half(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext()

    def _clip(self) -> bool:
        """Cut the gradient to its limit; False where it is not finite, and would spoil all weights."""
        limit = self.settings.clip_norm
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(grads))
        if 0 < limit < norm < math.inf:  # scaling costs a pass over all gradients, so only where it is needed
            torch._foreach_mul_(grads, limit / norm)
        return math.isfinite(norm)

    def _skip(self, samples: Sequence[Sample], losses: LossValues) -> None:
        progress = self.state
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        what = "gradient" if math.isfinite(sum(losses.values())) else "loss"
        shown = ", ".join(f"{k} {v:.4g}" for k, v in losses.items())
        names = ", ".join(self._gather([str(s.image_id) for s in samples]))
        self.say(
            f"iteration {progress.iteration}: the {what} is not finite ({shown}); step skipped; "
            f"images: {names}"
        )
        if progress.skipped_in_a_row >= self.settings.max_bad_steps:
            if not (self.out / "last.safetensors").exists():
                self.save()
            raise TrainingStopped(
                f"{progress.skipped_in_a_row} losses in a row were not finite, from iteration "
                f"{progress.iteration - progress.skipped_in_a_row + 1} on; the last good weights are in "
                f"{self.out / 'last.safetensors'}. Lower the learning rate "
                f"(--set train.lr={self.settings.lr / 4:g}), or look at the images named in the log."
            )

    def _accumulate(self, losses: LossValues) -> None:
        for key, value in losses.items():
            self.window[key] = self.window.get(key, 0.0) + value
        self.window_steps += 1
        if self.window_steps == 20:
            self._write_window()

    def _write_window(self) -> None:
        if self.window_steps:
            means = {f"loss/{k}": v / self.window_steps for k, v in self.window.items()}
            self.window, self.window_steps = {}, 0
            self._write({"loss": sum(means.values()), **means, "lr": self.lr})

    def _write(self, values: Mapping[str, float]) -> None:
        if self.rank != 0:
            return
        progress = self.state
        row = {
            "iteration": progress.iteration,
            "epoch": progress.iteration * self.settings.batch_size / len(self.data),
            "seconds": round(progress.seconds, 2),
            **{k: v if math.isfinite(v) else None for k, v in values.items()},
        }
        append_line(self.out / "metrics.jsonl", json.dumps(row))

    def _mean_over_processes(self, value: float) -> float:
        """The mean over all processes, so that they decide alike."""
        if self.world == 1:
            return value
        # NCCL takes tensors on a GPU only.
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return float(tensor) / self.world

    def _gather(self, names: list[str]) -> list[str]:
        """The names of all processes, in order."""
        if self.world == 1:
            return names
        parts: list[list[str]] = [[] for _ in range(self.world)]
        dist.all_gather_object(parts, names)
        return [name for part in parts for name in part]


def build_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW or SGD; the backbone with its own multiple of the rate, biases and norms without decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            in_backbone = name.startswith(("backbone.", "rpn_backbone."))
            groups.setdefault((in_backbone, parameter.ndim > 1), []).append(parameter)
    entries = [
        {
            "params": parameters,
            "multiple": settings.backbone_lr if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(entries, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(entries, lr=settings.lr, fused=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file.

    Raises:
        OSError: it could not be written (disk full, no permission); it names the path and says how to go on.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        advice = f"could not be written ({error.strerror}); make room, then go on with --resume {path.parent}"
        raise OSError(error.errno, advice, str(path)) from error


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's tensors the memory layout of their parameters (channels last).

    A checkpoint holds them contiguous, and the fused step reads both by their place in memory.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _truncate_metrics(path: Path, iteration: int) -> None:
    """Drop the rows written after the checkpoint; the resumed run writes them again."""
    if path.is_file():
        rows = [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if _row_iteration(line) <= iteration
        ]
        write_atomically(path, "".join(row + "\n" for row in rows).encode())


def _row_iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (json.JSONDecodeError, KeyError):
        return math.inf  # a row that a kill cut short
