"""A process of its own ends at once after a signal: cleaned up, but no module is taken apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, pathlib, sys, time
from rcnn.io.interruption import answered

class Slow:
    def __del__(self):
        pathlib.Path("taken apart").touch()

sys.modules["slow"] = slow = Slow()
atexit.register(pathlib.Path("cleaned up").touch)
print("unflushed", end="")
with answered(bounded=True):
    pathlib.Path("begun").touch()
    try:
        time.sleep(60)
    finally:
        pathlib.Path("unwound").touch()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_the_process_cleaned_up_and_at_once(number: str, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
    os.kill(process.pid, getattr(signal, number))
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (code, b"unflushed")
    assert {path.name for path in tmp_path.iterdir()} == {"begun", "unwound", "cleaned up"}


UNWINDING = """
import pathlib, time
from rcnn.io import interruption
interruption.GRACE_SECONDS = dict.fromkeys(interruption.GRACE_SECONDS, 0.1)
interruption.CLEANING_SECONDS = {seconds}
with interruption.answered(bounded=True):
    pathlib.Path("begun").touch()
    try:
        time.sleep(60)
    finally:
        time.sleep(1)
        pathlib.Path("unwound").touch()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("seconds", "unwinds"), [(30, True), (0.1, False)])
def test_cleaning_up_has_time_of_its_own_but_not_for_ever(
    seconds: float, unwinds: bool, tmp_path: Path
) -> None:
    program = UNWINDING.format(seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "unwound").exists() == unwinds


TOGETHER = """
import signal
from rcnn.io.interruption import answered
both = {signal.SIGINT, signal.SIGTERM}
with answered(bounded=True):
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    for number in both:
        signal.raise_signal(number)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
    except (KeyboardInterrupt, SystemExit) as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_of_two_signals_that_come_together_one_is_answered() -> None:
    ended = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "KeyboardInterrupt\n", "")


FOLLOWING = """
import signal
from rcnn.io.interruption import answered
with answered(bounded=True):
    try:
        with answered():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                raise RuntimeError("a process that was ended, too")
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_errors_that_follow_from_a_signal_give_way_to_its_exception() -> None:
    ended = subprocess.run([sys.executable, "-c", FOLLOWING], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "interrupted\n", "")
