"""Damaged files at every door: each is read right or refused by an error that names it.

``pytest -m slow tests/fuzz`` tries 10,000 inputs per door, of which ``RCNN_FUZZ_FIRST`` is the first seed.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("resource", reason="limits of POSIX")

from fuzz import image_files
from fuzz.data_sets import MAKERS, open_whole
from fuzz.doors import DOORS
from fuzz.runner import fuzz
from rcnn.data.formats.registry import FORMATS
from rcnn.io.pillow_files import DECODERS

MANY = 10_000


def test_every_format_is_a_door() -> None:
    assert set(MAKERS) == set(FORMATS)


def test_every_decoder_of_images_is_a_door(tmp_path: Path) -> None:
    found = {"TIFF"}  # of which Pillow does not know every kind; HEIC is not its own
    for save in image_files.KINDS.values():
        if (path := save(tmp_path)).suffix not in (".tif", ".heic"):
            with Image.open(path) as image:
                found.add(str(image.format))
    assert found == set(DECODERS)


@pytest.mark.parametrize("door", DOORS)
def test_damaged_files_are_read_right_or_refused_by_name(door: str) -> None:
    count = fuzz(door, range(DOORS[door].gate))
    assert not count.found, "\n\n".join(count.found)
    assert count.refused + count.read == DOORS[door].gate


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_many(door: str) -> None:
    first = int(os.environ.get("RCNN_FUZZ_FIRST", DOORS[door].gate))
    count = fuzz(door, range(first, first + MANY))
    assert not count.found, "\n\n".join(count.found)


TEXTS = (".json", ".xml", ".txt", ".csv", ".yaml", ".geojson")
NAMED = re.compile(r"\b(p0|a)(?=\.(png|jpg|txt)\b|$)", re.MULTILINE)  # an image in a text


@pytest.mark.parametrize("name", ["a" * 300, "b/" * 3000 + "a", "c\0c"], ids=["long", "deep", "NUL"])
@pytest.mark.parametrize("key", MAKERS)
def test_images_that_no_file_can_be(key: str, name: str, tmp_path: Path) -> None:
    """Annotations that name such an image are refused by name, or it is one of the data set's problems."""
    path = MAKERS[key](tmp_path)
    for file in (f for f in tmp_path.rglob("*") if f.suffix in TEXTS):
        file.write_text(NAMED.sub(lambda _: name, file.read_text()))
    with suppress_named(tmp_path):
        open_whole(path, key)


@contextmanager
def suppress_named(folder: Path) -> Iterator[None]:
    """Let errors pass that name a file of the folder."""
    try:
        yield
    except ValueError as error:
        if str(folder) not in str(error):
            raise
