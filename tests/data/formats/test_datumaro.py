"""Datumaro's JSON: boxes, outlines, groups, keypoints, subsets."""

from pathlib import Path
from typing import Any

import pytest

from annotated_images import areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data, open_splits

BOX: dict[str, Any] = {"type": "bbox", "label_id": 0, "group": 0, "bbox": [8, 6, 16, 14], "attributes": {}}
POLYGON: dict[str, Any] = {
    "type": "polygon", "label_id": 1, "group": 0, "points": [34, 22, 56, 22, 56, 42, 34, 42],
}  # fmt: skip


def content(*annotations: Any, name: str = "a", points: Any = None) -> dict[str, Any]:
    categories = {
        "label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog"}]},
        "points": points or {},
    }
    item = {"id": name, "annotations": list(annotations), "image": {"path": f"{name}.png", "size": [48, 64]}}
    return {"info": {}, "categories": categories, "items": [item]}


def test_boxes_and_outlines(tmp_path: Path) -> None:
    image(tmp_path / "images/default", "a.png")
    code = {"size": [48, 64], "counts": [48 * 10 + 5, 6, 48 * 64 - 48 * 10 - 11]}
    mask = {"type": "mask", "label_id": 0, "rle": code, "attributes": {"is_crowd": True}}
    put(
        tmp_path, "annotations/default.json", content(BOX, POLYGON, mask, {"type": "caption", "caption": "x"})
    )
    data = open_data(tmp_path)
    assert data.format == "datumaro"
    found = [("cat", (8, 6, 24, 20)), ("dog", (34, 22, 56, 42)), ("cat", (10, 5, 11, 11))]
    assert boxes(data) == {"a.png": found}
    assert data[0].truth.crowd.tolist() == [False, False, True]
    assert areas(data)[1:] == [22 * 20, 6]
    assert next(p.what for p in data.problems) == "1 annotations of the type caption."


def test_groups_are_one_object(tmp_path: Path) -> None:
    image(tmp_path / "images", "a.png")
    second = {**POLYGON, "points": [2, 2, 8, 2, 8, 8, 2, 8]}
    points = {"type": "points", "label_id": 1, "points": [40, 30, 0, 0], "visibility": [2, 0]}
    named = {"items": [{"label_id": 1, "labels": ["nose", "tail"], "joints": []}]}
    members = [{**one, "group": 4} for one in (POLYGON, second, points, {**BOX, "label_id": 1})]
    put(tmp_path, "annotations/default.json", content(*members, {**BOX, "group": 4}, points=named))
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("dog", (2, 2, 56, 42)), ("cat", (8, 6, 24, 20))]}
    assert data.skeleton is not None
    assert data.skeleton.names == ("nose", "tail")
    assert data[0].truth.keypoints[0].tolist() == [[40, 30, 2], [0, 0, 0]]


def test_subsets_are_splits(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("val", "b")):
        image(tmp_path / "images" / part, f"{name}.png")
        put(tmp_path, f"annotations/{part}.json", content(BOX, name=name))
    assert {name: [r.path.stem for r in d.records] for name, d in open_splits(tmp_path).items()} == {
        "train": ["a"],
        "val": ["b"],
    }


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({**BOX, "label_id": 7}, "Expected a label_id below 2; found 7"),
        ({**BOX, "bbox": [1, 2, 3]}, "Expected at least 4 numbers in pairs"),
        ({**POLYGON, "points": "x"}, "Expected at least 6 numbers in pairs; found 'x'"),
        ({"type": "mask", "label_id": 0, "rle": {"size": [1, 1], "counts": [1]}}, "The mask has the size"),
        ({"type": "mask", "label_id": 0}, "Expected a code rle"),
    ],
)
def test_broken_annotations_are_named(broken: Any, message: str, tmp_path: Path) -> None:
    image(tmp_path / "images", "a.png")
    put(tmp_path, "annotations/default.json", content(BOX, broken))
    (error,) = errors(open_data(tmp_path))
    assert f"a.png, annotation 1: {message}" in error
