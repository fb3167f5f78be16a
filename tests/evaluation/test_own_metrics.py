"""Metrics of a user's own, about objects, pixels and partitions: measured, printed and reported like ours."""

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from conftest import ROOT
from objects import SIZE, A, B, filled, instances
from rcnn.data.dataset import Dataset, Record, Sample
from rcnn.evaluation.evaluator import evaluate, evaluate_predictions, measure_predictions
from rcnn.evaluation.report import write_report
from rcnn.metrics.metric import Evaluation, Metric, MetricInput, MetricResult
from rcnn.metrics.shown import Bars, Line, Lines, MetricTable
from rcnn.structures import VOID, Instances, MergeSettings

NAMES, PIXELS = ("cell",), ("cell", "ground", "sky")
HERE = __name__


def counted(inputs: MetricInput) -> MetricResult:
    """How far the numbers of objects are off."""
    off = [abs(len(p) - len(t)) for t, p in zip(inputs.truths, inputs.predictions, strict=True)]
    return MetricResult({"count/off": sum(off) / len(off)}, {"cell": {"count/off": sum(off)}}, per_image=off)


def count_table(evaluation: Evaluation) -> MetricTable:
    return MetricTable("My counts", ("", "off"), [("all", f"{evaluation.metrics['count/off']:.1f}")])


def count_curve(evaluation: Evaluation) -> list[Lines]:
    return [Lines("My count curve", "images", "off", [Line("count", (1, 2, 3), (0, 1, 4))])]


COUNT = Metric(
    "count", "how far counts are off", "objects", measure=counted, table=count_table, charts=count_curve,
    headline=(("count/off", "counts off"),), class_columns=(("count/off", "count off"),),
)  # fmt: skip


@dataclass
class Right:
    """Adds up the pixels that are right."""

    inputs: MetricInput
    right: int = 0
    known: int = 0

    def add(self, truth, predicted, /) -> None:
        self.known += int((truth != VOID).sum())
        self.right += int(((truth == predicted) & (truth != VOID)).sum())

    def result(self) -> MetricResult:
        names = dict.fromkeys(self.inputs.pixels.names, 1.0)
        shares = {name: {"right/share": share} for name, share in names.items()}
        return MetricResult({"right/share": self.right / self.known}, shares, per_image=[0.5, 1.0])


def right_table(evaluation: Evaluation) -> MetricTable:
    return MetricTable("My pixels", ("", "right"), [("all", evaluation.metrics["right/share"])])


def right_bars(evaluation: Evaluation) -> list[Bars]:
    return [Bars("My bars", "share", ("all",), {"right": [evaluation.metrics["right/share"]]})]


RIGHT = Metric(
    "right", "the share of pixels that are right", "pixels", tally=Right, table=right_table,
    charts=right_bars, headline=(("right/share", "pixels right"),),
)  # fmt: skip


class Segments:
    """Adds up the numbers of segments."""

    def __init__(self, inputs: MetricInput) -> None:
        assert inputs.merge is not None
        self.true = self.found = 0

    def add(self, truth, predicted, /) -> None:
        self.true, self.found = self.true + len(truth), self.found + len(predicted)

    def result(self) -> MetricResult:
        return MetricResult({"segments/ratio": self.found / self.true})


def segment_table(evaluation: Evaluation) -> MetricTable:
    return MetricTable("My segments", ("", "ratio"), [("all", evaluation.metrics["segments/ratio"])])


SEGMENTS = Metric("segments", "segments found per true one", "partition", tally=Segments, table=segment_table)


class Drawn(Dataset):
    """Black images."""

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return Sample(np.zeros((*SIZE, 3), np.uint8), record.load_truth(), record.image_id)


@dataclass
class Remembered:
    """Finds what it was told, in the order in which it is asked."""

    found: list[Instances]
    class_names: tuple[str, ...] = NAMES
    semantic_names: tuple[str, ...] = ()
    merge: MergeSettings | None = None

    def predict(self, images, *, min_score=None, max_detections=None) -> list[Instances]:
        taken, self.found = self.found[: len(images)], self.found[len(images) :]
        return taken


def pixel_map(*, half: int) -> np.ndarray:
    """Sky in the upper rows, ground below, and void in the last."""
    classes = np.full(SIZE, 1, np.uint8)
    classes[:half] = 2
    classes[-1] = VOID
    return classes


def scenes() -> tuple[Drawn, list[Instances]]:
    """Two images: in the first one object of two is found and a row of sky missed; the second is right."""
    first = instances([A, B], masks=filled([A, B]), semantic=pixel_map(half=50))
    second = instances([B], masks=filled([B]), semantic=pixel_map(half=50))
    truths = [
        Instances(**{**vars(t), "semantic_names": PIXELS, "class_names": NAMES}) for t in (first, second)
    ]
    masks, maps = [filled([A, B]), filled([B])], [truth.semantic for truth in truths]
    records = [
        Record(Path(f"{n}.png"), n, truth, lambda m=masks[n]: m, lambda s=maps[n]: s)
        for n, truth in enumerate(truths)
    ]
    found = [
        instances([box], scores=[0.9], masks=filled([box]), semantic=pixel_map(half=half).clip(max=2))
        for box, half in ((A, 49), (B, 50))
    ]
    found = [replace(one, class_names=NAMES, semantic_names=PIXELS) for one in found]
    return Drawn("shapes", Path("drawn"), NAMES, records, semantic_names=PIXELS), found


def printed(evaluation: Evaluation) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(evaluation.table())
    return console.file.getvalue()


