"""Unrelated files beside a good data set do no harm: only regular files are read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rcnn
from rcnn.data.formats.registry import writable
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


@pytest.mark.parametrize("length", [256, 5000])
@pytest.mark.parametrize(
    "to",
    [
        to
        for to in writable()
        if to not in ("masks", "labels", "labelme", "geojson", "imagej", "parquet", "webdataset")
    ],
)
def test_a_name_that_is_too_long_for_a_file(to: str, length: int, tmp_path: Path) -> None:
    """An entry for an image that cannot be there is a missing image; the others are used."""
    rcnn.convert(tiny_shapes(4).write(tmp_path / "shapes"), tmp_path / "data", to=to)
    if to == "yolo":  # whose settings may name lists of images
        names = "".join(f"images/{path.name}\n" for path in sorted((tmp_path / "data" / "images").iterdir()))
        (tmp_path / "data" / "train.txt").write_text(names)
        settings = tmp_path / "data" / "data.yaml"
        settings.write_text(settings.read_text().replace("train: images", "train: train.txt"))
    for file in (
        path for path in (tmp_path / "data").rglob("*") if path.suffix in (".json", ".csv", ".xml", ".txt")
    ):
        file.write_text(file.read_text().replace("000002.png", "x" * length + ".png"))
    report = rcnn.check(tmp_path / "data")
    if to == "voc":  # whose reader finds an image by the name of its annotation file
        assert (report.num_images, report.errors) == (4, ())
        return
    assert report.num_images == 3
    assert any(word in problem.what for problem in report.problems for word in ("missing", "too long"))


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
        "    report = rcnn.check(folder)\n"
        "    said = [p.what for p in report.warnings if 'were not read' in p.what]\n"
        "    print(folder, report.num_images, len(report.errors), *said, flush=True)\n"
    )
    paths = os.pathsep.join([str(Path(rcnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, *folders], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    for kind, folder, line in zip(UNRELATED, folders, done.stdout.splitlines(), strict=True):
        what = next(word for word in ("link", "folder", "pipe", "device") if word in kind)
        assert line.startswith(f"{folder} 2 0 1 paths are not files and were not read: "), done.stderr[-2000:]
        assert f"(a {what}" in line
