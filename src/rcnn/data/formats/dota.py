"""DOTA: aerial images with a text file of turned boxes for each.

    images/P0001.png
    labelTxt/P0001.txt      x1 y1 x2 y2 x3 y3 x4 y4 class difficult

The four corners are the outline of an object, and the box around them its box. Lines without a number at
their end are not difficult. The first lines may give the source and the resolution of the image
(``imagesource:…``, ``gsd:…``).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import head
from rcnn.data.formats.folders import subfolders
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import visible_files

HEADER = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
LINE = re.compile(rf"((?:{NUMBER}[\s,]+){{8}})(?!{NUMBER}(?:[\s,]|$))(\S.*?)(?:[\s,]+(\d+))?")
LOOKED_AT = 5  # files read to recognise a folder
LONGEST_LINE = 2000  # characters; the pattern takes the square of it
FOLDERS = re.compile(r"labeltxt|annfiles|labels|annotations", re.IGNORECASE)


def is_dota(path: Path, images: Path | None = None) -> bool:
    """Whether a folder has DOTA's text files, in itself or in a folder such as ``labelTxt``."""
    return _text_folder(path) is not None


def _text_folder(source: Path) -> Path | None:
    if not source.is_dir():
        return None
    below = [f for f in visible_files(source) if f.is_dir() and FOLDERS.match(f.name)]
    deeper = [folder for parent in below for folder in subfolders(parent)]
    return next((folder for folder in [*below, *deeper, source] if _is_text_folder(folder)), None)


def _is_text_folder(folder: Path) -> bool:
    """Whether the first text files with an object have DOTA's lines."""
    for file in visible_files(folder, "*.txt")[:LOOKED_AT]:
        lines = [line.strip() for line in head(file).splitlines()]
        first = next((line for line in lines if line and not HEADER.match(line)), None)
        if first is not None:
            return len(first) <= LONGEST_LINE and LINE.fullmatch(first) is not None
    return False


def read_dota(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of DOTA.

    Args:
        folder: the folder with ``labelTxt`` and ``images``, or with both kinds of files.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there are no text files, or none of their images is found.
    """
    source = Path(folder)
    texts = _text_folder(source)
    if texts is None:
        raise ValueError(f"{source}: expected DOTA's text files in labelTxt/; found none.")
    objects = AnnotatedImages("dota", source, "difficult", images=images)
    for picture, place, line in objects.lines(texts):
        if not HEADER.match(line.strip()):
            _read_line(objects, picture, place, line)
    objects.warn_of_unlisted("have no text file")
    return objects.dataset()


def _read_line(objects: AnnotatedImages, picture: Picture, place: str, line: str) -> None:
    found = LINE.fullmatch(line.strip()) if len(line) <= LONGEST_LINE else None
    values = [float(word) for word in re.findall(NUMBER, found[1])] if found else []
    if found is None or not all(map(is_number, values)):
        what = f"Expected eight numbers, a class and perhaps 0 or 1; found {line.strip()[:60]!r}."
        objects.wrong(picture, place, what)
        return
    corners = np.array(values, np.float64).reshape(-1, 2)
    difficult = found[3] is not None and int(found[3]) != 0
    objects.draw(picture, Drawn(found[2], place, outline=[corners], difficult=difficult))
