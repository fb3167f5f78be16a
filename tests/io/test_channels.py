"""The channels of files in their own depth, and their names from the header alone."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rcnn.io.channels import channel_names, read_channels
from rcnn.io.reading import Reading

RGB, GRAY = ("red", "green", "blue"), ("",)


@pytest.mark.parametrize(
    ("mode", "ending", "expected"),
    [
        ("1", "png", GRAY), ("L", "png", GRAY), ("L", "jpg", GRAY), ("LA", "png", GRAY),
        ("I;16", "png", GRAY),
        ("F", "tif", GRAY), ("RGB", "png", RGB), ("RGBA", "png", RGB), ("P", "png", RGB), ("P", "gif", RGB),
        ("CMYK", "jpg", RGB), ("RGB", "tif", RGB), ("CMYK", "tif", RGB), ("L", "tif", GRAY),
    ],
)  # fmt: skip
def test_the_header_names_the_channels_that_are_read(
    mode: str, ending: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{ending}"
    Image.new(mode, (7, 5)).save(path)
    values, names = read_channels(path, Reading())
    assert names == channel_names(path, Reading()) == expected
    assert values.shape == (5, 7, len(expected))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_channels_without_colours_have_numbers_whatever_the_model_takes(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.arange(count * 35, dtype=np.uint16).reshape(count, 5, 7) * 300
    tifffile.imwrite(path, pixels, photometric="minisblack", ome=True, metadata={"axes": "CYX"})
    for reading in (Reading(), Reading(channels=(1,))):
        values, names = read_channels(path, reading)
        assert names == channel_names(path, reading) == tuple(f"c{i}" for i in range(count))
        assert np.array_equal(values, pixels.transpose(1, 2, 0))


def test_pages_that_are_taken_for_channels_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.arange(4 * 35, dtype=np.uint16).reshape(4, 5, 7)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)
    values, names = read_channels(path, Reading(channels=(2, 0)))
    assert names == channel_names(path, Reading(channels=(2, 0))) == ("c2", "c0")
    assert np.array_equal(values[:, :, 0], pixels[2])
