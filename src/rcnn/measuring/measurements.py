"""Measure the objects of one image: a table with one row per object, units in the names of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from rcnn.config import did_you_mean
from rcnn.io.atomic import write_atomically
from rcnn.io.channels import named_channels, read_channels
from rcnn.io.reading import Reading
from rcnn.measuring.intensities import Background, check_background, column_names, intensities_of
from rcnn.measuring.pixel_size import PixelSize, parse_pixel_size, stored_pixel_size
from rcnn.measuring.regions import Regions, open_regions
from rcnn.measuring.shapes import AREA, LENGTHS, ORIENTATION, SHAPES, shapes_of
from rcnn.measuring.wording import parted
from rcnn.structures import Array, Instances, table

Kind = Literal["shape", "intensity"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEPARATOR = "; "  # between the regions that an object is in
LENGTH, SQUARE, PLAIN, PIXEL, DEGREE = "length", "area", "plain", "pixel", "degree"
# Every numeric column but those of intensities, in the order of the table, and how it is measured.
POSITIONS = {"centroid_x": PIXEL, "centroid_y": PIXEL, "at_border": PLAIN, "cut": PLAIN}
BOXES = {"box_width": LENGTH, "box_height": LENGTH, "box_area": SQUARE}
NEIGHBOURS = {"neighbour_distance": LENGTH, "neighbour_row": PLAIN}
WHOLE = ("row", "at_border", "cut", "neighbour_row")  # columns of whole numbers


def check_kinds(kinds: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds of measurements that are asked for, in their order.

    Raises:
        ValueError: an unknown kind.
    """
    for name in kinds:
        if name not in KINDS:
            raise ValueError(f"measure {name!r}: {did_you_mean(name, KINDS)}expected {' or '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def columns_of(kinds: Sequence[Kind], unit: str, channels: Sequence[str], *, regions: bool) -> list[str]:
    """The names of the columns of a table, all of them, whatever the objects have."""
    ways = POSITIONS | BOXES | (_shape_ways() if "shape" in kinds else {}) | NEIGHBOURS
    measured = [in_unit(name, way, unit) for name, way in ways.items()]
    intensities = column_names(channels) if "intensity" in kinds else []
    return ["row", "class", "score", *(["region"] if regions else []), *measured, *intensities]


def _shape_ways() -> dict[str, str]:
    ways = {AREA: SQUARE, ORIENTATION: DEGREE} | dict.fromkeys(LENGTHS, LENGTH)
    return {name: ways.get(name, PLAIN) for name in SHAPES}


def in_unit(name: str, way: str, unit: str) -> str:
    """The name of a column with its unit: ``area`` becomes ``area_um2``."""
    return {
        LENGTH: f"{name}_{unit}", SQUARE: f"{name}_{unit}2", PIXEL: f"{name}_px", DEGREE: f"{name}_deg",
    }.get(way, name)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """The measurements of the objects of one image.

    Attributes:
        columns: by name, ``[N]`` each: ``row`` (from ``first_row`` on), ``class``, ``score``, where the
            object is, and what was measured. Floats are NaN where something cannot be measured.
        pixel_size: the side of a pixel, and where it is from.
        size: (height, width) of the image.
        class_names: the classes that there could be.
        regions: the regions that objects were assigned to, if any.
    """

    columns: dict[str, Array]
    pixel_size: PixelSize
    size: tuple[int, int]
    class_names: tuple[str, ...] = ()
    regions: Regions | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.columns["row"])

    def __getitem__(self, name: str) -> Array:
        """A column, by its name with or without unit: ``area_um2`` or ``area``.

        Raises:
            KeyError: there is no such column; the message says which there are.
        """
        return self.columns[find_column(name, tuple(self.columns))]

    def rows(self, columns: Sequence[str] | None = None) -> list[list[object]]:
        """The table, row by row: numbers with six digits, empty where something could not be measured.

        Args:
            columns: those wanted, in order; one that is not there is empty. None: all.
        """
        names = list(self.columns) if columns is None else columns
        empty = [""] * len(self)
        cells = [cells_of(name, self.columns[name]) if name in self.columns else empty for name in names]
        return [list(row) for row in zip(*cells, strict=True)]

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``.

        Raises:
            ValueError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ValueError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.columns)

    def save(self, path: str | Path) -> Path:
        """Write the table as CSV.

        Raises:
            ValueError: another ending than ``.csv``.
        """
        path = Path(path)
        if path.suffix.lower() != ".csv":
            raise ValueError(f"{path}: expected a name that ends in .csv")
        write_atomically(path, table([list(self.columns), *self.rows()]).encode(errors="surrogateescape"))
        return path


