"""Where the time of a prediction goes, and how much memory it takes.

The stages are the parts of a network (``backbone``, ``neck``, ``rpn``, ``box``, ``mask``, …). Every method of
a part that is called, ``forward``, ``decode`` and the rest, counts for it, from its outermost call to its
return. On a GPU the clock is read when the device has finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Stopwatch:
    """Times the parts of a network while it is entered; without a network no parts.

    Attributes:
        seconds: by part, in the order of their first calls, in total.
    """

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network
        self.seconds: dict[str, float] = {}
        self._running: str | None = None
        self._wrapped: list[tuple[nn.Module, str]] = []
        self._cuda: Any = None
        if network is not None and any(p.is_cuda for p in network.parameters()):
            import torch  # exported models are timed without it

            self._cuda = torch.cuda
            self._cuda.reset_peak_memory_stats()

    def __enter__(self) -> Stopwatch:
        if self.network is not None:
            for name, part in self.network.named_children():
                for owner, method in _callables(part):
                    # An attribute of the object takes precedence over the method of its class.
                    setattr(owner, method, self._timed(name, getattr(owner, method)))
                    self._wrapped.append((owner, method))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._wrapped:
            delattr(*self._wrapped.pop())
        self._running = None

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._running is not None:  # inside a part that is being timed
                return call(*arguments, **options)
            self._running, began = name, self._now()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - began
                self._running = None

        return timed

    def _now(self) -> float:
        if self._cuda is not None:
            self._cuda.synchronize()
        return time.perf_counter()

    def speed(self, images: int, *, decoding: float, predicting: float) -> dict[str, float]:
        """What was measured, per image.

        ``images_per_second`` includes reading the files; ``…_seconds`` are per image, for decoding, each
        part, and the rest of a prediction (resizing, pasting masks); ``peak_megabytes`` is the most memory
        that the process ever had, or on a GPU the most that tensors had since the stopwatch was made.

        Args:
            images: how many were predicted.
            decoding: seconds per image.
            predicting: likewise.
        """
        parts = {name: seconds / images for name, seconds in self.seconds.items()}
        return {
            "images_per_second": 1 / (decoding + predicting),
            "decoding_seconds": decoding,
            **{f"{name}_seconds": seconds for name, seconds in parts.items()},
            "rest_seconds": max(predicting - sum(parts.values()), 0.0),
            "peak_megabytes": (_peak() if self._cuda is None else self._cuda.max_memory_allocated()) / 2**20,
        }


def _callables(part: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The public methods of a part's own classes, and ``forward`` of the modules that it is made of."""
    from torch import nn

    kinds = type(part).__mro__
    own = {
        name
        for kind in kinds[: kinds.index(nn.Module)]
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) and not name.startswith("_")
    }
    yield from ((part, name) for name in sorted(own | {"forward"}))
    yield from ((module, "forward") for module in part.children())


def _peak() -> float:
    """The most bytes that this process has had in memory; NaN where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    # Kilobytes but on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
