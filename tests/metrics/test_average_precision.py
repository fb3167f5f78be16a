"""Average precision of curves: worked cases, the definition, and COCO's own."""

import numpy as np
import pytest

from rcnn.metrics.average_precision import best_from, interpolated_ap


@pytest.mark.parametrize(
    ("recall", "precision", "points", "expected", "why"),
    [
        ([0.5], [1.0], 101, 51 / 101, "half of the recalls and 0"),
        ([0.5], [1.0], 11, 6 / 11, "likewise"),
        ([], [], 101, 0.0, "nothing found"),
        ([1.0], [1.0], 101, 1.0, "everything found"),
        ([0.0, 1.0], [0.0, 0.5], 11, 0.5, "a later precision counts for earlier recalls"),
    ],
)
def test_worked_cases(recall, precision, points, expected, why) -> None:
    found = interpolated_ap(np.array(recall), np.array(precision), points)
    assert found == pytest.approx(expected), why


@pytest.mark.parametrize("points", [11, 101])
def test_it_is_the_mean_of_the_best_precision_at_each_recall_or_beyond(points: int) -> None:
    rng = np.random.default_rng(points)
    for _ in range(20):
        true = rng.random(30) < 0.4
        hits = true.cumsum()
        recall, precision = hits / 25, hits / np.arange(1, 31)
        steps = [step / (points - 1) for step in range(points)]
        best = [precision[recall >= step].max(initial=0.0) for step in steps]
        assert interpolated_ap(recall, precision, points) == pytest.approx(np.mean(best), abs=1e-15)


def test_the_curve_does_not_rise() -> None:
    assert best_from(np.array([0.2, 0.9, 0.1, 0.4])).tolist() == [0.9, 0.9, 0.4, 0.4]
