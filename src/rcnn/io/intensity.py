"""From intensities of any range to the 8 bits that networks see.

8-bit values are unchanged. By ``percentiles``, values from a low to a high percentile of the image become 0
to 255: a few hot pixels do not matter. By ``maximum``, the rule of models trained before 0.2:

    - values are divided by the smallest ``2**b - 1`` (b from 8 to 16) that reaches the maximum of the image,
      so that 12-bit images in 16-bit files are not black;
    - floats within [0, 1] are taken as such; values above 65535 are divided by the maximum; negative ones
      become 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.io.reading import Reading

Pixels = npt.NDArray[np.uint8]
BLOCK = 2**22  # values that are counted at once
ROOM = 0.25  # differences of values as large as floats can be stay finite; a power of two changes no digit
MAX_COUNTED = 4_000_000  # pixels that percentiles of floats are taken of; of more, every n-th


def to_eight_bits(values: npt.NDArray[Any]) -> Pixels:
    """Intensities as uint8 of the same shape, by the maximum; see the module docstring."""
    gray = np.nan_to_num(_floats(values), nan=0.0, posinf=65535.0, neginf=0.0).clip(min=0)
    top = float(gray.max())
    if values.dtype.kind == "f" and top <= 1:
        white = 1.0
    else:
        white = next((2.0**bits - 1 for bits in range(8, 17) if 2**bits - 1 >= top), top)
    return np.rint(gray / white * 255).astype(np.uint8)


def scaled(values: npt.NDArray[Any], reading: Reading, *, colour: bool) -> Pixels:
    """Intensities ``[H, W, C]`` as uint8 of the same shape; uint8 is returned as it is.

    Convention: with percentiles 0 and 100, the channel ``[100, 150, 200]`` becomes ``[0, 128, 255]``.

    Args:
        values: bool (0 and 255), integers or floats; what is not finite counts as the lowest value.
        reading: the rule, and its percentiles.
        colour: whether the channels are red, green and blue, which are scaled together unless ``reading``
            says otherwise.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if reading.intensity == "maximum":
        return to_eight_bits(values)
    jointly = colour if reading.jointly is None else reading.jointly
    if jointly:
        return stretched(values, limits(values, reading))
    result = np.empty(values.shape, np.uint8)
    for channel in range(values.shape[2]):
        plane = values[:, :, channel]
        result[:, :, channel] = stretched(plane, limits(plane, reading))
    return result


def limits(values: npt.NDArray[Any], reading: Reading) -> tuple[float, float]:
    """The values that become 0 and 255: the percentiles, or the extremes where the percentiles are equal."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return _counted_limits(values, reading)
    flat = values.reshape(-1)
    flat = _floats(flat[:: max(1, len(flat) // MAX_COUNTED)])
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return 0.0, 0.0
    low, high = np.percentile(flat * ROOM, (reading.low, reading.high)) / ROOM
    return (float(low), float(high)) if high > low else (float(flat.min()), float(flat.max()))


def _counted_limits(values: npt.NDArray[Any], reading: Reading) -> tuple[float, float]:
    """As :func:`limits`, of at most 16 bits: exactly, by counting each value."""
    counts = np.zeros(np.iinfo(values.dtype).max + 1, np.int64)
    rows = max(1, BLOCK // max(1, values[:1].size))  # bincount makes 64-bit integers of what it counts
    for start in range(0, len(values), rows):
        counts += np.bincount(values[start : start + rows].reshape(-1), minlength=len(counts))
    below = np.cumsum(counts)
    ends = []
    for percentile in (reading.low, reading.high):
        rank = (int(below[-1]) - 1) * percentile / 100
        low, high = np.searchsorted(below, (math.floor(rank), math.ceil(rank)), side="right")
        ends.append(float(low + (high - low) * (rank - math.floor(rank))))
    if ends[1] > ends[0]:
        return ends[0], ends[1]
    present = np.flatnonzero(counts)
    return float(present[0]), float(present[-1])


def stretched(values: npt.NDArray[Any], ends: tuple[float, float]) -> Pixels:
    """Intensities as uint8 of the same shape: the first of ``ends`` becomes 0, the second 255."""
    low, high = ends
    if high <= low:  # one value everywhere
        return to_eight_bits(values)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        # A table of all values is several times as fast as arithmetic on all pixels.
        table = np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64)
        eight_bits: Pixels = np.rint((table - low).clip(0, high - low) * 255 / (high - low)).astype(np.uint8)
        looked_up: Pixels = eight_bits[values]
        return looked_up
    result = np.empty(values.shape, np.uint8)
    for place, row in zip(result, values, strict=True):
        above = (_floats(row) * ROOM - low * ROOM) / (high * ROOM - low * ROOM)
        ratio = np.nan_to_num(above, nan=0.0, posinf=0.0, neginf=0.0)
        place[:] = np.rint(ratio.clip(0, 1) * 255)
    return result


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Values as float64; signalling NaNs become ordinary ones."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def rgb_view(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image ``[H, W, C]`` of any number of channels as one to look at, ``[H, W, 3]``, of the same type.

    One channel is gray; two are magenta and green; of more than three, the first three are shown.
    """
    channels = pixels.shape[2]
    if channels >= 3:
        return pixels[:, :, :3]
    return pixels[:, :, [0, 0, 0] if channels == 1 else [0, 1, 0]]
