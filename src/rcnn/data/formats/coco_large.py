"""COCO files that are too large to be read at once: streamed into flat arrays, which are kept.

The arrays are kept below the user's cache folder under the file's path, size and time of change, and are
mapped into memory when the file is opened again. They are not used if a folder of its images has changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.dataset import Dataset, LazyRecords
from rcnn.data.flat import CORNERS, Facts, FlatRecords, FlatStore, opened_store
from rcnn.data.formats.coco_json import with_file_name
from rcnn.data.formats.json_stream import top_level
from rcnn.data.problems import Problem
from rcnn.io.download import cache_folder

LARGE_BYTES = 32 * 2**20  # of a file that is streamed
TAIL_BYTES = 8 * 2**20  # where the categories are searched that come after the annotations
VERSION = 1  # of what is kept
KEPT = 8  # data sets
FACTS = "facts.json"


class NotStreamableError(Exception):
    """A file whose lists come in an order that cannot be streamed; it is read at once instead."""


def streamed_lists(path: Path) -> tuple[dict[str, list[Any]], Iterator[Any]]:
    """The images and categories of a COCO file, and its annotations one by one.

    Raises:
        NotStreamableError: annotations come before the images, or the categories are not found.
        BrokenJsonError: not JSON.
        OSError: the file cannot be read.
    """
    lists: dict[str, list[Any]] = {}
    stream = top_level(path)
    for key, value in stream:
        if key == "annotations":
            if "images" not in lists or not isinstance(value, Iterator):
                raise NotStreamableError
            if "categories" not in lists:
                lists["categories"] = _categories_at_the_end(path)
            return lists, _with_same_categories(value, stream, lists["categories"])
        if key in ("images", "categories"):
            if not isinstance(value, Iterator):
                raise NotStreamableError
            lists[key] = [_slim(entry) for entry in value] if key == "images" else list(value)
    raise NotStreamableError


def _slim(image: Any) -> Any:
    """An image with only what is read of it."""
    if not isinstance(image, dict):
        return image
    named = with_file_name(image)
    return {name: named[name] for name in ("id", "file_name", "width", "height") if name in named}


def _categories_at_the_end(path: Path) -> list[Any]:
    """The categories if they come after the annotations."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read().decode("utf-8", errors="replace")
    _, found, rest = tail.rpartition('"categories"')
    try:
        value, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(":").lstrip())
    except ValueError as error:
        raise NotStreamableError from error
    if not found or not isinstance(value, list):
        raise NotStreamableError
    return value


def _with_same_categories(
    annotations: Iterator[Any], stream: Iterator[tuple[str, Any]], categories: list[Any]
) -> Iterator[Any]:
    """The annotations; then what follows them is checked."""
    yield from annotations
    for key, value in stream:
        if key in ("images", "annotations") or (key == "categories" and list(value) != categories):
            raise NotStreamableError


@contextmanager
def arrays_folder(path: Path, images: str | Path | None) -> Iterator[Path | None]:
    """A new folder for arrays, which :func:`keep` makes the kept one; None if it cannot be made."""
    try:
        parent = _kept_folder(path, images).parent
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
    except OSError:
        yield None
        return
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def keep(dataset: Dataset, part: Path, path: Path, images: str | Path | None) -> Dataset:
    """The same data set with its arrays in the cache; as it is, if there is no room for them."""
    records = dataset.records
    assert isinstance(records, LazyRecords)
    assert isinstance(records.source, FlatRecords)
    store, facts = records.source.store, records.source.facts
    folder = _kept_folder(path, images)
    try:
        for name, values in store.arrays.items():
            if name != "corners" or not (part / CORNERS).is_file():
                np.save(part / f"{name}.npy", values)
        kept = {
            "facts": asdict(facts),
            "problems": [{**asdict(p), "file": os.fspath(p.file)} for p in dataset.problems],
            "category_ids": dataset.category_ids,
            "folders": _changes(store),
        }
        (part / FACTS).write_text(json.dumps(kept), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError:
        return dataset
    _remove_oldest(folder.parent)
    opened = kept_dataset(path, images)
    return dataset if opened is None else opened


def kept_dataset(path: Path, images: str | Path | None) -> Dataset | None:
    """The data set of a file from the cache, if it is there and nothing has changed."""
    try:
        folder = _kept_folder(path, images)
        kept: Mapping[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if any(Path(place).stat().st_mtime_ns != changed for place, changed in kept["folders"].items()):
            return None
        os.utime(folder)
        store = opened_store(folder)
    except OSError:
        return None
    facts = Facts.from_json(kept["facts"])
    return Dataset(
        format="coco",
        source=path,
        class_names=facts.class_names,
        records=LazyRecords(FlatRecords(store, facts)),
        problems=tuple(Problem(**{**fields, "file": Path(fields["file"])}) for fields in kept["problems"]),
        category_ids=tuple(kept["category_ids"]),
        skeleton=facts.skeleton,
    )


def _kept_folder(path: Path, images: str | Path | None) -> Path:
    """Where the arrays of a file are kept."""
    facts = path.stat()
    place = None if images is None else os.fspath(Path(images).absolute())
    key = json.dumps([VERSION, os.fspath(path.absolute()), facts.st_size, facts.st_mtime_ns, place])
    digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:32]
    return cache_folder() / "annotations" / digest


def _changes(store: FlatStore) -> dict[str, int]:
    """The time of change of every folder with images."""
    return {folder: Path(folder).stat().st_mtime_ns for folder in store.folders}


def _remove_oldest(folder: Path) -> None:
    kept = sorted((f for f in folder.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime, reverse=True)
    for old in itertools.islice(kept, KEPT, None):
        shutil.rmtree(old, ignore_errors=True)
