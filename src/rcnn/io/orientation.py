"""The eight EXIF orientations: found in a block that may be damaged, and applied to arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

ORIENTATION = 274
"""The tag, of EXIF and of TIFF."""

Array = npt.NDArray[Any]


def exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block of which other parts may be damaged; 1 where there is none."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 10:
        return 1
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    if start + 2 > len(block):
        return 1
    end = start + 2 + 12 * struct.unpack_from(f"{order}H", block, start)[0]
    for place in range(start + 2, min(end, len(block)) - 11, 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, place)
        if tag == ORIENTATION and kind == 3:
            return int(value)
    return 1


def turned(values: Array, orientation: int) -> Array:
    """An array ``[H, W, …]`` of stored pixels, upright by its orientation, 1 to 8."""
    if orientation == 1:
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values[::-1] if orientation in (3, 4, 7, 8) else values)


def unturned(values: Array, orientation: int) -> Array:
    """The inverse of :func:`turned`."""
    return turned(values, {6: 8, 8: 6}.get(orientation, orientation))


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of the upright image."""
    return size[::-1] if orientation >= 5 else size
