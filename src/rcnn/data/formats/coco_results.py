"""Files of detections, of any model on a data set: COCO's bare list of results, or a COCO file with scores.

Each detection has ``image_id``, ``category_id``, ``score`` and one or more of ``bbox`` (x, y, width, height),
``segmentation`` (run-length code or polygons) and ``keypoints``. A missing box is derived from the mask or
the keypoints. Errors name the file and the number of the entry, counted from 0.

In a bare list, image ids are those of the data set (``Record.image_id``). An image may also be identified by
its path below the folder of the data set, or by its file name if it is unique. Categories are those of the
data set.

A COCO file, as ``rcnn predict`` writes it, describes itself: its images are found by their ``file_name`` in
the data set, whatever their ids, and its categories and keypoints are those of the model.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rcnn.data.builder import DatasetBuilder
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.coco import declare_categories
from rcnn.data.formats.coco_forms import with_whole_numbers
from rcnn.data.formats.coco_json import has_fields
from rcnn.data.formats.detections import Detections, outline_of
from rcnn.data.formats.json_lists import NotJsonError, list_entries, value_without_list
from rcnn.data.formats.outlines import is_number, polygon_fault, rle_fault
from rcnn.structures import Instances, Size, Skeleton

SHOWN = 5  # ids shown in a message
ELSEWHERE = -1  # an image that the data set does not have
EXPECTED = "expected COCO results: a list, or an object with images, annotations (with scores) and categories"


def read_results(path: str | Path, dataset: Dataset) -> list[Instances]:
    """The detections of each image of a data set, best score first; images without detections are empty.

    Masks and keypoints are present if all detections of the file have them. Labels are those of the data set
    or, if the file declares its categories, those of the file, in the order of their ids: ``class_names``.

    Raises:
        ValueError: neither a list of results nor a COCO file, an entry that is incomplete or does not match
            the data set, or a COCO file that does not list all images of the data set.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        reader = _reader_of(path, dataset)
        found = Detections(reader.sizes, 0 if reader.skeleton is None else len(reader.skeleton.names))
        for number, entry in enumerate(list_entries(path, "annotations")):
            index = reader.check(number, entry)
            found.add(index, reader.labels[entry["category_id"]], entry)
    except NotJsonError as error:
        raise ValueError(f"{path}: not JSON ({error}); {EXPECTED}") from error
    return [
        Instances(
            size=size,
            **fields,
            class_names=reader.class_names,
            skeleton=reader.skeleton if found.has_points else None,
            path=record.path,
        )
        for record, size, fields in zip(dataset.records, reader.sizes, found.by_image(), strict=True)
    ]


def _reader_of(path: Path, dataset: Dataset) -> _Reader:
    """What checks the entries of a file, from all of the file but these."""
    content = value_without_list(path, "annotations")
    if isinstance(content, list):
        return _reader_of_list(path, dataset)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {EXPECTED}; found {str(content)[:40]!r}")
    if not all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        found = ", ".join(map(str, content)) or "nothing"
        raise ValueError(f"{path}: {EXPECTED}; found an object with {found}")
    return _reader_of_file(path, dataset, content)


def _reader_of_list(path: Path, dataset: Dataset) -> _Reader:
    ids = dataset.category_ids or tuple(range(1, len(dataset.class_names) + 1))
    labels = {category: label for label, category in enumerate(ids)}
    known = [record.image_id for record in dataset.records]
    return _Reader(
        path, dataset, _image_names(dataset), labels, known, dataset.class_names, dataset.skeleton,
        _sizes(dataset), "data set",
    )  # fmt: skip


def _reader_of_file(path: Path, dataset: Dataset, content: dict[str, list[Any]]) -> _Reader:
    builder = DatasetBuilder("coco", path)
    labels = declare_categories(builder, content)
    fault = next((problem for problem in builder.problems if problem.severity == "error"), None)
    if fault is not None:
        raise ValueError(str(fault))
    images = _listed_images(path, dataset, content["images"])
    known = list(images)
    return _Reader(
        path, dataset, images, labels, known, builder.class_names, builder.skeleton, _sizes(dataset), "file"
    )


