"""Pascal VOC's instance segmentation: objects of ``SegmentationObject``, classes of ``SegmentationClass``.

    ImageSets/Segmentation/train.txt    names the images
    SegmentationObject/a.png            palette: 0 background, 1, 2, … an object each, 255 void
    SegmentationClass/a.png             palette: the class of each pixel

An object's class is the one that most of its pixels have. The semantic map comes along, the classes of
objects first and the background last.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.classes import renumber
from rcnn.data.dataset import Dataset, Problem, Record
from rcnn.data.formats.label_image import Numbers, label_windows, masks_from_labels, read_label
from rcnn.data.formats.semantic import read_map, read_voc_segmentation
from rcnn.io.images import ImageError
from rcnn.structures import VOID, Instances, Masks, Size

OBJECTS, CLASSES = "SegmentationObject", "SegmentationClass"


def read_voc_masks(listing: str | Path) -> Dataset:
    """Open the images of a list in ``ImageSets/Segmentation``, with objects where ``SegmentationObject`` is.

    Without that folder there are semantic maps only
    (:func:`rcnn.data.formats.semantic.read_voc_segmentation`).

    Raises:
        ValueError: no such list, or its folders are missing.
    """
    listing = Path(listing)
    plain = read_voc_segmentation(listing)
    folder = listing.parents[2]
    if not (folder / OBJECTS).is_dir() or plain.semantic_names[:1] != ("background",):
        return plain
    class_names = plain.semantic_names[1:]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(_read, folder, class_names), plain.records))
    return replace(
        plain,
        class_names=class_names,
        semantic_names=(*class_names, "background"),
        records=[record for record, _ in found if record is not None],
        problems=(*plain.problems, *(problem for _, problems in found for problem in problems)),
    )


def read_classes(label: Path, size: Size, count: int) -> Numbers:
    """The semantic map of ``count`` classes of objects, the background's value being ``count``."""
    return renumber(read_map(label, size, count + 1), [count, *range(count)])


def read_objects(label: Path, size: Size, values: list[int], windows: Numbers) -> Masks:
    """The masks of the objects of these numbers."""
    return masks_from_labels(read_label(label, size), values, windows)


def _read(folder: Path, names: tuple[str, ...], record: Record) -> tuple[Record | None, list[Problem]]:
    """A record with its objects; none where they cannot be read."""
    size, file = record.truth.size, f"{record.path.stem}.png"
    try:
        objects = read_label(folder / OBJECTS / file, size)
        classes = read_map(folder / CLASSES / file, size, len(names) + 1)
    except ImageError as error:
        return None, [Problem(record.path, str(error), "Mend the picture.", file)]
    values, windows = label_windows(np.where(objects == VOID, 0, objects))
    labels, problems = [], []
    for value, (x1, y1, x2, y2) in zip(values.tolist(), windows.tolist(), strict=True):
        inside = classes[y1:y2, x1:x2][objects[y1:y2, x1:x2] == value]
        counts = np.bincount(inside[(inside != VOID) & (inside > 0)], minlength=1)
        labels.append(int(counts.argmax()) - 1)
        if labels[-1] < 0:
            what = f"The object {value} has no pixel of a class in {CLASSES}."
            problems.append(Problem(record.path, what, "Correct one of the pictures.", f"{file}, {value}"))
    known = np.array(labels, dtype=np.int64) >= 0
    truth = Instances(
        size=size,
        boxes=windows[known].astype(np.float32),
        labels=np.array(labels, np.int64)[known],
        class_names=names,
        semantic_names=(*names, "background"),
        path=record.path,
    )
    masks = partial(read_objects, folder / OBJECTS / file, size, values[known].tolist(), windows[known])
    semantic = partial(read_classes, folder / CLASSES / file, size, len(names))
    return replace(record, truth=truth, masks=masks, semantic=semantic), problems
