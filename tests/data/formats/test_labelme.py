"""LabelMe: every kind of shape, groups, keypoints, and malformed files."""

import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from rcnn.data.formats.open import open_data


def shape(kind: str, *points: tuple[float, float], label: str = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind, "group_id": None, **more}


def add(folder: Path, *shapes: Any, stem: str = "a", **more: Any) -> Path:
    Image.new("RGB", (40, 30), (len(stem), 5, 5)).save(folder / f"{stem}.jpg")
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{stem}.jpg",
        "imageData": None,
        "imageHeight": 30,
        "imageWidth": 40,
    }
    file = folder / f"{stem}.json"
    file.write_text(json.dumps(content | more), "utf-8")
    return file


SQUARE = shape("polygon", (2, 3), (12, 3), (12, 13), (2, 13))


def test_files_renamed_in_pairs_keep_their_images(tmp_path: Path) -> None:
    add(tmp_path, SQUARE, stem="1", imagePath="2.jpg")
    add(tmp_path, stem="2", imagePath="3.jpg")
    data = open_data(tmp_path)
    assert [(r.image_id, r.path.name, len(r.truth)) for r in data.records] == [
        ("1", "1.jpg", 1),
        ("2", "2.jpg", 0),
    ]
    assert ["its imagePath is" in p.what for p in data.problems] == [True]


def test_outlines_of_every_kind(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8) * 255).save(buffer, "PNG")
    mask = shape("mask", (30, 20), (31, 21), label="ant", mask=base64.b64encode(buffer.getvalue()).decode())
    rectangle = shape("rectangle", (30, 15), (20, 5), label="dog")
    add(tmp_path, SQUARE, rectangle, shape("circle", (20, 15), (20, 20)), mask)
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.problems) == ("labelme", ("ant", "cat", "dog"), ())
    truth = pickle.loads(pickle.dumps(data))[0].truth
    assert truth.names == ["cat", "dog", "cat", "ant"]
    assert_allclose(
        truth.boxes,
        np.array([[2.0, 3, 12, 13], [20.0, 5, 30, 15], [15.0, 10, 25, 20], [30.0, 20, 32, 22]]),
    )
    areas = truth.masks.areas().tolist()
    assert areas[:2] == [100, 100]
    assert areas[2] == pytest.approx(np.pi * 25, rel=0.1)
    assert areas[3] == 3


def test_groups_are_one_object_and_points_its_keypoints(tmp_path: Path) -> None:
    add(
        tmp_path,
        shape("rectangle", (0, 0), (4, 4), group_id=1),
        shape("rectangle", (10, 10), (14, 14), group_id=1),
        shape("rectangle", (20, 10), (24, 14), group_id=2),
        shape("point", (1, 2), label="left_eye", group_id=1),
        shape("point", (3, 2), label="right_eye", group_id=1),
        shape("point", (9, 9), label="left_eye"),
        shape("linestrip", (1, 1), (2, 2)),
    )
    data = open_data(tmp_path)
    truth = data[0].truth
    assert truth.boxes.tolist() == [[0, 0, 14, 14], [20, 10, 24, 14]]
    assert truth.masks.areas().tolist() == [32, 16]
    assert data.skeleton.names == ("left_eye", "right_eye")
    assert data.skeleton.mirror == (1, 0)
    assert truth.keypoints.tolist() == [[[1, 2, 2], [3, 2, 2]], [[0, 0, 0], [0, 0, 0]]]
    assert [(p.severity, p.what) for p in data.problems] == [
        ("warning", "1 shapes of the type linestrip."),
        ("warning", "1 shapes of the type point without an object of their group_id."),
    ]


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (shape("polygon", (1, 1), (2, 2)), "A polygon has 2 points; expected 3"),
        (shape("rectangle", (1, 1)), "A rectangle has 1 points"),
        (shape("polygon", (1, 1), (2, 2), (3, float("nan"))), "pairs of numbers"),
        ({"points": [[1, 2]]}, "needs a text as label"),
        (shape("mask", (1, 1), (2, 2), mask="no base64!"), "cannot be decoded"),
        (shape("rectangle", (50, 1), (60, 5)), "outside the image of 40 by 30"),
        ("polygon", "needs a text as label"),
    ],
)
def test_faults_of_one_shape(tmp_path: Path, bad: Any, what: str) -> None:
    add(tmp_path, SQUARE, bad)
    data = open_data(tmp_path)
    [problem] = data.problems
    assert what in problem.what
    assert (problem.file, problem.annotation) == (tmp_path / "a.jpg", "a.json, shapes[1]")
    assert problem.severity == "error"
    assert len(data[0].truth) == 1


