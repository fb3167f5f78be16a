"""What a step does with the gradients: the optimiser, and the moving average of the weights (EMA)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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
        return torch.optim.SGD(entries, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(entries, lr=settings.lr, fused=True)


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
        self.shadow = {k: v.detach().clone() for k, v in network.state_dict().items()} if decay else {}

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move towards the current weights; faster at first, to forget the initial weights."""
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
        """Inside ``with``, the network has the averaged weights."""
        own = {k: v.detach().clone() for k, v in self.network.state_dict().items()} if self.decay else {}
        if self.decay:
            self.network.load_state_dict(self.shadow)
        try:
            yield
        finally:
            if self.decay:
                self.network.load_state_dict(own)
