"""Plain annotations, taken in batches: the same objects and problems as one by one, in the same order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.formats import coco, coco_plain
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_suspicions import annotation_digest, plain_digest

SQUARE = [2, 3, 6, 3, 6, 8, 2, 8]
ODD: list[dict[str, Any]] = [
    {},
    {"segmentation": [SQUARE]},
    {"segmentation": [SQUARE, [6, 3, 6, 8, 5, 8]]},
    {"segmentation": []},
    {"segmentation": [[*SQUARE[:-1], float("nan")]]},
    {"segmentation": [[*SQUARE[:-1], float("inf")]]},
    {"segmentation": [[*SQUARE[:-1], 1e300]]},
    {"segmentation": [["2", "3", "6", "3", "6", "8"]]},
    {"segmentation": [[15, 2, 20, 2, 20, 7]]},
    {"segmentation": [SQUARE, [1, 2]]},
    {"segmentation": [SQUARE], "bbox": [2.25, 3, 4, 5]},
    {"bbox": [10**400, 1, 2, 3]},
    {"bbox": [15, 2, 10, 5]},
    {"bbox": [2, 3, 0.2, 5]},
    {"bbox": [True, 3, 4, 5]},
    {"bbox": [None, 3, 4, 5]},
    {"area": "20"},
    {"area": -1},
    {"iscrowd": 1, "segmentation": {"size": [10, 20], "counts": [23, 5, 172]}},
    {"category_id": 9},
    {"image_id": 9},
    {"id": 2},
    {"id": "text"},
    {"score": 0.5},
    {"attributes": {"rotation": 90.0}},
]


def opened(folder: Path, annotations: list[Any]) -> Dataset:
    for name in "ab":
        Image.new("RGB", (20, 10)).save(folder / f"{name}.png")
    images = [{"id": n, "file_name": f"{c}.png", "width": 20, "height": 10} for n, c in enumerate("ab", 7)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return read_coco(path)


def facts(data: Dataset) -> list[Any]:
    records = [
        (
            r.truth.boxes.tolist(),
            r.truth.labels.tolist(),
            r.truth.areas.tolist(),
            r.load_truth().masks.areas(),
        )
        for r in data.records
    ]
    return [[(*rest, masks.tolist()) for *rest, masks in records], [str(p) for p in data.problems]]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_one_by_one(batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The odd annotations between plain ones, which repeat."""
    plain = {"category_id": 1, "bbox": [2, 3, 4, 5], "area": 20.5, "iscrowd": 0, "segmentation": [SQUARE]}
    entries = [{"id": n, "image_id": 7 + n % 2, **plain, **ODD[n % len(ODD)]} for n in range(3 * len(ODD))]
    monkeypatch.setattr(coco_plain, "BATCH", batch)
    in_batches = facts(opened(tmp_path, entries))
    taken = []
    monkeypatch.setattr(coco_plain, "_may_be_plain", lambda entry, known: taken.append(entry))
    assert facts(opened(tmp_path, entries)) == in_batches
    assert len(taken) == len(entries)


def test_nearly_all_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    entries = []
    for n in range(50):
        x, y = rng.uniform(0, 5, 2).tolist()
        ring = [x, y, x + 9, y, x + 9, y + 4, x, y + 4]
        entries.append({"id": n, "image_id": 7, "category_id": 1, "area": 36, "bbox": [x, y, 9, 4],
                        "segmentation": [ring]})  # fmt: skip
    entries[20]["attributes"] = {}
    looked = []
    read = coco.CocoReader._read
    monkeypatch.setattr(coco.CocoReader, "_read", lambda self, e, i: (looked.append(i), read(self, e, i))[1])
    data = opened(tmp_path, entries)
    assert looked == [20]
    np.testing.assert_allclose(data.records[0].truth.boxes[20, :2], entries[20]["bbox"][:2], rtol=1e-6)


def test_identical_annotations_are_reported(tmp_path: Path) -> None:
    """A polygon in two parts is another one than the same corners in one."""
    plain = {"image_id": 7, "category_id": 1, "bbox": [2, 3, 4, 5], "area": 20}
    drawn = [[SQUARE], [SQUARE], [SQUARE, SQUARE], [[*SQUARE, *SQUARE]]]
    data = opened(tmp_path, [{"id": n, **plain, "segmentation": parts} for n, parts in enumerate(drawn)])
    assert [(p.annotation, p.what) for p in data.problems] == [("1", "It is identical to annotation 0.")]


@pytest.mark.parametrize(
    "drawn", [None, [], [[1, 2, 3.5, 4, 5, 6]], [[0.0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 7]]]
)
def test_a_plain_annotation_has_the_digest_of_any_other(drawn: Any) -> None:
    entry = {"category_id": 3, "bbox": [1, 2.5, 3, 4], "segmentation": drawn}
    assert plain_digest(7, entry) == annotation_digest(7, entry)
    assert plain_digest(7, entry) != annotation_digest(8, entry)
