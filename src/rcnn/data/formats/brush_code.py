"""The run-length code of Label Studio's brush strokes: that of the JavaScript package @thi.ng/rle-pack.

A stream of bits: the number of values (32 bits), bits in a value minus 1 (5), and four lengths of numbers
minus 1 (4 each). Then blocks: one bit, 1 for one repeated value and 0 for single values; two bits that choose
the length of the count; the count minus 1; the value, or as many values. The values are the bytes of an image
in RGBA, row by row; its alpha is the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.structures import Size

CHANNELS = 4
LENGTHS = (3, 4, 8, 16)  # bits of a count, as Label Studio writes them
BYTE = 8


def brush_alpha(code: Any, size: Size) -> npt.NDArray[np.uint8]:
    """The alpha channel, uint8 ``[H, W]``, of a code, which is a list of bytes.

    Raises:
        ValueError: it is broken, or of an image of another size.
    """
    if not all(isinstance(value, int) and 0 <= value < 256 for value in code):
        raise ValueError("expected bytes, 0 to 255")
    stream = _Bits(np.unpackbits(np.array(code, np.uint8)))
    total, word = stream.number(32), stream.number(5) + 1
    lengths = [stream.number(4) + 1 for _ in range(4)]
    if total != size[0] * size[1] * CHANNELS:
        raise ValueError(f"it has {total // CHANNELS} pixels, its image {size[0] * size[1]}")
    if word > BYTE:
        raise ValueError(f"its values have {word} bits, expected at most 8")
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        repeated = stream.number(1)
        count = stream.number(lengths[stream.number(2)]) + 1
        end = min(done + count, total)
        values[done:end] = stream.number(word) if repeated else stream.numbers(count, word)[: end - done]
        done = end
    alpha: npt.NDArray[np.uint8] = values.reshape(*size, CHANNELS)[:, :, CHANNELS - 1]
    return alpha


def brush_code(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The code of a mask ``[H, W]``, with 255 in all channels of its pixels."""
    flat = mask.reshape(-1)
    edges = np.r_[0, np.flatnonzero(np.diff(flat)) + 1, len(flat)]
    most = 2 ** LENGTHS[-1]
    text = [f"{len(flat) * CHANNELS:032b}{BYTE - 1:05b}", *(f"{length - 1:04b}" for length in LENGTHS)]
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        left, value = (end - start) * CHANNELS, 255 * int(flat[start])
        while left:
            count = min(left, most)
            choice = next(i for i, length in enumerate(LENGTHS) if count <= 2**length)
            text.append(f"1{choice:02b}{count - 1:0{LENGTHS[choice]}b}{value:08b}")
            left -= count
    bits = np.frombuffer("".join(text).encode(), np.uint8) - ord("0")
    packed: list[int] = np.packbits(bits).tolist()
    return packed


class _Bits:
    """Reads numbers from bits, highest first."""

    def __init__(self, bits: npt.NDArray[np.uint8]) -> None:
        self.bits = bits
        self.place = 0

    def number(self, length: int) -> int:
        """The next number of so many bits."""
        return int("".join(map(str, self._take(length).tolist())), 2)

    def numbers(self, count: int, length: int) -> npt.NDArray[np.uint8]:
        """The next numbers of at most eight bits."""
        rows = self._take(count * length).reshape(count, length)
        return np.packbits(np.pad(rows, ((0, 0), (BYTE - length, 0))), axis=1)[:, 0]

    def _take(self, length: int) -> npt.NDArray[np.uint8]:
        taken = self.bits[self.place : self.place + length]
        if len(taken) < length:
            raise ValueError("it ends too early")
        self.place += length
        return taken
