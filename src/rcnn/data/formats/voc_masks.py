"""Pascal VOC segmentation: objects from ``SegmentationObject``, classes from ``SegmentationClass``.

    ImageSets/Segmentation/train.txt    lists the images, which are in JPEGImages
    SegmentationObject/a.png            palette: 0 is background, each of 1, 2, … an object, 255 is void
    SegmentationClass/a.png             palette: the class of each pixel

Without ``ImageSets``, as labelme2voc writes it, the folder itself is opened, with all its images. The classes
are VOC's 21 unless the folder has its own ``classes.txt`` or ``class_names.txt``. The class of an object is
that of most of its pixels. In the semantic map, the classes of objects come first and the background last;
without ``SegmentationObject`` there are only maps, and the background comes first.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.classes import renumber
from rcnn.data.dataset import Dataset
from rcnn.data.formats.label_image import (
    NAMES_FILE,
    Numbers,
    annotations_of_windows,
    label_windows,
    masks_from_labels,
    read_label,
)
from rcnn.data.formats.label_pairs import pair_up
from rcnn.data.formats.semantic import add_maps, read_map, read_names
from rcnn.data.formats.voc import is_list_in, listed_names
from rcnn.data.problems import Problem
from rcnn.io.folders import is_file
from rcnn.io.images import ImageError, image_files
from rcnn.io.reading import reader_threads
from rcnn.structures import VOID, Masks, Size

NAMES_FILES = (NAMES_FILE, "class_names.txt")
LISTS = "ImageSets/Segmentation"
IMAGES, OBJECTS, CLASSES = "JPEGImages", "SegmentationObject", "SegmentationClass"
BACKGROUND = "background"
VOC_NAMES = (
    BACKGROUND, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def is_segmentation_list(path: Path) -> bool:
    """Whether a path names a list of ``ImageSets/Segmentation``."""
    return is_list_in(path, "Segmentation")


def is_segmentation_folder(path: Path, images: Path | None = None) -> bool:
    """Whether a folder has images and class images, but no list that selects some of them."""
    parts = (images or path / IMAGES, path / CLASSES)
    return all(part.is_dir() and image_files(part) for part in parts) and not (path / LISTS).is_dir()


def read_voc_masks(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the images of a list in ``ImageSets/Segmentation``, or of a folder without such lists.

    Objects come from ``SegmentationObject``; without that folder there are only semantic maps.

    Args:
        path: the list or the folder.
        images: the folder of the images, if it is not ``JPEGImages``.

    Raises:
        ValueError: no such list, or its folder lacks ``JPEGImages`` or ``SegmentationClass``.
    """
    path = Path(path)
    builder = DatasetBuilder("voc segmentation", path)
    folder = path if path.is_dir() else path.parents[2]
    pictures = folder / IMAGES if images is None else Path(images)
    if path.is_dir():
        if not is_segmentation_folder(path, pictures):
            raise ValueError(f"{path}: expected {IMAGES}/ and {CLASSES}/, or a list in {LISTS}/.")
        pairs = pair_up(image_files(pictures), image_files(path / CLASSES), path, builder.problems)
    else:
        pairs = _listed_pairs(builder, path, folder, pictures)
    names = next((folder / name for name in NAMES_FILES if (folder / name).is_file()), None)
    builder.semantic_names = VOC_NAMES if names is None else _without_marks(read_names(names))
    add_maps(builder, pairs)
    if (folder / OBJECTS).is_dir() and builder.semantic_names[:1] == (BACKGROUND,):
        _add_objects(builder, folder)
    return builder.build()


