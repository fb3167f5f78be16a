"""COCO's panoptic format: a JSON file, and one PNG per image whose colours are segment ids.

Convention:
    A pixel of colour (R, G, B) belongs to the segment ``R + 256 G + 65536 B``; 0 is void. ``(5, 1, 0)`` is
    segment 261, listed in ``segments_info`` with its category.

Things become objects with masks, including crowds; the semantic map has the classes of the things first and
then the stuff. PNGs are decoded when a sample is used; their faults (ids that are not listed, or listed but
absent) are reported by ``rcnn data check`` and when such a sample is used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.coco_categories import usable_categories
from rcnn.data.formats.coco_images import CocoImages
from rcnn.data.formats.coco_json import (
    CrowdMarks,
    coco_file,
    has_fields,
    load_coco,
)
from rcnn.data.formats.image_index import image_folder
from rcnn.data.formats.lookup import find_file, reach_of
from rcnn.data.formats.outlines import is_number
from rcnn.io.atomic import write_atomically
from rcnn.io.images import ImageError, read_mask_colours
from rcnn.structures import VOID, Masks, Panoptic, Size

MAX_SEGMENT_ID = 256**3 - 1


def read_coco_panoptic(json_path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a COCO panoptic JSON file; its PNGs are next to it or in a folder of the same name.

    Images are searched as in :func:`rcnn.data.formats.coco.read_coco`.

    Args:
        json_path: the annotation file, or the folder that contains it.
        images: the folder to which its image names are relative, if it is elsewhere.

    Raises:
        ValueError: the file is missing or not a COCO panoptic file, its categories are unusable, or the
            images are not found.
    """
    path = coco_file(Path(json_path))
    content = load_coco(path)
    reader = _Reader(path, image_folder(path, content["images"], images, path.with_suffix("")), content)
    reader.read_annotations(content["annotations"])
    reader.crowds.report()
    return reader.builder.build()


