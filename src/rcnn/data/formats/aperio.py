"""Aperio ImageScope: an XML file of regions per image, as MoNuSeg and MoNuSAC have it.

    Annotations/a.xml   Tissue Images/a.tif     also next to each other, in nested folders

    <Annotations><Annotation Name="Tumor"><Regions><Region Type="0"><Vertices><Vertex X="8" Y="6"/>…

Convention:
    Vertices are continuous pixels of the full image. Two vertices are the corners of a rectangle (Type 1) or
    of the box around an ellipse (Type 2).

The class of a region is the name of its annotation, or else of its first attribute; without either there is
one class, ``object``. Regions that are negative (holes) or no areas are ignored with a warning.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.contents import ANNOTATION_FOLDERS, head, read_xml
from rcnn.data.formats.figures import Part, ellipse, rectangle
from rcnn.data.formats.folders import files_below, split_of, subfolders
from rcnn.data.formats.outlines import MAX_COORDINATE
from rcnn.io.images import image_files

ROOT = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?<Annotations\b")
REGION = re.compile(r"<Region[ >]")
LOOKED_AT = 20  # files read to recognise a folder
RECTANGLE, ELLIPSE = "1", "2"
AREAS = ("0", RECTANGLE, ELLIPSE)
NO_CLASS = "Description"  # an attribute that describes, and does not name


def is_aperio(path: Path, images: Path | None = None) -> bool:
    """Whether a file is ImageScope's, or a folder has such files."""
    return bool(_files(path, LOOKED_AT))


def _files(path: Path, limit: int | None = None) -> list[Path]:
    """The files at a path; of ``Annotations`` alone, if it is there; none above folders of splits."""
    if path.is_file():
        return [path] if _is_file(path) else []
    folders = [path / name for name in ANNOTATION_FOLDERS if (path / name).is_dir()]
    if not folders and any(split_of(folder.name) for folder in subfolders(path)):
        return []
    listed = [file for folder in folders or [path] for file in files_below(folder, "*.xml")]
    return [file for file in dict.fromkeys(listed[:limit]) if _is_file(file)] if path.is_dir() else []


def _is_file(file: Path) -> bool:
    text = head(file)
    return file.suffix.lower() == ".xml" and bool(ROOT.match(text)) and bool(REGION.search(text))


def read_aperio(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the XML files of images.

    Args:
        path: a file, or the folder that contains them.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or none of the images is found.
    """
    source = Path(path)
    files = _files(source)
    if not files:
        raise ValueError(f"{source}: expected XML files of Aperio ImageScope; found none.")
    objects = AnnotatedImages("aperio", source, images=images)
    above = source.parent if source.is_file() else source
    seen: dict[Path, str] = {}
    for file in files:
        beside = next((f for f in image_files(file.parent) if f.stem == file.stem), None)
        image = beside or objects.index.find(file.stem)
        if image is None:
            objects.missing.setdefault(file.stem)
            continue
        picture = objects.at(image, place=file.name)
        if picture is not None and objects.is_new(picture, str(file.relative_to(above)), seen):
            _read_file(objects, picture, file)
    objects.warn_of_unlisted("have no XML file")
    return objects.dataset()


def _read_file(objects: AnnotatedImages, picture: Picture, file: Path) -> None:
    try:
        root = read_xml(file)
    except ValueError as error:
        objects.builder.report(str(error).removeprefix(f"{file}: "), "Export it again.", file=picture.path)
        return
    for layer in root.iter("Annotation"):
        label = _class_of(layer)
        for region in layer.iter("Region"):
            _draw(objects, picture, region, Drawn(label, f"{file.name}, region {region.get('Id')}"))


def _class_of(layer: ElementTree.Element) -> str:
    """The name of an annotation, or of its attribute."""
    attribute = layer.find("Attributes/Attribute")
    named = "" if attribute is None else attribute.get("Name", "").strip()
    if attribute is not None and named == NO_CLASS:
        named = attribute.get("Value", "").strip()
    return layer.get("Name", "").strip() or named or UNNAMED


def _draw(objects: AnnotatedImages, picture: Picture, region: ElementTree.Element, drawn: Drawn) -> None:
    kind = region.get("Type", "0")
    if kind not in AREAS:
        objects.ignore(f"regions of the type {kind}, which are no areas")
        return
    if region.get("NegativeROA", "0") == "1":
        objects.ignore("negative regions (holes)")
        return
    try:
        points = np.array([[float(v.get(a, "")) for a in "XY"] for v in region.iter("Vertex")], np.float64)
    except ValueError as error:
        objects.wrong(picture, drawn.place, f"Expected vertices with numbers X and Y ({error}).")
        return
    points = points.reshape(-1, 2)
    if not all(math.isfinite(v) and abs(v) < MAX_COORDINATE for v in points.ravel().tolist()):
        objects.wrong(picture, drawn.place, "A vertex is not a finite number of pixels.")
        return
    corners = _corners(kind, points)
    if len(corners) < 3:
        objects.ignore("regions of fewer than three vertices")
        return
    drawn.outline = [corners]
    objects.draw(picture, drawn)


def _corners(kind: str, points: Part) -> Part:
    """The polygon of a region; two vertices are corners of a box."""
    if len(points) != 2 or kind not in (RECTANGLE, ELLIPSE):
        return points
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    if kind == RECTANGLE:
        return rectangle((x1, y1, x2, y2))
    return ellipse(((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2))
