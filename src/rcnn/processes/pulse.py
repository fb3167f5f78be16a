"""Whether all processes of the group are alive, however long one of them works alone.

A thread of each process takes part in a small reduction every few seconds. A process that decodes images,
waits for a slow disk or measures goes on doing so; one that was stopped, or whose machine hangs, does not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

BEATS = 12  # in the time after which a process counts as lost
MOMENT = timedelta(seconds=0.2)  # between two looks at whether all are alive
ENDED = "another process of the run has ended"
SILENT = "another process of the run does not answer (--step-timeout is how long that is waited for)"
# What torch and gloo say when a connection to another process ends, and when nothing comes for too long.
_ENDED = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused",
    "Application timeout caused pair closure", "remote process exited", "recvValue failed",
)  # fmt: skip
_SILENT = ("Timed out waiting", "timed out", "Wait timeout", "Socket Timeout")


class LostProcessError(RuntimeError):
    """Another process of the group is lost; the text says how."""


def reason_of_loss(error: BaseException) -> str | None:
    """What an error of torch says of another process of the group; None if it is about something else."""
    if isinstance(error, LostProcessError):
        return str(error)
    text = str(error)
    if any(words in text for words in _ENDED):
        return ENDED
    return SILENT if any(words in text for words in _SILENT) else None


class Pulse:
    """The thread of this process that answers the others, and knows when one of them is lost."""

    def __init__(self, seconds: float) -> None:
        """Begin; all processes of the group do at the same time.

        Args:
            seconds: without an answer, after which a process counts as lost.
        """
        self.lost: str | None = None
        self._pause = seconds / BEATS
        limit = timedelta(seconds=seconds - self._pause)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit)
        self._ends, self._leaves = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="rcnn-pulse", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        """Answer until all processes are at the end, this one leaves, or one is lost."""
        ended = torch.zeros(1)
        while not (ended.item() or self._leaves.is_set()):
            ended.fill_(self._ends.is_set())
            try:
                work = dist.all_reduce(ended, group=self._group, async_op=True)
                while not _is_done(work):
                    if self._leaves.is_set():
                        return
            except RuntimeError as error:
                self.lost = reason_of_loss(error) or ENDED
                return
            if not ended.item():
                self._ends.wait(self._pause)

    def end(self) -> None:
        """End it together with the other processes."""
        self._ends.set()
        self._thread.join(self._pause)
        self.leave()

    def leave(self) -> None:
        """End it in this process alone; the interpreter must not end before its threads."""
        self._leaves.set()
        self._ends.set()
        self._thread.join()


_current: Pulse | None = None


@contextmanager
def pulse(seconds: float) -> Iterator[None]:
    """Inside, :func:`wait_for` ends soon after another process was stopped or ended.

    All processes of the group enter at the same time, and leave together unless something is raised.

    Args:
        seconds: without an answer, after which a process counts as lost.
    """
    global _current
    _current = own = Pulse(seconds)
    try:
        yield
        own.end()
    finally:
        _current = None
        own.leave()


def wait_for(work: Any) -> None:
    """Wait for what all processes take part in, for as long as all of them are alive.

    Raises:
        LostProcessError: one of them is lost.
        RuntimeError: what torch says of it otherwise.
    """
    while not _is_done(work):
        if _current is not None and _current.lost is not None:
            raise LostProcessError(_current.lost)


def _is_done(work: Any) -> bool:
    """Whether work is done, for which this waits a moment.

    Raises:
        RuntimeError: what it failed with.
    """
    try:
        work.wait(MOMENT)
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # what it failed with, unless it is done since
    return True
