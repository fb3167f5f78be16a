"""predictions.json: what is written is read back equal, and other programs open it."""

import contextlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
import pytest
import supervision
from numpy.testing import assert_array_equal
from PIL import Image
from pycocotools.coco import COCO

from rcnn.data.check import check
from rcnn.data.formats.coco import read_coco
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.coco_text import CocoText
from rcnn.evaluation.evaluator import evaluate_predictions, evaluate_results
from rcnn.structures import Instances, Masks, Skeleton
from rcnn.structures.coco import category_entries

NAMES = ("ant", "bee")
IDS = (3, 11)
SIZE = (40, 50)
SKELETON = Skeleton(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)), sigmas=(0.1, 0.2, 0.25))
# Below folders, of any characters, of bytes that are no UTF-8, alike but for the folder.
FILES = ("plain.png", "sub/plain.png", "sub dir/zwei ä%20'\".png", os.fsdecode(b"caf\xe9.png"), "empty.png")
KINDS = ("boxes", "masks", "keypoints", "masks and keypoints", "panoptic")


def found_in(rng: np.random.Generator, kind: str, count: int) -> Instances:
    """Objects with fractions of pixels, touching and ragged masks with holes, keypoints of any logit."""
    low = rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (count, 2))], 1).astype(np.float32)
    scores = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    found = Instances(SIZE, boxes, rng.integers(0, 2, count), scores, class_names=NAMES)
    if "masks" in kind or kind == "panoptic":
        corners = [(int(y), int(x)) for x, y in low]
        patches = [rng.random((rng.integers(1, 20), rng.integers(1, 20))) < 0.6 for _ in corners]
        for patch in patches:
            patch[0, 0] = True
        masks = Masks.from_patches(patches, corners, SIZE)
        boxes = masks.boxes() + rng.uniform(0, 0.4, (count, 4)).astype(np.float32)
        found = replace(found, masks=masks, boxes=boxes)
    if kind == "panoptic":
        found = replace(found, semantic=rng.integers(0, 3, SIZE), semantic_names=("sky", "sea", "sand"))
    if "keypoints" in kind:
        points = rng.normal(0, 9, (count, 3, 3)).astype(np.float32)
        points[..., :2] = rng.uniform(0, 40, (count, 3, 2))
        points[:1, 0, 0] = 1e-9  # half a pixel less and more in float32 would lose it
        found = replace(found, keypoints=points, skeleton=SKELETON)
    return found


def predictions(kind: str) -> dict[str, Instances]:
    rng = np.random.default_rng(7)
    return {name: found_in(rng, kind, 0 if "empty" in name else 6) for name in FILES}


def write(path: Path, found: dict[str, Instances], *, results_only: bool = False) -> Path:
    skeleton = next(iter(found.values())).skeleton
    text = CocoText(category_entries(NAMES, IDS, skeleton), results_only=results_only)
    parts = [text.start()]
    for number, (name, one) in enumerate(found.items(), 1):
        image_id = name if results_only else number
        parts.append(text.text(image_id, one))
        text.note(image_id, name, one.size, len(one))
    parts.append(text.end())
    path.write_text("".join(parts), encoding="utf-8")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(FILES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), number * 20, np.uint8)).save(path)
    return tmp_path / "photos"