def _sizes(dataset: Dataset) -> list[Size]:
    return [(height, width) for height, width in dataset.objects.sizes.tolist()]


@dataclass(frozen=True)
class _Reader:
    """Checks entries and converts them to Instances.

    Attributes:
        path: the file.
        dataset: the images.
        images: the index in the data set of each image, by all that identifies it; -1 if it is not there.
        labels: the label of each category id.
        known: the image ids, for messages.
        class_names: what the labels index.
        skeleton: what the keypoints are.
        sizes: (height, width) of each image of the data set.
        owner: what declares ids and categories: the data set or the file.
    """

    path: Path
    dataset: Dataset
    images: Mapping[int | str, int]
    labels: Mapping[int, int]
    known: list[int | str]
    class_names: tuple[str, ...]
    skeleton: Skeleton | None
    sizes: list[Size]
    owner: str

    def check(self, number: int, entry: Any) -> int:
        """The index of the image of an entry."""
        if not isinstance(entry, dict):
            raise self._error(number, f"found {str(entry)[:40]!r}", "expected an object with image_id, …")
        missing = [key for key in ("image_id", "category_id", "score") if key not in entry]
        if missing or not any(key in entry for key in ("bbox", "segmentation", "keypoints")):
            what = f"lacks {' and '.join(missing) or 'bbox, segmentation and keypoints'}"
            expected = "expected image_id, category_id, score, and a box, mask or keypoints"
            raise self._error(number, what, expected)
        image_id, category = (
            int(value) if isinstance(value, float) and value.is_integer() else value
            for value in (entry["image_id"], entry["category_id"])
        )
        entry |= {"image_id": image_id, "category_id": category}  # exported tables have 1.0
        index = self.images.get(image_id) if isinstance(image_id, int | str) else None
        if index is None:
            raise self._error(number, f"image_id {image_id!r}", f"the {self.owner} has {_some(self.known)}")
        if index == ELSEWHERE:
            what = f"its image, with the id {image_id!r} in this file"
            raise self._error(number, what, f"is not in {self.dataset.source}; give the data of these images")
        if not isinstance(category, int) or category not in self.labels:
            what = f"category_id {category!r}"
            raise self._error(number, what, f"the {self.owner} has {_some(list(self.labels))}")
        if not is_number(entry["score"]):
            raise self._error(number, f"score {entry['score']!r}", "expected a finite number")
        fault = self._shape_fault(entry, self.sizes[index])
        if fault:
            raise self._error(number, *fault)
        return index

    def _shape_fault(self, entry: dict[str, Any], size: Size) -> tuple[str, str] | None:
        box: Any = entry.get("bbox")
        outline: Any = entry.get("segmentation")
        points: Any = entry.get("keypoints")
        if "bbox" in entry and not (_numbers(box) and len(box) == 4):
            return f"bbox {str(box)[:60]}", "expected x, y, width, height"
        if "segmentation" in entry:
            fault = rle_fault(outline, size) if isinstance(outline, dict) else polygon_fault(outline)
            if fault is None and outline and not outline_of(outline):
                fault = "expected a polygon of at least three corners."
            if fault:
                return "the segmentation cannot be used", fault
        count = 0 if self.skeleton is None else len(self.skeleton.names)
        if "keypoints" in entry and count and not (_numbers(points) and len(points) == 3 * count):
            return f"keypoints {str(points)[:60]}", f"expected {3 * count} numbers x, y, score, …"
        scores: Any = entry.get("keypoint_scores")
        if scores is not None and not (_numbers(scores) and len(scores) == count):
            return f"keypoint_scores {str(scores)[:60]}", f"expected {count} numbers, one per keypoint"
        return None

    def _error(self, number: int, found: str, expected: str) -> ValueError:
        return ValueError(f"{self.path}: entry {number}: {found}; {expected}")


