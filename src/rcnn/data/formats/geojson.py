"""GeoJSON as QuPath exports it: a file of features per image.

    a.tif
    a.geojson       {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {"type":
                    "Polygon", "coordinates": …}, "properties": {"classification": {"name": "Tumor"}}}]}

Convention:
    Coordinates are continuous pixels of the full image, x first.

Polygons, with holes, and groups of them are objects; points and lines are ignored with a warning. Where a
file has cells or detections, its annotations are the regions in which they were searched, and are ignored
with a warning, as are the classes that QuPath ignores (``Region*``). Without classes there is one,
``object``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.contents import files_with, head, read_json
from rcnn.data.formats.figures import Part, rectangle
from rcnn.data.formats.outlines import is_number
from rcnn.data.formats.writer import Item, Writer
from rcnn.data.problems import Box
from rcnn.structures.outlines import as_one_polygon, trace

ENDINGS = (".geojson", ".json")
AREAS = ("Polygon", "MultiPolygon")
FOUND = ("cell", "detection")  # types of QuPath's objects
IGNORED_CLASS = "*"  # ends the names of classes that QuPath ignores
CLASS_PROPERTIES = ("classification", "class", "label", "category", "Classification", "name")


def is_geojson(path: Path, images: Path | None = None) -> bool:
    """Whether a file is GeoJSON, or a folder has such files."""
    return any(files_with(path, ending, _is_file) for ending in ENDINGS)


def _is_file(file: Path) -> bool:
    text = head(file)
    return '"FeatureCollection"' in text or ('"Feature"' in text and '"geometry"' in text)


def read_geojson(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open the GeoJSON files of images.

    Args:
        path: a file, or the folder that contains them.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or none of the images is found.
    """
    source = Path(path)
    files = [file for ending in ENDINGS for file in files_with(source, ending, _is_file, None)]
    if not files:
        raise ValueError(f"{source}: expected GeoJSON files of features; found none.")
    if '"bounds_imcoords"' in head(files[0]):
        raise ValueError(
            f"{files[0]}: this is xView's, with boxes in the property bounds_imcoords. Write image_id, "
            "bounds_imcoords and type_id as CSV with the columns filename,xmin,ymin,xmax,ymax,class."
        )
    objects = AnnotatedImages("geojson", source, images=images)
    seen: dict[Path, str] = {}
    for file in files:
        image = objects.index.of_file(file.stem)
        image = image or (objects.index.only() if len(files) == 1 else None)
        if image is None:
            objects.missing.setdefault(file.stem)
            continue
        picture = objects.at(image, place=file.name)
        if picture is not None and objects.is_new(picture, file.name, seen):
            _read_file(objects, picture, file)
    objects.warn_of_unlisted("have no GeoJSON file")
    return objects.dataset()


def _read_file(objects: AnnotatedImages, picture: Picture, file: Path) -> None:
    try:
        content = read_json(file)
    except ValueError as error:
        objects.builder.report(str(error).removeprefix(f"{file}: "), "Export it again.", file=picture.path)
        return
    if isinstance(content, dict) and "crs" in content:
        what = f"{file.name} has coordinates of a map (crs); expected pixels of the image."
        objects.builder.report(what, "Convert them to pixels first.", file=picture.path)
        return
    listed = content.get("features", [content]) if isinstance(content, dict) else content
    listed = listed if isinstance(listed, list) else []
    features = [feature if isinstance(feature, dict) else {} for feature in listed]
    searched = any(_properties(feature).get("objectType") in FOUND for feature in features)
    used = {number: f for number, f in enumerate(features) if _is_object(objects, f, searched=searched)}
    classes = {number: _class_of(feature) for number, feature in used.items()}
    degrees = _degrees_of(used.values())
    if degrees is not None:
        what = f"{file.name} has coordinates such as {degrees}, which look like longitude and latitude."
        objects.builder.report(what, "Convert them to pixels of the image first.", file=picture.path)
        return
    for number, feature in used.items():
        place, label = f"{file.name}, features[{number}]", classes[number]
        if label is None and any(classes.values()):
            objects.wrong(picture, place, "The object has no class, while others have one.", "Give it one.")
        else:
            _draw(objects, picture, feature.get("geometry"), Drawn(label or UNNAMED, place))


def _degrees_of(features: Iterable[dict[str, Any]]) -> str | None:
    """A point, if all are degrees of longitude and latitude: no shape is as large as a pixel."""
    points = None
    for feature in features:
        geometry = feature.get("geometry")
        try:
            found = geometry["coordinates"]  # type: ignore[index]
            points = _ring(found[0][0] if geometry["type"] == "MultiPolygon" else found[0])  # type: ignore[index]
        except (TypeError, KeyError, IndexError, ValueError):  # reported where it is drawn
            continue
        if (np.ptp(points, axis=0) >= 1).any() or (np.abs(points) > np.array([180, 90])).any():
            return None
    return None if points is None else f"{points[0, 0]:g}, {points[0, 1]:g}"


