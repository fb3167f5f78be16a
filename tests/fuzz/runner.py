"""Gives a door its damaged inputs, in a process that is replaced when it ends or does not answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        with _child(door) as process:
            try:
                whole = _answer(process)
                assert whole.outcome == "read", f"{door}: its whole files are not read:\n{whole.detail}"
                assert int(whole.detail) > 0, f"{door}: nothing is found in its whole files"
                while seed is not None and len(count.found) < MOST_FINDS:
                    _note(count, door, seed, _asked(process, seed))
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


@contextmanager
def _child(door: str) -> Iterator[subprocess.Popen[str]]:
    paths = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fuzz.child", door],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _asked(process: subprocess.Popen[str], seed: int) -> Answer:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{seed}\n")
        process.stdin.flush()
    except BrokenPipeError as error:
        raise EndedError(_end_of(process)) from error
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> Answer:
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], SILENCE)[0]:
        raise EndedError(f"no answer for {SILENCE} seconds")
    line = process.stdout.readline()
    if not line:
        raise EndedError(_end_of(process))
    return Answer(**json.loads(line))


def _end_of(process: subprocess.Popen[str]) -> str:
    return f"the process ended with {process.wait(60)} (-24: too much processor time, -9 or -6: memory)"
