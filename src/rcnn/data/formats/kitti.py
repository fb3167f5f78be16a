"""KITTI: a text file per image, with a line per object.

    image_2/000000.png      also images/
    label_2/000000.txt      type truncated occluded alpha x1 y1 x2 y2 height width length x y z rotation

Convention:
    The corners are continuous pixels of the image: ``8 6 24 20`` is the box ``8 6 24 20``.

A score may follow. Sizes and places in space are not read. ``DontCare`` marks regions in which objects were
not annotated; they are left out with a warning.
"""

from __future__ import annotations

import re
from pathlib import Path

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.contents import head
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import visible_files

LABEL_FOLDERS = ("label_2", "labels", "label", "annotations", "")
IMAGES_OF = {"label_2": "image_2"}  # next to it; image_3 has the other camera's
NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
# A type is a word: a number there is a class of YOLO, followed by an outline.
LINE = re.compile(rf"(?!{NUMBER}\s)(\S.*?)((?:\s+{NUMBER}){{14,15}})\s*")
UNCERTAIN = "DontCare"
LONGEST_LINE = 1000  # characters
LOOKED_AT = 5  # files read to recognise a folder


def is_kitti(path: Path, images: Path | None = None) -> bool:
    """Whether a folder has KITTI's text files, in itself or in a folder such as ``label_2``."""
    return _text_folder(path) is not None


def _text_folder(source: Path) -> Path | None:
    return next((source / name for name in LABEL_FOLDERS if _is_text_folder(source / name)), None)


def _is_text_folder(folder: Path) -> bool:
    """Whether the first text file with a line has KITTI's."""
    for file in visible_files(folder, "*.txt")[:LOOKED_AT] if folder.is_dir() else []:
        lines = [line for line in head(file).splitlines() if line.strip()]
        if lines:
            return len(lines[0]) <= LONGEST_LINE and LINE.fullmatch(lines[0]) is not None
    return False


def read_kitti(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of KITTI.

    Args:
        folder: the folder with ``label_2`` and ``image_2``, or the folder of the text files.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there are no text files, or none of their images is found.
    """
    source = Path(folder)
    texts = _text_folder(source)
    if texts is None:
        raise ValueError(f"{source}: expected KITTI's text files in label_2/; found none.")
    beside = texts.absolute().parent / IMAGES_OF.get(texts.absolute().name, "")
    if images is None and texts.absolute().name in IMAGES_OF and beside.is_dir():
        images = beside
    objects = AnnotatedImages("kitti", texts, images=images)
    for picture, place, line in objects.lines(texts):
        _read_line(objects, picture, place, line)
    objects.warn_of_unlisted("have no text file")
    return objects.dataset()


def _read_line(objects: AnnotatedImages, picture: Picture, place: str, line: str) -> None:
    found = LINE.fullmatch(line) if len(line) <= LONGEST_LINE else None
    values = [float(word) for word in found[2].split()] if found else []
    if found is None or not all(map(is_number, values)):
        what = f"Expected a type and 14 numbers, or 15 with a score; found {line.strip()[:60]!r}."
        objects.wrong(picture, place, what)
    elif found[1] == UNCERTAIN:
        objects.ignore(f"{UNCERTAIN} regions, in which found objects will count as wrong")
    else:
        x1, y1, x2, y2 = values[3:7]
        objects.draw(picture, Drawn(found[1].strip(), place, (x1, y1, x2, y2)))
