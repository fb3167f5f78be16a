"""Damaged files at every door: each is read right or refused by an error that names it.

``pytest -m slow tests/fuzz`` tries 10,000 inputs per door, of which ``RCNN_FUZZ_FIRST`` is the first seed.
"""

import os

import pytest

from fuzz.data_sets import MAKERS
from fuzz.doors import DOORS
from fuzz.runner import fuzz
from rcnn.data.formats.registry import FORMATS

GATE = 120
MANY = 10_000


def test_every_format_is_a_door() -> None:
    assert set(MAKERS) == set(FORMATS)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_damaged_files_are_read_right_or_refused_by_name(door: str) -> None:
    count = fuzz(door, range(GATE))
    assert not count.found, "\n\n".join(count.found)
    assert count.refused + count.read == GATE


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_many(door: str) -> None:
    first = int(os.environ.get("RCNN_FUZZ_FIRST", GATE))
    count = fuzz(door, range(first, first + MANY))
    assert not count.found, "\n\n".join(count.found)
