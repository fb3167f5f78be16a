"""KITTI's label files: boxes, regions that do not count, and malformed lines."""

from pathlib import Path

import pytest

from annotated_images import boxes, errors, image, put
from rcnn.data.formats.open import open_data

CAR = "Car 0.00 0 -1.57 8 6 24 20 1.5 1.6 3.7 1.0 1.7 9.3 -1.6"


@pytest.mark.parametrize(
    ("labels", "images", "data"),
    [
        ("label_2", "image_2", "."),
        ("labels", "images", "."),
        ("label_2", "image_2", "label_2"),
        ("", "", "."),
    ],
)
def test_boxes(labels: str, images: str, data: str, tmp_path: Path) -> None:
    image(tmp_path / images, "000000.png", "000001.png", "000002.png")
    if images == "image_2":
        image(tmp_path / "image_3", "000000.png")
    person = CAR.replace("Car", "Person sitting").replace("8 6 24 20", "34.5 22.0 56.0 42.0")
    uncertain = "DontCare -1 -1 -10 5 5 9 9 -1 -1 -1 -1000 -1000 -1000 -10"
    put(tmp_path / labels, "000000.txt", f"{CAR}\n{person} 0.9\n{uncertain}\n")
    put(tmp_path / labels, "000001.txt", "")
    found = open_data(tmp_path / data)
    assert found.format == "kitti"
    assert found.class_names == ("Car", "Person sitting")
    assert boxes(found) == {
        "000000.png": [("Car", (8, 6, 24, 20)), ("Person sitting", (34.5, 22, 56, 42))],
        "000001.png": [],
    }
    assert found.records[0].path.parent == (tmp_path / images).resolve()
    assert sorted(p.what for p in found.problems) == [
        "1 DontCare regions, in which found objects will count as wrong.",
        "1 images have no text file: 000002.png.",
    ]


@pytest.mark.parametrize(
    "line", ["Car 0 0 0 8 6 24 20", "1 2 3", CAR.replace("24", "x"), CAR.replace("24", "1e9")]
)
def test_malformed_lines_are_named(line: str, tmp_path: Path) -> None:
    image(tmp_path / "image_2", "0.png")
    put(tmp_path / "label_2", "0.txt", f"{CAR}\n{line}\n")
    (error,) = errors(open_data(tmp_path))
    assert "annotation 0.txt, line 2: Expected a type and 14 numbers" in error


def test_missing_images_are_named(tmp_path: Path) -> None:
    put(tmp_path / "label_2", "0.txt", CAR)
    with pytest.raises(ValueError, match=r"none of its 1 images was found.*--images"):
        open_data(tmp_path)
