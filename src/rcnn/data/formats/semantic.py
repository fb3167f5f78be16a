"""Semantic maps: an image beside a picture whose pixels are the numbers of classes; 255 is void.

    <folder>/classes.txt          a name a line; the first is value 0
    <folder>/images/<name>.jpg
    <folder>/labels/<name>.png    gray or palette

and Pascal VOC's segmentation, by a list in ``ImageSets/Segmentation``: images in ``JPEGImages``, palette
pictures in ``SegmentationClass``, VOC's 21 names unless the folder has a ``classes.txt`` of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, Problem, Record, shortened
from rcnn.data.formats.label_image import NAMES_FILE, by_key
from rcnn.data.formats.voc import listed_names
from rcnn.io.atomic import read_lines
from rcnn.io.images import ImageError, image_files, image_size, read_numbers
from rcnn.structures import VOID, Instances, Size

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


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
    names = read_names(source / NAMES_FILE)
    problems: list[Problem] = []
    images = by_key(image_files(source / "images"), (), "image", problems)
    labels = by_key(image_files(source / "labels"), (), "label picture", problems)
    bare = [images[stem].name for stem in images if stem not in labels]
    if bare:
        what = f"{len(bare)} images have no label picture: {shortened(bare)}."
        problems.append(Problem(source / "labels", what, "They are left out.", severity="warning"))
    for stem in (stem for stem in labels if stem not in images):
        problems.append(Problem(labels[stem], "Its image is missing.", "Put it into images/, or delete it."))
    pairs = [(path, labels[stem]) for stem, path in images.items() if stem in labels]
    return _dataset("semantic", source, names, pairs, problems)


def read_voc_segmentation(listing: str | Path) -> Dataset:
    """Open the images that a list in VOC's ``ImageSets/Segmentation`` names.

    Raises:
        ValueError: no such list, or its folder lacks ``JPEGImages`` or ``SegmentationClass``.
    """
    listing = Path(listing)
    source = listing.parents[2]
    if not listing.is_file():
        known = ", ".join(sorted(f.stem for f in listing.parent.glob("*.txt"))) or "none"
        raise ValueError(f"{listing}: there is no such split; available: {known}.")
    for part in ("JPEGImages", "SegmentationClass"):
        if not (source / part).is_dir():
            raise ValueError(
                f"{source}: expected JPEGImages/ and SegmentationClass/ in it; {part} is missing."
            )
    own = source / NAMES_FILE
    images = {file.stem: file for file in image_files(source / "JPEGImages")}
    stems = listed_names(listing, lambda name: name in images)
    problems, pairs = [], []
    for stem, count in Counter(stems).items():
        if count > 1:
            what = f"The image is listed {count} times."
            problems.append(Problem(listing, what, "It is used once; delete the others.", stem, "warning"))
        label = source / "SegmentationClass" / f"{stem}.png"
        missing = [
            name for name, there in (("image", stem in images), ("label", label.is_file())) if not there
        ]
        if missing:
            what = f"Its {' and its '.join(missing)} picture is missing."
            problems.append(Problem(label, what, "Put it there, or take it off the list."))
        else:
            pairs.append((images[stem], label))
    names = read_names(own) if own.is_file() else VOC_NAMES
    return _dataset("voc segmentation", listing, names, pairs, problems)


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


def _dataset(
    kind: str,
    source: Path,
    names: tuple[str, ...],
    pairs: Sequence[tuple[Path, Path]],
    problems: list[Problem],
) -> Dataset:
    records = []
    for path, label in pairs:
        try:
            size = image_size(path)
        except ImageError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path}: "), "Replace the image."))
            continue
        truth = Instances.empty(size, semantic_names=names, path=path)
        records.append(Record(path, path.stem, truth, semantic=partial(read_map, label, size, len(names))))
    return Dataset(kind, source, (), records, tuple(problems), semantic_names=names)