def find_column(name: str, columns: Sequence[str]) -> str:
    """The column of that name, with or without its unit.

    Raises:
        KeyError: there is none.
    """
    if name in columns:
        return name
    bare = {parted(column)[0]: column for column in columns}
    if name not in bare:
        hint = did_you_mean(name, (*bare, *columns))
        raise KeyError(f"{name}: {hint}expected one of {', '.join(columns)}")
    return bare[name]


def cells_of(name: str, values: Array) -> list[object]:
    """A column as it is written."""
    if values.dtype.kind not in "fi":
        return list(values.tolist())
    if name in WHOLE:
        return ["" if value != value else int(value) for value in values.tolist()]
    return ["" if value != value else f"{value:.6g}" for value in values.tolist()]


def measure(
    image: Any,
    instances: Instances,
    pixel_size: str | PixelSize | None = None,
    *,
    kinds: Sequence[str] = KINDS,
    background: Background = "ring",
    regions: Regions | str | Path | None = None,
    first_row: int = 1,
    reading: Reading | None = None,
) -> Measurements:
    """Measure the objects of an image; docs/measuring.md defines every column.

    Args:
        image: the file, whose stored values are measured in all its channels, or an array ``[H, W]`` or
            ``[H, W, C]``; None takes the file that the objects are known to come from. For shapes alone it
            may be missing.
        instances: the objects, predicted or true; those without outlines get what boxes can give.
        pixel_size: such as ``0.32um``; ``px`` measures in pixels; None takes the metadata of a TIFF file, or
            pixels where there are none.
        kinds: ``shape``, ``intensity``, or both. Position, box and nearest neighbour are always measured.
        background: ``ring`` around each object, or the whole ``image``; see ``rcnn.measuring.intensities``.
        regions: a file of regions, or regions: the column ``region`` says in which of them each centroid is.
        first_row: the row of the first object, as in ``objects.csv``.
        reading: how the file is read: its plane and orientation; None: a single plane, upright.

    Raises:
        ValueError: no image where intensities are asked for, one of another size, or a bad setting.
    """
    chosen = check_kinds(kinds)
    check_background(background)
    file = image if isinstance(image, str | Path) else instances.path if image is None else None
    size = _pixel_size(pixel_size, file)
    if isinstance(regions, str | Path):
        name = "image" if file is None else Path(file).name
        regions = open_regions(regions).of(name, instances.size)
    columns = positions_of(instances, first_row)
    if regions is not None:
        inside = regions.containing(np.stack([columns["centroid_x"], columns["centroid_y"]], 1))
        columns["region"] = np.array([SEPARATOR.join(names) for names in inside], object)
    columns |= _boxes_of(instances)
    if "shape" in chosen:
        columns |= _outlined_shapes(instances)
    columns |= neighbours_of(columns, first_row)
    if "intensity" in chosen:
        pixels, channels = _stored_values(image, file, instances, reading or Reading())
        columns |= intensities_of(pixels, instances, channels, background)
    named = scaled(columns, size)
    order = [name for name in ("row", "class", "score", "region") if name in named]
    ordered = dict.fromkeys([*order, *named])
    return Measurements(
        {name: named[name] for name in ordered}, size, instances.size, instances.class_names, regions
    )


def _pixel_size(given: str | PixelSize | None, file: str | Path | None) -> PixelSize:
    if isinstance(given, PixelSize):
        return given
    if given is not None:
        return parse_pixel_size(given)
    found = None if file is None or not Path(file).is_file() else stored_pixel_size(Path(file))
    return found or PixelSize()


