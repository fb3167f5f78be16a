"""Cityscapes: objects and semantic maps from ``gtFine``, by the classes of its own scripts.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png    (or only …_labelIds.png)

Convention:
    A pixel of ``instanceIds`` of 1000 or more is class ``id // 1000``, object ``id % 1000``: 26003 is a car.
    Below 1000 it is a class; one of a class with objects (``26``) is a group of them, here a crowd.

The eight classes of objects that Cityscapes evaluates and its nineteen semantic ones are read; the rest
(caravan, trailer, …) is void and no object, as in its evaluation. Without ``instanceIds`` there are semantic
maps only. The pictures are read once for the boxes and again when a sample is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.classes import renumber
from rcnn.data.dataset import Dataset, Problem, Record
from rcnn.data.formats.label_image import Numbers, label_windows, read_label, read_masks
from rcnn.io.images import ImageError, image_size
from rcnn.structures import VOID, Instances, Size

# Names and ids: cityscapesscripts/helpers/labels.py, those with hasInstances and without ignoreInEval first.
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
NO_PICTURE = "Put it there, or delete the image."


def find_split(path: Path) -> Path | None:
    """The folder ``gtFine/<split>`` that a path means, None if it is not Cityscapes.

    A path may be that folder, its twin below ``leftImg8bit``, or the root if it has one split only.

    Raises:
        ValueError: the root of several splits.
    """
    if path.parent.name in (IMAGES, TRUTH) and path.is_dir():
        root, splits = path.parents[1], [path.name]
    else:
        root = path
        folder = root / TRUTH
        splits = sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    if not splits or not (root / IMAGES).is_dir() or not (root / TRUTH).is_dir():
        return None
    if len(splits) > 1:
        names = ", ".join(str(root / TRUTH / split) for split in splits)
        raise ValueError(f"{root}: Cityscapes in several parts; name one of them: {names}.")
    return root / TRUTH / splits[0]


def read_cityscapes(split: str | Path) -> Dataset:
    """Open ``gtFine/<split>``.

    Raises:
        ValueError: it, or its twin below ``leftImg8bit``, is missing, or there is no image.
    """
    truth = Path(split)
    pictures = truth.parents[1] / IMAGES / truth.name
    images = sorted(pictures.glob(f"*/*{IMAGE_END}"))
    if not images or not truth.is_dir():
        raise ValueError(f"{pictures}: expected CITY/*{IMAGE_END} in it, and their truth in {truth}.")
    stems = {path.name.removesuffix(IMAGE_END): path for path in images}
    problems = [
        Problem(label, "Its image is missing.", "Put it there, or delete this.")
        for label in sorted(truth.glob("*/*_gtFine_instanceIds.png"))
        if label.name.removesuffix("_gtFine_instanceIds.png") not in stems
    ]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(_read, truth), stems, stems.values()))
    problems += [problem for _, problem in found if problem is not None]
    records = [record for record, _ in found if record is not None]
    class_names = CLASS_NAMES if any(record.masks is not None for record in records) else ()
    return Dataset(
        format="cityscapes",
        source=truth,
        class_names=class_names,
        records=records,
        problems=tuple(problems),
        category_ids=tuple(THINGS.values()) if class_names else (),
        semantic_names=SEMANTIC_NAMES,
        semantic_ids=SEMANTIC_IDS,
    )


def read_classes(label: Path, size: Size) -> Numbers:
    """The semantic map, int64 ``[H, W]``, of ``instanceIds`` or ``labelIds`` of an image of ``size``."""
    numbers = read_label(label, size)
    classes = np.where(numbers >= PER_CLASS, numbers // PER_CLASS, numbers).clip(0, VOID)
    table = [VOID] * VOID
    for value, number in enumerate(SEMANTIC_IDS):
        table[number] = value
    return renumber(classes, table)


def _read(truth: Path, stem: str, path: Path) -> tuple[Record | None, Problem | None]:
    beside = truth / path.parent.name
    instances, classes = (beside / f"{stem}_gtFine_{kind}.png" for kind in ("instanceIds", "labelIds"))
    label = instances if instances.is_file() else classes
    if not label.is_file():
        what = f"Its picture {instances.name} is missing."
        return None, Problem(path, what, NO_PICTURE)
    try:
        size = image_size(path)
    except ImageError as error:
        return None, Problem(path, str(error).removeprefix(f"{path}: "), "Replace the image.")
    semantic = partial(read_classes, label, size)
    if label == classes:
        empty = Instances.empty(size, semantic_names=SEMANTIC_NAMES, path=path)
        return Record(path, stem, empty, semantic=semantic), None
    try:
        numbers = read_label(label, size)
    except ImageError as error:
        return None, Problem(path, str(error), "Copy or make the picture anew.", label.name)
    values, windows = _objects(numbers)
    truths = _truth(values, windows, size, path)
    return Record(path, stem, truths, partial(read_masks, label, values.tolist(), windows), semantic), None


def _objects(numbers: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers of objects and groups of the classes of objects, and their windows."""
    # Most of a street is stuff: put aside before the pixels are sorted.
    values, windows = label_windows(np.where(numbers >= min(THINGS.values()), numbers, 0))
    classes = np.where(values >= PER_CLASS, values // PER_CLASS, values)
    wanted = np.isin(classes, list(THINGS.values()))
    return values[wanted], windows[wanted]


def _truth(values: Numbers, windows: Numbers, size: Size, path: Path) -> Instances:
    ids: Sequence[int] = list(THINGS.values())
    labels = [ids.index(v // PER_CLASS if v >= PER_CLASS else v) for v in values.tolist()]
    return Instances(
        size=size,
        boxes=windows.astype(np.float32),
        labels=np.array(labels, np.int64),
        crowd=values < PER_CLASS,
        class_names=CLASS_NAMES,
        semantic_names=SEMANTIC_NAMES,
        path=path,
    )
