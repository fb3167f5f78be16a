"""The losses of Fast R-CNN §2.3 in the forms that the published codes use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from rcnn.device import exact_float, moved


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum of smooth L1 distances over all elements: ``0.5 d² / beta`` below ``beta``, else ``d - beta / 2``.

    ``beta`` 1 is the paper's formula, 1/9 py-faster-rcnn's sigma of 3 (times 9), 0 plain L1 (Detectron2).

    Convention: distances 0.5 and 2 at ``beta`` 1 give 0.125 + 1.5.
    """
    distance = (prediction - target).abs()
    if beta == 0:
        return distance.sum()
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta).sum()


def total_cross_entropy(logits: Tensor, classes: Tensor, ignored: int = -100) -> Tensor:
    """The sum of the cross-entropy of ``logits [B, C, H, W]`` over all ``classes [B, H, W]`` not ``ignored``.

    A GPU adds maps up in any order; where bits have to be the same, the sum is one of its own.
    """
    if logits.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return functional.cross_entropy(logits, classes, ignore_index=ignored, reduction="sum")
    return functional.cross_entropy(logits, classes, ignore_index=ignored, reduction="none").sum()


@dataclass(frozen=True)
class MeanLoss:
    """A loss that is a mean over the global batch, as a process that has some of its items knows it.

    Attributes:
        total: a scalar, the sum over the items of this process.
        count: how many they are; a scalar where the host does not know it.
    """

    total: Tensor
    count: int | Tensor

    def __rmul__(self, weight: float) -> MeanLoss:
        return MeanLoss(weight * self.total, self.count)


Losses = dict[str, Tensor | MeanLoss]


def global_means(losses: Mapping[str, Tensor | MeanLoss]) -> dict[str, Tensor]:
    """The losses by name, of which each mean is the one over the items of all processes; no items give 0.

    One process divides a sum by its count. Several divide theirs by the mean of their counts, since their
    gradients are averaged afterwards; without it a process with few positives would weigh each of them more
    than its neighbour does. They add up all counts at once, and the host does not wait for it.
    """
    means = [loss for loss in losses.values() if isinstance(loss, MeanLoss)]
    counts = iter(_mean_counts(means))
    return {
        name: loss.total / next(counts) if isinstance(loss, MeanLoss) else loss
        for name, loss in losses.items()
    }


def _mean_counts(means: Sequence[MeanLoss]) -> Iterable[int | float | Tensor]:
    """What to divide each sum by."""
    if not means or not torch.distributed.is_initialized():
        return [m.count.clamp(min=1) if isinstance(m.count, Tensor) else max(m.count, 1) for m in means]
    device = means[0].total.device
    exact = exact_float(device)
    totals = torch.cat([moved(torch.as_tensor(m.count, dtype=exact).reshape(1), device) for m in means])
    torch.distributed.all_reduce(totals)
    return (totals.clamp(min=1) / torch.distributed.get_world_size()).to(torch.float32).unbind()


def sum_over_regions(
    total: Callable[..., Tensor], inputs: Sequence[Tensor], modules: Iterable[nn.Module], parts: int
) -> Tensor:
    """``total(*inputs)``, a sum over regions, on a CPU computed for a part of them at a time.

    Where gradients are recorded, those of a part are computed right after its loss: what layers keep for them
    is that of one part, never of all, and nothing is computed twice. It can be differentiated once; hooks see
    gradients of parts.

    Args:
        total: a scalar of some of the regions.
        inputs: tensors ``[R, ...]``; only the first one's gradients are wanted.
        modules: all that ``total`` computes with and that is trained.
        parts: into how many the regions are cut; at least 1.
    """
    maps, *others = inputs
    if parts == 1 or maps.device.type != "cpu" or not torch.is_grad_enabled() or _needs_scaled_losses():
        return total(*inputs)

    def total_of(part: Tensor, some: slice) -> Tensor:
        return total(part, *(each[some] for each in others))

    weights = [p for module in modules for p in module.parameters() if p.requires_grad]
    result: Tensor = _SumOfParts.apply(total_of, parts, maps, *weights)
    return result


def _needs_scaled_losses() -> bool:
    """Whether gradients would be lost that are computed before the loss is scaled: those in float16."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16


class _SumOfParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, total: Callable[[Tensor, slice], Tensor], parts: int, maps: Tensor, *weights: Tensor
    ) -> Tensor:
        of_maps = torch.empty_like(maps) if maps.requires_grad else None
        sums = [torch.zeros_like(w) for w in weights]
        result = torch.zeros((), dtype=torch.float32, device=maps.device)
        size = max(1, -(-len(maps) // parts))
        for some in (slice(first, first + size) for first in range(0, len(maps), size)):
            with torch.enable_grad():
                part = maps[some].detach().requires_grad_(of_maps is not None)
                loss = total(part, some)
            result += loss.detach()
            wanted = [part, *weights] if of_maps is not None else list(weights)
            with torch.autocast(maps.device.type, enabled=False):
                found = list(torch.autograd.grad(loss, wanted)) if wanted else []
            if of_maps is not None:
                of_maps[some] = found.pop(0)
            for gradient in reversed(sums):
                gradient += found.pop()  # which is freed before the next part needs memory
        ctx.save_for_backward(of_maps, *sums)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if g is None else gradient * g for g in ctx.saved_tensors)
