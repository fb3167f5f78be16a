"""Files that are not there, reported once for all: links whose content was not fetched, missing images.

Readers report a missing image where they need it, one annotation file after the other. Thousands of these are
one fault, and become one problem.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rcnn.data.dataset import Dataset
from rcnn.data.formats.lookup import LISTED_SINGLY
from rcnn.data.problems import Problem, shortened
from rcnn.io.folders import is_folder

MISSING = re.compile(r"Its image\b.* is missing")  # how readers of all formats report it
FETCH = "Fetch the content (git annex get, dvc pull), or delete the links."


def with_gaps_reported(dataset: Dataset) -> Dataset:
    """The data set with missing images in one problem each kind, and with links that lead nowhere."""
    if dataset.format == "coco":  # its reader knows the names of all images, and has reported links
        return dataset
    problems = _grouped(dataset.problems)
    folders = {dataset.source, *(r.path.parent for r in dataset.records if r.image is None)}
    folders |= {problem.file.parent for problem in dataset.problems if MISSING.match(problem.what)}
    known = {problem.file for problem in problems}
    links = [link for link in dangling_links(folders) if link not in known]
    if links:
        problems.append(Problem(links[0], describe_links(links), FETCH, objects=0))
    return dataset if len(problems) == len(dataset.problems) else replace(dataset, problems=tuple(problems))


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
