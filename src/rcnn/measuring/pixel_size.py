"""How large a pixel is: as the user says, or as the metadata of a TIFF file say.

Metadata are looked at in this order: OME (``PhysicalSizeX``), ImageJ (its unit and the tag ``XResolution``),
the tags ``XResolution`` and ``ResolutionUnit``. Resolutions for screens and printers, whole dpi up to 1200,
are not taken: programs write them into any file. Metadata give micrometres.

Pixels are square: where width and height differ by more than 1 %, a file is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from rcnn.data.problems import shortened
from rcnn.io.images import TIFF_MARKS
from rcnn.io.reading import ImageError
from rcnn.io.xml import parse_xml

PIXELS = "px"
UNITS = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}  # micrometres in each
NAMES = {
    "µm": "um", "μm": "um", "micron": "um", "microns": "um", "micrometer": "um", "micrometre": "um",
    "\\u00b5m": "um", "meter": "m", "metre": "m", "pixel": "px", "pixels": "px",
}  # fmt: skip
LARGE_UNITS = {"nm": "um", "um": "mm", "mm": "mm", "cm": "cm", "m": "km"}  # in whose square density is given
PER_LARGE = {"nm": 1e3, "um": 1e3, "mm": 1.0, "cm": 1.0, "m": 1e3}  # of the unit in a large one
INCH = 25400.0  # micrometres
TAG_UNITS = {2: INCH, 3: 1e4}
MAX_PRINTED = 1200  # dpi
SQUARE = 0.01
EXPECTED = "expected a number and a unit, such as 0.32um, 50nm, 0.1mm or 1200dpi, or px for pixels"


@dataclass(frozen=True)
class PixelSize:
    """The side of a pixel.

    Attributes:
        value: in units.
        unit: a key of ``UNITS``, or ``px``.
        source: where it comes from, for people.
    """

    value: float = 1.0
    unit: str = PIXELS
    source: str = "pixels"

    @property
    def is_known(self) -> bool:
        """Whether it is a length."""
        return self.unit != PIXELS

    @property
    def density_unit(self) -> str:
        """What density counts objects per, as in column names: ``mm2``, or ``mpx`` (a million pixels)."""
        return f"{LARGE_UNITS[self.unit]}2" if self.is_known else "mpx"

    def large_area(self, pixels: float) -> float:
        """An area of so many pixels, in the units of density."""
        side = self.value / PER_LARGE[self.unit] if self.is_known else 1e-3
        return pixels * side * side

    def __str__(self) -> str:
        """Such as ``0.32 µm (OME metadata)``."""
        if not self.is_known:
            return "unknown, lengths are in pixels"
        return f"{self.value:.6g} {self.unit.replace('um', 'µm')} ({self.source})"


def parse_pixel_size(text: str, option: str = "pixel_size") -> PixelSize:
    """A pixel size as a user writes it.

    Args:
        text: such as ``0.32um``; ``px`` leaves all in pixels.
        option: what messages call it.

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)?\s*([^\d\s.]+)\s*", text)
    number, name = (found[1], found[2]) if found else (None, "")
    unit = NAMES.get(name.lower(), name)
    if unit == PIXELS and number in (None, "1"):
        return PixelSize()
    value = float(number or 0)
    if unit == "dpi" and value > 0:
        return PixelSize(INCH / value, "um", f"given as {value:g} dpi")
    if unit not in UNITS or not 0 < value < float("inf"):
        raise ValueError(f"{option} {text!r}: {EXPECTED}")
    return PixelSize(value, unit, "given")


