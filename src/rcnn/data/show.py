"""The annotations of a data set as images to look at."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.draw import contact_sheet
from rcnn.io.atomic import write_image

SHEET = "sheet.png"


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
        ValueError: no image could be drawn.
    """
    dataset, out = open_data(data), Path(out)
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
        name = Path(str(sample.image_id)).name
        pictures.append(sample.truth.overlay(sample.image))
        captions.append(f"{name}: {len(sample.truth)}" if dataset.class_names else name)
        write_image(pictures[-1], out / f"{index:05d}_{name}.png")
    if not pictures:
        raise ValueError(f"{dataset.source}: none of the {len(chosen)} images chosen can be drawn")
    sheet = write_image(contact_sheet(pictures, captions), out / SHEET)
    return Shown(sheet, len(pictures), tuple(failed))
