"""Pickles of arrays: what is read, and how what a file says of types and sizes is checked."""

import io
import pickle
from typing import Any

import numpy as np
import pytest

from rcnn.io.pickles import WITH_OBJECTS, read_arrays


def read(content: Any, protocol: int = 4, **options: Any) -> Any:
    return read_arrays(io.BytesIO(pickle.dumps(content, protocol)), **options)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_hold_what_is_read(protocol: int) -> None:
    found = read(np.array([{"a": np.arange(3)}, None, "x"], object), protocol, kinds=WITH_OBJECTS)
    assert found[0]["a"].tolist() == [0, 1, 2]
    assert found[1:].tolist() == [None, "x"]
    with pytest.raises(pickle.UnpicklingError, match="an array of object, where numbers are expected"):
        read(np.array([1, None], object), protocol)


class Forged:
    """Pickles as an array with the state of another one."""

    def __init__(self, dtype: str, dtype_state: Any, state: Any) -> None:
        self.parts = dtype, dtype_state, state

    def __reduce__(self) -> Any:
        from numpy._core.multiarray import _reconstruct

        dtype, dtype_state, state = self.parts
        return (
            _reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, state[0], Type(dtype, dtype_state), False, state[1]),
        )


class Type:
    def __init__(self, code: str, state: Any) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), self.state


NORMAL = (3, "<", None, None, None, -1, -1, 0)


def test_flags_of_a_type_are_not_taken_from_the_file() -> None:
    found = read(Forged("f4", (*NORMAL[:-1], 63), ((2,), bytes(8))))
    assert found.tolist() == [0, 0]
    assert (found.dtype.flags, found.dtype.hasobject) == (np.dtype("f4").flags, False)


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (Forged("O", (3, "|", None, None, None, -1, -1, 63), ((5,), [1])), "another number of them"),
        (Forged("O", (3, "|", None, None, None, -1, -1, 63), ((5,), bytes(40))), "another number of them"),
        (Forged("f4", (3, "?", None, None, None, -1, -1, 0), ((2,), bytes(8))), r"byte order '\?'"),
        (Forged("i4,O", NORMAL, ((2,), bytes(8))), "where numbers are expected"),
        (Forged("f4", NORMAL, ((2,), bytes(7))), "buffer size|size"),
    ],
)
def test_forged_arrays_are_refused(forged: Forged, message: str) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError), match=message):
        read(forged, kinds=WITH_OBJECTS)
