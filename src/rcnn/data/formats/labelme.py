"""LabelMe: one JSON file per image, with a list of shapes.

    a.json      {"imagePath": "a.jpg", "imageHeight": …, "imageWidth": …, "shapes": [{"label": …}, …]}
    a.jpg       or annotations/a.json with images/a.jpg, see rcnn.data.formats.folders

Convention:
    Points are continuous coordinates; a rectangle ``[[30, 20], [10, 5]]`` is the box ``10 5 30 20``. A circle
    is given by its centre and a point on it.

Polygons, rectangles, turned rectangles, circles and masks become objects with outlines; if all are upright
rectangles, with boxes only. Those with the same ``label`` and ``group_id`` are parts of one object; points
with the ``group_id`` of one object are its keypoints, named by their labels. Other points, lines, and shapes
labelled ``__ignore__`` or ``_background_`` are ignored with a warning; shapes of unknown types are errors.
The classes are the labels that occur, sorted.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.folders import (
    Sides,
    files_below,
    has_file,
    images_below,
    is_split_into_folders,
    sides_of,
)
from rcnn.data.formats.lookup import (
    FILES_ONLY_BELOW,
    ImagesByName,
    find_file,
    is_outside,
    leads_out,
    reach_of,
)
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import NOT_READ, Box, nested_files_message, shortened, size_problem
from rcnn.io import pillow_files
from rcnn.io.images import IMAGE_ENDINGS, image_files, to_bytes, visible_files
from rcnn.io.json_text import parse_json
from rcnn.structures import Masks, Outline, Size, Skeleton

CIRCLE_CORNERS = 64
TURNED = ("rotation", "oriented_rectangle", "rotated_rectangle", "quadrilateral")  # of three or four corners
MIN_POINTS = {
    "polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "point": 1, **dict.fromkeys(TURNED, 3),
}  # fmt: skip
LINES = ("line", "linestrip", "points")  # without an area
NO_OBJECTS = ("__ignore__", "_background_")  # labels that LabelMe reserves
LOOKED_AT = 3  # files read to recognise a folder


def is_labelme_folder(folder: Path, images: Path | None = None) -> bool:
    """Whether a folder, or one of annotations in it, has LabelMe's JSON files."""
    sides = labelme_sides(folder, images)
    return sides is not None and not (sides.annotations != folder and is_split_into_folders(sides.images))


def labelme_sides(source: Path, images: Path | None = None) -> Sides | None:
    """The folders of the images and of the JSON files; None if it does not look like LabelMe."""
    beside = any(map(_is_labelme_file, visible_files(source, "*.json")[:LOOKED_AT]))
    pairs = [] if beside else sides_of(source, has_labelme_files)
    if images is not None:
        return Sides(images, source) if beside else Sides(images, pairs[0].annotations) if pairs else None
    return Sides(source, source) if beside else pairs[0] if len(pairs) == 1 else None


def has_labelme_files(folder: Path) -> bool:
    """Whether the first JSON files in a folder, or below it, are LabelMe's."""
    if not has_file(folder, (".json",)):
        return False
    return any(map(_is_labelme_file, files_below(folder, "*.json")[:LOOKED_AT]))