def _is_object(objects: AnnotatedImages, feature: dict[str, Any], *, searched: bool) -> bool:
    """Whether a feature is an object; others are counted."""
    label, geometry = _class_of(feature), feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if searched and _properties(feature).get("objectType") not in FOUND:
        objects.ignore("annotations of regions in which cells were detected")
    elif label is not None and label.endswith(IGNORED_CLASS):
        objects.ignore(f"objects of the class {label}, which QuPath ignores")
    elif isinstance(kind, str) and kind not in (*AREAS, "GeometryCollection"):
        objects.ignore(f"features of the type {kind}")
    else:
        return True
    return False


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _class_of(feature: dict[str, Any]) -> str | None:
    """The class of a feature; None if it has none."""
    properties = _properties(feature)
    found: Any = next((properties[key] for key in CLASS_PROPERTIES if properties.get(key)), None)
    if isinstance(found, dict):
        found = found.get("name") or ": ".join(map(str, found.get("names") or []))
    return str(found).strip() or None if isinstance(found, str | int) else None


def _draw(objects: AnnotatedImages, picture: Picture, geometry: Any, drawn: Drawn) -> None:
    try:
        drawn.outline = outline_of(geometry)
    except ValueError as error:
        objects.wrong(picture, drawn.place, str(error))
        return
    objects.draw(picture, drawn)


def outline_of(geometry: Any) -> list[Part]:
    """The parts of a polygon or of several, each with its holes.

    Raises:
        ValueError: no such geometry.
    """
    try:
        found = geometry["coordinates"]
        polygons = found if geometry.get("type") == "MultiPolygon" else [found]
        return [as_one_polygon([_ring(ring) for ring in polygon]) for polygon in polygons]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"Expected the coordinates of a polygon, rings of points [x, y] ({error})."
        ) from error


def _ring(ring: Any) -> Part:
    """A ring without its last point, which repeats the first."""
    if not isinstance(ring, list) or not all(
        isinstance(p, list) and len(p) >= 2 and all(map(is_number, p[:2])) for p in ring
    ):
        raise ValueError(f"found {repr(ring)[:40]}")
    points = np.array([point[:2] for point in ring], np.float64).reshape(-1, 2)
    if len(points) > 1 and np.array_equal(points[0], points[-1]):
        points = points[:-1]
    if len(points) < 3:
        raise ValueError(f"a ring has {len(points)} points")
    return points


class GeojsonWriter(Writer):
    """A GeoJSON file per image, which QuPath opens: polygons with holes, or rectangles.

    Objects of a data set become annotations. Predictions become detections, with their score and whatever was
    measured as measurements, and their number as the name.
    """

    holds = frozenset({"outlines"})

    def write(self, item: Item) -> None:
        """Write one file."""
        if item.truth.masks is not None:
            item = self.with_outlines(item)
            self.note_boxes(item)
        truth = item.truth
        if truth.masks is None:
            shapes = [[[rectangle(_as_box(box))]] for box in truth.boxes.tolist()]
        else:
            windows = truth.masks.windows[:, :2].tolist()
            patches = truth.masks.patches()
            shapes = [_polygons(patch != 0, (y, x)) for patch, (x, y) in zip(patches, windows, strict=True)]
        features = [
            {"type": "Feature", "geometry": _geometry(polygons), "properties": _described(item, index)}
            for index, polygons in enumerate(shapes)
        ]
        folder = self.folder / "annotations"
        folder.mkdir(exist_ok=True)
        text = json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False)
        (folder / f"{item.image.stem}.geojson").write_text(text, encoding="utf-8")


def _described(item: Item, index: int) -> dict[str, Any]:
    """The properties of an object, as QuPath writes them since version 0.4."""
    truth = item.truth
    classification = {"name": truth.names[index]}
    if truth.scores is None:
        return {"objectType": "annotation", "classification": classification}
    measured = item.measurements[index] if item.measurements else {}
    measurements = {"score": round(float(truth.scores[index]), 6), **measured}
    name = str(item.numbers[index])
    return {
        "objectType": "detection",
        "name": name,
        "classification": classification,
        "measurements": measurements,
    }


def _as_box(values: list[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2


def _polygons(patch: Any, origin: tuple[int, int]) -> list[list[Part]]:
    """The polygons of a bitmap: the outer ring of each connected part, then its holes."""
    numbers, count = ndimage.label(patch)
    found = []
    for number in range(1, count + 1):
        outer, holes = trace(numbers == number, origin)
        found.append([*outer, *holes])
    return found


def _geometry(polygons: list[list[Part]]) -> dict[str, Any]:
    closed = [[np.concatenate([ring, ring[:1]]).tolist() for ring in rings] for rings in polygons]
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}
