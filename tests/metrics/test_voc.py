"""Pascal VOC's AP: hand-worked cases and each rule of the devkit."""

import math

import numpy as np
import pytest

from objects import FAR, SIZE, A, B, instances
from rcnn.metrics.voc import voc_ap, voc_metrics
from rcnn.structures import Instances


def ap(truths, predictions, **settings) -> float:
    return voc_metrics(truths, predictions, class_names=["a"], **settings).per_class["a"]


@pytest.mark.parametrize(
    ("recall", "precision", "eleven", "area", "why"),
    [
        ([1.0], [1.0], 1.0, 1.0, "perfect"),
        ([], [], 0.0, 0.0, "no detections"),
        ([0.5], [1.0], 6 / 11, 0.5, "half found: recalls 0 to 0.5 are six of eleven points"),
        ([0.5, 0.5, 1.0], [1.0, 0.5, 2 / 3], (6 + 5 * 2 / 3) / 11, 0.5 + 0.5 * 2 / 3, "true false true"),
        ([0.0, 0.5, 1.0], [0.0, 0.5, 2 / 3], 2 / 3, 2 / 3, "false first: the envelope lifts what is before"),
        ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0], 4 / 11, 0.3, "three of ten reach recall 0.3 exactly"),
        (
            [0.3, 0.3, 0.6, 0.6],
            [1.0, 0.5, 2 / 3, 0.5],
            (4 + 3 * 2 / 3) / 11,
            0.3 + 0.3 * 2 / 3,
            "ends at 0.6",
        ),
    ],
)
def test_voc_ap_of_a_curve(recall, precision, eleven, area, why) -> None:
    recall, precision = np.array(recall), np.array(precision)
    assert voc_ap(recall, precision, eleven_point=True) == pytest.approx(eleven), why
    assert voc_ap(recall, precision, eleven_point=False) == pytest.approx(area), why


def test_recall_of_whole_tenths_counts_at_that_tenth() -> None:
    for total in (10, 20, 30, 70):
        for tenth in range(1, 11):
            recall = np.array([(tenth * total // 10) / total])
            assert voc_ap(recall, np.ones(1), eleven_point=True) == pytest.approx((tenth + 1) / 11)


def test_both_kinds_on_two_images() -> None:
    truths = [instances([A, B]), instances([A, B])]
    # Pooled by score: true .9, false .8, true .7, true .6, and one of four objects is never found.
    predictions = [instances([A, FAR], scores=[0.9, 0.8]), instances([B, A], scores=[0.7, 0.6])]
    # recall .25 .25 .5 .75, precision 1 1/2 2/3 3/4
    assert ap(truths, predictions) == pytest.approx((3 * 1 + 5 * 0.75) / 11)
    assert ap(truths, predictions, eleven_point=False) == pytest.approx(0.25 * 1 + 0.5 * 0.75)


def test_iou_must_be_above_the_threshold() -> None:
    truth = instances([A])
    half = instances([[0, 0, 10, 5]], scores=[0.9])
    assert ap([truth], [half]) == 0.0
    assert ap([truth], [half], iou=0.499) == pytest.approx(1.0)


def test_iou_is_of_inclusive_pixels() -> None:
    # VOC's files: truth 1 1 10 10 against 1 1 10 6 share 60 of 100 pixels. Read as here: 0 0 10 10, 0 0 10 6.
    # Without the inclusive pixel it would be 9 * 5 / (9 * 9) = 0.556.
    truth, found = instances([[0, 0, 10, 10]]), instances([[0, 0, 10, 6]], scores=[0.9])
    assert ap([truth], [found], iou=0.59) == pytest.approx(1.0)
    assert ap([truth], [found], iou=0.61) == 0.0


def test_second_detection_of_an_object_is_false() -> None:
    found = instances([A, A, B], scores=[0.9, 0.8, 0.7])
    assert ap([instances([A, B])], [found], eleven_point=False) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_only_the_object_of_highest_iou_is_compared() -> None:
    # The second overlaps both by more than half, the taken one more: false, though the other is free.
    truth = instances([[0, 0, 10, 10], [3, 0, 13, 10]])
    found = instances([[0, 0, 10, 10], [1, 0, 11, 10]], scores=[0.9, 0.8])
    assert ap([truth], [found], eleven_point=False) == pytest.approx(0.5)


def test_difficult_counts_neither_way() -> None:
    truth = instances([A, B], difficult=[True, False])
    # On the difficult one twice, before the true one: neither is false, and neither object is missed.
    found = instances([A, A, B], scores=[0.9, 0.8, 0.7])
    assert ap([truth], [found]) == pytest.approx(1.0)
    assert ap([truth], [instances([FAR, A], scores=[0.9, 0.8])]) == 0.0
    assert math.isnan(ap([instances([A], difficult=[True])], [found]))


def test_crowd_counts_as_difficult() -> None:
    found = instances([A, B], scores=[0.9, 0.8])
    assert ap([instances([A, B], crowd=[True, False])], [found]) == pytest.approx(1.0)


def test_equal_scores_keep_their_order() -> None:
    truth = instances([A])
    first, second = instances([A, FAR], scores=[0.5, 0.5]), instances([FAR, A], scores=[0.5, 0.5])
    assert ap([truth], [first]) == pytest.approx(1.0)
    assert ap([truth], [second]) == pytest.approx(0.5)
    # And between images: the first image's comes first.
    nothing = Instances.empty(SIZE)
    false = instances([FAR], scores=[0.5])
    assert ap([nothing, truth], [false, instances([A], scores=[0.5])]) == pytest.approx(0.5)
    assert ap([truth, nothing], [instances([A], scores=[0.5]), false]) == pytest.approx(1.0)


def test_unsorted_predictions_are_ranked_within_their_image() -> None:
    # The better one comes second in the list: it takes the object, the other is the duplicate.
    found = instances([[0, 0, 10, 9], A], scores=[0.4, 0.9])
    assert ap([instances([A])], [found], eleven_point=False) == pytest.approx(1.0)


def test_mean_is_over_the_classes_with_truth() -> None:
    truth = instances([A, B], labels=[0, 1])
    found = instances([A, FAR, B], labels=[0, 1, 2], scores=[0.9, 0.8, 0.7])
    got = voc_metrics([truth], [found], class_names=["a", "b", "c"])
    assert got.mean_ap == pytest.approx(0.5)
    assert (got.per_class["a"], got.per_class["b"]) == (pytest.approx(1.0), 0.0)
    assert math.isnan(got.per_class["c"])


def test_nothing_at_all_and_boxes_without_area() -> None:
    nothing = Instances.empty(SIZE)
    assert math.isnan(voc_metrics([nothing], [nothing], class_names=["a"]).mean_ap)
    assert math.isnan(voc_metrics([], [], class_names=[]).mean_ap)
    assert ap([instances([A])], [nothing]) == 0.0
    # 0 / 0 with the point truth must not hide the overlap with the other.
    truth = instances([[5, 5, 5, 5], A])
    assert ap([truth], [instances([A, [5, 5, 5, 5]], scores=[0.9, 0.8])], eleven_point=False) == 0.5
