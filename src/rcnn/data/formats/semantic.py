"""Semantic maps: images with label images whose pixels are class numbers; 255 is void.

    <folder>/classes.txt          one name per line; the first is value 0
    <folder>/images/<name>.jpg
    <folder>/labels/<name>.png    gray or palette

A label image has the name of its image, with any extension.
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
from rcnn.data.formats.label_image import NAMES_FILE, by_key
from rcnn.data.problems import shortened
from rcnn.io.atomic import read_lines
from rcnn.io.images import ImageError, image_files, read_numbers
from rcnn.structures import VOID, Size


def is_semantic_folder(folder: Path) -> bool:
    """Whether a folder has ``classes.txt``, ``images`` and images in ``labels``."""
    parts = (folder / "images", folder / "labels")
    return (
        (folder / NAMES_FILE).is_file()
        and all(part.is_dir() for part in parts)
        and bool(image_files(folder / "labels"))
    )


def read_semantic(folder: str | Path) -> Dataset:
    """Open a folder with ``classes.txt``, ``images`` and ``labels``; images without a label are skipped.

    Raises:
        ValueError: one of these is missing, or ``classes.txt`` is unusable.
    """
    source = Path(folder)
    if not is_semantic_folder(source):
        raise ValueError(f"{source}: expected {NAMES_FILE}, images/ and labels/ with label images.")
    builder = DatasetBuilder("semantic", source)
    builder.semantic_names = read_names(source / NAMES_FILE)
    images = by_key(image_files(source / "images"), (), "image", builder.problems)
    labels = by_key(image_files(source / "labels"), (), "label image", builder.problems)
    bare = [images[stem].name for stem in images if stem not in labels]
    if bare:
        what = f"{len(bare)} images have no label image: {shortened(bare)}."
        builder.warn(what, "They are skipped.", file=source / "labels")
    for stem in (stem for stem in labels if stem not in images):
        builder.report("Its image is missing.", "Add it to images/, or delete this file.", file=labels[stem])
    add_maps(builder, [(path, labels[stem]) for stem, path in images.items() if stem in labels])
    return builder.build()


def read_names(file: Path) -> tuple[str, ...]:
    """The names of the values 0, 1, …, one per line.

    Raises:
        ValueError: no names, a duplicate, or more names than values below void.
    """
    names = tuple(read_lines(file))
    twice = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    if twice or not all(names) or not 0 < len(names) <= VOID:
        found = f"{twice[0]!r} occurs twice" if twice else f"{len(names)} lines, or an empty one"
        raise ValueError(
            f"{file}: {found}; expected one name per line, 1 to {VOID} names, the first for value 0."
        )
    return names


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
