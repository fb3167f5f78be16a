"""Label images, as used by StarDist, Cellpose and ImageJ: one image of integers per image.

    images/a.png   labels/a.tif or masks/a.png, …   as rcnn.data.formats.label_pairs finds them
    a.png          a_label.tif, a_masks.png, …      in one folder
    images/a.png   masks/a.tif                      a black and white page per object

0 is the background, and each other number is an object, which may have several parts and holes; objects
cannot overlap. There is one class, called ``object``. Label images are read once for the boxes, and again
when the masks of a sample are used. Masks of foreground and background have a reader of their own
(:mod:`rcnn.data.formats.components`), as have maps of classes (:mod:`rcnn.data.formats.semantic`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Annotation, DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.colours import read_object_numbers
from rcnn.data.formats.label_kinds import (
    ClassNumbersError,
    Meaning,
    background_problems,
    looks_like_background,
    meaning_of,
    separate_parts,
)
from rcnn.data.formats.label_pairs import Pair, has_label_names, label_pairs, label_sides, picture_ids
from rcnn.data.formats.mask_pages import picture_of_pages
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import ImageError
from rcnn.io.reading import ChoiceError, reader_threads
from rcnn.structures import Masks, Size

CLASS_NAMES = ("object",)
NAMES_FILE = "classes.txt"  # for semantic maps and YOLO labels
MAX_UINT16 = 65535
MAX_RECURRING = 10  # more numbers that return in every image are no classes

Numbers = npt.NDArray[np.int64]


def is_label_folder(folder: Path, images: Path | None = None) -> bool:
    """Whether a folder has label images in a folder of their own, or next to the images, by their names."""
    if not folder.is_dir():
        return False
    return label_sides(folder, images) is not None or (images is None and has_label_names(folder))


def meaning_of_folder(folder: Path, images: Path | None = None) -> Meaning:
    """What the numbers of the label images in a folder mean."""
    return meaning_of([label for _, label in label_pairs(folder, images, [])])


def is_objects_folder(folder: Path, images: Path | None = None) -> bool:
    """Whether a folder has label images whose numbers are objects.

    Raises:
        ValueError: the numbers look like classes.
    """
    if not is_label_folder(folder, images):
        return False
    meaning = meaning_of_folder(folder, images)
    if meaning.kind != "classes":
        return meaning.kind == "objects"
    numbers = shortened([str(number) for number in sorted(meaning.numbers)])
    raise ClassNumbersError(
        f"{folder}: the numbers in its label images look like classes, not objects: {numbers}, each in "
        f"{meaning.parts:.1f} separate parts per image. As classes of pixels: add {NAMES_FILE} (one name per "
        "line, the first for 0), or --format semantic. To make every separate part of a number an object: "
        "--format components. If each number is one object after all: --format labels."
    )


def read_label_images(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of images and label images; images without a label image are skipped.

    Args:
        folder: the folder of both.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: there are none, or two folders of label images.
    """
    source = Path(folder)
    image_folder = None if images is None else Path(images)
    if not is_label_folder(source, image_folder):
        raise ValueError(
            f"{source}: expected images/ with labels/ or masks/, or pairs such as a.png, a_label.tif."
        )
    builder = DatasetBuilder("label images", source)
    builder.declare_classes(CLASS_NAMES)
    pairs = label_pairs(source, image_folder, builder.problems)
    if (source / NAMES_FILE).is_file():
        what = f"There is a {NAMES_FILE}, but pixel values are read as object numbers."
        builder.warn(what, "If they are class numbers, use --format semantic.", "labels")
    return read_pairs(builder, pairs)


def read_pairs(builder: DatasetBuilder, pairs: Sequence[Pair]) -> Dataset:
    """The data set of images with their label images; what is suspicious in these is reported."""
    looks: list[_Look] = []
    with reader_threads() as pool:
        for found in pool.map(_read, pairs, picture_ids(pairs)):
            if isinstance(found, Problem):
                builder.problems.append(found)
            else:
                builder.add(found[0])
                looks.append(found[1])
    _suspect_maps(builder)
    _suspect_objects(builder, looks)
    return builder.build()


