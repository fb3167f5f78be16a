"""What a prediction asks of whatever measures the objects that it finds (``rcnn.measuring``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from rcnn.lettering import Colour
from rcnn.structures import Instances

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector

MEASURED_FILES = ("measurements.csv", "summary.csv", "regions.csv", "measurements.html")


# Columns of measurements.csv that say which object it is.
_NAMING = ("row", "image", "class", "score")


def numbers_of(
    heads: Mapping[str, Sequence[str]], rows: Mapping[str, Sequence[Sequence[object]]]
) -> tuple[dict[str, float], ...]:
    """What was measured of each object of an image, by the columns of ``measurements.csv``.

    Empty cells and texts are left out.
    """
    names = heads["measurements.csv"]
    return tuple(
        {
            name: number
            for name, cell in zip(names, row, strict=True)
            if name not in _NAMING and (number := _number(cell)) is not None
        }
        for row in rows["measurements.csv"]
    )


def _number(cell: object) -> float | None:
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class ImageMeasured(Protocol):
    """What was measured in one image."""

    @property
    def rows(self) -> Mapping[str, Sequence[Sequence[object]]]:
        """The rows of the image in each table, by the table's name."""

    @property
    def colours(self) -> Sequence[Colour] | None:
        """A colour for each object on the overlay; None: the usual ones."""

    def with_colour_bar(self, picture: Image.Image) -> Image.Image:
        """The overlay with what the colours mean."""


class Measurer(Protocol):
    """Measures the objects of the images of one prediction."""

    @property
    def heads(self) -> Mapping[str, Sequence[str]]:
        """The columns of each table that is written, by the table's name, such as ``measurements.csv``."""

    @property
    def pixel_size(self) -> str:
        """The side of a pixel, or several, and where they are from."""

    def measured(self, image_id: str, path: Path, found: Instances, first_row: int) -> ImageMeasured:
        """Measure the objects of an image, of which the first is ``first_row`` in ``objects.csv``."""

    def finish(self, out: Path) -> None:
        """Write what is made of the complete tables in the folder ``out``."""


class MeasuringSettings(Protocol):
    """What is to be measured: plain values in a dataclass."""

    def prepared(self, images: Mapping[str, Path], detector: Detector | ExportedDetector) -> Measurer:
        """What measures these images.

        Raises:
            ValueError: settings that do not fit the images or the model.
        """
