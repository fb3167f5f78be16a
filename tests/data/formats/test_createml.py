"""CreateML: boxes by their centre, and malformed entries."""

from pathlib import Path
from typing import Any

import pytest

from annotated_images import FIRST, boxes, errors, image, put
from rcnn.data.formats.open import open_data

CAT = {"label": "cat", "coordinates": {"x": 16, "y": 13, "width": 16, "height": 14}}


@pytest.mark.parametrize(("name", "listed"), [("image", "annotations"), ("imagefilename", "annotation")])
def test_boxes_by_their_centre(tmp_path: Path, name: str, listed: str) -> None:
    image(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    file = put(
        tmp_path, "_annotations.createml.json", [{name: "a.jpg", listed: [CAT]}, {name: "b.jpg", listed: []}]
    )
    data = open_data(tmp_path)
    assert (data.format, boxes(data)) == ("createml", {"a.jpg": [("cat", FIRST)], "b.jpg": []})
    assert [p.what for p in data.problems] == ["1 images are not annotated: c.jpg."]
    assert boxes(open_data(file)) == boxes(data)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "b.jpg", "annotations": [CAT | {"label": None}]}, "Expected a text as label; found None"),
        ({"image": "b.jpg", "annotations": [CAT | {"label": " "}]}, "The object has no class"),
        ({"image": "b.jpg", "annotations": [{"label": "cat"}]}, "Expected coordinates with numbers"),
        ({"image": "b.jpg", "annotations": ["cat"]}, "Expected coordinates with numbers"),
        ({"image": "a.jpg", "annotations": []}, "annotated twice"),
        ({"annotations": []}, "Expected an object with the name of an image"),
        (7, "Expected an object with the name of an image; found 7"),
    ],
)
def test_malformed_entries_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    image(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path, "x.json", [{"image": "a.jpg", "annotations": [CAT]}, entry])
    found = errors(open_data(tmp_path))
    assert len(found) == 1
    assert message in found[0]
