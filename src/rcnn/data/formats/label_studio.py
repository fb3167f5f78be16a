"""Label Studio's own JSON, whole or minimal (JSON-MIN): a list of tasks.

    [{"data": {"image": "/data/upload/1/90fbb0c7-a.jpg"}, "annotations": [{"result": [
        {"type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": {
            "x": 12.5, "y": 12.5, "width": 25, "height": 29, "rotation": 0, "rectanglelabels": ["cat"]}}]}]}]

Convention:
    Coordinates are percentages of the image's width and height: ``"x": 12.5, "width": 25`` on an image 64
    wide is 8 to 24. ``rotation`` is in degrees, clockwise; a rectangle turns around its upper left corner, an
    ellipse around its centre.

Rectangles are boxes unless they are turned; polygons, ellipses and brush strokes are outlines. Key points
whose ``parentID`` is a region belong to it; others are ignored with a warning. Names of uploaded files are
found with and without the code that Label Studio puts before them. Tasks without annotation are skipped with
a warning; one with an empty result is an image without objects. Where no task has an annotation yet, but
tasks have predictions (pre-annotations), these are read, and a warning says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from rcnn.data.builder import Picture
from rcnn.data.dataset import Dataset
from rcnn.data.formats.annotated import AnnotatedImages, Drawn
from rcnn.data.formats.brush_code import brush_alpha, brush_code
from rcnn.data.formats.contents import has_one_file, head, one_file, read_json
from rcnn.data.formats.figures import ellipse, rectangle, turned, window_code
from rcnn.data.formats.lookup import without_code
from rcnn.data.formats.outlines import is_number
from rcnn.data.formats.writer import FileWriter, Item
from rcnn.data.problems import Box
from rcnn.io.images import IMAGE_ENDINGS
from rcnn.structures import Size

KINDS = ("rectangle", "polygon", "ellipse", "brush", "keypoint", "bitmask")
MEASURES = {
    "rectangle": ("x", "y", "width", "height"),
    "ellipse": ("x", "y", "radiusX", "radiusY"),
    "keypoint": ("x", "y"),
}
HALF = 127  # of the alpha of a brush stroke
Region = dict[str, Any]


def is_label_studio(path: Path, images: Path | None = None) -> bool:
    """Whether a file is Label Studio's JSON, or a folder has one."""
    return has_one_file(path, ".json", _is_file, "Label Studio")


def _is_file(file: Path) -> bool:
    text = head(file)
    if not text.startswith(("[", "{")):
        return False
    lists = r'"(annotations|completions|predictions)"\s*:\s*\['
    whole = re.search(lists, text) is not None and '"result"' in text
    return whole or '"original_width"' in text or ('"completed_by"' in text and '"data"' in text)


