"""The four measures of FCN: a table worked by hand, void, absent classes, and counting by loops."""

import math

import numpy as np
import pytest

from rcnn.metrics.semantic import SemanticTally, confusion_matrix

NAMES = ("ground", "road", "car")
TRUTH = np.array([[0, 0, 0, 0], [0, 1, 1, 255]])
FOUND = np.array([[0, 0, 0, 1], [1, 1, 0, 2]])


def tallied(*pairs, names=NAMES):
    tally = SemanticTally(names)
    for truth, predicted in pairs:
        tally.add(truth, predicted)
    return tally.result()


def expected(iou, accuracy, share):
    return {"semantic/IoU": iou, "semantic/accuracy": accuracy, "semantic/share": share}


def test_by_hand():
    """Five of ground, three of them right; two of road, one right; the void pixel counts nowhere."""
    result = tallied((TRUTH, FOUND))
    assert result.confusion == [[3, 2, 0], [1, 1, 0], [0, 0, 0]]
    ground, road = 3 / (5 + 4 - 3), 1 / (2 + 3 - 1)
    assert result.per_class["ground"] == pytest.approx(expected(ground, 3 / 5, 5 / 7))
    assert result.per_class["road"] == pytest.approx(expected(road, 1 / 2, 2 / 7))
    assert math.isnan(result.per_class["car"]["semantic/IoU"])
    assert result.metrics == pytest.approx(
        {
            "semantic/mIoU": (ground + road) / 2,
            "semantic/pixel_accuracy": 4 / 7,
            "semantic/mean_accuracy": (3 / 5 + 1 / 2) / 2,
            "semantic/frequency_weighted_IoU": 5 / 7 * ground + 2 / 7 * road,
        },
    )
    assert result.per_image == pytest.approx([(ground + road) / 2])


def test_a_class_that_is_only_predicted_counts_as_missed_in_the_mean():
    """It has no accuracy, but an IoU of 0."""
    result = tallied((np.zeros((2, 2), int), np.array([[0, 0], [0, 2]])))
    assert result.metrics["semantic/mIoU"] == pytest.approx((3 / 4 + 0) / 2)
    assert result.metrics["semantic/mean_accuracy"] == pytest.approx(3 / 4)


def test_perfect_and_all_void_and_nothing():
    perfect = tallied((TRUTH.clip(max=2), TRUTH.clip(max=2)))
    assert set(perfect.metrics.values()) == {1.0}
    for empty in (tallied((np.full((2, 2), 255), np.zeros((2, 2), int))), tallied()):
        assert all(math.isnan(value) for value in empty.metrics.values())
    assert tallied().per_image == []


def test_images_add_up():
    """The measures are of all pixels together, not means over images."""
    rng = np.random.default_rng(0)
    truth, found = (rng.integers(0, 3, (2, 6, 5)) for _ in range(2))
    together = tallied(*zip(truth, found, strict=True))
    at_once = tallied((truth.reshape(12, 5), found.reshape(12, 5)))
    assert together.confusion == at_once.confusion
    assert together.metrics == pytest.approx(at_once.metrics)
    assert len(together.per_image) == 2


def test_confusion_equals_counting():
    rng = np.random.default_rng(1)
    truth, found = (rng.integers(0, 4, (9, 7)) for _ in range(2))
    truth[3] = 255
    counted = [[int(((truth == i) & (found == j)).sum()) for j in range(4)] for i in range(4)]
    assert confusion_matrix(truth, found, 4).tolist() == counted
    assert confusion_matrix(truth.astype(np.uint8), found.astype(np.uint8), 4).tolist() == counted


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), r"the truth is \[2, 2\], the prediction \[2, 3\]"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), "values of 3 in truth"),
        (np.zeros((2, 2), int), np.full((2, 2), 255), "255 in prediction"),
    ],
)
def test_maps_that_do_not_fit(truth, found, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(truth, found, 3)
