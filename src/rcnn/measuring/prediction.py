"""What a prediction measures: settings, and what is written of each image as it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from rcnn.data.problems import shortened
from rcnn.io.channels import channel_names
from rcnn.io.images import ImageError
from rcnn.io.reading import Reading
from rcnn.lettering import Colour
from rcnn.measuring.colouring import Colouring
from rcnn.measuring.intensities import Background, check_background
from rcnn.measuring.measurements import KINDS, Measurements, check_kinds, columns_of, find_column, measure
from rcnn.measuring.page import write_page
from rcnn.measuring.pixel_size import PixelSize, parse_pixel_size, pixel_sizes
from rcnn.measuring.regions import RegionFiles, open_regions
from rcnn.measuring.shapes import library
from rcnn.measuring.summary import region_columns, region_rows, summary_columns, summary_rows
from rcnn.structures import Instances

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

MAX_SIZES = 3  # that are named
TEXT = ("class", "region")  # columns that are no numbers


@dataclass(frozen=True)
class Measuring:
    """What a prediction measures of the objects that it finds; docs/measuring.md defines every column.

    Attributes:
        kinds: ``shape``, ``intensity``, or both. Position, box and nearest neighbour are always measured.
        pixel_size: such as ``0.32um``; ``px`` measures in pixels; None takes the metadata of TIFF files, or
            pixels where none of the images says it.
        background: of intensities: the ``ring`` around each object, or the whole ``image``.
        regions: a file or folder of regions in which objects are counted.
        colour_by: the column that colours the objects on overlays, with or without its unit.
        colour_range: the values of the first and last colour; None: from the 2nd to the 98th percentile of
            each image.
    """

    kinds: tuple[str, ...] = KINDS
    pixel_size: str | None = None
    background: str = "ring"
    regions: str | None = None
    colour_by: str | None = None
    colour_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: an unknown kind or background, no pixel size, or a range that is none.
        """
        object.__setattr__(self, "kinds", check_kinds(self.kinds))
        check_background(self.background)
        if self.pixel_size is not None:
            parse_pixel_size(self.pixel_size)
        if self.colour_range is not None and not self.colour_range[0] < self.colour_range[1]:
            low, high = self.colour_range
            raise ValueError(f"colour_range {low:g} to {high:g}: expected the lower value first")

    def prepared(
        self, images: Mapping[str, Path], detector: Detector | ExportedDetector
    ) -> PredictionMeasurer:
        """What measures these images.

        Raises:
            ValueError: a model without objects, a missing library, images that say different things about
                their pixels, an unknown column, or regions that are not there.
        """
        if not detector.class_names:
            raise ValueError("measuring: this model finds no objects, only classes of pixels (areas.csv)")
        if "shape" in self.kinds:
            library()
        sizes = pixel_sizes(images, self.pixel_size)
        channels = _channels(images, detector.reading) if "intensity" in self.kinds else ()
        regions = None if self.regions is None else open_regions(self.regions)
        return PredictionMeasurer(self, sizes, channels, detector.reading, regions)


def _channels(images: Mapping[str, Path], reading: Reading) -> tuple[str, ...]:
    """The channels of all images; one that cannot be read is reported when its turn comes."""
    found: dict[str, None] = {}
    for path in images.values():
        try:
            found |= dict.fromkeys(channel_names(path, reading))
        except ImageError:
            continue
    return tuple(found)


@dataclass(frozen=True)
class ImageMeasurements:
    """What was measured in one image.

    Attributes:
        rows: of each table, by its name.
        colours: of the objects; None: as usual.
        colouring: what they mean.
    """

    rows: Mapping[str, Sequence[Sequence[object]]]
    colours: Sequence[Colour] | None = None
    colouring: Colouring | None = None

    def with_colour_bar(self, picture: Image.Image) -> Image.Image:
        """The overlay with what the colours mean."""
        return picture if self.colouring is None else self.colouring.with_bar(picture)


class PredictionMeasurer:
    """Measures the images of one prediction, all in the same unit and with the same columns."""

    def __init__(
        self,
        settings: Measuring,
        sizes: Mapping[str, PixelSize],
        channels: Sequence[str],
        reading: Reading,
        regions: RegionFiles | None,
    ) -> None:
        """Raises ValueError: ``colour_by`` is no numeric column."""
        self.settings, self.sizes, self.channels = settings, sizes, channels
        self.reading, self.regions = reading, regions
        first = next(iter(sizes.values()), PixelSize())
        self.unit, self.density_unit = first.unit, first.density_unit
        self.colour_by = None if settings.colour_by is None else self._numeric(settings.colour_by)

    def _numeric(self, name: str) -> str:
        numeric = [column for column in self.columns if column not in TEXT]
        try:
            return find_column(name, numeric)
        except KeyError as error:
            raise ValueError(f"colour_by {error.args[0]}") from error

    @cached_property
    def columns(self) -> list[str]:
        """The columns of ``measurements.csv`` without the image."""
        kinds = check_kinds(self.settings.kinds)
        return columns_of(kinds, self.unit, self.channels, regions=self.regions is not None)

    @cached_property
    def heads(self) -> dict[str, Sequence[str]]:
        """The columns of each table."""
        heads: dict[str, Sequence[str]] = {
            "measurements.csv": [self.columns[0], "image", *self.columns[1:]],
            "summary.csv": summary_columns(self.unit, self.density_unit),
        }
        return heads | ({"regions.csv": region_columns(self.density_unit)} if self.regions else {})

    @property
    def pixel_size(self) -> str:
        """The side of a pixel, or several, and where they are from."""
        different = list(dict.fromkeys(map(str, self.sizes.values())))
        return shortened(different, MAX_SIZES)

    def measured(self, image_id: str, path: Path, found: Instances, first_row: int) -> ImageMeasurements:
        """Measure the objects of an image.

        Raises:
            ValueError: the image or its regions cannot be used.
        """
        table = measure(
            path, found, self.sizes[image_id], kinds=self.settings.kinds,
            background=cast("Background", self.settings.background),
            regions=None if self.regions is None else self.regions.of(image_id, found.size),
            first_row=first_row, reading=self.reading,
        )  # fmt: skip
        assert set(table.columns) <= set(self.columns), "a measurement without a column would be lost"
        rows: dict[str, Sequence[Sequence[object]]] = {
            "measurements.csv": [[row[0], image_id, *row[1:]] for row in table.rows(self.columns)],
            "summary.csv": summary_rows(image_id, table),
        }
        if self.regions is not None:
            rows["regions.csv"] = region_rows(image_id, table)
        return self._coloured(rows, table)

    def _coloured(
        self, rows: Mapping[str, Sequence[Sequence[object]]], table: Measurements
    ) -> ImageMeasurements:
        if self.colour_by is None or self.colour_by not in table.columns:
            return ImageMeasurements(rows)
        values = table.columns[self.colour_by]
        colouring = Colouring.of(self.colour_by, values, self.settings.colour_range)
        return ImageMeasurements(rows, colouring.colours(values), colouring)

    def finish(self, out: Path) -> None:
        """Write ``measurements.html`` from the tables."""
        write_page(out, background=self.settings.background, regions=self.settings.regions)