def _image_names(dataset: Dataset) -> dict[int | str, int]:
    """The index of each image by all names that identify it; ids take precedence."""
    records = dataset.records
    names: dict[int | str, int] = {}
    for attribute in (_below(dataset), [r.path.name for r in records], [str(r.image_id) for r in records]):
        counts = Counter(attribute)
        names |= {name: i for i, name in enumerate(attribute) if counts[name] == 1}
    return names | {record.image_id: i for i, record in enumerate(records)}


def _listed_images(path: Path, dataset: Dataset, entries: list[Any]) -> dict[int | str, int]:
    """The index in the data set of each image that a file lists, by its id; ELSEWHERE if it is not there."""
    names, records = _image_names(dataset), dataset.records
    same_name: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        same_name[record.path.name].append(index)
    found: dict[int | str, int] = {}
    taken: dict[int, str] = {}
    for number, entry in enumerate(map(with_whole_numbers, entries)):
        if not has_fields(entry, id=(int, str), file_name=str):
            what = f"images[{number}]: an image needs an id and a file_name; found {str(entry)[:60]}"
            raise ValueError(f"{path}: {what}")
        index = _index_of(entry, names, records, same_name)
        found[entry["id"]] = index
        if index == ELSEWHERE:
            continue
        if index in taken:
            both = f"{taken[index]} and {entry['file_name']}"
            raise ValueError(f"{path}: images[{number}]: {both} are both {records[index].path}; keep one")
        taken[index] = entry["file_name"]
        size = (entry.get("height"), entry.get("width"))
        expected = records[index].truth.size
        if size not in (expected, (None, None)):
            what = f"images[{number}]: {entry['file_name']} has the (height, width) {size}"
            raise ValueError(f"{path}: {what}, {records[index].path} {expected}; are these other images?")
    missing = [index for index in range(len(records)) if index not in taken]
    if missing:
        shown = _some([str(records[i].path) for i in missing])
        raise ValueError(
            f"{path}: it does not list {len(missing)} of the {len(records)} images of {dataset.source}: "
            f"{shown}. Predict them too, or give the data of these images alone."
        )
    return found


def _index_of(
    entry: dict[str, Any],
    names: Mapping[int | str, int],
    records: Sequence[Record],
    same_name: Mapping[str, list[int]],
) -> int:
    """The record that a listed image is: by its path, else by the end of the path, else by its id.

    Of several paths that end alike the shortest is meant: ``a.png`` lies beside the folder of ``b/a.png``.
    """
    file_name = entry["file_name"].replace("\\", "/")
    if file_name in names:
        return names[file_name]
    parts = PurePosixPath(file_name).parts
    candidates = same_name.get(parts[-1] if parts else "", [])
    ending = [i for i in candidates if records[i].path.parts[-len(parts) :] == parts]
    shortest = min((len(records[i].path.parts) for i in ending), default=0)
    best = [i for i in ending if len(records[i].path.parts) == shortest]
    if len(best) != 1:
        best = [i for i in best or candidates if records[i].image_id == entry["id"]]
    return best[0] if len(best) == 1 else ELSEWHERE


def _below(dataset: Dataset) -> list[str]:
    """The paths of the images relative to the folder that was opened."""
    folder = dataset.source if dataset.source.is_dir() else dataset.source.parent
    paths = [record.path for record in dataset.records]
    return [(p.relative_to(folder) if p.is_relative_to(folder) else p).as_posix() for p in paths]


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(is_number(value) for value in values)


def _some(ids: Sequence[int | str]) -> str:
    """The first few ids, for a message."""
    rest = f", … ({len(ids)} in total)" if len(ids) > SHOWN else ""
    return f"{', '.join(map(repr, ids[:SHOWN]))}{rest}"
