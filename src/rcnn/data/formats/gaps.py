"""Files that are not there or not read, reported once for all: links, pipes, devices, missing images.

Readers report a missing image where they need it, one annotation file after the other. Thousands of these are
one fault, and become one problem.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath

from rcnn.data.dataset import Dataset, LazyRecords
from rcnn.data.formats.lookup import LISTED_SINGLY
from rcnn.data.problems import Problem, shortened
from rcnn.io.folders import is_folder
from rcnn.io.images import IMAGE_ENDINGS

MISSING = re.compile(r"Its image\b.* is missing")  # how readers of all formats report it
NAMED_LIKE_FILES = {*IMAGE_ENDINGS, ".json", ".yaml", ".yml", ".xml", ".csv", ".txt"}
MAX_LOOKED_AT = 50_000  # paths, so that large data sets open as fast as before
FETCH = "Fetch the content (git annex get, dvc pull), or delete the links."


def with_gaps_reported(dataset: Dataset) -> Dataset:
    """The data set with missing images in one problem each kind, and with what was not read."""
    skipped = skipped_paths(dataset)
    if skipped:
        what = f"{len(skipped)} paths are not files and were not read: {shortened(skipped)}."
        problem = Problem(
            dataset.source, what, "Delete them if they do not belong there.", severity="warning"
        )
        dataset = replace(dataset, problems=(*dataset.problems, problem))
    if dataset.format == "coco":  # its reader knows the names of all images, and has reported links
        return dataset
    problems = _grouped(dataset.problems)
    folders = {dataset.source, *image_folders(dataset)}
    folders |= {problem.file.parent for problem in dataset.problems if MISSING.match(problem.what)}
    known = {problem.file for problem in problems}
    links = [link for link in dangling_links(folders) if link not in known]
    if links:
        problems.append(Problem(links[0], describe_links(links), FETCH, objects=0))
    return dataset if len(problems) == len(dataset.problems) else replace(dataset, problems=tuple(problems))


def image_folders(dataset: Dataset) -> set[Path]:
    """The folders of a data set's image files, without making the records of a large one."""
    records = dataset.records
    if isinstance(records, LazyRecords) and records.stored is not None and not records.changes:
        return records.stored.folders()
    return {record.path.parent for record in records if record.image is None}


def skipped_paths(dataset: Dataset) -> list[str]:
    """What is named like a file of a data set, in its folders, and is none: name and kind of each.

    Only regular files are read: a pipe would be waited for without end, a device read without end.
    """
    source, found, looked_at = dataset.source, list[str](), 0
    folders = [source] if source.is_dir() else sorted({source.parent, *image_folders(dataset)})
    for folder in folders:  # those below are added on the way
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                looked_at += 1
                if entry.name.startswith(".") or entry.is_file(follow_symlinks=False):
                    continue
                named = PurePath(entry.name).suffix.lower() in NAMED_LIKE_FILES
                if entry.is_dir() and not named:
                    folders += [] if entry.is_symlink() or not source.is_dir() else [Path(entry.path)]
                elif not entry.is_file():
                    found.append(f"{entry.name} ({_kind(Path(entry.path))})")
        if looked_at > MAX_LOOKED_AT:
            break
    return sorted(found)


def _kind(path: Path) -> str:
    """What a path is that is no regular file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link to nothing"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def dangling_links(folders: Iterable[Path]) -> list[Path]:
    """The symbolic links in these folders that lead to no file, as git-annex and DVC leave them."""
    found = []
    for folder in sorted(folders):
        if is_folder(folder):
            with os.scandir(folder) as entries:
                links = [Path(entry.path) for entry in entries if entry.is_symlink()]
            found += sorted(link for link in links if not link.exists())
    return found


def describe_links(links: list[Path]) -> str:
    """A sentence about links that lead nowhere."""
    names = shortened([link.name for link in links])
    return f"{len(links)} files are links to files that do not exist: {names}."


def _grouped(problems: Iterable[Problem]) -> list[Problem]:
    """The problems with those about missing images joined, where there are more than a few."""
    listed = list(problems)
    groups: dict[str, list[Problem]] = defaultdict(list)
    for problem in listed:
        if MISSING.match(problem.what):
            groups[problem.severity + problem.advice].append(problem)
    for group in groups.values():
        if len(group) > LISTED_SINGLY:
            first, *others = group
            names = shortened([problem.file.name for problem in group])
            what = f"The images of {len(group)} annotation files are missing: {names}."
            objects = sum(problem.lost_objects for problem in group)
            joined = Problem(first.file, what, first.advice, severity=first.severity, objects=objects)
            left_out = set(others)
            listed = [joined if p is first else p for p in listed if p not in left_out]
    return listed
