"""VGG Image Annotator (VIA), versions 1, 2 and 3, JSON and CSV.

    1, 2   {"a.jpg9": {"filename": "a.jpg", "regions": [{"shape_attributes": …, "region_attributes": …}]}}
           or a project, with this under _via_img_metadata; regions may be an object with numbers as keys
    3      {"project": …, "attribute": …, "file": …, "view": …, "metadata": {"1_x": {"xy": [2, 8, 6, 5, 9]}}}
    CSV    a line per region, with the same contents

Convention:
    Coordinates are continuous: ``"name": "rect", "x": 8, "y": 6, "width": 16, "height": 14`` is the box
    ``8 6 24 20``.

Rectangles are boxes; polygons, circles, ellipses and polylines, which are closed, are outlines. Points and
lines are ignored with a warning. The class is the region attribute that is called like one (``class``,
``label``, ``name``, ``type``, …) or the only one; without attributes, all regions are of one class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.contents import files_with, has_one_file, head, one_file, read_json, read_table
from rcnn.data.formats.figures import Part, ellipse
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import Box
from rcnn.io.json_text import parse_json

KIND = "VIA"
CLASS_ATTRIBUTES = (
    "class", "label", "class_name", "classname", "category", "name", "type", "object", "object_name",
    "species",
)  # fmt: skip
SHAPE_NAMES = {
    1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon", 8: "rect",
    9: "circle",
}  # fmt: skip
# The numbers that describe a shape, by VIA 2's names and in VIA 3's order.
MEASURES: dict[Any, tuple[str, ...]] = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
UNREAD = ("point", "line")
CSV_COLUMNS = ("filename", "file_size", "file_attributes", "region_count", "region_id")


@dataclass(frozen=True)
class _Region:
    """One region of an image, as written.

    Attributes:
        place: how problems refer to it.
        shape: its shape attributes, by the names of VIA 2.
        attributes: its region attributes.
    """

    place: str
    shape: Any
    attributes: dict[str, Any]


Entries = Iterator[tuple[str, str, list[_Region]]]
"""For each image, its name, its place in the file, and its regions."""


def is_via_json(file: Path) -> bool:
    """Whether a JSON file is of VIA 1, 2 or 3."""
    text = head(file)
    if '"_via_img_metadata"' in text or '"_via_settings"' in text or "__VIA_" in text:
        return True
    if '"vid_list"' in text and '"project"' in text:
        return True
    return '"filename"' in text and (
        '"base64_img_data"' in text
        or '"shape_attributes"' in text
        or bool(re.search(r'"regions"\s*:\s*[\[{]', text) and '"file_attributes"' in text)
    )


def is_via_csv(file: Path) -> bool:
    """Whether a CSV file is of VIA 1, 2 or 3."""
    text = head(file)
    first = text.split("\n", 1)[0].lstrip("#")
    return all(column in first for column in CSV_COLUMNS) or (
        text.startswith("#") and "spatial_coordinates" in text
    )


def is_via(path: Path, images: Path | None = None) -> bool:
    """Whether a file is VIA's, or a folder has such a file."""
    return has_one_file(path, ".json", is_via_json, KIND) or has_one_file(path, ".csv", is_via_csv, KIND)


