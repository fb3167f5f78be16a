"""Connected components: each separate part of a label image is an object.

    images/a.png   masks/a.png      black and white: every white part is one object, of the class ``object``
                                    or class numbers: every part of a number is one object of that class

Recognised by itself for masks of foreground and background (:mod:`rcnn.data.formats.label_kinds`); maps of
classes are read so if the format is named. Gray between black and white, as at soft edges or in a JPEG, is
inside from half of the brightest value on. Objects that touch, also at a corner, are one. ``classes.txt``
names class numbers, its first line the number 0; 255 is void.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.builder import DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.label_image import (
    CLASS_NAMES,
    NAMES_FILE,
    annotations_of_windows,
    is_label_folder,
    label_windows,
    masks_from_labels,
)
from rcnn.data.formats.label_kinds import (
    BRIGHT,
    Numbers,
    background_problems,
    foreground_of,
    looks_like_background,
    read_gray,
)
from rcnn.data.formats.label_pairs import Pair, label_pairs, picture_ids
from rcnn.data.formats.semantic import read_names
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import ImageError
from rcnn.io.reading import reader_threads
from rcnn.structures import VOID, Masks, Size


@dataclass(frozen=True)
class _Found:
    """The components of one label image.

    Attributes:
        picture: the image, its objects labelled by their values as texts.
        is_soft: it has gray edges.
        is_inverted: the foreground covers most of the image and all its corners.
        is_foreground: it has one value besides 0, gray edges aside.
    """

    picture: Picture
    is_soft: bool
    is_inverted: bool
    is_foreground: bool


def read_components(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of images and label images, each separate part as an object.

    Raises:
        ValueError: there are no label images.
    """
    source = Path(folder)
    image_folder = None if images is None else Path(images)
    if not is_label_folder(source, image_folder):
        raise ValueError(
            f"{source}: expected images/ with masks/ or labels/, or pairs such as a.png, a_mask.png."
        )
    builder = DatasetBuilder("connected components", source)
    pairs = label_pairs(source, image_folder, builder.problems)
    found: list[_Found] = []
    with reader_threads() as pool:
        for result in pool.map(_read, pairs, picture_ids(pairs)):
            if isinstance(result, Problem):
                builder.problems.append(result)
            else:
                found.append(result)
                builder.add(result.picture)
    _name_classes(builder, found)
    _report(builder, found)
    return builder.build()


def component_numbers(gray: Numbers) -> tuple[Numbers, list[int]]:
    """A number for every separate part of a label image, and the value that each part has.

    Returns:
        int64 ``[H, W]``, 0 for the background and 1, 2, … by value; the values, one per part. Of a foreground
        mask the value is the largest one.
    """
    from scipy.ndimage import label

    inside = foreground_of(gray)
    if inside is not None:
        masks = {int(gray.max(initial=0)): inside}
    else:
        masks = {int(value): gray == value for value in np.unique(gray) if value not in (0, VOID)}
    numbers = np.zeros(gray.shape, np.int64)
    values: list[int] = []
    for value, mask in masks.items():
        numbered, count = label(mask, np.ones((3, 3), np.int8))
        numbers[mask] = numbered[mask] + len(values)
        values += [value] * int(count)
    return numbers, values


def read_component_masks(label: Path, windows: Numbers) -> Masks:
    """The masks of the parts of a label image, decoded again."""
    numbers, values = component_numbers(read_gray(label))
    return masks_from_labels(numbers, list(range(1, len(values) + 1)), windows)


def _read(pair: Pair, name: str) -> _Found | Problem:
    path, label = pair
    size = measured(path)
    if isinstance(size, Problem):
        return size
    try:
        gray = _gray_of(label, size)
    except ImageError as error:
        return Problem(path, str(error), "Fix the label image or export it again.", label.name)
    numbers, values = component_numbers(gray)
    indices, windows = label_windows(numbers)
    annotations = annotations_of_windows(indices, windows, [0] * len(indices))
    for annotation, value in zip(annotations, values, strict=True):
        annotation.label = str(value)
    picture = Picture(path, size, name, annotations, partial(read_component_masks, label, windows))
    inside = foreground_of(gray)
    soft = inside is not None and len(np.unique(gray)) > 2
    inverted = inside is not None and looks_like_background(inside)
    return _Found(picture, soft, inverted, inside is not None)


def _gray_of(label: Path, size: Size) -> Numbers:
    gray = read_gray(label)
    if gray.shape != size:
        height, width = gray.shape
        raise ImageError(f"{label}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    if gray.min(initial=0) < 0:
        raise ImageError(f"{label}: it has the number {gray.min()}; expected 0 and above.")
    return gray


def _name_classes(builder: DatasetBuilder, found: list[_Found]) -> None:
    """One class for foreground masks; otherwise a class for every value."""
    values = sorted({int(a.label) for item in found for a in item.picture.annotations})
    usual = all(value == 1 or value >= BRIGHT for value in values)
    single = all(item.is_foreground for item in found) and (len(values) < 2 or usual)
    if single:
        builder.declare_classes(CLASS_NAMES)
        builder.name_labels({str(value): CLASS_NAMES[0] for value in values})
        return
    names = read_names(builder.source / NAMES_FILE) if (builder.source / NAMES_FILE).is_file() else ()
    called = {value: names[value] if value < len(names) else str(value) for value in values}
    builder.declare_classes([called[value] for value in values])
    builder.name_labels({str(value): name for value, name in called.items()})


def _report(builder: DatasetBuilder, found: list[_Found]) -> None:
    """Say how the label images were read."""
    if not found:
        return
    foreground = all(item.is_foreground for item in found)
    why = "The label images only separate foreground from background." if foreground else "By format:"
    builder.warn(
        f"{why} Each separate part is one object.",
        "Objects that touch count as one: give each its own number to keep them apart. If a number is one "
        "object in several parts, use --format labels; if only the area matters, --format semantic.",
        "labels",
    )
    soft = [item.picture.path.name for item in found if item.is_soft]
    if soft:
        what = f"{len(soft)} label images have gray edges: {shortened(soft)}."
        builder.warn(what, "Pixels of at least half of the brightest value are inside.", "labels")
    names = [item.picture.path.name for item in found if item.is_inverted]
    builder.problems += background_problems(builder.source, names)
