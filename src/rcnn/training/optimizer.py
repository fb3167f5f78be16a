"""What a step does with the gradients (the optimiser), and which weights are evaluated and kept.

Those are the trained ones, their moving average (EMA), or some between the ones at the start and either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.parts.interpolation import interpolate
from rcnn.training.settings import TrainSettings


def build_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW or SGD; the backbone has its own learning rate; biases and norms have no weight decay."""
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
        return _sgd(entries, settings)
    return torch.optim.AdamW(entries, lr=settings.lr, fused=True)


def _sgd(entries: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.SGD:
    """SGD; on a device its fused form, the one that can leave out a step without the host's knowing."""
    on_device = any(p.device.type != "cpu" for entry in entries for p in entry["params"])
    optimizer = torch.optim.SGD(
        entries, lr=settings.lr, momentum=settings.momentum, fused=True if on_device else None
    )
    if on_device and settings.momentum:
        # It would begin with memory as it is, and a first step that is left out would keep that.
        for entry in entries:
            for parameter in entry["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's tensors the memory layout of their parameters (channels last).

    A checkpoint stores them contiguous, but the fused step assumes that both have the same layout.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class WeightEMA:
    """The moving average of a model's weights (EMA), or the weights themselves where the decay is 0."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = network
        self.shadow = _copied(network) if decay else {}

    @torch.no_grad()
    def update(self, iteration: int, moves: Tensor | None = None) -> None:
        """Move towards the current weights; faster at first, to forget the initial weights.

        Args:
            iteration: steps done before.
            moves: bool, a scalar on the device: whether to; None: yes.
        """
        if not self.decay:
            return
        step = 1 - min(self.decay, (1 + iteration) / (10 + iteration))
        for key, value in self.network.state_dict().items():
            shadow = self.shadow[key]
            if not value.is_floating_point():
                shadow.copy_(value if moves is None else torch.where(moves, value, shadow))
            elif moves is None:
                shadow.lerp_(value, step)
            else:
                shadow.lerp_(value, (moves * step).to(value.dtype))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside ``with``, the network has the averaged weights."""
        with _swapped(self.network, self.shadow) if self.decay else contextlib.nullcontext():
            yield


class WeightInterpolation:
    """The weights at a fraction of the way from those at the start to the current ones."""

    def __init__(self, network: nn.Module, fraction: float) -> None:
        self.fraction = fraction
        self.network = network
        self.start = _copied(network) if fraction < 1 else {}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside ``with``, the network has the weights in between."""
        if self.fraction == 1:
            yield
            return
        between = interpolate(self.start, self.network.state_dict(), self.fraction)
        with _swapped(self.network, between):
            yield


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


@contextlib.contextmanager
def _swapped(network: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Inside ``with``, the network has other weights."""
    own = _copied(network)
    network.load_state_dict(weights)
    try:
        yield
    finally:
        network.load_state_dict(own)
