"""What all readers share: boxes, classes, outlines and masks."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from rcnn.data.builder import Annotation, Bitmap, DatasetBuilder, Picture, lazy_masks
from rcnn.structures import Skeleton

TRIANGLE = [np.array([[2.0, 2], [12, 2], [2, 9]])]


def built(*outlines, holds=("outlines",)):
    """An image of 10 x 20 pixels with an object for each outline."""
    builder = DatasetBuilder("mine", Path("folder"), *holds)
    builder.declare_classes(["cell"])
    picture = builder.add(Picture(Path("folder/a.png"), (10, 20), "a"))
    for number, outline in enumerate(outlines):
        picture.annotations.append(Annotation((1, 2, 5, 8), 0, f"object {number}", outline))
    return builder.build()


def test_an_image_with_everything() -> None:
    builder = DatasetBuilder("mine", Path("folder"), "crowd", "difficult", "areas")
    builder.declare_classes(["cell", "dirt"], [3, 7])
    builder.skeleton = Skeleton(("nose", "tail"))
    picture = builder.add(Picture(Path("folder/a.png"), (10, 20), 5))
    points = np.array([[1, 2, 2], [0, 0, 0]], np.float32)
    picture.annotations.append(Annotation((1, 2, 5, 8), 1, "1", keypoints=points, crowd=True, area=7.5))
    picture.annotations.append(Annotation((0, 0, 2, 2), 0, "2", difficult=True))
    builder.add(Picture(Path("folder/b.png"), (4, 4), 6))
    data = builder.build()
    first, second = (record.truth for record in data.records)
    assert (data.format, data.class_names, data.category_ids) == ("mine", ("cell", "dirt"), (3, 7))
    assert first.boxes.tolist() == [[1, 2, 5, 8], [0, 0, 2, 2]]
    assert first.labels.tolist() == [1, 0]
    assert (first.crowd.tolist(), first.difficult.tolist()) == ([True, False], [False, True])
    assert first.areas.tolist() == [7.5, 4]
    assert first.keypoints[:, 0].tolist() == [[1, 2, 2], [0, 0, 0]]
    assert (second.boxes.shape, second.keypoints.shape) == ((0, 4), (0, 2, 3))
    for truth in (first, second):
        dtypes = [getattr(truth, name).dtype for name in ("boxes", "labels", "crowd", "areas", "keypoints")]
        assert dtypes == [np.float32, np.int64, np.bool_, np.float32, np.float32]


def test_what_a_format_does_not_say_is_absent() -> None:
    truth = built(None, holds=()).records[0].truth
    assert (truth.crowd, truth.difficult, truth.areas, truth.keypoints) == (None,) * 4


def test_boxes_are_judged_by_their_images() -> None:
    builder = DatasetBuilder("mine", Path("folder"))
    picture = builder.add(Picture(Path("folder/a.png"), (10, 20), "a"))
    assert builder.usable_box((-3, 2, 5, 8), picture, "1") == (0, 2, 5, 8)
    assert builder.usable_box((5, 2, 1, 8), picture, "2") is None
    assert [(p.annotation, p.severity) for p in builder.problems] == [("1", "warning"), ("2", "error")]


def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    builder = DatasetBuilder("mine", tmp_path)
    assert builder.add_file(tmp_path / "a.png", "a", "a.txt") is None
    assert str(builder.problems[0]).endswith("annotation a.txt: there is no such file. Replace the image.")
    assert builder.pictures == []


def test_masks_are_drawn_when_asked_for_and_travel_between_processes() -> None:
    (record,) = built(TRIANGLE, {"size": [10, 20], "counts": [5, 3, 192]}).records
    assert record.truth.masks is None
    masks = pickle.loads(pickle.dumps(record)).load_truth().masks
    assert masks.areas().tolist() == [34, 3]
    (record,) = built(Bitmap(np.ones((2, 3), bool), (4, 5))).records
    masks = pickle.loads(pickle.dumps(record)).load_truth().masks
    assert masks.windows.tolist() == [[5, 4, 8, 6]]
    assert masks.dense().sum() == 6


@pytest.mark.parametrize("count", [0, 1, 9])
def test_bitmaps_are_packed_without_loss(count: int) -> None:
    rng = np.random.default_rng(0)
    bitmaps = [Bitmap(rng.random((3, 5)) < 0.5, (i, 2 * i)) for i in range(count)]
    masks = lazy_masks(bitmaps, (30, 40))()
    for bitmap, patch in zip(bitmaps, masks.patches(), strict=True):
        np.testing.assert_array_equal(patch, bitmap.pixels)


def test_outlines_that_most_objects_have_are_missed_elsewhere() -> None:
    data = built(TRIANGLE, TRIANGLE, None)
    assert ["1 of 3 objects have a box but no segmentation: object 2." in p.what for p in data.problems] == [
        True
    ]
    assert data.records[0].truth.has_mask.tolist() == [True, True, False]
    few = built(TRIANGLE, None, None)
    assert [p.severity for p in few.problems] == ["warning"]
    assert not few.has_masks


def test_names_become_labels_at_the_end() -> None:
    builder = DatasetBuilder("mine", Path("folder"))
    picture = builder.add(Picture(Path("folder/a.png"), (10, 20), "a"))
    picture.annotations += [Annotation((0, 0, 5, 5), name, "1") for name in ("Cell", "cell", "dirt")]
    builder.declare_classes(["cell", "dirt"])
    builder.name_labels({"Cell": "cell", "cell": "cell", "dirt": "dirt"})
    assert builder.build().records[0].truth.labels.tolist() == [0, 0, 1]


def test_classes_alike_but_for_case_are_reported() -> None:
    builder = DatasetBuilder("mine", Path("folder"))
    builder.declare_classes(["cell", "Cell", "dirt"])
    assert "equal or differ only in case: cell, Cell." in str(builder.problems[0])
