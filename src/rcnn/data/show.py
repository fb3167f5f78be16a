"""The annotations of a data set as images to look at."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.draw import MAX_RATIO, contact_sheet, readable_scale
from rcnn.io.destinations import LONGEST_NAME, refuse_unwritable_folder
from rcnn.io.picture_files import write_image
from rcnn.structures import Instances

SHEET = "sheet.png"
TILE = 320  # pixels, the mean width of a picture on the sheet


@dataclass(frozen=True)
class Shown:
    """What was drawn.

    Attributes:
        sheet: the file with all of them.
        images: the number of images drawn.
        failed: why other images were not drawn.
    """

    sheet: Path
    images: int
    failed: tuple[str, ...] = ()


def show(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    count: int = 24,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Shown:
    """Draw the annotations on some images, each in a file of its own and all on one sheet.

    Args:
        data: an opened data set, or a path that :func:`rcnn.open_data` reads.
        out: the folder to write to; made where missing.
        count: the number of images, chosen at random.
        seed: random seed for the choice.
        progress: called with the number of images done and of all.

    Raises:
        ValueError: no image could be drawn, or the folder cannot be written.
    """
    out = Path(out)
    refuse_unwritable_folder(out)
    dataset = open_data(data)
    chosen = sorted(random.Random(seed).sample(range(len(dataset)), min(count, len(dataset))))
    pictures, captions, failed = [], [], []
    for done, index in enumerate(chosen, 1):
        if progress is not None:
            progress(done, len(chosen))
        try:
            sample = dataset[index]
        except ValueError as error:
            failed.append(str(error))
            continue
        name = dataset.records[index].path.name
        scale = readable_scale(sample.truth.size)
        picture = sample.truth.overlay(sample.image, scale=scale)
        write_image(picture, out / f"{index:05d}_{_cut(Path(name).stem)}.png")
        # On the sheet, texts on the pictures would be too small to read: captions say it.
        pictures.append(_within(sample.truth.overlay(sample.image, scale=scale, labels=False), TILE))
        captions.append(_caption(name, sample.truth))
    if not pictures:
        raise ValueError(f"{dataset.source}: none of the {len(chosen)} images chosen can be drawn")
    sheet = write_image(contact_sheet(pictures, captions, tile=TILE), out / SHEET)
    return Shown(sheet, len(pictures), tuple(failed))


def _cut(stem: str) -> str:
    """A name that leaves room for a number before it and an ending after it."""
    content = os.fsencode(stem)
    room = LONGEST_NAME - len("00000_.png")
    return stem if len(content) <= room else content[:room].decode("utf-8", "ignore")


def _caption(name: str, truth: Instances) -> str:
    """The name of the image, and below it its objects of each class, or the area of each class of pixels."""
    if truth.class_names:
        counts = Counter(truth.names).most_common()
        return f"{name}\n{', '.join(f'{count} {of}' for of, count in counts) or 'no objects'}"
    areas = sorted(((float(fraction), of) for of, _, fraction in truth.area_rows()), reverse=True)
    return f"{name}\n{', '.join(f'{of} {fraction:.0%}' for fraction, of in areas if fraction >= 0.005)}"


def _within(picture: Image.Image, side: int) -> Image.Image:
    """A picture no larger than a sheet can need, since all of a sheet's are in memory at once."""
    picture.thumbnail((MAX_RATIO * side, MAX_RATIO * side), Image.Resampling.LANCZOS)
    return picture
