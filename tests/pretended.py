"""A pretended accelerator: tensors that report the device ``meta`` and are computed on the CPU underneath.

It shows what a real accelerator would be made to do without having one: where the host waits for the device
(a read of a value, a copy from pageable memory, an operator whose result has a size that only the device
knows), each with the line of the package that caused it, and where tensors of two devices meet, which a real
one refuses. The numbers are the CPU's, so results can be compared.

Untested here: streams, events, and the order in which a real device runs what it was given.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import rcnn
from rcnn import device as devices

DEVICE = torch.device("meta")
SOURCES = (Path(rcnn.__file__).parent, Path(torchvision.__file__).parent)
# Operators whose result's size, or whose Python value, the host has to wait for.
WAITING = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::equal", "aten::is_nonzero", "torchvision::nms",
}  # fmt: skip
MASKS = (torch.bool, torch.uint8)


@dataclass
class Log:
    """What the pretended device was made to do.

    Attributes:
        syncs: where the host waited, ``file:line kind``, and how often.
        late_reads: reads that the host did not wait for.
        mixed: operators that met tensors of two devices.
        doubles: operators that made float64, which MPS does not have.
    """

    syncs: Counter[str] = field(default_factory=Counter)
    late_reads: Counter[str] = field(default_factory=Counter)
    mixed: Counter[str] = field(default_factory=Counter)
    doubles: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How often the host waited."""
        return self.syncs.total()

    def __str__(self) -> str:
        """The places, most frequent first."""
        return "\n".join(f"{count:4d} {place}" for place, count in self.syncs.most_common())

    def clear(self) -> None:
        """Begin again."""
        for counter in (self.syncs, self.late_reads, self.mixed, self.doubles):
            counter.clear()


_log: list[Log] = []


def _place() -> str:
    """The innermost line of the package, or of torchvision, that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        for root in SOURCES:
            if root in path.parents:
                return f"{path.relative_to(root.parent)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def _wait(kind: str) -> None:
    for log in _log[-1:]:
        log.syncs[f"{_place()} {kind}"] += 1


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device; ``raw`` is the one on the CPU that it stands for."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor, requires_grad: bool = False) -> DeviceTensor:
        """Wrap a tensor of the CPU."""
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.shape, strides=raw.stride(), storage_offset=0, dtype=raw.dtype, device=DEVICE,
            requires_grad=requires_grad,
        )  # fmt: skip
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:  # type: ignore[override]
        """Not its values, which would be a read."""
        return f"DeviceTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, and note what a device would have done."""
        return _run(func, args, kwargs or {})


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, DeviceTensor) else value


def _leaves(value: Any) -> Iterator[Any]:
    """What is in nested arguments of an operator; torch's own function of the kind takes longer than most."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Nested arguments or results of an operator, with each part changed."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(change, item) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(change, item) for key, item in value.items()}
    return change(value)


def _is_host(value: Any) -> bool:
    """Whether this is a tensor on the CPU that a device cannot take as a number."""
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor) and value.dim() > 0


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = list(_leaves((args, kwargs)))
    on_device = [value for value in flat if isinstance(value, DeviceTensor)]
    name = func._schema.name
    target, asked = bool(on_device), kwargs.get("device")
    raw_kwargs = _mapped(_raw, kwargs)
    if asked is not None:
        target = torch.device(asked).type == DEVICE.type
        raw_kwargs["device"] = torch.device("cpu")
    raw_kwargs.pop("pin_memory", None)
    if name == "aten::_to_copy":
        _note_copy(args[0], target, bool(kwargs.get("non_blocking")))
    else:
        _note_operator(name, args, kwargs, on_device, any(map(_is_host, flat)))
    result = func(*_mapped(_raw, args), **raw_kwargs)
    if not target:
        return result
    known = {id(tensor.raw): tensor for tensor in on_device} if func._schema.is_mutable else {}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, DeviceTensor):
            return value
        if value.dtype == torch.float64:
            for log in _log[-1:]:
                log.doubles[f"{_place()} {name}"] += 1
        return known[id(value)] if id(value) in known else DeviceTensor(value)

    return _mapped(wrapped, result)


def _note_copy(source: Tensor, target: bool, non_blocking: bool) -> None:
    """A copy between devices: free of waiting from and to pinned memory only."""
    from_device = isinstance(source, DeviceTensor)
    if from_device and not target:
        if non_blocking:  # torch lets the result of this one be pinned
            for log in _log[-1:]:
                log.late_reads[_place()] += 1
        else:
            _wait("read")
    elif target and not from_device and not (non_blocking and getattr(source, "pretended_pinned", False)):
        _wait("copy from pageable memory")


def _note_operator(
    name: str, args: Any, kwargs: dict[str, Any], on_device: list[DeviceTensor], has_host: bool
) -> None:
    if not on_device:
        return
    if has_host:
        host_index = name.startswith(("aten::index", "aten::_index_put")) and not any(map(_is_host, args[2:]))
        if name == "aten::copy_" or host_index:
            _wait(f"copy inside {name}")
        else:
            for log in _log[-1:]:
                log.mixed[f"{_place()} {name}"] += 1
    counted = name == "aten::repeat_interleave" and kwargs.get("output_size") is None
    if name in WAITING or counted:
        _wait(name)
    if name.startswith(("aten::index", "aten::_index_put")) and isinstance(args[1], list | tuple):
        masks = any(index is not None and index.dtype in MASKS for index in args[1])
        one_value = "put" in name and args[2].numel() == 1  # becomes masked_fill
        if masks and not one_value:
            _wait("index by a mask")


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What never reaches the dispatcher, or fails there without a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        asked = kwargs.get("device")
        if name in ("tensor", "as_tensor") and asked is not None and torch.device(asked) == DEVICE:
            del kwargs["device"]
            return func(*args, **kwargs).to(DEVICE)
        if name == "new_tensor" and isinstance(args[0], DeviceTensor):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if name == "tolist" and isinstance(args[0], DeviceTensor):
            _wait("read")
            return args[0].raw.tolist()
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.pretended_pinned = True
            return pinned
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended() -> Iterator[Log]:
    """Inside, there is a pretended device, whose log this is."""
    log = Log()
    _log.append(log)
    with pytest.MonkeyPatch.context() as patch, _Functions(), _Operators():
        _let_fused(patch)
        patch.setattr(devices, "PINNING", (DEVICE.type,))
        patch.setattr(devices, "WITHOUT_FLOAT64", (DEVICE.type,))
        patch.setattr(devices.HostCopy, "wait", _waited(devices.HostCopy.wait))
        try:
            yield log
        finally:
            _log.pop()
            devices.constant_on.cache_clear()


def _waited(wait: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The end of a late read, for which the host does wait."""

    def counted(copy: Any) -> Any:
        for log in _log[-1:]:
            log.syncs["rcnn/device.py:0 late read"] += 1
        return wait(copy)

    return counted


def _let_fused(patch: pytest.MonkeyPatch) -> None:
    """Optimisers refuse to be fused on a device that they do not know."""
    kinds: Callable[[], list[str]] = optimizer._get_fused_kernels_supported_devices
    patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*kinds(), DEVICE.type])


def to_device(module: nn.Module) -> nn.Module:
    """Move a module's parameters and buffers there, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = DeviceTensor(parameter.detach())
                part._parameters[name] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = DeviceTensor(buffer.detach())
    return module


def values(tensor: Tensor) -> Tensor:
    """The values of a tensor of either kind, on the CPU; no read is counted."""
    return tensor.raw if isinstance(tensor, DeviceTensor) else tensor
