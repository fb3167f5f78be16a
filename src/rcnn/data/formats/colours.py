"""Label images painted in colours: every colour is a number.

Gray painted as red = green = blue is the number itself. Other colours get the number ``65536 r + 256 g + b``,
so that black, the background, is 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.io.images import ImageError, read_mask_colours, read_numbers

Numbers = npt.NDArray[np.int64]

MOST_COLOURS = 20_000
SPECK = 3  # pixels; colours of no more are edges that drawing programs have blended
BLENDED = 0.5  # fraction of such colours in an image with soft edges
FEW = 16  # colours of which nothing is suspected
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")


def read_object_numbers(label: Path) -> Numbers:
    """The numbers of a label image, or those of its colours, int64 ``[H, W]``.

    Raises:
        ImageError: the file is unusable, or its colours are those of a photograph or of soft edges.
    """
    try:
        return read_numbers(label)
    except ImageError:
        if label.suffix.lower() in LOSSY:
            raise
    pixels = read_mask_colours(label)
    if not np.ptp(pixels, axis=2).any():
        return pixels[:, :, 0].astype(np.int64)
    numbers = colour_numbers(pixels)
    _, counts = np.unique(numbers, return_counts=True)
    specks = int((counts <= SPECK).sum())
    if len(counts) > MOST_COLOURS or (len(counts) > FEW and specks > BLENDED * len(counts)):
        raise ImageError(
            f"{label}: it has {len(counts)} colours, {specks} of them on at most {SPECK} pixels; expected "
            "one per object. Export it without soft edges, or as integers."
        )
    return numbers


def read_colours(label: Path) -> Numbers:
    """The numbers of all colours of an image, gray too, int64 ``[H, W]``.

    Raises:
        ImageError: the file is unusable.
    """
    return colour_numbers(read_mask_colours(label))


def colour_numbers(pixels: npt.NDArray[np.integer]) -> Numbers:
    """The numbers ``[…]`` of colours ``[…, 3]``: (1, 2, 3) is 66051."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    numbers: Numbers = red * 65536 + green * 256 + blue
    return numbers
