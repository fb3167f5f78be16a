"""Unrelated files beside a good data set do no harm: only regular files are read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rcnn
from tiny import tiny_shapes

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")

UNRELATED: dict[str, Callable[[Path], object]] = {
    "a dangling link": lambda folder: (folder / "annotations.json").symlink_to("/nowhere"),
    "a folder named x.yaml": lambda folder: (folder / "x.yaml").mkdir(),
    "a folder named x.json": lambda folder: (folder / "x.json").mkdir(),
    "a pipe x.json": lambda folder: os.mkfifo(folder / "x.json"),
    "a pipe data.yaml": lambda folder: os.mkfifo(folder / "data.yaml"),
    "a pipe x.csv": lambda folder: os.mkfifo(folder / "x.csv"),
    "a pipe x.xml": lambda folder: os.mkfifo(folder / "x.xml"),
    "a pipe x.txt": lambda folder: os.mkfifo(folder / "x.txt"),
    "a pipe among the images": lambda folder: os.mkfifo(folder / "images" / "x.png"),
    "an endless device x.json": lambda folder: (folder / "x.json").symlink_to("/dev/zero"),
    "an endless device x.csv": lambda folder: (folder / "x.csv").symlink_to("/dev/zero"),
    "an endless device among the images": lambda folder: (folder / "images" / "x.png").symlink_to(
        "/dev/zero"
    ),
}


def test_unrelated_files_do_no_harm(tmp_path: Path) -> None:
    """In a process of its own, which is ended if one of them is waited for or fills the memory."""
    folders = []
    for number, add in enumerate(UNRELATED.values()):
        folder = tmp_path / str(number)
        tiny_shapes(2).write(folder)
        (folder / "annotations.json").rename(folder / "shapes.json")
        add(folder)
        folders.append(str(folder))
    script = (
        "import resource, sys, rcnn\n"
        "resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)\n"
        "for folder in sys.argv[1:]:\n"
        "    print(folder, len(rcnn.open_data(folder)), len(rcnn.check(folder).errors), flush=True)\n"
    )
    paths = os.pathsep.join([str(Path(rcnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, *folders], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"{folder} 2 0" for folder in folders], done.stderr[-2000:]
