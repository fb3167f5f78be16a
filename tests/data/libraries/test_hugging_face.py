"""Hugging Face's data sets, by stand-ins that have what is used of them: columns, features and rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas
from rcnn.data.formats.open import open_data


@dataclass
class ClassLabel:
    names: list[str]


@dataclass
class List:
    feature: Any


class Rows:
    """A data set of rows."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows = rows
        self.features = features

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def sides(box: tuple[int, int, int, int]) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def picture() -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7))


BOXES = [sides(FIRST), sides(SECOND)]
NAMES = ClassLabel(["cat", "dog"])
LISTS = {"bbox": BOXES, "category": [0, 1]}
LISTED = [{"bbox": box, "label": label} for label, box in enumerate(BOXES)]
LAYOUTS = {
    "lists in objects": ({"objects": LISTS}, {"objects": {"category": List(NAMES)}}),
    "sequence of objects": ({"objects": LISTS}, {"objects": List({"bbox": 0, "category": NAMES})}),
    "list of objects": ({"annotations": LISTED}, {"annotations": [{"bbox": 0, "label": NAMES}]}),
    "columns": ({"bboxes": BOXES, "labels": [0, 1]}, {"bboxes": 0, "labels": List(NAMES)}),
    "texts": ({"objects": LISTS | {"category": ["cat", "dog"]}}, {"objects": {"category": List(None)}}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    row, features = LAYOUTS[layout]
    data = open_data(Rows([{"image": picture(), "image_id": 5, **row}], {"image": None, **features}))
    assert (data.class_names, data.problems, data.records[0].image_id) == (("cat", "dog"), (), 5)
    assert data[0].truth.boxes.tolist() == [list(FIRST), list(SECOND)]
    assert data[0].truth.names == ["cat", "dog"]
    assert data[0].image[0, 0].tolist() == [9, 8, 7]


def test_classes_without_names_and_images_without_objects() -> None:
    empty = {"bbox": [], "category": []}
    rows = [
        {"image": picture(), "objects": {"bbox": BOXES, "category": [0, 3]}},
        {"image": picture(), "objects": empty},
    ]
    features = {"image": None, "objects": {"category": List(None)}}
    data = open_data(Rows(rows, features))
    assert data.class_names == ("0", "1", "2", "3")
    assert [len(r.truth) for r in data.records] == [2, 0]
    named = open_data(Rows(rows, features), class_names=list("abcd"))
    assert named[0].truth.names == ["a", "d"]
    with pytest.raises(ValueError, match="row 0: an object has the category 3; expected a, b"):
        open_data(Rows(rows, features), class_names=["a", "b"])


def test_outlines_and_crowds() -> None:
    x1, y1, x2, y2 = FIRST
    square = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    objects = {"bbox": BOXES[:1], "category": [0], "segmentation": [square], "iscrowd": [1]}
    data = open_data(
        Rows([{"image": picture(), "objects": objects}], {"image": None, "objects": {"category": NAMES}})
    )
    assert areas(data) == [224]
    assert data[0].truth.crowd.tolist() == [True]


def test_corners_called_sides_are_suspected() -> None:
    objects = {"bbox": [list(FIRST), list(SECOND)], "category": [0, 1]}
    data = open_data(Rows([{"image": picture(), "objects": objects}], {"image": None, "objects": {}}))
    assert "As x1, y1, x2, y2 they would fit" in data.problems[0].advice


def test_what_is_refused() -> None:
    rows = Rows(
        [{"image": picture(), "objects": {"bbox": BOXES, "category": [0]}}], {"image": None, "objects": {}}
    )
    with pytest.raises(ValueError, match="row 0: 1 categories, but 2 boxes"):
        open_data(rows)
    with pytest.raises(ValueError, match=r"it has the splits train, test; pass one, items\['train'\]"):
        open_data({"train": rows, "test": rows})
    with pytest.raises(ValueError, match="no column has images; found path"):
        open_data(Rows([{"path": "a.png"}], {"path": None}))
    with pytest.raises(ValueError, match=r"no column has boxes \(bbox, bboxes, boxes\).*found image, x"):
        open_data(Rows([{"image": picture(), "x": 1}], {"image": None, "x": None}))
    with pytest.raises(ValueError, match="it has no rows"):
        open_data(Rows([], {"image": None}))
    wrong = {"bbox": [[1, 2, 3]], "category": [0]}
    with pytest.raises(ValueError, match=r"expected boxes with four numbers; their shape is \[1, 3\]"):
        open_data(Rows([{"image": picture(), "objects": wrong}], {"image": None, "objects": {}}))


def test_the_library_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    picture().save(tmp_path / "a.png")
    content = {"image": [str(tmp_path / "a.png")], "objects": [{"bbox": BOXES, "category": [0, 1]}]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
                "category": datasets.Sequence(datasets.ClassLabel(names=NAMES.names)),
            },
        }
    )
    data = open_data(datasets.Dataset.from_dict(content, features=features))
    assert data[0].truth.boxes.tolist() == [list(FIRST), list(SECOND)]
    assert np.array_equal(data[0].truth.labels, [0, 1])
    assert data.class_names == ("cat", "dog")