def stored_pixel_size(path: Path) -> PixelSize | None:
    """The pixel size that a file's metadata give, in micrometres; None without any.

    Raises:
        ImageError: pixels that are not square, or damaged metadata.
    """
    with path.open("rb") as file:
        if not file.read(4).startswith(TIFF_MARKS):
            return None
    with tifffile.TiffFile(path) as tif:
        for width, height, source in _stored(tif, path):
            if abs(width - height) > SQUARE * max(width, height):
                raise ImageError(
                    f"{path}: its pixels are {width:.4g} by {height:.4g} µm ({source}); only square ones are "
                    "measured. Resample the image, or give --pixel-size px."
                )
            return PixelSize(width, "um", source)
    return None


def _stored(tif: tifffile.TiffFile, path: Path) -> Iterator[tuple[float, float, str]]:
    """Widths and heights in micrometres and where they are from, the most reliable first."""
    yield from _of_ome(tif, path)
    tags = tif.pages.first.tags
    across, down = (_per_unit(tags, name) for name in ("XResolution", "YResolution"))
    if not (across and down):
        return
    imagej = tif.imagej_metadata or {}
    named = _micrometres(str(imagej.get("unit", "")))
    if imagej and named is not None:
        yield named / across, named / down, "ImageJ metadata"
    unit = TAG_UNITS.get(int(tags["ResolutionUnit"].value)) if "ResolutionUnit" in tags else None
    if unit is not None and not imagej and not _is_printed(across * INCH / unit):
        yield unit / across, unit / down, "TIFF tags"


def _of_ome(tif: tifffile.TiffFile, path: Path) -> Iterator[tuple[float, float, str]]:
    if not tif.ome_metadata:
        return
    try:
        root = parse_xml(tif.ome_metadata.encode(), path)
        pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
        sizes = [] if pixels is None else [_ome_length(pixels.attrib, axis) for axis in "XY"]
    except ValueError as error:
        raise ImageError(f"{path}: damaged OME metadata ({error}). Give --pixel-size.") from error
    known = [size for size in sizes if size]
    if len(known) == 2:
        yield known[0], known[1], "OME metadata"


def _ome_length(attributes: Mapping[str, str], axis: str) -> float | None:
    value = attributes.get(f"PhysicalSize{axis}")
    unit = _micrometres(attributes.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if value is None or unit is None else float(value) * unit


def _micrometres(unit: str) -> float | None:
    """How many there are in a unit; None of what is no length."""
    unit = NAMES.get(unit.strip().lower(), unit.strip())
    return {"inch": INCH, "in": INCH, "Å": 1e-4, "pm": 1e-6, "km": 1e9, **UNITS}.get(unit)


def _per_unit(tags: Any, name: str) -> float | None:
    """Pixels per unit of length; None where a tag is missing or no number."""
    if name not in tags:
        return None
    numerator, denominator = tags[name].value
    return numerator / denominator if numerator and denominator else None


def _is_printed(dpi: float) -> bool:
    return dpi <= MAX_PRINTED and abs(dpi - round(dpi)) < 0.01


def pixel_sizes(images: Mapping[str, Path], given: str | None) -> dict[str, PixelSize]:
    """The pixel size of each image, all in one unit.

    Args:
        images: the files by their names.
        given: what the user says of all; None: what their metadata say, or pixels if none says anything.

    Raises:
        ValueError: a text that is no pixel size, or metadata in some of the images only.
    """
    if given is not None:
        return dict.fromkeys(images, parse_pixel_size(given))
    found = {name: _readable(path) for name, path in images.items()}
    silent = [name for name, size in found.items() if size is None]
    if silent and len(silent) < len(found):
        raise ValueError(
            f"{len(silent)} of {len(found)} images do not say how large their pixels are, while others do: "
            f"{shortened(silent)}; give --pixel-size for all, or --pixel-size px to measure in pixels"
        )
    return {name: size or PixelSize() for name, size in found.items()}


def _readable(path: Path) -> PixelSize | None:
    """The stored pixel size; None also of files that nothing can be read of, which fail later by name."""
    try:
        return stored_pixel_size(path)
    except ImageError:
        raise
    except Exception:  # whatever tifffile raises for damaged files
        return None
