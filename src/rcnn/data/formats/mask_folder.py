"""Mask folders, as in the 2018 Data Science Bowl: one folder per image, with one mask image per object.

    <id>/images/<one image>
    <id>/masks/<any name>.png     one object each, any non-zero pixel inside

There is one class, called ``object``. An object may have several parts and holes. An image without objects
has an empty ``masks`` folder.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.data.builder import Annotation, Bitmap, DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import Problem
from rcnn.io.images import ImageError, image_files, read_mask
from rcnn.structures import Size

CLASS_NAMES = ("object",)
MAX_COVERED = 0.5  # fraction of an object that others may cover before it is reported


def is_mask_folders(folder: Path) -> bool:
    """Whether a folder has subfolders with ``images`` and ``masks``."""
    return any((f.parent / "masks").is_dir() for f in folder.glob("*/images"))


def read_mask_folders(folder: str | Path) -> Dataset:
    """Open a folder of mask folders; every mask is read once and kept bit-packed.

    Raises:
        ValueError: no subfolder has ``images`` and ``masks``.
    """
    source = Path(folder)
    folders = sorted(f.parent for f in source.glob("*/images") if not f.parent.name.startswith("."))
    if not is_mask_folders(source):
        raise ValueError(f"{source}: expected folders <id>/ with images/ and masks/; found none.")
    builder = DatasetBuilder("mask folders", source, "outlines")
    builder.declare_classes(CLASS_NAMES)
    with ThreadPoolExecutor(2) as pool:
        for picture, problems in pool.map(_read, folders):
            builder.pictures += [] if picture is None else [picture]
            builder.problems += problems
    return builder.build()


def _read(folder: Path) -> tuple[Picture | None, list[Problem]]:
    """The image of one folder, None if it is unusable; and its problems."""
    images = image_files(folder / "images")
    if len(images) != 1:
        what = f"Expected one image in images/; found {len(images)}."
        return None, [Problem(folder, what, "Keep only the one that the masks belong to.")]
    path = images[0]
    if not (folder / "masks").is_dir():
        advice = "Annotate the image; an empty folder masks/ stands for an image without objects."
        return None, [Problem(path, "The folder masks/ is missing.", advice)]
    size = measured(path)
    if isinstance(size, Problem):
        return None, [size]
    problems: list[Problem] = []
    masks = _read_masks(path, folder / "masks", size, problems)
    problems += _overlaps(path, masks, size)
    found = [Annotation(mask.box, 0, name, mask) for name, mask in masks.items()]
    return Picture(path, size, folder.name, found), problems


def _read_masks(path: Path, folder: Path, size: Size, problems: list[Problem]) -> dict[str, Bitmap]:
    """The usable masks by file name."""
    masks = {}
    for file in image_files(folder):
        try:
            patch, origin, found = read_mask(file)
        except ImageError as error:
            what = str(error).removeprefix(f"{file}: ")
            problems.append(Problem(path, what, "Replace or delete the mask.", file.name))
            continue
        if found != size:
            what = f"The mask has {found[1]} by {found[0]} pixels, its image {size[1]} by {size[0]}."
            problems.append(Problem(path, what, "Redraw the mask or export it again.", file.name))
        elif patch.size == 0:
            what, advice = "The mask is empty.", "It was ignored; redraw or delete it."
            problems.append(Problem(path, what, advice, file.name, "warning"))
        else:
            masks[file.name] = Bitmap(patch, origin)
    return masks


def _overlaps(path: Path, masks: dict[str, Bitmap], size: Size) -> list[Problem]:
    """Report objects that are mostly covered by others."""
    depth = np.zeros(size, dtype=np.uint16)
    for mask in masks.values():
        x1, y1, x2, y2 = mask.window
        depth[y1:y2, x1:x2] += mask.pixels
    problems = []
    for name, mask in masks.items():
        x1, y1, x2, y2 = mask.window
        fraction = float((depth[y1:y2, x1:x2][mask.pixels] > 1).mean())
        if fraction > MAX_COVERED:
            what = f"{fraction:.0%} of the mask is also covered by other masks."
            advice = "It is used unchanged; delete it if the object is annotated twice."
            problems.append(Problem(path, what, advice, name, "warning"))
    return problems


class MaskFolderWriter(Writer):
    """One folder per image, with one mask image per object."""

    holds = frozenset({"outlines"})
    needs_outlines = True

    def image_path(self, name: str) -> Path:
        """In a folder named after the image."""
        return self.folder / Path(name).stem / "images" / name

    def write(self, item: Item) -> None:
        """Write the masks of one image."""
        item = self.with_outlines(item)
        folder = self.folder / item.image.stem / "masks"
        folder.mkdir(parents=True)
        if item.truth.masks is None:
            return
        self.note_boxes(item)
        for number in range(len(item.truth)):
            bitmap = item.truth.masks[number].astype(np.uint8) * 255
            Image.fromarray(bitmap).save(folder / f"{number + 1:05d}.png")

    def finish(self) -> None:
        """Note the lost class names."""
        self.note_classes()
