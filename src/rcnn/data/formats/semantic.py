"""Semantic maps: images with label images whose pixels are class numbers; 255 is void.

    <folder>/classes.txt          one name per line; the first is value 0
    <folder>/images/<name>.jpg
    <folder>/labels/<name>.png    gray or palette

    <folder>/_classes.csv         Roboflow's: Pixel Value, Class; then a line for each
    <folder>/<name>.jpg           with <name>_mask.png

The folders and label images may also be called as :mod:`rcnn.data.formats.label_pairs` has them. Without
``classes.txt``, which is read so only if the format is named, the classes are called by their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import DatasetBuilder
from rcnn.data.dataset import Dataset
from rcnn.data.formats.contents import first_row, read_table
from rcnn.data.formats.label_image import NAMES_FILE, is_label_folder, meaning_of_folder
from rcnn.data.formats.label_pairs import label_pairs, label_sides
from rcnn.io.atomic import read_lines
from rcnn.io.images import ImageError, read_numbers
from rcnn.structures import VOID, Size

VALUES_FILE = "_classes.csv"  # of Roboflow


def is_semantic_folder(folder: Path, images: Path | None = None) -> bool:
    """Whether a folder has ``classes.txt`` and label images: in ``labels``, or with numbers like classes'."""
    if not is_label_folder(folder, images):
        return False
    if _is_table_of_values(folder / VALUES_FILE):
        return True
    if not (folder / NAMES_FILE).is_file():
        return False
    sides = label_sides(folder, images)
    named = sides is not None and sides.annotations.name.lower() == "labels"
    return named or meaning_of_folder(folder, images).kind == "classes"


def _is_table_of_values(file: Path) -> bool:
    return [cell.casefold() for cell in first_row(file)] == ["pixel value", "class"]


def read_semantic(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of images and maps; images without a map are skipped.

    Args:
        folder: the folder of both.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: there are no maps, or ``classes.txt`` is unusable.
    """
    source = Path(folder)
    image_folder = None if images is None else Path(images)
    if not is_label_folder(source, image_folder):
        raise ValueError(f"{source}: expected {NAMES_FILE}, images/ and labels/ with label images.")
    builder = DatasetBuilder("semantic", source)
    pairs = label_pairs(source, image_folder, builder.problems)
    names = next((f for f in _names_files(source) if f.is_file()), None)
    if names is None:
        builder.semantic_names = _names_of_values(builder, [label for _, label in pairs])
    else:
        builder.semantic_names = read_names(names)
    add_maps(builder, pairs)
    return builder.build()


def _names_files(source: Path) -> list[Path]:
    sides = label_sides(source)
    folders = [source] if sides is None else [source, sides.annotations, sides.annotations.parent]
    values = [source / VALUES_FILE] if _is_table_of_values(source / VALUES_FILE) else []
    return [*(folder / NAMES_FILE for folder in folders), *values]


def _names_of_values(builder: DatasetBuilder, labels: Sequence[Path]) -> tuple[str, ...]:
    """Names for the values 0 to the largest one besides void."""
    largest = 0
    for label in labels:
        try:
            numbers = read_numbers(label)
        except ImageError:  # reported with its image
            continue
        largest = max(largest, int(numbers[numbers != VOID].max(initial=0)))
    if largest >= VOID:
        raise ValueError(
            f"{builder.source}: the label images have values up to {largest}; classes are below 255."
        )
    what = f"There is no {NAMES_FILE}; the classes are called by their values."
    builder.warn(what, "Add it, with one name per line, the first for value 0.", "labels")
    return tuple(f"class {value}" for value in range(largest + 1))


def read_names(file: Path) -> tuple[str, ...]:
    """The names of the values 0, 1, …, one per line.

    Raises:
        ValueError: no names, a duplicate, or more names than values below void.
    """
    names = _names_by_values(file) if file.name == VALUES_FILE else tuple(read_lines(file))
    twice = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    if twice or not all(names) or not 0 < len(names) <= VOID:
        found = f"{twice[0]!r} occurs twice" if twice else f"{len(names)} lines, or an empty one"
        raise ValueError(
            f"{file}: {found}; expected one name per line, 1 to {VOID} names, the first for value 0."
        )
    return names


def _names_by_values(file: Path) -> tuple[str, ...]:
    """The names in a table of values and classes."""
    rows = [row.values for row in read_table(file)[1:]]
    named = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
    return tuple(named.get(value, f"class {value}") for value in range(max(named, default=-1) + 1))


def read_map(path: Path, size: Size, num_classes: int) -> npt.NDArray[np.int64]:
    """The classes of the pixels of an image of ``size``, int64 ``[H, W]``.

    Raises:
        ImageError: the file is unusable, has another size, or values that are neither a class nor void.
    """
    numbers = read_numbers(path)
    if numbers.shape != size:
        height, width = numbers.shape
        raise ImageError(f"{path}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    values = np.unique(numbers)
    foreign = values[((values < 0) | (values >= num_classes)) & (values != VOID)].tolist()
    if foreign:
        shown = ", ".join(map(str, foreign[:8]))
        raise ImageError(
            f"{path}: the values {shown} are outside the class list: expected 0 to {num_classes - 1}, or "
            f"{VOID} for void."
        )
    return numbers


def add_maps(builder: DatasetBuilder, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Add images with their label images, whose values index the builder's ``semantic_names``."""
    for path, label in pairs:
        picture = builder.add_file(path, path.stem)
        if picture is not None:
            picture.semantic = partial(read_map, label, picture.size, len(builder.semantic_names))
