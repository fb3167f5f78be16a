"""Arrays that ``numpy.save`` wrote, read without trusting what the file says of itself.

NumPy takes memory for the shape that a header names before it sees that the numbers are not there.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt


def array_header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The shape, whether columns come first, and the type; the file is then at the content.

    Raises:
        ValueError: no such header. Damaged ones also raise other exceptions, of Python's tokenizer.
    """
    version = np.lib.format.read_magic(file)
    first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    return read(file)


def array_of(content: bytes) -> npt.NDArray[Any]:
    """The array that a file holds; it cannot be written to.

    Raises:
        ValueError: no array, one of Python objects, or not as many numbers as its shape says.
    """
    file = io.BytesIO(content)
    try:
        shape, columns_first, kind = array_header(file)
    except (
        Exception
    ) as error:  # NumPy parses the header as Python code, whose tokenizer has errors of its own
        raise ValueError(f"it has no header of a NumPy array ({error})") from error
    if kind.hasobject:
        raise ValueError("it is an array of Python objects")
    count, there = math.prod(shape), len(content) - file.tell()
    if min(shape, default=0) < 0 or count * kind.itemsize != there:
        raise ValueError(f"its shape is {list(shape)} of {kind}, but it has {there} bytes")
    if not count:
        return np.zeros(shape, kind)
    values = np.frombuffer(content, kind, count, offset=file.tell())
    return values.reshape(shape, order="F" if columns_first else "C")
