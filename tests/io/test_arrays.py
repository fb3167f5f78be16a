"""Arrays of ``numpy.save``: read as NumPy reads them; headers that say more than there is are refused."""

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rcnn.io.arrays import array_of


def saved(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["a", "bcd"]),
        np.zeros((0, 4), np.float32),
        np.array(3, ">i2"),
    ],
)
def test_as_numpy_reads_them(values: np.ndarray) -> None:
    found = array_of(saved(values))
    assert found.dtype == values.dtype
    assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(np.ones(4))[:-1], "it has 31 bytes"),
        (saved(np.ones(4)).replace(b"(4,)", b"(9999999999,)"), r"shape is \[9999999999\]"),
        (saved(np.array([None], object)), "Python objects"),
        (b"", "no header"),
        (saved(np.ones(4)).replace(b"}", b"("), "no header"),
    ],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        array_of(content)