def test_faults_of_files(tmp_path: Path) -> None:
    add(tmp_path, SQUARE)
    add(tmp_path, SQUARE, stem="bb", imagePath="C:\\x\\a.jpg").with_suffix(".jpg").unlink()
    add(tmp_path, SQUARE, stem="ccc", imageWidth=20)
    add(tmp_path, SQUARE, SQUARE, stem="dddd")
    add(tmp_path, SQUARE, stem="e", imageData="eA==").with_suffix(".jpg").unlink()
    (tmp_path / "f.json").write_text("{")
    problems = {(p.annotation or p.file.name): p.what for p in open_data(tmp_path).problems}
    assert "annotated twice, in a.json and bb.json" in problems["bb.json"]
    assert "its annotation 20 by 30" in problems["ccc.jpg"]
    assert "identical to shapes[0]" in problems["dddd.json, shapes[1]"]
    assert "Its imageData cannot be decoded" in problems["e.json"]
    assert "not JSON" in problems["f.json"]


def test_an_image_without_objects(tmp_path: Path) -> None:
    add(tmp_path)
    add(tmp_path, SQUARE, stem="bb")
    data = open_data(tmp_path)
    assert data.problems == ()
    assert [len(data[i].truth) for i in (0, 1)] == [0, 1]


def test_images_without_file_and_files_below(tmp_path: Path) -> None:
    add(tmp_path, SQUARE)
    add(tmp_path, SQUARE, stem="b").unlink()
    (tmp_path / "more").mkdir()
    add(tmp_path / "more", SQUARE)
    (tmp_path / "._a.json").write_bytes(b"\x00\x05")
    dataset = open_data(tmp_path)
    said = [p.what for p in dataset.problems]
    assert said[0] == "1 images have no JSON file: b.jpg."
    assert said[1].startswith("1 files are in subfolders")
    assert {p.severity for p in dataset.problems} == {"warning"}


def test_images_inside_the_files(tmp_path: Path) -> None:
    file = add(tmp_path, SQUARE)
    add(tmp_path, SQUARE, stem="bb")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = json.loads(file.read_text()) | {"imageData": base64.b64encode(buffer.getvalue()).decode()}
    file.write_text(json.dumps(content))
    assert not np.array_equal(open_data(tmp_path)[0].image, pixels)  # a file next to it counts
    file.with_suffix(".jpg").unlink()
    data = pickle.loads(pickle.dumps(open_data(tmp_path)))
    assert data.problems == ()
    assert np.array_equal(data[0].image, pixels)
    assert [len(r.truth) for r in data.records] == [1, 1]
    assert data[0].truth.masks.areas().tolist() == [100]


def test_files_that_name_themselves_as_image(tmp_path: Path) -> None:
    add(tmp_path, SQUARE, imagePath="a.json")
    data = open_data(tmp_path)
    assert [r.path.name for r in data.records] == ["a.jpg"]


CORNERS = ((2.0, 3.0), (12.0, 3.0), (12.0, 13.0), (2.0, 13.0))
BOX = [2, 3, 12, 13]


