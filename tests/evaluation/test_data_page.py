"""The page about a data set: suspicious objects are found, others are not, and the page shows them."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from annotated_images import image, put
from rcnn.cli import app
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats.open import open_data
from rcnn.evaluation.data_charts import MAX_LINES, busiest, histogram, position_map, size_scatter
from rcnn.evaluation.data_page import data_stats
from rcnn.evaluation.suspects import Objects, Suspect, find_suspects
from rcnn.structures import Instances

SIDE = 400
Box = tuple[float, float, float, float]


def data(folder: Path, extra: dict[int, list[Box]], *, images: int = 6, crowd: bool = False) -> Dataset:
    """Images with nine objects of about 40 pixels each, and ``extra`` boxes on some of them."""
    names = [f"{i}.png" for i in range(images)]
    image(folder, *names, size=(SIDE, SIDE))
    rng = np.random.default_rng(0)
    annotations = []
    for i in range(images):
        spots = [(60 + 120 * column, 60 + 120 * row) for row in range(3) for column in range(3)]
        boxes = [(x, y, x + rng.uniform(36, 44), y + rng.uniform(36, 44)) for x, y in spots]
        for number, (x1, y1, x2, y2) in enumerate([*boxes, *extra.get(i, [])]):
            entry = {
                "id": len(annotations),
                "image_id": i,
                "category_id": 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            annotations.append({**entry, "iscrowd": int(crowd and number >= 9)})
    content = {
        "images": [{"id": i, "file_name": n, "width": SIDE, "height": SIDE} for i, n in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "<cell>"}],
    }
    return open_data(put(folder, "a.json", content))


def suspects(dataset: Dataset) -> list[Suspect]:
    return find_suspects(dataset, Objects.of(dataset))


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("tiny", (5, 5, 11, 11)),
        ("huge", (20, 20, 380, 380)),
        ("shape", (110, 10, 230, 24)),
        ("border", (0, 170, 3, 210)),
        ("border", (170, 395, 210, 400)),
    ],
)
def test_what_is_unusual(tmp_path: Path, kind: str, box: Box) -> None:
    (found,) = suspects(data(tmp_path, {2: [box]}))
    assert (found.kind, found.image, found.index) == (kind, 2, 9)
    assert found.reason.startswith("<cell>, ")


def test_an_object_drawn_twice(tmp_path: Path) -> None:
    dataset = data(tmp_path, {})
    x1, y1, x2, y2 = dataset.records[3].truth.boxes[4].tolist()
    (found,) = suspects(data(tmp_path, {3: [(x1 + 1, y1, x2 + 1, y2)]}))
    assert (found.kind, found.image, found.index, found.other) == ("overlap", 3, 9, 4)
    assert "IoU 0.9" in found.reason


def test_usual_objects_and_crowds_are_not_suspicious(tmp_path: Path) -> None:
    assert suspects(data(tmp_path / "a", {})) == []
    assert suspects(data(tmp_path / "b", {0: [(5, 5, 9, 9), (5, 5, 9, 9)]}, crowd=True)) == []


def test_cut_objects_are_usual_at_the_border(tmp_path: Path) -> None:
    """Half an object at the border is no sliver, and not of an unusual shape or size."""
    halves: list[Box] = [(0, 170, 14, 210), (170, 388, 210, 400)]
    assert suspects(data(tmp_path, {1: halves})) == []


def test_objects_of_all_images() -> None:
    truths = [
        Instances((10, 20), np.array([[1, 2, 4, 6]], np.float32), np.array([0])),
        Instances.empty((5, 5)),
        Instances(
            (30, 40),
            np.array([[0, 0, 9, 1]] * 2, np.float32),
            np.array([1, 0]),
            crowd=np.array([True, False]),
        ),
    ]
    objects = Objects.of(Dataset("x", Path(), ("a", "b"), [Record(Path("i"), 0, truth) for truth in truths]))
    assert objects.images.tolist() == [0, 2]
    assert objects.indices.tolist() == [0, 1]
    assert objects.sides.tolist() == [[3, 4], [9, 1]]
    assert objects.extents.tolist() == [12**0.5, 3]
    assert objects.image_sizes.tolist() == [[10, 20], [30, 40]]
    assert len(Objects.of(Dataset("x", Path(), ("a",), []))) == 0


def test_the_page(tmp_path: Path) -> None:
    data(tmp_path / "in", {2: [(5, 5, 11, 11)]})
    (tmp_path / "in" / "5.png").write_bytes((tmp_path / "in" / "4.png").read_bytes())
    seen: list[tuple[int, int]] = []
    page = data_stats(tmp_path / "in", tmp_path / "out" / "p.html", progress=lambda *n: seen.append(n))
    text = page.read_text("utf-8")
    assert seen[-1] == (6, 6)
    assert "Much smaller than others of their class: 1" in text
    assert "&lt;cell&gt;, 6 x 6 px (typical: 40)" in text
    assert "The same content: 1" in text
    assert "4.png" in text
    assert "<cell>" not in text
    outside = re.search(r"""(?:src|href)="(?!data:|#)|<script|@import|url\((?!#)""", text)
    assert outside is None
    assert len(re.findall("<svg", text)) == 4


def test_parts_are_compared(tmp_path: Path) -> None:
    data(tmp_path / "in" / "train", {})
    data(tmp_path / "in" / "val", {}, images=4)
    text = data_stats(tmp_path / "in", tmp_path / "p.html").read_text("utf-8")
    assert "images in 2 parts" in text
    assert "The same content: 4, 4 of them in different parts" in text
    assert "<th>in: train</th><th>in: val</th>" in text
    two = data_stats([tmp_path / "in" / "train", tmp_path / "in" / "val"], tmp_path / "q.html")
    assert "<title>train and val</title>" in two.read_text("utf-8")


def test_nothing_to_show(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    categories = [{"id": 1, "name": "a"}]
    entry = {"id": 1, "file_name": "a.png", "width": 64, "height": 48}
    file = put(tmp_path, "a.json", {"images": [entry], "annotations": [], "categories": categories})
    with pytest.raises(ValueError, match="no image has an object"):
        data_stats(file, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_charts() -> None:
    values = {"a $x$": np.geomspace(1, 1000, 50), "b": np.array([3.0])}
    assert "currentColor" in histogram(values, "h", "pixels", log=True)
    assert "<svg" in histogram({"one": np.array([4.0, 4.0])}, "h", "objects")
    assert histogram({"none": np.zeros(0)}, "h", "pixels") == ""
    assert position_map(np.zeros((0, 2)), 1.0, "p") == ""
    assert "<svg" in position_map(np.array([[0.0, 1.0], [0.5, 0.5]]), 0.1, "p")
    assert size_scatter({}, "s") == ""
    assert "<svg" in size_scatter({(10, 20): 3}, "s")
    many = {str(i): np.zeros(i) for i in range(9)}
    assert list(busiest(many)) == ["5", "6", "7", "8"]
    assert len(busiest(many)) == MAX_LINES


def test_the_command(tmp_path: Path) -> None:
    data(tmp_path / "in", {})
    command = ["data", "stats", str(tmp_path / "in"), "--out", str(tmp_path / "s.html")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "s.html").is_file()
