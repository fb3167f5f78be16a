"""More than 8 bits become 8 by percentiles, or by the rule that models trained before 0.2 saw."""

import numpy as np
import pytest

from rcnn.io.intensity import limits, rgb_view, scaled
from rcnn.io.reading import Reading

RNG = np.random.default_rng(0)
CELLS = RNG.integers(100, 3000, (200, 200, 1)).astype(np.uint16)  # of a 12-bit camera


def test_eight_bits_are_never_changed() -> None:
    values = np.full((4, 4, 3), 7, np.uint8)
    for intensity in ("percentiles", "maximum"):
        assert scaled(values, Reading(intensity=intensity), colour=True) is values


def test_the_convention() -> None:
    values = np.array([[[100], [150], [200]]], np.uint16)
    assert scaled(values, Reading(low=0, high=100), colour=False).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_one_hot_pixel_does_not_darken_the_rest(kind: type) -> None:
    hot = CELLS.copy()
    hot[5, 5] = 65535
    plain, other = (scaled(v.astype(kind), Reading(), colour=False).astype(int) for v in (CELLS, hot))
    assert np.abs(np.delete(plain - other, 5 * 200 + 5)).max() <= 1
    by_maximum = scaled(hot.astype(kind), Reading(intensity="maximum"), colour=False)
    assert np.delete(by_maximum, 5 * 200 + 5).max() <= 12  # what it was like


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_limits_are_numpys_percentiles(kind: type) -> None:
    values = CELLS.astype(kind)
    assert limits(values, Reading()) == pytest.approx(np.percentile(values, (0.1, 99.9)))


def test_channels_are_scaled_apart_and_colours_together() -> None:
    values = np.concatenate([CELLS, CELLS // 10, CELLS // 100], axis=2)
    apart = scaled(values, Reading(), colour=False)
    assert apart.max((0, 1)).tolist() == [255, 255, 255]
    together = scaled(values, Reading(), colour=True)
    assert together.max((0, 1)).tolist()[1:] != [255, 255]
    np.testing.assert_array_equal(scaled(values, Reading(jointly=True), colour=False), together)
    np.testing.assert_array_equal(scaled(values, Reading(jointly=False), colour=True), apart)


def test_what_is_not_finite_is_black() -> None:
    values = np.linspace(0, 1, 10_000).reshape(100, 100, 1)
    values[0, 0], values[0, 1] = np.nan, -np.inf
    found = scaled(values, Reading(), colour=False)
    assert (found[0, 0, 0], found[0, 1, 0], found[-1, -1, 0]) == (0, 0, 255)


@pytest.mark.parametrize("intensity", ["percentiles", "maximum"])
def test_nans_of_every_kind_are_black_without_a_warning(intensity: str) -> None:
    values = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100, 1)
    values.reshape(-1).view(np.uint32)[:2] = 0x7FC00000, 0x7F800001  # a quiet and a signalling one
    found = scaled(values, Reading(intensity=intensity), colour=False)
    assert (found[0, 0, 0], found[0, 1, 0], found[-1, -1, 0]) == (0, 0, 255)


def test_the_largest_floats_are_stretched_like_others() -> None:
    values = np.linspace(-1, 1, 10_000).reshape(100, 100, 1)
    largest = np.finfo(np.float64).max * values
    reading = Reading(low=0, high=100)
    np.testing.assert_array_equal(
        scaled(largest, reading, colour=False), scaled(values, reading, colour=False)
    )


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (7, 7), (4095, 255), (65535, 255)])
def test_an_image_of_one_value(value: int, expected: int) -> None:
    assert np.unique(scaled(np.full((3, 3, 1), value, np.uint16), Reading(), colour=False)) == [expected]


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 1, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])]
)
def test_what_is_shown_of_any_number_of_channels(channels: int, shown: list[int]) -> None:
    pixels = RNG.integers(0, 255, (2, 3, channels))
    np.testing.assert_array_equal(rgb_view(pixels), pixels[:, :, shown])


@pytest.mark.parametrize(
    "wrong", [{"channels": ()}, {"channels": (-1,)}, {"plane": -1}, {"low": 60, "high": 40}]
)
def test_readings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Reading(**wrong)
