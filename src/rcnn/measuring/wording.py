"""What columns are called on pictures and pages, and what they mean."""

from __future__ import annotations

UNITS = {
    "px": "px", "px2": "px²", "deg": "°", "nm": "nm", "nm2": "nm²", "um": "µm", "um2": "µm²", "mm": "mm",
    "mm2": "mm²", "cm": "cm", "cm2": "cm²", "m": "m", "m2": "m²", "km2": "km²", "mpx": "megapixel",
}  # fmt: skip
MEANINGS = {
    "row": "number of the object in every output: its row in objects.csv",
    "class": "class",
    "score": "score of the detection, 0 to 1",
    "region": "the regions in which the centroid is",
    "centroid_x": "centre of mass of the mask, or centre of the box",
    "centroid_y": "centre of mass of the mask, or centre of the box",
    "at_border": "1 if the object reaches the border of the image and may go on beyond it",
    "cut": "1 if a tile cuts the object and its rest was not found",
    "box_width": "width of the detected box",
    "box_height": "height of the detected box",
    "box_area": "area of the detected box",
    "area": "pixels of the mask, times the area of a pixel",
    "perimeter": "length of the outline by Crofton's formula in four directions",
    "major_axis": "long axis of the ellipse with the same second moments",
    "minor_axis": "short axis of the ellipse with the same second moments",
    "feret_max": "greatest distance of two points of the object (maximum Feret diameter)",
    "feret_min": "least distance of two parallel lines around the object (minimum Feret diameter)",
    "equivalent_diameter": "diameter of the disc of the same area",
    "circularity": "4π area / perimeter²: 1 for discs, less for anything else",
    "solidity": "area / area of the convex hull",
    "orientation": "angle from the x axis to the long axis, counterclockwise, above −90 up to 90",  # noqa: RUF001
    "neighbour_distance": "distance from centroid to centroid of the nearest other object in the image",
    "neighbour_row": "row of that object",
    "intensity_mean": "mean of the stored values in the object",
    "intensity_std": "standard deviation of the stored values in the object",
    "intensity_min": "least stored value in the object",
    "intensity_max": "greatest stored value in the object",
    "intensity_background": "median of the stored values in the background",
    "intensity_corrected": "mean less background",
}


def parted(column: str) -> tuple[str, str]:
    """A column's name without its unit, and the unit as people write it, empty where there is none."""
    name, _, unit = column.rpartition("_")
    return (name, UNITS[unit]) if unit in UNITS and name in MEANINGS else (column, "")


def meaning_of(column: str) -> str:
    """What a column holds."""
    name, _ = parted(column)
    if name in MEANINGS:
        return MEANINGS[name]
    return MEANINGS[name.rpartition("_")[0]]  # of a channel


def label_of(column: str) -> str:
    """A column's name for people: ``area_um2`` becomes ``area, µm²``."""
    name, unit = parted(column)
    text = name.replace("_", " ")
    return f"{text}, {unit}" if unit else text
