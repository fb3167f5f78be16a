"""Detectron2's list of dictionaries, one per image, as ``DatasetCatalog.get`` returns it.

Convention:
    ``bbox_mode`` says what ``bbox`` means: 0 is x1 y1 x2 y2, 1 is x y width height, both in pixels; 2 and 3
    the same as fractions of the image. ``category_id`` counts from 0, without background. Keypoints are
    continuous coordinates; Detectron2 has already added half a pixel.

Turned boxes (mode 4) become outlines: ``x y width height angle`` of the centre, in degrees, counterclockwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.classes import numbered_keypoints
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.figures import rectangle, turned
from rcnn.data.formats.outlines import is_number, polygon_fault, rle_fault
from rcnn.data.problems import Box
from rcnn.structures import Outline, Size

NAME = "Detectron2's list"
CORNERS, SIDES, CORNER_FRACTIONS, SIDE_FRACTIONS, TURNED = range(5)


def is_detectron2(items: Any) -> bool:
    """Whether an object is a list of dictionaries with the names of images."""
    if not isinstance(items, list | tuple) or not items:
        return False
    return all(isinstance(i, Mapping) and "file_name" in i for i in (items[0], items[-1]))


def read_detectron2(items: Sequence[Mapping[str, Any]], class_names: Sequence[str] | None = None) -> Dataset:
    """Open the list; without class names (``MetadataCatalog.get(…).thing_classes``), numbers are the names.

    Raises:
        ValueError: an item without the name of a file, or a ``category_id`` beyond the class names.
    """
    objects = AnnotatedImages("Python object", Path(NAME), "crowd")
    seen: dict[Path, str] = {}
    numbers: set[int] = set()
    for index, item in enumerate(items):
        place = f"item {index}"
        name = item.get("file_name") if isinstance(item, Mapping) else None
        if not isinstance(name, str | Path):
            raise ValueError(f"{NAME}, {place}: expected a dictionary with file_name; found {item!r:.60}.")
        size = _size(item)
        picture = objects.at(Path(name), size=size, place=place)
        if picture is None or not objects.is_new(picture, place, seen):
            continue
        picture.image_id = item.get("image_id", picture.image_id)
        for number, annotation in enumerate(item.get("annotations") or []):
            drawn = _drawn(objects, picture, annotation, f"{place}, annotations[{number}]")
            if drawn is not None:
                numbers.add(int(drawn.label))
                objects.draw(picture, drawn)
    return objects.dataset(_name_classes(objects, numbers, class_names))


def _name_classes(
    objects: AnnotatedImages, numbers: set[int], class_names: Sequence[str] | None
) -> Sequence[str]:
    """Replace the numbers of the classes by their names, and return all names."""
    names = (
        [str(n) for n in range(max(numbers, default=-1) + 1)] if class_names is None else list(class_names)
    )
    strange = sorted(number for number in numbers if not 0 <= number < len(names))
    if strange:
        expected = f"expected 0 to {len(names) - 1}, for {len(names)} class names"
        raise ValueError(f"{NAME}: there are objects with the category_id {strange[0]}; {expected}.")
    for _, drawn in objects.drawn:
        drawn.label = names[int(drawn.label)]
    return names


def _size(item: Mapping[str, Any]) -> Size | None:
    height, width = item.get("height"), item.get("width")
    return (int(height), int(width)) if is_number(height) and is_number(width) else None


def _drawn(objects: AnnotatedImages, picture: Picture, annotation: Any, place: str) -> Drawn | None:
    """An object; None, reported, if it is unusable."""
    whole = annotation if isinstance(annotation, Mapping) else {}
    label, mode = whole.get("category_id"), whole.get("bbox_mode")
    values = np.asarray(whole.get("bbox", ()), dtype=object).reshape(-1).tolist()
    fault = None
    if not isinstance(label, int | np.integer) or isinstance(label, bool) or label < 0:
        fault = f"Expected an integer category_id from 0; found {label!r:.40}."
    elif not isinstance(mode, int) or not 0 <= mode <= TURNED:
        fault = f"Expected bbox_mode, one of 0 to 4; found {mode!r:.40}."
    elif len(values) != 4 + (mode == TURNED) or not all(is_number(float(v)) for v in values if _is_real(v)):
        fault = f"Expected {4 + (mode == TURNED)} numbers as bbox; found {values!r:.60}."
    elif not all(map(_is_real, values)):
        fault = f"Expected numbers as bbox; found {values!r:.60}."
    if fault is not None:
        objects.wrong(picture, place, fault)
        return None
    drawn = Drawn(str(int(label or 0)), place, crowd=bool(whole.get("iscrowd", 0)))
    drawn.box, drawn.outline = _box([float(v) for v in values], int(mode or 0), picture.size)
    outline, problem = _outline(whole.get("segmentation"), picture.size)
    if problem is not None:
        objects.wrong(picture, place, problem, "Correct or delete the segmentation.")
        return None
    drawn.outline = outline or drawn.outline
    points = np.asarray(whole.get("keypoints") or [], np.float64).reshape(-1, 3).tolist()
    names = numbered_keypoints(len(points))
    drawn.keypoints = {name: (x, y, seen) for name, (x, y, seen) in zip(names, points, strict=True)}
    return drawn


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _box(values: list[float], mode: int, size: Size) -> tuple[Box | None, Outline | None]:
    """The box; of a turned one, its outline."""
    height, width = size
    if mode == TURNED:
        x, y, w, h, angle = values
        corners = rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
        return None, [turned(corners, -math.radians(angle), (x, y))]
    x, y, a, b = values
    if mode in (CORNER_FRACTIONS, SIDE_FRACTIONS):
        x, y, a, b = x * width, y * height, a * width, b * height
    return ((x, y, x + a, y + b) if mode in (SIDES, SIDE_FRACTIONS) else (x, y, a, b)), None


def _outline(found: Any, size: Size) -> tuple[Outline | None, str | None]:
    """The outline of an object, and its fault."""
    if not found:
        return None, None
    if isinstance(found, Mapping):
        counts = found.get("counts")
        code = {"size": list(found.get("size", ())), "counts": counts}
        if isinstance(counts, bytes):
            code["counts"] = counts.decode("ascii", errors="replace")
        fault = rle_fault(code, size)
        return (code, None) if fault is None else (None, fault)
    parts = [np.asarray(part, np.float64).reshape(-1).tolist() for part in found]
    fault = polygon_fault(parts)
    drawn: Outline = [np.array(part, np.float64).reshape(-1, 2) for part in parts if len(part) >= 6]
    return (drawn or None, None) if fault is None else (None, fault)
