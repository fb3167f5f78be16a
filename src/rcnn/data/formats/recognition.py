"""Recognise what is at a path: the format of a data set, its splits, or folders around it.

Exports have a folder for each split, and archives often unpack into a folder of their own. Splits are found
in

    DATA/train/, DATA/valid/, DATA/test/        each a data set
    DATA/images/train/, DATA/images/val/        with DATA/labels/train/, DATA/masks/train/, …
    DATA/train_images/ with DATA/train_masks/   and the same for val
    DATA/data.yaml                              with several splits
    DATA/annotations/instances_train.json       and one for val; also .csv and .xml
    DATA/train-000000.tar                       and val-000000.tar, WebDataset's shards
    DATA/ImageSets/Main/train.txt               and val.txt, of Pascal VOC; or ImageSets/Segmentation
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rcnn.data.formats.dota import is_dota
from rcnn.data.formats.folders import (
    SPLIT_WORDS,
    is_annotation_folder,
    is_image_folder,
    split_of,
    subfolders,
    without_split,
)
from rcnn.data.formats.label_kinds import ClassNumbersError
from rcnn.data.formats.registry import Format, formats
from rcnn.data.formats.tar_shards import split_patterns
from rcnn.data.formats.voc import listed_names
from rcnn.data.formats.yolo_settings import existing_splits
from rcnn.io.images import image_files, visible_files

MAX_FOLDERS_PROBED = 20  # number of subfolders examined
DEEPEST = 3  # levels of folders around a data set
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
LISTS = (".json", ".csv", ".xml")  # files that each list the objects of many images
ORDER = ("train", "val", "test")


class SplitPlace(NamedTuple):
    """How a split is opened.

    Attributes:
        path: the file or folder.
        split: the name of the split within it, if it has several.
    """

    path: Path
    split: str | None = None


def guessed(source: Path) -> list[Format]:
    """The formats whose readers can explain why a path that none recognises cannot be opened."""
    return [row for row in formats().values() if row.guess(source)]


def recognised(source: Path, options: Mapping[str, Any]) -> list[Format]:
    """The formats that recognise a file or folder.

    Raises:
        ValueError: a format recognises the path, but asks for one of several files.
    """
    found, question = [], None
    for row in formats().values():
        try:
            found += [row] if row.sniff(source, **taken(row, options)) else []
        except ClassNumbersError as error:
            question = question or error
    if question is not None and not found:
        raise question
    return found


def taken(row: Format, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a format accepts."""
    return {name: value for name, value in options.items() if name in row.options}


def find_splits(source: Path) -> dict[str, SplitPlace]:
    """The splits of the data at a path by name, train first; empty if the path is opened as a whole."""
    if not source.exists():
        return {}
    source = unwrapped(source)
    of_settings = {name: SplitPlace(file, name) for name, file in existing_splits(source).items()}
    if len(of_settings) > 1 and source.is_dir() and all(map(is_dota, subfolders(source))):
        return _splits_in(source)  # Roboflow writes data.yaml for oriented boxes, too
    if len(of_settings) > 1:
        return of_settings
    if lists := _voc_lists(source):
        return lists
    return {} if not source.is_dir() or _opens(source) else _splits_in(source)


def _voc_lists(source: Path) -> dict[str, SplitPlace]:
    """The lists of Pascal VOC for training and validation, if both have images that are there."""
    for kind, folder in (("Main", "Annotations"), ("Segmentation", "SegmentationClass")):
        lists = {split: source / "ImageSets" / kind / f"{split}.txt" for split in ORDER}
        found = {split: SplitPlace(file) for split, file in lists.items() if file.is_file()}
        files = source / folder
        if not found.keys() >= {"train", "val"}:
            continue
        there = {file.stem for file in visible_files(files)}
        listed = {split: listed_names(place.path, there.__contains__) for split, place in found.items()}
        used = {split: place for split, place in found.items() if not there.isdisjoint(listed[split])}
        if used.keys() >= {"train", "val"}:
            return used
    return {}


def unwrapped(source: Path) -> Path:
    """The data set inside folders that contain nothing else; the path itself if there is none."""
    place = source
    for _ in range(DEEPEST):
        if not place.is_dir() or image_files(place) or _is_openable(place):
            break
        folders = [f for f in subfolders(place) if any(f.iterdir())]
        if len(folders) != 1:
            break
        place = folders[0]
    if place.is_dir() and not _is_openable(place):
        splits = list(_splits_in(place).values())
        if not splits:
            return source
        place = splits[0].path if len(splits) == 1 else place
    return place


def _without_wrapping(path: Path) -> Path:
    """The folder inside folders that contain nothing but one folder."""
    for _ in range(DEEPEST):
        inside = list(islice(path.iterdir(), 2)) if path.is_dir() else []
        if len(inside) != 1 or not inside[0].is_dir():
            break
        path = inside[0]
    return path


def openable_below(source: Path) -> list[Path]:
    """The folders up to two levels below that can be opened."""
    found = []
    for folder in subfolders(source)[:MAX_FOLDERS_PROBED]:
        if _is_openable(folder):
            found.append(folder)
        else:
            found += [below for below in subfolders(folder)[:MAX_FOLDERS_PROBED] if _is_openable(below)]
    return found


def archives_in(source: Path) -> list[Path]:
    """The archives at a path: the file itself, or those in the folder."""
    files = visible_files(source) if source.is_dir() else [source]
    return [file for file in files if file.suffix.lower() in ARCHIVES and file.is_file()]


def _splits_in(source: Path) -> dict[str, SplitPlace]:
    for place in _places_of_splits(source):
        found: dict[str, list[Path]] = defaultdict(list)
        for path in place[:MAX_FOLDERS_PROBED]:
            split = split_of(path.stem if path.is_file() else path.name)
            if split is None:
                continue
            inside = (one for one in (path, _without_wrapping(path)) if _is_openable(one))
            found[split] += list(islice(inside, 1))
        found = {split: paths for split, paths in found.items() if paths}
        if "train" in found and all(len(paths) == 1 for paths in found.values()):
            splits = sorted((ORDER.index(split), paths[0]) for split, paths in found.items())
            return {_name(path, ORDER[order]): SplitPlace(path) for order, path in splits}
    return {}


def _places_of_splits(source: Path) -> Iterator[list[Path]]:
    """Files or folders that could be the splits of one data set."""
    yield split_patterns(source)
    yield subfolders(source)
    for folder in subfolders(source):
        if is_image_folder(folder.name):
            yield subfolders(folder)
    listing = [f for f in subfolders(source) if is_annotation_folder(f.name) or f.name.lower() == "data"]
    for folder in (source, *listing):
        families: dict[str, list[Path]] = defaultdict(list)
        files = visible_files(folder) if folder.is_dir() else []
        for file in (f for f in files if f.suffix.lower() in LISTS):
            families[without_split(file.stem) + file.suffix].append(file)
        yield from sorted(families.values(), key=lambda files: "instances" not in files[0].stem)


def _name(path: Path, split: str) -> str:
    return path.name if path.name.lower() in SPLIT_WORDS else split


def _opens(source: Path) -> bool:
    """Whether a path is opened as a whole."""
    try:
        return bool(recognised(source, {}))
    except ValueError:
        return False


def _is_openable(source: Path) -> bool:
    """Whether a format recognises a path, even if it has a question or cannot be told from another."""
    try:
        return bool(recognised(source, {}))
    except (ValueError, OSError):
        return True