def label_windows(numbers: Numbers) -> tuple[Numbers, Numbers]:
    """The numbers above 0 that occur in ``[H, W]``, and the tight window ``[N, 4]`` of each.

    Convention: pixels 7 at x 2 to 4, y 1 give the window ``2 1 5 2``.
    """
    ys, xs = np.nonzero(numbers > 0)
    values, owner = np.unique(numbers[ys, xs], return_inverse=True)
    far = int(max(numbers.shape, default=0))
    windows = np.tile(np.array([far, far, 0, 0], dtype=np.int64), (len(values), 1))
    for column, (smallest, place) in enumerate(((True, xs), (True, ys), (False, xs), (False, ys))):
        (np.minimum if smallest else np.maximum).at(
            windows[:, column], owner, place if smallest else place + 1
        )
    return values, windows


def masks_from_labels(numbers: Numbers, values: Sequence[int], windows: Numbers) -> Masks:
    """The masks of the objects with these numbers, inside their windows."""
    size = (int(numbers.shape[0]), int(numbers.shape[1]))
    patches = [
        numbers[y1:y2, x1:x2] == value
        for value, (x1, y1, x2, y2) in zip(values, windows.tolist(), strict=True)
    ]
    return Masks.from_patches(patches, [(y, x) for x, y in windows[:, :2].tolist()], size)


def read_masks(label: Path, values: Sequence[int], windows: Numbers) -> Masks:
    """The masks of a label image, decoded again."""
    return masks_from_labels(read_object_numbers(label), values, windows)


