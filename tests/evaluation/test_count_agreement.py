"""Bland and Altman's agreement of counts: worked numbers, classes, and the section of the report."""

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rcnn.data.dataset import Dataset, Record
from rcnn.evaluation.count_agreement import agreement_section, difference_chart
from rcnn.evaluation.evaluator import evaluate_predictions, measure_predictions
from rcnn.metrics.counts import ALL, CountAgreement
from rcnn.metrics.metric import Evaluation
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


def judged() -> dict[str, CountAgreement]:
    """Two images: a white missed; a red invented, a white taken for red, a crowd that does not count."""
    truths = [instances([0, 0, 1, 1], [0, 1, 2, 3]), instances([0, 1, 0], [0, 1, 5])]
    truths[1] = replace(truths[1], crowd=np.array([False, False, True]))
    return evaluated(truths, [instances([0, 0, 1], [0, 1, 2]), instances([0, 0, 0, 0], [0, 1, 7, 5])]).counts


def evaluated(truths: list[Instances], found: list[Instances], names: tuple[str, ...] = NAMES) -> Evaluation:
    predictions = [replace(one, scores=np.full(len(one), 0.9, np.float32)) for one in found]
    return evaluate_predictions(truths, predictions, names, has_masks=False)


def test_counts_of_each_class_in_each_image() -> None:
    found = judged()
    assert list(found) in ([ALL, "White", "red"], [ALL, "red", "White"])
    assert (found["red"].true.tolist(), found["red"].predicted.tolist()) == ([2, 1], [2, 3])
    assert (found["White"].true.tolist(), found["White"].predicted.tolist()) == ([2, 1], [1, 0])
    assert (found[ALL].true.tolist(), found[ALL].predicted.tolist()) == ([4, 2], [3, 3])
    assert found["White"].bias == -1


def test_one_class_needs_no_sum_and_absent_ones_are_left_out() -> None:
    names = ("cell", "debris")
    truths = [instances([0], [0], names), instances([0, 0], [0, 1], names)]
    found = evaluated(truths, [instances([0], [0], names)] * 2, names).counts
    assert list(found) == ["cell"]
    assert (found["cell"].true.tolist(), found["cell"].predicted.tolist()) == ([1, 2], [1, 1])
    assert evaluated([instances([], [], names)], [instances([], [], names)], names).counts.keys() == {ALL}


def test_names_that_differ_in_case_are_one_class() -> None:
    truths = [instances([0], [0], ("Cell",)), instances([0, 0], [0, 1], ("Cell",))]
    data = Dataset("made", Path(), ("Cell",), [Record(Path(f"{i}"), i, t) for i, t in enumerate(truths)])
    predictions = [replace(instances([0], [0], ("cell",)), scores=np.ones(1, np.float32)) for _ in range(2)]
    (only,) = measure_predictions(Made(("cell",)), data, predictions).counts.values()
    assert (only.true.tolist(), only.predicted.tolist()) == ([1, 2], [1, 1])


@dataclass(frozen=True)
class Made:
    class_names: tuple[str, ...]


def test_the_file_of_the_evaluation_has_what_the_report_shows() -> None:
    truths = [instances([0, 0, 1, 1], [0, 1, 2, 3]), instances([0, 1], [0, 1])]
    evaluation = evaluated(truths, [instances([0, 0, 1], [0, 1, 2]), instances([0, 0, 0], [0, 1, 7])])
    stored = json.loads(json.dumps(evaluation.to_json()))["count_agreement"]
    assert stored.keys() == evaluation.counts.keys()
    for name, own in evaluation.counts.items():
        low, high = own.limits
        assert stored[name] == {
            "images": 2, "true_per_image": own.true.mean(), "bias": own.bias, "lower_limit": low,
            "upper_limit": high, "mean_error": own.mean_error,
        }  # fmt: skip
    assert agreement([5], [7]).to_json()["bias"] == 2
    single = evaluated([instances([0], [0])], [instances([0], [0])]).to_json()["count_agreement"]
    assert single["red"]["lower_limit"] is None


def test_the_section_of_the_report_has_every_class_with_its_numbers() -> None:
    html = agreement_section(judged())
    cells = re.sub(r"<[^>]+>", " ", html[html.index("<table") :])
    for expected in ("all classes 3.0 +0.00 -2.77 +2.77 1.00", "White 1.5 -1.00 -1.00 -1.00 1.00"):
        assert expected in re.sub(r"\s+", " ", cells)
    assert html.count("<svg") == 5, "a scatter and differences of each class, differences of all"
    assert agreement_section({}) == ""


@pytest.mark.parametrize(
    ("classes", "charts", "said"),
    [
        (1, 1, ""),
        (4, 9, ""),
        (5, 10, "one chart compares all, and the table has all"),
        (50, 10, "one chart compares the 40 most frequent, and the table has all"),
    ],
)
def test_many_classes_are_compared_in_one_chart(classes: int, charts: int, said: str) -> None:
    some = {f"$class_{i}": agreement([9, 50 - i, 4], [8, 50 - i, 4 + i % 3]) for i in range(classes)}
    html = agreement_section(some if classes == 1 else {ALL: agreement([1, 2, 3], [1, 2, 3]), **some})
    assert html.count("<svg") == charts
    assert ("most frequent have charts of their own" in html) == bool(said)
    assert said in html
    table = html[html.index("<table") :]
    assert all(f"$class_{i}<" in table for i in range(classes))
    names = re.findall(
        r"class_(\d+)<", html[html.index("Bias and limits") : html.index("<table")] if said else ""
    )
    assert len(set(names)) == (min(classes, 40) if said else 0)
    assert len(html) < 600_000


@pytest.mark.parametrize("same", [[3, 4, 5], [0, 0, 0]])
def test_perfect_counts(same: list[int]) -> None:
    found = agreement(same, same)
    assert (found.bias, found.limits, found.mean_error) == (0, (0, 0), 0)
    assert "<svg" in difference_chart(found, "a")
