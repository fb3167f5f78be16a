"""The run report: complete, self-contained, small, escaped."""

import errno
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnn.data.dataset import Dataset, Record
from rcnn.evaluation import pictures, report
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.evaluation.report import write_report
from rcnn.metrics.causes import CAUSES, Causes, MissedObject
from rcnn.metrics.matches import ImageMatch
from rcnn.metrics.metric import Evaluation, MetricResult
from rcnn.metrics.registry import METRICS
from rcnn.metrics.tables import COCO_COLUMNS
from rcnn.structures import Instances, Masks

NAMES = ("<b>&cell$", "_hidden")
HISTORY = [
    *({"iteration": i, "loss": 3 / i, "loss/rpn_box": 1 / i, "lr": 0.01 * i} for i in range(1, 900)),
    {"iteration": 900, "val/loss": 0.5, "box/AP": 0.3, "box/AP50": float("nan"), "mask/AP": None},
]


def make_data(
    folder: Path, images: int, *, side: int = 60, noise: bool = False
) -> tuple[Dataset, list[Instances]]:
    """Images with two objects each; predictions find the first and, in every other image, invent one."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    records, predictions = [], []
    for i in range(images):
        pixels = np.zeros((side, side, 3), np.uint8)
        if noise:
            pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        path = folder / f"image <{i}>.png"
        Image.fromarray(pixels).save(path)
        boxes = np.array([[5, 5, 25, 25], [30, 30, 50, 50]], np.float32)
        truth = Instances((side, side), boxes, np.array([0, 1]), class_names=NAMES, path=path)
        records.append(Record(path, i, truth))
        found = replace(truth, scores=np.array([0.9, 0.8], np.float32))[: 1 + i % 2]
        predictions.append(
            replace(found, boxes=found.boxes + np.array([[0], [-9]], np.float32)[: len(found)])
        )
    return Dataset("shapes", folder, NAMES, records), predictions


def measure(dataset: Dataset, predictions: list[Instances]) -> Evaluation:
    truths = [record.truth for record in dataset.records]
    return evaluate_predictions(truths, predictions, NAMES, has_masks=False)


def write(path: Path, **changes: object) -> str:
    values = {
        "title": "a <run>",
        "facts": {"data": "x & y"},
        "history": HISTORY,
        "evaluation": None,
        "dataset": None,
        "predictions": [],
        "seconds": {"training": 61.0},
    }
    return write_report(path, **{**values, **changes}).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks the nesting, and gathers the ids and whatever is referred to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


def test_a_full_report_has_every_section_and_needs_nothing_beside_it(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 10)
    html = write(
        tmp_path / "new" / "report.html",
        evaluation=measure(dataset, predictions),
        dataset=dataset,
        predictions=predictions,
    )
    page = Page(html)
    assert page.open == [], "every element is closed"
    assert len(page.ids) == len(set(page.ids)), "ids are unique though there are several drawings"
    for reference in page.references:
        assert reference.startswith("data:image/jpeg;base64,") or reference[1:] in page.ids
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import|<link", html)
    for heading in (
        *(
            "Data and settings",
            "Loss",
            "Loss terms",
            "Metrics on held-out images",
            "Learning rate",
        ),
        *("Precision and recall of boxes at IoU 0.5", "AP by object size"),
        *("COCO metrics of 10 images, in %", "By class, in %"),
        *("Scores of true and false detections", "True and predicted objects per image"),
        *("Best", "Median", "Worst", "Time per stage"),
    ):
        assert heading in page.headings, heading
    assert "Errors, detections of any score, in %" in page.headings
    threshold = re.search(r"best F1, at score ≥ ([.0-9]+)", html)
    assert threshold is not None
    assert f"Totals, detections with score ≥ {threshold[1]}" in page.headings, (
        "each count names its threshold"
    )
    order = [page.headings.index(name) for name in ("Best", "Worst", "Median", "Loss", "Data and settings")]
    assert order == sorted(order), "pictures come first"
    assert page.headings[:3] == ["What it finds", "Best", "Worst"]
    assert "AP50 of boxes is" in html
    assert "<th>duplicate</th>" in html
    assert html.count("data:image/jpeg") == 18, "truth and prediction of nine images"


def test_texts_are_escaped(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 3)
    html = write(
        tmp_path / "r.html",
        evaluation=measure(dataset, predictions),
        dataset=dataset,
        predictions=predictions,
    )
    for text in (
        "a &lt;run&gt;",
        "x &amp; y",
        "&lt;b&gt;&amp;cell$",
        "image &lt;0&gt;.png",
        "_hidden, AP50",
    ):
        assert text in html, text
    assert "<b>&" not in html
    assert "<run>" not in html


def test_without_an_evaluation_the_training_is_shown(tmp_path: Path):
    page = Page(write(tmp_path / "r.html"))
    assert "Loss" in page.headings
    assert not any(heading.startswith("Totals") for heading in page.headings)
    assert Page(write(tmp_path / "r.html", history=[], facts={}, seconds={})).headings == []


def test_what_is_not_a_number_is_a_dash(tmp_path: Path):
    nans = {f"box/{column}": math.nan for column in COCO_COLUMNS}
    result = MetricResult(nans, {"a": nans})
    nothing = Evaluation(((METRICS["coco"], result),), {}, {"a": 0}, ("box",), 100)
    html = write(tmp_path / "r.html", evaluation=nothing)
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL).lower()
    assert "<b>\N{EN DASH}</b>" in html


@pytest.mark.parametrize(("images", "side"), [(9, 700), (600, 60)])
def test_a_report_stays_small(tmp_path: Path, images: int, side: int):
    dataset, predictions = make_data(tmp_path / "data", images, side=side, noise=images < 10)
    html = write(
        tmp_path / "r.html",
        evaluation=measure(dataset, predictions),
        dataset=dataset,
        predictions=predictions,
    )
    assert len(html.encode()) < 2_000_000


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "r.html"
    path.write_text("old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert path.read_text() == "old"


def test_predictions_of_other_images_are_refused(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 3)
    with pytest.raises(ValueError, match="3 images, 2 predictions and 3 matches"):
        write(
            tmp_path / "r.html",
            evaluation=measure(dataset, predictions),
            dataset=dataset,
            predictions=predictions[:2],
        )


def matches_of(f1s: list[float]) -> list[ImageMatch]:
    return [ImageMatch((), (), (0,), (), num_true=1, num_predicted=0, f1=f1) for f1 in f1s]


@pytest.mark.parametrize(
    ("f1s", "best", "median", "worst"),
    [
        ([0.5], [0], [], []),
        ([0.5, 0.9], [1], [], [0]),
        ([0.1, 0.9, 0.5], [1], [2], [0]),
        ([i / 11 for i in range(11)], [10, 9, 8], [4, 5, 6], [0, 1, 2]),
        ([], [], [], []),
    ],
)
def test_the_images_shown(f1s: list[float], best: list[int], median: list[int], worst: list[int]):
    assert report._choose(report._by_f1(matches_of(f1s))) == {"Best": best, "Median": median, "Worst": worst}


def test_totals_by_hand(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 2)
    # Image 0: the first object found, the second missed. Image 1: one found, one moved away by 9 of 20 pixels
    # each way (IoU 121 / 679), so one missed and one spurious.
    rows = report._count_rows(measure(dataset, predictions), dataset, predictions)
    assert rows[0] == ["all", "4", "2", "-50.0%", "2", "2", "0", 1.0, 0.5], (
        "the threshold drops the spurious one"
    )
    assert rows[1] == ["<b>&cell$", "2", "2", "+0.0%", "2", "0", "0", 1.0, 1.0]
    assert rows[2] == ["_hidden", "2", "0", "-100.0%", "0", "2", "0", None, 0.0]


def test_totals_of_data_without_names_are_of_the_models_one_class(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 1)
    truth = replace(dataset.records[0].truth, labels=np.zeros(2, np.int64), class_names=("object",))
    dataset = Dataset("mask folders", tmp_path, ("object",), [replace(dataset.records[0], truth=truth)])
    found = [replace(predictions[0], class_names=("nucleus",))]
    evaluation = evaluate_predictions([truth], found, ("nucleus",), has_masks=False)
    (row,) = report._count_rows(evaluation, dataset, found)
    assert row[:3] == ["all", "2", "1"]


def test_smaller_masks_are_every_nth_pixel_of_the_full_ones():
    full = np.random.default_rng(1).random((4, 31, 46)) > 0.6
    full[1, :, :20] = False
    full[2, :17] = False
    full[3] = False
    instances = Instances(
        (31, 46), np.ones((4, 4), np.float32), np.zeros(4, np.int64), masks=Masks.from_dense(full)
    )
    small = pictures._smaller(instances, 3, (11, 16))
    assert small.masks is not None
    np.testing.assert_array_equal(small.masks.dense(), full[:, ::3, ::3])
    np.testing.assert_allclose(small.boxes, np.full((4, 4), 1 / 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "400 ms"), (59.0, "59.0 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds: float, text: str):
    assert report._duration(seconds) == text


def test_figures_are_in_percent_and_long_names_do_not_push_them_away(tmp_path: Path):
    dataset, predictions = make_data(tmp_path / "data", 3)
    evaluation = measure(dataset, predictions)
    html = write(tmp_path / "r.html", evaluation=evaluation, dataset=dataset, predictions=predictions)
    assert f"<b>{100 * evaluation.f1:.1f} %</b>" in html
    assert f"<b>{100 * evaluation.metrics['box/AP50']:.1f} %</b>" in html
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>|base64,[^\"]*", "", html, flags=re.DOTALL)
    shown = set(re.findall(r"(?<![.\d])[01]\.\d{3}(?!\d)", body))
    assert shown == {f"{evaluation.f1_threshold:.3f}"}, "only scores are no percentages"


def test_a_map_names_its_largest_classes():
    classes = np.repeat(np.arange(10), np.arange(10) * 4)  # class i has 4 i pixels
    names = ("background", *"abcdefghi")
    shape = (12, 15)
    found = Instances.empty(shape, semantic=classes.reshape(shape), semantic_names=names)
    panel, other = pictures.compare_maps(np.zeros((*shape, 3), np.uint8), found, found)
    assert (panel.title, other.title) == ("truth", "predicted")
    assert [name for _, name in panel.legend] == list("ihgfed")


def test_the_report_says_why_objects_were_missed(tmp_path: Path) -> None:
    dataset, predictions = make_data(tmp_path / "data", 4)
    evaluation = measure(dataset, predictions)
    missed = [
        MissedObject(match.path.name, number, index, "disk", [5, 5, 25, 25], cause, "")
        for number, match in enumerate(evaluation.matches)
        if match.path is not None
        for index, cause in zip(match.missed_truths, ("cap", "threshold"), strict=False)
    ]
    assert missed
    causes = Causes(missed, 12, 2, "box", 0.5, None, list(NAMES))
    html = write(
        tmp_path / "report.html", evaluation=replace(evaluation, causes=causes), dataset=dataset,
        predictions=predictions,
    )  # fmt: skip
    assert "Why objects were missed" in html
    for cause, count in causes.counts.items():
        assert f"{CAUSES[cause].title.capitalize()} ({count})" in html
        assert CAUSES[cause].meaning in html
    assert "Why objects were missed" not in write(
        tmp_path / "plain.html", evaluation=evaluation, dataset=dataset, predictions=predictions
    )
