"""Gives a door its damaged inputs, in a process that is replaced when it ends or does not answer."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from fuzz.child import Answer
from fuzz.doors import described

TESTS = Path(__file__).parent.parent
SILENCE = 120  # seconds without an answer, processor time aside: the input waits for something
MOST_FINDS = 20  # after which a door is given up


@dataclass
class Count:
    """What the inputs of a door led to.

    Attributes:
        read: the number of inputs that were read.
        refused: that were refused by name.
        found: of anything else, how to repeat it and what it was.
    """

    read: int = 0
    refused: int = 0
    found: list[str] = field(default_factory=list)


class EndedError(Exception):
    """The process ended, or gave no answer in time; the message says which."""


def fuzz(door: str, seeds: Iterator[int] | range) -> Count:
    """Try the inputs of some seeds at a door.

    Raises:
        AssertionError: the door does not open its whole files.
    """
    count, rest = Count(), iter(seeds)
    seed: int | None = next(rest, None)
    while seed is not None and len(count.found) < MOST_FINDS:
        with closing(Child(door)) as child:
            try:
                whole = child.answer()
                assert whole.outcome == "read", f"{door}: its whole files are not read:\n{whole.detail}"
                assert int(whole.detail) > 0, f"{door}: nothing is found in its whole files"
                while seed is not None and len(count.found) < MOST_FINDS:
                    _note(count, door, seed, child.ask(seed))
                    seed = next(rest, None)
            except EndedError as error:
                count.found.append(f"{described(door, seed)}\n{error}")
                seed = next(rest, None)
    return count


def _note(count: Count, door: str, seed: int, answer: Answer) -> None:
    if answer.outcome == "read":
        count.read += 1
    elif answer.outcome == "refused":
        count.refused += 1
    else:
        count.found.append(f"{described(door, seed)}\n{answer.detail}")


class Child:
    """A door's process, from outside."""

    def __init__(self, door: str) -> None:
        self.control, self.end = nursery()[0], -1
        line, theirs = socket.socketpair()
        socket.send_fds(self.control, [door.encode()], [theirs.fileno()])
        theirs.close()
        self.line = line
        self.talk = line.makefile("rw", encoding="utf-8")
        self.process = int(self._line())

    def ask(self, seed: int) -> Answer:
        """What an input leads to.

        Raises:
            EndedError: the end of the process.
        """
        try:
            self.talk.write(f"{seed}\n")
            self.talk.flush()
        except OSError as error:
            raise EndedError(self._end()) from error
        return self.answer()

    def answer(self) -> Answer:
        """What comes next; raises as :meth:`ask` does."""
        return Answer(**json.loads(self._line()))

    def _line(self) -> str:
        if not select.select([self.line], [], [], SILENCE)[0]:
            raise EndedError(f"no answer for {SILENCE} seconds")
        try:
            line = self.talk.readline()
        except OSError:
            line = ""
        if not line:
            raise EndedError(self._end())
        return line

    def _end(self) -> str:
        self.end = int(self.control.recv(100))
        return f"the process ended with {self.end} (-24: too much processor time, -9 or -6: memory)"

    def close(self) -> None:
        """End the process, if nothing else did."""
        if self.end == -1:
            os.kill(self.process, signal.SIGKILL)
            self._end()
        with suppress(OSError):
            self.talk.close()
        self.line.close()


@cache
def nursery() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process of which children are copies, and the socket by which they are asked for."""
    paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    control, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "fuzz.child", "--serve", str(theirs.fileno())],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
            pass_fds=[theirs.fileno()],
        )  # fmt: skip

    def end() -> None:
        control.close()
        process.wait(60)

    atexit.register(end)
    return control, process