def reported(evaluation: Evaluation, folder: Path) -> str:
    path = write_report(
        folder / "r.html", title="t", facts={}, history=[{"iteration": 1, "count/off": 0.5}],
        evaluation=evaluation, dataset=None, predictions=[], seconds={},
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


def test_one_about_objects_beside_ours(tmp_path: Path) -> None:
    dataset, found = scenes()
    evaluation, _ = evaluate(Remembered(found), dataset, metrics=[COUNT, "coco"])
    assert evaluation.metrics["count/off"] == 0.5
    assert evaluation.per_class["cell"]["count/off"] == 1
    assert "box/AP" in evaluation.metrics
    assert evaluation.headline_metric == "count/off", "the first of those named"
    text, page = printed(evaluation), reported(evaluation, tmp_path)
    assert "My counts" in text
    for said in ("My counts", "My count curve", "counts off", "COCO metrics of 2 images"):
        assert said in page, said
    assert page.count("<svg") == 7, (
        "two of ours and mine, scores, counts and their difference, mine over time"
    )
    values = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert values["metrics"]["count/off"] == 0.5
    assert values["families"] == ["count", "coco"]


def test_one_about_pixels(tmp_path: Path) -> None:
    dataset, found = scenes()
    detector = Remembered(found, (), PIXELS)
    evaluation, _ = evaluate(detector, dataset, metrics=[f"{HERE}:RIGHT", "semantic"])
    known = 2 * (SIZE[0] - 1) * SIZE[1]
    assert evaluation.metrics["right/share"] == pytest.approx(1 - SIZE[1] / known)
    assert evaluation.metrics["semantic/pixel_accuracy"] == evaluation.metrics["right/share"]
    assert evaluation.headline_metric == "right/share"
    assert not evaluation.has_objects
    text, page = printed(evaluation), reported(evaluation, tmp_path)
    assert "My pixels, in %" in text
    for said in ("My pixels", "My bars", "pixels right", "Pixel classes in 2 images"):
        assert said in page, said


def test_one_about_partitions(tmp_path: Path) -> None:
    dataset, found = scenes()
    detector = Remembered(found, NAMES, PIXELS, MergeSettings(min_stuff_area=1))
    evaluation, _ = evaluate(detector, dataset, metrics=[SEGMENTS, "panoptic"])
    assert evaluation.metrics["segments/ratio"] == (3 + 3) / (4 + 3)
    assert evaluation.headline_metric == "panoptic/PQ", "mine has no headline"
    assert "My segments" in printed(evaluation)
    assert "My segments" in reported(evaluation, tmp_path)


def test_the_report_shows_images_by_the_metric_of_each(tmp_path: Path) -> None:
    dataset, found = scenes()
    evaluation, predictions = evaluate(Remembered(found, (), PIXELS), dataset, metrics=[RIGHT])
    path = write_report(
        tmp_path / "r.html", title="t", facts={}, history=[], evaluation=evaluation, dataset=dataset,
        predictions=predictions, seconds={},
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert "Chosen by pixels right" in page
    assert page.count("data:image/jpeg") == 4, "truth and prediction of two images"


def test_objects_may_be_tallied_too() -> None:
    class Tallied:
        def __init__(self, inputs: MetricInput) -> None:
            self.images = 0

        def add(self, truth: Instances, predicted: Instances, /) -> None:
            self.images += 1

        def result(self) -> MetricResult:
            return MetricResult({"images/number": self.images})

    row = Metric("images", "how many", "objects", tally=Tallied)
    nothing = [instances([], scores=[])] * 3
    got = evaluate_predictions([instances([A])] * 3, nothing, NAMES, has_masks=False, metrics=[row])
    assert got.metrics == {"images/number": 3}
    assert "images/number 3" in " ".join(printed(got).split()), "without a table its values are shown"


def test_without_a_headline_nothing_says_how_good_a_model_is() -> None:
    dataset, found = scenes()
    evaluation, _ = evaluate(Remembered(found, NAMES, PIXELS, MergeSettings()), dataset, metrics=[SEGMENTS])
    with pytest.raises(ValueError, match="metrics segments: none of them has a headline"):
        _ = evaluation.headline_metric


def test_predictions_at_hand_are_measured_as_when_they_are_made() -> None:
    dataset, found = scenes()
    detector = Remembered(found, NAMES, PIXELS, MergeSettings(min_stuff_area=1))
    made, predictions = evaluate(detector, dataset)
    again = measure_predictions(detector, dataset, predictions)
    assert [metric.name for metric, _ in made.measured] == [
        "coco", "panoptic", "semantic", "voc07", "voc10", "nuclei", "errors",
    ]  # fmt: skip
    assert {**again.to_json(), "seconds": 0} == {**made.to_json(), "seconds": 0}
    with pytest.raises(ValueError, match="2 images, but predictions for 1"):
        measure_predictions(detector, dataset, predictions[:1])


def test_the_example_of_the_documents(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / "metrics.md").read_text("utf-8"), re.M | re.S
    )
    (example,) = [block for block in blocks if "COUNT = Metric(" in block]
    names: dict[str, Any] = {}
    exec(compile(example, "metrics.md", "exec"), names)
    dataset, found = scenes()
    evaluation, _ = evaluate(Remembered(found), dataset, metrics=[names["COUNT"]])
    assert evaluation.metrics["count/off"] == 0.5
    assert "Counts" in printed(evaluation)
    assert "Errors of the counts" in reported(evaluation, tmp_path)
