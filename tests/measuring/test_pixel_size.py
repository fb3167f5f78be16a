"""Pixel sizes as users write them, and as the metadata of TIFF files have them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose

from rcnn.io.reading import ImageError
from rcnn.measuring.pixel_size import PixelSize, parse_pixel_size, pixel_sizes, stored_pixel_size

PIXELS = np.zeros((8, 9), np.uint8)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("0.32um", 0.32, "um"),
        ("0.32 µm", 0.32, "um"),
        (".5 microns", 0.5, "um"),
        ("50nm", 50, "nm"),
        ("1e-3mm", 1e-3, "mm"),
        ("2 cm", 2, "cm"),
        ("1m", 1, "m"),
        ("254dpi", 100, "um"),
        ("px", 1, "px"),
    ],
)
def test_what_users_write(text: str, value: float, unit: str) -> None:
    found = parse_pixel_size(text)
    assert_allclose(found.value, value)
    assert found.unit == unit


@pytest.mark.parametrize("text", ["0.32", "um", "0um", "-1um", "1 parsec", "", "1e999um", "3px", "1,5um"])
def test_what_is_no_pixel_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a number and a unit, such as 0\.32um"):
        parse_pixel_size(text)


def test_areas_in_the_units_of_density() -> None:
    assert_allclose(PixelSize(0.5, "um").large_area(4e6), 1)  # 2000 by 2000 pixels are one mm²
    assert PixelSize(0.5, "um").density_unit == "mm2"
    assert_allclose(PixelSize(2, "m").large_area(1e6), 4)
    assert PixelSize(2, "m").density_unit == "km2"
    assert_allclose(PixelSize().large_area(3e6), 3)
    assert PixelSize().density_unit == "mpx"


def tiff(folder: Path, **options: Any) -> Path:
    path = folder / "a.tif"
    tifffile.imwrite(path, PIXELS, **options)
    return path


@pytest.mark.parametrize(
    ("options", "size", "source"),
    [
        ({"resolution": (31250, 31250), "resolutionunit": "CENTIMETER"}, 0.32, "TIFF tags"),
        ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5, "TIFF tags"),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25, "ImageJ metadata"),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "\\u00B5m"}}, 0.25, "ImageJ metadata"),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "mm"}}, 500, "ImageJ metadata"),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2}}, 0.2, "OME metadata"),
        (
            {
                "ome": True,
                "metadata": {
                    "PhysicalSizeX": 90, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 90,
                    "PhysicalSizeYUnit": "nm",
                },
            },
            0.09,
            "OME metadata",
        ),
    ],
)  # fmt: skip
def test_what_metadata_say(options: dict[str, Any], size: float, source: str, tmp_path: Path) -> None:
    found = stored_pixel_size(tiff(tmp_path, **options))
    assert found is not None
    assert_allclose(found.value, size, rtol=1e-6)
    assert (found.unit, found.source) == ("um", source)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": (72, 72), "resolutionunit": "INCH"},  # what programs write into any file
        {"resolution": (300, 300), "resolutionunit": "INCH"},
        {"resolution": (118.1102, 118.1102), "resolutionunit": "CENTIMETER"},  # 300 dpi
        {"resolution": (1, 1), "resolutionunit": "NONE"},
        {"imagej": True},
        {"imagej": True, "resolution": (1, 1), "metadata": {"unit": "pixel"}},
        {"ome": True},
    ],
)
def test_metadata_that_say_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    assert stored_pixel_size(tiff(tmp_path, **options)) is None


def test_pixels_that_are_not_square_are_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path, resolution=(31250, 20000), resolutionunit="CENTIMETER")
    with pytest.raises(ImageError, match=re.escape("its pixels are 0.32 by 0.5 µm (TIFF tags)")):
        stored_pixel_size(path)


def test_images_of_one_prediction_are_measured_in_one_unit(tmp_path: Path) -> None:
    one = tiff(tmp_path, resolution=(31250, 31250), resolutionunit="CENTIMETER")
    other = tmp_path / "b.tif"
    tifffile.imwrite(other, PIXELS)
    text = tmp_path / "c.tif"
    text.write_text("damaged")
    assert pixel_sizes({"b": other}, None)["b"] == PixelSize()
    assert_allclose(pixel_sizes({"a": one}, None)["a"].value, 0.32)
    assert {size.value for size in pixel_sizes({"a": one, "b": other}, "2um").values()} == {2}
    with pytest.raises(ValueError, match=r"1 of 2 images do not say .*: b; give --pixel-size for all"):
        pixel_sizes({"a": one, "b": other}, None)
    assert pixel_sizes({"c": text}, None)["c"] == PixelSize()
