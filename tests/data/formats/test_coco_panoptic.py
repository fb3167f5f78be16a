"""COCO's panoptic files: read, checked, written and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import real_data
from rcnn.data.check import check
from rcnn.data.formats.coco_panoptic import read_coco_panoptic, write_panoptic
from rcnn.data.formats.open import open_data
from rcnn.metrics.panoptic import panoptic_quality
from rcnn.structures import VOID, true_segments

CATEGORIES = [
    {"id": 7, "name": "grass", "isthing": 0},
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 9, "name": "dog", "isthing": 1},
]
SEGMENTS = [
    {"id": 261, "category_id": 9, "iscrowd": 0, "bbox": [0, 0, 2, 1], "area": 2},
    {"id": 70000, "category_id": 7, "iscrowd": 0, "bbox": [0, 1, 3, 1], "area": 3},
    {"id": 5, "category_id": 3, "iscrowd": 1, "bbox": [3, 0, 1, 2], "area": 2},
]
IDS = [[261, 261, 0, 5], [70000, 70000, 70000, 5]]


def written(folder: Path, *, ids: list[list[int]] = IDS, segments: list[dict] = SEGMENTS, **content) -> Path:
    """Two images would do nothing more: one of 2 x 4 pixels."""
    colours = np.array(ids)[..., None] // [1, 256, 65536] % 256
    (folder / "panoptic_val").mkdir()
    Image.fromarray(colours.astype(np.uint8)).save(folder / "panoptic_val" / "a.png")
    Image.new("RGB", (4, 2), (9, 9, 9)).save(folder / "a.jpg")
    file = folder / "panoptic_val.json"
    whole = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 2}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    file.write_text(json.dumps(whole | content))
    return file


def test_things_become_objects_and_all_a_semantic_map(tmp_path: Path) -> None:
    data = open_data(written(tmp_path))
    assert data.format == "coco panoptic"
    assert data.class_names == ("cat", "dog")
    assert data.semantic_names == ("cat", "dog", "grass")
    assert data.category_ids == (3, 9)
    assert data.semantic_ids == (3, 9, 7)
    truth = data[0].truth
    assert truth.labels.tolist() == [1, 0]
    assert truth.boxes.tolist() == [[0, 0, 2, 1], [3, 0, 4, 2]]
    assert truth.crowd is not None
    assert truth.crowd.tolist() == [False, True]
    assert truth.masks is not None
    assert truth.masks.dense().astype(int).tolist() == [[[1, 1, 0, 0], [0] * 4], [[0, 0, 0, 1]] * 2]
    assert truth.semantic is not None
    assert truth.semantic.tolist() == [[1, 1, VOID, 0], [2, 2, 2, 0]]
    assert truth.semantic_names == data.semantic_names
    assert not check(data).errors


@pytest.mark.parametrize("name", ["images/a.png", "a.png"])
def test_label_images_are_not_taken_for_the_images(name: str, tmp_path: Path) -> None:
    """Both are called a.png: that of the segments lies in the folder named after the JSON file."""
    images = [{"id": 1, "file_name": name, "width": 4, "height": 2}]
    file = written(tmp_path, images=images)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 2), (9, 9, 9)).save(tmp_path / "images" / "a.png")
    data = open_data(file)
    assert data.records[0].path == tmp_path / "images" / "a.png"
    assert (data[0].image == 9).all()


def test_crowds_in_words(tmp_path: Path) -> None:
    segments = [{**SEGMENTS[0], "iscrowd": "0"}, *SEGMENTS[1:]]
    assert open_data(written(tmp_path, segments=segments))[0].truth.crowd.tolist() == [False, True]


def test_a_partition_survives_writing_and_reading(tmp_path: Path) -> None:
    data = open_data(written(tmp_path))
    found = true_segments(data[0].truth)
    file = write_panoptic(tmp_path / "again.json", [(1, "a.jpg", found)], category_ids=data.semantic_ids)
    again = open_data(file)
    assert not check(again).errors
    assert (again.class_names, again.semantic_ids) == (data.class_names, data.semantic_ids)
    np.testing.assert_array_equal(true_segments(again[0].truth).segments, found.segments)
    assert true_segments(again[0].truth).crowd.tolist() == found.crowd.tolist()
    assert json.loads(file.read_text())["annotations"][0]["segments_info"][0]["bbox"] == [0, 0, 2, 1]
    assert panoptic_quality([found], [true_segments(again[0].truth)]).all.pq == 1


def test_an_image_that_is_all_void_survives_too(tmp_path: Path) -> None:
    data = open_data(written(tmp_path, ids=[[0] * 4] * 2, segments=[]))
    found = true_segments(data[0].truth)
    assert len(found) == 0
    file = write_panoptic(tmp_path / "again.json", [(1, "a.jpg", found)])
    assert len(true_segments(open_data(file)[0].truth)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [[261, 261, 99, 5], IDS[1]]}, "not in segments_info, with the ids 99"),
        ({"ids": [[261, 261, 0, 0], [70000] * 4]}, "have no pixel, with the ids 5"),
        ({"ids": [[261, 261, 5]]}, "3 by 1 pixels"),
        ({"segments": [*SEGMENTS[:2], SEGMENTS[2] | {"category_id": 4}]}, "no category with the id 4"),
        ({"segments": [*SEGMENTS, SEGMENTS[0]]}, "segment id 261 occurs twice"),
        ({"segments": [*SEGMENTS[:2], SEGMENTS[2] | {"bbox": None}]}, "Expected bbox"),
        ({"segments": [*SEGMENTS[:2], SEGMENTS[2] | {"id": 0}]}, "an id of 1 to"),
        (
            {"annotations": [{"image_id": 1, "file_name": "b.png", "segments_info": []}]},
            "PNG of its segments",
        ),
        (
            {"annotations": [{"image_id": 2, "file_name": "a.png", "segments_info": []}]},
            "no image with the id",
        ),
        ({"annotations": [{"image_id": 1, "segments_info": []}]}, "file_name"),
    ],
)
def test_check_lists_what_is_wrong(tmp_path: Path, change: dict, message: str) -> None:
    report = check(open_data(written(tmp_path, **change)))
    assert any(message in str(problem) for problem in report.errors), report.errors


def test_categories_must_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="isthing is missing for grass"):
        open_data(written(tmp_path, categories=[{"id": 7, "name": "grass"}]))


def test_category_ids_must_be_as_many_as_classes(tmp_path: Path) -> None:
    found = true_segments(open_data(written(tmp_path))[0].truth)
    with pytest.raises(ValueError, match="2 were given for 3 classes"):
        write_panoptic(tmp_path / "x.json", [(1, "a.jpg", found)], category_ids=(1, 2))


def test_cocos_own_files_are_read() -> None:
    data = read_coco_panoptic(real_data("coco/annotations/panoptic_val.json"))
    assert len(data) == 24
    assert len(data.class_names) == 80
    assert data.semantic_names[80:82] == ("banner", "blanket")
    record = json.loads(data.source.read_text())["annotations"][0]
    truth = next(data[i].truth for i, r in enumerate(data.records) if r.image_id == record["image_id"])
    found = true_segments(truth)
    areas = {data.semantic_ids[label]: 0 for label in found.labels.tolist()}
    for label, area in zip(found.labels.tolist(), found.areas().tolist(), strict=True):
        areas[data.semantic_ids[label]] += area
    said = dict.fromkeys(areas, 0)
    for segment in record["segments_info"]:
        said[segment["category_id"]] += segment["area"]
    assert areas == said
    # Too few images for a result; but what they hold agrees with itself.
    segments = [true_segments(data[index].truth) for index in range(4)]
    assert panoptic_quality(segments, segments).all.pq == 1
