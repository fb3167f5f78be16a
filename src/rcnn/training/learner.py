"""What a step of training changes: a network, its optimiser, its averages, and the scale of the losses.

The gradients of a batch come first, and can be thrown away; then weights and averages move, or stay as they
are where a step does not count.

**Law:** a step that does not count changes no weight, no average, no statistic, and nothing in the optimiser.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn

from rcnn.device import autocast, has_own_memory
from rcnn.parts.batch import ImageBatch, Output, Targets
from rcnn.processes.group import barrier, world_size
from rcnn.training.loss_scaling import LossScaling
from rcnn.training.optimizer import WeightEMA, WeightInterpolation, build_optimizer, restore_memory_layout
from rcnn.training.settings import TrainSettings
from rcnn.training.step_report import Verdict, clip_gradients, restore_where


class Learner:
    """A network in training."""

    def __init__(self, network: nn.Module, settings: TrainSettings) -> None:
        """Begin with the weights that it has, on the device that they are on."""
        self.network, self.settings = network, settings
        self.device = next(network.parameters()).device
        self.precision = settings.precision(self.device)
        self.scaling = LossScaling(self.device) if self.precision == "fp16" else None
        self.optimizer = build_optimizer(network, settings)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.ema = WeightEMA(network, settings.ema)
        self.interpolation = WeightInterpolation(network, settings.interpolation)
        self.lr = 0.0  # of the latest step, for the heads
        # Whether steps are read while the device is at work on the next.
        self.late = has_own_memory(self.device)
        self.parallel = _parallel(network, settings)

    def start_training(self) -> None:
        """Switch the network to training, but for the statistics that are frozen."""
        self.network.train()
        if "norms" in self.settings.freeze:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def set_lr(self, fraction: float) -> None:
        """Set the learning rates of a step at a fraction of training."""
        self.lr = self.settings.lr * self.settings.lr_factor(fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["multiple"]

    def compute_gradients(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets],
        seconds: float,
        features: contextlib.AbstractContextManager[Any],
    ) -> Verdict:
        """The gradients of a batch, clipped, and whether they and the losses are finite.

        If they are not, or an interruption comes between, nothing has changed.

        Args:
            batch: of this process.
            targets: of its images.
            seconds: that the processes have not shared yet, see :class:`rcnn.training.step_report.Verdict`.
            features: what the network computes inside of.
        """
        statistics = [(buffer, buffer.clone()) for buffer in self._statistics()]
        self.optimizer.zero_grad(set_to_none=True)  # before memory is needed for this step's
        good = torch.zeros((), dtype=torch.bool, device=self.device)
        try:
            with autocast(self.device, self.precision), features:
                output: Output = self.parallel(batch, targets)
            scale = self._backward(torch.stack(list(output.losses.values())).sum())
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            verdict = Verdict.of(output.losses, grads, seconds, scale)
            clip_gradients(grads, verdict.norm, self.settings.clip_norm)
            good = verdict.good
        finally:
            restore_where(good, statistics)
        return verdict

    def _backward(self, loss: Tensor) -> Tensor | None:
        """Compute the gradients; the scale that the loss had meanwhile."""
        if self.scaling is None:
            torch.autograd.backward(loss)
            return None
        return self.scaling.backward(loss, self.optimizer)

    def update(self, verdict: Verdict, iteration: int) -> None:
        """Let optimiser and EMA move, if the step is good; which only a device may know yet.

        Args:
            verdict: on the step.
            iteration: steps done before.
        """
        if self.scaling is not None:
            self.scaling.update()
        if not self.late:
            if not verdict.good:
                return
            self.optimizer.step()
        else:
            self.optimizer.found_inf = (~verdict.good).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        # A fused optimiser does not note that it wrote; the fused network of evaluations relies on it.
        torch.autograd.graph.increment_version(self._trained)
        self.ema.update(iteration, verdict.good if self.late else None)

    def _statistics(self) -> list[Tensor]:
        """The running statistics that a step in training changes."""
        norms = (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return [buffer for norm in norms if norm.training for buffer in norm.buffers()]

    # Checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that has to be stored: tensors, and facts that JSON can hold."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.shadow.items()}
        tensors |= {f"start.{k}": v for k, v in self.interpolation.start.items()}
        tensors |= {
            f"optimizer.{i}.{k}": torch.as_tensor(v)
            for i, entries in self.optimizer.state_dict()["state"].items()
            for k, v in entries.items()
        }
        facts: dict[str, Any] = {"interpolation": self.interpolation.fraction}
        return tensors, facts if self.scaling is None else {**facts, "loss_scaling": self.scaling.state()}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state` gave; what a checkpoint knows beyond it is not looked at."""
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
        if self.scaling is not None and "loss_scaling" in facts:  # a run may go on with another precision
            self.scaling.restore(facts["loss_scaling"])


def _parallel(network: nn.Module, settings: TrainSettings) -> nn.Module:
    """The network whose gradients are the means over all processes."""
    if world_size() == 1:
        return network
    if settings.sync_bn:
        convert_sync_batchnorm(network)  # type: ignore[no-untyped-call] # inside it, under the same names
    _align_strides(network)
    barrier()  # weights may have been downloaded by one of them
    # find_unused_parameters stays off: empty heads give zero gradients rather than none.
    return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)


def _align_strides(network: nn.Module) -> None:
    """Let gradients have the strides of their parameters along sides of one, such as those of 1x1 kernels.

    There strides mean nothing, but DistributedDataParallel compares them, and warns.
    """
    for parameter in network.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(partial(_aligned, parameter))  # type: ignore[no-untyped-call]


def _aligned(parameter: nn.Parameter, gradient: Tensor) -> Tensor | None:
    """The gradient with the strides of the parameter; None if it has them, or lies otherwise in memory."""
    strides = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
    if gradient.stride() == parameter.stride() or any(n > 1 and own != other for n, own, other in strides):
        return None
    return gradient.as_strided(parameter.shape, parameter.stride())
