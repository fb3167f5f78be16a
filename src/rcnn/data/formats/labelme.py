"""LabelMe: a JSON file an image, beside it or not, with a list of shapes.

    a.json      {"imagePath": "a.jpg", "imageHeight": …, "imageWidth": …, "shapes": [{"label": …}, …]}
    a.jpg

Convention:
    Points are continuous coordinates; a rectangle ``[[30, 20], [10, 5]]`` is the box ``10 5 30 20``. A circle
    is its centre and a point on it.

Polygons, rectangles, circles and masks become objects with outlines. Those with the same ``label`` and
``group_id`` are parts of one object; points with the ``group_id`` of one object are its keypoints, called by
their labels. Other points, and lines, are left out with a warning. The classes are the labels that occur,
sorted.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rcnn.data.check import check_box, size_problem
from rcnn.data.dataset import NOT_READ, Dataset, nested_files_message, shortened
from rcnn.data.formats.coco import Annotation, Picture, Reader, find_file
from rcnn.data.formats.outlines import is_number
from rcnn.io.images import DECODER_ERRORS, ImageError, image_files, image_size, visible_files
from rcnn.structures import Masks, Outline, Size, Skeleton

CIRCLE_CORNERS = 64
MIN_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "point": 1}
LOOKED_AT = 3  # files, to recognise a folder


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
        raise ValueError(f"{source}: expected LabelMe's JSON files in it; there is none.")
    reader = _LabelMeReader(source)
    for file in files:
        reader.read_file(file)
    reader.report_others()
    return replace(reader.collect(), category_ids=())


@dataclass
class _Drawn:
    """One object: the parts of its outline, and its points by label."""

    label: str
    parts: list[npt.NDArray[np.float64]] = field(default_factory=list)
    masks: list[tuple[npt.NDArray[np.bool_], tuple[int, int]]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    points: dict[str, tuple[float, float]] = field(default_factory=dict)


class _LabelMeReader(Reader):
    """Collects what can be used of the files, and every problem on the way."""

    format = "labelme"

    def __init__(self, source: Path) -> None:
        super().__init__(source, source, [])
        self.drawn: dict[int | str, list[_Drawn]] = defaultdict(list)
        self.files: dict[Path, Path] = {}  # image → JSON

    def read_file(self, file: Path) -> None:
        """One JSON file and its image."""
        try:
            content = json.loads(file.read_bytes())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            self.report(f"This is not JSON ({error}).", "Mend it, or annotate anew.", None, file)
            return
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            self.report("Expected a JSON object with a list shapes.", "Move other files away.", None, file)
            return
        path = self._image(file, content)
        if path is None:
            return
        try:
            size = image_size(path)
        except ImageError as error:
            self.report(str(error).removeprefix(f"{path}: "), "Replace the image.", file.name, path)
            return
        height, width = content.get("imageHeight"), content.get("imageWidth")
        if is_number(height) and is_number(width):
            problem = size_problem(path, size, (int(height), int(width)))
            self.problems += [] if problem is None else [problem]
        self.pictures[file.stem] = Picture(path, size, file.stem)
        self._read_shapes(file, self.pictures[file.stem], content["shapes"])

    def _image(self, file: Path, content: dict[str, Any]) -> Path | None:
        named = content.get("imagePath")
        path = find_file(file.parent, named) if isinstance(named, str) and named else None
        own = next((f for f in image_files(file.parent) if f.stem == file.stem), None)
        if path is not None and own is not None and path.stem != file.stem:
            what = f"{file.name} is called like this image, but its imagePath says {named}."
            advice = "The shapes are read as those of this image; rename the files if they are not."
            self.report(what, advice, file.name, own, "warning")
            path = own
        path = path or own
        if path is None:
            kept = (
                " The picture is in imageData: save it beside the file." if content.get("imageData") else ""
            )
            self.report(f"Its image {named} is missing.{kept}", "Put it there, or delete this.", None, file)
        elif path in self.files:
            what = f"The image is annotated twice, in {self.files[path].name} and {file.name}."
            self.report(what, "Keep one of the files.", file.name, path)
            return None
        else:
            self.files[path] = file
        return path

    def _read_shapes(self, file: Path, picture: Picture, shapes: list[Any]) -> None:
        groups: dict[tuple[str, Any], _Drawn] = {}
        points: list[tuple[Any, str, tuple[float, float], str]] = []
        skipped: Counter[str] = Counter()
        seen: dict[str, int] = {}
        for index, shape in enumerate(shapes):
            place = f"{file.name}, shapes[{index}]"
            fault = _shape_fault(shape)
            if fault is not None:
                self.report(fault, "Correct or delete the shape.", place, picture.path)
                continue
            kind, label = shape.get("shape_type") or "polygon", shape["label"]
            first = seen.setdefault(json.dumps(shape, sort_keys=True), index)
            if first != index:
                what = f"It is the same as shapes[{first}]."
                self.report(what, "It was left out; delete it.", place, picture.path, "warning")
            elif kind not in MIN_POINTS:
                skipped[kind] += 1
            elif kind == "point":
                x, y = shape["points"][0]
                points.append((shape.get("group_id"), label, (x, y), place))
            else:
                group = shape.get("group_id")
                drawn = groups.setdefault(
                    (label, index if group is None else f"group {group}"), _Drawn(label)
                )
                self._draw(drawn, kind, shape, place, picture)
        skipped["point"] += _give_points(groups, points)
        for kind, count in ((kind, count) for kind, count in skipped.items() if count):
            why = " without an object of their group_id" if kind == "point" else ""
            what = f"{count} shapes of the kind {kind}{why}."
            self.report(what, "They were left out.", file.name, picture.path, "warning")
        self.drawn[picture.image_id] = [drawn for drawn in groups.values() if drawn.names]

    def _draw(self, drawn: _Drawn, kind: str, shape: Any, place: str, picture: Picture) -> None:
        """Add a shape to an object."""
        points = np.array(shape["points"], dtype=np.float64)
        if kind == "rectangle":
            (x1, y1), (x2, y2) = points.min(0), points.max(0)
            points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        elif kind == "circle":
            turns = np.arange(CIRCLE_CORNERS) * (2 * np.pi / CIRCLE_CORNERS)
            radius = math.dist(points[0], points[1])
            points = points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], 1)
        if kind == "mask":
            try:
                drawn.masks.append(_decoded(shape, points))
            except (*DECODER_ERRORS, TypeError) as error:
                what = f"The mask cannot be decoded ({error})."
                self.report(what, "Draw or delete the shape.", place, picture.path)
                return
        else:
            drawn.parts.append(points)
        drawn.names.append(place)

    def report_others(self) -> None:
        """Images without JSON file, and JSON files that are not looked for."""
        bare = [f.name for f in image_files(self.source) if f not in self.files]
        if bare:
            what = f"{len(bare)} images have no JSON file: {shortened(bare)}."
            advice = "They are left out; a file with an empty list of shapes makes an image without objects."
            self.report(what, advice, "images", severity="warning")
        deeper = nested_files_message(self.source, "*.json")
        if deeper:
            self.report(deeper, NOT_READ, "folders", severity="warning")

    def collect(self) -> Dataset:
        """Everything read, as a data set: classes and keypoints are known only now."""
        drawn = [d for objects in self.drawn.values() for d in objects]
        names = sorted({d.label for d in drawn})
        self._read_categories([{"id": number, "name": name} for number, name in enumerate(names)])
        keypoints = tuple(sorted({name for d in drawn for name in d.points}))
        if keypoints:
            self.skeleton = Skeleton(keypoints)
        for image_id, objects in self.drawn.items():
            for one in objects:
                self._add(self.pictures[image_id], one, names.index(one.label))
        return self.dataset()

    def _add(self, picture: Picture, drawn: _Drawn, label: int) -> None:
        corners = [*drawn.parts]
        for bitmap, (x, y) in drawn.masks:
            corners.append(np.array([[x, y], [x + bitmap.shape[1], y + bitmap.shape[0]]], dtype=np.float64))
        (x1, y1), (x2, y2) = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
        box, fault = check_box((float(x1), float(y1), float(x2), float(y2)), picture.size)
        name = drawn.names[0]
        if fault is not None:
            self.problems.append(fault.of(picture.path, name))
        if box is None:
            return
        points = np.zeros((self.num_keypoints, 3), dtype=np.float32) if self.skeleton else None
        for known, place in drawn.points.items():
            assert points is not None
            assert self.skeleton is not None
            points[self.skeleton.names.index(known)] = (*place, 2)
        outline = _outline(drawn, picture.size)
        found = Annotation(box, label, False, None, outline, points, name)
        self.objects[picture.image_id].append(found)


def _shape_fault(shape: Any) -> str | None:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        found = shape.get("label") if isinstance(shape, dict) else shape
        return f"A shape needs a label, a text; found {found!r:.60}."
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if (
        not isinstance(points, list)
        or not all(isinstance(p, list) and len(p) == 2 for p in points)
        or not all(is_number(v) for p in points for v in p)
    ):
        return "Expected points as pairs of numbers [[x, y], …]."
    least = MIN_POINTS.get(kind, 0)
    return f"A {kind} of {len(points)} points; expected {least}." if len(points) < least else None


def _give_points(
    groups: dict[tuple[str, Any], _Drawn], points: list[tuple[Any, str, tuple[float, float], str]]
) -> int:
    """Give points to the one object of their group; the number of those that have none, or several."""
    left = 0
    for group, name, place, _ in points:
        owners = [drawn for (_, key), drawn in groups.items() if key == f"group {group}"]
        if group is None or len(owners) != 1 or name in owners[0].points:
            left += 1
        else:
            owners[0].points[name] = place
    return left


def _decoded(shape: Any, points: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """The bitmap of a shape "mask" and the (x, y) of its upper left pixel."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
        bitmap = np.asarray(image.convert("L")) != 0
    x, y = (int(v) for v in points[0])
    if not bitmap.any() or x < 0 or y < 0:
        raise ValueError("it is empty, or begins outside the image")
    return bitmap, (x, y)


def _outline(drawn: _Drawn, size: Size) -> Outline:
    if not drawn.masks:
        return drawn.parts
    whole = np.zeros(size, dtype=np.bool_)
    if drawn.parts:
        whole |= Masks.from_outlines([drawn.parts], size)[0]
    for bitmap, (x, y) in drawn.masks:
        window = whole[y : y + bitmap.shape[0], x : x + bitmap.shape[1]]
        window |= bitmap[: window.shape[0], : window.shape[1]]
    return Masks.from_dense(whole[None]).rle()[0]