def _stored_values(
    image: Any, file: str | Path | None, instances: Instances, reading: Reading
) -> tuple[Array, tuple[str, ...]]:
    """``[H, W, C]`` as stored, and the names of the channels."""
    if file is not None:
        values, names = read_channels(file, reading)
    elif image is None:
        raise ValueError("intensities need the image: measure(image, …) with a file or an array")
    else:
        values = np.asarray(image)
        values = values[:, :, None] if values.ndim == 2 else values
        if values.ndim != 3 or values.dtype.kind not in "buif":
            raise ValueError(
                f"image: found {values.dtype} {list(values.shape)}, expected numbers [H, W] or [H, W, C]"
            )
        names = named_channels(values.shape[2])
    if values.shape[:2] != tuple(instances.size):
        raise ValueError(
            f"{file or 'image'}: (height, width) {values.shape[:2]}, but the objects are those of an image "
            f"of {tuple(instances.size)}; give the image that they were found on"
        )
    return values, names


def positions_of(found: Instances, first_row: int) -> dict[str, Array]:
    """Row, class, score, centroid, and whether the object may go on beyond the image or a tile."""
    height, width = found.size
    measures = found.measures()
    edges = measures[:, :4] if found.masks is None else _tight_boxes(found)
    at_border = np.any(edges[:, :2] < 1, 1) | np.any(edges[:, 2:] > np.array([width, height]) - 1, 1)
    return {
        "row": np.arange(first_row, first_row + len(found)),
        "class": np.array(found.names, object),
        "score": np.ones(len(found)) if found.scores is None else found.scores.astype(np.float64),
        "centroid_x": measures[:, 5],
        "centroid_y": measures[:, 6],
        "at_border": at_border.astype(np.int64),
        "cut": np.zeros(len(found), np.int64) if found.cut is None else found.cut.astype(np.int64),
    }


def _tight_boxes(found: Instances) -> Array:
    """The boxes of masks; of empty ones, and of objects without an outline, the objects' own."""
    assert found.masks is not None
    own = found.outlined & (found.masks.areas() > 0)
    boxes: Array = np.where(own[:, None], found.masks.boxes(), found.boxes)
    return boxes


def _boxes_of(found: Instances) -> dict[str, Array]:
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).astype(np.float64)
    return {"box_width": sides[:, 0], "box_height": sides[:, 1], "box_area": sides.prod(1)}


def _outlined_shapes(found: Instances) -> dict[str, Array]:
    """The shapes of masks; NaN of objects without an outline."""
    outlined = found.outlined
    shapes = {name: np.full(len(found), np.nan) for name in SHAPES}
    if found.masks is not None:
        for name, values in shapes_of(found.masks[outlined]).items():
            shapes[name][outlined] = values
    return shapes


def neighbours_of(columns: Mapping[str, Array], first_row: int) -> dict[str, Array]:
    """Distance from centroid to centroid of the nearest other object of any class, and its row."""
    points = np.stack([columns["centroid_x"], columns["centroid_y"]], 1)
    if len(points) < 2:
        missing = np.full(len(points), np.nan)
        return {"neighbour_distance": missing, "neighbour_row": missing.copy()}
    distances, indices = cKDTree(points).query(points, k=2)
    # Of objects in one place, an object itself may come second.
    own = np.arange(len(points))
    second = np.where(indices[:, 0] == own, 1, 0)
    rows = indices[own, second].astype(np.float64) + first_row
    return {"neighbour_distance": distances[own, second], "neighbour_row": rows}


def scaled(columns: Mapping[str, Array], size: PixelSize) -> dict[str, npt.NDArray[Any]]:
    """Columns in units of length, under names that have them."""
    ways = POSITIONS | BOXES | _shape_ways() | NEIGHBOURS
    factors = {LENGTH: size.value, SQUARE: size.value**2}
    return {
        in_unit(name, ways.get(name, PLAIN), size.unit): values * factors[ways[name]]
        if ways.get(name) in factors
        else values
        for name, values in columns.items()
    }
