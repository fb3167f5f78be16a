"""What a step of training tells of itself: its losses, and whether they and the gradient are finite.

A device decides by itself whether a step counts: weights, averages and statistics stay as they are where it
does not, and the host reads a step late what was decided, while the device is at work on the next. On a CPU
there is nothing to wait for, and each step is read at once.

**Law:** the weights do not depend on when the host reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rcnn.device import HostCopy
from rcnn.processes.group import world_size
from rcnn.training.callbacks import TrainEvent

LossValues = dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """A step, as the device has it.

    Attributes:
        names: of the losses.
        values: float32 ``[losses + 3]``: the losses, the norm of the gradient, the seconds that the processes
            have not shared yet, and the scale of the losses; each the mean over all processes.
        good: bool, a scalar: all losses and the norm are finite.
    """

    names: tuple[str, ...]
    values: Tensor
    good: Tensor

    @classmethod
    def of(
        cls,
        losses: dict[str, Tensor],
        gradients: Sequence[Tensor],
        seconds: float,
        scale: Tensor | None = None,
    ) -> Verdict:
        """The verdict on a step, from the losses and gradients of this process.

        Args:
            losses: unscaled.
            gradients: unscaled, too.
            seconds: that the processes have not shared yet.
            scale: what the losses were multiplied by for the gradients; None: nothing.
        """
        norm = nn.utils.get_total_norm(gradients)
        measured = torch.stack([*(loss.detach() for loss in losses.values()), norm]).float()
        # Filled in on the device: to copy a number there would let the host wait.
        first = measured[:1]
        scales = torch.ones_like(first) if scale is None else scale.detach().reshape(1)
        values = torch.cat([measured, torch.full_like(first, seconds), scales])
        if world_size() > 1:
            dist.all_reduce(values)
            values /= world_size()
        return cls(tuple(losses), values, values[:-2].isfinite().all())

    @property
    def norm(self) -> Tensor:
        """The norm of the gradient."""
        return self.values[-3]


@dataclass(frozen=True)
class Launched:
    """A step that was launched, and is to be read.

    Attributes:
        event: what callbacks get of it, but for its values.
        images: the names of this process's images.
        lr: of the heads.
        names: of the losses.
        copy: of the verdict's values.
    """

    event: TrainEvent
    images: tuple[str, ...]
    lr: float
    names: tuple[str, ...]
    copy: HostCopy

    def read(self) -> Settled:
        """What came of it, once it is there."""
        (values,) = self.copy.wait()
        *losses, norm, seconds, scale = values.tolist()
        named = dict(zip(self.names, losses, strict=True))
        return Settled(self, named, math.isfinite(norm), seconds, scale)


@dataclass(frozen=True)
class Settled:
    """A step that was read.

    Attributes:
        launched: the step.
        losses: by name, the mean over all processes.
        finite_gradient: whether the norm of the gradient is finite.
        seconds: of the steps before that were not shared yet, the mean over all processes.
        scale: what the losses were multiplied by for the gradients.
    """

    launched: Launched
    losses: LossValues
    finite_gradient: bool
    seconds: float
    scale: float = 1.0

    @property
    def finite_losses(self) -> bool:
        """Whether all losses are finite."""
        return all(map(math.isfinite, self.losses.values()))

    @property
    def good(self) -> bool:
        """Whether the step counts; what :attr:`Verdict.good` is on the device."""
        return self.finite_losses and self.finite_gradient

    @property
    def overflowed(self) -> bool:
        """Whether the gradient is not finite because of the scale, which is lowered then; no fault of a step.

        Gradients that are not finite without a scale either are one.
        """
        return self.finite_losses and not self.finite_gradient and self.scale > 1

    @property
    def event(self) -> TrainEvent:
        """What callbacks get."""
        return replace(self.launched.event, values=named_losses(self.losses, self.launched.lr))


def named_losses(losses: LossValues, lr: float) -> dict[str, float]:
    """Losses as the history and callbacks have them."""
    named = {f"loss/{name}": value for name, value in losses.items()}
    return {"loss": sum(losses.values()), **named, "lr": lr}


def clip_gradients(gradients: Sequence[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients whose norm is above ``limit`` to it, in place; 0 is no limit."""
    if not limit:
        return
    factor = (limit / norm).clamp(max=1.0)
    # Scaling costs a pass over all gradients, so only where it is needed, if the host can know.
    if norm.device.type == "cpu" and not float(factor) < 1:
        return
    torch._foreach_mul_(list(gradients), factor)


def restore_where(good: Tensor, kept: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Give tensors the values that they had, where a step was not good; pairs of both."""
    for tensor, before in kept:
        tensor.copy_(torch.where(good, tensor, before))
