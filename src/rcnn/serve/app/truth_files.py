"""The data set of what is done: a COCO file, and a COCO panoptic one where pixels have classes.

Both name the images where they are; images inside annotation files are written as PNGs first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from rcnn.data.formats.coco_panoptic import PanopticWriter
from rcnn.io.atomic import write_atomically
from rcnn.io.picture_files import write_image
from rcnn.serve.app.collection import ANNOTATIONS, Collection, Picture
from rcnn.serve.app.partition import partition_of, with_classes
from rcnn.structures import Instances, Size, Skeleton
from rcnn.structures.coco import INFO, annotations_of, category_entries, image_entry

PANOPTIC = "panoptic.json"
EMBEDDED = "embedded"  # the folder of images that were inside annotation files
MAX_NAME = 200  # bytes of a file name


@dataclass(frozen=True)
class Truth:
    """An image of the data set.

    Attributes:
        picture: the image.
        version: another one whenever the truth is another.
        load: makes the truth.
    """

    picture: Picture
    version: Hashable
    load: Callable[[], Instances]


@dataclass(frozen=True)
class Classes:
    """What the labels of a data set mean.

    Attributes:
        objects: the names of the objects' classes, in label order.
        pixels: the names of the pixel classes.
        skeleton: what keypoints are, where there are any.
    """

    objects: tuple[str, ...]
    pixels: tuple[str, ...] = ()
    skeleton: Skeleton | None = None


@dataclass(frozen=True)
class _Entry:
    """What the files have of an image, and of which version and classes it is."""

    of: Hashable
    size: Size
    annotations: list[dict[str, Any]]
    segments: list[dict[str, Any]]


class TruthFiles:
    """Writes the data set; what did not change is not made again."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._entries: dict[int, _Entry] = {}
        self._embedded: set[int] = set()

    @property
    def objects_file(self) -> Path:
        """The COCO file of the objects."""
        return self._collection.out / ANNOTATIONS

    @property
    def panoptic_file(self) -> Path:
        """The file of objects and pixel classes."""
        return self._collection.out / PANOPTIC

    def write(self, truths: Iterable[Truth], classes: Classes) -> int:
        """Write the files.

        Returns:
            The number of images in them.

        Raises:
            OSError: one cannot be written; likewise ValueError.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        panoptic = PanopticWriter(self.panoptic_file)
        for number, truth in enumerate(truths, 1):
            entry = self._entry(truth, classes)
            images.append(image_entry(number, self._file_name(truth.picture), entry.size))
            for one in entry.annotations:
                annotations.append({**one, "id": len(annotations) + 1, "image_id": number})
            panoptic.annotations += [{**one, "image_id": number} for one in entry.segments]
        if classes.pixels:
            panoptic.images, panoptic.categories = images, _panoptic_categories(classes)
            panoptic.close()
        if not classes.objects and classes.pixels:
            return len(images)
        content = {
            "info": INFO, "images": images, "annotations": annotations,
            "categories": category_entries(classes.objects, skeleton=classes.skeleton),
        }  # fmt: skip
        write_atomically(self.objects_file, json.dumps(content).encode(errors="surrogateescape"))
        return len(images)

    def _entry(self, truth: Truth, classes: Classes) -> _Entry:
        of = (truth.version, classes)
        kept = self._entries.get(truth.picture.number)
        if kept is None or kept.of != of:
            found = with_classes(truth.load(), classes.objects, classes.pixels)
            plain = replace(found, semantic=None, semantic_names=())
            segments = self._segments(truth.picture, found) if classes.pixels else []
            kept = _Entry(of, found.size, annotations_of(plain, 0), segments)
            self._entries[truth.picture.number] = kept
        return kept

    def _segments(self, picture: Picture, found: Instances) -> list[dict[str, Any]]:
        """Write the PNG of an image's segments; what the file says of them."""
        writer = PanopticWriter(self.panoptic_file)
        writer.add(0, picture.name, partition_of(found), png=f"{file_stem(picture.name)}.png")
        return writer.annotations

    def _file_name(self, picture: Picture) -> str:
        """The image as the files name it; one that is inside an annotation file is written first."""
        record = picture.record
        if record is None or record.image is None:
            return self._collection.file_name(picture)
        name = f"{EMBEDDED}/{file_stem(picture.name)}.png"
        if picture.number not in self._embedded:
            write_image(Image.fromarray(record.load_image()), self._collection.out / name)
            self._embedded.add(picture.number)
        return name


def file_stem(name: str) -> str:
    """A file name without ending for an image of this name, another one for each name."""
    plain = quote(name, safe=" ,()[]+", errors="surrogateescape")
    if len(plain) > MAX_NAME or plain.startswith("."):
        return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return plain


def _panoptic_categories(classes: Classes) -> list[dict[str, Any]]:
    names = [(name, 1) for name in classes.objects] + [(name, 0) for name in classes.pixels]
    return [{"id": i, "name": name, "isthing": kind} for i, (name, kind) in enumerate(names, 1)]
