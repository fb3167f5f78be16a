"""Counts, densities and mean sizes of the objects of an image, class by class, and inside regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.measuring.measurements import Measurements, find_column
from rcnn.structures import Array

OUTSIDE = "(outside)"


def summary_columns(unit: str, density_unit: str) -> list[str]:
    """The columns of ``summary.csv``."""
    return [
        "image", "class", "count", f"density_per_{density_unit}", "area_fraction", f"area_mean_{unit}2",
        f"area_median_{unit}2", f"image_area_{density_unit}", f"pixel_size_{unit}", "pixel_size_source",
    ]  # fmt: skip


def summary_rows(image_id: str, measured: Measurements) -> list[list[object]]:
    """A row for each class, with 0 too.

    Areas are those of masks or, of models without masks, of boxes; the fraction of the image's area is of
    masks alone, and counts what overlaps twice.
    """
    size = measured.pixel_size
    pixels = float(np.prod(measured.size))
    image_area = size.large_area(pixels)
    areas = area_values(measured.columns)
    masks = _masks_area(measured)
    rows: list[list[object]] = []
    for name in measured.class_names:
        own = measured.columns["class"] == name
        known = areas[own][np.isfinite(areas[own])]
        count = int(own.sum())
        fraction = np.nansum(masks[own]) / (pixels * size.value**2) if masks is not None else np.nan
        mean, median = (known.mean(), np.median(known)) if len(known) else (np.nan, np.nan)
        numbers = _numbers(count / image_area, fraction, mean, median, image_area, size.value)
        rows.append([image_id, name, count, *numbers, size.source])
    return rows


def region_columns(density_unit: str) -> list[str]:
    """The columns of ``regions.csv``."""
    return ["image", "region", "class", "count", f"density_per_{density_unit}", f"region_area_{density_unit}"]


def region_rows(image_id: str, measured: Measurements) -> list[list[object]]:
    """A row for each region and class, with 0 too, and for what is in no region."""
    regions = measured.regions
    if regions is None:
        return []
    columns = measured.columns
    points = np.stack([columns["centroid_x_px"], columns["centroid_y_px"]], 1)
    inside = regions.memberships(points)
    union = np.zeros(regions.masks.size, bool)
    for patch, (x1, y1, x2, y2) in zip(regions.masks.patches(), regions.masks.windows.tolist(), strict=True):
        union[y1:y2, x1:x2] |= patch.astype(bool)
    areas = [*regions.areas(), float(union.size - union.sum())]
    members = np.column_stack([inside, ~inside.any(1)])
    rows: list[list[object]] = []
    for name, pixels, own in zip((*regions.names, OUTSIDE), areas, members.T, strict=True):
        area = measured.pixel_size.large_area(pixels)
        for label in measured.class_names:
            count = int((own & (columns["class"] == label)).sum())
            rows.append([image_id, name, label, count, *_numbers(count / area if area else np.nan, area)])
    return rows


def area_values(columns: dict[str, Array]) -> Array:
    """The areas of masks, or of boxes where no object has a mask."""
    names = tuple(columns)
    boxes = np.asarray(columns[find_column("box_area", names)], np.float64)
    found = [name for name in names if name.startswith("area_")]
    masks = np.asarray(columns[found[0]], np.float64) if found else np.full(len(boxes), np.nan)
    return masks if np.isfinite(masks).any() else boxes


def _masks_area(measured: Measurements) -> Array | None:
    found = [name for name in measured.columns if name.startswith("area_")]
    values = None if not found else np.asarray(measured.columns[found[0]], np.float64)
    return values if values is not None and (np.isfinite(values).any() or not len(values)) else None


def _numbers(*values: float) -> Sequence[str]:
    """Numbers with six digits, empty where there is none."""
    return ["" if not np.isfinite(value) else f"{value:.6g}" for value in values]