class _Reader:
    """Collects the usable content of a panoptic file, and all problems."""

    def __init__(self, source: Path, folder: Path, content: dict[str, list[Any]]) -> None:
        self.builder = DatasetBuilder("coco panoptic", source, "crowd", "areas")
        self.crowds = CrowdMarks(self.builder)
        self._read_categories(content["categories"])
        self.images = CocoImages(self.builder, folder)
        self.images.read(content["images"])
        self.labels = {number: label for label, number in enumerate(self.builder.semantic_ids)}

    def _read_categories(self, entries: list[Any]) -> None:
        """Set the classes: things before stuff, each in the order of their ids."""
        builder = self.builder
        found = {entry["id"]: entry for _, entry in usable_categories(builder, entries)}
        names = {number: found[number]["name"] for number in sorted(found)}
        builder.declare_classes(names.values())
        kinds = {number: entry.get("isthing") for number, entry in found.items()}
        undeclared = [name for number, name in names.items() if kinds[number] not in (0, 1)]
        if undeclared or not 0 < len(set(names.values())) == len(names) <= VOID:
            shown = (
                f"isthing is missing for {', '.join(undeclared[:5])}"
                if undeclared
                else f"there are {len(names)}"
            )
            raise ValueError(
                f"{builder.source}: categories: {shown}; expected 1 to {VOID} names, with isthing 0 or 1."
            )
        builder.category_ids = tuple(number for number in names if kinds[number] == 1)
        builder.semantic_ids = builder.category_ids + tuple(n for n in names if kinds[n] == 0)
        builder.class_names = tuple(names[number] for number in builder.category_ids)
        builder.semantic_names = tuple(names[number] for number in builder.semantic_ids)

    def read_annotations(self, entries: list[Any]) -> None:
        """Read the segments of all images; images without are skipped."""
        annotated: set[int | str] = set()
        for index, entry in enumerate(entries):
            if not has_fields(entry, image_id=(int, str), file_name=str, segments_info=list):
                what = "An annotation needs an image_id, a file_name and a list segments_info."
                self.builder.report(what, "Complete it.", f"annotations[{index}]")
                continue
            image_id, name = entry["image_id"], entry["file_name"]
            picture = self.images.find(image_id, name)
            if picture is None:
                continue
            png = self._png(name)
            if png is None:
                what = "The PNG of its segments is missing."
                advice = f"Add it to {self.builder.source.with_suffix('')}, or delete the annotation."
                self.builder.report(what, advice, name, file=picture.path)
            elif image_id in annotated:
                self.builder.report("The image has two annotations.", "Keep one.", name, file=picture.path)
            else:
                annotated.add(image_id)
                self._read_segments(picture, png, entry["segments_info"])
        self.images.report_unlisted()
        listed = {entry.get("image_id") for entry in entries if isinstance(entry, dict)}
        for image_id, picture in self.images.pictures.items():
            if image_id not in listed:
                what = "The image has no annotation."
                self.builder.report(what, "Annotate it, or delete it.", file=picture.path)
        self.builder.pictures = [p for p in self.builder.pictures if p.image_id in annotated]

    def _png(self, name: str) -> Path | None:
        source = self.builder.source
        reach = reach_of(source)
        return find_file(source.with_suffix(""), name, reach) or find_file(source.parent, name, reach)

    def _read_segments(self, picture: Picture, png: Path, segments: list[Any]) -> None:
        """Read the class of every segment, and add things as objects."""
        classes: dict[int, int] = {}
        things: list[int] = []
        for index, segment in enumerate(segments):
            place = f"segments_info[{index}]"
            if not has_fields(segment, id=int, category_id=int) or not 0 < segment["id"] <= MAX_SEGMENT_ID:
                what = f"A segment needs a category_id and an id of 1 to {MAX_SEGMENT_ID}."
                self.builder.report(what, "Complete it.", place, file=picture.path)
            elif segment["id"] in classes:
                what = f"The segment id {segment['id']} occurs twice."
                self.builder.report(what, "Give each its own.", place, file=picture.path)
            elif segment["category_id"] not in self.labels:
                what = f"There is no category with the id {segment['category_id']}."
                self.builder.report(what, "Declare it or correct category_id.", place, file=picture.path)
                classes[segment["id"]] = VOID
            else:
                label = self.labels[segment["category_id"]]
                classes[segment["id"]] = label
                if label < len(self.builder.class_names) and self._add_thing(picture, segment, label):
                    things.append(segment["id"])
        picture.masks = partial(read_things, png, things, picture.size)
        picture.semantic = partial(read_classes, png, classes, picture.size)

    def _add_thing(self, picture: Picture, segment: Any, label: int) -> bool:
        """Add a segment as an object, and return whether it is usable."""
        bbox, name = segment.get("bbox"), str(segment["id"])
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(v) for v in bbox):
            what = f"Expected bbox as four numbers x, y, width, height; found {str(bbox)[:60]}."
            self.builder.report(what, "Correct it.", name, file=picture.path)
            return False
        x, y, w, h = (float(v) for v in bbox)
        box = self.builder.usable_box((x, y, x + w, y + h), picture, name)
        if box is None:
            return False
        area = segment.get("area")
        area = float(area) if is_number(area) and area >= 0 else w * h
        found = Annotation(box, label, name, crowd=self.crowds.read(segment, name), area=area)
        picture.annotations.append(found)
        return True


def read_ids(png: Path, size: Size) -> npt.NDArray[np.int64]:
    """The segment id of every pixel, int64 ``[H, W]``; 0 is void.

    Raises:
        ImageError: the file is missing or of another size.
    """
    colours = read_mask_colours(png).astype(np.int64)  # [H, W, 3]
    ids: npt.NDArray[np.int64] = colours @ (1, 256, 65536)
    if ids.shape != size:
        height, width = ids.shape
        raise ImageError(f"{png}: it has {width} by {height} pixels, its image {size[1]} by {size[0]}.")
    return ids


def read_things(png: Path, numbers: Sequence[int], size: Size) -> Masks:
    """The masks of the segments with these ids, in their order."""
    ids = read_ids(png, size)
    return Masks.concatenate([Masks.from_dense((ids == number)[None]) for number in numbers], size)


