"""Tables of the families: their numbers, in the width of a terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from objects import SIZE, A, B, filled, instances
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.evaluation.tables import TABLES, metric_tables
from rcnn.metrics.registry import METRICS
from rcnn.structures import Instances

SPEED = {"images_per_second": 2.5, "decoding_seconds": 0.1, "backbone_seconds": 0.25, "peak_megabytes": 512.0}


def printed(truth, found, **settings) -> str:
    evaluation = evaluate_predictions(
        [truth], [found], ("a", "b"), has_masks=True, metrics=tuple(METRICS), speed=SPEED, **settings
    )
    console = Console(file=io.StringIO(), width=80)
    for table in metric_tables(evaluation):
        console.print(table.rich())
    return console.file.getvalue()


def test_numbers_stand_in_their_rows() -> None:
    truth = instances([A, B], masks=filled([A, B]), proposals=[[float(x) for x in A]])
    text = printed(truth, instances([A], scores=[0.9], masks=filled([A])))
    rows = {line.strip().split("  ")[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["AJI+"][-2:] == ["50.0", "50.0"]
    assert rows["Hausdorff of objects, GlaS, px (Cell17's)"][-1] == "7.07"  # ½ (0 + ½ · 20 √2)
    assert rows["missed"][-2:] == ["1", "49.5"]
    assert rows["images a second"][-1] == "2.50"
    assert rows["backbone, s an image"][-1] == "0.2500"
    assert rows["2000"] == ["2000", "50.0", "50.0", "50.0"]
    assert "…" not in text


def test_nothing_is_a_dash() -> None:
    nothing = Instances.empty(SIZE, proposals=np.zeros((0, 4), np.float32))
    text = printed(nothing, Instances.empty(SIZE))
    assert "-" in text
    assert "nan" not in text


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"coco", "voc07", "voc10"}))
def test_every_family_has_a_table(name) -> None:
    assert name in TABLES
