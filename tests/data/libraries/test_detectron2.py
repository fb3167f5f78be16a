"""Detectron2's list of dictionaries: every kind of box, outlines, keypoints, and malformed items."""

from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, areas, boxes, errors, image
from objects import filled
from rcnn.data.formats.open import open_data


class BoxMode(IntEnum):
    """As in Detectron2."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYXY_REL = 2
    XYWH_REL = 3
    XYWHA_ABS = 4


X1, Y1, X2, Y2 = FIRST


def item(folder: Path, *annotations: Any, name: str = "a.png", **more: Any) -> dict[str, Any]:
    image(folder, name)
    sizes = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": str(folder / name), "image_id": 7, **sizes, "annotations": list(annotations)} | more


def thing(bbox: Any = FIRST, mode: Any = BoxMode.XYXY_ABS, label: Any = 0, **more: Any) -> dict[str, Any]:
    return {"bbox": list(bbox), "bbox_mode": mode, "category_id": label, **more}


def test_every_kind_of_box(tmp_path: Path) -> None:
    scale = np.array([WIDTH, HEIGHT] * 2)
    sides = (X1, Y1, X2 - X1, Y2 - Y1)
    annotations = [
        thing(),
        thing(sides, BoxMode.XYWH_ABS, 1),
        thing(np.array(FIRST) / scale, BoxMode.XYXY_REL),
        thing(np.array(sides) / scale, BoxMode.XYWH_REL, iscrowd=1),
    ]
    data = open_data([item(tmp_path, *annotations)], class_names=["cat", "dog"])
    assert boxes(data) == {"a.png": [("cat", FIRST), ("dog", FIRST), ("cat", FIRST), ("cat", FIRST)]}
    assert data[0].truth.crowd.tolist() == [False, False, False, True]
    assert (data.records[0].image_id, data.format) == (7, "Python object")


def test_turned_boxes_are_outlines(tmp_path: Path) -> None:
    data = open_data([item(tmp_path, thing((20, 20, 10, 4, 90), BoxMode.XYWHA_ABS))])
    np.testing.assert_allclose(data[0].truth.boxes, [[18, 15, 22, 25]], atol=1e-4)
    assert areas(data) == [40]
    # Counterclockwise: the right end goes up.
    data = open_data([item(tmp_path, thing((20, 20, 20, 2, 30), BoxMode.XYWHA_ABS))])
    assert data[0].truth.masks[0][15, 28]
    assert not data[0].truth.masks[0][24, 28]


def test_outlines_and_keypoints(tmp_path: Path) -> None:
    code = filled([SECOND], (HEIGHT, WIDTH)).rle()[0]
    coded = {"size": code["size"], "counts": code["counts"].encode()}
    square = [X1, Y1, X2, Y1, X2, Y2, X1, Y2]
    points = [10.5, 8.5, 2, 0, 0, 0]
    annotations = [
        thing(segmentation=[square], keypoints=points),
        thing(SECOND, segmentation=coded, keypoints=points),
    ]
    data = open_data([item(tmp_path, *annotations)])
    assert areas(data) == [224, 440]
    assert data[0].truth.keypoints.tolist() == [[[10.5, 8.5, 2], [0, 0, 0]]] * 2
    assert data.class_names == ("0",)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (thing(mode=None), "Expected bbox_mode, one of 0 to 4; found None"),
        (thing(label=-1), "Expected an integer category_id from 0; found -1"),
        (thing(label="cat"), "Expected an integer category_id from 0; found 'cat'"),
        (thing((1, 2, 3)), "Expected 4 numbers as bbox"),
        (thing((1, 2, 3, "x")), "Expected numbers as bbox"),
        (thing((1, 2, 3, float("nan"))), "Expected 4 numbers as bbox"),
        (thing(segmentation=[[1, 2, 3]]), "A polygon has 3 values"),
        (thing(segmentation={"size": [1, 2], "counts": "x"}), "The mask has the size"),
        ("x", "Expected an integer category_id"),
    ],
)
def test_malformed_annotations_are_named(tmp_path: Path, annotation: Any, message: str) -> None:
    found = errors(open_data([item(tmp_path, thing(), annotation)]))
    assert len(found) == 1
    assert message in found[0]
    assert "a.png, annotation item 0, annotations[1]: " in found[0]


def test_other_faults(tmp_path: Path) -> None:
    good = item(tmp_path, thing(label=3))
    with pytest.raises(ValueError, match="category_id 3; expected 0 to 1, for 2 class names"):
        open_data([good], class_names=["a", "b"])
    with pytest.raises(ValueError, match="item 1: expected a dictionary with file_name"):
        open_data([good, 3, good])
    gone = item(tmp_path, name="b.png") | {"file_name": str(tmp_path / "absent.png")}
    found = "\n".join(errors(open_data([good, gone, good, item(tmp_path, name="c.png", height=9)])))
    for message in ("there is no such file", "annotated twice", "its annotation 64 by 9"):
        assert message in found
