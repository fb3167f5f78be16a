"""Correct annotated sizes of images where the objects themselves tell which size is right.

If the annotated size is wrong but the objects were drawn on the image as it is, some of them usually reach
beyond the annotated size, while all fit the file. If a photograph was annotated as its pixels are stored, by
a tool that ignores EXIF, some reach beyond the turned image, while all fit the stored one. Where all objects
fit both, the image may as well have been resized after annotation, and nothing is corrected.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.data.classes import align_dataset_classes
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_forms import with_whole_numbers
from rcnn.data.formats.coco_json import coco_file, load_coco
from rcnn.data.problems import ROUNDING, Problem
from rcnn.io.images import image_header
from rcnn.structures import Masks, Size


def with_right_sizes(dataset: Dataset, problems: Sequence[Problem]) -> tuple[Dataset, dict[Problem, str]]:
    """The data set with corrected sizes, and for each problem that this solves, what was done.

    Args:
        dataset: an opened data set.
        problems: all of its problems.
    """
    records = {r.path: r for r in dataset.records if r.image is None}
    wrong = {p.file: p for p in problems if p.annotated_size is not None and p.file in records}
    faulty = {p.file for p in problems if p.annotated_size is None}
    corrected: dict[Path, Record] = {}
    solved: dict[Problem, str] = {}
    beyond: dict[Path, Size] = {}
    for path, problem in wrong.items():
        annotated, record = problem.annotated_size, records[path]
        assert annotated is not None
        stored = _stored(record, annotated)
        size = image_header(path, record.reading).size
        if record.truth.size == size:  # the reader has used the size of the file
            if path not in faulty and (not len(record.truth) or _reaches_beyond(record, annotated)):
                corrected[path] = record
                solved[problem] = _corrected(size)
        elif path not in faulty and stored is not None and _reaches_beyond(record, size):
            corrected[path] = stored
            solved[problem] = "Its objects were drawn on the stored pixels, which its copy has without EXIF."
        elif path in faulty:
            beyond[path] = size
        elif not len(record.truth):
            corrected[path] = _without_objects(record, size)
            solved[problem] = _corrected(size)
    for path, record in _read_again(dataset, {path: records[path] for path in beyond}, beyond).items():
        corrected[path] = record
        solved[wrong[path]] = _corrected(beyond[path])
    if not corrected:
        return dataset, {}
    return replace(dataset, records=[corrected.get(r.path, r) for r in dataset.records]), solved


def _corrected(size: Size) -> str:
    return f"The annotated size became that of the file: {size[1]} by {size[0]}."


def _without_objects(record: Record, size: Size) -> Record:
    masks = None if record.masks is None else partial(Masks.empty, size)
    return replace(record, truth=replace(record.truth, size=size), masks=masks)


def _reaches_beyond(record: Record, size: Size) -> bool:
    """Whether an object reaches beyond an image of (height, width) ``size``."""
    return bool((record.truth.boxes[:, 2:] > [size[1] + ROUNDING, size[0] + ROUNDING]).any())


def _stored(record: Record, annotated: Size) -> Record | None:
    """The record with its pixels as they are stored, if the annotated size is theirs and not the turned."""
    reading = replace(record.reading, exif="stored")
    header = image_header(record.path, reading)
    fits = header.orientation >= 5 and header.size == annotated == record.truth.size
    return replace(record, reading=reading) if fits else None


def _read_again(
    dataset: Dataset, records: Mapping[Path, Record], sizes: Mapping[Path, Size]
) -> dict[Path, Record]:
    """Images of a COCO file, read with other sizes: those that then have no problem left."""
    if dataset.format != "coco" or not records:
        return {}
    content = load_coco(coco_file(dataset.source))
    by_id = {str(record.image_id): path for path, record in records.items()}
    entries = [
        {**entry, "file_name": str(path.resolve()), "height": sizes[path][0], "width": sizes[path][1]}
        for entry in map(with_whole_numbers, content["images"])
        if isinstance(entry, dict) and (path := by_id.get(str(entry.get("id")))) is not None
    ]
    annotations = [
        entry
        for entry in map(with_whole_numbers, content["annotations"])
        if isinstance(entry, dict) and str(entry.get("image_id")) in by_id
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "annotations.json"
        excerpt = {"images": entries, "annotations": annotations, "categories": content["categories"]}
        file.write_text(json.dumps(excerpt), encoding="utf-8")
        found = read_coco(file)
        found = align_dataset_classes(found, dataset.class_names)
        bad = {problem.file.resolve() for problem in found.problems}
        again = {record.path.resolve(): record for record in found.records}
    kept = {}
    for path, old in records.items():
        new = again.get(path.resolve())
        if new is None or path.resolve() in bad or (new.masks is None) != (old.masks is None):
            continue
        truth = replace(new.truth, path=path, class_names=dataset.class_names)
        kept[path] = replace(new, path=path, image_id=old.image_id, truth=truth, reading=old.reading)
    return kept