def read_label_studio(path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a JSON export of Label Studio.

    Args:
        path: the file, or the folder that contains it.
        images: the image folder, if it is elsewhere.

    Raises:
        ValueError: there is no such file, or it is damaged, or none of its images is found.
    """
    file = one_file(Path(path), ".json", _is_file, "Label Studio")
    content = read_json(file)
    tasks = content if isinstance(content, list) else [content]
    reader = _Reader(file, images, predicted=_has_predictions_only(tasks))
    for index, task in enumerate(tasks):
        reader.read_task(task, f"task {task.get('id', index) if isinstance(task, dict) else index}")
    return reader.dataset()


def _has_predictions_only(tasks: list[Any]) -> bool:
    """Whether tasks have predictions, and none has an annotation."""
    known = [task for task in tasks if isinstance(task, dict)]
    annotated = any(task.get("annotations") or task.get("completions") for task in known)
    return not annotated and any(isinstance(task.get("predictions"), list) for task in known)


class _Reader:
    """Collects the regions of all tasks; with ``predicted``, those of their predictions."""

    def __init__(self, file: Path, images: str | Path | None, *, predicted: bool) -> None:
        self.objects = AnnotatedImages("label studio", file, images=images)
        self.predicted = predicted
        self.seen: dict[Path, str] = {}
        self.unannotated: list[str] = []
        self.several: list[str] = []

    def read_task(self, task: Any, place: str) -> None:
        """Read the regions of one task."""
        name = _image_name(task) if isinstance(task, dict) else None
        if name is None:
            what = f"Expected a task with the address of an image in its data; found {task!r:.60}."
            self.objects.builder.report(what, "Complete it.", place)
            return
        results = self._results(task, place)
        if results is None:
            return
        picture = self._picture(name, results, place)
        if picture is None or not self.objects.is_new(picture, place, self.seen):
            return
        drawn: dict[str, Drawn] = {}
        points: list[Region] = []
        for number, region in enumerate(_with_labels(results), 1):
            kind = _kind(region)
            if kind == "keypoint":
                points.append(region)
            elif kind is None:
                self.objects.ignore(f"results of the type {region.get('type')}")
            elif (found := self._draw(picture, kind, region, f"{place}, region {number}")) is not None:
                drawn[str(region.get("id"))] = found
        self._give_points(picture, points, drawn, place)

    def _results(self, task: dict[str, Any], place: str) -> list[Any] | None:
        """The regions of a task; None, noted, if it is not annotated."""
        annotations = task.get("annotations", task.get("completions"))
        if self.predicted:
            annotations = task.get("predictions", [])
        if annotations is None:  # JSON-MIN has the regions in the task
            regions = [v for v in task.values() if isinstance(v, list) and any(map(_is_region, v))]
            if not regions and "annotation_id" not in task and "annotator" not in task:
                self.unannotated.append(place)
                return None
            return [region for listed in regions for region in listed]
        listed = annotations if isinstance(annotations, list) else []
        kept = [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")]
        if not kept:
            self.unannotated.append(place)
            return None
        if len(kept) > 1:
            self.several.append(place)
        chosen = next((a for a in kept if a.get("ground_truth")), kept[0])
        result = chosen.get("result")
        return result if isinstance(result, list) else []

    def _picture(self, name: str, results: list[Any], place: str) -> Picture | None:
        sides = ("original_height", "original_width")
        sized = (r for r in results if isinstance(r, dict) and all(is_number(r.get(side)) for side in sides))
        size: Size | None = next(((int(r[sides[0]]), int(r[sides[1]])) for r in sized), None)
        for candidate in _names(name):
            path = self.objects.index.find(candidate)
            if path is not None:
                return self.objects.at(path, size=size, place=place)
        self.objects.missing.setdefault(name)
        return None

    def _draw(self, picture: Picture, kind: str, region: Region, place: str) -> Drawn | None:
        """Add a region to the image; None, reported, if it is unusable."""
        value, labels = region.get("value", region), _labels(region)
        fault = _fault(kind, region, value, labels)
        if fault is not None:
            self.objects.wrong(picture, place, fault)
            return None
        drawn = Drawn(labels[0], place)
        height, width = picture.size
        scale = np.array([width, height]) / 100
        angle = math.radians(value.get("rotation") or 0)
        if kind in ("rectangle", "ellipse"):
            (x, y), (a, b) = np.array([float(value[k]) for k in MEASURES[kind]]).reshape(2, 2) * scale
            if kind == "ellipse":
                drawn.outline = [ellipse((x, y), (a, b), angle)]
            else:
                box: Box = (x, y, x + a, y + b)
                drawn.box = None if angle else box
                drawn.outline = [turned(rectangle(box), angle, (x, y))] if angle else None
        elif kind == "polygon":
            drawn.outline = [np.array(value["points"], np.float64) * scale]
        else:
            try:
                alpha = brush_alpha(value["rle"], picture.size)
            except ValueError as error:
                self.objects.wrong(picture, place, f"The brush strokes cannot be decoded ({error}).")
                return None
            code = window_code(alpha > HALF, (0, 0), picture.size)
            drawn.outline = [] if code is None else code
        self.objects.draw(picture, drawn)
        return drawn

    def _give_points(
        self, picture: Picture, points: list[Region], drawn: dict[str, Drawn], place: str
    ) -> None:
        """Assign key points to the regions that they name as parent."""
        height, width = picture.size
        for region in points:
            value, labels = region.get("value", region), _labels(region)
            owner = drawn.get(str(region.get("parentID")))
            if owner is None:
                self.objects.ignore("key points without a parent region")
            elif _fault("keypoint", region, value, labels) is not None or labels[0] in owner.keypoints:
                what = f"Expected one key point {' '.join(labels)} with numbers x and y."
                self.objects.wrong(picture, place, what)
            else:
                owner.keypoints[labels[0]] = (value["x"] * width / 100, value["y"] * height / 100, 2.0)

    def dataset(self) -> Dataset:
        """The data set."""
        builder = self.objects.builder
        if self.predicted:
            what = "No task is annotated yet; the predictions in them are read as objects."
            builder.warn(what, "Correct and submit them in Label Studio, and export again.", "tasks")
        if self.unannotated:
            what = f"{len(self.unannotated)} tasks are not annotated, for example {self.unannotated[0]}."
            builder.warn(what, "They are skipped; submit empty ones for images without objects.", "tasks")
        if self.several:
            what = f"{len(self.several)} tasks have several annotations, for example {self.several[0]}."
            builder.warn(what, "The ground truth is read, otherwise the first one.", "annotations")
        self.objects.warn_of_unlisted("have no task")
        return self.objects.dataset()


def _is_region(value: Any) -> bool:
    return isinstance(value, dict) and "original_width" in value


def _image_name(task: dict[str, Any]) -> str | None:
    """The address of a task's image."""
    data = task.get("data", task)
    texts = {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
    preferred = [texts[key] for key in ("image", "img", "image_url", "url", "ocr") if key in texts]
    ending = [v for v in texts.values() if unquote(v).split("?")[0].lower().endswith(IMAGE_ENDINGS)]
    uploaded = [task["file_upload"]] if isinstance(task.get("file_upload"), str) else []
    return next(iter([*preferred, *ending, *uploaded]), None)


def _names(address: str) -> Iterator[str]:
    """The names by which the file of an address may be found."""
    local = parse_qs(urlsplit(address).query).get("d") or parse_qs(urlsplit(address).query).get("fileuri")
    path = local[0] if local else address
    for name in dict.fromkeys((path, unquote(path))):
        yield name
        folder, _, last = name.rpartition("/")
        bare = without_code(last)
        if bare != last:
            yield f"{folder}/{bare}" if folder else bare


def _with_labels(results: list[Any]) -> list[Region]:
    """The regions of a result; shapes whose labels are an entry of their own, with the same id, get them."""
    regions = [region for region in results if isinstance(region, dict)]
    shapes: dict[str, Region] = {}
    for region in regions:
        key, value = str(region.get("id")), region.get("value", region)
        if key in shapes and "id" in region and isinstance(value, dict) and "labels" in value:
            shapes[key] = {**shapes[key], "labels": value["labels"]}
        elif _kind(region) is not None:
            key = key if "id" in region and key not in shapes else f"{key}/{len(shapes)}"
            shapes[key] = region
        elif region.get("type") not in ("choices", "labels", "textarea", "rating", "number", "taxonomy"):
            shapes[f"{key}/{len(shapes)}"] = region
    return list(shapes.values())


def _kind(region: Region) -> str | None:
    """The kind of a region by its type or, in JSON-MIN, by the name of its labels."""
    found = str(region.get("type") or "").removesuffix("labels")
    names = {k.removesuffix("labels") for k in region if k.endswith("labels")}
    kind = found if found in KINDS else next((k for k in KINDS if k in names), None)
    return "brush" if kind == "bitmask" and "rle" in region.get("value", region) else kind


def _labels(region: Region) -> list[str]:
    """The classes of a region."""
    whole = region.get("value", region)
    value = whole if isinstance(whole, dict) else {}
    keys = [*(f"{kind}labels" for kind in KINDS), "labels"]
    found: Any = next((v[k] for v in (value, region) for k in keys if v.get(k)), [])
    return [str(label) for label in found] if isinstance(found, list) else [str(found)]


def _fault(kind: str, region: Region, value: Any, labels: list[str]) -> str | None:
    """Why a region cannot be read, None if it can."""
    if not isinstance(value, dict):
        return f"Expected a value with coordinates; found {value!r:.40}."
    if len(labels) != 1:
        return f"The region has {len(labels)} labels; expected one."
    if region.get("image_rotation", value.get("image_rotation")):
        return "The image was turned in Label Studio, and the region refers to the turned image."
    if not is_number(value.get("rotation") or 0):
        return f"Expected a number as rotation; found {value['rotation']!r:.40}."
    needed = MEASURES.get(kind, ())
    if not all(is_number(value.get(key)) for key in needed):
        return f"Expected the numbers {', '.join(needed)} of a {kind}."
    points = value.get("points")
    if kind == "polygon" and not (
        isinstance(points, list)
        and len(points) >= 3
        and all(isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points)
    ):
        return "Expected at least three points [x, y] of a polygon."
    if kind in ("brush", "bitmask") and not isinstance(value.get("rle"), list):
        return "Expected a run-length code rle of a brush."
    return None


class LabelStudioWriter(FileWriter):
    """Tasks of Label Studio; outlines as brush strokes, objects without one as rectangles.

    Predictions become ``predictions`` of the tasks, which Label Studio shows as pre-annotations: each region
    with its score and the number of the object as its id, and the mean score of each task.
    """

    holds = frozenset({"outlines", "keypoints"})
    file_name = "label_studio.json"

    def start(self) -> str:
        """The beginning of the list."""
        return "["

    def text(self, item: Item) -> str:
        """One image and its objects."""
        if item.truth.masks is not None:
            item = self.with_outlines(item)
            self.note_boxes(item)
        results: list[Region] = []
        for index in range(len(item.truth)):
            results += self._regions(item, index)
        name = f"{self.image_folder}/{item.image.name}"
        number = self.images + 1
        task: Region = {"id": number, "data": {"image": f"/data/local-files/?d={name}"}}
        if self.dataset.has_scores:
            scores = np.zeros(0) if item.truth.scores is None else item.truth.scores
            mean = float(scores.mean()) if len(scores) else 0.0
            task["predictions"] = [{"model_version": "rcnn", "score": mean, "result": results}]
        else:
            task["annotations"] = [{"id": number, "result": results}]
        return ("," if self.images else "") + "\n" + json.dumps(task, ensure_ascii=False)

    def _regions(self, item: Item, index: int) -> Iterator[Region]:
        """The regions of one object: its outline or box, and its key points."""
        truth = item.truth
        height, width = truth.size
        own = f"{self.images}-{index}" if truth.scores is None else str(item.numbers[index])
        shared = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
        if truth.scores is not None:
            shared["score"] = float(truth.scores[index])
        label = truth.names[index]
        if truth.masks is not None:
            value: Region = {"format": "rle", "rle": brush_code(truth.masks[index]), "brushlabels": [label]}
            kind = "brushlabels"
        else:
            x1, y1, x2, y2 = truth.boxes[index].tolist()
            sides = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
            kind = "rectanglelabels"
            value = dict(zip(MEASURES["rectangle"], (100 * v for v in sides), strict=True))
            value |= {"rotation": 0, "rectanglelabels": [label]}
        yield {"id": own, "type": kind, "from_name": "label", "value": value, **shared}
        if truth.keypoints is not None and truth.skeleton is not None:
            for name, (x, y, seen) in zip(truth.skeleton.names, truth.keypoints[index].tolist(), strict=True):
                if seen > 0:
                    place = {
                        "x": 100 * x / width,
                        "y": 100 * y / height,
                        "width": 0.5,
                        "keypointlabels": [name],
                    }
                    point = {"id": f"{own}-{name}", "parentID": own, "type": "keypointlabels", "value": place}
                    yield {**point, "from_name": "keypoint", **shared}

    def end(self) -> str:
        """The end of the list."""
        return "\n]\n"
