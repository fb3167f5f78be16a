"""COCO JSON: boxes, outlines (polygons and run-length codes), crowds, keypoints.

Convention:
    ``bbox`` is x, y, width, height: ``[10, 20, 5, 6]`` becomes the box ``10 20 15 26``. Keypoints are pixel
    indices in the file: ``[3, 4, 2]`` becomes ``3.5 4.5 2``; those with visibility 0 become ``0 0 0``.

Outlines are drawn when a sample is asked for (:meth:`rcnn.Masks.from_outlines`).
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from rcnn.data.check import Box, check_box
from rcnn.data.dataset import Dataset, Problem, Record, shortened
from rcnn.data.formats.outlines import (
    MAX_COORDINATE,
    is_number,
    polygon_fault,
    rle_bounds,
    rle_fault,
)
from rcnn.io.images import ImageError, image_files, image_size
from rcnn.structures import Instances, Masks, Outline, Rle, Size, Skeleton

Entry = dict[str, Any]
PROBED = 20  # file names looked up to recognise the folder of the images
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
NO_SIZE = "Give width and height in pixels, or mend the image."


def read_coco(json_path: str | Path, images: str | Path | None = None) -> Dataset:
    """Open a COCO JSON file of instances or keypoints.

    All declared categories become classes, in the order of their ids. The images are looked for beside the
    file: in its folder and in ``images`` there, in folders called like the file's name or its first or last
    part (``train2017`` for ``instances_train2017.json``), and in all of these one level up.

    Args:
        json_path: the annotation file.
        images: the folder that its file names start from, where it lies elsewhere.

    Raises:
        ValueError: the file is missing or no COCO instances file, or no folder has the images.
    """
    path = Path(json_path)
    content = load_coco(path)
    if is_panoptic(content["annotations"]):
        raise ValueError(
            f"{path}: this is a panoptic file; expected one of instances (boxes with category_id). "
            "rcnn.open_data reads either."
        )
    reader = Reader(path, image_folder(path, content["images"], images), content["categories"])
    reader.read_images(content["images"])
    reader.read_annotations(content["annotations"])
    return reader.dataset()


def load_coco(path: Path) -> dict[str, list[Any]]:
    """The content of a COCO file, its top level checked.

    Raises:
        ValueError: the file is missing, no JSON, or without COCO's lists.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}).") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: this is not JSON ({error}). Export the annotations anew.") from error
    if not isinstance(content, dict):
        kind = "a list: of predictions?" if isinstance(content, list) else f"a {type(content).__name__}."
        raise ValueError(f"{path}: expected a JSON object with images, annotations, categories; found {kind}")
    if all(isinstance(content.get(k), list) for k in ("images", "annotations", "categories")):
        return content
    entries = content.get("_via_img_metadata", content)
    if isinstance(entries, dict) and any(isinstance(e, dict) and "regions" in e for e in entries.values()):
        raise ValueError(f"{path}: this is of the VGG Image Annotator (VIA); export it there as COCO.")
    found = shortened([f"{str(k)[:30]} ({type(v).__name__})" for k, v in content.items()]) or "nothing"
    raise ValueError(f"{path}: expected COCO's lists images, annotations, categories; found {found}.")


def is_panoptic(annotations: list[Any]) -> bool:
    """Whether annotations are COCO's panoptic ones: one an image, with its segments."""
    return any(isinstance(entry, dict) and "segments_info" in entry for entry in annotations)


def is_crowd(entry: Mapping[str, Any]) -> bool:
    """Whether an annotation or segment is marked as crowd, in whatever spelling of yes and no."""
    return entry.get("iscrowd", 0) not in (0, "0", None, False)


