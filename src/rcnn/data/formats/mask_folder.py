"""Mask folders: one mask image per object, as in the 2018 Data Science Bowl.

    <id>/images/<one image>
    <id>/masks/<any name>.png     one object each, any non-zero pixel inside

or the masks of all images in one folder (:mod:`rcnn.data.formats.mask_files`). There is one class, called
``object``. An object may have several parts and holes. An image without objects has an empty ``masks``
folder.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.data.builder import Annotation, Bitmap, DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.contents import head
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.label_kinds import background_problems, looks_like_background
from rcnn.data.formats.mask_files import MaskFiles, find_mask_files, has_mask_files
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import Problem
from rcnn.io.images import ImageError, read_mask, visible_files
from rcnn.io.reading import reader_threads
from rcnn.structures import Size

CLASS_NAMES = ("object",)
MAX_COVERED = 0.5  # fraction of an object that others may cover before it is reported


def read_mask_folders(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of images and mask files; every mask is read once and kept bit-packed.

    Args:
        folder: the folder of both.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: there are no images with masks.
    """
    source = Path(folder)
    image_folder = None if images is None else Path(images)
    if not has_mask_files(source, image_folder):
        raise ValueError(
            f"{source}: expected folders <id>/ with images/ and masks/, or images/a.png with masks/a_0.png "
            "or masks/a/0.png; found none."
        )
    builder = DatasetBuilder("mask folders", source, "outlines")
    builder.declare_classes(CLASS_NAMES)
    found = find_mask_files(source, image_folder, builder.problems)
    tables = [file for place in (source, *subfolders(source)) for file in visible_files(place, "*.csv")]
    if classes := [file.name for file in tables if head(file).startswith("MaskPath,")]:
        what = f"{classes[0]} has the classes of the masks, as Open Images writes them."
        builder.warn(what, "They are not read: every mask is of the class object.", "classes")
    backgrounds = []
    with reader_threads() as pool:
        for picture, problems in pool.map(_read, found):
            builder.pictures += [] if picture is None else [picture]
            builder.problems += problems
            if picture is not None and any(map(partial(_is_background, picture.size), picture.annotations)):
                backgrounds.append(picture.path.name)
    builder.problems += background_problems(source, backgrounds)
    return builder.build()


def _is_background(size: Size, annotation: Annotation) -> bool:
    mask = annotation.outline
    assert isinstance(mask, Bitmap)
    return mask.pixels.shape == size and looks_like_background(mask.pixels)


def _read(files: MaskFiles) -> tuple[Picture | None, list[Problem]]:
    """One image, None if it is unusable; and its problems."""
    size = measured(files.image)
    if isinstance(size, Problem):
        return None, [size]
    problems: list[Problem] = []
    masks = _read_masks(files, size, problems)
    problems += _overlaps(files.image, masks, size)
    found = [Annotation(mask.box, 0, name, mask) for name, mask in masks.items()]
    return Picture(files.image, size, files.name, found), problems


def _read_masks(files: MaskFiles, size: Size, problems: list[Problem]) -> dict[str, Bitmap]:
    """The usable masks by file name."""
    path, masks = files.image, {}
    for file in files.masks:
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
    """One folder per image, with one mask image per object, named after the object's number."""

    holds = frozenset({"outlines"})
    needs_outlines = True

    def image_path(self, name: str) -> Path:
        """In a folder named after the image."""
        return self.folder / Path(name).stem / "images" / name

    def write(self, item: Item) -> None:
        """Write the masks of one image."""
        item = self.with_outlines(item)
        folder = self.folder / item.image.stem / "masks"
        folder.mkdir(parents=True, exist_ok=True)
        if item.truth.masks is None:
            return
        self.note_boxes(item)
        for index, number in enumerate(item.numbers):
            bitmap = item.truth.masks[index].astype(np.uint8) * 255
            Image.fromarray(bitmap).save(folder / f"{number:05d}.png")

    def finish(self) -> None:
        """Note the lost class names."""
        self.note_classes()