def read_classes(png: Path, classes: dict[int, int], size: Size) -> npt.NDArray[np.int64]:
    """The class of every pixel, int64 ``[H, W]``, void where there is no segment.

    Args:
        png: the PNG of segment ids.
        classes: the class of each id.
        size: (height, width) of the image.

    Raises:
        ImageError: the file is unusable, has an id that is not in ``classes``, or lacks one that is.
    """
    there, places = np.unique(read_ids(png, size), return_inverse=True)
    found = set(there.tolist()) - {0}
    for stray, where in (
        (found - classes.keys(), "are not in segments_info"),
        (classes.keys() - found, "have no pixel"),
    ):
        if stray:
            shown = ", ".join(map(str, sorted(stray)[:8]))
            raise ImageError(f"{png}: {len(stray)} segments {where}, with the ids {shown}.")
    table = np.array([classes.get(number, VOID) for number in there.tolist()], np.int64)
    return table[places.reshape(size)]


def write_panoptic(
    json_path: str | Path,
    partitions: Iterable[tuple[int | str, str, Panoptic]],
    *,
    category_ids: Sequence[int] = (),
) -> Path:
    """Write partitions in COCO's format: the JSON file, and PNGs in a folder of the same name.

    Args:
        json_path: the file to write.
        partitions: the id, file name and partition of each image, all with the same classes.
        category_ids: the id of each class, things first; label + 1 by default.

    Raises:
        ValueError: ``category_ids`` and classes differ in number, or the files cannot be written.
    """
    writer = PanopticWriter(json_path, category_ids)
    for image_id, file_name, found in partitions:
        writer.add(image_id, file_name, found)
    return writer.close()


class PanopticWriter:
    """Writes a PNG for each image added, and the JSON file at the end; see :func:`write_panoptic`."""

    def __init__(self, json_path: str | Path, category_ids: Sequence[int] = ()) -> None:
        self.path = Path(json_path)
        self.category_ids = tuple(category_ids)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories: list[dict[str, Any]] = []

    def add(self, image_id: int | str, file_name: str, found: Panoptic, *, png: str | None = None) -> None:
        """Add one image; ``png`` is the name of its PNG, by default the image's with another extension."""
        ids = self.category_ids or tuple(range(1, len(found.names) + 1))
        if len(ids) != len(found.names):
            raise ValueError(f"category_ids: {len(ids)} were given for {len(found.names)} classes.")
        self.categories = [
            {"id": number, "name": name, "isthing": int(label < found.num_things)}
            for label, (number, name) in enumerate(zip(ids, found.names, strict=True))
        ]
        png = png or Path(file_name).with_suffix(".png").name
        picture = io.BytesIO()
        Image.fromarray(_colours(found.segments)).save(picture, "png")
        try:
            write_atomically(self.path.with_suffix("") / png, picture.getvalue())
        except OSError as error:
            raise self._refused(error) from error
        height, width = found.size
        self.images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        segments = _segments_info(found, ids)
        self.annotations.append({"image_id": image_id, "file_name": png, "segments_info": segments})

    def close(self) -> Path:
        """Write the JSON file."""
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        try:
            write_atomically(self.path, json.dumps(content).encode())
        except OSError as error:
            raise self._refused(error) from error
        return self.path

    def _refused(self, error: OSError) -> ValueError:
        return ValueError(f"{self.path} cannot be written ({error.strerror}); choose another path.")


def _colours(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """uint8 ``[H, W, 3]`` whose colours encode the ids."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)


def _segments_info(found: Panoptic, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    info = []
    for index, (label, crowd) in enumerate(zip(found.labels.tolist(), found.crowd.tolist(), strict=True)):
        mask = Masks.from_dense((found.segments == index + 1)[None])
        x1, y1, x2, y2 = mask.windows[0].tolist()
        info.append(
            {
                "id": index + 1,
                "category_id": category_ids[label],
                "iscrowd": int(crowd),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": int(mask.pixels.sum()),
            }
        )
    return info
