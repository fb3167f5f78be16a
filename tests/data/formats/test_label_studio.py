"""Label Studio's JSON: every kind of region, names of files, both exports, and malformed tasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import FIRST, HEIGHT, WIDTH, areas, boxes, errors, image, put
from rcnn.data.convert import convert
from rcnn.data.formats.brush_code import brush_alpha, brush_code
from rcnn.data.formats.open import open_data

SIZES = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def percent(*values: float) -> list[float]:
    return [100 * v / (WIDTH, HEIGHT)[i % 2] for i, v in enumerate(values)]


def rectangle(box: tuple[float, ...] = FIRST, rotation: float = 0, label: str = "cat") -> dict[str, Any]:
    x1, y1, x2, y2 = box
    value = dict(zip(("x", "y", "width", "height"), percent(x1, y1, x2 - x1, y2 - y1), strict=True))
    value |= {"rotation": rotation, "rectanglelabels": [label]}
    return {"id": f"r{box}{label}", "type": "rectanglelabels", "value": value, **SIZES}


def region(kind: str, **value: Any) -> dict[str, Any]:
    return {"id": kind, "type": f"{kind}labels", "value": {f"{kind}labels": ["cat"], **value}, **SIZES}


def task(address: str, *results: Any, **more: Any) -> dict[str, Any]:
    annotations = more.pop("annotations", [{"id": 1, "was_cancelled": False, "result": list(results)}])
    return {"id": 7, "data": {"image": address}, "annotations": annotations, **more}


@pytest.mark.parametrize(
    "address",
    [
        "a.jpg", "/data/upload/1/90fbb0c7-a.jpg", "/data/local-files/?d=photos%2Fa.jpg", "s3://bucket/x/a.jpg",
        "https://example.org/x/a.jpg?token=1", "/data/local-files/?d=C:\\photos\\a.jpg",
    ],
)  # fmt: skip
def test_images_by_their_address(tmp_path: Path, address: str) -> None:
    image(tmp_path, "images/a.jpg")
    file = put(tmp_path, "project-1.json", [task(address, rectangle())])
    data = open_data(tmp_path)
    assert (data.format, boxes(data), data.problems) == ("label studio", {"a.jpg": [("cat", FIRST)]}, ())
    assert boxes(open_data(file)) == boxes(data)


def test_a_name_that_only_looks_coded_is_taken_as_it_is(tmp_path: Path) -> None:
    image(tmp_path, "90fbb0c7-a.jpg", "a.jpg")
    put(tmp_path, "x.json", [task("/data/upload/1/90fbb0c7-a.jpg", rectangle())])
    assert open_data(tmp_path).records[0].path.name == "90fbb0c7-a.jpg"


def test_every_outline(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[30:40, 5:9] = mask[33, 20] = True
    points = [percent(40, 5), percent(50, 5), percent(50, 15), percent(40, 15)]
    x, y, a, b = percent(40, 32, 10, 5)
    results = [
        rectangle((20, 20, 30, 24), rotation=90),
        region("polygon", points=points),
        region("ellipse", x=x, y=y, radiusX=a, radiusY=b, rotation=0),
        region("brush", format="rle", rle=brush_code(mask)),
    ]
    put(tmp_path, "x.json", [task("a.png", *results)])
    data = open_data(tmp_path)
    assert data.problems == ()
    # A quarter turn, clockwise, around the upper left corner 20 20.
    expected = [(16, 20, 20, 30), (40, 5, 50, 15), (30, 27, 50, 37), (5, 30, 21, 40)]
    np.testing.assert_allclose(data[0].truth.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(areas(data), [40, 100, np.pi * 50, 41], rtol=0.07)
    assert np.array_equal(data[0].truth.masks[3], mask)


@pytest.mark.parametrize("seed", range(3))
def test_brush_codes_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((90, 400)) < rng.choice([0.0, 0.001, 0.5, 1.0])
    assert np.array_equal(brush_alpha(brush_code(mask), mask.shape) > 0, mask)


def test_brush_codes_of_single_values_and_their_faults() -> None:
    """By hand: 8 values, words of 8 bits, counts of 3 bits; a run of 4 zeros, then 1 2 3 9 one by one."""
    bits = f"{8:032b}{7:05b}" + f"{2:04b}" * 4 + "100" + f"{3:03b}" + f"{0:08b}" + "000" + f"{3:03b}"
    bits += "".join(f"{v:08b}" for v in (1, 2, 3, 9))
    code = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert brush_alpha(code, (1, 2)).tolist() == [[0, 9]]
    for broken, message in (
        (code[:6], "ends too early"),
        ([300], "expected bytes"),
        (["a"], "expected bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            brush_alpha(broken, (1, 2))
    with pytest.raises(ValueError, match="it has 2 pixels, its image 12"):
        brush_alpha(code, (3, 4))


def test_labels_as_results_of_their_own(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    shape = rectangle()
    del shape["value"]["rectanglelabels"]
    shape |= {"type": "rectangle", "id": "x"}
    labels = {"id": "x", "type": "labels", "value": {**shape["value"], "labels": ["dog"]}, **SIZES}
    put(
        tmp_path,
        "x.json",
        [task("a.png", shape, labels, {"type": "choices", "value": {"choices": ["good"]}})],
    )
    assert boxes(open_data(tmp_path)) == {"a.png": [("dog", FIRST)]}


def test_keypoints_of_a_region(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    x, y = percent(10, 8)
    parent = rectangle()
    nose = region("keypoint", x=x, y=y) | {"parentID": parent["id"]}
    nose["value"]["keypointlabels"] = ["nose"]
    put(tmp_path, "x.json", [task("a.png", nose, parent, region("keypoint", x=1, y=1))])
    data = open_data(tmp_path)
    assert data.skeleton.names == ("nose",)
    np.testing.assert_allclose(data[0].truth.keypoints, [[[10, 8, 2]]], rtol=1e-6)
    assert [p.what for p in data.problems] == ["1 key points without a parent region."]


def test_tasks_without_and_with_several_annotations(tmp_path: Path) -> None:
    image(tmp_path, *(f"{n}.png" for n in "abcde"))
    first, truth = {"result": [rectangle(label="x")]}, {"result": [rectangle()], "ground_truth": True}
    cancelled = {"result": [rectangle(label="y")], "was_cancelled": True}
    tasks = [
        task("a.png", annotations=[first, truth]),
        task("b.png", annotations=[]),
        task("c.png", annotations=[cancelled]),
        task("d.png"),
    ]
    put(tmp_path, "x.json", tasks)
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("cat", FIRST)], "d.png": []}
    assert [p.what for p in data.problems] == [
        "2 tasks are not annotated, for example task 7.",
        "1 tasks have several annotations, for example task 7.",
        "3 images have no task: b.png, c.png, e.png.",
    ]


def test_json_min(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png")
    flat = {**rectangle()["value"], **SIZES}
    common = {"annotator": 1, "annotation_id": 2, "created_at": "x"}
    put(
        tmp_path,
        "x.json",
        [{"image": "a.png", "id": 1, "label": [flat], **common}, {"image": "b.png", **common}],
    )
    assert boxes(open_data(tmp_path)) == {"a.png": [("cat", FIRST)], "b.png": []}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (rectangle() | {"image_rotation": 90}, "The image was turned in Label Studio"),
        (region("rectangle", x=1, y=2), "Expected the numbers x, y, width, height"),
        (region("polygon", points=[[1, 2], [3, 4]]), "Expected at least three points"),
        (region("brush", rle="abc"), "Expected a run-length code rle"),
        (region("brush", rle=[1, 2]), "The brush strokes cannot be decoded (it ends too early)"),
        (region("ellipse", x=1, y=2, radiusX=None, radiusY=2), "Expected the numbers x, y, radiusX, radiusY"),
        (rectangle() | {"value": "x"}, "Expected a value with coordinates"),
        (region("polygon", points=[[1, 2]] * 3, polygonlabels=["a", "b"]), "The region has 2 labels"),
        (region("polygon", points=[[1, 2]] * 3, polygonlabels=[]), "The region has 0 labels"),
        (rectangle(rotation=None) | {"original_width": 32}, "its annotation 32 by 48"),
    ],
)
def test_malformed_regions_are_named(tmp_path: Path, result: Any, message: str) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.json", [task("a.png", result)])
    found = errors(open_data(tmp_path))
    assert len(found) == 1
    assert message in found[0]


def test_malformed_tasks_are_named(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.json", [task("a.png", rectangle()), {"data": {}, "annotations": []}, 3, task("a.png")])
    found = errors(open_data(tmp_path))
    assert len(found) == 3
    assert "Expected a task with the address of an image" in found[0]
    assert "annotated twice" not in "".join(found[:2])


def test_keypoints_come_back(tmp_path: Path) -> None:
    image(tmp_path / "in", "a.png")
    parent = rectangle()
    points = []
    for name, place in (("left_eye", (10, 8)), ("nose", (12.5, 9.25))):
        x, y = percent(*place)
        point = region("keypoint", x=x, y=y) | {"parentID": parent["id"], "id": name}
        point["value"]["keypointlabels"] = [name]
        points.append(point)
    put(tmp_path / "in", "x.json", [task("a.png", parent, *points)])
    source = open_data(tmp_path / "in")
    convert(source, tmp_path / "out", to="label-studio")
    back = open_data(tmp_path / "out")
    assert back.skeleton == source.skeleton
    np.testing.assert_allclose(back[0].truth.keypoints, source[0].truth.keypoints, rtol=1e-6)
    assert json.loads((tmp_path / "out" / "label_studio.json").read_text())[0]["data"]["image"].endswith(
        "a.png"
    )
