"""--channels, --plane and --exif, and what they become."""

import pytest

from rcnn.cli.options import chosen_reading, reading_settings
from rcnn.io.reading import Reading


def test_options_become_settings() -> None:
    assert reading_settings("0,2,1", "max", "stored") == [
        "transform.read.channels=[0,2,1]",
        "transform.read.plane=max",
        "transform.read.exif=stored",
    ]
    assert reading_settings() == []


def test_options_lie_on_top_of_a_models_reading() -> None:
    base = Reading(intensity="maximum", plane=1)
    assert chosen_reading(None, None, None, base) == base
    expected = Reading(intensity="maximum", plane=3, channels=(2,), exif="turned")
    assert chosen_reading("2", "3", "turned", base) == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("a", None, None), "--channels a"),
        ((None, "-1", None), "--plane -1"),
        ((None, None, "no"), "--exif no"),
    ],
)
def test_wrong_options_are_named(given: tuple[str | None, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        reading_settings(*given)
