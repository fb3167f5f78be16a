"""DOTA: turned boxes in text files, with and without header and difficulty, and malformed lines."""

from pathlib import Path

import numpy as np
import pytest

from annotated_images import areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data

SHIP = "20 10 50 30 46 36 16 16 ship 0"


@pytest.mark.parametrize("folder", ["labelTxt", "labelTxt-v1.5", "annfiles", ""])
def test_turned_boxes(tmp_path: Path, folder: str) -> None:
    image(tmp_path / ("images" if folder else ""), "P1.png", "P2.png", "P3.png")
    header = "imagesource:GoogleEarth\ngsd:0.15\n"
    put(tmp_path / folder, "P1.txt", f"{header}{SHIP}\n1.5,2.0,9.5,2.0,9.5,8.0,1.5,8.0,small vehicle,1\n")
    put(tmp_path / folder, "P2.txt", header)
    data = open_data(tmp_path)
    assert data.format == "dota"
    assert boxes(data) == {
        "P1.png": [("ship", (16, 10, 50, 36)), ("small vehicle", (1.5, 2, 9.5, 8))],
        "P2.png": [],
    }
    assert data[0].truth.difficult.tolist() == [False, True]
    np.testing.assert_allclose(areas(data), [260, 48], atol=3)
    assert [p.what for p in data.problems] == ["1 images have no text file: P3.png."]


def test_lines_without_difficulty(tmp_path: Path) -> None:
    image(tmp_path / "images", "P1.png")
    put(tmp_path / "labelTxt", "P1.txt", "20 10 50 30 46 36 16 16 ship\n2e1 10 50 30 46 36 16 16 plane 2\n")
    data = open_data(tmp_path)
    assert data[0].truth.names == ["ship", "plane"]
    assert data[0].truth.difficult.tolist() == [False, True]


@pytest.mark.parametrize(
    "line", ["20 10 50 30 46 36 16 ship 0", "20 10 50 30 46 36 16 16", "x", f"{10**9} " + SHIP[3:]]
)
def test_malformed_lines_are_named(tmp_path: Path, line: str) -> None:
    image(tmp_path / "images", "P1.png")
    put(tmp_path / "labelTxt", "P1.txt", f"{SHIP}\n{line}\n")
    put(tmp_path / "labelTxt", "P9.txt", SHIP)
    found = errors(open_data(tmp_path))
    assert len(found) == 2
    assert "P1.png, annotation P1.txt, line 2: Expected eight numbers, a class" in found[0]
    assert "1 of 2 images are missing: P9" in found[1]


def test_text_files_of_yolo_are_not_taken(tmp_path: Path) -> None:
    image(tmp_path / "images", "a.png")
    put(tmp_path / "labels", "a.txt", "0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n")
    put(tmp_path / "labels", "classes.txt", "x\n")
    assert open_data(tmp_path).format == "yolo"
