"""ImageJ's regions of interest (ROIs): an archive of them, or one file, per image.

    a.tif   a.zip           also a_RoiSet.zip, RoiSet_a.zip, a.roi, a_rois/*.roi; RoiSet.zip if there is one
                            image

Convention:
    Coordinates are continuous; integer ones are corners of pixels. An oval fills its box.

Rectangles are boxes; ovals, polygons, freehand and traced shapes are outlines, and composite ones have parts
and holes. Points and lines are ignored with a warning. ROIs of a group are a class, called by the names of
its ROIs if they are all the same but for a number (``cell-1``), otherwise by the group's number; without
groups, there is one class, ``object``. ROIs on several slices of a stack are said.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.contents import files_with
from rcnn.data.formats.figures import Part, ellipse
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.writer import Described, DroppedContent, Item, Writer
from rcnn.data.problems import Box
from rcnn.structures.outlines import as_one_polygon, trace

MAX_BYTES = 50_000_000  # of one ROI
AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
ROI_FAULTS = (ValueError, TypeError, IndexError, KeyError, RuntimeError, NotImplementedError, struct.error)
MARK = r"[_\- ]?roi[_\- ]?s?(?:et)?"  # of archives: a_RoiSet
MAX_GROUP = 255
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # the steps of composite shapes


def is_imagej(path: Path, images: Path | None = None) -> bool:
    """Whether a file has ROIs, or a folder has such files."""
    return bool(files_with(path, ".zip", _is_archive) or _roi_files(path))


def _roi_files(path: Path) -> list[Path]:
    """The single ROIs at a path, or in folders of it that are called after the images (``a_rois/``)."""
    found = files_with(path, ".roi", _is_roi, None)
    folders = subfolders(path) if not found and path.is_dir() else []
    return found or [f for folder in folders for f in files_with(folder, ".roi", _is_roi, None)]


def _is_roi(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == b"Iout"


def _is_archive(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.lower().endswith(".roi") for name in archive.namelist())
    except Exception:  # whatever zipfile raises for damaged archives, and for versions that it does not know
        return False


def read_imagej(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the ROIs of images.

    Args:
        path: a file, or the folder that contains them.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or none of the images is found.
    """
    source = Path(path)
    files = [*files_with(source, ".zip", _is_archive, None), *_roi_files(source)]
    if not files:
        raise ValueError(f"{source}: expected archives of ImageJ's ROIs (*.zip); found none.")
    reader = _Reader(source, images)
    for file in files:
        reader.read_file(file, alone=len(files) == 1)
    reader.objects.warn_of_unlisted("have no ROIs")
    return reader.dataset()


class _Reader:
    """Collects the ROIs of all files."""

    def __init__(self, source: Path, images: str | Path | None) -> None:
        self.objects = AnnotatedImages("imagej", source, images=images)
        self.seen: dict[Path, str] = {}
        self.groups: dict[int, list[tuple[str, Drawn]]] = defaultdict(list)

    def read_file(self, file: Path, *, alone: bool) -> None:
        """Read the ROIs of one image."""
        index = self.objects.index
        names = [file.stem] if file.suffix.lower() == ".zip" else [file.stem, file.parent.name]
        names += [re.sub(f"^{MARK}[_\\- ]?|{MARK}$", "", name, flags=re.IGNORECASE) for name in names]
        image = next((found for name in names if name and (found := index.of_file(name)) is not None), None)
        image = image or (index.only() if alone else None)
        if image is None:
            self.objects.missing.setdefault(file.stem)
            return
        picture = self.objects.at(image, place=file.name)
        several = file.suffix.lower() == ".roi" and self.seen.get(image, "").endswith(".roi")
        if picture is None or not (several or self.objects.is_new(picture, file.name, self.seen)):
            return
        slices = set()
        for place, content in self._contents(file, picture):
            try:
                roi = ImagejRoi.frombytes(content)
                slices.add((roi.position, roi.z_position, roi.t_position))
                self._draw(picture, roi, place)
            except ROI_FAULTS as error:
                self.objects.wrong(picture, place, f"The ROI cannot be read ({error}).", "Draw it again.")
        if len(slices) > 1:
            what = f"The ROIs of {file.name} are on {len(slices)} slices of a stack."
            advice = "All are read as objects of one image; save the slices as images of their own."
            self.objects.builder.warn(what, advice, file.name, file=picture.path)

    def _contents(self, file: Path, picture: Picture) -> Iterator[tuple[str, bytes]]:
        """The ROIs of a file with their places; damaged members are reported."""
        if file.suffix.lower() == ".roi":
            yield file.name, file.read_bytes()
            return
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                is_roi = info.filename.lower().endswith(".roi") and Path(info.filename).name[0] != "."
                if not is_roi or not info.file_size:
                    continue
                place = f"{file.name}, {info.filename}"
                try:
                    with archive.open(info) as member:
                        content = member.read(MAX_BYTES)
                except Exception as error:  # whatever zipfile and zlib raise for damaged members
                    what = f"The archive is damaged there ({error or type(error).__name__})."
                    self.objects.wrong(picture, place, what, "Save the ROIs again.")
                else:
                    yield place, content

    def _draw(self, picture: Picture, roi: ImagejRoi, place: str) -> None:
        drawn = Drawn(UNNAMED, place)
        drawn.box, drawn.outline = figure_of(roi)
        if drawn.box is None and drawn.outline is None:
            self.objects.ignore(f"ROIs of the type {roi.roitype.name.lower()}")
            return
        self.groups[roi.group].append((roi.name or "", drawn))
        self.objects.draw(picture, drawn)

    def dataset(self) -> Dataset:
        """The data set; only now are the groups known."""
        for group, listed in self.groups.items():
            prefixes = {match[1] if (match := re.fullmatch(r"(.+)-\d+", name)) else "" for name, _ in listed}
            common = prefixes.pop() if len(prefixes) == 1 else ""
            for _, drawn in listed:
                drawn.label = (common or f"group {group}") if group else UNNAMED
        if 0 in self.groups and len(self.groups) > 1:
            count = len(self.groups[0])
            what = f"{count} ROIs belong to no group, while others do."
            self.objects.builder.warn(what, f"They are read as the class {UNNAMED}.", "groups")
        return self.objects.dataset()


