"""The settings of the training loop: optimiser, schedule, batches, evaluations, checkpoints.

The schedule is a function of training progress, a fraction from 0 to 1: of the iterations (``epochs``) or of
the time spent training (``minutes``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rcnn.device import fast_bfloat16

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained.

    Attributes:
        epochs: passes over the training images; exactly one of ``epochs`` and ``minutes`` is set.
        minutes: training time in minutes, without evaluations.
        batch_size: images per step, of all processes together.
        optimizer: AdamW, or SGD as in the papers.
        lr: the highest learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay of weights; biases and norms have none.
        backbone_lr: learning rate of the pretrained backbone, as a multiple of ``lr``.
        warmup: fraction of training over which the learning rate rises from zero.
        schedule: how the learning rate falls: along a cosine to zero (``cosine``), or in ``steps``.
        steps: fractions of training after which the learning rate is multiplied by ``step_factor``.
        step_factor: factor on the learning rate at each of ``steps``.
        clip_norm: maximum norm of the gradient; 0: no clipping.
        ema: decay per step of the moving average of the weights (EMA), which is then evaluated and kept; 0:
            no average.
        amp: ``auto``: train in bfloat16 where it is markedly faster (GPUs, CPUs with instructions for it),
            else in float32; ``off``: in float32.
        eval_every: fraction of training between two evaluations; 0: one after each step. With ``minutes`` and
            without ``patience``, only the last one follows once they have taken a twentieth of the time.
        eval_images: maximum number of validation images in each of them; the last one takes all.
        patience: stop after this many evaluations without a better result; 0: never.
        max_bad_steps: consecutive non-finite losses after which training stops.
        save_every: seconds between two checkpoints; more if they would take a twentieth of the time.
        seed: random seed.
        workers: processes that prepare batches.
        start: a trained model to start from: a run, a checkpoint, or the name of a model. Classes are matched
            by name; without a recipe the model's architecture, anchors and scale are taken, too.
        rename: pairs: what the data call a class, and what the model of ``start`` calls it.
        keep_classes: keep the classes of ``start`` that the data do not have.
        keep_threshold: keep the threshold of ``start``, instead of the one where F1 is highest.
        freeze: what does not train: ``backbone``, with its batch norm; ``norms``: the statistics of all batch
            norms.
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
    rename: tuple[tuple[str, str], ...] = ()
    keep_classes: bool = False
    keep_threshold: bool = False
    freeze: tuple[Literal["backbone", "norms"], ...] = ()

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
            "warmup": (0 <= self.warmup < 1, "a fraction of training, not steps"),
            "steps": (all(0 < step < 1 for step in self.steps), "fractions of training, not epochs"),
            "step_factor": (0 < self.step_factor <= 1, "a number above 0, at most 1"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "a number, 0 for off"),
            "ema": (0 <= self.ema < 1, "a number from 0 to below 1"),
            "eval_every": (self.eval_every >= 0, "a fraction of training; 0 is after each step"),
            "eval_images": (self.eval_images >= 1, "at least 1 image"),
            "patience": (self.patience >= 0, "a number of evaluations, 0 for never"),
            "max_bad_steps": (self.max_bad_steps >= 1, "at least 1"),
            "save_every": (self.save_every >= 0, "seconds, 0 or more"),
            "seed": (0 <= self.seed < 2**32, "an integer from 0 to 4294967295"),
            "workers": (self.workers >= 0, "0 or more processes"),
        }
        for name, (good, expected) in fits.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)}: expected {expected}")

    def uses_bfloat16(self, device: torch.device) -> bool:
        """Whether ``amp`` means bfloat16 on this device."""
        return self.amp == "auto" and fast_bfloat16(device)

    def lr_factor(self, fraction: float) -> float:
        """The learning rate as a multiple of ``lr`` at a fraction of training, warm-up included."""
        warm = min(1.0, (fraction + 1e-3) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return warm * self.step_factor ** sum(fraction >= step for step in self.steps)
