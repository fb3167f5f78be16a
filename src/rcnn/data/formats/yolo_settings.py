"""The files that describe YOLO data: ``data.yaml``, darknet's ``obj.data``, or a plain list of names.

Their paths are often those of another machine. What counts then is the end of a path: ``/content/pets/train``
is ``train`` next to the file, if there is such a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.formats.contents import head, read_text
from rcnn.data.formats.label_image import NAMES_FILE
from rcnn.data.formats.lookup import is_within, reach_of, refuse_outside
from rcnn.io.folders import is_there
from rcnn.io.images import visible_files
from rcnn.io.yaml import parse_yaml

YAML_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
NAMES_FILES = (NAMES_FILE, "obj.names", "_darknet.labels", "predefined_classes.txt", "class_names.txt")
SPLITS = ("train", "val", "valid", "test")
DATA_ENDING, NAMES_ENDING = ".data", ".names"  # of darknet
YAML_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Entries:
    """The folders and lists of images of one split.

    Attributes:
        paths: where they are.
        named: how the file calls them.
        is_moved: some were found only by the end of their path.
    """

    paths: tuple[Path, ...]
    named: tuple[str, ...]
    is_moved: bool

    @property
    def exist(self) -> bool:
        """Whether all of them are there."""
        return all(is_there(path) for path in self.paths)


def settings_in(folder: Path) -> Path | None:
    """The file of settings in a folder: by its name, or the only one that has the keys of one."""
    named = next((folder / name for name in YAML_NAMES if (folder / name).is_file()), None)
    if named is not None or not folder.is_dir():
        return named
    files = [f for f in visible_files(folder) if f.suffix.lower() in YAML_ENDINGS and f.is_file()]
    files = [file for file in files if _has_keys(file)]
    files = files or [file for file in visible_files(folder, f"*{DATA_ENDING}") if file.is_file()]
    return files[0] if len(files) == 1 else None


def names_in(folder: Path) -> Path | None:
    """The file of class names in a folder."""
    named = next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
    files = visible_files(folder, f"*{NAMES_ENDING}") if named is None and folder.is_dir() else []
    return files[0] if len(files) == 1 else named


def load_settings(file: Path) -> dict[str, Any]:
    """The content of ``data.yaml``; that of ``obj.data`` or a list of names in the same form.

    Raises:
        ValueError: the file is missing, unusable, or has no names.
    """
    text = read_text(file)
    if file.suffix == DATA_ENDING:
        return _of_darknet(file, text)
    if file.suffix.lower() not in YAML_ENDINGS:
        return {"names": _listed_names(file, text)}
    content = parse_yaml(text, file)
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise ValueError(f"{file}: expected names: as a list, or as numbers with names.")
    # As texts: YAML takes a class named "No" for False.
    return {**content, "names": parse_yaml(text, file, as_texts=True)["names"]}


def class_numbers(file: Path, settings: dict[str, Any]) -> dict[int, str]:
    """The class names by the numbers that text files use, in order.

    Raises:
        ValueError: there are no names, or their numbers are no integers.
    """
    names = settings["names"]
    numbered = names if isinstance(names, dict) else dict(enumerate(names))
    texts = [str(number) for number in numbered]
    if not numbered or not all(text.isdigit() for text in texts):
        raise ValueError(f"{file}: names: expected the numbers 0, 1, …; found {list(numbered)}.")
    return dict(sorted((int(k), str(v)) for k, v in numbered.items()))


def split_entries(file: Path, settings: dict[str, Any]) -> dict[str, Entries]:
    """The splits that a file names, with their images: relative to ``path``, to the file, or by their ends.

    A path that two splits would share by its end only is not taken: it belongs to neither.
    """
    named = {split: settings[split] for split in SPLITS if settings.get(split)}
    found = {split: _found(file, settings, value) for split, value in named.items()}
    shared = [
        path
        for split, entries in found.items()
        if entries.is_moved
        for path in entries.paths
        if any(path in other.paths for name, other in found.items() if name != split)
    ]
    for split, entries in found.items():
        if entries.is_moved and set(shared) & set(entries.paths):
            paths = tuple(file.parent / name for name in entries.named)
            found[split] = Entries(paths, entries.named, is_moved=False)
    return found


def existing_splits(path: Path) -> dict[str, Path]:
    """The splits, with images, of a file of settings or of the one in a folder; and that file for each."""
    file = path if path.suffix.lower() in (*YAML_ENDINGS, DATA_ENDING) else settings_in(path)
    if file is None:
        return {}
    try:
        entries = split_entries(file, load_settings(file))
    except ValueError:  # the reader says why
        return {}
    return {split: file for split, found in entries.items() if found.exist}


def find_by_end(name: str, roots: tuple[Path, ...], reach: Sequence[Path]) -> tuple[Path | None, bool]:
    """What a path names, and whether only the end of the path was found below one of the roots.

    Whatever leads out of the folders of ``reach`` (:func:`rcnn.data.formats.lookup.reach_of`) is not found.
    """
    clean = name.replace("\\", "/")
    # Exports write "../train/images" for folders next to their file.
    for whole in dict.fromkeys((clean, clean.removeprefix("../"))):
        for root in roots:
            if is_within(root / whole, reach) and is_there(root / whole):
                return root / whole, False
    for end in _ends(clean):
        for root in roots:
            if is_within(root / end, reach) and is_there(root / end):
                return root / end, True
    return None, False


def _found(file: Path, settings: dict[str, Any], value: Any) -> Entries:
    base = str(settings.get("path") or ".").replace("\\", "/")
    roots = (file.parent / base, file.parent)
    named = tuple(str(entry).replace("\\", "/") for entry in (value if isinstance(value, list) else [value]))
    reach = reach_of(file)
    found = [find_by_end(name, roots, reach) for name in named]
    for name, (path, _) in zip(named, found, strict=True):
        if path is None:
            refuse_outside(file, roots[0] / name, reach)
    paths = tuple(
        path if path is not None else roots[0] / name for name, (path, _) in zip(named, found, strict=True)
    )
    return Entries(paths, named, any(moved for _, moved in found))


def _ends(name: str) -> Iterator[str]:
    """The ends of a path, longest first, without the whole."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
    for start in range(1, len(parts)):
        yield "/".join(parts[start:])


