"""Bland and Altman's agreement of counts: worked numbers, classes, and the section of the report."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rcnn.data.dataset import Dataset, Record
from rcnn.evaluation.count_agreement import (
    ALL,
    CountAgreement,
    agreement_section,
    count_agreements,
    difference_chart,
)
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.metrics.matches import ImageMatch
from rcnn.structures import Instances

NAMES = ("red", "White")
SIZE = (100, 100)


def agreement(true: list[int], predicted: list[int]) -> CountAgreement:
    return CountAgreement(np.array(true, np.int64), np.array(predicted, np.int64))


def test_a_case_worked_by_hand() -> None:
    found = agreement([10, 20, 30], [11, 19, 33])
    assert found.differences.tolist() == [1, -1, 3]
    assert found.bias == 1
    assert_allclose(found.limits, (1 - 1.96 * 2, 1 + 1.96 * 2))  # std of 1, -1, 3 is 2
    assert_allclose(found.mean_error, 5 / 3)


def test_the_limits_hold_95_percent_of_normal_differences() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(200, 900, 20_000)
    found = CountAgreement(true, true + np.rint(rng.normal(4, 12, len(true))).astype(np.int64))
    low, high = found.limits
    inside = ((found.differences > low) & (found.differences < high)).mean()
    assert abs(inside - 0.95) < 0.01
    assert abs(found.bias - 4) < 0.3


def test_a_single_image_has_no_limits_and_none_has_nothing() -> None:
    assert agreement([5], [7]).bias == 2
    assert all(map(math.isnan, agreement([5], [7]).limits))
    assert math.isnan(agreement([], []).bias)
    assert difference_chart(agreement([], []), "a") == ""
    assert "<svg" in difference_chart(agreement([5], [7]), "a")


def instances(labels: list[int], boxes: list[int], names: tuple[str, ...] = NAMES) -> Instances:
    """Objects of 8 by 8 pixels in cells of a grid."""
    corners = np.array([[10 * (b % 10), 10 * (b // 10)] for b in boxes], np.float32).reshape(-1, 2)
    return Instances(
        SIZE, np.concatenate([corners, corners + 8], 1), np.array(labels, np.int64), class_names=names
    )


def judged() -> tuple[Dataset, list[Instances], list[ImageMatch]]:
    """Two images: a white missed; a red invented, a white taken for red, a crowd that does not count."""
    truths = [instances([0, 0, 1, 1], [0, 1, 2, 3]), instances([0, 1, 0], [0, 1, 5])]
    truths[1] = replace(truths[1], crowd=np.array([False, False, True]))
    found = [instances([0, 0, 1], [0, 1, 2]), instances([0, 0, 0, 0], [0, 1, 7, 5])]
    predictions = [replace(one, scores=np.full(len(one), 0.9, np.float32)) for one in found]
    records = [Record(Path(f"{i}.png"), i, truth) for i, truth in enumerate(truths)]
    matches = evaluate_predictions(truths, predictions, NAMES, has_masks=False).matches
    return Dataset("made", Path(), NAMES, records), predictions, matches


def test_counts_of_each_class_in_each_image() -> None:
    found = count_agreements(*judged())
    assert list(found) == [ALL, "White", "red"] or list(found) == [ALL, "red", "White"]
    assert (found["red"].true.tolist(), found["red"].predicted.tolist()) == ([2, 1], [2, 3])
    assert (found["White"].true.tolist(), found["White"].predicted.tolist()) == ([2, 1], [1, 0])
    assert (found[ALL].true.tolist(), found[ALL].predicted.tolist()) == ([4, 2], [3, 3])
    assert found["White"].bias == -1


def test_names_that_differ_in_case_are_one_class_and_one_class_needs_no_sum() -> None:
    truths = [instances([0], [0], ("Cell",)), instances([0, 0], [0, 1], ("Cell",))]
    predictions = [replace(instances([0], [0], ("cell",)), scores=np.ones(1, np.float32)) for _ in range(2)]
    dataset = Dataset("made", Path(), ("Cell",), [Record(Path(f"{i}"), i, t) for i, t in enumerate(truths)])
    matches = evaluate_predictions(truths, predictions, ("Cell",), has_masks=False).matches
    found = count_agreements(dataset, predictions, matches)
    (only,) = found.values()
    assert (only.true.tolist(), only.predicted.tolist()) == ([1, 2], [1, 1])


def test_the_section_of_the_report_has_every_class_with_its_numbers() -> None:
    html = agreement_section(*judged())
    cells = re.sub(r"<[^>]+>", " ", html[html.index("<table") :])
    for expected in ("all classes 3.0 +0.00 -2.77 +2.77 1.00", "White 1.5 -1.00 -1.00 -1.00 1.00"):
        assert expected in re.sub(r"\s+", " ", cells)
    assert html.count("<svg") == 5, "a scatter and differences of each class, differences of all"
    assert agreement_section(Dataset("none", Path(), NAMES, []), [], []) == ""


@pytest.mark.parametrize("same", [[3, 4, 5], [0, 0, 0]])
def test_perfect_counts(same: list[int]) -> None:
    found = agreement(same, same)
    assert (found.bias, found.limits, found.mean_error) == (0, (0, 0), 0)
    assert "<svg" in difference_chart(found, "a")
