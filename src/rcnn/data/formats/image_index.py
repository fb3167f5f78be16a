r"""Find the images of an annotation file wherever they are next to it or below it.

Names may be paths of another machine, addresses, or lack the extension. What counts is the end of the path:
``C:\photos\train\a.jpg`` is ``train/a.jpg`` if there is such a file, else ``a.jpg``. Nothing outside the
folders that are searched is ever opened.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from rcnn.data.formats.contents import ANNOTATION_FOLDERS
from rcnn.data.formats.folders import is_annotation_folder
from rcnn.data.formats.lookup import (
    FILES_ONLY_BELOW,
    absolute,
    find_file,
    find_other_extension,
    is_outside,
    leads_out,
    plain_name,
    reach_of,
)
from rcnn.io.folders import is_file, is_folder
from rcnn.io.images import IMAGE_ENDINGS

IMAGE_FOLDERS = ("", "images", "Images", "image", "imgs", "img", "JPEGImages", "data", "train", "photos")
PROBED = 20  # number of file names checked to recognise the image folder
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
DEEPEST = 4  # levels of folders searched
MOST_FILES = 300_000  # files looked at; beyond them, the search ends


def image_folder(
    path: Path, entries: list[Any], images: str | Path | None, label_images: Path | None = None
) -> Path:
    """The folder with most of a sample of the images; ``images`` is taken if it has any of them.

    Of several, the one where the names lead as they are, rather than by their last parts; and that of
    ``label_images``, whose files may be called as the images are, only if no other has as many.
    """
    parent, stem = path.parent, path.stem
    called = [stem, stem.rsplit("_", 1)[-1], stem.split("_", 1)[0]]
    folders = [*called, *(f"images/{name}" for name in called), "", "images", "data"]  # closest name first
    candidates = [parent / f for f in folders] + [parent.parent / f for f in folders]
    if images is not None:
        candidates = [Path(images)]
    names = [e["file_name"] for e in entries if isinstance(e, dict) and isinstance(e.get("file_name"), str)]
    sample = names[:: max(len(names) // PROBED, 1)]
    reach = reach_of(path, None if images is None else Path(images))
    candidates.sort(key=lambda folder: folder == label_images)
    hits = [
        (sum(find_file(f, n, reach) is not None for n in sample), sum(is_file(f / n) for n in sample))
        for f in candidates
    ]
    best = candidates[hits.index(max(hits))]
    if names and max(hits)[0] == 0 and not any(find_file(f, n, reach) for n in names for f in candidates):
        annotations = path.parent.name in ANNOTATION_FOLDERS
        root = Path(images) if images is not None else path.parents[1] if annotations else path.parent
        if any(find_below(root, path, name) for name in names):
            return root
        outside = [name for name in names if is_outside(parent / name, reach)]
        if outside:
            raise ValueError(f"{path}: {leads_out(outside[0], reach)} {FILES_ONLY_BELOW}")
        renamed = (f for f in candidates if f.is_dir() and any(find_other_extension(f, n) for n in names))
        if (folder := next(renamed, None)) is not None:
            return folder
        looked = ", ".join(dict.fromkeys(str(c) for c in candidates))
        raise ValueError(
            f"{path}: none of its images was found, for example {names[0]}. Searched {looked}. "
            f"Name the image folder (--images, or images=…)."
        )
    return best


def find_below(folder: Path, annotations: Path, name: str) -> Path | None:
    """The image of that name in the folders below one, for an annotation file; None if none or several fit.

    Folders of another split than that of the annotation file (``train`` for ``val.json``) are not searched,
    nor is any if the folder that the name gives exists: equal names elsewhere are different images.
    """
    named = folder / name.replace("\\", "/")
    if named.parent != folder and is_folder(named.parent):
        return None
    splits = _splits(annotations.stem) or {SPLITS.get(annotations.parent.name.lower(), "")}
    known = _names_below(folder, splits.pop() if len(splits) == 1 else "")
    parts = _parts(name)
    candidates = known.get(plain_name(parts[-1]), []) if parts else []
    return _best(candidates, parts) if candidates else None


@lru_cache(maxsize=8)
def _names_below(folder: Path, split: str) -> dict[str, list[Path]]:
    """The image files below a folder by their plain names, without the folders of other splits."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in _image_files_below(folder):
        owners = [_splits(part) for part in file.relative_to(folder).parts[:-1]]
        if file.is_file() and not any(split and own and split not in own for own in owners):
            found[plain_name(file.name)].append(file)
    return dict(found)


def _splits(name: str) -> set[str]:
    """The splits that a name speaks of: ``train2017`` and ``instances_train`` of training."""
    return {SPLITS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in SPLITS}


