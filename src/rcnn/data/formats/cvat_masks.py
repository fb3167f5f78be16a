"""CVAT's export "Segmentation mask 1.1": Pascal VOC's folders with masks in the colours of a label map.

    labelmap.txt                cat:250,50,83::
    ImageSets/Segmentation/default.txt
    JPEGImages/a.jpg            if the images were exported, too
    SegmentationClass/a.png     a colour per class
    SegmentationObject/a.png    a colour per object

The class of an object is that of most of its pixels. In the semantic map, the background comes last.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.builder import DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.colours import Numbers, colour_numbers, read_colours
from rcnn.data.formats.contents import read_text
from rcnn.data.formats.folders import images_below
from rcnn.data.formats.label_image import annotations_of_windows, label_windows, masks_from_labels
from rcnn.data.formats.lookup import absolute, refuse_outside
from rcnn.data.formats.voc import is_list_in
from rcnn.data.formats.voc_masks import BACKGROUND, CLASSES, IMAGES, OBJECTS, majority_labels
from rcnn.data.problems import Problem, shortened
from rcnn.io.atomic import read_lines
from rcnn.io.images import ImageError
from rcnn.io.reading import reader_threads
from rcnn.structures import VOID, Masks, Size

LABELMAP = "labelmap.txt"


def is_cvat_masks(path: Path, images: Path | None = None) -> bool:
    """Whether a path is such a folder, or one of its lists."""
    folder = path.parents[2] if is_list_in(path, "Segmentation") else path
    return (folder / LABELMAP).is_file() and (folder / CLASSES).is_dir()


def read_cvat_masks(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open an export of masks from CVAT.

    Args:
        path: the folder, or one of the lists in ``ImageSets/Segmentation``.
        images: the image folder, if the images were not exported.

    Raises:
        ValueError: the folder lacks something, or has several lists.
    """
    source = Path(path)
    folder = source.parents[2] if is_list_in(source, "Segmentation") else source
    if not is_cvat_masks(source):
        raise ValueError(f"{source}: expected {LABELMAP} and {CLASSES}/ of CVAT's export of masks.")
    names, codes = _label_map(folder / LABELMAP)
    builder = DatasetBuilder("cvat masks", source)
    builder.declare_classes(names)
    builder.semantic_names = (*names, BACKGROUND)
    stems = _listed(source, folder)
    pictures = {file.stem: file for file in images_below(_image_folder(folder, images))}
    missing = [stem for stem in stems if Path(stem).name not in pictures]
    if missing:
        what = f"{len(missing)} of {len(stems)} images are missing: {shortened(missing)}."
        builder.report(what, "Add them, or skip them with --skip-bad.", "images")
    kept = [(stem, pictures[Path(stem).name]) for stem in stems if stem not in missing]
    added = [(stem, builder.add_file(file, Path(stem).name)) for stem, file in kept]
    known = [(stem, picture) for stem, picture in added if picture is not None]
    with reader_threads() as pool:
        found = pool.map(lambda pair: _read(folder, codes, *pair), known)
        builder.problems += [problem for problems in found for problem in problems]
    builder.pictures = [picture for picture in builder.pictures if picture.masks is not None]
    return builder.build()


def _image_folder(folder: Path, images: str | Path | None) -> Path:
    if images is not None:
        return Path(images)
    if not (folder / IMAGES).is_dir():
        raise ValueError(
            f"{folder}: there is no {IMAGES}/. Export the images, too (Save images), or name their folder "
            "(--images, or images=…)."
        )
    return folder / IMAGES


def _listed(source: Path, folder: Path) -> list[str]:
    """The names of the images without extension, as listed, otherwise of all masks."""
    lists = [source] if source != folder else sorted((folder / "ImageSets" / "Segmentation").glob("*.txt"))
    if len(lists) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in lists)
        raise ValueError(f"{folder}: it has several lists; name one of them: {names}.")
    if lists:
        listed = list(dict.fromkeys(line for line in read_lines(lists[0]) if line))
        for name in listed:
            refuse_outside(lists[0], folder / CLASSES / f"{name}.png", [absolute(folder)])
        return listed
    masks = images_below(folder / CLASSES)
    return [str(file.relative_to(folder / CLASSES).with_suffix("")) for file in masks]


def _label_map(file: Path) -> tuple[list[str], Numbers]:
    """The classes without the background, and the numbers of their colours."""
    names, colours = [], []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        cells = line.strip().split(":")
        if not line.strip() or line.startswith("#"):
            continue
        words = cells[1].split(",") if len(cells) > 1 else []
        if len(words) != 3 or not all(word.strip().isdigit() and int(word) < 256 for word in words):
            raise ValueError(f"{file}, line {number}: expected label:red,green,blue; found {line[:40]!r}.")
        if any(map(int, words)):
            names.append(cells[0])
            colours.append([int(word) for word in words])
    if not names or len({tuple(colour) for colour in colours}) < len(colours):
        raise ValueError(f"{file}: expected classes with a colour each.")
    return names, colour_numbers(np.array(colours))


def read_class_colours(file: Path, size: Size, codes: Numbers) -> Numbers:
    """The index in ``codes`` of the colour of each pixel ``[H, W]``, or their number for black.

    Raises:
        ImageError: the file is unusable, of another size, or has other colours.
    """
    numbers = _sized(file, size)
    order = np.argsort(codes)
    place = np.searchsorted(codes[order], numbers).clip(max=len(codes) - 1)
    index: Numbers = order[place]
    strange = (codes[index] != numbers) & (numbers != 0)
    if strange.any():
        code = int(numbers[strange][0])
        colour = f"{code >> 16},{code >> 8 & 255},{code & 255}"
        raise ImageError(f"{file}: {int(strange.sum())} pixels have the colour {colour}, not in {LABELMAP}.")
    return np.where(numbers == 0, len(codes), index)


def _sized(file: Path, size: Size) -> Numbers:
    numbers = read_colours(file)
    if numbers.shape != size:
        height, width = numbers.shape
        raise ImageError(f"{file}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    return numbers


def _masks(file: Path, size: Size, values: list[int], windows: Numbers) -> Masks:
    return masks_from_labels(_sized(file, size), values, windows)


def _read(folder: Path, codes: Numbers, stem: str, picture: Picture) -> list[Problem]:
    """Add the objects of a picture, which gets no masks if they cannot be read; and return problems."""
    size, name = picture.size, f"{stem}.png"
    try:
        classes = read_class_colours(folder / CLASSES / name, size, codes)
        objects = _sized(folder / OBJECTS / name, size)
    except ImageError as error:
        return [Problem(picture.path, str(error), "Correct the mask, or export it again.", name)]
    values, windows = label_windows(objects)
    labels = majority_labels(objects, np.where(classes == len(codes), VOID, classes), values, windows)
    problems = [
        Problem(
            picture.path, f"The object {value} has no pixel of a class in {CLASSES}.", "Correct it.", name
        )
        for value, label in zip(values.tolist(), labels, strict=True)
        if label < 0
    ]
    known = np.array(labels, np.int64) >= 0
    values, windows = values[known], windows[known]
    picture.annotations = annotations_of_windows(values, windows, [label for label in labels if label >= 0])
    picture.masks = partial(_masks, folder / OBJECTS / name, size, values.tolist(), windows)
    picture.semantic = partial(read_class_colours, folder / CLASSES / name, size, codes)
    return problems
