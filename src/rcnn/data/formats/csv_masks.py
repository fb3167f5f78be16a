"""Tables of run-length codes, as Kaggle's competitions have them: a line per object.

    ImageId,EncodedPixels                       nuclei (DSB 2018), ships (Airbus), …
    ImageId,ClassId,EncodedPixels               steel, clouds, fashion; also ImageId_ClassId
    id,annotation,width,height,cell_type        neurons (Sartorius)

Convention:
    A code is pairs of first pixel and length, counted from 1, column by column: on an image 48 high, ``1 5 49
    5`` are the upper five pixels of the first two columns. Sartorius' ``annotation`` counts row by row.

A line without code stands for an image without objects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.contents import Row, first_row, has_one_file, one_file, read_table
from rcnn.data.formats.csv_boxes import HEIGHT, IMAGE, WIDTH
from rcnn.structures import Masks, Rle, Size

CODE = ("encodedpixels", "encoded_pixels", "rle", "rle_mask", "encoding", "encodedpixel", "annotation")
CLASS = ("classid", "class_id", "class", "label", "cell_type", "category", "class_name", "type")
BOTH = ("imageid_classid", "image_label")  # image and class in one
IMAGES = (*IMAGE, "imageid", *BOTH)
BY_ROWS = "annotation"
NOTHING = ("", "nan", "-1", "1 0")
SAMPLE = 20  # objects looked at for separate parts
SEPARATE = 2.0  # mean number of parts from which on a warning is given


@dataclass(frozen=True)
class _Layout:
    """The columns of a table."""

    image: int
    code: int
    label: int | None
    size: tuple[int, int] | None
    by_rows: bool
    has_both: bool


def is_csv_masks(path: Path, images: Path | None = None) -> bool:
    """Whether a file is a table of run-length codes, or a folder has one."""
    return has_one_file(path, ".csv", _is_table, "mask table")


def _is_table(file: Path) -> bool:
    return _layout(first_row(file)) is not None


def _layout(first: Sequence[str]) -> _Layout | None:
    names = [re.sub(r"[^a-z0-9]+", "_", cell.casefold()).strip("_") for cell in first]

    def column(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    image, code, width, height = column(IMAGES), column(CODE), column(WIDTH), column(HEIGHT)
    if image is None or code is None:
        return None
    by_rows = names[code] == BY_ROWS
    if by_rows and (width is None or height is None):
        return None  # the word alone means little
    size = None if width is None or height is None else (height, width)
    return _Layout(image, code, column(CLASS), size, by_rows, names[image] in BOTH)


def read_csv_masks(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a table of run-length codes.

    Args:
        path: the file, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or its columns are not known, or none of its images is found.
    """
    file = one_file(Path(path), ".csv", _is_table, "mask table")
    rows = read_table(file)
    layout = _layout(rows[0].values if rows else ())
    if layout is None:
        raise ValueError(f"{file}: its columns are not those of a known table of run-length codes.")
    objects = AnnotatedImages("csv masks", file, images=images)
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows[1:]:
        _read_row(objects, layout, row, counts)
    objects.warn_of_unlisted("have no line in the table")
    _suspect_maps(objects, counts)
    return objects.dataset()


def _read_row(objects: AnnotatedImages, layout: _Layout, row: Row, counts: Counter[tuple[str, str]]) -> None:
    cells, place = row.values, f"line {row.number}"
    if len(cells) <= max(layout.image, layout.label or 0):
        objects.builder.report("The line has no image or class.", "Complete or delete it.", place)
        return
    name, label = cells[layout.image], UNNAMED if layout.label is None else cells[layout.label]
    if layout.has_both:
        name, _, label = name.rpartition("_")
    picture = objects.find(name, size=_size(layout, cells), place=place)
    code = cells[layout.code] if layout.code < len(cells) else ""
    if picture is None or code.casefold() in NOTHING:
        return
    counts[name, label] += 1
    try:
        outline = _outline(code, picture.size, by_rows=layout.by_rows)
    except ValueError as error:
        objects.wrong(picture, place, f"The run-length code cannot be used ({error}).")
        return
    objects.draw(picture, Drawn(label, place, outline=outline))


def _size(layout: _Layout, cells: Sequence[str]) -> Size | None:
    texts = [cells[c] for c in layout.size or () if c < len(cells)]
    return (int(texts[0]), int(texts[1])) if len(texts) == 2 and all(map(str.isdigit, texts)) else None


def _outline(code: str, size: Size, *, by_rows: bool) -> Rle:
    """COCO's run-length code of one of Kaggle's.

    Raises:
        ValueError: it is no list of pairs, or leaves the image.
    """
    words = code.split()
    if len(words) % 2 or not all(word.isdigit() for word in words):
        raise ValueError(f"expected pairs of integers, found {code[:30]!r}")
    total = size[0] * size[1]
    runs = np.array([min(int(word), total + 1) for word in words], np.int64).reshape(-1, 2)
    ends = runs.sum(1) - 1
    if runs.min(initial=1) < 1 or ends.max(initial=0) > total:
        raise ValueError(f"it begins before pixel 1 or ends after pixel {total}, the last one of the image")
    flat: npt.NDArray[np.bool_] = np.zeros(total, np.bool_)
    for start, end in zip((runs[:, 0] - 1).tolist(), ends.tolist(), strict=True):
        flat[start:end] = True
    dense = flat.reshape(size) if by_rows else flat.reshape(size[::-1]).T
    return Masks.from_dense(dense[None]).rle()[0]


def _suspect_maps(objects: AnnotatedImages, counts: Counter[tuple[str, str]]) -> None:
    """Report codes that each seem to hold all objects of a class."""
    if len(counts) < 2 or max(counts.values()) > 1:
        return
    sample = objects.drawn[:: max(len(objects.drawn) // SAMPLE, 1)][:SAMPLE]
    parts = []
    for picture, drawn in sample:
        if isinstance(drawn.outline, dict):
            patch = next(Masks.from_rle([drawn.outline], picture.size).patches())
            parts.append(int(ndimage.label(patch)[1]))
    if parts and sum(parts) / len(parts) >= SEPARATE:
        mean = sum(parts) / len(parts)
        what = f"Each image has one code per class, with {mean:.0f} separate parts on average."
        advice = "Each code is read as one object; if it holds several, give each its own line."
        objects.builder.warn(what, advice, "codes")
