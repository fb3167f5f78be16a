"""Living processes are waited for; one that ends or falls silent ends the wait of the others."""

import json
import sys
import time
from pathlib import Path

import pytest

from groups import Group, succeeded
from rcnn.processes.pulse import ENDED, SILENT, LostProcessError, reason_of_loss

SCRIPT = """
import json, os, signal, sys, time
from rcnn.processes.group import alive, barrier, join, lost_is_explained, rank
join()
began = time.monotonic()
try:
    with lost_is_explained("advice"), alive(2.0):
        barrier()
        if rank() == 1:
            {one}
        barrier()
    said = "together"
except ValueError as error:
    said = str(error)
print(json.dumps([said, time.monotonic() - began]))
"""


@pytest.mark.parametrize(
    ("one", "expected", "least"),
    [
        ("time.sleep(3.5)", "together", 3.5),
        ("os._exit(0)", "process 0 stops, because another process of the run has ended; advice", 0),
        (
            "os.kill(os.getpid(), signal.SIGSTOP)",
            f"process 0 stops, because {SILENT}; advice",
            1,
        ),
    ],
    ids=["busy", "ends", "stopped"],
)  # fmt: skip
def test_what_becomes_of_those_who_wait(one: str, expected: str, least: float, tmp_path: Path) -> None:
    with Group([sys.executable, "-c", SCRIPT.format(one=one)], [tmp_path, tmp_path]) as group:
        output, errors = group.processes[0].communicate(timeout=60)
    assert group.processes[0].returncode == 0, errors
    assert errors == ""
    said, seconds = json.loads(output)
    assert said == expected
    assert least <= seconds < least + 8


TWICE = """
from rcnn.processes.group import alive, barrier, join
join()
for _ in range(3):
    with alive(30.0):
        barrier()
"""


def test_it_ends_at_once_and_begins_again(tmp_path: Path) -> None:
    began = time.monotonic()
    succeeded(Group([sys.executable, "-c", TWICE], [tmp_path, tmp_path]))
    assert time.monotonic() - began < 25, "no beat is slept through"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:41"), ENDED),
        (RuntimeError("Timed out waiting 300000ms for recv operation to complete"), SILENT),
        (LostProcessError(SILENT), SILENT),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ],
)
def test_what_torch_says_of_a_lost_process(error: RuntimeError, expected: str | None) -> None:
    assert reason_of_loss(error) == expected
