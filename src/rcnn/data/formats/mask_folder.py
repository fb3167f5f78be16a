"""Mask folders, as in the 2018 Data Science Bowl: a folder an image, with a picture of each object's mask.

    <id>/images/<one image>
    <id>/masks/<any name>.png     one object each, any non-zero pixel inside

There is one class, called ``object``. An object may have several parts and holes. An image without objects
has an empty ``masks`` folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset, Problem, Record
from rcnn.io.images import ImageError, image_files, image_size, read_mask
from rcnn.structures import Instances, Masks, Size

CLASS_NAMES = ("object",)
MAX_COVERED = 0.5  # share of an object's area that others may cover before it is reported

Patch = npt.NDArray[np.bool_]
Window = tuple[int, int, int, int]


def read_mask_folders(folder: str | Path) -> Dataset:
    """Open a folder of such folders; every mask is read once and kept bit-packed.

    Raises:
        ValueError: no folder in it has ``images`` and ``masks``.
    """
    source = Path(folder)
    folders = sorted(f.parent for f in source.glob("*/images") if not f.parent.name.startswith("."))
    if not any((f / "masks").is_dir() for f in folders):
        raise ValueError(f"{source}: expected folders <id>/ with images/ and masks/ in them; found none.")
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(_read, folders))
    records = [record for record, _ in found if record is not None]
    problems = tuple(problem for _, listed in found for problem in listed)
    return Dataset("mask folders", source, CLASS_NAMES, records, problems)


def unpack(packed: npt.NDArray[np.uint8], windows: npt.NDArray[np.int64], size: Size) -> Masks:
    """Masks from the bits of their windows, one after the other."""
    count = int(((windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])).sum())
    pixels = np.unpackbits(packed, count=count)
    return Masks(pixels, windows, size)


def _read(folder: Path) -> tuple[Record | None, list[Problem]]:
    """One image's folder; no record where its image cannot be used at all."""
    images = image_files(folder / "images")
    if len(images) != 1:
        what = f"Expected one image in images/; found {len(images)}."
        return None, [Problem(folder, what, "Keep the one that the masks belong to.")]
    path = images[0]
    if not (folder / "masks").is_dir():
        advice = "Annotate the image; an empty folder masks/ says that it has no objects."
        return None, [Problem(path, "The folder masks/ is missing.", advice)]
    try:
        size = image_size(path)
    except ImageError as error:
        return None, [Problem(path, str(error).removeprefix(f"{path}: "), "Replace the image.")]
    problems: list[Problem] = []
    masks = _read_masks(path, folder / "masks", size, problems)
    problems += _overlaps(path, masks, size)
    return _record(path, folder.name, list(masks.values()), size), problems


def _read_masks(
    path: Path, folder: Path, size: Size, problems: list[Problem]
) -> dict[str, tuple[Patch, Window]]:
    """The masks that can be used, by file name: pixels and window."""
    masks = {}
    for file in image_files(folder):
        try:
            patch, (y, x), found = read_mask(file)
        except ImageError as error:
            what = str(error).removeprefix(f"{file}: ")
            problems.append(Problem(path, what, "Replace or delete the mask.", file.name))
            continue
        if found != size:
            what = f"The mask has {found[1]} by {found[0]} pixels, its image {size[1]} by {size[0]}."
            problems.append(Problem(path, what, "Draw or export the mask anew.", file.name))
        elif patch.size == 0:
            what, advice = "The mask is empty.", "It was left out; draw it anew or delete it."
            problems.append(Problem(path, what, advice, file.name, "warning"))
        else:
            masks[file.name] = patch, (x, y, x + patch.shape[1], y + patch.shape[0])
    return masks


def _overlaps(path: Path, masks: dict[str, tuple[Patch, Window]], size: Size) -> list[Problem]:
    """Objects that lie for the most part below others."""
    depth = np.zeros(size, dtype=np.uint16)
    for patch, (x1, y1, x2, y2) in masks.values():
        depth[y1:y2, x1:x2] += patch
    problems = []
    for name, (patch, (x1, y1, x2, y2)) in masks.items():
        fraction = float((depth[y1:y2, x1:x2][patch] > 1).mean())
        if fraction > MAX_COVERED:
            what = f"{fraction:.0%} of the mask is covered by other masks too."
            advice = "It is used as it is; delete it if the object is there twice."
            problems.append(Problem(path, what, advice, name, "warning"))
    return problems


def _record(path: Path, image_id: str, masks: Sequence[tuple[Patch, Window]], size: Size) -> Record:
    windows = np.array([window for _, window in masks], dtype=np.int64).reshape(-1, 4)
    bits = np.concatenate([np.zeros(0, dtype=np.bool_), *(patch.reshape(-1) for patch, _ in masks)])
    truth = Instances(
        size=size,
        boxes=windows.astype(np.float32),
        labels=np.zeros(len(masks), np.int64),
        class_names=CLASS_NAMES,
        path=path,
    )
    return Record(path, image_id, truth, partial(unpack, np.packbits(bits), windows, size))
