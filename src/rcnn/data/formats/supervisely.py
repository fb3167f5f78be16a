"""Supervisely: a JSON file per image, in folders of a project.

    project/meta.json           the classes
    project/ds0/img/a.jpg
    project/ds0/ann/a.jpg.json  {"size": …, "objects": [{"classTitle": "cat", "geometryType": "polygon", …}]}

Convention:
    Downloaded coordinates are indices of pixels: a rectangle from ``[8, 6]`` to ``[23, 19]`` includes both
    corners and is the box ``8 6 24 20``. Half a pixel is added to the points of polygons and to keypoints, as
    Supervisely does itself. Rectangles with fractions are taken as continuous.

Rectangles are boxes; polygons, with holes, and bitmaps are outlines; a graph is an object with keypoints.
Points, lines and other figures are ignored with a warning.
"""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import head, read_json
from rcnn.data.formats.figures import Part, bounds, window_code
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import shortened
from rcnn.io.images import DECODER_ERRORS, image_files, visible_files
from rcnn.io.pillow_files import embedded_image
from rcnn.structures.outlines import as_one_polygon

IMAGES, ANNOTATIONS, META = "img", "ann", "meta.json"
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
HALF = 0.5
MAX_BYTES = 50_000_000  # of a bitmap, decompressed


def is_supervisely(path: Path, images: Path | None = None) -> bool:
    """Whether a folder is a data set of Supervisely, or a project of them.

    Raises:
        ValueError: a project whose data sets are splits.
    """
    if _is_part(path):
        return True
    parts = _parts(path)
    if len(parts) > 1 and any(part.name.casefold() in SPLITS for part in parts):
        names = ", ".join(part.name for part in parts)
        raise ValueError(f"{path}: its data sets are splits; name one of these folders: {names}.")
    return bool(parts)


def _is_part(folder: Path) -> bool:
    files = visible_files(folder / ANNOTATIONS, "*.json") if (folder / ANNOTATIONS).is_dir() else []
    return bool(files) and '"objects"' in head(files[0])


def _parts(project: Path) -> list[Path]:
    """The data sets of a project."""
    if not (project / META).is_file():
        return []
    return [folder for folder in visible_files(project) if folder.is_dir() and _is_part(folder)]


