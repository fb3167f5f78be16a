"""Hugging Face's ImageFolder with objects: a line of JSON per image, in ``metadata.jsonl`` beside the images.

    {"file_name": "a.jpg", "objects": {"bbox": [[x, y, width, height], …], "categories": [0, …]}}

Conventions:
    Boxes are x, y, width, height in pixels, as in COCO. Categories are names or numbers; a number's name is
    not in the file, so it becomes the class's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import UNNAMED, AnnotatedImages, Drawn
from rcnn.data.formats.coco_suspicions import Suspicions
from rcnn.data.formats.contents import has_one_file, head, one_file, read_text
from rcnn.data.formats.outlines import is_number
from rcnn.io.json_text import object_of, parse_json

KIND = "ImageFolder"
BOXES = ("bbox", "bboxes", "boxes")
CLASSES = ("category", "categories", "category_id", "label", "labels", "class", "classes", "category_ids")
CROWDS = ("iscrowd", "is_crowd")


def is_image_folder(path: Path, images: Path | None = None) -> bool:
    """Whether a file is an ImageFolder's with objects, or a folder has one."""
    return has_one_file(path, ".jsonl", _is_file, KIND)


def _is_file(file: Path) -> bool:
    first = head(file).partition("\n")[0]
    return '"file_name"' in first and any(f'{name}"' in first or f'{name}\\"' in first for name in BOXES)


def read_image_folder(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open an ImageFolder with objects.

    Args:
        path: ``metadata.jsonl``, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or none of its images is found.
    """
    file = one_file(Path(path), ".jsonl", _is_file, KIND)
    objects = AnnotatedImages("image-folder", file, "crowd", images=images)
    suspicions = Suspicions(objects.builder)
    seen: dict[Path, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            _read(objects, suspicions, seen, f"line {number}", line)
    suspicions.report()
    objects.warn_of_unlisted()
    return objects.dataset()


def _read(
    objects: AnnotatedImages, suspicions: Suspicions, seen: dict[Path, str], place: str, line: str
) -> None:
    """Read the line of one image."""
    try:
        entry = object_of(line)
    except ValueError as error:
        objects.builder.report(f"This is not a line of JSON ({error}).", "Correct or delete it.", place)
        return
    name = entry.get("file_name")
    if not isinstance(name, str):
        what = f"Expected the name of an image as file_name; found {name!r:.60}."
        objects.builder.report(what, "Complete it.", place)
        return
    picture = objects.find(name, place=place)
    if picture is None or not objects.is_new(picture, place, seen):
        return
    found = objects_of(entry)
    if found is None:
        what = f"Expected lists of equal length as boxes and categories; found {entry.get('objects')!r:.60}."
        objects.wrong(picture, place, what)
        return
    for index, (box, label, crowd) in enumerate(found):
        _draw(objects, suspicions, picture, f"{place}, object {index}", (box, label, crowd))


def objects_of(entry: Mapping[str, Any]) -> list[tuple[Any, Any, Any]] | None:
    """Box, category and crowd of each object; None if they do not belong together."""
    whole = entry["objects"] if entry.get("objects") is not None else entry
    if isinstance(whole, str):  # as tables write it
        try:
            whole = parse_json(whole)
        except ValueError:
            return None
    if isinstance(whole, list):  # a dictionary per object
        if not all(isinstance(each, dict) for each in whole):
            return None
        return [(_value(e, BOXES), _value(e, CLASSES, UNNAMED), _value(e, CROWDS, 0)) for e in whole]
    if not isinstance(whole, dict):
        return None
    boxes = _value(whole, BOXES, [])
    if not isinstance(boxes, list):
        return None
    labels = _value(whole, CLASSES, [UNNAMED] * len(boxes))
    crowds = _value(whole, CROWDS, [0] * len(boxes))
    if not all(isinstance(column, list) and len(column) == len(boxes) for column in (labels, crowds)):
        return None
    return list(zip(boxes, labels, crowds, strict=True))


def _value(whole: Mapping[str, Any], names: Sequence[str], default: Any = None) -> Any:
    """The value of the first of these names."""
    return next((whole[name] for name in names if whole.get(name) is not None), default)


def _draw(
    objects: AnnotatedImages, suspicions: Suspicions, picture: Picture, place: str, found: Sequence[Any]
) -> None:
    """Draw one object, or say what is wrong with it."""
    box, label, crowd = found
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        objects.wrong(picture, place, f"Expected a box x, y, width, height; found {box!r:.60}.")
    elif isinstance(label, bool) or not isinstance(label, str | int):
        objects.wrong(picture, place, f"Expected a name or a number as category; found {label!r:.40}.")
    elif crowd not in (0, 1):
        objects.wrong(picture, place, f"Expected 0 or 1 as iscrowd; found {crowd!r:.40}.")
    else:
        x, y, width, height = map(float, box)
        suspicions.look_at_numbers((x, y, width, height), picture.size)
        drawn = Drawn(str(label), place, (x, y, x + width, y + height), crowd=bool(crowd))
        objects.draw(picture, drawn)
