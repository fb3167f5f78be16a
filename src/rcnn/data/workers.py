"""Processes that prepare batches: how they start, and how they end with the process that started them.

**Law:** a worker ends within two seconds of its parent, whatever ended that; and a worker that something
else ends is one sentence for the user.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")

POLL_SECONDS = 1.0
NOTICED_SECONDS = 5.0  # within which the end of a process is known to the system


def prepare_worker(number: int) -> None:
    """What a worker does first: leave Ctrl-C to its parent, and end with it.

    torch's own check at the end of its loop is not enough: a worker whose parent was killed waits for ever to
    hand over a batch that nobody reads.
    """
    # No SIG_IGN: Python complains about a signal that is ignored just as it comes.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.excepthook = _report
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of a worker's thread, but not of a connection that its parent left as it ended."""
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_with_parent(started_by: int) -> None:
    parent = multiprocessing.parent_process()
    # Forked siblings hold the pipe that tells of the parent's end, so that its number is looked at, too.
    while parent is not None and parent.is_alive() and os.getppid() == started_by:
        parent.join(POLL_SECONDS)
    os._exit(1)


def arriving(batches: Iterable[T]) -> Iterator[T]:
    """What torch's loader yields; a worker that ends while it hands over its memory is named as any other.

    Raises:
        RuntimeError: a worker was ended; :func:`lost_worker` says it in one sentence.
    """
    iterator = iter(batches)
    while True:
        try:
            value = next(iterator)
        except StopIteration:
            return
        except (OSError, EOFError):  # of the connection to the worker
            _raise_lost_worker()
            raise
        except RuntimeError as error:  # torch may see that it ended, and not how
            killed = [w.pid for w in getattr(iterator, "_workers", ()) if w.exitcode == -signal.SIGKILL]
            if killed and "exited unexpectedly" in str(error):
                raise RuntimeError(
                    f"DataLoader worker (pid {killed[0]}) is killed by signal: Killed."
                ) from error
            raise
        yield value


def _raise_lost_worker() -> None:
    """Raise torch's error about a worker that has ended, as soon as the system knows of its end."""
    end = time.monotonic() + NOTICED_SECONDS
    while time.monotonic() < end:
        torch._C._error_if_any_worker_fails()
        time.sleep(0.01)


def lost_worker(error: BaseException, workers: int) -> str | None:
    """What an error of torch's loader says in one sentence, if it is about a worker that was ended."""
    text = str(error)
    if not isinstance(error, BrokenPipeError) and "DataLoader worker" not in text:
        return None
    if "Killed" in text:
        reason = "was killed, most likely because memory ran out"
        advice = f"--workers {workers - 1}"
        advice += " (batches are then prepared by the training process)" if workers == 1 else ""
    else:
        reason = f"ended unexpectedly ({text.splitlines()[0].strip()})"
        advice = "--workers 0, which shows the cause"
    return f"a process that prepares batches {reason}: use {advice}"


def refuse_inside_worker() -> None:
    """End a worker whose parent's script starts a training when it is imported.

    Raises:
        SystemExit: this process is still importing the script of its parent.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(f"error: {_script() or 'the script'} {_GUARD}")


def usable_workers(workers: int) -> tuple[int, str]:
    """How many workers can be used, and why if that is none.

    Where workers do not begin as copies of their parent (macOS, Windows, Python from 3.14 on), each imports
    the script that started it, and would start the training again.
    """
    script = _script()
    forks = multiprocessing.get_start_method() == "fork"
    if workers == 0 or forks or script is None or _is_guarded(script):
        return workers, ""
    return 0, f"workers: none, because {script} {_GUARD}"


_GUARD = 'starts the training outside of `if __name__ == "__main__":`; put the call below such a line'


def _script() -> Path | None:
    """The file that Python was started with, if it is one of the user's."""
    file = getattr(sys.modules["__main__"], "__file__", None) or getattr(
        sys.modules.get("__mp_main__"), "__file__", None
    )
    return Path(file) if file and Path(file).suffix == ".py" else None


def _is_guarded(script: Path) -> bool:
    """Whether a script asks for the name that it runs under; if it cannot be read, that is assumed."""
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.If)
        and any(isinstance(name, ast.Name) and name.id == "__name__" for name in ast.walk(node.test))
        for node in ast.walk(tree)
    )
