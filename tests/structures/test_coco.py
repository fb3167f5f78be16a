"""Objects as COCO's annotations and results."""

import json
from pathlib import Path

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_results import read_results
from rcnn.structures import Instances, Masks, Skeleton
from rcnn.structures.coco import annotations_of, category_entries
from rcnn.structures.outlines import complete_polygons

SIZE = (14, 15)


def test_polygons_give_every_bitmap_back() -> None:
    rng = np.random.default_rng(1)
    holes = parts = 0
    for _ in range(400):
        patch = rng.random((int(rng.integers(0, 10)), int(rng.integers(0, 10)))) < rng.uniform(0, 1)
        whole = np.zeros(SIZE, bool)
        whole[3 : 3 + patch.shape[0], 4 : 4 + patch.shape[1]] = patch
        polygons = complete_polygons(patch, (3, 4))
        assert_array_equal(Masks.from_outlines([polygons], SIZE)[0], whole)
        if polygons:
            codes = coco_mask.frPyObjects([p.reshape(-1).tolist() for p in polygons], *SIZE)
            assert_array_equal(coco_mask.decode(coco_mask.merge(codes)), whole)
        parts += len(polygons) > 1
        holes += len(polygons) == 1 and len(np.unique(polygons[0], axis=0)) < len(polygons[0])
    assert min(parts, holes) > 20, "the law is tried on parts and on holes"


def test_a_ring_is_one_polygon() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    (polygon,) = complete_polygons(ring, (0, 0))
    assert {tuple(corner) for corner in polygon.tolist()} == {
        (0, 0), (3, 0), (3, 3), (0, 3), (1, 1), (2, 1), (2, 2), (1, 2),
    }  # fmt: skip


def test_annotations_of_truth() -> None:
    boxes = np.array([[1, 2, 5, 6], [0, 0, 9, 9]], np.float32)
    masks = Masks.from_patches([np.ones((2, 2)), np.ones((9, 9))], [(2, 1), (0, 0)], SIZE)
    points = np.array([[[3.5, 4.5, 2], [0, 0, 0]], [[1.5, 1.5, 1], [2.5, 3.5, 2]]], np.float32)
    truth = Instances(
        SIZE, boxes, np.array([0, 1]), masks=masks, keypoints=points, crowd=np.array([False, True])
    )
    one, crowd = annotations_of(truth, 7, (4, 9), first=20)
    assert one == {
        "id": 20, "image_id": 7, "category_id": 4, "bbox": [1, 2, 4, 4], "area": 4, "iscrowd": 0,
        "segmentation": [[1, 2, 3, 2, 3, 4, 1, 4]], "keypoints": [3, 4, 2, 0, 0, 0], "num_keypoints": 1,
    }  # fmt: skip
    assert (crowd["id"], crowd["iscrowd"], crowd["segmentation"]) == (21, 1, masks.rle()[1])
    assert [a["segmentation"] for a in annotations_of(truth, 7, outlines="rle")] == masks.rle()
    json.dumps([one, crowd])


def test_keypoints_of_predictions_keep_their_logits_apart() -> None:
    points = np.array([[[3.5, 4.5, 2.5], [1.5, 1.5, -0.5]]], np.float32)
    box, score = np.array([[0, 0, 9, 9]], np.float32), np.array([0.5], np.float32)
    (one,) = annotations_of(Instances(SIZE, box, np.array([0]), score, keypoints=points), 1)
    assert one["keypoints"] == [3, 4, 2, 1, 1, 1]
    assert (one["num_keypoints"], one["keypoint_scores"], one["score"]) == (2, [2.5, -0.5], 0.5)


def test_categories_have_the_skeleton() -> None:
    skeleton = Skeleton(("a", "b"), ((0, 1),), sigmas=(0.1, 0.2))
    assert category_entries(("x",), (5,), skeleton) == [
        {"id": 5, "name": "x", "keypoints": ["a", "b"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.2]}
    ]


def test_a_saved_file_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(file)
    rng = np.random.default_rng(3)
    for count in (0, 4):
        low = rng.uniform(0, 5, (count, 2)).astype(np.float32)
        found = Instances(
            SIZE,
            np.concatenate([low, low + 5], 1),
            rng.integers(0, 2, count),
            np.sort(rng.random(count).astype(np.float32))[::-1],
            Masks.from_patches(
                [rng.random((4, 4)) < 0.5 for _ in low], [(int(y), int(x)) for x, y in low], SIZE
            ),
            class_names=("cell", "dust"),
            path=file,
        )
        saved = found.save(tmp_path / "found.json")
        (read,) = read_results(saved, read_coco(saved))
        for name in ("boxes", "labels", "scores"):
            assert_array_equal(getattr(read, name), getattr(found, name))
        assert read.masks is not None
        assert found.masks is not None
        assert_array_equal(read.masks.dense(), found.masks.dense())
        assert (read.class_names, read.path) == (found.class_names, file)


def test_objects_without_class_names_are_saved_under_their_labels(tmp_path: Path) -> None:
    found = Instances(SIZE, np.array([[0, 0, 2, 2]], np.float32), np.array([2]))
    content = json.loads(found.save(tmp_path / "found.json").read_text())
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "0"), (2, "1"), (3, "2")]
    assert content["annotations"][0]["category_id"] == 3
