"""The layout of YOLO data: the yaml file, its splits, and the text file of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.data.formats.label_image import NAMES_FILE
from rcnn.io.images import image_files, visible_files

YAML_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
SPLITS = ("train", "val", "valid", "test")
ABOVE = 4  # number of folders above the images that are searched for data.yaml


@dataclass(frozen=True)
class YoloPlace:
    """The files of a data set.

    Attributes:
        source: the given path: the yaml file, a folder of images, or a list of images.
        yaml: the yaml file, or ``classes.txt``.
        images: the folders and lists of the images.
    """

    source: Path
    yaml: Path
    images: tuple[Path, ...]


def find_yolo(path: Path, split: str | None = None) -> YoloPlace | None:
    """The YOLO data at a path, None if there are none.

    A path may be the yaml file, its folder, a folder of images with a corresponding ``labels``, or a list of
    images that a yaml file names.

    Raises:
        ValueError: an unusable yaml file, or one with several splits without ``split``.
    """
    if path.suffix in (".yaml", ".yml"):
        return _of_yaml(path, split)
    if path.is_file():
        yaml = _yaml_above(path) if path.suffix == ".txt" else None
        return None if yaml is None else YoloPlace(path, yaml, (path,))
    own = _yaml_in(path)
    if own is not None:
        return _of_yaml(own, split)
    if (path / "images").is_dir() and _has_texts(path / "labels"):
        names = next((f for f in (path / NAMES_FILE, path / "labels" / NAMES_FILE) if f.is_file()), None)
        names = names or _yaml_above(path)
        if names is None:
            raise ValueError(f"{path}: YOLO labels without class names; add a data.yaml or {NAMES_FILE}.")
        return YoloPlace(path, names, (path / "images",))
    if (path / NAMES_FILE).is_file() and any(label_path(f).parent == path for f in image_files(path)):
        return YoloPlace(path, path / NAMES_FILE, (path,))  # as labelImg saves it
    labels = label_path(path / "image").parent
    if "images" in path.parts and _has_texts(labels):
        yaml = _yaml_above(path)
        return None if yaml is None else YoloPlace(path, yaml, (path,))
    return None


def label_path(image: Path) -> Path:
    """The text file of an image: next to it, or with ``labels`` for the last ``images`` of its path."""
    beside = image.with_suffix(".txt")
    if beside.is_file():
        return beside
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def is_yolo(path: Path, split: str | None = None) -> bool:
    """Whether a path is YOLO data; see :func:`find_yolo`."""
    # A list of VOC may have a yaml file above it.
    return path.exists() and path.parent.parent.name != "ImageSets" and find_yolo(path, split) is not None


def load_yaml(file: Path) -> dict[str, Any]:
    """The content of ``data.yaml``, or the names of ``classes.txt`` in the same form.

    Raises:
        ValueError: the file is missing, not YAML, or has no names.
    """
    import yaml

    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: the file cannot be read ({error}).") from error
    if file.name == NAMES_FILE:
        names = [line.strip() for line in text.strip().splitlines()]
        if not all(names):
            empty = names.index("") + 1
            raise ValueError(f"{file}: line {empty} is empty; expected the name of class {empty - 1}.")
        return {"names": names}
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file}: this is not YAML ({error}). Fix it.") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise ValueError(f"{file}: expected names: as a list, or as numbers with names.")
    # As texts: YAML takes a class named "No" for False.
    return {**content, "names": yaml.load(text, yaml.BaseLoader)["names"]}


def yaml_splits(path: Path) -> dict[str, Path]:
    """The splits of a yaml file, or of the one in a folder, whose images exist; and that file for each."""
    file = path if path.suffix in (".yaml", ".yml") else _yaml_in(path)
    if file is None:
        return {}
    try:
        content = load_yaml(file)
    except ValueError:
        return {}
    return {
        name: file
        for name in SPLITS
        if content.get(name) and all(entry.exists() for entry in _entries(file, content, name))
    }


def _of_yaml(file: Path, split: str | None) -> YoloPlace:
    content = load_yaml(file)
    splits: dict[str, tuple[Path, ...]] = {
        name: _entries(file, content, name) for name in SPLITS if content.get(name)
    }
    if split is None and len(splits) > 1:
        places = [folder for folders in splits.values() for folder in folders]
        parts = ", ".join(str(p.resolve()) for p in places if p.exists()) or ", ".join(map(str, places))
        raise ValueError(f"{file}: YOLO data with several splits; name one of their images: {parts}.")
    if not splits:
        raise ValueError(f"{file}: expected train: or val: with a folder or list of images.")
    name = split or next(iter(splits))
    if name not in splits:
        raise ValueError(f"{file}: there is no split {name}; available: {', '.join(splits)}.")
    return YoloPlace(file, file, splits[name])


def _entries(file: Path, content: dict[str, Any], split: str) -> tuple[Path, ...]:
    """The folders and lists of a split: relative to ``path``, or to the yaml file."""
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    roots = [file.parent / str(content.get("path") or "."), file.parent]
    found = []
    for entry in (str(entry).replace("\\", "/") for entry in entries):
        # Exports write "../train/images" for folders next to their yaml file.
        names = dict.fromkeys((entry, entry.removeprefix("../")))
        places = [root / name for name in names for root in roots]
        found.append(next((place for place in places if place.exists()), places[0]))
    return tuple(found)


def _yaml_in(folder: Path) -> Path | None:
    named = next((folder / name for name in YAML_NAMES if (folder / name).is_file()), None)
    if named is not None or not folder.is_dir():
        return named
    files = [f for f in visible_files(folder, "*.y*ml") if "names:" in f.read_text("utf-8", "replace")]
    return files[0] if len(files) == 1 else None


def _yaml_above(path: Path) -> Path | None:
    for folder in list(path.parents)[:ABOVE]:
        found = _yaml_in(folder)
        if found is not None:
            return found
        if (folder / NAMES_FILE).is_file():
            return folder / NAMES_FILE
    return None


def _has_texts(folder: Path) -> bool:
    return folder.is_dir() and any(f.name != NAMES_FILE for f in visible_files(folder, "*.txt"))
