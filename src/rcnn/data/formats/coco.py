"""COCO JSON: boxes, outlines (polygons and run-length codes), crowds, keypoints.

Convention:
    ``bbox`` is x, y, width, height: ``[10, 20, 5, 6]`` becomes the box ``10 20 15 26``. Keypoints are pixel
    indices in the file: ``[3, 4, 2]`` becomes ``3.5 4.5 2``; those with visibility 0 become ``0 0 0``.

Outlines are drawn when a sample is used (:meth:`rcnn.Masks.from_outlines`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.coco_json import (
    CocoImages,
    Entry,
    coco_file,
    has_fields,
    is_crowd,
    is_panoptic,
    load_coco,
    usable_categories,
    with_whole_numbers,
)
from rcnn.data.formats.coco_suspicions import Suspicions
from rcnn.data.formats.lookup import image_folder
from rcnn.data.formats.outlines import MAX_COORDINATE, is_number, polygon_fault, rle_bounds, rle_fault
from rcnn.data.formats.writer import DroppedContent, Item, Writer
from rcnn.data.problems import Box
from rcnn.structures import Outline, Rle, Skeleton
from rcnn.structures.coco import annotations_of, category_entries, image_entry

PERSON_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee",
    "left_ankle", "right_ankle",
)  # fmt: skip
# As pycocotools has them.
PERSON_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)  # fmt: skip
PERSON_BONES = (
    (0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (5, 11),
    (6, 12), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16),
)  # fmt: skip
PERSON = Skeleton(PERSON_KEYPOINTS, PERSON_BONES, sigmas=PERSON_SIGMAS)
"""COCO's person."""


