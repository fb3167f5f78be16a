"""Apple's CreateML: a JSON list with an entry per image.

    [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 16, "y": 13, …}}]}]

Convention:
    ``x`` and ``y`` are the centre, in pixels: ``"x": 16, "y": 13, "width": 16, "height": 14`` is the box
    ``8 6 24 20``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import has_one_file, head, one_file, read_json
from rcnn.data.formats.outlines import is_number
from rcnn.data.formats.writer import FileWriter, Item

MEASURES = ("x", "y", "width", "height")
IMAGE_KEYS = ("image", "imagefilename", "imageFilename", "filename")
LIST_KEYS = ("annotations", "annotation")


def is_createml(path: Path, images: Path | None = None) -> bool:
    """Whether a file is CreateML's, or a folder has one."""
    return has_one_file(path, ".json", _is_file, "CreateML")


def _is_file(file: Path) -> bool:
    text = head(file)
    if not text.startswith("["):
        return False
    named = re.search(r'"(image|imagefilename)"\s*:\s*"', text, re.IGNORECASE)
    return named is not None and '"coordinates"' in text


def read_createml(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a JSON file of CreateML.

    Args:
        path: the file, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or it is damaged, or none of its images is found.
    """
    file = one_file(Path(path), ".json", _is_file, "CreateML")
    content = read_json(file)
    objects = AnnotatedImages("createml", file, images=images)
    seen: dict[Path, str] = {}
    for index, entry in enumerate(content):
        place, whole = f"[{index}]", entry if isinstance(entry, dict) else {}
        name = next((whole[key] for key in IMAGE_KEYS if isinstance(whole.get(key), str)), None)
        if name is None:
            what = f"Expected an object with the name of an image; found {entry!r:.60}."
            objects.builder.report(what, "Complete it.", place)
            continue
        picture = objects.find(name, place=place)
        if picture is not None and objects.is_new(picture, place, seen):
            listed: Any = next((whole[key] for key in LIST_KEYS if whole.get(key)), [])
            for number, found in enumerate(listed if isinstance(listed, list) else [listed]):
                _draw(objects, picture, found, f"{name}, annotation {number}")
    objects.warn_of_unlisted()
    return objects.dataset()


def _draw(objects: AnnotatedImages, picture: Picture, found: Any, place: str) -> None:
    whole = found if isinstance(found, dict) else {}
    label, measures = whole.get("label"), whole.get("coordinates")
    values: list[Any] = [measures.get(key) for key in MEASURES] if isinstance(measures, dict) else []
    if len(values) != 4 or not all(is_number(value) for value in values):
        what = f"Expected coordinates with numbers x, y, width, height; found {measures!r:.60}."
        objects.wrong(picture, place, what)
    elif not isinstance(label, str | int):
        objects.wrong(picture, place, f"Expected a text as label; found {label!r:.40}.")
    else:
        x, y, width, height = map(float, values)
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        objects.draw(picture, Drawn(str(label), place, box))


class CreatemlWriter(FileWriter):
    """CreateML's list of boxes."""

    file_name = "_annotations.createml.json"

    def start(self) -> str:
        """The beginning of the list."""
        return "["

    def text(self, item: Item) -> str:
        """One image and its boxes."""
        listed = []
        for name, (x1, y1, x2, y2) in zip(item.truth.names, item.truth.boxes.tolist(), strict=True):
            values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            listed.append({"label": name, "coordinates": dict(zip(MEASURES, values, strict=True))})
        entry = {"image": f"{self.image_folder}/{item.image.name}", "annotations": listed}
        return ("," if self.images else "") + "\n" + json.dumps(entry, ensure_ascii=False)

    def end(self) -> str:
        """The end of the list."""
        return "\n]\n"