def image_folder(path: Path, entries: list[Any], images: str | Path | None) -> Path:
    """The folder that holds most of a sample of the images; ``images`` is taken as it is if it holds any."""
    parent, stem = path.parent, path.stem
    called = [stem, stem.rsplit("_", 1)[-1], stem.split("_", 1)[0]]
    folders = [*called, *(f"images/{name}" for name in called), "", "images", "data"]  # closest name first
    candidates = [parent / f for f in folders] + [parent.parent / f for f in folders]
    if images is not None:
        candidates = [Path(images)]
    names = [e["file_name"] for e in entries if isinstance(e, dict) and isinstance(e.get("file_name"), str)]
    step = max(len(names) // PROBED, 1)
    hits = [sum(find_file(folder, name) is not None for name in names[::step]) for folder in candidates]
    best = candidates[hits.index(max(hits))]
    if names and max(hits) == 0 and not any(find_file(f, n) for n in names for f in candidates):
        looked = ", ".join(dict.fromkeys(str(c) for c in candidates))
        raise ValueError(
            f"{path}: no image of it was found, {names[0]} for one. Looked in {looked}. "
            f"Name the folder of the images (--images, or images=…)."
        )
    return best


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, or of its last part: some tools write the folders of their own machine.

    Where there is none, the one file whose name differs only in upper and lower case, in the escapes of web
    addresses (``%20``) or in the Unicode form of its accents.
    """
    named = PurePosixPath(name.replace("\\", "/"))
    whole = folder / named
    # Where the folder named is there, a file of that name elsewhere is another.
    below = not named.is_absolute() and ".." not in named.parts
    candidates = [whole] if below and whole.parent.is_dir() else [whole, folder / whole.name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    for candidate in candidates:
        if candidate.parent.is_dir():
            known = _alike(candidate.parent, candidate.parent.stat().st_mtime_ns)
            if len(found := known.get(_plain(candidate.name), [])) == 1:
                return found[0]
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()


@lru_cache(maxsize=32)
def _alike(folder: Path, changed: int) -> dict[str, list[Path]]:
    """The image files of a folder by their plain names; read anew when the folder changed."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in image_files(folder):
        found[_plain(file.name)].append(file)
    return found


@dataclass
class Annotation:
    """One annotation that can be used."""

    box: Box
    label: int
    crowd: bool
    area: float | None
    outline: Outline | None
    keypoints: npt.NDArray[np.float32] | None
    name: str


@dataclass
class Picture:
    """One image entry that can be used."""

    path: Path
    size: Size
    image_id: int | str


class Reader:
    """Collects what can be used of a file of instances, and every problem on the way.

    Readers of other formats with outlines and keypoints fill ``pictures`` and ``objects`` in their own way.
    """

    format = "coco"

    def __init__(self, source: Path, folder: Path, categories: list[Any]) -> None:
        self.source = source
        self.folder = folder
        self.problems: list[Problem] = []
        self.pictures: dict[int | str, Picture] = {}
        self.dropped: set[int | str] = set()  # reported once, not once more for each of their annotations
        self.objects: dict[int | str, list[Annotation]] = defaultdict(list)
        self.corners: list[tuple[Box, Size]] = []  # every bbox as it stands in the file
        # By image, class and bbox the names of annotations, with what else is drawn of them.
        self.twins: dict[tuple[Any, ...], list[tuple[str, Any]]] = defaultdict(list)
        self.off: list[str] = []  # annotations whose box is hardly that of their polygons
        self.skeleton: Skeleton | None = None
        self.class_names: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()
        self._read_categories(categories)

    def report(
        self,
        what: str,
        advice: str,
        annotation: str | None = None,
        file: Path | None = None,
        severity: Literal["error", "warning"] = "error",
        is_outline_problem: bool = False,
    ) -> None:
        """Note a problem, of the annotation file itself where no other is named."""
        self.problems.append(
            Problem(file or self.source, what, advice, annotation, severity, is_outline_problem)
        )

    def _read_categories(self, categories: list[Any]) -> None:
        names: dict[int, str] = {}
        for index, entry in enumerate(map(_with_whole_numbers, categories)):
            place = f"categories[{index}]"
            if not has_fields(entry, id=int, name=str):
                what = f"A category needs a whole number as id and a text as name; found {entry!r:.80}."
                self.report(what, "Complete it.", place)
            elif entry["id"] in names:
                self.report(f"The category id {entry['id']} occurs twice.", "Give each its own.", place)
            else:
                names[entry["id"]] = entry["name"]
                self._read_skeleton(entry, place)
        self.category_ids = tuple(sorted(names))
        self.class_names = tuple(names[i] for i in self.category_ids)
        same = [
            n for n in self.class_names if [m.casefold() for m in self.class_names].count(n.casefold()) > 1
        ]
        if same:
            what = f"Categories have the same name, up to upper and lower case: {', '.join(same)}."
            self.report(
                what, "They count as different classes; merge them if they are not.", severity="warning"
            )

    @property
    def num_keypoints(self) -> int:
        """K, 0 where the file has none."""
        return 0 if self.skeleton is None else len(self.skeleton.names)

    def _read_skeleton(self, entry: dict[str, Any], place: str) -> None:
        """The keypoints of a category; of several that have some, those of the one with the most."""
        names = entry.get("keypoints")
        if not isinstance(names, list) or not names:
            return
        names = list(map(str, names))
        known = () if self.skeleton is None else self.skeleton.names
        short = min(len(names), len(known))
        if list(known[:short]) != names[:short]:
            what = f"Its keypoints {', '.join(names)} are others than {', '.join(known)} of another."
            advice = "One skeleton serves all: for models of keypoints split the file by category."
            self.report(what, advice, place, severity="warning")
        if len(names) <= len(known):
            return
        bones = entry.get("skeleton") or []
        usual = PERSON_SIGMAS if names == list(PERSON_KEYPOINTS) else ()
        try:
            # COCO counts the ends of its bones from 1.
            pairs = tuple((int(a) - 1, int(b) - 1) for a, b in bones)
            sigmas = tuple(map(float, entry.get("sigmas") or usual))
            self.skeleton = Skeleton(tuple(names), pairs, sigmas=sigmas)
        except (TypeError, ValueError) as error:
            self.report(f"The skeleton cannot be used: {error}.", "Correct it.", place)
            self.skeleton = Skeleton(tuple(names))

    def read_images(self, entries: list[Any]) -> None:
        """Fill ``pictures``."""
        listed: dict[Path, int | str] = {}
        for index, entry in enumerate(map(_with_whole_numbers, entries)):
            if not has_fields(entry, id=(int, str), file_name=str):
                what = f"An image needs an id and a file_name; found {entry!r:.80}."
                self.report(what, "Complete it.", f"images[{index}]")
                continue
            image_id, expected = entry["id"], self.folder / entry["file_name"]
            path = find_file(self.folder, entry["file_name"])
            place = f"image id {image_id}"
            if image_id in self.pictures or image_id in self.dropped:
                what = f"The image id {image_id} occurs twice; its annotations could belong to either image."
                self.report(what, "Give each image its own id.", place, path or expected)
                if image_id in self.pictures:
                    self.report(what, "Give each image its own id.", place, self.pictures[image_id].path)
            elif path is None:
                self.dropped.add(image_id)
                self.report(
                    "The image file is missing.", "Put it there, or delete its entry.", place, expected
                )
            else:
                if path in listed:
                    what = f"The file is listed twice, with the ids {listed[path]} and {image_id}."
                    self.report(what, "Keep one entry.", place, path)
                listed[path] = image_id
                self._add_picture(path, entry, image_id)

    def _add_picture(self, path: Path, entry: Entry, image_id: int | str) -> None:
        height, width = entry.get("height"), entry.get("width")
        if not (is_number(height) and is_number(width) and height >= 1 and width >= 1):
            if height is not None or width is not None:
                what = f"The size annotated is {width!r} by {height!r}."
                self.report(what, NO_SIZE, f"image id {image_id}", path)
            try:
                height, width = image_size(path)
            except ImageError as error:
                self.dropped.add(image_id)
                self.report(str(error).removeprefix(f"{path}: "), NO_SIZE, f"image id {image_id}", path)
                return
        self.pictures[image_id] = Picture(path, (int(height), int(width)), image_id)

    def read_annotations(self, entries: list[Any]) -> None:
        """Fill ``objects``."""
        labels = {category: label for label, category in enumerate(self.category_ids)}
        seen: set[int | str] = set()
        for index, entry in enumerate(map(_with_whole_numbers, entries)):
            if not has_fields(entry, image_id=(int, str), category_id=int):
                image_id, category = (
                    entry.get(k) if isinstance(entry, dict) else None for k in ("image_id", "category_id")
                )
                found = f"{image_id!r} and {category!r}"
                what = f"Expected an image_id, and a whole number as category_id; found {found}."
                # Where it names its image, that can be left out.
                owner = self.pictures.get(image_id) if isinstance(image_id, int | str) else None
                place = f"annotations[{index}]"
                self.report(what, "Complete it.", place, None if owner is None else owner.path)
                continue
            annotation_id = entry["id"] if entry.get("id") is not None else f"annotations[{index}]"
            name = str(annotation_id)
            picture = self.pictures.get(entry["image_id"])
            if picture is None:
                if entry["image_id"] not in self.dropped:
                    what = f"There is no image with the id {entry['image_id']!r}."
                    self.report(what, "Add the image, correct image_id, or delete the annotation.", name)
                continue
            if name in seen:
                self.report("The annotation id occurs twice.", "Give each its own.", name, picture.path)
            seen.add(name)
            if entry["category_id"] not in labels:
                what = f"There is no category with the id {entry['category_id']}."
                ids = ", ".join(map(str, self.category_ids)) or "none"
                advice = f"Declare it or correct category_id; declared are {ids}."
                self.report(what, advice, name, picture.path)
                continue
            self._add_object(picture, entry, labels[entry["category_id"]], name)

    def _add_object(self, picture: Picture, entry: Entry, label: int, name: str) -> None:
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(v, finite=False) for v in bbox):
            what = f"Expected bbox as four numbers x, y, width, height; found {bbox!r:.60}."
            self.report(what, "Correct or delete it.", name, picture.path)
            return
        x, y, w, h = (float(v) for v in bbox)
        drawn = entry.get("segmentation"), entry.get("keypoints")
        twins = self.twins[picture.image_id, label, x, y, w, h]
        first = next((other for other, same in twins if same == drawn), None)
        if first is None:
            twins.append((name, drawn))
        elif first != name:
            what = f"It is the same as annotation {first}."
            self.report(what, "Both are used; delete one.", name, picture.path, "warning")
        self.corners.append(((x, y, w, h), picture.size))
        box, fault = check_box((x, y, x + w, y + h), picture.size)
        if fault is not None:
            self.problems.append(fault.of(picture.path, name))
        if box is None:
            return
        area = entry.get("area")
        self.objects[picture.image_id].append(
            Annotation(
                box=box,
                label=label,
                crowd=is_crowd(entry),
                area=float(area) if isinstance(area, int | float) and 0 <= area < MAX_COORDINATE**2 else None,
                outline=self._outline(entry.get("segmentation"), box, picture, name),
                keypoints=self._keypoints(entry.get("keypoints"), picture, name)
                if self.num_keypoints
                else None,
                name=name,
            )
        )

    def _outline(
        self, found: Any, box: tuple[float, float, float, float], picture: Picture, name: str
    ) -> Outline | None:
        """The segmentation checked and made small; None where there is none or it is broken."""
        if not found or (isinstance(found, list) and not any(found)):
            return None
        fault = rle_fault(found, picture.size) if isinstance(found, dict) else polygon_fault(found)
        if fault is not None:
            advice = "Correct or delete the segmentation."
            self.report(fault, advice, name, picture.path, is_outline_problem=True)
            return None
        if isinstance(found, dict):
            code: Rle = {"size": list(picture.size), "counts": found["counts"]}
            bounds = rle_bounds(code)
            if bounds is None:
                return None
            self._compare(bounds, box, "mask", picture, name)
            return code
        parts = [np.array(part, dtype=np.float64).reshape(-1, 2) for part in found if len(part) >= 6]
        if len(parts) < len(found):
            what = f"{len(found) - len(parts)} of {len(found)} polygon parts have fewer than three corners."
            self.report(what, "They were left out; delete them.", name, picture.path, "warning")
        if parts:
            self._compare(_bounds(parts), box, "polygons", picture, name)
        return parts or None

    def _compare(self, bounds: Sequence[float], box: Box, what: str, picture: Picture, name: str) -> None:
        """Report an outline that is not where its box is."""
        if not _meet(bounds, box):
            shown = ", ".join(f"{value:g}" for value in bounds)
            edges = ", ".join(f"{value:g}" for value in box)
            lies = "lies" if what == "mask" else "lie"
            what = f"The {what} {lies} at {shown} (x1, y1, x2, y2), all of it outside the box at {edges}."
            self.report(what, "Correct the segmentation or the bbox.", name, picture.path)
        elif _overlap(bounds, box) < 0.5:
            self.off.append(f"{name} of {picture.path.name}")

    def _keypoints(self, found: Any, picture: Picture, name: str) -> npt.NDArray[np.float32]:
        """float32 ``[K, 3]``; zeros, which is "not annotated", where they are missing or broken."""
        points = np.zeros((self.num_keypoints, 3), dtype=np.float32)
        if found is None:
            return points
        fine = isinstance(found, list) and len(found) % 3 == 0 and len(found) <= points.size
        if not fine or not all(is_number(v) for v in found):
            what = f"Expected keypoints as up to {self.num_keypoints} triples of x, y, visibility."
            self.report(what, "Correct or delete them.", name, picture.path)
            return points
        values = np.array(found, dtype=np.float32).reshape(-1, 3)
        values[:, :2] += 0.5
        values[values[:, 2] == 0] = 0
        height, width = picture.size
        outside = (values[:, :2] < 0).any(1) | (values[:, 0] > width + 1) | (values[:, 1] > height + 1)
        if (outside & (values[:, 2] > 0)).any():
            what = f"{int(outside.sum())} keypoints lie outside the image of {width} by {height} pixels."
            self.report(what, "Correct them; are these of another image?", name, picture.path, "warning")
        points[: len(values)] = values
        return points

    def dataset(self) -> Dataset:
        """Everything read, as a data set."""
        self._suspect_corners()
        with_masks = self._judge_outlines()
        with_areas = any(o.area is not None for objects in self.objects.values() for o in objects)
        records = [self._record(p, with_masks, with_areas) for p in self.pictures.values()]
        return Dataset(
            format=self.format,
            source=self.source,
            class_names=self.class_names,
            records=records,
            problems=tuple(self.problems),
            category_ids=self.category_ids,
            skeleton=self.skeleton,
        )

    def _record(self, picture: Picture, with_masks: bool, with_areas: bool) -> Record:
        objects = self.objects.get(picture.image_id, [])
        boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
        areas = [_box_area(o.box) if o.area is None else o.area for o in objects]
        points = [o.keypoints for o in objects if o.keypoints is not None]
        stacked = np.stack(points) if points else np.zeros((0, self.num_keypoints, 3), dtype=np.float32)
        truth = Instances(
            size=picture.size,
            boxes=boxes,
            labels=np.array([o.label for o in objects], np.int64),
            crowd=np.array([o.crowd for o in objects], np.bool_),
            areas=np.array(areas, np.float32) if with_areas else None,
            keypoints=stacked if self.num_keypoints else None,
            skeleton=self.skeleton,
            class_names=self.class_names,
            path=picture.path,
        )
        outlines = [o.outline for o in objects if o.outline is not None]
        complete = with_masks and len(outlines) == len(objects)
        masks = partial(Masks.from_outlines, outlines, picture.size) if complete else None
        return Record(picture.path, picture.image_id, truth, masks)

    def _judge_outlines(self) -> bool:
        """Whether the data set has outlines; if it does, objects without one are errors."""
        bare = [(i, o) for i, objects in self.objects.items() for o in objects if o.outline is None]
        total = sum(len(objects) for objects in self.objects.values())
        if not bare or len(bare) == total:
            return not bare
        if 2 * len(bare) > total:
            what = f"Only {total - len(bare)} of {total} objects have a segmentation."
            self.report(what, "The outlines are left out and the boxes used.", severity="warning")
            return False
        for image_id, bare_object in bare:
            what = "The segmentation is missing or empty, other objects of the file have one."
            advice = "Draw it, delete the object, or train on boxes alone (--model faster_rcnn)."
            place = self.pictures[image_id].path
            self.report(what, advice, bare_object.name, place, is_outline_problem=True)
        return True

    def _suspect_corners(self) -> None:
        """Corners given as bbox: nearly all fit so, and many reach beyond the image as x y width height.

        Also shares of the image, and boxes that are not those of their polygons.
        """
        if self.off:
            what = f"{len(self.off)} boxes overlap their outlines by less than a half: {shortened(self.off)}."
            advice = "Look at them (rcnn data show): is bbox x, y, width, height, and of this image size?"
            self.report(what, advice, "boxes", severity="warning")
        count = len(self.corners)
        numbers = [value for box, _ in self.corners for value in box]
        if count and max(numbers) <= 1 and any(value % 1 for value in numbers):
            what = f"All {count} boxes lie within 0 and 1."
            self.problems.insert(0, Problem(self.source, what, "Give them in pixels, not as shares."))
        fits = sum(_fits(x, y, a, b, size) for (x, y, a, b), size in self.corners)
        beyond = sum(not _fits(x, y, x + a, y + b, size) for (x, y, a, b), size in self.corners)
        if count and fits >= 0.95 * count and beyond >= 0.2 * count:
            what = f"{beyond} of {count} boxes reach beyond their image if bbox is x, y, width, height."
            advice = "Read as x1, y1, x2, y2 they fit: subtract x1 and y1 from the last two numbers."
            self.problems.insert(0, Problem(self.source, what, advice))