class ImageIndex:
    """The image files next to and below an annotation file, by name.

    Args:
        source: the annotation file, or the folder of annotations.
        images: the folder to search instead.
    """

    def __init__(self, source: Path, images: str | Path | None = None) -> None:
        beside = source if source.is_dir() else source.parent
        self.splits = _splits(source.stem)
        self.roots = [beside]
        if images is not None:
            self.roots = [Path(images)]
            if not self.roots[0].is_dir():
                raise ValueError(f"{images}: there is no such image folder (--images, images=…).")
        elif (beside / "images").is_dir():
            pass  # a data set of its own, whatever it is called
        elif beside.name in ANNOTATION_FOLDERS or beside.parent.name in ANNOTATION_FOLDERS:
            self.roots.append(beside.parent if beside.name in ANNOTATION_FOLDERS else beside.parents[1])
        folders = [root / name for root in self.roots for name in IMAGE_FOLDERS]
        if images is None:
            folders += [beside.parent / name for name in IMAGE_FOLDERS[1:]]
        self.folders = [folder for folder in folders if folder.is_dir()]

    @property
    def searched(self) -> str:
        """The searched folders, for messages."""
        return ", ".join(dict.fromkeys(str(root) for root in self.roots))

    def find(self, name: str) -> Path | None:
        """The image of that name; None if there is none, or several that fit equally well."""
        parts = _parts(name)
        if not parts:
            return None
        if parts[-1].casefold().endswith(IMAGE_ENDINGS):
            relative = "/".join(parts)
            exact = (f for folder in self.folders if is_file(f := folder / relative))
            found = next(exact, None) or self._near(relative)
            if found is not None:
                return found
        keys = (plain_name(parts[-1]), plain_name(PurePosixPath(parts[-1]).stem))
        for key in dict.fromkeys(keys):
            candidates = self._likely(self._below.get(key, []))
            if candidates:
                return _best(candidates, parts)
        return None

    def of_file(self, stem: str) -> Path | None:
        """The image that an annotation file belongs to by its name.

        The image of exactly this name; or the one with the longest name that the other begins with, followed
        by something else than a letter or a digit (``a.tif - Series 0``, ``a_rois``).
        """
        key = plain_name(stem)
        # Not by find, which takes blanks around a name for a slip: there may be an image of each name.
        same = [file for file in self._below.get(key, []) if stem in (file.stem, file.name)]
        exact = same[0] if len(same) == 1 else self.find(stem)
        if exact is not None:
            return exact
        fits = [k for k in self._below if key.startswith(k) and not key[len(k) : len(k) + 1].isalnum()]
        for longest in sorted(fits, key=len, reverse=True)[:1]:
            candidates = self._below[longest]
            return candidates[0] if len(candidates) == 1 else None
        return None

    def _likely(self, candidates: list[Path]) -> list[Path]:
        """The candidates that are not in folders of masks or of another split; all, if none is left."""
        for is_other in (self._is_mask, self._is_of_other_split):
            likely = [file for file in candidates if not is_other(file)]
            candidates = likely or candidates
        return candidates

    def _is_mask(self, file: Path) -> bool:
        return is_annotation_folder(file.parent.name)

    def _is_of_other_split(self, file: Path) -> bool:
        above = set(self.roots[0].parts)
        owners = [_splits(part) for part in file.parts[:-1] if part not in above]
        return bool(self.splits) and any(own and not own & self.splits for own in owners)

    def only(self) -> Path | None:
        """The only image there is; None if there are none or several."""
        files = {file for listed in self._below.values() for file in listed}
        return files.pop() if len(files) == 1 else None

    def largest_folder(self) -> list[Path]:
        """The image files of the searched folder that has most of them."""
        folders: dict[Path, list[Path]] = defaultdict(list)
        for file in dict.fromkeys(file for files in self._below.values() for file in files):
            folders[file.parent].append(file)
        most = max(map(len, folders.values()), default=0)
        return next((sorted(files) for files in folders.values() if len(files) == most), [])

    def _near(self, relative: str) -> Path | None:
        found = (find_file(folder, relative, [absolute(folder)]) for folder in self.folders)
        return next((file for file in found if file is not None), None)

    @cached_property
    def _below(self) -> dict[str, list[Path]]:
        """All image files below the roots, by their plain names with and without extension."""
        found: dict[str, list[Path]] = defaultdict(list)
        seen: set[Path] = set()
        for root in [*self.roots, *self.folders]:
            for file in _image_files_below(root):
                if file not in seen:
                    seen.add(file)
                    for key in dict.fromkeys((plain_name(file.name), plain_name(file.stem))):
                        found[key].append(file)
        return found


def _parts(name: str) -> list[str]:
    """The parts of a path without drive, root and dots; of an address, those of its path."""
    name = name.strip().replace("\\", "/")
    if "://" in name:
        name = unquote(name.split("://", 1)[1].split("?", 1)[0].split("#", 1)[0])
    return [part for part in name.split("/") if part not in ("", ".", "..") and not part.endswith(":")]


def _best(candidates: list[Path], parts: list[str]) -> Path | None:
    """The file whose path agrees with most of the last parts; None if two agree equally."""
    folders = [plain_name(part) for part in parts[-2::-1]]
    agreement = []
    for file in candidates:
        own = [plain_name(part) for part in file.parts[-2::-1]]
        pairs = zip(folders, own, strict=False)
        agreement.append(next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(folders), len(own))))
    best = max(agreement)
    chosen = [file for file, count in zip(candidates, agreement, strict=True) if count == best]
    return chosen[0] if len(chosen) == 1 else None


def _image_files_below(root: Path) -> list[Path]:
    found: list[Path] = []
    looked_at = 0
    for folder, names, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        names[:] = sorted(n for n in names if not n.startswith(".")) if depth < DEEPEST else []
        here = Path(folder)
        found += [
            here / f for f in sorted(files) if not f.startswith(".") and f.lower().endswith(IMAGE_ENDINGS)
        ]
        looked_at += len(files) + len(names)
        if looked_at > MOST_FILES:
            break
    return found
