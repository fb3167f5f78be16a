"""Cellpose's own files, ``a_seg.npy`` next to ``a.tif``: a pickled dictionary with the masks.

``masks`` holds the number of an object for each pixel, 0 for the background. The file is read without running
any code that it names (:mod:`rcnn.io.pickles`). A file with an array of integers alone is read as
these numbers.
"""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.image_index import ImageIndex
from rcnn.data.formats.label_image import (
    CLASS_NAMES,
    annotations_of_windows,
    label_windows,
    masks_from_labels,
)
from rcnn.data.problems import Problem, shortened
from rcnn.io.arrays import array_header, array_of
from rcnn.io.images import image_files, visible_files
from rcnn.io.pickles import WITH_OBJECTS, read_arrays
from rcnn.structures import Masks

MARK = "_seg"
EXPORTED = ("_cp_masks", "_masks")  # masks that Cellpose has saved as images
FAULTS = (
    pickle.UnpicklingError, OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, EOFError,
    ImportError, UnicodeDecodeError, MemoryError,
)  # fmt: skip
Numbers = npt.NDArray[np.int64]


def is_cellpose(path: Path, images: Path | None = None) -> bool:
    """Whether a path is a file of Cellpose, or a folder with some whose masks are not images as well."""
    files = _files(path)
    if path.is_dir():
        stems = {file.stem for file in image_files(path)}
        names = [file.stem.removesuffix(MARK) for file in files]
        files = [
            f for f, n in zip(files, names, strict=True) if not any(n + end in stems for end in EXPORTED)
        ]
    return bool(files)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return visible_files(path, f"*{MARK}.npy")
    return [path] if path.name.endswith(f"{MARK}.npy") and path.is_file() else []


def read_cellpose(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open Cellpose's files.

    Args:
        path: a file, or the folder that contains them.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or none of the images is found.
    """
    source = Path(path)
    files = _files(source)
    if not files:
        raise ValueError(f"{source}: expected Cellpose's files *{MARK}.npy; found none.")
    builder = DatasetBuilder("cellpose", source)
    builder.declare_classes(CLASS_NAMES)
    index = ImageIndex(source, images)
    found = {file: index.find(file.name.removesuffix(f"{MARK}.npy")) for file in files}
    missing = [file.name for file, image in found.items() if image is None]
    if len(missing) == len(files):
        raise ValueError(
            f"{source}: none of the images of its {len(files)} files was found, for example of {missing[0]}. "
            f"Searched {index.searched}. Name the image folder (--images, or images=…)."
        )
    if missing:
        what = f"The images of {len(missing)} of {len(files)} files are missing: {shortened(missing)}."
        builder.report(what, "Add them, or skip them with --skip-bad.", "images")
    for file, image in found.items():
        if image is not None:
            _read_file(builder, file, image)
    bare = [f.name for f in image_files(files[0].parent) if f not in found.values()]
    if bare:
        what = f"{len(bare)} images have no file of Cellpose: {shortened(bare)}."
        builder.warn(what, "They are skipped.", "images")
    return builder.build()


def _read_file(builder: DatasetBuilder, file: Path, image: Path) -> None:
    size = measured(image, file.name)
    if isinstance(size, Problem):
        builder.problems.append(size)
        return
    try:
        numbers = read_numbers_of(file)
        if numbers.shape != size:
            height, width = numbers.shape
            raise ValueError(f"its masks have {width} by {height} pixels, the image {size[1]} by {size[0]}")
    except FAULTS as error:
        reason = str(error) or type(error).__name__
        advice = "Save the masks as PNG or TIFF in Cellpose (File, Save masks)."
        builder.report(f"The file of Cellpose cannot be used: {reason}.", advice, file.name, file=image)
        return
    values, windows = label_windows(numbers)
    picture = Picture(image, size, image.stem, annotations_of_windows(values, windows, [0] * len(values)))
    picture.masks = partial(_masks, file, values.tolist(), windows)
    builder.add(picture)


def _masks(file: Path, values: list[int], windows: Numbers) -> Masks:
    return masks_from_labels(read_numbers_of(file), values, windows)


def read_numbers_of(file: Path) -> Numbers:
    """The number of the object that each pixel belongs to, int64 ``[H, W]``.

    Raises:
        ValueError: there are none, or they are of a stack. Damaged files raise others of ``FAULTS``.
    """
    content = _content(file)
    masks = content.get("masks") if isinstance(content, dict) else content
    if masks is content and getattr(masks, "dtype", np.dtype(int)).kind == "f":
        raise ValueError("it is no dictionary of Cellpose, but an array of fractions")
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "biuf":
        raise ValueError("it has no masks")
    masks = np.squeeze(np.asarray(masks)) if masks.ndim > 2 else np.asarray(masks)
    if masks.ndim != 2:
        raise ValueError(f"its masks have the shape {list(masks.shape)}, expected [height, width]")
    numbers = masks.astype(np.int64)
    if masks.dtype.kind == "f" and not np.array_equal(numbers, masks):
        raise ValueError("its masks are fractions, expected the numbers of objects")
    if numbers.min(initial=0) < 0:
        raise ValueError("its masks have negative numbers")
    return numbers


def _content(file: Path) -> Any:
    """What a file of ``numpy.save`` holds: an array of numbers, or the one object of a pickle."""
    with file.open("rb") as opened:
        _, _, kind = array_header(opened)
        if not kind.hasobject:
            return array_of(file.read_bytes())
        content = read_arrays(opened, kinds=WITH_OBJECTS)
    return content.item() if isinstance(content, np.ndarray) and content.size == 1 else content
