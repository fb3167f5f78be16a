"""Read MATLAB files of level 5 (``-v5``, ``-v6``, ``-v7``): numbers, texts and cells of them, bounded.

SciPy's reader trusts what a file says of itself: damaged files end the process. Here every length is compared
with the bytes that are there, and compressed parts are unpacked up to ``MAX_BYTES``.

Format: "MAT-File Format" of The MathWorks, level 5. A file is a header of 128 bytes and elements; an element
is a tag (type and number of bytes) and its content, padded to 8 bytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

MAX_BYTES = 4 << 30  # of a compressed part, unpacked
MAX_DEPTH = 8  # of cells in cells
HEADER = 128  # bytes
# Types of elements that hold numbers, and text as UTF-8, 16 and 32.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
Order = Literal["<", ">"]
CELL, CHAR, FIRST_NUMBER, LAST_NUMBER = 1, 4, 6, 15  # classes of arrays


class MatlabError(ValueError):
    """A file that is not of level 5, is damaged, or holds something else; the message does not name it."""


@dataclass(frozen=True)
class _Element:
    """A part of the file.

    Attributes:
        kind: its type.
        content: its bytes.
    """

    kind: int
    content: memoryview


def read_matlab(content: bytes) -> dict[str, Any]:
    """The variables of a file by name.

    Args:
        content: the file.

    Returns:
        Arrays of numbers as they are stored; texts as ``str``, one line after the other; cells as arrays of
        objects. Variables of other kinds are left out.

    Raises:
        MatlabError: not a file of level 5, or a damaged one.
    """
    if len(content) < HEADER or content[126:128] not in (b"IM", b"MI"):
        raise MatlabError("its header is not that of a MATLAB 5 file")
    order: Order = "<" if content[126:128] == b"IM" else ">"
    if struct.unpack(f"{order}H", content[124:126])[0] != 0x0100:
        raise MatlabError("it is of MATLAB 7.3, or of no known version; save it in MATLAB with -v7")
    found: dict[str, Any] = {}
    for element in _elements(memoryview(content)[HEADER:], order):
        part = element
        if part.kind == COMPRESSED:
            part = next(_elements(memoryview(_unpacked(part.content)), order))
        if part.kind == MATRIX:
            name, value = _variable(part.content, order, 0)
            if value is not None:
                found[name] = value
    return found


def _unpacked(content: memoryview) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise MatlabError(f"a compressed part is damaged ({error})") from error
    if unpacking.unconsumed_tail or not unpacking.eof or not data:
        raise MatlabError("a compressed part is cut off, or larger than 4 GiB")
    return data


def _elements(content: memoryview, order: Order) -> Iterator[_Element]:
    """The elements that follow each other."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise MatlabError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start = at + 8
        if kind >> 16:  # a small element: type and size share four bytes
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            end = at + 8
            if size > 4:
                raise MatlabError("a small element has more than 4 bytes")
        else:
            end = start + size
            # Compressed elements are not padded.
            end += 0 if kind == COMPRESSED else -size % 8
        if start + size > len(content):
            raise MatlabError("an element is longer than the file")
        yield _Element(kind, content[start : start + size])
        at = end


def _variable(content: memoryview, order: Order, depth: int) -> tuple[str, Any]:
    """The name and the value of an array; None for kinds that are not read."""
    if depth > MAX_DEPTH:
        raise MatlabError("its cells are nested too deeply")
    parts = _elements(content, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0].content) < 8 or head[1].kind != 5 or len(head[1].content) % 4:
        raise MatlabError("an array lacks its class, shape or name")
    flags = struct.unpack_from(f"{order}I", head[0].content)[0]
    shape = tuple(np.frombuffer(head[1].content, f"{order}i4").tolist())
    name = bytes(head[2].content).decode("latin-1")
    if len(shape) < 2 or len(shape) > 32 or min(shape) < 0:
        raise MatlabError(f"an array has the shape {list(shape)[:8]}")
    kind, count = flags & 0xFF, math.prod(shape)
    if kind == CELL:
        return name, _cells(parts, shape, order, depth)
    if kind == CHAR:
        return name, _text(next(parts, None), order, count)
    if not FIRST_NUMBER <= kind <= LAST_NUMBER or flags & 0x0800:  # sparse, struct, object; complex
        return name, None
    return name, _numbers(next(parts, None), order, count).reshape(shape, order="F")


def _cells(parts: Iterator[_Element], shape: tuple[int, ...], order: Order, depth: int) -> npt.NDArray[Any]:
    values = [_variable(part.content, order, depth + 1)[1] for part in parts if part.kind == MATRIX]
    if len(values) != math.prod(shape):
        raise MatlabError(f"{len(values)} cells, expected {math.prod(shape)}")
    cells = np.empty(len(values), object)
    cells[:] = values
    return cells.reshape(shape, order="F")


def _numbers(part: _Element | None, order: Order, count: int) -> npt.NDArray[Any]:
    if part is None or part.kind not in NUMBERS:
        raise MatlabError("an array has no numbers")
    kind = np.dtype(NUMBERS[part.kind]).newbyteorder(order)
    if len(part.content) != count * kind.itemsize:
        raise MatlabError(f"an array has {len(part.content) // kind.itemsize} numbers, expected {count}")
    return np.frombuffer(part.content, kind)


def _text(part: _Element | None, order: Order, count: int) -> str:
    if count == 0:
        return ""
    if part is None or part.kind not in (*TEXTS, *NUMBERS):
        raise MatlabError("a text has no characters")
    if part.kind in TEXTS:
        endian = "" if part.kind == 16 else "-le" if order == "<" else "-be"
        return bytes(part.content).decode(f"{TEXTS[part.kind]}{endian}", "replace")
    codes = _numbers(part, order, count)
    if codes.dtype.kind == "f" or codes.min() < 0 or codes.max() > 0x10FFFF:
        raise MatlabError("a text has codes that are no characters")
    return "".join(map(chr, codes.tolist())).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
