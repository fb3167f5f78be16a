"""Shapes against closed forms: discs, ellipses and rectangles, with stated tolerances."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rcnn.measuring.shapes import SHAPES, hull_corners, least_width, shapes_of
from rcnn.structures import Masks

CENTRES = [tuple(np.random.default_rng(seed).random(2) - 0.5) for seed in range(6)]


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres, from the middle of the image."""
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    return x, y


def ellipse(a: float, b: float, degrees: float = 0, centre: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Half axes a and b, turned counterclockwise as seen."""
    x, y = grid(2 * math.ceil(max(a, b)) + 10)
    x, y = x - centre[0], y - centre[1]
    angle = math.radians(degrees)
    along, across = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    return (along / a) ** 2 + (across / b) ** 2 <= 1


def rectangle(width: int, height: int) -> np.ndarray:
    bitmap = np.zeros((height + 4, width + 6), bool)
    bitmap[2 : 2 + height, 3 : 3 + width] = True
    return bitmap


def shape(bitmap: np.ndarray) -> dict[str, float]:
    found = shapes_of(Masks.from_dense(bitmap[None]))
    assert tuple(found) == SHAPES
    return {name: float(values[0]) for name, values in found.items()}


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("radius", [10, 25, 60])
def test_a_disc(radius: int, centre: tuple[float, float]) -> None:
    found = shape(ellipse(radius, radius, centre=centre))
    assert_allclose(found["area"], math.pi * radius**2, rtol=0.01)
    assert_allclose(found["perimeter"], 2 * math.pi * radius, rtol=0.01)
    assert_allclose(found["circularity"], 1, atol=0.02)
    assert_allclose([found["major_axis"], found["minor_axis"]], 2 * radius, rtol=0.02)
    assert_allclose(found["equivalent_diameter"], 2 * radius, rtol=0.005)
    # Whole pixels reach at most one pixel beyond the circle in all, and half a pixel less within.
    assert -0.5 <= found["feret_max"] - 2 * radius <= 1.5
    assert -0.5 <= found["feret_min"] - 2 * radius <= 1
    assert 0.94 <= found["solidity"] <= 1


def test_circles_have_no_orientation_and_small_discs_are_biased_as_documented() -> None:
    assert math.isnan(shape(ellipse(20, 20))["orientation"])
    for radius, tolerance in ((3, 0.08), (5, 0.015), (8, 0.015)):
        errors = [
            shape(ellipse(radius, radius, centre=centre))["perimeter"] / (2 * math.pi * radius) - 1
            for centre in CENTRES
        ]
        assert max(map(abs, errors)) <= tolerance, radius


@pytest.mark.parametrize("degrees", [0, 30, 45, 77, 90, -20, -60])
def test_an_ellipse(degrees: int) -> None:
    a, b = 40, 18
    found = shape(ellipse(a, b, degrees, CENTRES[0]))
    # Ramanujan's second approximation, exact to a millionth here.
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert_allclose(found["area"], math.pi * a * b, rtol=0.01)
    assert_allclose(found["perimeter"], perimeter, rtol=0.02)
    assert_allclose(found["circularity"], 4 * math.pi**2 * a * b / perimeter**2, atol=0.04)
    assert_allclose(found["major_axis"], 2 * a, rtol=0.01)
    assert_allclose(found["minor_axis"], 2 * b, rtol=0.01)
    assert_allclose(found["feret_max"], 2 * a, atol=1.5)
    assert_allclose(found["feret_min"], 2 * b, atol=1.5)
    assert_allclose(math.sin(math.radians(found["orientation"] - degrees)), 0, atol=0.01)
    assert -90 < found["orientation"] <= 90


@pytest.mark.parametrize(("width", "height"), [(3, 4), (12, 12), (40, 10), (7, 60)])
def test_a_rectangle(width: int, height: int) -> None:
    found = shape(rectangle(width, height))
    assert found["area"] == width * height
    assert_allclose(found["feret_max"], math.hypot(width, height))
    assert_allclose(found["feret_min"], min(width, height))
    assert_allclose(found["solidity"], 1)
    # The variance of pixel centres: (w² - 1) / 12 along a side of w pixels.
    sides = [4 * math.sqrt((side**2 - 1) / 12) for side in (max(width, height), min(width, height))]
    assert_allclose([found["major_axis"], found["minor_axis"]], sides)
    if width != height:
        assert found["orientation"] == (0 if width > height else 90)
    # Crofton's formula in four directions takes a side along the pixels for up to a seventh too short.
    assert -0.15 <= found["perimeter"] / (2 * (width + height)) - 1 <= -0.05


@pytest.mark.parametrize("degrees", [10, 20, 30, 60, 75])
def test_the_perimeter_of_turned_rectangles(degrees: int) -> None:
    x, y = grid(130)
    angle = math.radians(degrees)
    along, across = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    found = shape((np.abs(along) <= 40) & (np.abs(across) <= 15))
    assert_allclose(found["perimeter"], 2 * (80 + 30), rtol=0.025)
    assert_allclose(found["feret_max"], math.hypot(80, 30), atol=1.5)
    assert_allclose(found["feret_min"], 30, atol=1.5)
    assert_allclose(found["orientation"], degrees, atol=0.5)


def test_a_line_a_pixel_and_nothing() -> None:
    line, pixel = shape(rectangle(10, 1)), shape(rectangle(1, 1))
    assert (line["area"], line["minor_axis"], line["feret_min"], line["orientation"]) == (10, 0, 1, 0)
    assert (pixel["area"], pixel["major_axis"], pixel["feret_min"]) == (1, 0, 1)
    assert_allclose(pixel["feret_max"], math.sqrt(2))
    empty = shape(np.zeros((4, 4), bool))
    assert empty.pop("area") == 0
    assert all(math.isnan(value) for value in empty.values())
    assert all(len(values) == 0 for values in shapes_of(Masks.empty((5, 5))).values())


def test_a_shape_with_a_bay_and_one_of_two_parts() -> None:
    bay = rectangle(20, 20)
    bay[6:18, 10:30] = False
    assert_allclose(shape(bay)["solidity"], bay.sum() / 400, atol=0.06)
    apart = np.zeros((10, 30), bool)
    apart[2:4, 2:4] = apart[2:4, 20:22] = True
    found = shape(apart)
    assert (found["area"], found["feret_min"]) == (8, 2)
    assert_allclose(found["feret_max"], math.hypot(20, 2))


def test_the_hull_and_its_width_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        patch = rng.random((rng.integers(1, 12), rng.integers(1, 12))) > 0.6
        if not patch.any():
            continue
        ys, xs = patch.nonzero()
        corners = np.concatenate([np.stack([xs + dx, ys + dy], 1) for dx in (0, 1) for dy in (0, 1)])
        angles = np.linspace(0, math.pi, 20001)
        heights = corners @ np.stack([np.cos(angles), np.sin(angles)])
        widths = np.ptp(heights, axis=0)
        hull = hull_corners(patch)
        assert_allclose(least_width(hull), widths.min(), rtol=1e-3)
        assert_allclose(np.ptp(hull @ np.stack([np.cos(angles), np.sin(angles)]), axis=0).max(), widths.max())
