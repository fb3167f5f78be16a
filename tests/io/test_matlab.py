"""MATLAB files: what SciPy writes is read as SciPy reads it, and damaged files are refused."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.io import loadmat, savemat

from rcnn.io.matlab import MatlabError, read_matlab


def saved(content: dict[str, Any], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, content, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6, dtype=np.uint16).reshape(3, 2),
        np.array([[-1, 2**40]], np.int64),
        np.array([[1.5]], np.float32),
        np.zeros((0, 4)),
        np.arange(24, dtype=np.int8).reshape(2, 3, 4),
    ],
)
def test_numbers_are_those_of_scipy(values: np.ndarray, compressed: bool) -> None:
    content = saved({"boxes": values}, compressed=compressed)
    assert_array_equal(read_matlab(content)["boxes"], loadmat(io.BytesIO(content))["boxes"])


@pytest.mark.parametrize("compressed", [False, True])
def test_cells_of_numbers_and_texts(compressed: bool) -> None:
    cells = np.empty((1, 3), object)
    cells[0] = [np.ones((2, 4)), "caf\u00e9 \U0001f600", np.zeros((0, 0))]
    found = read_matlab(saved({"cells": cells, "text": "abc"}, compressed=compressed))
    assert found["text"] == "abc"
    assert found["cells"].shape == (1, 3)
    assert_array_equal(found["cells"][0, 0], np.ones((2, 4)))
    assert found["cells"][0, 1] == cells[0, 1]
    assert found["cells"][0, 2].size == 0


def test_other_kinds_are_left_out() -> None:
    found = read_matlab(saved({"record": {"a": 1}, "waves": np.array([[1j]]), "n": 3}))
    assert list(found) == ["n"]


@pytest.mark.parametrize("cut", [0, 100, 127, 130, 140, 160, -1])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files_are_refused(cut: int, compressed: bool) -> None:
    content = saved({"boxes": np.ones((4, 4))}, compressed=compressed)
    with pytest.raises(MatlabError):
        read_matlab(content[:cut])


def test_sizes_are_compared_before_memory_is_taken() -> None:
    content = bytearray(saved({"boxes": np.ones((4, 4))}))
    place = content.index(struct.pack("<ii", 4, 4))
    content[place : place + 8] = struct.pack("<ii", 2**30, 2**30)
    with pytest.raises(MatlabError, match="16 numbers, expected 1152921504606846976"):
        read_matlab(bytes(content))


def test_newer_files_are_named() -> None:
    content = bytearray(saved({"boxes": 1}))
    content[124:126] = struct.pack("<H", 0x0200)
    with pytest.raises(MatlabError, match=r"MATLAB 7\.3.*-v7"):
        read_matlab(bytes(content))
