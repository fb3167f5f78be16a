"""Datumaro's own JSON: a file of items per subset, with their images.

    annotations/train.json      {"categories": {"label": {"labels": [{"name": "cat"}]}},
                                "items": [{"id": "a", "image": {"path": "a.jpg"}, "annotations": [{"type":
                                "bbox", "label_id": 0, "bbox": [8, 6, 16, 14], "group": 0}]}]}
    images/train/a.jpg          also images/a.jpg

Convention:
    ``bbox`` is x, y, width, height in continuous pixels. Keypoints are continuous pixels.

The annotations of a group (any number but 0) with one label are one object: its polygons and masks are parts
of its outline, its points are keypoints, and its box is taken where there is no outline. Lines, whole-image
labels, captions and other types are ignored with a warning.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import has_one_file, head, one_file, read_json
from rcnn.data.formats.figures import ellipse
from rcnn.data.formats.outlines import is_number, joined_rle, rle_fault

TITLE = "Datumaro"
OUTLINES = ("polygon", "mask", "ellipse")
OBJECTS = (*OUTLINES, "bbox", "points")
KEYS = re.compile(r'"dm_format_version"|"categories"\s*:\s*\{|"items"\s*:\s*\[')


def is_datumaro(path: Path, images: Path | None = None) -> bool:
    """Whether a file is Datumaro's, or a folder has one."""
    return has_one_file(path, ".json", _is_file, TITLE)


def _is_file(file: Path) -> bool:
    text = head(file)
    return text.startswith("{") and len(set(KEYS.findall(text))) >= 2


def read_datumaro(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a JSON file of Datumaro.

    Args:
        path: the file, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or it is damaged, or none of its images is found.
    """
    file = one_file(Path(path), ".json", _is_file, TITLE)
    content = read_json(file)
    objects = AnnotatedImages("datumaro", file, "crowd", images=images)
    categories = _at(content, "categories")
    labels = [str(_at(one, "name")) for one in _list(_at(_at(categories, "label"), "labels"))]
    points = {
        one["label_id"]: list(map(str, _list(one.get("labels"))))
        for one in _list(_at(_at(categories, "points"), "items"))
        if isinstance(one, dict) and isinstance(one.get("label_id"), int)
    }
    for index, item in enumerate(_list(content.get("items"))):
        path_of = _at(_at(item, "image"), "path") or _at(_at(item, "media"), "path") or _at(item, "id")
        picture = objects.find(str(path_of), place=f"items[{index}]")
        if picture is not None:
            _Objects(objects, picture, labels, points).read(_list(_at(item, "annotations")))
    objects.warn_of_unlisted()
    return objects.dataset(labels)


def _at(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, dict) else None


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


class _Objects:
    """Draws the annotations of one image."""

    def __init__(
        self, objects: AnnotatedImages, picture: Picture, labels: list[str], points: dict[int, list[str]]
    ) -> None:
        self.objects, self.picture = objects, picture
        self.labels, self.points = labels, points

    def read(self, entries: list[Any]) -> None:
        """Read the objects, each from one annotation or from the group that it is in."""
        groups: dict[Any, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        for number, entry in enumerate(entries):
            place = f"{self.picture.path.name}, annotation {number}"
            kind, label = _at(entry, "type"), _at(entry, "label_id")
            if kind not in OBJECTS:
                self.objects.ignore(f"annotations of the type {kind}")
            elif not isinstance(label, int) or not 0 <= label < len(self.labels):
                what = f"Expected a label_id below {len(self.labels)}; found {label!r}."
                self.objects.wrong(self.picture, place, what)
            else:
                group = entry.get("group") or (None, number)
                groups[group, label].append((place, entry))
        for (_, label), members in groups.items():
            self._draw(label, members)

    def _draw(self, label: int, members: list[tuple[str, dict[str, Any]]]) -> None:
        drawn = Drawn(self.labels[label], members[0][0])
        parts, codes = [], []
        for place, entry in members:
            extra = entry.get("attributes")
            drawn.crowd = drawn.crowd or (isinstance(extra, dict) and extra.get("is_crowd") in (True, 1))
            try:
                if entry["type"] == "bbox":
                    drawn.box = _box(entry)
                elif entry["type"] == "points":
                    drawn.keypoints = self._keypoints(entry, self.points.get(label, []))
                elif entry["type"] == "mask":
                    codes.append(self._code(entry))
                else:
                    parts.append(_polygon(entry))
            except ValueError as error:
                self.objects.wrong(self.picture, place, str(error))
                return
        if codes and parts:
            self.objects.wrong(self.picture, drawn.place, "The group has polygons and masks; keep either.")
            return
        if codes or parts:
            drawn.outline, drawn.box = joined_rle(codes, self.picture.size) if codes else parts, None
        elif drawn.box is None:
            self.objects.ignore("points without a box or an outline")
            return
        self.objects.draw(self.picture, drawn)

    def _code(self, entry: dict[str, Any]) -> Any:
        code = entry.get("rle")
        fault = rle_fault(code, self.picture.size) if isinstance(code, dict) else "Expected a code rle."
        if fault is not None:
            raise ValueError(fault)
        return code

    def _keypoints(self, entry: dict[str, Any], names: list[str]) -> dict[str, tuple[float, float, float]]:
        values = _numbers(entry.get("points"), 2)
        seen = entry.get("visibility")
        marks = seen if isinstance(seen, list) and len(seen) == len(values) // 2 else [2] * (len(values) // 2)
        names = names or [f"point {n}" for n in range(1, len(marks) + 1)]
        if len(names) != len(marks):
            raise ValueError(f"Expected {len(names)} points, as the category has; found {len(marks)}.")
        pairs = zip(names, values[::2], values[1::2], marks, strict=True)
        return {name: (x, y, float(mark)) for name, x, y, mark in pairs}


def _numbers(found: Any, least: int) -> list[float]:
    """A list of pairs of numbers.

    Raises:
        ValueError: it is none, or has too few.
    """
    values = _list(found)
    if len(values) < least or len(values) % 2 or not all(map(is_number, values)):
        raise ValueError(f"Expected at least {least} numbers in pairs; found {found!r:.60}.")
    return [float(value) for value in values]


def _box(entry: dict[str, Any]) -> tuple[float, float, float, float]:
    values = _numbers(entry.get("bbox"), 4)
    if len(values) != 4:
        raise ValueError(f"Expected bbox as x, y, width, height; found {values!r:.60}.")
    x, y, width, height = values
    return x, y, x + width, y + height


def _polygon(entry: dict[str, Any]) -> Any:
    """The corners of a polygon, or of an ellipse in its box x1 y1 x2 y2."""
    if entry["type"] == "ellipse":
        x1, y1, x2, y2 = _numbers(entry.get("points"), 4)[:4]
        return ellipse(((x1 + x2) / 2, (y1 + y2) / 2), (abs(x2 - x1) / 2, abs(y2 - y1) / 2))
    return np.array(_numbers(entry.get("points"), 6), np.float64).reshape(-1, 2)
