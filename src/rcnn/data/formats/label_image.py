"""Label images, as used by StarDist, Cellpose and ImageJ: one image of integers per image.

    images/a.png   labels/a.tif or masks/a.png      (or a_label.tif, a_masks.png, … in that folder)
    a.png          a_label.tif, a_labels.…, a_mask.…, a_masks.…, a_cp_masks.…   in one folder
    a_img.png      a_masks.png

0 is the background, and each other number is an object, which may have several parts and holes; objects
cannot overlap. There is one class, called ``object``. Label images are read once for the boxes, and again
when the masks of a sample are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Annotation, DatasetBuilder, Picture, measured
from rcnn.data.dataset import Dataset
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import Problem, shortened
from rcnn.io.images import ImageError, image_files, read_numbers
from rcnn.structures import Masks, Size

CLASS_NAMES = ("object",)
NAMES_FILE = "classes.txt"  # for semantic maps and YOLO labels
IMAGE_FOLDERS = ("images", "PNGImages")  # the second names are those of Penn-Fudan's pedestrians
LABEL_FOLDERS = ("labels", "masks", "PedMasks")
LABEL_MARKS = ("_cp_masks", "_masks", "_mask", "_labels", "_label")  # longest first
MAX_UINT16 = 65535
IMAGE_MARKS = ("_img", "_image")

Numbers = npt.NDArray[np.int64]


def is_label_folder(folder: Path) -> bool:
    """Whether a folder has label images in ``labels`` or ``masks``, or next to the images, by their names."""
    if _image_folder(folder) is not None:
        return bool(_label_folders(folder))
    files = image_files(folder)
    keys = {_key(f, IMAGE_MARKS) for f in files if not _is_label(f)}
    return any(_is_label(f) and _key(f, LABEL_MARKS) in keys for f in files)


def read_label_images(folder: str | Path) -> Dataset:
    """Open a folder of images and label images; images without a label image are skipped.

    Raises:
        ValueError: there are none, or both ``labels`` and ``masks`` have images.
    """
    source = Path(folder)
    if not is_label_folder(source):
        raise ValueError(
            f"{source}: expected images/ with labels/ or masks/, or pairs such as a.png, a_label.tif."
        )
    builder = DatasetBuilder("label images", source)
    builder.declare_classes(CLASS_NAMES)
    pairs = _pairs(source, builder.problems)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda pair: _read(*pair), pairs):
            if isinstance(found, Problem):
                builder.problems.append(found)
            else:
                builder.add(found)
    if (source / NAMES_FILE).is_file():
        what = f"There is a {NAMES_FILE}, but pixel values are read as object numbers."
        builder.warn(what, "If they are class numbers, rename their folder to labels.", "labels")
    _suspect_map(builder)
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
    return masks_from_labels(read_numbers(label), values, windows)


def read_label(label: Path, size: Size) -> Numbers:
    """The numbers of a label image, int64 ``[H, W]``.

    Raises:
        ImageError: the file is missing, has colours, another size than its image, or negative numbers.
    """
    numbers = read_numbers(label)
    if numbers.shape != size:
        height, width = numbers.shape
        raise ImageError(f"{label}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    if numbers.min(initial=0) < 0:
        raise ImageError(f"{label}: it has the number {numbers.min()}; expected 0 and above.")
    return numbers


def _is_label(file: Path) -> bool:
    return file.stem.endswith(LABEL_MARKS)


def _key(file: Path, marks: Sequence[str]) -> str:
    """The common part of the names of an image and its label image."""
    return next((file.stem.removesuffix(mark) for mark in marks if file.stem.endswith(mark)), file.stem)


def _image_folder(source: Path) -> Path | None:
    return next((source / name for name in IMAGE_FOLDERS if (source / name).is_dir()), None)


def _label_folders(source: Path) -> list[Path]:
    folders = [source / name for name in LABEL_FOLDERS]
    return [folder for folder in folders if folder.is_dir() and image_files(folder)]


def _pairs(source: Path, problems: list[Problem]) -> list[tuple[Path, Path]]:
    """Each image with its label image; files without a partner, or with several, are reported."""
    image_folder = _image_folder(source)
    if image_folder is not None:
        folders = _label_folders(source)
        if len(folders) > 1:
            names = " and ".join(f"{folder.name}/" for folder in folders)
            raise ValueError(f"{source}: both {names} have images; move one of them elsewhere.")
        files = image_files(folders[0])
        pictures = image_files(image_folder)
        # The folders distinguish them: equal names belong together, whatever suffixes they have.
        both = {f.stem for f in pictures} & {f.stem for f in files}
    else:
        both = set()
        files = [f for f in image_files(source) if _is_label(f)]
        pictures = [f for f in image_files(source) if not _is_label(f)]
    images = by_key(pictures, IMAGE_MARKS, "image", problems, both)
    labels = by_key(files, LABEL_MARKS, "label image", problems, both)
    bare = [images[key].name for key in images if key not in labels]
    if bare:
        what = f"{len(bare)} images have no label image: {shortened(bare)}."
        advice = "They are skipped; a label image of zeros stands for an image without objects."
        problems.append(Problem(source, what, advice, severity="warning", annotation="images"))
    for key in (key for key in labels if key not in images):
        problems.append(Problem(labels[key], "Its image is missing.", "Add it, or delete this file."))
    return [(image, labels[key]) for key, image in images.items() if key in labels]


def by_key(
    files: Sequence[Path],
    marks: Sequence[str],
    kind: str,
    problems: list[Problem],
    whole: Collection[str] = (),
) -> dict[str, Path]:
    """Files by the common name of an image and its label; several files of one name are reported.

    Suffixes in ``marks`` do not belong to the name, except for the names in ``whole``.
    """
    groups = defaultdict(list)
    for file in files:
        groups[file.stem if file.stem in whole else _key(file, marks)].append(file)
    for key, group in groups.items():
        if len(group) > 1:
            names = ", ".join(f.name for f in group)
            what = f"There is more than one {kind} called {key}: {names}."
            problems.append(Problem(group[0], what, "Keep one of them."))
    return {key: group[0] for key, group in groups.items()}


def _read(path: Path, label: Path) -> Picture | Problem:
    size = measured(path)
    if isinstance(size, Problem):
        return size
    try:
        values, windows = label_windows(read_label(label, size))
    except ImageError as error:
        return Problem(path, str(error), "Fix the label image or export it again.", label.name)
    picture = Picture(path, size, path.stem, annotations_of_windows(values, windows, [0] * len(values)))
    picture.masks = partial(read_masks, label, values.tolist(), windows)
    return picture


def annotations_of_windows(values: Numbers, windows: Numbers, labels: Sequence[int]) -> list[Annotation]:
    """Objects of a label image, with their windows as boxes."""
    return [
        Annotation((x1, y1, x2, y2), label, str(value))
        for (x1, y1, x2, y2), label, value in zip(windows.tolist(), labels, values.tolist(), strict=True)
    ]


def _suspect_map(builder: DatasetBuilder) -> None:
    """Report a single number in all label images: probably a foreground mask, not separate objects."""
    seen = {annotation.name for picture in builder.pictures for annotation in picture.annotations}
    if len(builder.pictures) > 1 and len(seen) == 1:
        what = f"The label images contain only the number {next(iter(seen))}, one object per image."
        builder.warn(what, "If it marks the foreground, number its objects; otherwise ignore this.", "labels")


class LabelImageWriter(Writer):
    """One label image per image; small objects are drawn over larger ones."""

    holds = frozenset({"outlines"})
    needs_outlines = True

    def write(self, item: Item) -> None:
        """Write one label image with 16 bits, or 32 if there are too many objects for 16."""
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
        folder = self.folder / "labels"
        folder.mkdir(exist_ok=True)
        if len(item.truth) > MAX_UINT16:
            Image.fromarray(numbers).save(folder / f"{item.image.stem}.tif")
        else:
            Image.fromarray(numbers.astype(np.uint16)).save(folder / f"{item.image.stem}.png")

    def _note_hidden(self, item: Item, seen: npt.NDArray[np.int64], areas: npt.NDArray[np.float32]) -> None:
        for index in np.flatnonzero(seen < areas).tolist():
            whole = "entirely hidden by others" if seen[index] == 0 else "that lose pixels to others"
            self.dropped.note(f"objects {whole}", item.place(index))

    def finish(self) -> None:
        """Note the lost class names."""
        self.note_classes()
