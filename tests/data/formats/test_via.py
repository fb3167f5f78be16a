"""VIA 1, 2 and 3: every shape, class attributes of every kind, tables, and what is malformed."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import FIRST, SECOND, areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data


def rect(box: tuple[int, int, int, int] = FIRST, **attributes: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {"shape_attributes": shape, "region_attributes": attributes}


def polygon(xs: list[float], ys: list[float], name: str = "polygon", **attributes: Any) -> dict[str, Any]:
    shape = {"name": name, "all_points_x": xs, "all_points_y": ys}
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, regions: Any) -> dict[str, Any]:
    return {"filename": name, "size": 9, "regions": regions, "file_attributes": {}}


SQUARE = ([8, 24, 24, 8], [6, 6, 20, 20])


@pytest.mark.parametrize("listed", [True, False], ids=["list", "object"])
@pytest.mark.parametrize("project", [True, False], ids=["project", "annotations"])
def test_regions_as_list_or_object(tmp_path: Path, listed: bool, project: bool) -> None:
    image(tmp_path, "a.jpg", "b.jpg")
    regions: Any = [polygon(*SQUARE), polygon([30, 40, 40, 30], [30, 30, 40, 40])]
    if not listed:
        regions = {str(i): region for i, region in enumerate(regions)}
    content: Any = {"a.jpg9": entry("a.jpg", regions), "b.jpg9": entry("b.jpg", [] if listed else {})}
    if project:
        content = {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}}
    put(tmp_path, "x.json", content)
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.problems) == ("via", ("object",), ())
    found = boxes(data)
    assert found == {"a.jpg": [("object", FIRST), ("object", (30, 30, 40, 40))], "b.jpg": []}
    assert areas(data) == [16 * 14, 100]
    assert boxes(open_data(tmp_path / "x.json")) == found


def test_every_shape(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    regions = [
        polygon(*SQUARE),
        polygon([40, 50, 50, 40, 40], [5, 5, 15, 15, 5], "polyline"),
        {"shape_attributes": {"name": "circle", "cx": 20, "cy": 34, "r": 10}},
        {"shape_attributes": {"name": "ellipse", "cx": 48, "cy": 32, "rx": 12, "ry": 6, "theta": np.pi / 2}},
        {"shape_attributes": {"name": "point", "cx": 1, "cy": 1}},
    ]
    put(tmp_path, "x.json", {"a.png9": entry("a.png", regions)})
    data = open_data(tmp_path)
    assert [p.what for p in data.problems] == ["1 polylines.", "1 points."]
    expected = [FIRST, (40, 5, 50, 15), (10, 24, 30, 44), (42, 20, 54, 44)]
    np.testing.assert_allclose(data[0].truth.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(areas(data), [224, 100, np.pi * 100, np.pi * 72], rtol=0.04)


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ([{"class": "cat"}, {"class": "dog"}], ["cat", "dog"]),
        ([{"kind of thing": "cat"}, {"kind of thing": " dog "}], ["cat", "dog"]),
        ([{"x": {"cat": True}}, {"x": {"cat": False, "dog": True}}], ["cat", "dog"]),
        ([{"id": "7", "type": "cat"}, {"id": "8", "type": "dog"}], ["cat", "dog"]),
        ([{"class": ""}, {"class": ""}], ["object", "object"]),
        ([{"class": 3}, {"class": 4}], ["3", "4"]),
    ],
    ids=["text", "any name", "checkbox", "several", "empty", "numbers"],
)
def test_the_class_attribute(tmp_path: Path, attributes: Any, names: list[str]) -> None:
    image(tmp_path, "a.png")
    regions = [rect(box, **given) for box, given in zip((FIRST, SECOND), attributes, strict=True)]
    put(tmp_path, "x.json", {"a.png9": entry("a.png", regions)})
    data = open_data(tmp_path)
    assert data[0].truth.names == names
    assert not errors(data)
    assert any("type is read as the class" in p.advice for p in data.problems) == ("id" in attributes[0])


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (polygon([1, 2], [3, 4], c="x"), "A polygon has 2 points; expected at least 3"),
        (polygon([1, 2, 3], [3, 4], c="x"), "two lists of equal length"),
        (
            {"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {"c": "x"}},
            "Expected numbers x,",
        ),
        ({"shape_attributes": {"name": "spiral"}, "region_attributes": {"c": "x"}}, "'spiral' is not known"),
        ({"region_attributes": {"c": "x"}}, "None is not known"),
        (rect(), "no value of the attribute c"),
        (rect(c={"x": True, "y": True}), "2 values of the attribute c"),
        (rect((24, 6, 8, 20), c="x"), "negative width or height"),
    ],
)
def test_malformed_regions_are_named(tmp_path: Path, region: Any, message: str) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.json", {"a.png9": entry("a.png", [rect(c="x"), region])})
    data = open_data(tmp_path)
    assert len(data[0].truth) == 1
    assert len(found := errors(data)) == 1
    assert message in found[0]
    assert "a.png, annotation a.png, region 1: " in found[0]


def test_missing_images_are_one_error(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "z.png")
    put(tmp_path, "x.json", {n: entry(n, [rect()]) for n in ("a.png", "b.png", "c.png")})
    data = open_data(tmp_path)
    assert len(data) == 1
    assert [p.what for p in data.problems] == [
        "1 images are not annotated: z.png.",
        f"2 of 3 images are missing: b.png, c.png; searched {tmp_path}.",
    ]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"none of its 3 images was found, for example a\.png.*--images"):
        open_data(tmp_path)


def test_an_image_annotated_twice(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.json", {"a.png1": entry("a.png", [rect()]), "a.png2": entry("a.png", [rect(SECOND)])})
    data = open_data(tmp_path)
    assert "annotated twice, in a.png1 and a.png2" in errors(data)[0]
    assert len(data[0].truth) == 1


def table(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


@pytest.mark.parametrize("mark", ["#", ""], ids=["VIA 1", "VIA 2"])
def test_csv(tmp_path: Path, mark: str) -> None:
    image(tmp_path, "a.png", "b.png")
    header = (
        f"{mark}filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,"
        "region_attributes"
    )
    rows = [
        ["a.png", 1, "{}", 2, i, json.dumps(r["shape_attributes"]), json.dumps({"class": "cat"})]
        for i, r in enumerate((rect(), polygon(*SQUARE)))
    ]
    put(tmp_path, "via.csv", header + "\n" + table([*rows, ["b.png", 1, "{}", 0, 0, "{}", "{}"]]))
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("cat", FIRST)] * 2, "b.png": []}
    put(tmp_path, "via.csv", header + "\n" + table([["a.png", 1, "{}", 2, 0, "{broken", "{}"]]))
    with pytest.raises(ValueError, match=r"via\.csv, line 2: expected JSON in the cell"):
        open_data(tmp_path)


PROJECT = {
    "project": {"pid": "__VIA_PROJECT_ID__", "vid_list": ["1", "2"]},
    "config": {},
    "attribute": {"1": {"aname": "class", "type": 4, "options": {"0": "cat", "1": "dog"}}},
    "file": {
        "1": {"fid": 1, "fname": "a.png", "type": 2, "src": "a.png"},
        "2": {"fid": 2, "fname": "b.png", "type": 2, "src": "b.png"},
    },
    "view": {"1": {"fid_list": [1]}, "2": {"fid_list": [2]}},
    "metadata": {
        "1_x": {"vid": "1", "z": [], "xy": [2, 8, 6, 16, 14], "av": {"1": "0"}},
        "1_y": {"vid": "1", "z": [], "xy": [7, 34, 22, 56, 22, 56, 42, 34, 42], "av": {"1": "1"}},
        "1_z": {"vid": "1", "z": [], "xy": [3, 20, 34, 10], "av": {"1": "1"}},
    },
}


def test_version_3(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png")
    put(tmp_path, "p.json", PROJECT)
    data = open_data(tmp_path)
    assert data[0].truth.names == ["cat", "dog", "dog"]
    np.testing.assert_allclose(data[0].truth.boxes, [FIRST, SECOND, (10, 24, 30, 44)], atol=1e-4)
    assert len(data) == 2


def test_version_3_csv(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png")
    attributes = json.dumps(PROJECT["attribute"])
    header = (
        "# Exported using VGG Image Annotator\n# SHAPE_ID = {}\n"
        f"# ATTRIBUTE = {attributes}\n"
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    )
    rows = [
        [key, '["a.png"]', 0, "[]", json.dumps(value["xy"]), json.dumps(value["av"])]
        for key, value in PROJECT["metadata"].items()
    ]
    put(tmp_path, "p.csv", header + table(rows))
    data = open_data(tmp_path)
    assert data[0].truth.names == ["cat", "dog", "dog"]
    np.testing.assert_allclose(data[0].truth.boxes, [FIRST, SECOND, (10, 24, 30, 44)], atol=1e-4)


def test_images_elsewhere_and_paths_of_another_machine(tmp_path: Path) -> None:
    image(tmp_path / "far", "ü a.png")
    file = put(tmp_path / "here", "x.json", {"k": entry("C:\\Users\\me\\%C3%BC a.PNG", [rect()])})
    with pytest.raises(ValueError, match="none of its 1 images was found"):
        open_data(file)
    assert len(open_data(file, tmp_path / "far")[0].truth) == 1
    with pytest.raises(ValueError, match="there is no such image folder"):
        open_data(file, tmp_path / "nowhere")
