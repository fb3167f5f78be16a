"""Supervisely: figures of every kind, projects of several data sets, and malformed files."""

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated_images import FIRST, areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data

META = {"classes": [{"title": "dog", "shape": "any"}, {"title": "cat", "shape": "any"}], "tags": []}


def points(*exterior: list[float], holes: Any = ()) -> dict[str, Any]:
    return {"points": {"exterior": list(exterior), "interior": list(holes)}}


def figure(kind: str, **more: Any) -> dict[str, Any]:
    return {"classTitle": "cat", "geometryType": kind, "tags": [], **more}


RECTANGLE = figure("rectangle", **points([8, 6], [23, 19]))


def bitmap(inside: Any, origin: tuple[int, int] = (30, 20)) -> dict[str, Any]:
    pixels = np.array(inside, np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([pixels * 255] * 4, -1), "RGBA").save(file, "PNG")
    data = base64.b64encode(zlib.compress(file.getvalue())).decode()
    return figure("bitmap", bitmap={"data": data, "origin": list(origin)})


def part(folder: Path, *objects: Any, name: str = "a.jpg", **more: Any) -> Path:
    image(folder / "img", name)
    content = {"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": list(objects)}
    return put(folder / "ann", f"{name}.json", content | more)


def test_every_figure(tmp_path: Path) -> None:
    hole = [[14, 34], [17, 34], [17, 37], [14, 37]]
    objects = [
        figure("polygon", **points([10, 30], [19, 30], [19, 39], [10, 39], holes=[hole])),
        bitmap([[0, 1], [1, 1]]),
        figure("point", **points([1, 1])),
    ]
    part(tmp_path, *objects)
    data = open_data(tmp_path)
    assert (data.format, [p.what for p in data.problems]) == ("supervisely", ["1 figures of the type point."])
    # Drawn by pixel centres: 9 by 9 pixels around a hole of 3 by 3.
    assert areas(data)[1] == 3
    assert areas(data)[0] == pytest.approx(81 - 9, abs=12)
    assert data[0].truth.boxes[1].tolist() == [30, 20, 32, 22]
    assert not data[0].truth.masks[0][36, 16]


def test_rectangles_include_their_corners(tmp_path: Path) -> None:
    part(tmp_path, RECTANGLE, figure("rectangle", **points([40.5, 20.25], [30.5, 10])))
    part(tmp_path, name="b.jpg")
    data = open_data(tmp_path)
    assert boxes(data) == {"a.jpg": [("cat", FIRST), ("cat", (30.5, 10, 40.5, 20.25))], "b.jpg": []}


def test_graphs_are_keypoints(tmp_path: Path) -> None:
    nodes = {
        "x": {"label": "nose", "loc": [10, 10]},
        "tail": {"loc": [30, 20]},
        "y": {"loc": [1, 1], "disabled": True},
    }
    part(tmp_path, figure("graph", nodes=nodes))
    data = open_data(tmp_path)
    assert data.skeleton.names == ("nose", "tail")
    assert data[0].truth.keypoints.tolist() == [[[10.5, 10.5, 2], [30.5, 20.5, 2]]]
    assert data[0].truth.boxes.tolist() == [[10.5, 10.5, 30.5, 20.5]]


def test_projects(tmp_path: Path) -> None:
    put(tmp_path, "meta.json", META)
    part(tmp_path / "ds0", RECTANGLE)
    part(tmp_path / "ds1", RECTANGLE)
    data = open_data(tmp_path)
    assert data.class_names == ("dog", "cat")
    assert [r.path.parts[-3] for r in data.records] == ["ds0", "ds1"]
    assert len({r.image_id for r in data.records}) == 2
    assert open_data(tmp_path / "ds1").class_names == ("dog", "cat")
    (tmp_path / "ds0").rename(tmp_path / "train")
    with pytest.raises(
        ValueError, match=r"its data sets are splits; name one of these folders: ds1, train\."
    ):
        open_data(tmp_path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (figure("polygon", **points([1, 2], [3, 4])), "expected at least 3 points"),
        (figure("polygon"), "expected at least 3 points"),
        (figure("rectangle", points=7), "cannot be read"),
        (figure("bitmap", bitmap={"data": "AAAA", "origin": [0, 0]}), "The bitmap cannot be read"),
        (figure("bitmap", bitmap=None), "The bitmap cannot be read"),
        (figure("graph", nodes={}), "it has no points"),
        (RECTANGLE | {"classTitle": None}, "The object has no class"),
    ],
)
def test_malformed_figures_are_named(tmp_path: Path, found: Any, message: str) -> None:
    part(tmp_path, found)
    problems = errors(open_data(tmp_path))
    assert len(problems) == 1
    assert message in problems[0]
    assert "a.jpg, annotation a.jpg.json, object 0: " in problems[0]


def test_other_faults_are_named(tmp_path: Path) -> None:
    part(tmp_path, RECTANGLE)
    part(tmp_path, RECTANGLE, name="b.jpg", size={"height": 64, "width": 48})
    put(tmp_path / "ann", "c.jpg.json", '{"objects"')
    put(tmp_path / "ann", "d.jpg.json", {"x": 1})
    put(tmp_path / "ann", "e.jpg.json", {"objects": []})
    found = "\n".join(errors(open_data(tmp_path)))
    for message in (
        "This is not JSON",
        "its annotation 48 by 64",
        "Expected a list of objects",
        "1 of 3 images",
    ):
        assert message.casefold() in found.casefold()
