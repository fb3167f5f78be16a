"""The division of errors: built cases with one error each, and equal to TIDE's own code where installed."""

import math
import warnings

import numpy as np
import pytest

from objects import FAR, SIZE, A, B, filled, instances
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.errors import ERROR_KINDS, analyse_errors
from rcnn.structures import Instances

HALF = 51 / 101  # AP where the better of two objects is found, and no more
THIRD = [0, 0, 10, 3]  # IoU 0.3 with A


def analysed(truth, predicted, kind="box", num_classes=2):
    return analyse_errors([truth], [predicted], kind=kind, num_classes=num_classes)


def only(got, error, count, cost) -> None:
    """This kind of error and no other."""
    assert {k: n for k, n in got.counts.items() if n} == {error: count}
    assert got.costs[error] == pytest.approx(cost)
    assert all(got.costs[k] == 0 for k in ERROR_KINDS if k != error)


@pytest.mark.parametrize(
    ("box", "label", "error", "gain"),
    [
        (THIRD, 0, "localisation", 1 - HALF),
        (A, 1, "classification", 1 - HALF),
        # What is dropped above the true one: precision 1/2 becomes 1, and the other object stays missed.
        (THIRD, 1, "both", None),
        (FAR, 0, "background", None),
    ],
)
def test_one_false_detection(box, label, error, gain) -> None:
    # B is found, at a lower score; A is not.
    truth = instances([A, B], labels=[0, 0])
    found = instances([box, B], labels=[label, 0], scores=[0.9, 0.8])
    got = analysed(truth, found)
    counts = {k: n for k, n in got.counts.items() if n}
    if gain is not None:
        assert counts == {error: 1}  # the object it points at is not missed
        assert got.costs["missed"] == 0
        assert got.ap + got.costs[error] == pytest.approx(1)
    else:
        assert counts == {error: 1, "missed": 1}
        # Class b has no object and is left out: a false detection of it costs nothing.
        assert got.ap == pytest.approx(HALF * (0.5 if label == 0 else 1))
        assert got.costs[error] == pytest.approx(HALF * (0.5 if label == 0 else 0))


def test_duplicate() -> None:
    truth = instances([A, B])
    found = instances([A, A, B], scores=[0.9, 0.8, 0.7])
    got = analysed(truth, found)
    only(got, "duplicate", 1, 1 - got.ap)
    assert got.ap == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_missed() -> None:
    got = analysed(instances([A, B]), instances([A], scores=[0.9]))
    assert got.ap == pytest.approx(HALF)
    only(got, "missed", 1, 1 - HALF)


def test_of_several_that_point_at_an_object_the_best_is_mended_and_the_others_dropped() -> None:
    found = instances([A, THIRD], labels=[1, 0], scores=[0.9, 0.8])
    got = analysed(instances([A]), found)
    assert (got.counts["classification"], got.counts["localisation"], got.counts["missed"]) == (1, 1, 0)
    # Mended, the first is true before the second, which stays; the second mended is dropped.
    assert (got.costs["classification"], got.costs["localisation"]) == pytest.approx((1.0, 0.0))


def test_a_found_object_cannot_be_found_again_by_mending() -> None:
    found = instances([A, THIRD], scores=[0.9, 0.95])
    got = analysed(instances([A]), found)
    assert got.ap == pytest.approx(0.5)
    only(got, "localisation", 1, 0.5)


def test_masks_decide_where_asked() -> None:
    truth = instances([A], masks=filled([A]))
    found = instances([A], scores=[0.9], masks=filled([[0, 0, 10, 3]]))
    assert analysed(truth, found).ap == 1.0
    only(analysed(truth, found, "mask"), "localisation", 1, 1.0)


@pytest.mark.parametrize("mark", ["crowd", "difficult"])
def test_detections_on_crowds_are_no_errors(mark) -> None:
    truth = instances([A, B], **{mark: [False, True]})
    got = analysed(truth, instances([A, B], scores=[0.8, 0.9]))
    assert got.ap == 1.0
    assert sum(got.counts.values()) == 0


def test_nothing() -> None:
    nothing = Instances.empty(SIZE)
    assert math.isnan(analysed(nothing, nothing).ap)
    got = analysed(nothing, instances([A], scores=[0.9]))
    assert math.isnan(got.ap)
    assert got.counts["background"] == 1
    with pytest.raises(ValueError, match="keypoints"):
        analysed(nothing, nothing, "keypoint")


def crowded_set(seed):
    """Images with errors of every kind; scores all differ, every class has objects."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(8):
        corners = rng.integers(0, 80, (7, 2))
        sides = rng.integers(8, 20, (7, 2))
        labels = np.arange(7) % 3
        truths.append(instances(np.concatenate([corners, corners + sides], 1), labels))
        picks = rng.integers(0, 7, 12)
        moved = corners[picks] + rng.integers(-4, 5, (12, 2))
        moved[rng.random(12) < 0.2] += 100  # beyond every object
        wrong = rng.random(12) < 0.3
        given = np.where(wrong, rng.integers(0, 3, 12), labels[picks])
        scores = -np.sort(-rng.random(12))
        boxes = np.concatenate([moved, moved + sides[picks]], 1)
        predictions.append(instances(boxes, given, scores))
    return truths, predictions


def test_ap_is_that_of_coco() -> None:
    truths, predictions = crowded_set(0)
    got = analyse_errors(truths, predictions, kind="box", num_classes=3)
    expected = coco_metrics(truths, predictions, kind="box", class_names=("a", "b", "c")).metrics["AP50"]
    assert got.ap == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_equals_tidecv(seed) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Not among the tools of development: it brings an OpenCV that clashes with that of selective search.
        tidecv = pytest.importorskip(
            "tidecv", reason="needs: pip install seaborn; pip install --no-deps tidecv"
        )
    truths, predictions = crowded_set(seed)
    true, found = tidecv.Data("truth"), tidecv.Data("found")
    for number, (truth, predicted) in enumerate(zip(truths, predictions, strict=True)):
        for result in truth.to_coco():
            true.add_ground_truth(number, result["category_id"], result["bbox"])
        for result in predicted.to_coco():
            found.add_detection(number, result["category_id"], result["score"], result["bbox"])
    tide = tidecv.TIDE()
    run = tide.evaluate(true, found, mode=tidecv.TIDE.BOX)
    costs = tide.get_main_errors()["found"]
    got = analyse_errors(truths, predictions, kind="box", num_classes=3)
    short = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), ERROR_KINDS, strict=True))
    assert got.ap == pytest.approx(run.ap / 100)
    counts = {error.short_name: count for error, count in run.count_errors().items()}
    assert got.counts == {short[name]: count for name, count in counts.items()}
    assert got.costs == pytest.approx({short[name]: cost / 100 for name, cost in costs.items()}, abs=1e-9)
    assert all(got.counts.values())