def read_coco(json_path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a COCO JSON file of instances or keypoints.

    All declared categories become classes, in the order of their ids. Images are searched in the folder of
    the file and in its ``images``, in folders named after the file or the first or last part of its name
    (``train2017`` for ``instances_train2017.json``), and in all of these one level up.

    Args:
        json_path: the annotation file, or the folder that contains it.
        images: the folder to which its file names are relative, if it is elsewhere.

    Raises:
        ValueError: the file is missing or not a COCO instances file, or the images are not found.
    """
    path = coco_file(Path(json_path))
    content = load_coco(path)
    if is_panoptic(content["annotations"]):
        raise ValueError(
            f"{path}: this is a panoptic file; expected an instances file (boxes with category_id). "
            "rcnn.open_data reads both."
        )
    reader = _Reader(path, image_folder(path, content["images"], images), content)
    for index, entry in enumerate(map(with_whole_numbers, content["annotations"])):
        reader.read_annotation(entry, f"annotations[{index}]")
    reader.suspicions.report()
    return reader.builder.build()


def declare_categories(builder: DatasetBuilder, categories: list[Any]) -> dict[int, int]:
    """Set the classes and the skeleton to those of a file's categories; the label of each category id."""
    names: dict[int, str] = {}
    for place, entry in usable_categories(builder, categories):
        names[entry["id"]] = entry["name"]
        _read_skeleton(builder, entry, place)
    ids = sorted(names)
    builder.declare_classes([names[number] for number in ids], ids)
    return {number: label for label, number in enumerate(ids)}


def _read_skeleton(builder: DatasetBuilder, entry: Entry, place: str) -> None:
    """The keypoints of a category; of several categories with keypoints, the longest list counts."""
    names = entry.get("keypoints")
    if not isinstance(names, list) or not names:
        return
    names = list(map(str, names))
    known = () if builder.skeleton is None else builder.skeleton.names
    short = min(len(names), len(known))
    if list(known[:short]) != names[:short]:
        what = f"Its keypoints {', '.join(names)} differ from {', '.join(known)} of another category."
        advice = "All categories share one skeleton: for keypoint models, split the file by category."
        builder.warn(what, advice, place)
    if len(names) <= len(known):
        return
    bones = entry.get("skeleton") or []
    usual = PERSON_SIGMAS if names == list(PERSON_KEYPOINTS) else ()
    try:
        # COCO counts the ends of its bones from 1.
        pairs = tuple((int(a) - 1, int(b) - 1) for a, b in bones)
        sigmas = tuple(map(float, entry.get("sigmas") or usual))
        builder.skeleton = Skeleton(tuple(names), pairs, sigmas=sigmas)
    except (TypeError, ValueError) as error:
        builder.report(f"The skeleton cannot be used: {error}.", "Correct it.", place)
        builder.skeleton = Skeleton(tuple(names))


class _Reader:
    """Collects the usable content of an instances file, and all problems."""

    def __init__(self, source: Path, folder: Path, content: dict[str, list[Any]]) -> None:
        self.builder = DatasetBuilder("coco", source, "crowd", "outlines")
        self.suspicions = Suspicions(self.builder)
        self.seen: set[str] = set()  # ids of annotations
        self.labels = declare_categories(self.builder, content["categories"])
        self.images = CocoImages(self.builder, folder)
        self.images.read(content["images"])

    def read_annotation(self, entry: Any, place: str) -> None:
        """Read one annotation; ``place`` identifies it if it has no id."""
        if not has_fields(entry, image_id=(int, str), category_id=int):
            self._report_ids(entry, place)
            return
        name = str(entry["id"] if entry.get("id") is not None else place)
        picture = self.images.find(entry["image_id"], name)
        if picture is None:
            return
        if name in self.seen:
            what = "The annotation id occurs twice."
            self.builder.report(what, "Give each its own.", name, file=picture.path)
        self.seen.add(name)
        label = self.labels.get(entry["category_id"])
        if label is None:
            what = f"There is no category with the id {entry['category_id']}."
            known = ", ".join(map(str, self.labels)) or "none"
            advice = f"Declare it or correct category_id; the declared ids are {known}."
            self.builder.report(what, advice, name, file=picture.path)
            return
        found = self._annotation(picture, entry, label, name)
        picture.annotations += [] if found is None else [found]

    def _report_ids(self, entry: Any, place: str) -> None:
        values = entry if isinstance(entry, dict) else {}
        image_id, category = values.get("image_id"), values.get("category_id")
        found = f"{image_id!r} and {category!r}"
        what = f"Expected an image_id and an integer category_id; found {found}."
        # If the image is known, it can be skipped.
        owner = self.images.pictures.get(image_id) if isinstance(image_id, int | str) else None
        self.builder.report(what, "Complete it.", place, file=None if owner is None else owner.path)

    def _annotation(self, picture: Picture, entry: Entry, label: int, name: str) -> Annotation | None:
        """The object, None if its box is unusable."""
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(v, finite=False) for v in bbox):
            what = f"Expected bbox as four numbers x, y, width, height; found {bbox!r:.60}."
            self.builder.report(what, "Correct or delete it.", name, file=picture.path)
            return None
        x, y, w, h = (float(v) for v in bbox)
        drawn = entry.get("segmentation"), entry.get("keypoints")
        self.suspicions.look_at_box(picture, label, (x, y, w, h), drawn, name)
        box = self.builder.usable_box((x, y, x + w, y + h), picture, name)
        if box is None or self._is_empty_prediction(entry, picture, name):
            return None
        area = entry.get("area")
        area = float(area) if isinstance(area, int | float) and 0 <= area < MAX_COORDINATE**2 else None
        outline = self._outline(drawn[0], box, picture, name)
        points = self._keypoints(drawn[1], picture, name) if self.builder.skeleton else None
        return Annotation(box, label, name, outline, points, crowd=is_crowd(entry), area=area)

    def _is_empty_prediction(self, entry: Entry, picture: Picture, name: str) -> bool:
        """Whether a model found a box without a pixel inside; the box alone would not be an object."""
        if "score" not in entry or entry.get("segmentation") != []:
            return False
        what = "The predicted mask is empty."
        self.builder.warn(what, "The object was left out; delete it or draw it.", name, file=picture.path)
        return True

    def _outline(self, found: Any, box: Box, picture: Picture, name: str) -> Outline | None:
        """The segmentation, checked and compacted; None if it is absent or broken."""
        if not found or (isinstance(found, list) and not any(found)):
            return None
        fault = rle_fault(found, picture.size) if isinstance(found, dict) else polygon_fault(found)
        if fault is not None:
            advice = "Correct or delete the segmentation."
            self.builder.report(fault, advice, name, file=picture.path, is_outline_problem=True)
            return None
        if isinstance(found, dict):
            code: Rle = {"size": list(picture.size), "counts": found["counts"]}
            bounds = rle_bounds(code)
            if bounds is None:
                return None
            self.suspicions.look_at_outline(bounds, box, "mask", picture, name)
            return code
        parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in found if len(part) >= 6]
        if len(parts) < len(found):
            what = f"{len(found) - len(parts)} of {len(found)} polygon parts have fewer than three corners."
            self.builder.warn(what, "They were ignored; delete them.", name, file=picture.path)
        if parts:
            self.suspicions.look_at_outline(_bounds(parts), box, "polygons", picture, name)
        return parts or None

    def _keypoints(self, found: Any, picture: Picture, name: str) -> npt.NDArray[np.float32]:
        """float32 ``[K, 3]``; zeros, meaning "not annotated", if they are missing or broken."""
        count = self.builder.num_keypoints
        points = np.zeros((count, 3), dtype=np.float32)
        if found is None:
            return points
        fine = isinstance(found, list) and len(found) % 3 == 0 and len(found) <= points.size
        if not fine or not all(is_number(v) for v in found):
            what = f"Expected keypoints as up to {count} triples of x, y, visibility."
            self.builder.report(what, "Correct or delete them.", name, file=picture.path)
            return points
        values = np.array(found, dtype=np.float64).reshape(-1, 3)
        values[:, :2] += 0.5
        values[values[:, 2] == 0] = 0
        height, width = picture.size
        outside = (values[:, :2] < 0).any(1) | (values[:, 0] > width + 1) | (values[:, 1] > height + 1)
        if (outside & (values[:, 2] > 0)).any():
            what = f"{int(outside.sum())} keypoints are outside the image of {width} by {height} pixels."
            self.builder.warn(what, "Correct them. Do they belong to another image?", name, file=picture.path)
        points[: len(values)] = values
        return points


