"""LabelMe: one JSON file per image, with a list of shapes.

    a.json      {"imagePath": "a.jpg", "imageHeight": …, "imageWidth": …, "shapes": [{"label": …}, …]}
    a.jpg

Convention:
    Points are continuous coordinates; a rectangle ``[[30, 20], [10, 5]]`` is the box ``10 5 30 20``. A circle
    is given by its centre and a point on it.

Polygons, rectangles, circles and masks become objects with outlines. Those with the same ``label`` and
``group_id`` are parts of one object; points with the ``group_id`` of one object are its keypoints, named by
their labels. Other points, and lines, are ignored with a warning. The classes are the labels that occur,
sorted.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.builder import Annotation, DatasetBuilder, Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.lookup import find_file
from rcnn.data.formats.outlines import is_number
from rcnn.data.problems import NOT_READ, Box, nested_files_message, shortened, size_problem
from rcnn.io.images import MAX_PIXELS, image_files, to_bytes, visible_files
from rcnn.structures import Masks, Outline, Size, Skeleton

CIRCLE_CORNERS = 64
MIN_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "point": 1}
LOOKED_AT = 3  # files read to recognise a folder


def is_labelme_folder(folder: Path) -> bool:
    """Whether the first JSON files of a folder are LabelMe's."""
    files = visible_files(folder, "*.json")[:LOOKED_AT]
    return any(b'"shapes"' in (content := f.read_bytes()) and b'"imagePath"' in content for f in files)


def read_labelme(folder: str | Path) -> Dataset:
    """Open a folder of LabelMe's JSON files.

    Raises:
        ValueError: there is no JSON file.
    """
    source = Path(folder)
    files = visible_files(source, "*.json")
    if not files:
        raise ValueError(f"{source}: expected LabelMe's JSON files; found none.")
    reader = _Reader(source)
    for file in files:
        reader.read_file(file)
    reader.report_others()
    return reader.dataset()


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
    with Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} by {image.height} pixels are more than {MAX_PIXELS:,}")
        return to_bytes(image)


class _Reader:
    """Collects the usable content of the files, and all problems."""

    def __init__(self, source: Path) -> None:
        self.builder = DatasetBuilder("labelme", source, "crowd", "outlines")
        self.drawn: list[tuple[Picture, list[_Drawn]]] = []
        self.files: dict[Path, Path] = {}  # image → JSON

    def read_file(self, file: Path) -> None:
        """Read one JSON file and its image."""
        try:
            content = json.loads(file.read_bytes())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            self.builder.report(f"This is not JSON ({error}).", "Fix it or annotate again.", file=file)
            return
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
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
        path = find_file(file.parent, named) if isinstance(named, str) and named else None
        path = None if path == file else path  # as written by some tools
        own = next((f for f in image_files(file.parent) if f.stem == file.stem), None)
        if path is not None and own is not None and path.stem != file.stem:
            what = f"{file.name} has the name of this image, but its imagePath is {named}."
            advice = "The shapes are assigned to this image; rename the files if this is wrong."
            self.builder.warn(what, advice, file.name, file=own)
            path = own
        path = path or own
        if path is None and content.get("imageData"):
            return file
        if path is None:
            report(f"Its image {named} is missing.", "Add it, or delete this file.", file=file)
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
            kind, label, group = shape.get("shape_type") or "polygon", shape["label"], shape.get("group_id")
            first = seen.setdefault(json.dumps(shape, sort_keys=True), index)
            if first != index:
                what = f"It is identical to shapes[{first}]."
                self.builder.warn(what, "It was ignored; delete it.", place, file=picture.path)
            elif kind not in MIN_POINTS:
                skipped[kind] += 1
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
        bare = [f.name for f in image_files(source) if f not in self.files]
        if bare:
            what = f"{len(bare)} images have no JSON file: {shortened(bare)}."
            advice = "They are skipped; an empty list of shapes stands for an image without objects."
            self.builder.warn(what, advice, "images")
        deeper = nested_files_message(source, "*.json")
        if deeper:
            self.builder.warn(deeper, NOT_READ, "folders")

    def dataset(self) -> Dataset:
        """The data set; only now are classes and keypoints known."""
        objects = [drawn for _, listed in self.drawn for drawn in listed]
        names = sorted({drawn.label for drawn in objects})
        self.builder.declare_classes(names)
        keypoints = tuple(sorted({name for drawn in objects for name in drawn.points}))
        self.builder.skeleton = Skeleton(keypoints) if keypoints else None
        for picture, listed in self.drawn:
            for drawn in listed:
                box = self.builder.usable_box(drawn.box, picture, drawn.names[0])
                if box is not None:
                    points = drawn.keypoints(keypoints) if keypoints else None
                    outline, label = drawn.outline(picture.size), names.index(drawn.label)
                    found = Annotation(box, label, drawn.names[0], outline, points)
                    picture.annotations.append(found)
        return self.builder.build()


def _shape_fault(shape: Any) -> str | None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        found = shape.get("label") if isinstance(shape, dict) else shape
        return f"A shape needs a text as label; found {found!r:.60}."
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
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
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
        bitmap = np.asarray(image.convert("L")) != 0
    x, y = (int(v) for v in points[0])
    if not bitmap.any() or x < 0 or y < 0:
        raise ValueError("it is empty, or starts outside the image")
    return bitmap, (x, y)
