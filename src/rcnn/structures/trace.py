"""What is computed on the way to detections, for those who ask: ``rcnn.evaluation.explain`` does.

The stages note what they decide where they decide it, if somebody watches; else a stage asks
:func:`watched` and gets None. So an explanation sees the very computation that detects, and detections are
the same, bit for bit, whether it is watched or not. A thread watches its own computation only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CodeType
from typing import Any


@dataclass(frozen=True)
class Note:
    """What one stage noted.

    Attributes:
        stage: its name, such as ``rpn.level``.
        paper: the section that describes it, such as ``Faster R-CNN §3.3``; empty where none does.
        code: the function that noted it.
        values: tensors, arrays and numbers by name; tensors are those of the computation, not copies.
    """

    stage: str
    paper: str
    code: CodeType
    values: dict[str, Any]


@dataclass
class Trace:
    """The notes of a computation, in the order in which they were made."""

    notes: list[Note] = field(default_factory=list)

    def note(self, stage: str, paper: str = "", **values: Any) -> None:
        """Keep what a stage decided; see :class:`Note`."""
        self.notes.append(Note(stage, paper, sys._getframe(1).f_code, values))


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def watched() -> Trace | None:
    """Where to note what is computed; None where nobody watches."""
    return _current.get()


@contextmanager
def watching() -> Iterator[Trace]:
    """Watch what this thread computes inside; watching may be nested, and the innermost sees it."""
    trace = Trace()
    before = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(before)
