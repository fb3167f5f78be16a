"""Semantic maps: an image beside a picture whose pixels are the numbers of classes; 255 is void.

<folder>/classes.txt          a name a line; the first is value 0
<folder>/images/<name>.jpg
<folder>/labels/<name>.png    gray or palette
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
    """Whether a folder has ``classes.txt``, ``images`` and pictures in ``labels``."""
    parts = (folder / "images", folder / "labels")
    return (
        (folder / NAMES_FILE).is_file()
        and all(part.is_dir() for part in parts)
        and bool(image_files(folder / "labels"))
    )


def read_semantic(folder: str | Path) -> Dataset:
    """Open a folder with ``classes.txt``, ``images`` and ``labels``; an image without label is left out.

    Raises:
        ValueError: a part is missing, or ``classes.txt`` cannot be used.
    """
    source = Path(folder)
    if not is_semantic_folder(source):
        raise ValueError(f"{source}: expected {NAMES_FILE}, images/ and labels/ with pictures in it.")
    builder = DatasetBuilder("semantic", source)
    builder.semantic_names = read_names(source / NAMES_FILE)
    images = by_key(image_files(source / "images"), (), "image", builder.problems)
    labels = by_key(image_files(source / "labels"), (), "label picture", builder.problems)
    bare = [images[stem].name for stem in images if stem not in labels]
    if bare:
        what = f"{len(bare)} images have no label picture: {shortened(bare)}."
        builder.warn(what, "They are left out.", file=source / "labels")
    for stem in (stem for stem in labels if stem not in images):
        builder.report("Its image is missing.", "Put it into images/, or delete it.", file=labels[stem])
    add_maps(builder, [(path, labels[stem]) for stem, path in images.items() if stem in labels])
    return builder.build()


def read_names(file: Path) -> tuple[str, ...]:
    """The names of the values 0, 1, …, a line each.

    Raises:
        ValueError: no name, one twice, or more than there are values below void.
    """
    names = tuple(read_lines(file))
    twice = [name for name, count in Counter(name.casefold() for name in names).items() if count > 1]
    if twice or not all(names) or not 0 < len(names) <= VOID:
        found = f"{twice[0]!r} is there twice" if twice else f"{len(names)} lines, or an empty one"
        raise ValueError(
            f"{file}: {found}; expected a name a line, 1 to {VOID} of them, the first of value 0."
        )
    return names


def read_map(path: Path, size: Size, num_classes: int) -> npt.NDArray[np.int64]:
    """The classes of the pixels of an image of ``size``, int64 ``[H, W]``.

    Raises:
        ImageError: not such a picture, another size, or values that are neither a class nor void.
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
    """Images with their label pictures, whose values index the builder's ``semantic_names``."""
    for path, label in pairs:
        picture = builder.add_file(path, path.stem)
        if picture is not None:
            picture.semantic = partial(read_map, label, picture.size, len(builder.semantic_names))
