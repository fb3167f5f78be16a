"""The folder of a run: what it holds, and how it is created, described and read again.

| file | content |
|---|---|
| ``recipe.toml`` | the complete recipe; training it again gives the same run |
| ``run.json`` | the data and their split, reasons for the recipe; with this file the run can be resumed |
| ``environment.json`` | versions and machine |
| ``metrics.jsonl`` | a row for every 20 steps (losses), and one for each evaluation |
| ``log.txt`` | what was printed |
| ``last.safetensors`` | everything that resuming needs |
| ``best.safetensors`` | the model to use |
| ``evaluation.json``, ``report.html`` | the final evaluation |
| ``.lock`` | while a process trains: which one |
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from rcnn.config import check_fields
from rcnn.data.adapters import Items
from rcnn.data.dataset import Dataset
from rcnn.inference.detector import versions
from rcnn.io.atomic import write_atomically
from rcnn.io.folders import free_folder
from rcnn.io.json_text import object_of
from rcnn.io.lock import FolderInUseError, FolderLock
from rcnn.processes.group import rank
from rcnn.training.recipe import RECIPE, Recipe, dump_recipe

BEST, LAST = "best.safetensors", "last.safetensors"
RUN, ENVIRONMENT = "run.json", "environment.json"
HISTORY, LOG = "metrics.jsonl", "log.txt"
# What ``run.json`` says; rcnn 0.1 called ``split`` ``parts`` and wrote each reason as one line.
_PARTS = dict[str, dict[str, int | str]] | None
_TEXT = str | None
FIELDS: dict[str, Any] = {
    "data": _TEXT, "val": _TEXT, "images": _TEXT, "val_images": _TEXT, "proposals": _TEXT,
    "val_proposals": _TEXT, "skip_bad": bool, "seed": int, "reasons": list[dict[str, str] | str],
    "split": _PARTS, "parts": _PARTS, "callbacks": list[str], "log": list[str],
}  # fmt: skip
EVALUATION, REPORT = "evaluation.json", "report.html"


def new_folder(folder: Path) -> FolderLock:
    """Make the folder of a run, or take an empty one, for this process alone.

    Raises:
        ValueError: it holds a run, or another training has just taken it.
        OSError: it cannot be created or written to.
    """
    if (folder / RUN).exists():
        raise ValueError(
            f"{folder} already holds a run: continue it with --resume {folder}, or choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = f"the run folder cannot be created ({error.strerror}); choose another --out"
        raise OSError(error.errno, advice, str(folder)) from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write there; choose another --out", str(folder))
    return locked(folder)


def locked(folder: Path) -> FolderLock:
    """The right to write to a run folder: one folder, one run.

    Raises:
        FolderInUseError: another training writes to it.
        OSError: it cannot be written.
    """
    try:
        return FolderLock(folder, "run")
    except FolderInUseError as error:
        advice = "wait until that training has ended, or choose another --out"
        raise FolderInUseError(f"{error}; {advice}") from error


def folder_for(data: str | Path | Dataset | Items) -> FolderLock:
    """``runs/NAME`` with the name of the data, or ``runs/NAME-2`` and so on: the first without a run.

    Of trainings that start at the same time, each gets its own.

    Raises:
        OSError: the folder cannot be created or written to.
    """
    assert isinstance(data, str | Path | Dataset)
    name = data.source.stem if isinstance(data, Dataset) else Path(data).stem
    skipped: set[Path] = set()
    while True:
        folder = free_folder(Path("runs") / name, lambda path: path in skipped or (path / RUN).exists())
        try:
            lock = new_folder(folder)
        except FolderInUseError:
            skipped.add(folder)
            continue
        if not (folder / RUN).exists():  # of one that has just ended
            return lock
        lock.release()


@contextmanager
def removed_on_failure(folder: Path, release: Callable[[], None]) -> Iterator[None]:
    """Inside, an error removes the new folder again, unless there is something else in it.

    Args:
        folder: of the run.
        release: gives up the folder's lock, without which it is not empty.
    """
    log = folder / LOG
    logged = log.exists()
    try:
        yield
    except BaseException:
        if rank() == 0 and not (folder / RUN).exists():  # else it can be resumed
            with suppress(OSError):
                if not logged:
                    log.unlink(missing_ok=True)
                release()
                folder.rmdir()
        raise


def write_run(folder: Path, recipe: Recipe, info: Mapping[str, Any]) -> None:
    """Write the recipe, the environment and ``run.json``; only the first process does.

    Raises:
        OSError: a file could not be written.
    """
    if rank() > 0:
        return
    write_atomically(folder / RECIPE, dump_recipe(recipe).encode())
    write_atomically(folder / ENVIRONMENT, json.dumps(environment(), indent=1).encode())
    # Last: from here on this is a run, which can be resumed.
    write_atomically(folder / RUN, json.dumps(info, indent=1).encode())


def environment() -> dict[str, Any]:
    """What the results of a run depend on, apart from the recipe and the data."""
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        **versions(),
    }


def read_run(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        ValueError: the folder holds no run, or its ``run.json`` is damaged.
    """
    if not (folder / RUN).is_file():
        raise ValueError(
            f"{folder}: no {RUN}, so this is not a run; start one with rcnn train DATA --out {folder}"
        )
    file = folder / RUN
    advice = "restore it from a copy, or start a new run"
    try:
        info = object_of(file.read_text(encoding="utf-8"))
        check_fields(info, FIELDS, str(file), required=("skip_bad", "seed", "reasons"))
    except ValueError as error:
        place = "" if str(error).startswith(str(file)) else f"{file}: "
        raise ValueError(f"{place}{error}; {advice}") from error
    return info


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``, without one that was cut short by a kill."""
    path = folder / HISTORY
    rows = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        with suppress(ValueError):
            rows.append(object_of(line))
    return rows


def truncate_history(folder: Path, iteration: int) -> None:
    """Drop the rows that were written after the checkpoint; the resumed run writes them again."""
    path = folder / HISTORY
    if path.is_file():
        lines = path.read_text("utf-8", "replace").splitlines()
        kept = [line for line in lines if _iteration_of(line) <= iteration]
        write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _iteration_of(line: str) -> float:
    try:
        return float(object_of(line)["iteration"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf  # cut short by a kill


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file.

    Raises:
        OSError: it could not be written (disk full, no permission); it names the path and what to do.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        advice = f"free some space, then continue with --resume {path.parent}"
        text = f"could not be written ({error.strerror}); {advice}"
        raise OSError(error.errno, text, str(path)) from error
