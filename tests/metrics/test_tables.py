"""Tables of the metrics: their numbers, in the width of a terminal."""

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from objects import SIZE, A, B, filled, instances
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.metrics.metric import MetricResult
from rcnn.metrics.registry import METRICS
from rcnn.metrics.shown import MetricTable
from rcnn.structures import Instances

SPEED = {"images_per_second": 2.5, "decoding_seconds": 0.1, "backbone_seconds": 0.25, "peak_megabytes": 512.0}
OBJECTS = [n for n, row in METRICS.items() if row.about == "objects" and n not in ("keypoints", "speed")]


def printed(shown) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(shown)
    return console.file.getvalue()


def measured(truth, found):
    evaluation = evaluate_predictions([truth], [found], ("a", "b"), has_masks=True, metrics=OBJECTS)
    speed = MetricResult({f"speed/{name}": value for name, value in SPEED.items()})
    return replace(evaluation, measured=(*evaluation.measured, (METRICS["speed"], speed)))


def test_numbers_stand_in_their_rows() -> None:
    truth = instances([A, B], masks=filled([A, B]), proposals=[[float(x) for x in A]])
    text = printed(measured(truth, instances([A], scores=[0.9], masks=filled([A]))).table())
    rows = {line.strip().split("  ")[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["AJI+"][-2:] == ["50.0", "50.0"]
    assert rows["Hausdorff of objects, GlaS, px (Cell17's)"][-1] == "7.07"  # ½ (0 + ½ · 20 √2)
    assert rows["missed"][-2:] == ["1", "49.5"]
    assert rows["images per second"][-1] == "2.50"
    assert rows["backbone, s per image"][-1] == "0.2500"
    assert rows["2000"] == ["2000", "50.0", "50.0", "50.0"]
    assert "VOC07 mAP 54.5; VOC10 mAP 50.0; best F1 66.7 at score 0.90" in text
    assert "…" not in text


def test_nothing_is_a_dash() -> None:
    nothing = Instances.empty(SIZE, proposals=np.zeros((0, 4), np.float32))
    text = printed(measured(nothing, Instances.empty(SIZE)).table())
    assert "-" in text
    assert "nan" not in text


def test_every_metric_has_a_table_or_a_headline() -> None:
    for row in METRICS.values():
        assert row.table is not None or row.headline, row.name


def test_fractions_are_in_percent_and_texts_as_they_are() -> None:
    table = MetricTable("A title", ("", "value"), [("all", 0.5), ("counted", "0.5")], "A caption", bold=(0,))
    text = printed(table.rich())
    assert "A title, in %" in text
    assert "A caption" in text
    assert [line.split() for line in text.splitlines()][4:6] == [["all", "50.0"], ["counted", "0.5"]]
    assert "in %" not in printed(MetricTable("A title", ("", ""), [("a", "1")]).rich())