def _with_whole_numbers(entry: Any) -> Any:
    """An entry whose ids are whole numbers where they are written as 1.0, as tables are exported."""
    if not isinstance(entry, dict):
        return entry
    ids = {k: entry[k] for k in ("id", "image_id", "category_id") if isinstance(entry.get(k), float)}
    return {**entry, **{k: int(v) for k, v in ids.items() if v.is_integer()}} if ids else entry


def has_fields(entry: Any, **types: type | tuple[type, ...]) -> bool:
    """Whether a JSON object has these fields with values of these types."""
    return isinstance(entry, dict) and all(
        isinstance(entry.get(k), t) and not isinstance(entry[k], bool) for k, t in types.items()
    )


def _box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _fits(x1: float, y1: float, x2: float, y2: float, size: Size) -> bool:
    return x1 < x2 <= size[1] + 1 and y1 < y2 <= size[0] + 1


def _bounds(parts: Sequence[npt.NDArray[np.float64]]) -> tuple[float, ...]:
    """x1 y1 x2 y2 of polygons."""
    corners = np.concatenate(parts)
    return (*corners.min(0).tolist(), *corners.max(0).tolist())


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """The IoU of two boxes."""
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    both = sides[0] * sides[1]
    return both / max(sum(areas) - both, 1e-9)


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes have a point in common."""
    return all(one[i] <= other[i + 2] and other[i] <= one[i + 2] for i in (0, 1))
