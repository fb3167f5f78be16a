"""Scaled losses, for gradients in float16 (Micikevicius et al. 2018, arXiv 1710.03740, §3.2).

float16 has no numbers between 0 and 6e-8, where many gradients are. So the loss is multiplied by a large
power of two before the gradients are computed, and they are divided by it afterwards. The scale is halved
whenever gradients overflow, in a step that then changes nothing else, and doubled after 2000 steps without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16


class LossScaling:
    """The scale of a run; it lives on the device, and the host does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        """Begin with the initial scale."""
        self._scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE)

    def backward(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """Compute the gradients of an optimiser's parameters, and leave them unscaled.

        Returns:
            The scale that the loss had, float32, a scalar.
        """
        scale = self._scaler.scale(torch.ones_like(loss))
        torch.autograd.backward(loss * scale)
        self._scaler.unscale_(optimizer)
        return scale

    def update(self) -> None:
        """Halve or double the scale where it is due, after :meth:`backward`."""
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; JSON can hold it."""
        return self._scaler.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self._scaler.load_state_dict(state)
