"""The settings of the training loop: optimiser, schedule, batches, evaluations, checkpoints.

The schedule is a function of training progress, a fraction from 0 to 1: of the iterations (``epochs``) or of
the time spent training (``minutes``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rcnn.config.ranges import check_ranges, ranged
from rcnn.device import Arithmetic, training_precision

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
        amp: ``auto``: train in bfloat16 where it is markedly faster (GPUs, CPUs with instructions for it), in
            float16 with scaled losses on GPUs without it (V100, T4), else in float32; ``bf16``, ``fp16``: in
            that; ``off``: in float32.
        tf32: on GPUs that have it, products and convolutions in float32 read 10 of its 23 bits (TF32), also
            in evaluations during the training; False: all of them. Other precisions do not need it.
        deterministic: let a GPU give the same bits each time, as a CPU does anyway. It takes longer, and
            what has no such form is refused.
        compile: compile the backbone (``torch.compile``), which takes about a minute at the beginning.
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
        interpolation: what is evaluated and kept are the weights at this fraction of the way from those of
            ``start`` to the trained ones (WiSE-FT). The smaller, the less is forgotten and learnt. 1: the
            trained ones.
        keep_threshold: keep the threshold of ``start``, instead of the one where F1 is highest.
        sync_bn: of several processes on GPUs, batch norms that train use the statistics of the whole batch
            (SyncBN), not those of each process's images.
        freeze: what does not train: ``backbone``, with its batch norm; ``norms``: the statistics of all batch
            norms.
        cache_gb: gigabytes on disk for the maps of a frozen backbone, on a CPU. As many views of each image
            as there is room for then recur. 0: all views are new, and nothing is kept.
    """

    epochs: float | None = ranged(None, 0, 1e9)
    minutes: float | None = ranged(None, 0, 1e7)
    batch_size: int = ranged(4, 1, 100000, words="at least 1 image")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = ranged(6e-4, 0, 1e6, words="a number, 0 or more")
    momentum: float = ranged(0.9, 0, 1, below=True, words="a number from 0 to below 1")
    weight_decay: float = ranged(0.01, 0, 1e6, words="a number, 0 or more")
    backbone_lr: float = ranged(1.0, 0, 1e6, words="a multiple of lr, 0 or more")
    warmup: float = ranged(0.03, 0, 1, below=True, words="a fraction of training, not steps")
    schedule: Literal["cosine", "steps"] = "cosine"
    steps: tuple[float, ...] = ranged(
        (2 / 3, 8 / 9), 0, 1, above=True, below=True, words="fractions of training, not epochs"
    )
    step_factor: float = ranged(0.1, 0, 1, above=True, words="a number above 0, at most 1")
    clip_norm: float = ranged(10.0, 0, 1e12, words="a number, 0 for off")
    ema: float = ranged(0.0, 0, 1, below=True, words="a number from 0 to below 1")
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    tf32: bool = True
    deterministic: bool = False
    compile: bool = False
    eval_every: float = ranged(0.25, 0, 1e6, words="a fraction of training; 0 is after each step")
    eval_images: int = ranged(40, 1, 1e12, words="at least 1 image")
    patience: int = ranged(0, 0, 1e12, words="a number of evaluations, 0 for never")
    max_bad_steps: int = ranged(10, 1, 1e12, words="at least 1")
    save_every: float = ranged(60.0, 0, 1e9, words="seconds, 0 or more")
    seed: int = ranged(0, 0, 4294967295, words="an integer from 0 to 4294967295")
    workers: int = ranged(1, 0, 4096, words="0 or more processes")
    start: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    keep_classes: bool = False
    interpolation: float = ranged(1.0, 0, 1, words="a fraction of the way, from 0 to 1")
    keep_threshold: bool = False
    freeze: tuple[Literal["backbone", "norms"], ...] = ()
    sync_bn: bool = False
    cache_gb: float = ranged(4.0, 0, 1e6, words="gigabytes, 0 for off")

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting outside its range, named.
        """
        check_ranges(self)

    def precision(self, device: torch.device) -> Arithmetic:
        """What ``amp`` means on this device."""
        if self.amp == "auto":
            return training_precision(device)
        return "float32" if self.amp == "off" else self.amp

    def lr_factor(self, fraction: float) -> float:
        """The learning rate as a multiple of ``lr`` at a fraction of training, warm-up included."""
        warm = min(1.0, (fraction + 1e-3) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
        return warm * self.step_factor ** sum(fraction >= step for step in self.steps)
