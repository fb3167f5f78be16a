"""FiftyOne's exports: samples with fields of objects, and the shorter file of labels."""

import base64
import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotated_images import areas, boxes, errors, image, put
from rcnn.data.formats.open import open_data

BOX = [8 / 64, 6 / 48, 16 / 64, 14 / 48]


def packed(mask: Any) -> str:
    stream = io.BytesIO()
    np.save(stream, mask)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def detection(**more: Any) -> dict[str, Any]:
    return {"_cls": "Detection", "label": "cat", "bounding_box": BOX, **more}


def samples(*labels: Any, **fields: Any) -> dict[str, Any]:
    found = {"_cls": "Detections", "detections": list(labels)}
    return {
        "samples": [{"filepath": "data/a.png", "ground_truth": found, **fields}, {"filepath": "data/b.png"}]
    }


@pytest.mark.parametrize("form", ["text", "subtype", "plain"])
def test_samples(form: str, tmp_path: Path) -> None:
    image(tmp_path / "data", "a.png", "b.png")
    mask = np.zeros((14, 16), bool)
    mask[:7] = True
    text = packed(mask)
    binary = {
        "text": text,
        "plain": {"$binary": text},
        "subtype": {"$binary": {"base64": text, "subType": "00"}},
    }
    drawn = {"_cls": "Polyline", "label": "bee", "points": [[[0.5, 0.5], [0.75, 0.5], [0.75, 0.75]]]}
    put(tmp_path, "metadata.json", {"name": "x", "media_type": "image"})
    put(
        tmp_path,
        "samples.json",
        samples(detection(mask=binary[form]), detection(mask=binary[form], iscrowd=1), drawn),
    )
    data = open_data(tmp_path)
    assert data.format == "fiftyone"
    assert boxes(data) == {"a.png": [("cat", (8, 6, 24, 20))] * 2}
    assert areas(data)[1] == 7 * 16
    assert data[0].truth.crowd.tolist() == [False, True]
    said = [p.what for p in data.problems]
    assert "1 open polylines." in said
    assert "1 samples have no ground_truth: b.png." in said


def test_the_field_is_the_only_one_or_asked_for(tmp_path: Path) -> None:
    image(tmp_path / "data", "a.png")
    lines = {"_cls": "Polylines", "polylines": [
        {"label": "bee", "points": [[[0.5, 0.5], [0.75, 0.5], [0.75, 0.75], [0.5, 0.75]]], "closed": True}
    ]}  # fmt: skip
    put(tmp_path, "samples.json", {"samples": [{"filepath": "/x/a.png", "lines": lines, "tags": []}]})
    assert boxes(open_data(tmp_path)) == {"a.png": [("bee", (32, 24, 48, 36))]}
    put(tmp_path, "samples.json", {"samples": [{"filepath": "a.png", "one": lines, "two": lines}]})
    with pytest.raises(ValueError, match="the fields one, two have objects; export with"):
        open_data(tmp_path)


def test_labels(tmp_path: Path) -> None:
    image(tmp_path / "data", "a.png", "b.png")
    labels = {"a": [{"label": 1, "bounding_box": BOX}], "b": []}
    put(tmp_path, "labels.json", {"classes": ["cat", "dog"], "labels": labels})
    data = open_data(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert boxes(data) == {"a.png": [("dog", (8, 6, 24, 20))], "b.png": []}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"bounding_box": [1, 2]}, "Expected a bounding_box of four numbers"),
        ({"label": None}, "Expected an object with a label"),
        ({"mask": "no base64"}, "The mask cannot be unpacked"),
        ({"mask": base64.b64encode(b"no zlib").decode()}, "The mask cannot be unpacked"),
        ({"mask": packed(np.array([{}], object))}, "The mask cannot be unpacked"),
        ({"mask": packed(np.zeros((2, 2, 2)))}, r"its shape is \(2, 2, 2\)"),
    ],
)
def test_broken_labels_are_named(more: Any, message: str, tmp_path: Path) -> None:
    image(tmp_path / "data", "a.png", "b.png")
    put(tmp_path, "samples.json", samples(detection(), detection(**more)))
    (error,) = errors(open_data(tmp_path))
    assert "a.png, annotation ground_truth 1" in error
    assert re.search(message, error)
