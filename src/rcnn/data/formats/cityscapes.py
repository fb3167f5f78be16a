"""Cityscapes: objects and semantic maps from ``gtFine``, with the classes of its official scripts.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png    (or only …_labelIds.png)

Convention:
    In ``instanceIds``, values from 1000 on are class ``id // 1000``, object ``id % 1000``: 26003 is a car.
    Values below 1000 are classes; that of a class with objects (``26``) is a group of them, here a crowd.

The eight object classes and the nineteen semantic classes that Cityscapes evaluates are read; the rest
(caravan, trailer, …) is void and not an object, as in its evaluation. Without ``instanceIds`` there are only
semantic maps. Label images are read once for the boxes and again when a sample is used.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.builder import Annotation, DatasetBuilder, Picture, measured
from rcnn.data.classes import renumber
from rcnn.data.dataset import Dataset
from rcnn.data.formats.label_image import (
    Numbers,
    annotations_of_windows,
    label_windows,
    read_label,
    read_masks,
)
from rcnn.data.problems import Problem
from rcnn.io.images import ImageError
from rcnn.io.reading import reader_threads
from rcnn.structures import VOID, Size

# Names and ids: cityscapesscripts/helpers/labels.py, first those with hasInstances and without ignoreInEval.
THINGS = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
STUFF = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
}  # fmt: skip
CLASS_NAMES = tuple(THINGS)
SEMANTIC_NAMES = (*THINGS, *STUFF)
SEMANTIC_IDS = (*THINGS.values(), *STUFF.values())
PER_CLASS = 1000
IMAGES, TRUTH = "leftImg8bit", "gtFine"
IMAGE_END = "_leftImg8bit.png"
NO_PICTURE = "Add it, or delete the image."


def find_split(path: Path, images: Path | None = None) -> Path | None:
    """The folder ``gtFine/<split>`` for a path, None if it is not Cityscapes.

    A path may be that folder, its counterpart below ``leftImg8bit``, or the root if it has only one split.
    With ``images``, ``leftImg8bit`` need not be there.

    Raises:
        ValueError: the root has several splits.
    """
    if path.parent.name in (IMAGES, TRUTH) and path.is_dir():
        root, splits = path.parents[1], [path.name]
    else:
        root = path
        folder = root / TRUTH
        splits = sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    if not splits or not (images or (root / IMAGES).is_dir()) or not (root / TRUTH).is_dir():
        return None
    if len(splits) > 1:
        names = ", ".join(str(root / TRUTH / split) for split in splits)
        raise ValueError(f"{root}: Cityscapes data with several splits; name one of them: {names}.")
    return root / TRUTH / splits[0]


def is_cityscapes(path: Path, images: Path | None = None) -> bool:
    """Whether a path is Cityscapes data; see :func:`find_split`."""
    return find_split(path, images) is not None


def read_cityscapes(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open ``gtFine/<split>``, or any path that :func:`find_split` accepts.

    Args:
        path: the folder.
        images: ``leftImg8bit`` or its folder of the split, if it is elsewhere.

    Raises:
        ValueError: it, or its counterpart below ``leftImg8bit``, is missing, there is no image, or there are
            several splits.
    """
    own = None if images is None else Path(images)
    truth = find_split(Path(path), own) or Path(path)
    pictures = (own or truth.parents[1] / IMAGES) / truth.name
    if own is not None and not pictures.is_dir():
        pictures = own
    files = sorted(pictures.glob(f"*/*{IMAGE_END}"))
    if not files or not truth.is_dir():
        raise ValueError(f"{pictures}: expected CITY/*{IMAGE_END} in it, and the annotations in {truth}.")
    stems = {path.name.removesuffix(IMAGE_END): path for path in files}
    builder = DatasetBuilder("cityscapes", truth)
    for label in sorted(truth.glob("*/*_gtFine_instanceIds.png")):
        if label.name.removesuffix("_gtFine_instanceIds.png") not in stems:
            builder.report("Its image is missing.", "Add it, or delete this file.", file=label)
    with reader_threads() as pool:
        for found in pool.map(partial(_read, truth), stems, stems.values()):
            if isinstance(found, Problem):
                builder.problems.append(found)
            else:
                builder.add(found)
    if any(picture.masks is not None for picture in builder.pictures):
        builder.declare_classes(CLASS_NAMES, list(THINGS.values()))
        builder.holds = frozenset({"crowd"})
    builder.semantic_names, builder.semantic_ids = SEMANTIC_NAMES, SEMANTIC_IDS
    return builder.build()


def read_classes(label: Path, size: Size) -> Numbers:
    """The semantic map, int64 ``[H, W]``, from ``instanceIds`` or ``labelIds`` of an image of ``size``."""
    numbers = read_label(label, size)
    classes = np.where(numbers >= PER_CLASS, numbers // PER_CLASS, numbers).clip(0, VOID)
    table = [VOID] * VOID
    for value, number in enumerate(SEMANTIC_IDS):
        table[number] = value
    return renumber(classes, table)


def _read(truth: Path, stem: str, path: Path) -> Picture | Problem:
    beside = truth / path.parent.name
    instances, classes = (beside / f"{stem}_gtFine_{kind}.png" for kind in ("instanceIds", "labelIds"))
    label = instances if instances.is_file() else classes
    if not label.is_file():
        return Problem(path, f"Its file {instances.name} is missing.", NO_PICTURE)
    size = measured(path)
    if isinstance(size, Problem):
        return size
    picture = Picture(path, size, stem, semantic=partial(read_classes, label, size))
    if label == classes:
        return picture
    try:
        numbers = read_label(label, size)
    except ImageError as error:
        return Problem(path, str(error), "Copy or create the file again.", label.name)
    values, windows = _objects(numbers)
    picture.annotations = _annotations(values, windows)
    picture.masks = partial(read_masks, label, values.tolist(), windows)
    return picture


def _objects(numbers: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers of objects and groups of the object classes, and their windows."""
    # Most of a street is stuff, which is removed before the pixels are sorted.
    values, windows = label_windows(np.where(numbers >= min(THINGS.values()), numbers, 0))
    classes = np.where(values >= PER_CLASS, values // PER_CLASS, values)
    wanted = np.isin(classes, list(THINGS.values()))
    return values[wanted], windows[wanted]


def _annotations(values: Numbers, windows: Numbers) -> list[Annotation]:
    classes = np.where(values >= PER_CLASS, values // PER_CLASS, values)
    ids = list(THINGS.values())
    found = annotations_of_windows(values, windows, [ids.index(number) for number in classes.tolist()])
    for annotation, value in zip(found, values.tolist(), strict=True):
        annotation.crowd = value < PER_CLASS
    return found