def read_label(label: Path, size: Size) -> Numbers:
    """The numbers of a label image, int64 ``[H, W]``.

    Raises:
        ImageError: the file is missing, a photograph, of another size than its image, or has negative
            numbers.
    """
    numbers = read_object_numbers(label)
    if numbers.shape != size:
        height, width = numbers.shape
        raise ImageError(f"{label}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    if numbers.min(initial=0) < 0:
        raise ImageError(f"{label}: it has the number {numbers.min()}; expected 0 and above.")
    return numbers


@dataclass(frozen=True)
class _Look:
    """What is suspicious in one label image.

    Attributes:
        name: of the image.
        parted: the numbers with several separate parts.
        has_background: an object covers most of the image and its corners.
        has_pages: it is a TIFF file with one mask per page.
    """

    name: str
    parted: tuple[int, ...]
    has_background: bool
    has_pages: bool = False


def _read(pair: Pair, name: str) -> tuple[Picture, _Look] | Problem:
    path, label = pair
    size = measured(path)
    if isinstance(size, Problem):
        return size
    try:
        numbers = read_label(label, size)
    except ImageError as error:
        try:
            pages = picture_of_pages(path, label, size, name) if isinstance(error, ChoiceError) else None
        except ImageError:
            pages = None
        if pages is not None:
            return pages, _Look(path.name, (), has_background=False, has_pages=True)
        return Problem(path, str(error), "Fix the label image or export it again.", label.name)
    values, windows = label_windows(numbers)
    picture = Picture(path, size, name, annotations_of_windows(values, windows, [0] * len(values)))
    picture.masks = partial(read_masks, label, values.tolist(), windows)
    parted, background = [], False
    for value, (x1, y1, x2, y2) in zip(values.tolist(), windows.tolist(), strict=True):
        patch = numbers[y1:y2, x1:x2] == value
        parted += [value] if len(separate_parts(patch)) > 1 else []
        background = background or (patch.shape == size and looks_like_background(patch))
    return picture, _Look(path.name, tuple(parted), background)


def annotations_of_windows(values: Numbers, windows: Numbers, labels: Sequence[int]) -> list[Annotation]:
    """Objects of a label image, with their windows as boxes."""
    return [
        Annotation((x1, y1, x2, y2), label, str(value))
        for (x1, y1, x2, y2), label, value in zip(windows.tolist(), labels, values.tolist(), strict=True)
    ]


def _suspect_maps(builder: DatasetBuilder) -> None:
    """Report numbers that are the same in all label images: probably classes, not objects."""
    found = [{annotation.name for annotation in picture.annotations} for picture in builder.pictures]
    seen = set().union(*found)
    if len(found) > 1 and len(seen) == 1:
        what = f"The label images contain only the number {next(iter(seen))}, one object per image."
        advice = "If it marks the foreground, use --format components, or number its objects; otherwise"
        builder.warn(what, f"{advice} ignore this.", "labels")
    elif len(found) > MAX_RECURRING and len(seen) <= MAX_RECURRING and all(names == seen for names in found):
        what = f"Every label image has the same numbers: {', '.join(sorted(seen, key=int))}."
        builder.warn(what, "If they are class numbers, use --format semantic or components.", "labels")


def _suspect_objects(builder: DatasetBuilder, looks: Sequence[_Look]) -> None:
    """Report numbers of several separate parts, and objects that could be the background."""
    parted = [(look.name, number) for look in looks for number in look.parted]
    if parted:
        total = sum(len(picture.annotations) for picture in builder.pictures)
        examples = shortened([f"{number} in {name}" for name, number in parted], 3)
        what = f"{len(parted)} of {total} numbers are in several separate parts: {examples}."
        advice = "Each is one object; if the parts are objects of their own, use --format components."
        builder.warn(what, advice, "labels")
    paged = [look.name for look in looks if look.has_pages]
    if paged:
        what = f"{len(paged)} label images are stacks of black and white pages: {shortened(paged)}."
        builder.warn(what, "Each page is one object.", "labels")
    names = [look.name for look in looks if look.has_background]
    builder.problems += background_problems(builder.source, names)


class LabelImageWriter(Writer):
    """One label image per image; small objects are drawn over larger ones.

    A pixel is the number of its object. PNG has 16 bits; where they are too few, it is a TIFF of 32.
    """

    holds = frozenset({"outlines"})
    needs_outlines = True

    def write(self, item: Item) -> None:
        """Write one label image."""
        item = self.with_outlines(item)
        numbers = np.zeros(item.truth.size, dtype=np.int32)
        masks = item.truth.masks
        if masks is not None:
            self.note_boxes(item)
            areas, windows = masks.areas(), masks.windows.tolist()
            patches = list(masks.patches())
            for index in np.argsort(-areas, kind="stable").tolist():
                x1, y1, x2, y2 = windows[index]
                numbers[y1:y2, x1:x2][patches[index].astype(bool)] = index + 1
            seen = np.bincount(numbers.reshape(-1), minlength=len(areas) + 1)[1:]
            self._note_hidden(item, seen, areas)
            numbers = np.array([0, *item.numbers], np.int32)[numbers]
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        if max(item.numbers, default=0) > MAX_UINT16:
            Image.fromarray(numbers).save(folder / f"{item.image.stem}.tif")
        else:
            Image.fromarray(numbers.astype(np.uint16)).save(folder / f"{item.image.stem}.png")

    def _note_hidden(self, item: Item, seen: npt.NDArray[np.int64], areas: npt.NDArray[np.float32]) -> None:
        for index in np.flatnonzero(seen < areas).tolist():
            lost, area = int(areas[index] - seen[index]), int(areas[index])
            if seen[index]:
                place = f"{item.place(index)} ({lost} of {area} pixels)"
                self.dropped.note("objects that lose pixels to others", place)
            else:
                self.dropped.note("objects entirely hidden by others", item.place(index))

    def finish(self) -> None:
        """Note the lost class names."""
        self.note_classes()
