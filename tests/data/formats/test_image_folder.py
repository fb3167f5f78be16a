"""Hugging Face's ImageFolder with objects: each form of them, and malformed lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from annotated_images import FIRST, boxes, errors, image
from rcnn.data.formats.open import open_data

BOX = [8, 6, 16, 14]


def lines(folder: Path, *entries: Any) -> Path:
    """A file of JSON lines; texts are written as they are."""
    file = folder / "metadata.jsonl"
    file.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries) + "\n")
    return file


@pytest.mark.parametrize(
    "objects",
    [
        {"objects": {"bbox": [BOX], "categories": ["cat"]}},
        {"objects": {"bbox": [BOX], "category": ["cat"], "iscrowd": [0]}},
        {"objects": [{"bbox": BOX, "label": "cat"}]},
        {"objects": json.dumps({"bbox": [BOX], "categories": ["cat"]})},
        {"bboxes": [BOX], "labels": ["cat"]},
    ],
)
def test_each_form_of_objects(tmp_path: Path, objects: dict[str, Any]) -> None:
    image(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    empty = {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}}
    file = lines(tmp_path, {"file_name": "a.jpg", **objects}, empty)
    data = open_data(tmp_path)
    assert (data.format, boxes(data)) == ("image-folder", {"a.jpg": [("cat", FIRST)], "b.jpg": []})
    assert [p.what for p in data.problems] == ["1 images are not annotated: c.jpg."]
    assert boxes(open_data(file)) == boxes(data)


def test_classes_of_numbers_and_crowds(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    lines(
        tmp_path,
        {"file_name": "a.jpg", "objects": {"bbox": [BOX, BOX], "category": [3, 1], "iscrowd": [0, 1]}},
    )
    data = open_data(tmp_path)
    assert data.class_names == ("1", "3")
    crowd = data.records[0].truth.crowd
    assert crowd is not None
    assert crowd.tolist() == [False, True]


def test_boxes_are_optional_classes_too(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    lines(tmp_path, {"file_name": "a.jpg", "objects": {"bbox": [BOX]}})
    assert boxes(open_data(tmp_path)) == {"a.jpg": [("object", FIRST)]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "This is not a line of JSON"),
        ("7", "expected an object; found int"),
        ({"objects": {"bbox": []}}, "Expected the name of an image as file_name; found None"),
        ({"file_name": "b.jpg", "objects": 7}, "Expected lists of equal length"),
        ({"file_name": "b.jpg", "objects": [7]}, "Expected lists of equal length"),
        ({"file_name": "b.jpg", "objects": "{"}, "Expected lists of equal length"),
        (
            {"file_name": "b.jpg", "objects": {"bbox": [BOX], "categories": []}},
            "Expected lists of equal length",
        ),
        ({"file_name": "b.jpg", "objects": {"bbox": {}, "categories": []}}, "Expected lists of equal length"),
        ({"file_name": "b.jpg", "objects": {"bbox": [[1, 2, 3]]}}, "Expected a box x, y, width, height"),
        ({"file_name": "b.jpg", "objects": {"bbox": [[1, 2, 3, "4"]]}}, "Expected a box x, y, width, height"),
        ({"file_name": "b.jpg", "objects": {"bbox": [BOX], "label": [1.5]}}, "Expected a name or a number"),
        ({"file_name": "b.jpg", "objects": {"bbox": [BOX], "iscrowd": ["no"]}}, "Expected 0 or 1 as iscrowd"),
        ({"file_name": "a.jpg", "objects": {"bbox": []}}, "annotated twice"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    image(tmp_path, "a.jpg", "b.jpg")
    lines(tmp_path, {"file_name": "a.jpg", "objects": {"bbox": [BOX], "label": ["cat"]}}, entry)
    found = errors(open_data(tmp_path))
    assert len(found) == 1
    assert message in found[0]