def _has_keys(file: Path) -> bool:
    text = head(file)
    return all(re.search(rf"^{key}\s*:", text, re.MULTILINE) for key in ("names", "(train|val|test|path|nc)"))


def _listed_names(file: Path, text: str) -> list[str]:
    """The names in a list, without the numbers 0, 1, … that some write before them."""
    names = [line.strip() for line in text.strip().splitlines()]
    if not all(names):
        empty = names.index("") + 1
        raise ValueError(f"{file}: line {empty} is empty; expected the name of class {empty - 1}.")
    if len(names) == 1 and "," in names[0]:
        raise ValueError(f"{file}: its only line has commas, {names[0][:60]!r}; expected one name per line.")
    numbered = [re.fullmatch(r"(\d+)\s*[\s:;,.=)-]\s*(\S.*)", name) for name in names]
    if len(names) > 1 and all(f is not None and int(f[1]) == i for i, f in enumerate(numbered)):
        return [found[2] for found in numbered if found is not None]
    return names


def _of_darknet(file: Path, text: str) -> dict[str, Any]:
    """The settings of ``obj.data``: lines such as ``train = data/train.txt``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    named, _ = find_by_end(str(content.get("names") or ""), (file.parent,), reach_of(file))
    names = named if named is not None and named.is_file() else names_in(file.parent)
    if names is None:
        raise ValueError(
            f"{file}: expected names = with a file of class names; found {content.get('names')}."
        )
    splits = {split: content[split] for split in SPLITS if content.get(split)}
    return {"names": _listed_names(names, read_text(names)), **splits}
