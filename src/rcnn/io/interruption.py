"""How a process answers Ctrl-C (SIGINT) and SIGTERM: once, soon, and only between two states that are whole.

The first signal raises ``KeyboardInterrupt`` or ``SystemExit(143)`` where the program is, or, inside
:func:`held`, when what must not be cut in two is done. Further ones are ignored, so that pressing Ctrl-C
three times is answered as pressing it once. A process of its own (the command line, each process of torchrun)
ends within :data:`GRACE_SECONDS` even if it waits in compiled code, where Python's handlers do not run. Once
its exception was raised it has :data:`CLEANING_SECONDS` more: removing unfinished files takes time on a busy
machine.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: what shells expect of a program that Ctrl-C or SIGTERM ended."""

# Clusters kill 30 s after SIGTERM; a large checkpoint takes seconds to write.
GRACE_SECONDS = {signal.SIGINT: 1.5, signal.SIGTERM: 25.0}
CLEANING_SECONDS = 3.0


@dataclass
class _Answer:
    """What is known about signals of this process.

    Attributes:
        process: its number; a forked process has no part in its parent's answer.
        held: how many blocks that must not be cut are being run.
        asked: the signal that came, if one did.
        raised: whether its exception was raised.
        watch: what :func:`_watch` returned, where the process is to end in time.
    """

    process: int = field(default_factory=os.getpid)
    held: int = 0
    asked: signal.Signals | None = None
    raised: bool = False
    watch: tuple[Any, ...] | None = None

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler of the first signal and of all others."""
        if os.getpid() != self.process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.asked is None:
            # Handlers stay as they are: Python complains about a signal that is ignored just as it comes.
            self.asked = signal.Signals(number)
            self.answer()

    def answer(self) -> None:
        """Raise the exception that is due, if any."""
        if self.asked is not None and not self.raised and not self.held:
            self.raised = True
            raise KeyboardInterrupt if self.asked == signal.SIGINT else SystemExit(TERMINATED)

    def give_way(self) -> None:
        """Raise the exception of the signal that came, if any, once more."""
        self.held = 0
        if self.asked is not None:
            self.raised = False
            self.answer()


_current: _Answer | None = None


@contextlib.contextmanager
def answered(*, bounded: bool = False) -> Iterator[None]:
    """Inside, signals are answered as this module says; outside of the main thread nothing changes.

    Errors that follow from a signal, such as a connection that another process of the run closed, give way to
    its exception.

    Args:
        bounded: end the process if it has not answered in time. For a process of its own, never for a
            notebook.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _current is not None:
        try:
            yield
        except Exception:
            _current.give_way()
            raise
        return
    _current = answer = _Answer()
    before = {number: signal.signal(number, answer.take) for number in GRACE_SECONDS}
    answer.watch = _watch() if bounded else None
    try:
        yield
        answer.held = 0
        answer.answer()
    except Exception:
        answer.give_way()
        raise
    finally:
        if answer.asked is None or answer.watch is None:
            _current = None
            for number, handler in before.items():
                signal.signal(number, handler)
            if answer.watch is not None:
                _unwatch(*answer.watch)
        else:
            _end(128 + answer.asked)


def _end(code: int) -> NoReturn:
    """End the process without Python's own dismantling, which takes up to a second of torch's modules."""
    try:
        atexit._run_exitfuncs()  # as multiprocessing ends a forked child
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
    finally:
        os._exit(code)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, a signal waits: what is done there is done wholly."""
    answer = _current
    if answer is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    answer.held += 1
    try:
        yield
    finally:
        answer.held -= 1
    answer.answer()


def asked() -> bool:
    """Whether a signal has come."""
    return _current is not None and _current.asked is not None


def _watch() -> tuple[Any, ...]:
    """Have a thread told of signals at once, whatever the main thread is doing."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reader,), daemon=True).start()
    return reader, writer, before


def _unwatch(reader: socket.socket, writer: socket.socket, before: int) -> None:
    signal.set_wakeup_fd(before)
    writer.close()  # which the thread notices


def _end_in_time(reader: socket.socket) -> None:
    while numbers := reader.recv(1):
        if numbers[0] in GRACE_SECONDS:
            threading.Event().wait(GRACE_SECONDS[signal.Signals(numbers[0])])
            if _current is not None and _current.raised:
                threading.Event().wait(CLEANING_SECONDS)
            else:
                with contextlib.suppress(OSError):
                    os.write(sys.stderr.fileno(), b"interrupted\n")
            os._exit(128 + numbers[0])
    reader.close()
