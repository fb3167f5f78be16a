"""Find image files by the names that annotations give them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from rcnn.io.images import image_files

PROBED = 20  # number of file names checked to recognise the image folder


def image_folder(path: Path, entries: list[Any], images: str | Path | None) -> Path:
    """The folder with most of a sample of the images; ``images`` is taken if it has any of them."""
    parent, stem = path.parent, path.stem
    called = [stem, stem.rsplit("_", 1)[-1], stem.split("_", 1)[0]]
    folders = [*called, *(f"images/{name}" for name in called), "", "images", "data"]  # closest name first
    candidates = [parent / f for f in folders] + [parent.parent / f for f in folders]
    if images is not None:
        candidates = [Path(images)]
    names = [e["file_name"] for e in entries if isinstance(e, dict) and isinstance(e.get("file_name"), str)]
    step = max(len(names) // PROBED, 1)
    hits = [sum(find_file(folder, name) is not None for name in names[::step]) for folder in candidates]
    best = candidates[hits.index(max(hits))]
    if names and max(hits) == 0 and not any(find_file(f, n) for n in names for f in candidates):
        looked = ", ".join(dict.fromkeys(str(c) for c in candidates))
        raise ValueError(
            f"{path}: none of its images was found, for example {names[0]}. Searched {looked}. "
            f"Name the image folder (--images, or images=…)."
        )
    return best


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