def read_labelme(folder: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a folder of LabelMe's JSON files.

    Args:
        folder: the folder of both.
        images: the folder of the images, if it is elsewhere.

    Raises:
        ValueError: there is no JSON file.
    """
    source = Path(folder)
    image_folder = None if images is None else Path(images)
    sides = labelme_sides(source, image_folder) or Sides(image_folder or source, source)
    files = visible_files(source, "*.json")
    if sides.annotations != source:
        files = files_below(sides.annotations, "*.json")
    if not files:
        raise ValueError(f"{source}: expected LabelMe's JSON files; found none.")
    reader = _Reader(source, sides)
    for file in files:
        reader.read_file(file)
    reader.report_others()
    return reader.dataset()


def _is_labelme_file(file: Path) -> bool:
    content = file.read_bytes() if file.is_file() else b""
    return b'"shapes"' in content and b'"imagePath"' in content


@dataclass
class _Drawn:
    """One object: the parts of its outline, and its keypoints by label."""

    label: str
    parts: list[npt.NDArray[np.float64]] = field(default_factory=list)
    masks: list[tuple[npt.NDArray[np.bool_], tuple[int, int]]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    points: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def box(self) -> Box:
        """The box around all parts."""
        corners = [*self.parts]
        for bitmap, (x, y) in self.masks:
            corners.append(np.array([[x, y], [x + bitmap.shape[1], y + bitmap.shape[0]]], dtype=np.float64))
        (x1, y1), (x2, y2) = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
        return float(x1), float(y1), float(x2), float(y2)

    def keypoints(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 ``[K, 3]``, the keypoints with these names."""
        rows = [(*self.points[name], 2) if name in self.points else (0, 0, 0) for name in names]
        return np.array(rows, np.float32)

    def outline(self, size: Size) -> Outline:
        """The polygon, or a run-length code if a part is a bitmap."""
        if not self.masks:
            return self.parts
        whole = np.zeros(size, dtype=np.bool_)
        if self.parts:
            whole |= Masks.from_outlines([self.parts], size)[0]
        for bitmap, (x, y) in self.masks:
            window = whole[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
            window |= bitmap[: window.shape[0], : window.shape[1]]
        return Masks.from_dense(whole[None]).rle()[0]


@dataclass(frozen=True)
class _Point:
    """A point shape, which may be a keypoint."""

    group: Any
    label: str
    place: tuple[float, float]


def embedded_image(file: Path) -> npt.NDArray[np.uint8]:
    """The image in a JSON file, uint8 ``[H, W, 3]``.

    Raises:
        ValueError: there is none, or it is too large; damaged images raise anything else.
    """
    content = base64.b64decode(json.loads(file.read_bytes())["imageData"], validate=True)
    with pillow_files.embedded_image(content, "imageData") as image:
        return to_bytes(image)


class _Reader:
    """Collects the usable content of the files, and all problems."""

    def __init__(self, source: Path, sides: Sides) -> None:
        self.builder = DatasetBuilder("labelme", source, "crowd", "outlines")
        self.sides = sides
        whole = sides.images != source or sides.annotations != source
        found = images_below(sides.images) if whole else image_files(source)
        self.images = ImagesByName(sides.images, found)
        self.kinds: set[str] = set()
        self.reserved: Counter[str] = Counter()
        self.others: list[str] = []  # JSON files of other programs
        self.drawn: list[tuple[Picture, list[_Drawn]]] = []
        self.files: dict[Path, Path] = {}  # image → JSON

    def read_file(self, file: Path) -> None:
        """Read one JSON file and its image."""
        try:
            content = parse_json(file.read_bytes())
        except (OSError, ValueError) as error:
            self.builder.report(f"This is not JSON ({error}).", "Fix it or annotate again.", file=file)
            return
        if not isinstance(content, dict) or not ({"shapes", "imagePath"} & content.keys()):
            self.others.append(file.name)
            return
        if not isinstance(content.get("shapes"), list):
            what = "Expected a JSON object with a list shapes."
            self.builder.report(what, "Move other files elsewhere.", file=file)
            return
        path = self._image(file, content)
        picture = None if path is None else self._picture(path, file)
        if picture is None:
            return
        height, width = content.get("imageHeight"), content.get("imageWidth")
        if is_number(height) and is_number(width):
            problem = size_problem(picture.path, picture.size, (int(height), int(width)))
            self.builder.problems += [] if problem is None else [problem]
        elif picture.path != file:
            self.builder.note_unsized(picture.path)
        self._read_shapes(file, picture, content["shapes"])

    def _picture(self, path: Path, file: Path) -> Picture | None:
        """The image at a path, or inside the JSON file if that is the path; None, reported, if unreadable."""
        if path != file:
            return self.builder.add_file(path, file.stem, file.name)
        try:
            pixels = embedded_image(file)
        except Exception as error:  # decoders raise anything for damaged images
            what = f"Its imageData cannot be decoded ({error}), and there is no image next to the file."
            self.builder.report(what, "Add the image, or delete this file.", file=file)
            return None
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        return self.builder.add(Picture(file, size, file.stem, image=partial(embedded_image, file)))

    def _image(self, file: Path, content: dict[str, Any]) -> Path | None:
        report = self.builder.report
        named = content.get("imagePath")
        reach = reach_of(self.sides.annotations, self.sides.images)
        path = None
        # Some tools write the name of the JSON file itself.
        if isinstance(named, str) and named.lower().endswith(IMAGE_ENDINGS):
            path = find_file(file.parent, named, reach) or self.images.find(named)
            path = path and Path(os.path.normpath(path))  # "../images/a.jpg" is one of the images
        own = self.images.beside(file.relative_to(self.sides.annotations))
        if path is not None and own is not None and path.stem != file.stem:
            what = f"{file.name} has the name of this image, but its imagePath is {named}."
            advice = "The shapes are assigned to this image; rename the files if this is wrong."
            self.builder.warn(what, advice, file.name, file=own)
            path = own
        path = path or own
        if path is None and content.get("imageData"):
            return file
        if path is None and isinstance(named, str) and is_outside(file.parent / named, reach):
            report(leads_out(named, reach), FILES_ONLY_BELOW, file=file)
        elif path is None:
            advice = "Add it, name the image folder (--images), or delete this file."
            report(f"Its image {named} is missing.", advice, file=file)
        elif path in self.files:
            what = f"The image is annotated twice, in {self.files[path].name} and {file.name}."
            report(what, "Keep one of the files.", file.name, file=path)
            return None
        else:
            self.files[path] = file
        return path

    def _read_shapes(self, file: Path, picture: Picture, shapes: list[Any]) -> None:
        groups: dict[tuple[str, Any], _Drawn] = {}
        points: list[_Point] = []
        skipped: Counter[str] = Counter()
        seen: dict[str, int] = {}
        for index, shape in enumerate(shapes):
            place = f"{file.name}, shapes[{index}]"
            fault = _shape_fault(shape)
            if fault is not None:
                self.builder.report(fault, "Correct or delete the shape.", place, file=picture.path)
                continue
            kind, label, group = _kind(shape), str(shape["label"]).strip(), shape.get("group_id")
            first = seen.setdefault(json.dumps(shape, sort_keys=True), index)
            if first != index:
                what = f"It is identical to shapes[{first}]."
                self.builder.warn(what, "It was ignored; delete it.", place, file=picture.path)
            elif label in NO_OBJECTS:
                self.reserved[label] += 1
            elif kind in LINES:
                skipped[kind] += 1
            elif kind not in MIN_POINTS:
                what = f"A shape of the type {kind} is not known, and would become background."
                self.builder.report(what, "Draw it as a polygon, or delete it.", place, file=picture.path)
            elif kind == "point":
                x, y = shape["points"][0]
                points.append(_Point(group, label, (x, y)))
            else:
                key = (label, index if group is None else f"group {group}")
                self._draw(groups.setdefault(key, _Drawn(label)), kind, shape, place, picture)
        skipped["point"] += _give_points(groups, points)
        for kind, count in ((kind, count) for kind, count in skipped.items() if count):
            why = " without an object of their group_id" if kind == "point" else ""
            what = f"{count} shapes of the type {kind}{why}."
            self.builder.warn(what, "They were ignored.", file.name, file=picture.path)
        self.drawn.append((picture, [drawn for drawn in groups.values() if drawn.names]))

    def _draw(self, drawn: _Drawn, kind: str, shape: Any, place: str, picture: Picture) -> None:
        """Add a shape to an object."""
        self.kinds.add(kind)
        points = np.array(shape["points"], dtype=np.float64)
        if kind == "mask":
            try:
                drawn.masks.append(_decoded(shape, points))
            except Exception as error:  # decoders raise anything for damaged images
                what = f"The mask cannot be decoded ({error})."
                self.builder.report(what, "Draw or delete the shape.", place, file=picture.path)
                return
        else:
            drawn.parts.append(_corners(kind, points))
        drawn.names.append(place)

    def report_others(self) -> None:
        """Report images without a JSON file, and JSON files in subfolders."""
        source = self.builder.source
        bare = [f.name for f in self.images.files if f not in self.files]
        if bare:
            what = f"{len(bare)} images have no JSON file: {shortened(bare)}."
            advice = "They are skipped; an empty list of shapes stands for an image without objects."
            self.builder.warn(what, advice, "images")
        if self.others:
            what = f"{len(self.others)} JSON files are not LabelMe's: {shortened(self.others)}."
            self.builder.warn(what, "They were ignored.", "files")
        if self.reserved:
            names = ", ".join(f"{label} ({count})" for label, count in self.reserved.items())
            what = f"Shapes with labels that stand for no object: {names}."
            self.builder.warn(what, "They are ignored, so their pixels count as background.", "shapes")
        deeper = nested_files_message(source, "*.json") if self.sides.annotations == source else ""
        if deeper:
            self.builder.warn(deeper, NOT_READ, "folders")

    def dataset(self) -> Dataset:
        """The data set; only now are classes and keypoints known."""
        objects = [drawn for _, listed in self.drawn for drawn in listed]
        whole = all(len(drawn.parts) == 1 for drawn in objects)
        boxes_only = self.kinds == {"rectangle"} and whole
        keypoints = tuple(sorted({name for drawn in objects for name in drawn.points}))
        self.builder.skeleton = Skeleton(keypoints) if keypoints else None
        for picture, listed in self.drawn:
            for drawn in listed:
                box = self.builder.usable_box(drawn.box, picture, drawn.names[0])
                if box is not None:
                    points = drawn.keypoints(keypoints) if keypoints else None
                    outline = None if boxes_only else drawn.outline(picture.size)
                    found = Annotation(box, drawn.label, drawn.names[0], outline, points)
                    picture.annotations.append(found)
        self.builder.declare_occurring_classes()
        self.builder.name_images()
        return self.builder.build()


def _kind(shape: Any) -> str:
    return str(shape.get("shape_type") or "polygon")


def _shape_fault(shape: Any) -> str | None:
    label = shape.get("label") if isinstance(shape, dict) else None
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        found = shape.get("label") if isinstance(shape, dict) else shape
        return f"A shape needs a text as label; found {found!r:.60}."
    kind, points = _kind(shape), shape.get("points")
    if (
        not isinstance(points, list)
        or not all(isinstance(p, list) and len(p) == 2 for p in points)
        or not all(is_number(v) for p in points for v in p)
    ):
        return "Expected points as pairs of numbers [[x, y], …]."
    least = MIN_POINTS.get(kind, 0)
    return f"A {kind} has {len(points)} points; expected {least}." if len(points) < least else None


def _corners(kind: str, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The polygon ``[P, 2]`` of a shape with these points."""
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    if kind == "circle":
        turns = np.arange(CIRCLE_CORNERS) * (2 * np.pi / CIRCLE_CORNERS)
        radius = math.dist(points[0], points[1])
        circle: npt.NDArray[np.float64] = points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1)
        return circle
    if kind in TURNED and len(points) == 3:  # the fourth corner is opposite the second
        return np.concatenate([points, points[:1] + points[2:] - points[1:2]])
    return points


def _give_points(groups: dict[tuple[str, Any], _Drawn], points: list[_Point]) -> int:
    """Assign points to the object of their group, and count those without a unique object."""
    left = 0
    for point in points:
        owners = [drawn for (_, key), drawn in groups.items() if key == f"group {point.group}"]
        if point.group is None or len(owners) != 1 or point.label in owners[0].points:
            left += 1
        else:
            owners[0].points[point.label] = point.place
    return left


def _decoded(shape: Any, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """The bitmap of a shape "mask" and the (x, y) of its upper left pixel."""
    content = base64.b64decode(shape["mask"], validate=True)
    with pillow_files.embedded_image(content, "the mask", "PNG") as image:
        bitmap = np.asarray(image.convert("L")) != 0
    x, y = (int(v) for v in points[0])
    if not bitmap.any() or x < 0 or y < 0:
        raise ValueError("it is empty, or starts outside the image")
    rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
    tight = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return tight, (x + int(columns[0]), y + int(rows[0]))