def read_via(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a project or an export of VIA.

    Args:
        path: the file, or the folder that contains one; a JSON file is preferred to its CSV export.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or it is damaged, or none of its images is found.
    """
    source = Path(path)
    is_table = source.suffix.lower() == ".csv" or not files_with(source, ".json", is_via_json)
    if is_table and (source.is_file() or files_with(source, ".csv", is_via_csv)):
        file = one_file(source, ".csv", is_via_csv, KIND)
        entries = _table_entries(file)
    else:
        file = one_file(source, ".json", is_via_json, KIND)
        entries = _json_entries(file)
    return _Reader(file, images).read(list(entries))


class _Reader:
    """Turns the entries of a file into a data set."""

    def __init__(self, file: Path, images: str | Path | None) -> None:
        self.objects = AnnotatedImages("via", file, images=images)
        self.closed = 0

    def read(self, entries: list[tuple[str, str, list[_Region]]]) -> Dataset:
        """Read all images."""
        attribute = self._class_attribute([region for _, _, regions in entries for region in regions])
        seen: dict[Path, str] = {}
        for name, place, regions in entries:
            picture = self.objects.find(name, place=place)
            if picture is not None and self.objects.is_new(picture, place, seen):
                for region in regions:
                    self._draw(picture, region, attribute)
        if self.closed:
            what = f"{self.closed} polylines."
            self.objects.builder.warn(what, "They were closed and read as outlines.", "objects")
        self.objects.warn_of_unlisted()
        return self.objects.dataset()

    def _class_attribute(self, regions: list[_Region]) -> str | None:
        """The region attribute that holds the class; None if there are no attributes."""
        counts = Counter(
            key for region in regions for key, value in region.attributes.items() if _class_of(value)
        )
        if not counts:
            return None
        called = [key for name in CLASS_ATTRIBUTES for key in counts if key.strip().casefold() == name]
        chosen = called[0] if called else counts.most_common(1)[0][0]
        if len(counts) > 1:
            others = ", ".join(key for key in counts if key != chosen)
            what = f"The regions have several attributes: {chosen}, {others}."
            self.objects.builder.warn(what, f"{chosen} is read as the class.", "attributes")
        return chosen

    def _draw(self, picture: Picture, region: _Region, attribute: str | None) -> None:
        label = UNNAMED
        if attribute is not None:
            classes = _class_of(region.attributes.get(attribute))
            if len(classes) != 1:
                found = f"{len(classes)} values" if classes else "no value"
                what = f"The region has {found} of the attribute {attribute}, the class."
                self.objects.wrong(picture, region.place, what, "Give it one class.")
                return
            label = classes[0]
        kind = region.shape.get("name") if isinstance(region.shape, dict) else None
        if isinstance(kind, str) and kind in UNREAD:
            self.objects.ignore(f"{kind}s")
            return
        box, part, fault = _figure(kind, region.shape)
        if fault is not None:
            self.objects.wrong(picture, region.place, fault)
            return
        self.closed += kind == "polyline"
        outline = None if part is None else [part]
        self.objects.draw(picture, Drawn(label, region.place, box, outline))


def _class_of(value: Any) -> list[str]:
    """The values of an attribute: a text, a number, or the marked boxes of a list of options."""
    if isinstance(value, dict):
        return [str(key) for key, marked in value.items() if marked not in (False, None, "", 0, "false")]
    if isinstance(value, bool) or value is None or not str(value).strip():
        return []
    return [str(value).strip()]


def _figure(kind: Any, shape: Any) -> tuple[Box | None, Part | None, str | None]:
    """A box or an outline, and the fault of a shape that cannot be drawn."""
    if isinstance(kind, str) and kind in MEASURES:
        values = [shape.get(key) for key in MEASURES[kind]]
        if not all(is_number(value) for value in values):
            return (
                None,
                None,
                f"Expected numbers {', '.join(MEASURES[kind])} of a {kind}; found {values!r:.60}.",
            )
        if kind == "rect":
            x, y, width, height = map(float, values)
            return (x, y, x + width, y + height), None, None
        cx, cy, *radii = map(float, values)
        angle = shape.get("theta", 0)
        return None, ellipse((cx, cy), (radii[0], radii[-1]), float(angle) if is_number(angle) else 0.0), None
    if kind not in ("polygon", "polyline"):
        return None, None, f"The shape {kind!r:.40} is not known."
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        return None, None, "Expected all_points_x and all_points_y, two lists of equal length."
    if len(xs) < 3 or not all(is_number(value) for value in [*xs, *ys]):
        return None, None, f"A {kind} has {len(xs)} points; expected at least 3, as numbers."
    return None, np.array([xs, ys], np.float64).T, None


def _values_of(regions: Any) -> list[tuple[str, Any]]:
    """The regions of an image with their keys: a list, or an object with numbers as keys."""
    if isinstance(regions, dict):
        return [(str(key), value) for key, value in regions.items()]
    return [(str(key), value) for key, value in enumerate(regions)] if isinstance(regions, list) else []


def _json_entries(file: Path) -> Entries:
    content = read_json(file)
    if isinstance(content, dict) and "metadata" in content and "view" in content:
        yield from _project_entries(file, content)
        return
    found = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
    entries = _values_of(found)
    for key, entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            raise ValueError(
                f"{file}: expected VIA's images with filename and regions; {key[:40]} is another."
            )
        regions = []
        for number, region in _values_of(entry.get("regions")):
            whole = region if isinstance(region, dict) else {}
            attributes = whole.get("region_attributes")
            regions.append(
                _region(f"{entry['filename']}, region {number}", whole.get("shape_attributes"), attributes)
            )
        yield entry["filename"], key, regions


def _region(place: str, shape: Any, attributes: Any) -> _Region:
    return _Region(place, shape, attributes if isinstance(attributes, dict) else {})


def _project_entries(file: Path, content: dict[str, Any]) -> Entries:
    """The images of a VIA 3 project: views of one file, with their metadata."""
    files, views, metadata = (content.get(key) for key in ("file", "view", "metadata"))
    if not (isinstance(files, dict) and isinstance(views, dict) and isinstance(metadata, dict)):
        raise ValueError(f"{file}: expected VIA 3's objects file, view and metadata.")
    names = _attribute_names(content.get("attribute"))
    regions: dict[str, list[_Region]] = {str(key): [] for key in views}
    for key, entry in metadata.items():
        view = str(entry.get("vid")) if isinstance(entry, dict) else ""
        if view in regions and entry.get("xy"):
            regions[view].append(_coordinates(key, entry["xy"], names(entry.get("av"))))
    for view, listed in regions.items():
        shown = views[view].get("fid_list") if isinstance(views[view], dict) else None
        for number in shown[:1] if isinstance(shown, list) else []:
            source = files.get(str(number))
            whole = source if isinstance(source, dict) else {}
            name = whole.get("fname") or whole.get("src")
            if not isinstance(name, str):
                raise ValueError(f"{file}: the file {number} of the view {view} has no name (fname).")
            yield name, f"view {view}", listed


def _attribute_names(attributes: Any) -> Callable[[Any], dict[str, Any]]:
    """Replaces the numbers of VIA 3's attributes and of their options by their names."""
    known = attributes if isinstance(attributes, dict) else {}

    def named(values: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items() if isinstance(values, dict) else ():
            attribute = known.get(str(key))
            whole = attribute if isinstance(attribute, dict) else {"aname": attribute or key}
            options = whole.get("options")
            options = options if isinstance(options, dict) else {}
            chosen = [part for part in str(value).split(",") if part.strip()] if options else []
            marked = {str(options.get(part.strip(), part)): True for part in chosen}
            found[str(whole.get("aname") or key)] = marked if len(marked) > 1 else next(iter(marked), value)
        return found

    return named


def _coordinates(place: str, xy: Any, attributes: dict[str, Any]) -> _Region:
    """A region of VIA 3, whose coordinates begin with the number of the shape, by the names of VIA 2."""
    kind = SHAPE_NAMES.get(int(xy[0])) if isinstance(xy, list) and xy and is_number(xy[0]) else None
    values = xy[1:] if isinstance(xy, list) else []
    shape: dict[str, Any] = {"name": kind}
    if kind in MEASURES:
        shape |= dict(zip(MEASURES[kind], values, strict=False))
    elif kind is not None:
        shape |= {"all_points_x": values[::2], "all_points_y": values[1::2]}
    return _Region(place, shape, attributes)


def _table_entries(file: Path) -> Entries:
    rows = read_table(file)
    if not is_via_csv(file) or not rows:
        raise ValueError(f"{file}: expected VIA's table of regions.")
    if "spatial_coordinates" in head(file):
        yield from _project_table(file)
        return
    columns = [name.lstrip("#") for name in rows[0].values]
    regions: dict[str, list[_Region]] = {}
    for row in rows[1:]:
        values = dict(zip(columns, row.values, strict=False))
        name = values.get("filename", "")
        listed = regions.setdefault(name, [])
        shape = _cell(file, row.number, values.get("region_shape_attributes"))
        if shape:
            attributes = _cell(file, row.number, values.get("region_attributes"))
            listed.append(_region(f"line {row.number}", shape, attributes))
    for name, listed in regions.items():
        yield name, name, listed


def _project_table(file: Path) -> Entries:
    found = re.search(r"^# ATTRIBUTES? = (\{.*\})\s*$", head(file), re.MULTILINE)
    names = _attribute_names(_cell(file, 1, found[1]) if found else None)
    regions: dict[str, list[_Region]] = {}
    for row in read_table(file):
        if len(row.values) < 6:
            raise ValueError(f"{file}, line {row.number}: expected six cells; found {len(row.values)}.")
        listed = _cell(file, row.number, row.values[1])
        name = listed[0] if isinstance(listed, list) and listed else listed
        found_regions = regions.setdefault(str(name), [])
        xy = _cell(file, row.number, row.values[4])
        if xy:
            attributes = names(_cell(file, row.number, row.values[5]))
            found_regions.append(_coordinates(f"line {row.number}", xy, attributes))
    for name, listed in regions.items():
        yield name, name, listed


def _cell(file: Path, line: int, text: str | None) -> Any:
    """The JSON value of a cell, None if it is empty."""
    if not text:
        return None
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(
            f"{file}, line {line}: expected JSON in the cell {text[:40]!r} ({error})."
        ) from error
