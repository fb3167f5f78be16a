"""The shape of masks, by scikit-image and, for Feret diameters, by the corners of pixels.

Differs from scikit-image: both Feret diameters are those of the convex hull around whole pixels, as in
ImageJ, so that rectangles are exact (scikit-image has no minimum, and its maximum ends at pixel centres).

Convention: a mask of 3 by 4 pixels has ``area 12``, ``feret_max 5``, ``feret_min 3``.

Legend: K corners.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from rcnn.extras import install_command
from rcnn.structures import Array, Masks

LENGTHS = ("perimeter", "major_axis", "minor_axis", "feret_max", "feret_min", "equivalent_diameter")
AREA = "area"
PLAIN = ("circularity", "solidity")
ORIENTATION = "orientation"
SHAPES = (AREA, *LENGTHS, *PLAIN, ORIENTATION)
ROUND = 1e-6  # relative difference of the axes below which there is no orientation


def shapes_of(masks: Masks) -> dict[str, npt.NDArray[np.float64]]:
    """The shape of each mask, ``[N]`` by name, in pixels, square pixels and degrees; NaN of empty ones.

    Raises:
        ValueError: scikit-image is not installed.
    """
    skimage = library()
    table = np.full((len(masks), len(SHAPES)), np.nan)
    table[:, 0] = 0.0
    for row, patch in zip(table, masks.patches(), strict=True):
        if patch.any():
            row[:] = list(_shape_of(patch != 0, skimage))
    return dict(zip(SHAPES, table.T, strict=True))


def library() -> ModuleType:
    """``skimage.measure``.

    Raises:
        ValueError: scikit-image is not installed.
    """
    try:
        from skimage import measure
    except ImportError as error:
        raise ValueError(f"measuring shapes needs scikit-image: {install_command('measure')}") from error
    found: ModuleType = measure
    return found


def _shape_of(patch: npt.NDArray[np.bool_], skimage: ModuleType) -> Iterator[float]:
    """The values of ``SHAPES``, in their order."""
    (region,) = skimage.regionprops(np.pad(patch, 1).astype(np.uint8))
    area, perimeter = float(region.area), float(region.perimeter_crofton)
    major, minor = float(region.axis_major_length), float(region.axis_minor_length)
    hull = hull_corners(patch)
    yield area
    yield perimeter
    yield major
    yield minor
    yield float(pdist(hull).max())
    yield least_width(hull)
    yield 2 * math.sqrt(area / math.pi)
    yield 4 * math.pi * area / perimeter**2
    yield float(region.solidity)
    yield math.nan if major - minor <= ROUND * major else _degrees(float(region.orientation))


def _degrees(orientation: float) -> float:
    """The angle between the x axis and the major axis, counterclockwise as seen, above -90 up to 90.

    Args:
        orientation: scikit-image's, between the y axis (downwards) and the major axis, in radians.
    """
    angle = math.degrees(math.atan2(-math.cos(orientation), math.sin(orientation)))
    angle = angle + 180 if angle <= -90 else angle - 180 if angle > 90 else angle
    angle = round(angle, 9) + 0.0  # no -0
    return 90.0 if angle == -90 else angle


def hull_corners(patch: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The convex hull of the pixels of a mask as whole squares: its corners ``[K, 2]`` of x, y in order."""
    rows = np.flatnonzero(patch.any(1))
    first = patch[rows].argmax(1)
    last = patch.shape[1] - patch[rows, ::-1].argmax(1)
    corners = np.concatenate([np.stack([x, y], 1) for x in (first, last) for y in (rows, rows + 1)])
    points: npt.NDArray[np.float64] = corners[ConvexHull(corners).vertices].astype(np.float64)
    return points


def least_width(hull: Array) -> float:
    """The least distance of two parallel lines that have a convex polygon ``[K, 2]`` between them.

    One of the lines lies along a side of the polygon.
    """
    sides = np.roll(hull, -1, 0) - hull
    normals = np.stack([-sides[:, 1], sides[:, 0]], 1) / np.linalg.norm(sides, axis=1)[:, None]
    heights = hull @ normals.T  # [K, K]
    return float(np.ptp(heights, axis=0).min())
