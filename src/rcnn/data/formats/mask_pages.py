"""TIFF files with one mask per page, as ImageJ and scripts save the objects of an image.

Legend: N pages.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.builder import Annotation, Picture
from rcnn.io.images import TIFF_MARKS, ImageError
from rcnn.io.reading import Reading, current_reading
from rcnn.structures import Masks, Size


def read_pages(label: Path, size: Size) -> Masks | None:
    """The masks of the pages, empty ones too; None if it is no file of black and white pages of this size.

    Raises:
        ImageError: the file is damaged.
    """
    with label.open("rb") as file:
        if file.read(4) not in TIFF_MARKS or current_reading().plane is not None:
            return None
    from rcnn.io.tiff import opened_tiff

    patches, origins = [], []
    with opened_tiff(label) as found:
        tif = found.with_channels_as_planes()
        if tif.num_planes < 2 or tif.num_channels != 1 or tif.size != size or tif.odd:
            return None
        for number in range(tif.num_planes):
            values = tif.read(Reading(plane=number)).values[:, :, 0]
            inside = values != 0
            if inside.all() or (inside.any() and np.ptp(values[inside]) != 0):
                return None
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            y, x = (int(rows[0]), int(columns[0])) if len(rows) else (0, 0)
            end_y, end_x = (int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else (0, 0)
            patches.append(inside[y:end_y, x:end_x].copy())
            origins.append((y, x))
    return Masks.from_patches(patches, origins, size)


def picture_of_pages(image: Path, label: Path, size: Size, name: str) -> Picture | None:
    """An image whose objects are the pages of a file, without empty ones; None as :func:`read_pages`."""
    masks = read_pages(label, size)
    if masks is None:
        return None
    picture = Picture(image, size, name)
    for page in np.flatnonzero(masks.areas() > 0).tolist():
        x1, y1, x2, y2 = masks.windows[page].tolist()
        picture.annotations.append(Annotation((x1, y1, x2, y2), 0, f"page {page}"))
    picture.masks = partial(_drawn_pages, label, size)
    return picture


def _drawn_pages(label: Path, size: Size) -> Masks:
    """The masks of the pages that are not empty, read again."""
    masks = read_pages(label, size)
    if masks is None:
        raise ImageError(f"{label}: it has changed since the data set was opened.")
    return masks[masks.areas() > 0]
