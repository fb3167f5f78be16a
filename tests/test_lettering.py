"""Where numbers are written: inside, beside, or not at all, and never over each other."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rcnn.lettering import write_numbers


def written(boxes: Any, size: tuple[int, int] = (200, 200), **options: Any) -> tuple[list[bool], Any]:
    """Which of the numbers 1, 2, … are written on black, and what is light then."""
    picture = Image.new("RGB", size)
    found = write_numbers(ImageDraw.Draw(picture), range(1, len(boxes) + 1), boxes, **options)
    return found, np.array(picture).min(2) > 100


@pytest.mark.parametrize(
    ("boxes", "expected", "reason"),
    [
        ([], [], "no objects"),
        ([(20, 20, 60, 60)], [True], "inside"),
        ([(50, 50, 54, 54)], [True], "too small: beside"),
        ([(0, 0, 200, 200), (100, 100, 104, 104)], [True, False], "too small, and everywhere on another"),
        ([(20, 20, 60, 60), (20, 20, 60, 60)], [True, True], "at the same place: the second beside it"),
        ([(50, 50, 50, 50)], [True], "without area"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_numbers_are_written(boxes: Any, expected: list[bool], reason: str) -> None:
    assert written(boxes)[0] == expected


def test_a_number_inside_stays_inside() -> None:
    _, light = written([(20, 30, 60, 70)])
    rows, columns = np.nonzero(light)
    assert rows.min() >= 30
    assert rows.max() < 70
    assert columns.min() >= 20
    assert columns.max() < 60


def test_small_objects_are_never_covered() -> None:
    boxes = [(x, y, x + 5, y + 5) for x in range(0, 200, 25) for y in range(0, 200, 25)]
    found, light = written(boxes)
    assert all(found)
    assert not any(light[y1:y2, x1:x2].any() for x1, y1, x2, y2 in boxes)
    crowded = [(x, y, x + 5, y + 5) for x in range(0, 200, 6) for y in range(0, 200, 6)]
    found, light = written(crowded)
    assert not any(light[y1:y2, x1:x2].any() for x1, y1, x2, y2 in crowded)


def test_other_texts_stay_readable() -> None:
    found, light = written([(0, 0, 20, 20)], taken=[(0, 0, 20, 20)])
    assert found == [True]
    assert not light[:20, :20].any()


def test_larger_pictures_have_larger_numbers() -> None:
    small = written([(20, 20, 180, 180)])[1].sum()
    large = written([(20, 20, 1800, 1800)], (2000, 2000))[1].sum()
    assert large > 5 * small
