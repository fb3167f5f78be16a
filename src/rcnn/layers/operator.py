"""Functions of tensors that something else may implement for one kind of device.

A function under :func:`operator` is ``torch.ops.rcnn.NAME``: ordinary torch, with its gradients, until an
implementation is registered for a dispatch key, as ``rcnn.kernels`` does for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("rcnn", "FRAGMENT")  # type: ignore[no-untyped-call]


class Operator:
    """A function as an operator of torch.

    Attributes:
        name: in ``torch.ops.rcnn``.
        reference: the function in ordinary torch.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.name, self.reference, self.__doc__ = function.__name__, function, function.__doc__
        _LIBRARY.define(self.name + torch.library.infer_schema(function, mutates_args=()))  # type: ignore[no-untyped-call]
        # Composite: gradients and tracing see what the function is made of.
        _LIBRARY.impl(self.name, function, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
        self._dispatched: Callable[..., Tensor] = getattr(torch.ops.rcnn, self.name).default

    def __call__(self, *args: Any) -> Tensor:
        """The function's result, by the fastest implementation there is; traced graphs hold the reference."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
            return self.reference(*args)
        return self._dispatched(*args)


def operator(function: Callable[..., Tensor]) -> Operator:
    """Make a function an operator; its annotations become the schema."""
    return Operator(function)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done to one of these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
