"""The metrics: chosen by the data, refused by name and by what they lack, each measured."""

import math
from dataclasses import replace

import numpy as np
import pytest

from objects import A, B, filled, instances
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.metrics.metric import Metric, MetricInput, MetricResult
from rcnn.metrics.registry import BASIC, METRICS, choose_metrics

TRUTH = instances([A, B], masks=filled([A, B]))
FOUND = instances([A], scores=[0.9], masks=filled([A]))


AP = ("coco", "voc07", "voc10")
MINE = Metric(
    "mine", "a metric of one's own", "objects", measure=lambda inputs: MetricResult({"mine/x": 1.0})
)


def compared(**changed) -> MetricInput:
    one = MetricInput([TRUTH], [FOUND], ("a",), True, False, 100, 0.5)
    return replace(one, **changed)


def suitable(metrics, inputs) -> tuple[str, ...]:
    return tuple(row.name for row in choose_metrics(metrics).suitable(inputs, "objects"))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (*AP, "nuclei", "errors")),  # masks of one class
        ({"has_masks": False}, (*AP, "errors")),
        ({"class_names": ("a", "b")}, (*AP, "errors")),
        ({"class_names": ("a", "b"), "format": "cityscapes"}, (*AP, "cityscapes", "errors")),
        (
            {"truths": [replace(TRUTH, proposals=np.zeros((0, 4), np.float32))], "has_masks": False},
            (*AP, "errors", "proposals"),
        ),
        ({"class_names": ()}, ()),
    ],
    ids=["nuclei", "boxes", "classes", "cityscapes", "proposals", "no objects"],
)
def test_metrics_follow_the_data(changed, expected) -> None:
    assert suitable(None, compared(**changed)) == expected


def test_what_is_followed_in_training_is_what_suits_the_data() -> None:
    assert suitable(BASIC, compared()) == ("coco", "voc07")
    assert {"coco", "semantic", "panoptic"} <= set(BASIC)


def test_named_metrics_are_taken_once_and_in_order() -> None:
    assert suitable(("errors", "coco", "errors"), compared()) == ("errors", "coco")


def test_ones_own_are_named_by_row_and_by_dotted_path() -> None:
    assert suitable((MINE, "coco", f"{__name__}:MINE"), compared()) == ("mine", "coco")
    with pytest.raises(ValueError, match=r"expected an rcnn\.metrics\.metric\.Metric, found \[100"):
        choose_metrics([f"{__name__}:NO_METRIC"])
    with pytest.raises(ValueError, match="there is no module nowhere"):
        choose_metrics(["nowhere.at_all:MINE"])
    with pytest.raises(ValueError, match="two different metrics are called coco"):
        choose_metrics(["coco", replace(MINE, name="coco")])


NO_METRIC = [100]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'nuclie': unknown; did you mean nuclei"):
        choose_metrics(["coco", "nuclie"])
    with pytest.raises(ValueError, match="known are coco, panoptic"):
        choose_metrics(["zzzz"])


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("nuclei", "masks"), ("cityscapes", "masks"), ("proposals", "--proposals FILE"), ("speed", "MODEL"),
        ("keypoints", "keypoints"),
    ],
)  # fmt: skip
def test_what_a_metric_lacks_is_named(name, lacking) -> None:
    with pytest.raises(ValueError, match=f"metrics {name}: needs .*{lacking}"):
        suitable((name,), compared(has_masks=False))


def test_what_a_metric_about_something_else_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="metrics coco: needs a model that finds objects"):
        suitable(("coco",), MetricInput())
    for name, about in (("semantic", "pixels"), ("panoptic", "partition")):
        with pytest.raises(ValueError, match=f"metrics {name}: needs .*semantic maps"):
            choose_metrics([name]).suitable(MetricInput(), about)


def test_a_row_is_measured_in_one_way() -> None:
    with pytest.raises(ValueError, match="metric odd: give either measure or tally"):
        Metric("odd", "", "objects")
    with pytest.raises(ValueError, match="metric odd: metrics about pixels are tallied"):
        Metric("odd", "", "pixels", measure=MINE.measure)


def test_every_row_measures_what_its_module_does() -> None:
    truth = replace(TRUTH, proposals=TRUTH.boxes[:1])
    one = compared(truths=[truth], speed={"images_per_second": 2.0})
    metrics = {}
    for row in (row for row in METRICS.values() if row.measure is not None and row.name != "keypoints"):
        metrics |= row.measure(one).metrics
    half = 51 / 101
    assert metrics["box/AP50"] == metrics["mask/AP50"] == metrics["errors/AP50"] == pytest.approx(half)
    assert (metrics["errors/missed"], metrics["errors/missed_count"]) == pytest.approx((1 - half, 1))
    assert (metrics["voc07/mAP"], metrics["voc10/mAP"]) == pytest.approx((6 / 11, 0.5))
    assert metrics["nuclei/F1_50"] == metrics["nuclei_per_image/F1_50"] == pytest.approx(2 / 3)
    assert metrics["nuclei/threshold"] == 0.5
    assert metrics["proposals/recall50@1"] == pytest.approx(0.5)
    assert metrics["cityscapes/AP50"] == pytest.approx(0.5)
    assert metrics["speed/images_per_second"] == 2.0
    assert all(
        math.isfinite(value) for key, value in metrics.items() if not key.startswith(("box/", "mask/"))
    )


def test_evaluation_measures_what_is_named_only() -> None:
    got = evaluate_predictions([TRUTH], [FOUND], ("a",), has_masks=True, metrics=("errors",))
    assert [metric.name for metric, _ in got.measured] == ["errors"]
    assert set(got.metrics) == {key for key in got.metrics if key.startswith("errors/")}
    assert got.pr_curves == {}
    assert got.f1 == pytest.approx(2 / 3)


def test_the_threshold_given_is_that_of_the_nuclei_only() -> None:
    settings = {"has_masks": True, "metrics": ("nuclei",)}
    found = instances([A, [50, 50, 60, 60]], scores=[0.9, 0.4], masks=filled([A, [50, 50, 60, 60]]))
    best = evaluate_predictions([TRUTH], [found], ("a",), **settings)
    low = evaluate_predictions([TRUTH], [found], ("a",), **settings, threshold=0.1)
    assert best.metrics["nuclei/threshold"] == best.f1_threshold == low.f1_threshold
    assert (best.metrics["nuclei/F1_50"], low.metrics["nuclei/F1_50"]) == pytest.approx((2 / 3, 1 / 2))