def figure_of(roi: ImagejRoi) -> tuple[Box | None, list[Part] | None]:
    """The box of a rectangle, or the outline of another area; neither of points and lines.

    Raises:
        ValueError: an area without corners.
    """
    ends = (float(roi.left), float(roi.top), float(roi.right), float(roi.bottom))
    if roi.subpixelrect:
        ends = (roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd)
    if roi.composite:
        return None, [as_one_polygon([_ring(ring) for ring in roi.coordinates(multi=True)])]
    if roi.roitype == ROI_TYPE.RECT:
        return ends, None
    if roi.roitype == ROI_TYPE.OVAL:
        x1, y1, x2, y2 = ends
        return None, [ellipse(((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2))]
    return None, [_ring(roi.coordinates())] if roi.roitype in AREAS else None


def _ring(points: Any) -> Part:
    """The corners ``[P, 2]`` of a closed shape."""
    ring = np.asarray(points, np.float64).reshape(-1, 2)
    if len(ring) > 1 and np.array_equal(ring[0], ring[-1]):
        ring = ring[:-1]
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"it has {len(ring)} points, expected at least 3")
    return ring


class ImagejWriter(Writer):
    """An archive of ROIs per image; the class is the group and the name, with the number of the object.

    Predictions have their score in the ROI's properties.
    """

    holds = frozenset({"outlines"})

    def __init__(self, folder: Path, dataset: Described, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        (folder / "rois").mkdir(exist_ok=True)

    def write(self, item: Item) -> None:
        """Write one archive; empty for an image without objects."""
        if item.truth.masks is not None:
            item = self.with_outlines(item)
            self.note_boxes(item)
        truth = item.truth
        windows = None if truth.masks is None else truth.masks.windows[:, :2].tolist()
        patches = None if truth.masks is None else list(truth.masks.patches())
        file = self.folder / "rois" / f"{item.image.stem}.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            if not len(truth):
                archive.writestr(_entry("none"), b"")  # so that the archive is known as one of ROIs
            for index, (name, label) in enumerate(zip(truth.names, truth.labels.tolist(), strict=True)):
                if patches is None or windows is None:
                    roi = _box_roi(truth.boxes[index].tolist())
                else:
                    x, y = windows[index]
                    roi = _outline_roi(*trace(patches[index] != 0, (y, x)))
                number = item.numbers[index]
                roi.name, roi.group = f"{name}-{number}", min(label + 1, MAX_GROUP)
                if truth.scores is not None:
                    roi.props = f"score: {truth.scores[index]:.6g}\n"
                archive.writestr(_entry(f"{number:05d}"), roi.tobytes())


def _entry(name: str) -> zipfile.ZipInfo:
    """A member of an archive; without the time of day, the same objects are the same file."""
    entry = zipfile.ZipInfo(f"{name}.roi")
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _box_roi(box: list[float]) -> ImagejRoi:
    roi = ImagejRoi()
    roi.roitype = ROI_TYPE.RECT
    roi.left, roi.top = (int(np.floor(v)) for v in box[:2])
    roi.right, roi.bottom = (int(np.ceil(v)) for v in box[2:])
    roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    roi.xd, roi.yd, roi.widthd, roi.heightd = box[0], box[1], box[2] - box[0], box[3] - box[1]
    return roi


def _outline_roi(parts: list[Part], holes: list[Part]) -> ImagejRoi:
    if len(parts) == 1 and not holes:
        roi = ImagejRoi.frompoints(parts[0].astype(np.int32))
        roi.roitype = ROI_TYPE.TRACED
        return roi
    roi = ImagejRoi()
    roi.roitype = ROI_TYPE.RECT
    corners = np.concatenate(parts)
    roi.left, roi.top = corners.min(0).astype(int).tolist()
    roi.right, roi.bottom = corners.max(0).astype(int).tolist()
    steps: list[float] = []
    for ring in [*parts, *holes]:
        for number, (x, y) in enumerate(ring.tolist()):
            steps += [LINE if number else MOVE, x, y]
        steps.append(CLOSE)
    roi.multi_coordinates = np.array(steps, np.float32)
    roi.shape_roi_size = len(steps)
    return roi
