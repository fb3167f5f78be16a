"""The families of metrics: chosen by the data, refused by name and by what they lack, each measured."""

import math
from dataclasses import replace

import numpy as np
import pytest

from objects import A, B, filled, instances
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.metrics.registry import BASIC, METRICS, MetricInput, check_metric_names, choose_metrics

TRUTH = instances([A, B], masks=filled([A, B]))
FOUND = instances([A], scores=[0.9], masks=filled([A]))


def compared(**changed) -> MetricInput:
    one = MetricInput([TRUTH], [FOUND], ("a",), True, False, 100, 0.5)
    return replace(one, **changed)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (*BASIC, "nuclei", "errors")),  # masks of one class
        ({"has_masks": False}, (*BASIC, "errors")),
        ({"class_names": ("a", "b")}, (*BASIC, "errors")),
        ({"class_names": ("a", "b"), "format": "cityscapes"}, (*BASIC, "cityscapes", "errors")),
        (
            {"truths": [replace(TRUTH, proposals=np.zeros((0, 4), np.float32))], "has_masks": False},
            (*BASIC, "errors", "proposals"),
        ),
    ],
    ids=["nuclei", "boxes", "classes", "cityscapes", "proposals"],
)
def test_families_follow_the_data(changed, expected) -> None:
    assert choose_metrics(None, compared(**changed)) == expected


def test_named_families_are_taken_once_and_in_order() -> None:
    assert choose_metrics(("errors", "coco", "errors"), compared()) == ("errors", "coco")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'nuclie': unknown; did you mean nuclei"):
        check_metric_names(["coco", "nuclie"])
    with pytest.raises(ValueError, match="known are coco, voc07"):
        check_metric_names(["zzzz"])


@pytest.mark.parametrize(
    ("name", "lacking"),
    [("nuclei", "masks"), ("cityscapes", "masks"), ("proposals", "--proposals FILE"), ("speed", "MODEL")],
)
def test_what_a_family_lacks_is_named(name, lacking) -> None:
    with pytest.raises(ValueError, match=f"metrics {name}: needs .*{lacking}"):
        choose_metrics((name,), compared(has_masks=False))


def test_every_family_measures_what_its_module_does() -> None:
    truth = replace(TRUTH, proposals=TRUTH.boxes[:1])
    one = compared(truths=[truth], speed={"images_per_second": 2.0})
    metrics = {}
    for family in METRICS.values():
        metrics |= family.measure(one).metrics
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


def test_evaluation_measures_the_families_named_only() -> None:
    got = evaluate_predictions([TRUTH], [FOUND], ("a",), has_masks=True, metrics=("errors",))
    assert got.families == ("errors",)
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
