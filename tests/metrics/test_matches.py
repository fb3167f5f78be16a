"""Matches by image and the best threshold: hand-worked cases, and all thresholds tried."""

import numpy as np
import pytest

from objects import FAR, SIZE, A, B, instances
from rcnn.metrics.matches import best_threshold, pair
from rcnn.structures import Instances


def paired(truths, predictions):
    return [pair(truth, found, "box") for truth, found in zip(truths, predictions, strict=True)]


def matched(truths, predictions):
    """The matches by image at the best threshold."""
    pairings = paired(truths, predictions)
    threshold, _ = best_threshold(pairings)
    return [pairing.at(threshold) for pairing in pairings]


def test_threshold_is_midway_below_the_last_detection_that_pays() -> None:
    truths = [instances([A, B]), instances([A])]
    predictions = [instances([A, B, FAR], scores=[0.9, 0.5, 0.25]), instances([FAR], scores=[0.125])]
    # F1 by threshold: .9 2*1/(1+3), .5 2*2/(2+3), .25 4/6, .125 4/7; best: two found of three, none spurious.
    assert best_threshold(paired(truths, predictions)) == pytest.approx(((0.5 + 0.25) / 2, 0.8))
    first, second = matched(truths, predictions)
    assert (first.matched_truths, first.matched_predictions) == ((0, 1), (0, 1))
    assert (first.missed_truths, first.spurious_predictions, first.f1) == ((), (), 1.0)
    assert (second.missed_truths, second.num_true, second.num_predicted, second.f1) == ((0,), 1, 0, 0.0)


def test_threshold_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    truths, predictions = [], []
    for _ in range(6):
        corners = rng.integers(0, 80, (8, 2))
        truths.append(instances(np.concatenate([corners, corners + 12], 1)))
        shift = rng.integers(-4, 5, (8, 2))
        scores = (rng.random(8) * 10).round() / 10
        moved = corners + shift
        predictions.append(instances(np.concatenate([moved, moved + 12], 1), scores=scores))
    threshold, f1 = best_threshold(paired(truths, predictions))

    def f1_at(threshold: float) -> float:
        kept = [p[p.scores >= threshold] for p in predictions]
        hits = sum(found >= 0 for pairing in paired(truths, kept) for found in pairing.found)
        return 2 * hits / (sum(map(len, truths)) + sum(map(len, kept)))

    assert f1 == pytest.approx(max(f1_at(step / 10 - 0.05) for step in range(11)))
    assert f1_at(threshold) == pytest.approx(f1)


def test_tied_scores_stand_or_fall_together() -> None:
    pairings = paired([instances([A])], [instances([A, FAR], scores=[0.5, 0.5])])
    threshold, f1 = best_threshold(pairings)
    assert f1 == pytest.approx(2 / 3)
    assert pairings[0].at(threshold).num_predicted == 2


@pytest.mark.parametrize("found", [Instances.empty(SIZE), instances([FAR], scores=[0.9])])
def test_without_a_true_detection_the_threshold_is_a_half(found) -> None:
    assert best_threshold(paired([instances([A])], [found])) == (0.5, 0.0)
    assert best_threshold([]) == (0.5, 0.0)


def test_empty_image_without_detections_is_perfect() -> None:
    nothing = Instances.empty(SIZE)
    got = matched([nothing, instances([A])], [nothing, instances([A], scores=[0.9])])
    assert got[0].f1 == 1.0
    found = [instances([FAR], scores=[0.95]), instances([A], scores=[0.9])]
    spurious = matched([nothing, instances([A])], found)[0]
    assert (spurious.f1, spurious.spurious_predictions) == (0.0, (0,))


def test_best_score_chooses_first_and_the_next_takes_what_is_free() -> None:
    truth = instances([[0, 0, 10, 10], [3, 0, 13, 10]])
    found = instances([[1, 0, 11, 10], [0, 0, 10, 10]], scores=[0.8, 0.9])
    match = matched([truth], [found])[0]
    assert dict(zip(match.matched_predictions, match.matched_truths, strict=True)) == {1: 0, 0: 1}


def test_class_must_agree() -> None:
    truth = instances([A, B, FAR], labels=[0, 1, 1])
    found = instances([A, B, FAR], labels=[0, 0, 1], scores=[0.9, 0.95, 0.8])
    match = matched([truth], [found])[0]
    assert match.matched_truths == (0, 2)
    assert (match.missed_truths, match.spurious_predictions) == ((1,), (1,))