def _bounds(parts: Sequence[npt.NDArray[np.float64]]) -> tuple[float, ...]:
    """x1 y1 x2 y2 of polygons."""
    corners = np.concatenate(parts)
    return (*corners.min(0).tolist(), *corners.max(0).tolist())


class CocoWriter(Writer):
    """COCO JSON, with outlines as run-length codes, which keep every pixel, holes and parts."""

    holds = frozenset({"crowds", "outlines", "keypoints"})

    def __init__(self, folder: Path, dataset: Dataset, dropped: DroppedContent) -> None:
        super().__init__(folder, dataset, dropped)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.ids = dataset.category_ids or tuple(range(1, len(dataset.class_names) + 1))
        self.keep_ids = all(isinstance(r.image_id, int) for r in dataset.records)

    def write(self, item: Item) -> None:
        """Add one image and its objects."""
        image_id = item.image_id if self.keep_ids else len(self.images) + 1
        self.images.append(image_entry(image_id, item.image.name, item.truth.size))
        self.annotations += annotations_of(
            item.truth, image_id, self.ids, first=len(self.annotations) + 1, outlines="rle"
        )

    def finish(self) -> None:
        """Write the JSON file."""
        skeleton = self.dataset.skeleton
        if skeleton is not None:
            _note_partners(skeleton, self.dropped)
        categories = category_entries(self.dataset.class_names, self.ids, skeleton)
        content = {"images": self.images, "annotations": self.annotations, "categories": categories}
        target = self.folder / "annotations.json"
        target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _note_partners(skeleton: Skeleton, dropped: DroppedContent) -> None:
    """Note mirrored keypoints that readers cannot derive from the names, since COCO does not store them."""
    guessed = Skeleton(skeleton.names).mirror
    for name, ours, theirs in zip(skeleton.names, skeleton.mirror, guessed, strict=True):
        if ours != theirs:
            dropped.note("mirrored keypoints unlike their names", name)
