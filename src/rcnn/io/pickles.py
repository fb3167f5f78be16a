"""Pickles of NumPy arrays, read without running any code that they name.

A pickle names functions and classes, and reading it calls them. Here it gets arrays and plain containers,
made by the functions of this file; anything else is refused by name. Of what a file says about the type of an
array, only its name and byte order are used, and sizes are compared before NumPy sees them.
"""

from __future__ import annotations

import codecs
import math
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, BinaryIO

import numpy as np

NUMBERS = "biuf"  # kinds of NumPy's types
WITH_OBJECTS = NUMBERS + "OUS"
ORDERS = ("<", ">", "=", "|")


def read_arrays(file: BinaryIO, *, kinds: str = NUMBERS) -> Any:
    """The content of a pickle.

    Args:
        file: open in binary mode, at the beginning of the pickle.
        kinds: the kinds of arrays that are read. Arrays of objects (``O``) hold what is read anyway.

    Raises:
        pickle.UnpicklingError: it asks for something else; the message names it. Damaged pickles also raise
            other exceptions, as those of Python do.
    """
    # Python 2 wrote the arrays of the oldest files.
    return _ArrayUnpickler(file, kinds).load()


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and plain containers, and nothing else."""

    def __init__(self, file: BinaryIO, kinds: str) -> None:
        super().__init__(file, encoding="latin1")
        self.kinds = kinds

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for; asked for every class and function in it."""
        top, _, rest = module.partition(".")
        if (module, name) == ("numpy", "dtype"):
            return partial(_Dtype, self.kinds)
        if top == "numpy" and (rest.removeprefix("_"), name) in _NUMPY:
            return _NUMPY[rest.removeprefix("_"), name]
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, where only numpy arrays and plain containers are read"
        )


class _Dtype:
    """A type of arrays, until its byte order is known."""

    def __init__(self, kinds: str, code: Any, *_: Any) -> None:
        self.dtype: np.dtype[Any] = np.dtype(str(code))
        if self.dtype.kind not in kinds:
            raise pickle.UnpicklingError(f"it has an array of {self.dtype}, where numbers are expected")

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ORDERS:
            raise pickle.UnpicklingError(f"it has a type with the byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array that the pickle fills."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise pickle.UnpicklingError("it has an array of unknown form")
        version, shape, kind, columns_first, content = state
        # NumPy itself trusts the length of a list of objects.
        if kind.dtype.hasobject and (not isinstance(content, list) or len(content) != math.prod(shape)):
            raise pickle.UnpicklingError("it has an array of objects with another number of them")
        super().__setstate__((version, shape, kind.dtype, columns_first, content))


def _array(*_: Any) -> _Array:
    """An empty array."""
    return _Array((0,), np.uint8)


def _scalar(kind: _Dtype, content: bytes | str) -> Any:
    raw = content if isinstance(content, bytes) else content.encode("latin1")
    if kind.dtype.hasobject:
        raise pickle.UnpicklingError("it has a single object as a number")
    return np.frombuffer(raw, kind.dtype)[0].item()


def _from_buffer(content: bytes, kind: _Dtype, shape: Sequence[int], order: str) -> Any:
    """How protocol 5 writes an array; a copy, since the bytes are not to be written to."""
    return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _bytes_of(text: str, encoding: str) -> bytes:
    """How pickles for Python 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it has bytes in the encoding {encoding!r}, expected latin1")
    return codecs.latin_1_encode(text)[0]


def _no_bytes() -> bytes:
    """How they write those of an empty array."""
    return b""


_NUMPY: dict[tuple[str, str], Any] = {
    ("core.multiarray", "_reconstruct"): _array,
    ("core.multiarray", "scalar"): _scalar,
    ("core.numeric", "_frombuffer"): _from_buffer,
}
_PLAIN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct; not to be called itself
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes_of,
    ("__builtin__", "bytes"): _no_bytes,
}