def _without_marks(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as labelme2voc numbers them: ``__ignore__`` is no class, ``_background_`` the value 0."""
    kept = names[1:] if names[0] == "__ignore__" else names
    return tuple(BACKGROUND if name == "_background_" else name for name in kept)


def _listed_pairs(
    builder: DatasetBuilder, listing: Path, folder: Path, pictures: Path
) -> list[tuple[Path, Path]]:
    """The images of a list, with their class images."""
    if not listing.is_file():
        known = ", ".join(sorted(f.stem for f in listing.parent.glob("*.txt"))) or "none"
        raise ValueError(f"{listing}: no such split; available: {known}.")
    for part in (pictures, folder / CLASSES):
        if not part.is_dir():
            raise ValueError(f"{folder}: expected {IMAGES}/ and {CLASSES}/; {part.name} is missing.")
    images = {file.stem: file for file in image_files(pictures)}
    pairs = []
    for stem, count in Counter(listed_names(listing, lambda name: name in images)).items():
        if count > 1:
            what = f"The image is listed {count} times."
            builder.warn(what, "It is used once; delete the others.", stem)
        label = folder / CLASSES / f"{stem}.png"
        there = {"image": stem in images, "label": is_file(label)}
        missing = [name for name, found in there.items() if not found]
        if missing:
            what = f"Its {' and its '.join(missing)} file is missing."
            builder.report(what, "Add it, or remove the image from the list.", file=label)
        else:
            pairs.append((images[stem], label))
    return pairs


def _add_objects(builder: DatasetBuilder, folder: Path) -> None:
    """Add the objects of all images; images with unusable label images are skipped."""
    names = builder.semantic_names[1:]
    builder.declare_classes(names)
    builder.semantic_names = (*names, BACKGROUND)
    pictures, builder.pictures = builder.pictures, []
    with reader_threads() as pool:
        found = pool.map(partial(_read_objects_of, folder, len(names)), pictures)
        for picture, problems in zip(pictures, found, strict=True):
            builder.problems += problems
            builder.pictures += [] if picture.masks is None else [picture]


def read_classes(label: Path, size: Size, count: int) -> Numbers:
    """The semantic map of ``count`` classes of objects, with the value ``count`` for the background."""
    return renumber(read_map(label, size, count + 1), [count, *range(count)])


def read_objects(label: Path, size: Size, values: list[int], windows: Numbers) -> Masks:
    """The masks of the objects with these numbers."""
    return masks_from_labels(read_label(label, size), values, windows)


def majority_labels(objects: Numbers, classes: Numbers, values: Numbers, windows: Numbers) -> list[int]:
    """The class of most pixels of each object, -1 if all are void.

    Args:
        objects: the number of the object of each pixel ``[H, W]``.
        classes: the class of each pixel, 255 for void.
        values: the numbers of the objects.
        windows: their tight windows, as :func:`label_windows` gives them.
    """
    labels = []
    for value, (x1, y1, x2, y2) in zip(values.tolist(), windows.tolist(), strict=True):
        inside = classes[y1:y2, x1:x2][objects[y1:y2, x1:x2] == value]
        counts = np.bincount(inside[inside != VOID], minlength=1)
        labels.append(int(counts.argmax()) if counts.any() else -1)
    return labels


def _read_objects_of(folder: Path, num_classes: int, picture: Picture) -> list[Problem]:
    """Add the objects of a picture, which gets no masks if they cannot be read; and return problems."""
    size, file = picture.size, f"{picture.path.stem}.png"
    try:
        objects = read_label(folder / OBJECTS / file, size)
        classes = read_map(folder / CLASSES / file, size, num_classes + 1)
    except ImageError as error:
        return [Problem(picture.path, str(error), "Fix the label image.", file)]
    values, windows = label_windows(np.where(objects == VOID, 0, objects))
    classes = np.where((classes == VOID) | (classes == 0), VOID, classes - 1)
    labels, problems = majority_labels(objects, classes, values, windows), []
    for value, label in zip(values.tolist(), labels, strict=True):
        if label < 0:
            what = f"The object {value} has no pixel of a class in {CLASSES}."
            problems.append(Problem(picture.path, what, "Correct one of the files.", f"{file}, {value}"))
    known = np.array(labels, dtype=np.int64) >= 0
    values, windows = values[known], windows[known]
    picture.annotations = annotations_of_windows(values, windows, [label for label in labels if label >= 0])
    picture.masks = partial(read_objects, folder / OBJECTS / file, size, values.tolist(), windows)
    picture.semantic = partial(read_classes, folder / CLASSES / file, size, num_classes)
    return problems
