"""Regions of an image in which objects are counted, from a file of polygons or a mask.

An object is in a region if the pixel below its centroid is (for boxes, below their centre). Readable are
GeoJSON (QuPath), ImageJ's ROIs (``.roi``, ``.zip``), COCO files, and mask images, in which each number except
0 is a region. Polygons are drawn pixel by pixel, as everywhere in rcnn, and end at the image's border.

A file holds the regions of every image, a COCO file those of the images that it names; a folder has one file
per image, under its name.

Legend: N objects, R regions.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from roifile import ImagejRoi

from rcnn.data.formats import geojson, imagej
from rcnn.data.formats.contents import read_json
from rcnn.data.formats.figures import rectangle
from rcnn.data.formats.outlines import polygon_fault, rle_fault
from rcnn.io.images import IMAGE_ENDINGS, plain_stem, read_numbers
from rcnn.structures import Array, Masks, Outline, Size

POLYGON_ENDINGS = (".geojson", ".json", ".zip", ".roi")
MAX_ROI_BYTES = imagej.MAX_BYTES
MAX_REGIONS = 10_000  # of a mask; more are labels of objects
Named = list[tuple[str, Outline]]


@dataclass(frozen=True)
class Regions:
    """The regions of one image.

    Attributes:
        names: of each of them, all different.
        masks: their pixels.
    """

    names: tuple[str, ...]
    masks: Masks

    @classmethod
    def drawn(cls, named: Sequence[tuple[str, Outline]], size: Size, source: Path) -> Regions:
        """Regions drawn on an image of ``size`` (height, width).

        Raises:
            ValueError: none, or one with no pixel in the image.
        """
        if not named:
            raise ValueError(f"{source}: no regions; expected polygons, or a mask that is not all black.")
        masks = Masks.from_outlines([outline for _, outline in named], size)
        names = _different([name for name, _ in named])
        for name, area in zip(names, masks.areas().tolist(), strict=True):
            if not area:
                raise ValueError(
                    f"{source}: the region {name} has no pixel in an image of {size[1]} by {size[0]} pixels; "
                    "give the regions of this image, in its pixels."
                )
        return cls(names, masks)

    def containing(self, points: Array) -> list[list[str]]:
        """The names of the regions that each point ``[N, 2]`` of x, y is in."""
        inside = self.memberships(points)
        return [[name for name, member in zip(self.names, row, strict=True) if member] for row in inside]

    def memberships(self, points: Array) -> npt.NDArray[np.bool_]:
        """``[N, R]``: which points are in which region, by the pixel below them."""
        height, width = self.masks.size
        pixels = np.floor(points).astype(np.int64).clip(0, [width - 1, height - 1])
        inside = np.zeros((len(points), len(self.names)), np.bool_)
        for column, (patch, window) in enumerate(
            zip(self.masks.patches(), self.masks.windows.tolist(), strict=True)
        ):
            x1, y1, x2, y2 = window
            within = (pixels >= [x1, y1]).all(1) & (pixels < [x2, y2]).all(1)
            inside[within, column] = patch[pixels[within, 1] - y1, pixels[within, 0] - x1] != 0
        return inside

    def areas(self) -> list[float]:
        """The pixels of each region."""
        areas: list[float] = self.masks.areas().tolist()
        return areas


def _different(names: Sequence[str]) -> tuple[str, ...]:
    """The names, those that occur more than once numbered."""
    taken: dict[str, None] = {}
    for name in names:
        number, free = 2, name
        while free in taken:
            number, free = number + 1, f"{name} {number}"
        taken[free] = None
    return tuple(taken)


class RegionFiles:
    """A file or folder of regions, read when an image needs it."""

    def __init__(self, source: Path) -> None:
        """Raises ValueError: no such file or folder, or a file of another kind."""
        if not source.exists():
            raise ValueError(f"{source}: there is no such file or folder of regions.")
        self.source = source
        self._coco = None
        if source.is_file():
            _check_ending(source)
            content = read_json(source) if source.suffix.lower() == ".json" else None
            if isinstance(content, dict) and "annotations" in content and "images" in content:
                self._coco = content

    def of(self, image: str, size: Size) -> Regions:
        """The regions of an image.

        Args:
            image: its name: the path below the folder that was given.
            size: (height, width) of it.

        Raises:
            ValueError: there are none for this image, or they cannot be read.
        """
        if self._coco is not None:
            return Regions.drawn(_of_coco(self._coco, image, size, self.source), size, self.source)
        file = self._file_of(image)
        if file.suffix.lower() in IMAGE_ENDINGS:
            return _of_mask(file, size)
        return Regions.drawn(list(_of_file(file)), size, file)

    def _file_of(self, image: str) -> Path:
        if self.source.is_file():
            return self.source
        path = PurePosixPath(image)
        places = [(self.source / path).parent, self.source]
        stems = dict.fromkeys([path.name, plain_stem(path)])
        endings = (*POLYGON_ENDINGS, *IMAGE_ENDINGS)
        for candidate in (p / f"{stem}{ending}" for p in places for stem in stems for ending in endings):
            if candidate.is_file():
                return candidate
        raise ValueError(
            f"{self.source}: no regions of {image}; expected a file such as {plain_stem(path)}.geojson, .zip "
            "or .png."
        )


def open_regions(source: str | Path) -> RegionFiles:
    """A file or folder of regions.

    Raises:
        ValueError: no such file or folder, or a file of another kind.
    """
    return RegionFiles(Path(source))


def _check_ending(file: Path) -> None:
    endings = (*POLYGON_ENDINGS, *IMAGE_ENDINGS)
    if file.suffix.lower() not in endings:
        raise ValueError(
            f"{file}: {file.suffix or 'no extension'} is no file of regions; expected GeoJSON, ImageJ's .roi "
            "or .zip, a COCO .json, or a mask image."
        )


def _of_file(file: Path) -> Iterator[tuple[str, Outline]]:
    if file.suffix.lower() in (".roi", ".zip"):
        yield from _of_imagej(file)
        return
    content = read_json(file)
    listed = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(listed, list) or not all(isinstance(feature, dict) for feature in listed):
        raise ValueError(f"{file}: expected GeoJSON with features, or a COCO file with images.")
    for number, feature in enumerate(listed, 1):
        try:
            yield _name_of(feature) or f"region {number}", geojson.outline_of(feature.get("geometry"))
        except ValueError as error:
            raise ValueError(f"{file}, feature {number}: {error}") from error


def _name_of(feature: Mapping[str, Any]) -> str:
    """The name of a feature, else its class."""
    properties = feature.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    found = properties.get("name") or properties.get("classification") or ""
    return str(found.get("name", "") if isinstance(found, dict) else found).strip()


def _of_imagej(file: Path) -> Iterator[tuple[str, Outline]]:
    try:
        for name, content in _rois(file):
            roi = ImagejRoi.frombytes(content)
            box, outline = imagej.figure_of(roi)
            if box is not None:
                outline = [rectangle(box)]
            if outline is None:
                raise ValueError(f"{name} is of the type {roi.roitype.name.lower()}, which has no area")
            yield roi.name or Path(name).stem, outline
    except (*imagej.ROI_FAULTS, zipfile.BadZipFile, OSError, struct.error) as error:
        raise ValueError(f"{file}: its ROIs cannot be read as regions ({error}). Draw them again.") from error


def _rois(file: Path) -> Iterator[tuple[str, bytes]]:
    if file.suffix.lower() == ".roi":
        yield file.name, file.read_bytes()
        return
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.filename.lower().endswith(".roi") and info.file_size:
                with archive.open(info) as member:
                    yield info.filename, member.read(MAX_ROI_BYTES)


def _of_coco(content: Mapping[str, Any], image: str, size: Size, file: Path) -> Named:
    """The annotations of one image of a COCO file."""
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", [])}
        wanted = [
            entry["id"] for entry in content["images"]
            if str(entry["file_name"]) == image or Path(str(entry["file_name"])).name == Path(image).name
        ]  # fmt: skip
        entries = [entry for entry in content["annotations"] if entry["image_id"] in wanted[:1]]
        found = [(names.get(entry["category_id"], "region"), entry.get("segmentation")) for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: expected a COCO file; something is missing ({error}).") from error
    if not wanted:
        raise ValueError(f"{file}: it does not list {image}; give a COCO file that has its regions.")
    return [(name, _coco_outline(outline, size, f"{file}, {name}")) for name, outline in found]


def _coco_outline(outline: Any, size: Size, place: str) -> Outline:
    fault = rle_fault(outline, size) if isinstance(outline, dict) else polygon_fault(outline)
    if fault is not None or not outline:
        raise ValueError(f"{place}: {fault or 'the region has no outline'}")
    if isinstance(outline, dict):
        return outline
    return [np.array(part, np.float64).reshape(-1, 2) for part in outline]


def _of_mask(file: Path, size: Size) -> Regions:
    """The regions of a label image; a mask of one value is one region, under the file's name."""
    values = read_numbers(file)
    if values.shape != tuple(size):
        raise ValueError(
            f"{file}: (height, width) {values.shape}, but the image has {tuple(size)}; give a mask of that "
            "size."
        )
    numbers = [number for number in np.unique(values).tolist() if number != 0]
    if not numbers or len(numbers) > MAX_REGIONS:
        raise ValueError(f"{file}: {len(numbers)} regions; expected 1 to {MAX_REGIONS} numbers beside 0.")
    names = (plain_stem(file),) if len(numbers) == 1 else tuple(map(str, numbers))
    masks = [Masks.from_dense((values == number)[None]) for number in numbers]
    return Regions(names, Masks.concatenate(masks, size))
