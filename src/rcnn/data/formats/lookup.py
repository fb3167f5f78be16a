"""Find image files by the names that annotations give them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from rcnn.data.problems import Problem, shortened
from rcnn.io.folders import is_file, is_folder, is_link, is_there
from rcnn.io.images import IMAGE_ENDINGS, image_files

FILES_ONLY_BELOW = "Images elsewhere are opened from the folder that you name: --images, or images=…."
LISTED_SINGLY = 5  # missing images; more become one problem


def reach_of(annotations: Path, images: Path | None = None) -> tuple[Path, ...]:
    """The folders in which the files that annotations name may be; a name that leads out of them is refused.

    Names come with the annotations, from whomever: without a limit they would decide which files of this
    machine are read. ``../train/images``, beside the annotations' own folder, is common and within it.

    Args:
        annotations: the file, or the folder of files.
        images: the folder of images that the user named.
    """
    folder = absolute(annotations if annotations.is_dir() else annotations.parent)
    own = folder if folder.parent == folder.parent.parent else folder.parent  # not the whole file system
    return (own,) if images is None or is_within(images, [own]) else (own, absolute(images))


def is_within(path: Path, reach: Iterable[Path]) -> bool:
    """Whether a path stays in one of some absolute folders, its dots resolved; links in them are followed."""
    whole = absolute(path)
    return any(whole == folder or folder in whole.parents for folder in reach)


def is_outside(path: Path, reach: Iterable[Path]) -> bool:
    """Whether a path that is there leads out of some absolute folders; what is not there is just missing."""
    return not is_within(path, reach) and is_there(path)


def absolute(path: Path) -> Path:
    """A path without dots, as text: links are left as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() follows links


def leads_out(named: str, reach: Sequence[Path]) -> str:
    """What is wrong with a name that leads out of the folders of :func:`reach_of`."""
    return f"It names {named}, outside {' and '.join(map(str, reach))}: such files are not opened."


def refuse_outside(file: Path, path: Path, reach: Sequence[Path]) -> None:
    """Refuse a path that a file names and that is there, but out of reach.

    Raises:
        ValueError: it is; the message names the folders.
    """
    if is_outside(path, reach):
        raise ValueError(
            f"{file}: {leads_out(str(path), reach)} Move the images there, or open their folder itself."
        )


def find_file(folder: Path, name: str, reach: Sequence[Path]) -> Path | None:
    """The file of that name, or of its last part, since some tools write the folders of their own machine.

    Otherwise, the only file whose name differs just in case, in URL escapes (``%20``) or in the Unicode form
    of accents.

    Args:
        folder: what the name is relative to.
        name: as the annotations give it.
        reach: the folders out of which it may not lead, see :func:`reach_of`.
    """
    named = PurePosixPath(name.replace("\\", "/"))
    whole = folder / named
    # If the named folder exists, a file of that name elsewhere is a different one.
    below = not named.is_absolute() and ".." not in named.parts
    candidates = [whole] if below and is_folder(whole.parent) else [whole, folder / whole.name]
    candidates = [candidate for candidate in candidates if is_within(candidate, reach)]
    for candidate in candidates:
        if is_file(candidate):
            return candidate
    for candidate in candidates:
        if is_folder(candidate.parent):
            known = _alike(candidate.parent, candidate.parent.stat().st_mtime_ns)
            if len(found := known.get(plain_name(candidate.name), [])) == 1:
                return found[0]
    return None


def find_other_extension(folder: Path, name: str) -> Path | None:
    """The only image whose name without extension is that of a file that is named otherwise."""
    named = PurePosixPath(name.replace("\\", "/"))
    parent = folder / named.parent if ".." not in named.parts and not named.is_absolute() else folder
    parent = parent if is_folder(parent) else folder
    if not parent.is_dir():
        return None
    stem = named.stem if named.suffix.lower() in IMAGE_ENDINGS else named.name
    return _of_stem(parent, parent.stat().st_mtime_ns).get(plain_name(stem))


@lru_cache(maxsize=32)
def _of_stem(folder: Path, changed: int) -> dict[str, Path]:
    """The image files of a folder by their plain names without extension, if these are unique."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in image_files(folder):
        found[plain_name(file.stem)].append(file)
    return {stem: files[0] for stem, files in found.items() if len(files) == 1}


def without_code(name: str) -> str:
    """A file name without the code that Label Studio puts before it.

    >>> without_code("90fbb0c7-a.jpg"), without_code("a.jpg")
    ('a.jpg', 'a.jpg')
    """
    return re.sub(r"^[0-9a-f]{8}-", "", name)


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
    linked = [path for path in missing if is_link(path)]
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


class ImagesByName:
    """Image files by their names: with the folders below a root, alone if that is unique, and by stems.

    Attributes:
        files: all of them.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.paths: dict[str, list[Path]] = defaultdict(list)
        self.stems: dict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            below = file.relative_to(root) if root in file.parents else PurePosixPath(file.name)
            for name in dict.fromkeys((below.as_posix(), file.name)):
                self.paths[plain_name(name)].append(file)
            for name in dict.fromkeys((below.with_suffix("").as_posix(), file.stem)):
                self.stems[plain_name(name)].append(file)

    def find(self, name: str) -> Path | None:
        """The image that a file names, by as much of the end of the path as there is; exact names first."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for start in range(len(parts)):
            found = self.paths.get(plain_name("/".join(parts[start:])), [])
            exact = [file for file in found if file.name == parts[-1]]
            if len(exact or found) == 1:
                return (exact or found)[0]
        return None

    def beside(self, annotation: Path | PurePosixPath) -> Path | None:
        """The image of the same name as an annotation file, in the same folder or the only one."""
        for name in (annotation.with_suffix("").as_posix(), annotation.stem):
            found = self.stems.get(plain_name(name), [])
            exact = [file for file in found if file.stem == annotation.stem]
            if exact or len(found) == 1:
                return (exact or found)[0] if len(exact) < 2 or name != annotation.stem else None
        return None
