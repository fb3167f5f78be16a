"""Find image files by the names that annotations give them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from rcnn.data.problems import Problem, shortened
from rcnn.io.images import image_files

LISTED_SINGLY = 5  # missing images; more become one problem


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, or of its last part, since some tools write the folders of their own machine.

    Otherwise, the only file whose name differs just in case, in URL escapes (``%20``) or in the Unicode form
    of accents.
    """
    named = PurePosixPath(name.replace("\\", "/"))
    whole = folder / named
    # If the named folder exists, a file of that name elsewhere is a different one.
    below = not named.is_absolute() and ".." not in named.parts
    candidates = [whole] if below and whole.parent.is_dir() else [whole, folder / whole.name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.parent.is_dir():
            known = _alike(candidate.parent, candidate.parent.stat().st_mtime_ns)
            if len(found := known.get(plain_name(candidate.name), [])) == 1:
                return found[0]
    return None


def plain_name(name: str) -> str:
    """A file name without differences of case, URL escapes (``%20``) and the Unicode form of accents."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


@lru_cache(maxsize=32)
def _alike(folder: Path, changed: int) -> dict[str, list[Path]]:
    """The image files of a folder by their plain names; ``changed`` makes the cache follow changes."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in image_files(folder):
        found[plain_name(file.name)].append(file)
    return found


def missing_files(missing: Sequence[Path], total: int) -> list[Problem]:
    """The problems of image files that are not there: one each, or one for many.

    Args:
        missing: where they were expected.
        total: the number of images of the data set.
    """
    linked = [path for path in missing if path.is_symlink()]
    problems = []
    if linked:
        what = f"{len(linked)} of {total} images are links to files that do not exist, such as {linked[0]}."
        advice = "Fetch the content (git annex get, dvc pull), or delete the entries."
        problems.append(Problem(linked[0], what, advice, objects=0))
    rest = [path for path in missing if path not in set(linked)]
    if len(rest) <= LISTED_SINGLY:
        what, advice = "The image file is missing.", "Add it, or delete its entry."
        return problems + [Problem(path, what, advice, objects=0) for path in rest]
    what = f"{len(rest)} of {total} image files are missing: {shortened([path.name for path in rest])}."
    there = sorted({str(path.parent) for path in rest})
    advice = f"Add them to {shortened(there, 2)}, name the image folder (--images), or delete their entries."
    return [*problems, Problem(rest[0], what, advice, objects=0)]
