"""COCO values in the forms in which other tools write them: each is read as what it means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.formats import coco_forms as forms
from rcnn.data.formats.coco import read_coco

SQUARE = [2, 3, 6, 3, 6, 8, 2, 8]
BITMAP = np.zeros((10, 20), np.uint8)
BITMAP[3:8, 2:6] = 1
CODE = coco_mask.encode(np.asfortranarray(BITMAP))
TEXT = CODE["counts"] if isinstance(CODE["counts"], str) else CODE["counts"].decode()
HALVES = [coco_mask.encode(np.asfortranarray(part)) for part in (BITMAP.copy(), BITMAP.copy())]
for _part, _code in zip((slice(0, 4), slice(4, 10)), HALVES, strict=True):
    _half = np.zeros_like(BITMAP)
    _half[:, _part] = BITMAP[:, _part]
    _code.update(coco_mask.encode(np.asfortranarray(_half)))


def as_text(code: dict[str, Any]) -> dict[str, Any]:
    counts = code["counts"]
    return {"size": [10, 20], "counts": counts if isinstance(counts, str) else counts.decode()}


def opened(
    folder: Path, *annotations: dict[str, Any], files: tuple[str, ...] = ("a.png",), **changes: Any
) -> Dataset:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(folder / file)
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": 1, "bbox": [2, 3, 4, 5], "area": 20, **changed}
            for n, changed in enumerate(annotations, 1)
        ],
        **changes,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return read_coco(path)


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        SQUARE,  # without the outer list
        [[2, 3], [6, 3], [6, 8], [2, 8]],  # pairs
        [[[2, 3], [6, 3], [6, 8], [2, 8]]],
        json.dumps([SQUARE]),  # as tables write it
        {"size": [10, 20], "counts": TEXT},
        {"size": [10, 20], "counts": repr(TEXT.encode())},  # the repr of bytes
        [{"size": [10, 20], "counts": TEXT}],
        [as_text(HALVES[0]), as_text(HALVES[1])],  # the parts of one object
        [{"size": [10, 20], "counts": [23, 5, 5, 5, 5, 5, 5, 5, 142]}],
    ],
    ids=[
        "polygon",
        "flat",
        "pairs",
        "nested",
        "text",
        "code",
        "bytes",
        "list of one",
        "list of two",
        "counts",
    ],
)
def test_one_outline_in_all_its_forms(tmp_path: Path, segmentation: Any) -> None:
    dataset = opened(tmp_path, {"segmentation": segmentation})
    assert dataset.problems == ()
    assert (dataset[0].truth.masks.dense()[0] == BITMAP).all()


@pytest.mark.parametrize("bbox", [[2, 3, 4, 5], ["2", "3.0", 4, 5.0], "[2, 3, 4, 5]", None, [], [0, 0, 0, 0]])
def test_one_box_in_all_its_forms(tmp_path: Path, bbox: Any) -> None:
    dataset = opened(tmp_path, {"bbox": bbox, "segmentation": [SQUARE]})
    assert dataset.problems == ()
    assert dataset.records[0].truth.boxes.tolist() == [[2, 3, 6, 8]]


@pytest.mark.parametrize(("listed", "given"), [(7, "7"), ("7", 7), (7.0, 7), ("7", "7")])
def test_ids_as_text_and_as_numbers_are_the_same(tmp_path: Path, listed: Any, given: Any) -> None:
    images = [{"id": listed, "file_name": "a.png", "width": "20", "height": 10.0}]
    categories = [{"id": "1", "name": 5}]
    dataset = opened(
        tmp_path,
        {"image_id": given},
        {"image_id": given, "category_id": "1", "bbox": [1, 1, 2, 2]},
        images=images,
        categories=categories,
    )
    assert [p for p in dataset.problems if p.severity == "error"] == []
    assert (dataset.class_names, len(dataset.records[0].truth)) == (("5",), 2)


@pytest.mark.parametrize(
    ("marked", "crowd"), [("false", False), ("true", True), ("0", False), (1, True), (None, False)]
)
def test_crowds_in_words(tmp_path: Path, marked: Any, crowd: bool) -> None:
    assert opened(tmp_path, {"iscrowd": marked}).records[0].truth.crowd.tolist() == [crowd]


def test_a_rotated_box_is_the_upright_one_around_it() -> None:
    assert forms.turned_box((0, 0, 10, 4), {"attributes": {"rotation": 90}}) == pytest.approx((3, -3, 4, 10))
    assert forms.turned_box((0, 0, 2, 2), {"attributes": {"rotation": "45"}})[2:] == pytest.approx(
        (8**0.5,) * 2
    )
    for attributes in ({}, {"rotation": 0}, {"rotation": 360.0}, {"rotation": "north"}, None):
        assert forms.turned_box((1, 2, 3, 4), {"attributes": attributes}) == (1, 2, 3, 4)


def test_rotated_boxes_are_said_once(tmp_path: Path) -> None:
    turned = {"bbox": [6, 2, 8, 4], "attributes": {"rotation": 90.0}}
    dataset = opened(tmp_path, turned, {**turned, "bbox": [6, 3, 8, 4]}, {})
    [problem] = dataset.problems
    assert "2 boxes are rotated (attributes.rotation): 1, 2." in problem.what
    np.testing.assert_allclose(dataset.records[0].truth.boxes[0], [8, 0, 12, 8], atol=1e-5)


PLACEHOLDER = {"id": 0, "name": "Tumor", "supercategory": "none"}


def test_a_placeholder_of_the_same_name_is_left_out(tmp_path: Path) -> None:
    categories = [PLACEHOLDER, {"id": 1, "name": "Tumor", "supercategory": "Tumor"}]
    dataset = opened(tmp_path, {}, categories=categories)
    assert (dataset.class_names, dataset.category_ids) == (("Tumor",), (1,))
    assert dataset.records[0].truth.labels.tolist() == [0]
    assert "only groups others" in dataset.problems[0].what


def test_a_category_with_objects_is_no_placeholder(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "cells", "supercategory": "none"},
        {"id": 2, "name": "red", "supercategory": "cells"},
    ]
    assert opened(tmp_path, {}, categories=categories).class_names == ("cells", "red")
    empty = opened(tmp_path, {"category_id": 2}, categories=categories)
    assert (empty.class_names, empty.category_ids) == (("red",), (2,))


def test_categories_of_one_name_are_merged_or_refused(tmp_path: Path) -> None:
    same = [{"id": 3, "name": "cat"}, {"id": 1, "name": "cat "}, {"id": 2, "name": "dog"}]
    dataset = opened(
        tmp_path,
        {},
        {"category_id": 3, "bbox": [1, 1, 2, 2]},
        {"category_id": 2, "bbox": [9, 1, 2, 2]},
        categories=same,
    )
    assert (dataset.class_names, dataset.category_ids) == (("cat", "dog"), (1, 2))
    assert dataset.records[0].truth.labels.tolist() == [0, 0, 1]
    assert "The categories 1 and 3 are both named 'cat'." in dataset.problems[0].what
    apart = [
        {"id": 1, "name": "bat", "supercategory": "animal"},
        {"id": 2, "name": "bat", "supercategory": "sports"},
    ]
    [problem] = opened(tmp_path, {}, categories=apart).problems
    assert (problem.severity, problem.annotation) == ("error", "categories[0]")
    assert "in the groups animal, sports" in problem.what


def test_keypoints_that_no_category_names(tmp_path: Path) -> None:
    points = [3, 4, 2, 5, 6, 1]
    dataset = opened(tmp_path, {"keypoints": points}, {"keypoints": [0] * 6, "bbox": [9, 1, 2, 2]})
    assert dataset.skeleton is not None
    assert dataset.skeleton.names == ("keypoint_0", "keypoint_1")
    assert dataset.records[0].truth.keypoints.tolist() == [[[3.5, 4.5, 2], [5.5, 6.5, 1]], [[0, 0, 0]] * 2]
    assert "no category names them" in dataset.problems[0].what
    mixed = opened(tmp_path, {"keypoints": points}, {"keypoints": points[:3], "bbox": [9, 1, 2, 2]})
    assert mixed.skeleton is None
    assert "their numbers differ: 1, 2 per object" in mixed.problems[0].what


def test_images_in_several_folders_are_found_by_name(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{c}.png", "width": 20, "height": 10} for n, c in enumerate("abc")]
    files = ("train/deep/a.png", "val/b.png", "val/c.png")
    dataset = opened(tmp_path, {"image_id": 0}, images=images, files=files)
    assert [record.path for record in dataset.records] == [tmp_path / file for file in files]
    [problem] = dataset.problems
    assert "images were found by name in other folders" in problem.what


def test_two_images_of_one_name_are_not_guessed(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{c}.png", "width": 20, "height": 10} for n, c in enumerate("ab")]
    dataset = opened(tmp_path, images=images, files=("x/a.png", "y/a.png", "x/b.png"))
    assert [record.path.name for record in dataset.records] == ["b.png"]
    assert [p.what for p in dataset.problems if p.severity == "error"] == ["The image file is missing."]


def test_images_of_another_split_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    image = Image.new("RGB", (20, 10))
    for place in ("train/images", "val/part"):
        (tmp_path / place).mkdir(parents=True)
    image.save(tmp_path / "train/images/a.png")
    image.save(tmp_path / "val/part/b.png")
    images = [{"id": n, "file_name": f"{c}.png", "width": 20, "height": 10} for n, c in enumerate("ab")]
    path = tmp_path / "val.json"
    path.write_text(
        json.dumps({"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": []})
    )
    assert [record.path.name for record in read_coco(path).records] == ["b.png"]


def test_many_missing_images_are_one_problem(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png", "width": 20, "height": 10} for n in range(40)]
    dataset = opened(tmp_path, {"image_id": 3}, images=images, files=("0.png",))
    [problem] = dataset.problems
    assert problem.what == "39 of 40 image files are missing: 1.png, 2.png, 3.png, 4.png, 5.png, …."
    assert len(dataset) == 1


def test_links_without_content_are_named(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{c}.png", "width": 20, "height": 10} for n, c in enumerate("ab")]
    (tmp_path / "b.png").symlink_to(tmp_path / ".git/annex/objects/b.png")
    [problem] = opened(tmp_path, images=images).problems
    assert "1 of 2 images are links to files that do not exist" in problem.what
    assert "git annex get" in problem.advice


def test_annotations_without_images_are_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, *({"image_id": 99} for _ in range(50)))
    [problem] = dataset.problems
    assert problem.what == "There is no image with the id 99, which 50 annotations give."
    assert problem.lost_objects == 50


def test_annotations_without_ids_are_counted(tmp_path: Path) -> None:
    dataset = opened(tmp_path, *({"image_id": None} for _ in range(50)))
    assert len(dataset.problems) == 6
    assert sum(problem.lost_objects for problem in dataset.problems) == 50
