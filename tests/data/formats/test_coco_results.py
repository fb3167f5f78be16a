"""Results files of COCO: read back as written, and refused by entry."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from objects import SIZE, A, B, filled, instances
from rcnn.data.dataset import Dataset, Record
from rcnn.data.formats import detections
from rcnn.data.formats.coco_results import read_results
from rcnn.structures import Instances, PackedMasks, Skeleton

SKELETON = Skeleton(("nose", "tail"))


def dataset(**changed) -> Dataset:
    """Two images, 7 and 9, with categories 3 and 11."""
    truth = Instances.empty(SIZE)
    records = [Record(Path(f"data/{n}/pic{n}.png"), n, truth) for n in (7, 9)]
    made = Dataset("coco", Path("data/truth.json"), ("ant", "bee"), records, category_ids=(3, 11))
    return replace(made, **changed)


def written(tmp_path, entries) -> Path:
    path = tmp_path / "found.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_reads_back_what_was_written(tmp_path) -> None:
    keypoints = np.array([[[2.5, 3.5, 1.0], [4.5, 5.5, 2.0]], [[1.0, 1.5, 3.0], [2.0, 2.5, 4.0]]], np.float32)
    found = instances([A, B], [1, 0], [0.9, 0.25], masks=filled([A, B]), keypoints=keypoints.tolist())
    entries = found.to_coco(9, (3, 11))[::-1]  # the order in the file does not matter
    first, second = read_results(written(tmp_path, entries), dataset(skeleton=SKELETON))
    assert len(first) == 0
    assert first.masks is not None
    np.testing.assert_array_equal(second.boxes, found.boxes)
    np.testing.assert_array_equal(second.labels, found.labels)
    np.testing.assert_array_equal(second.scores, found.scores)
    np.testing.assert_array_equal(second.keypoints, found.keypoints)
    np.testing.assert_array_equal(second.masks, found.masks)
    assert (second.names, second.path) == (["bee", "ant"], Path("data/9/pic9.png"))


def test_boxes_come_from_masks_or_keypoints_where_there_are_none(tmp_path) -> None:
    entry = {"image_id": 7, "category_id": 3, "score": 0.5}
    square = entry | {"segmentation": [[2, 3, 12, 3, 12, 9, 2, 9]]}
    (found, _) = read_results(written(tmp_path, [square]), dataset())
    assert found.boxes.tolist() == [[2, 3, 12, 9]]
    points = entry | {"keypoints": [2, 3, 1, 8, 5, 1]}
    (found, _) = read_results(written(tmp_path, [points]), dataset(skeleton=SKELETON))
    assert found.boxes.tolist() == [[2, 3, 9, 6]]


def test_masks_are_there_if_all_detections_have_them(tmp_path) -> None:
    with_mask = instances([A], scores=[0.9], masks=filled([A])).to_coco(7, (3, 11))
    without = instances([A], scores=[0.9]).to_coco(9, (3, 11))
    assert read_results(written(tmp_path, with_mask), dataset())[0].masks is not None
    assert read_results(written(tmp_path, with_mask + without), dataset())[0].masks is None


@pytest.mark.parametrize("name", [9, "9", "pic9.png", "9/pic9.png"])
def test_an_image_may_be_meant_by_id_or_path(tmp_path, name) -> None:
    entry = {"image_id": name, "category_id": 3, "score": 0.5, "bbox": [0, 0, 5, 5]}
    assert [len(found) for found in read_results(written(tmp_path, [entry]), dataset())] == [0, 1]


def test_a_file_name_that_two_images_have_is_none(tmp_path) -> None:
    records = [Record(Path(f"data/{n}/same.png"), n, Instances.empty(SIZE)) for n in (7, 9)]
    entry = {"image_id": "same.png", "category_id": 3, "score": 0.5, "bbox": [0, 0, 5, 5]}
    with pytest.raises(ValueError, match=r"image_id 'same\.png'"):
        read_results(written(tmp_path, [entry]), dataset(records=records))


def test_no_detections_at_all(tmp_path) -> None:
    assert [len(found) for found in read_results(written(tmp_path, []), dataset())] == [0, 0]


GOOD = {"image_id": 7, "category_id": 3, "score": 0.5, "bbox": [0, 0, 5, 5]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**GOOD, "image_id": 8}, "image_id 8; the data set has 7, 9"),
        ({**GOOD, "category_id": 4}, "category_id 4; the data set has 3, 11"),
        ({**GOOD, "score": None}, "score None; expected a finite number"),
        ({**GOOD, "bbox": [0, 0, 5]}, "expected x, y, width, height"),
        ({k: v for k, v in GOOD.items() if k != "score"}, "lacks score"),
        ({k: v for k, v in GOOD.items() if k != "bbox"}, "lacks bbox"),
        ({**GOOD, "segmentation": {"size": [5, 5], "counts": [25]}}, "segmentation cannot be used"),
        ({**GOOD, "segmentation": [[1, 1, 2, 2]]}, "three corners"),
        ({**GOOD, "keypoints": [1, 2, 3]}, "expected 6 numbers"),
        ([1], "expected an object"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, entry, message) -> None:
    path = written(tmp_path, [GOOD, entry])
    with pytest.raises(ValueError, match=f"found.json: entry 1: .*{message}"):
        read_results(path, dataset(skeleton=SKELETON))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"images": []}', "annotations \\(with scores\\) and categories; found an object with images"),
        ("3", "expected COCO results: a list, .*; found '3'"),
    ],
)
def test_what_is_neither_list_nor_file_is_refused(tmp_path, text, message) -> None:
    with pytest.raises(ValueError, match=message):
        read_results(written(tmp_path, text), dataset())


@pytest.mark.parametrize("pending", [1, 3, 1024])
def test_the_order_of_entries_does_not_matter(tmp_path, monkeypatch, pending) -> None:
    monkeypatch.setattr(detections, "PENDING", pending)
    boxes = [[n, n, n + 12, n + 9] for n in range(8)]
    found = instances(boxes, [0, 1] * 4, [0.9, 0.8, 0.8, 0.8, 0.5, 0.4, 0.3, 0.2], masks=filled(boxes))
    entries = [*found.to_coco(7, (3, 11)), *found[1:5].to_coco(9, (3, 11))]
    square = [[1, 1, 6, 1, 6, 5, 1, 5]]
    entries.append({"image_id": 9, "category_id": 3, "score": 0.1, "segmentation": square})
    # Those of equal score stay in the order of the file.
    mixed = [entries[i] for i in (12, 0, 8, 1, 9, 10, 2, 11, 3, 7, 6, 5, 4)]
    for first, second in (read_results(written(tmp_path, order), dataset()) for order in (entries, mixed)):
        assert isinstance(first.masks, PackedMasks)
        for one, expected in ((first, found), (second[:4], found[1:5])):
            np.testing.assert_array_equal(one.boxes, expected.boxes)
            np.testing.assert_array_equal(one.masks, expected.masks)
            assert one.labels.tolist() == expected.labels.tolist()
        np.testing.assert_array_equal(second.masks[4], filled([[1, 1, 6, 5]])[0])


def test_annotations_may_come_before_what_explains_them(tmp_path) -> None:
    entry = {"image_id": 1, "category_id": 5, "score": 0.5, "bbox": [0, 0, 5, 5]}
    content = {
        "annotations": [entry],
        "images": [{"id": n, "file_name": f"pic{n}.png"} for n in (7, 9)],
        "categories": [{"id": 5, "name": "bee"}],
    }
    content["images"][0]["id"] = 1
    (found, _) = read_results(written(tmp_path, content), dataset())
    assert (found.names, found.path) == (["bee"], Path("data/7/pic7.png"))
