"""Functions of tensors that something else may implement for one kind of device.

A function under :func:`operator` is ``torch.ops.rcnn.NAME``: ordinary torch, with its gradients, until an
implementation is registered for a dispatch key, as ``rcnn.kernels`` does for the CPU.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

import torch
from torch import Tensor

# torch 2.6 lacks the function; exporting asks for 2.9.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether ``torch.export`` is tracing."""

_LIBRARY = torch.library.Library("rcnn", "FRAGMENT")  # type: ignore[no-untyped-call]


class Operator:
    """A function as an operator of torch.

    Attributes:
        name: in ``torch.ops.rcnn``.
        reference: the function in ordinary torch.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.name, self.reference, self.__doc__ = function.__name__, function, function.__doc__
        _LIBRARY.define(self.name + _schema(function))  # type: ignore[no-untyped-call]
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


def _schema(function: Callable[..., Tensor]) -> str:
    """``(Tensor boxes, Tensor[] features, …) -> Tensor``, from the annotations.

    Sequences become ``typing.List``: torch 2.6 knows neither those of ``collections.abc`` nor ``list``.
    """
    signature = inspect.signature(function, eval_str=True)
    as_list: Any = typing.List  # noqa: UP006
    parameters = [
        parameter.replace(annotation=as_list[get_args(parameter.annotation)])
        if get_origin(parameter.annotation) is Sequence
        else parameter
        for parameter in signature.parameters.values()
    ]

    def prototype() -> None: ...

    prototype.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return torch.library.infer_schema(prototype, mutates_args=())


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done to one of these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