def read_supervisely(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a project or a data set of Supervisely.

    Args:
        path: the folder.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there are no annotations, or none of their images is found.
    """
    source = Path(path)
    parts = [source] if _is_part(source) else _parts(source)
    if not parts:
        raise ValueError(f"{source}: expected Supervisely's folders {ANNOTATIONS}/ and {IMAGES}/.")
    objects = AnnotatedImages("supervisely", source, images=images)
    names = [name for folder in (source, source.parent) for name in _class_names(folder / META)]
    seen: dict[Path, str] = {}
    for part in parts:
        for file in visible_files(part / ANNOTATIONS, "*.json"):
            _read_file(objects, part, file, seen)
    objects.warn_of_unlisted()
    return objects.dataset(names or None)


def _class_names(meta: Path) -> list[str]:
    """The classes that a project declares."""
    content = read_json(meta) if meta.is_file() else {}
    classes = content.get("classes") if isinstance(content, dict) else None
    titles = [c.get("title") for c in classes if isinstance(c, dict)] if isinstance(classes, list) else []
    return [title for title in titles if isinstance(title, str)]


def _read_file(objects: AnnotatedImages, part: Path, file: Path, seen: dict[Path, str]) -> None:
    try:
        content = read_json(file)
    except ValueError as error:
        objects.builder.report(str(error).removeprefix(f"{file}: "), "Export it again.", file=file)
        return
    whole = content if isinstance(content, dict) else {}
    if not isinstance(whole.get("objects"), list):
        objects.builder.report("Expected a list of objects.", "Move other files elsewhere.", file=file)
        return
    name = file.name.removesuffix(".json")
    own = next((f for f in image_files(part / IMAGES) if f.name == name or f.stem == name), None)
    size = whole.get("size")
    known = isinstance(size, dict) and is_number(size.get("height")) and is_number(size.get("width"))
    annotated = (int(size["height"]), int(size["width"])) if known and isinstance(size, dict) else None
    if own is not None:
        picture = objects.at(own, size=annotated, place=file.name)
    else:
        picture = objects.find(f"{part.name}/{IMAGES}/{name}", size=annotated, place=file.name)
    if picture is not None and objects.is_new(picture, file.name, seen):
        for number, found in enumerate(whole["objects"]):
            _draw(objects, picture, found if isinstance(found, dict) else {}, f"{file.name}, object {number}")


def _draw(objects: AnnotatedImages, picture: Picture, found: dict[str, Any], place: str) -> None:
    drawn = Drawn(str(found.get("classTitle") or ""), place)
    kind = found.get("geometryType") or ("bitmap" if found.get("bitmap") else None)
    try:
        if kind == "rectangle":
            corners = _points(found, "exterior", 2)
            shift = 0 if (corners % 1).any() else 1  # inclusive pixels
            (x1, y1), (x2, y2) = corners.min(0).tolist(), corners.max(0).tolist()
            drawn.box = (x1, y1, x2 + shift, y2 + shift)
        elif kind == "polygon":
            listed = (found.get("points") or {}).get("interior") or []
            holes = [_part(hole) + HALF for hole in listed]
            drawn.outline = [as_one_polygon([_points(found, "exterior", 3) + HALF, *holes])]
        elif kind == "bitmap":
            bitmap, (x, y) = _bitmap(found.get("bitmap"))
            code = window_code(bitmap, (y, x), picture.size)
            drawn.outline = [] if code is None else code
        elif kind == "graph":
            drawn.keypoints = _nodes(found.get("nodes"))
            drawn.box = bounds(
                [np.array([p[:2] for p in drawn.keypoints.values()], np.float64).reshape(-1, 2)]
            )
        else:
            objects.ignore(f"figures of the type {kind}")
            return
    except (*DECODER_ERRORS, TypeError, KeyError, AttributeError) as error:
        objects.wrong(picture, place, f"The {kind} cannot be read ({error}).")
        return
    objects.draw(picture, drawn)


def _points(found: dict[str, Any], name: str, least: int) -> Part:
    return _part((found.get("points") or {}).get(name), least)


def _part(points: Any, least: int = 3) -> Part:
    good = isinstance(points, list) and all(isinstance(p, list) and len(p) == 2 for p in points)
    if not good or len(points) < least or not all(is_number(v) for p in points for v in p):
        raise ValueError(f"expected at least {least} points [x, y], found {shortened([repr(points)[:40]])}")
    return np.array(points, np.float64)


def _nodes(nodes: Any) -> dict[str, tuple[float, float, float]]:
    """The keypoints of a graph; disabled ones are not annotated."""
    found: dict[str, tuple[float, float, float]] = {}
    for key, node in nodes.items():
        x, y = _part([node["loc"]], 1)[0].tolist()
        if not node.get("disabled"):
            found[str(node.get("label") or key)] = (x + HALF, y + HALF, 2.0)
    if not found:
        raise ValueError("it has no points")
    return found


def _bitmap(found: Any) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """The pixels of a bitmap, a compressed PNG, and the (x, y) of the upper left one."""
    content = zlib.decompressobj().decompress(base64.b64decode(found["data"]), MAX_BYTES)
    with embedded_image(content, "the bitmap", "PNG") as image:
        # Transparency marks the pixels outside, or else black.
        band = (
            image.convert("RGBA").getchannel("A")
            if "A" in image.mode or "transparency" in image.info
            else image
        )
        inside = np.asarray(band.convert("L")) != 0
    x, y = (int(value) for value in _part([found["origin"]], 1)[0])
    return inside, (x, y)