def assert_same(one: Instances, other: Instances) -> None:
    assert one.size == other.size
    assert one.names == other.names
    for name in ("boxes", "labels", "scores", "keypoints"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            assert_array_equal(a, b, err_msg=name)
    assert (one.masks is None) == (other.masks is None)
    if one.masks is not None and other.masks is not None:
        assert_array_equal(one.masks.dense(), other.masks.dense())


@pytest.mark.parametrize("results_only", [False, True], ids=["file", "list"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back_equal(
    photos: Path, tmp_path: Path, kind: str, results_only: bool
) -> None:
    found = predictions(kind)
    dataset = read_coco(write(tmp_path / "truth.json", found), photos)
    assert [os.path.relpath(record.path, photos) for record in dataset.records] == list(FILES)
    # A list has no images, and is matched with the data by their paths.
    dataset = replace(dataset, source=photos)
    file = write(tmp_path / "found.json", found, results_only=results_only)
    for name, read in zip(found, read_results(file, dataset), strict=True):
        assert_same(read, found[name])
        assert read.class_names == NAMES
        assert read.skeleton == found[name].skeleton


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_data_set_without_faults(photos: Path, tmp_path: Path, kind: str) -> None:
    found = predictions(kind)
    dataset = read_coco(write(tmp_path / "found.json", found), photos)
    assert [str(p) for p in (*dataset.problems, *check(dataset).problems) if p.severity == "error"] == []
    assert (dataset.class_names, dataset.category_ids) == (NAMES, IDS)
    for record, expected in zip(dataset.records, found.values(), strict=True):
        truth = record.load_truth()
        assert_array_equal(truth.boxes, expected.boxes)
        assert_array_equal(truth.labels, expected.labels)
        if expected.masks is not None and len(expected):
            assert truth.masks is not None
            assert_array_equal(truth.masks.dense(), expected.masks.dense())
        if expected.keypoints is not None:
            assert truth.keypoints is not None
            assert_array_equal(truth.keypoints[..., :2], expected.keypoints[..., :2])
            assert_array_equal(truth.keypoints[..., 2], np.where(expected.keypoints[..., 2] > 0, 2, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_others_open_it(photos: Path, tmp_path: Path, kind: str) -> None:
    found = predictions(kind)
    file = write(tmp_path / "found.json", found)
    for reader in (COCO, faster_coco_eval.COCO):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = reader(str(file))
        assert sorted(coco.getImgIds()) == [1, 2, 3, 4, 5]
        assert len(coco.getAnnIds()) == sum(map(len, found.values()))
        for number, expected in enumerate(found.values(), 1):
            entries = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
            assert [entry["score"] for entry in entries] == expected.scores.tolist()
            for entry, mask in zip(entries, [] if expected.masks is None else expected.masks, strict=False):
                assert_array_equal(coco.annToMask(entry).astype(bool), mask)
                assert entry["area"] == mask.sum()
    opened = supervision.DetectionDataset.from_coco(str(photos), str(file))
    assert opened.classes == list(NAMES)
    assert len(opened) == len(FILES)
    for path, detections in opened.annotations.items():
        expected = found[os.path.relpath(os.path.realpath(path), os.path.realpath(photos))]
        assert_array_equal(detections.class_id, expected.labels)
        np.testing.assert_allclose(detections.xyxy, expected.boxes, atol=1e-4)


def test_an_object_without_a_pixel_is_kept_as_a_prediction_and_left_out_as_truth(
    photos: Path, tmp_path: Path
) -> None:
    found = predictions("masks")
    first = found["plain.png"]
    none = Masks.from_patches([np.zeros((3, 3))], [(5, 5)], SIZE)
    assert first.masks is not None
    masks = Masks.concatenate([none, first.masks[1:]], SIZE)
    found["plain.png"] = replace(first, masks=masks)
    file = write(tmp_path / "found.json", found)
    dataset = read_coco(file, photos)
    assert_same(read_results(file, dataset)[0], found["plain.png"])
    assert [len(record.truth) for record in dataset.records] == [5, 6, 6, 6, 0]
    (problem,) = (p for p in dataset.problems if p.annotation == "1")
    assert (problem.severity, problem.what) == ("warning", "The predicted mask is empty.")


def test_nothing_found_at_all(photos: Path, tmp_path: Path) -> None:
    found = {name: one[:0] for name, one in predictions("masks").items()}
    file = write(tmp_path / "found.json", found)
    dataset = read_coco(file, photos)
    assert dataset.problems == ()
    for read in read_results(file, dataset):
        assert_same(read, found["plain.png"])


def test_file_and_list_measure_the_same_as_the_predictions_themselves(photos: Path, tmp_path: Path) -> None:
    found = predictions("masks")
    dataset = replace(read_coco(write(tmp_path / "truth.json", found), photos), source=photos)
    moved = {name: replace(one[1:], labels=np.roll(one.labels[1:], 1)) for name, one in found.items()}
    truths = [record.load_truth() for record in dataset.records]
    metrics = ["coco", "errors"]
    expected = evaluate_predictions(truths, list(moved.values()), NAMES, has_masks=True, metrics=metrics)
    assert 0.1 < expected.metrics["mask/AP50"] < 0.9
    for results_only in (False, True):
        file = write(tmp_path / "found.json", moved, results_only=results_only)
        measured, _ = evaluate_results(file, dataset, metrics=metrics)
        assert measured.metrics == expected.metrics


def test_images_are_found_by_name_whatever_their_ids(photos: Path, tmp_path: Path) -> None:
    found = predictions("boxes")
    dataset = read_coco(write(tmp_path / "truth.json", found), photos)
    turned = dict(reversed(found.items()))  # other ids
    for name, read in zip(found, read_results(write(tmp_path / "found.json", turned), dataset), strict=True):
        assert_same(read, found[name])


def changed(path: Path, **lists: Any) -> Path:
    content = json.loads(path.read_text())
    for key, change in lists.items():
        change(content[key])
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"images": lambda i: i.pop()}, r"does not list 1 of the 5 images of .*empty\.png"),
        ({"images": lambda i: i[0].update(file_name="other.png")}, r"entry 0: its image, with the id 1"),
        ({"images": lambda i: i[0].update(width=7)}, r"images\[0\]: plain\.png has the .* \(40, 7\)"),
        ({"images": lambda i: i[0].update(file_name=None)}, r"images\[0\]: an image needs an id and a file"),
        ({"images": lambda i: i.append({**i[0], "id": 9})}, r"plain\.png and plain\.png are both"),
        ({"annotations": lambda a: a[2].update(image_id=77)}, r"entry 2: image_id 77; the file has 1, 2"),
        (
            {"annotations": lambda a: a[2].update(category_id=4)},
            r"entry 2: category_id 4; the file has 3, 11",
        ),
        ({"annotations": lambda a: a[2].pop("score")}, r"entry 2: lacks score"),
        ({"annotations": lambda a: a[2].update(keypoint_scores=[1])}, r"entry 2: keypoint_scores \[1\]"),
        ({"categories": lambda c: c[0].update(id="x")}, r"categories\[0\].*integer id"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    photos: Path, tmp_path: Path, lists: dict[str, Any], message: str
) -> None:
    found = predictions("keypoints")
    dataset = replace(read_coco(write(tmp_path / "truth.json", found), photos), source=photos)
    if "file_name" in message or "its image" in message:  # the data has no such image, and lacks none
        dataset = replace(dataset, records=dataset.records[1:])
    file = changed(write(tmp_path / "found.json", found), **lists)
    with pytest.raises(ValueError, match=rf"found\.json.*{message}"):
        read_results(file, dataset)


def test_images_that_the_data_lack_may_be_listed_without_detections(photos: Path, tmp_path: Path) -> None:
    found = predictions("boxes")
    dataset = read_coco(write(tmp_path / "truth.json", found), photos)
    read = read_results(tmp_path / "truth.json", replace(dataset, records=dataset.records[:4]))
    assert [len(one) for one in read] == [6, 6, 6, 6]