@pytest.mark.parametrize(
    "path", ["a.json", "D:\\photos\\a.jpg", "/home/me/a.jpg", "../elsewhere/a.jpg", "", "somewhere"]
)
def test_image_paths_of_other_machines_or_of_the_file_itself(tmp_path: Path, path: str) -> None:
    add(tmp_path, SQUARE, imagePath=path)
    data = open_data(tmp_path)
    assert data.problems == ()
    assert (data.records[0].path, data[0].truth.boxes.tolist()) == (tmp_path / "a.jpg", [BOX])


def test_reserved_labels_are_no_objects(tmp_path: Path) -> None:
    reserved = [shape("polygon", *CORNERS, label=label) for label in ("__ignore__", "_background_")]
    add(tmp_path, SQUARE, *reserved)
    data = open_data(tmp_path)
    assert (data.class_names, len(data[0].truth)) == (("cat",), 1)
    [problem] = data.problems
    assert "__ignore__ (1), _background_ (1)" in problem.what


def test_rectangles_alone_are_boxes(tmp_path: Path) -> None:
    add(tmp_path, shape("rectangle", (12, 13), (2, 3)), shape("rectangle", *CORNERS))
    add(tmp_path, shape("rectangle", (2, 3), (12, 13)), stem="bb")
    data = open_data(tmp_path)
    assert not data.has_masks
    assert data[1].truth.boxes.tolist() == [BOX]
    add(tmp_path, SQUARE, stem="bb")
    assert open_data(tmp_path).has_masks


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle"])
@pytest.mark.parametrize("count", [3, 4])
def test_turned_rectangles_are_outlines(tmp_path: Path, kind: str, count: int) -> None:
    corners = [(10.0, 2.0), (18.0, 8.0), (12.0, 16.0), (4.0, 10.0)]  # a square of side 10
    add(tmp_path, SQUARE, shape(kind, *corners[:count]))
    data = open_data(tmp_path)
    assert (data.problems, data[0].truth.boxes.tolist()) == ((), [BOX, [4, 2, 18, 16]])
    assert data[0].truth.masks.areas()[1] == pytest.approx(100, abs=8)


def test_shapes_of_unknown_types_are_errors(tmp_path: Path) -> None:
    add(tmp_path, SQUARE, shape("cuboid", *CORNERS))
    [problem] = open_data(tmp_path).problems
    assert (problem.severity, "type cuboid is not known" in problem.what) == ("error", True)


def test_labels_are_texts_without_spaces_around(tmp_path: Path) -> None:
    labels = [1, "cat", " cat ", "Cat", "cat"]
    moved = [[(x + 2 * i, y) for x, y in CORNERS] for i in range(len(labels))]
    pairs = zip(moved, labels, strict=True)
    add(tmp_path, *({**shape("polygon", *points), "label": label} for points, label in pairs))
    data = open_data(tmp_path)
    assert data[0].truth.names == ["1", "cat", "cat", "cat", "cat"]
    [problem] = data.problems
    assert "cat (3), Cat (1)" in problem.what


@pytest.mark.parametrize("annotations", ["annotations", "labels/first", "json"])
def test_two_folders(tmp_path: Path, annotations: str) -> None:
    file = add(tmp_path, SQUARE, imagePath="..\\images\\a.jpg")
    for old, folder in ((file, annotations), (file.with_suffix(".jpg"), "images")):
        (tmp_path / folder).mkdir(parents=True)
        old.rename(tmp_path / folder / old.name)
    data = open_data(tmp_path)
    assert (data.format, data.problems, data[0].truth.boxes.tolist()) == ("labelme", (), [BOX])
    (tmp_path / "images").rename(tmp_path / "photographs")
    data = open_data(tmp_path / annotations, tmp_path / "photographs")
    assert (data.problems, data[0].truth.boxes.tolist()) == ((), [BOX])


def test_the_window_of_a_mask_is_tight(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[2:4, 3:7] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    add(tmp_path, shape("mask", (10, 20), (18, 26), mask=base64.b64encode(buffer.getvalue()).decode()))
    data = open_data(tmp_path)
    assert data[0].truth.boxes.tolist() == [[13, 22, 17, 24]]
    assert data[0].truth.masks.areas().tolist() == [8]
