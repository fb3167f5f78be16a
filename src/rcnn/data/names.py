r"""Which names of files and classes an annotation format can hold.

**Law:** what is written is read back equal, and a name that a format cannot hold is refused, before anything
is written, by every function that writes data sets.

Readers drop blanks around the names of classes, and take ``\`` in the name of an image for Windows' ``/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from rcnn.data.dataset import Dataset
from rcnn.io.destinations import LONGEST_NAME
from rcnn.io.escaping import for_terminal

# Names of images stand in the text of these files, which is UTF-8.
_TEXT = {"coco", "voc", "csv", "createml", "cvat", "label-studio", "labelme"}
_XML = {"voc", "cvat"}
_TAKES_BACKSLASHES = {"csv", "createml", "cvat", "label-studio", "labelme"}
_IN_ADDRESSES = set("&#?%=")  # Label Studio's files have addresses of images
# Of files beside images, where these are longer than those of images.
_ENDINGS = {"geojson": ".geojson", "labelme": ".json"}
# Names of classes do in these and in YOLO's, whose settings can escape every character.
_WITH_CLASSES = {*_TEXT, "geojson", "imagej"}
_KEEPS_BLANKS = {"imagej"}
_WITH_KEYPOINTS = {"coco"}
_SURROGATE = re.compile("[\ud800-\udfff]")  # a byte that is no UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")


def refuse_names(datasets: Iterable[Dataset], to: str) -> None:
    """Refuse images and classes whose names the format ``to`` cannot hold.

    Raises:
        ValueError: it names the first of them, and what to do.
    """
    for dataset in datasets:
        for record in dataset.records:
            if why := _not_held(record.path.name, record.path.stem, to):
                shown = for_terminal(str(record.path))
                raise ValueError(f"{shown}: its name {why}, which --to {to} cannot hold; rename the file")
        for what, names in (("class", dataset.class_names), ("keypoint", _keypoints(dataset, to))):
            for name in names:
                if to in _WITH_CLASSES and (why := _class_not_held(name, to)):
                    raise ValueError(
                        f"{dataset.source}: the name of the {what} {name!a} {why}, which --to {to} cannot "
                        f"hold; rename the {what}"
                    )


def not_utf_8(names: Iterable[str]) -> list[str]:
    """The names with bytes that are not UTF-8, which Python has as halves of surrogate pairs."""
    return [name for name in names if _SURROGATE.search(name)]


def _not_held(name: str, stem: str, to: str) -> str:
    """Why a format cannot hold the name of an image; empty if it can."""
    if to in _TEXT and _SURROGATE.search(name):
        return "is not UTF-8"
    if to in _XML and (_CONTROL.search(name) or name != name.strip()):
        return "has control characters, or blanks at an end"
    if to == "label-studio" and (_CONTROL.search(name) or set(name) & _IN_ADDRESSES):
        return "has control characters, or characters with a meaning in addresses"
    if to in _TAKES_BACKSLASHES and "\\" in name:
        return "has a backslash"
    if len(os.fsencode(stem + _ENDINGS.get(to, ""))) > LONGEST_NAME:
        return f"is too long for one that ends in {_ENDINGS[to]}"
    return ""


def _class_not_held(name: str, to: str) -> str:
    """The same of the name of a class."""
    if not name.strip():
        return "is empty"
    if _SURROGATE.search(name):
        return "is not UTF-8"
    if to not in _KEEPS_BLANKS and name != name.strip():
        return "has blanks at an end"
    if to in _XML and _CONTROL.search(name.replace("\n", "").replace("\t", "")):
        return "has control characters"
    if to == "imagej" and "\n" in name:
        return "has a line break"
    return ""


def _keypoints(dataset: Dataset, to: str) -> tuple[str, ...]:
    return () if dataset.skeleton is None or to not in _WITH_KEYPOINTS else tuple(dataset.skeleton.names)
