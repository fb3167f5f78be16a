"""Panoptic quality on partitions worked by hand, and equal to the official code's on files of random ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rcnn.data.formats.coco_panoptic import write_panoptic
from rcnn.metrics.panoptic import Quality, panoptic_quality
from rcnn.structures import Panoptic

NAMES = ("cat", "dog", "grass", "sky")
CAT, DOG, GRASS = 0, 1, 2


def partition(row: str, labels: list[int], crowd: list[int] | None = None) -> Panoptic:
    """One row of pixels; a digit is a segment, 0 void."""
    segments = np.array([[int(c) for c in row]])
    marks = np.array(crowd or [0] * len(labels), bool)
    return Panoptic(segments, np.array(labels, np.int64), marks, NAMES, 2)


def counts(truth: Panoptic, found: Panoptic, name: str) -> tuple[int, int, int]:
    return panoptic_quality([truth], [found]).counts[name]


def test_the_worked_case() -> None:
    truth = partition("1111112222", [CAT, GRASS])
    found = partition("1111222233", [CAT, GRASS, DOG])
    quality = panoptic_quality([truth], [found])
    # cat 4 of 6; grass 2 of 6 pixels in either: no match; a dog that is none.
    assert quality.per_class["cat"] == Quality(pytest.approx(4 / 6), pytest.approx(4 / 6), 1.0)
    assert quality.per_class["grass"] == Quality(0, 0, 0)
    assert quality.counts == {"cat": (1, 0, 0), "dog": (0, 1, 0), "grass": (0, 1, 1), "sky": (0, 0, 0)}
    assert math.isnan(quality.per_class["sky"].pq)
    assert quality.things.pq == pytest.approx(4 / 6 / 2)
    assert quality.stuff == Quality(0, 0, 0)
    assert quality.all.pq == pytest.approx(4 / 6 / 3)


def test_an_iou_of_one_half_is_no_match() -> None:
    assert counts(partition("1122", [CAT, DOG]), partition("1222", [CAT, DOG]), "cat") == (0, 1, 1)
    assert counts(partition("11122", [CAT, DOG]), partition("11222", [CAT, DOG]), "cat") == (1, 0, 0)


def test_classes_are_told_apart() -> None:
    assert counts(partition("11", [CAT]), partition("11", [DOG]), "cat") == (0, 0, 1)
    assert counts(partition("11", [CAT]), partition("11", [DOG]), "dog") == (0, 1, 0)


def test_pixels_of_a_prediction_on_void_do_not_count() -> None:
    quality = panoptic_quality([partition("110000", [CAT])], [partition("111110", [CAT])])
    assert quality.per_class["cat"] == Quality(1, 1, 1)
    # Void in the prediction does: three of four pixels are missed.
    assert counts(partition("1111", [CAT]), partition("1000", [CAT]), "cat") == (0, 1, 1)


@pytest.mark.parametrize(
    ("truth", "crowd", "label", "false"),
    [
        ("0002", [0, 0], CAT, 0),  # three quarters on void
        ("0022", [0, 0], CAT, 1),  # just half
        ("1112", [1, 0], CAT, 0),  # on a crowd of its class
        ("1112", [1, 0], DOG, 1),  # on a crowd of another
        ("1022", [1, 0], CAT, 1),  # half on crowd and void together
        ("1002", [1, 0], CAT, 0),  # three quarters on both
    ],
)
def test_what_lies_on_void_and_crowds_is_passed_over(
    truth: str, crowd: list[int], label: int, false: int
) -> None:
    found = counts(partition(truth, [CAT, GRASS], crowd), partition("1111", [label]), NAMES[label])
    assert found[1] == false


def test_crowds_are_neither_found_nor_missed() -> None:
    crowd = partition("11", [CAT], [1])
    assert counts(crowd, partition("11", [CAT]), "cat") == (0, 0, 0)
    assert counts(crowd, partition("00", []), "cat") == (0, 0, 0)


def test_nothing_to_measure_is_nan() -> None:
    empty = partition("00", [])
    quality = panoptic_quality([empty], [empty])
    assert math.isnan(quality.all.pq)
    assert math.isnan(quality.things.sq)


def test_what_does_not_belong_together_is_refused() -> None:
    one = partition("11", [CAT])
    with pytest.raises(ValueError, match="predictions of 2"):
        panoptic_quality([one], [one, one])
    with pytest.raises(ValueError, match="size"):
        panoptic_quality([one], [partition("111", [CAT])])


def test_classes_are_told_by_name() -> None:
    truth = partition("1122", [CAT, GRASS])
    other = Panoptic(truth.segments, np.array([2, 0]), truth.crowd, ("GRASS", "dog", "cat"), 1)
    quality = panoptic_quality([truth], [Panoptic(**{**vars(other), "names": ("GRASS", "bee", "cat")})])
    assert quality.all.pq == 1
    assert list(quality.per_class) == [*NAMES, "bee"]
    assert quality.metrics["panoptic/PQ_stuff"] == 1
    assert quality.class_metrics()["cat"]["panoptic/SQ"] == 1


def random_partitions(rng: np.random.Generator, crowds: bool) -> tuple[Panoptic, Panoptic]:
    """Blocks of pixels, and the same with edges moved and classes changed; some void in either."""
    height, width = 24, 32
    segments = np.kron(rng.permutation(np.arange(12) % 9).reshape(3, 4), np.ones((8, 8), int))
    moved = np.roll(segments, rng.integers(0, 4), rng.integers(0, 2))
    moved[: rng.integers(1, 8), : rng.integers(1, width)] = 0
    segments[:, : rng.integers(1, 4)] = 0
    labels = rng.integers(0, 4, 8)
    marks = np.zeros(8, bool)
    if crowds:  # panopticapi knows one crowd of a class
        marks[[np.flatnonzero(labels == c)[0] for c in (CAT, DOG) if (labels == c).any()]] = True
    other = np.where(rng.random(8) < 0.2, rng.integers(0, 4, 8), labels)
    assert segments.shape == (height, width)
    return compact(segments, labels, marks), compact(moved, other, np.zeros(8, bool))


def compact(segments: np.ndarray, labels: np.ndarray, crowd: np.ndarray) -> Panoptic:
    """Without the segments that have no pixel, which files may not list."""
    there = np.unique(segments[segments > 0])
    numbers = np.zeros(9, int)
    numbers[there] = np.arange(len(there)) + 1
    return Panoptic(numbers[segments], labels[there - 1], crowd[there - 1], NAMES, 2)


@pytest.mark.parametrize("crowds", [False, True])
def test_equals_the_official_code_on_files(tmp_path: Path, crowds: bool) -> None:
    """That of Cityscapes, which is panopticapi's; it is installed as docs/metrics.md says."""
    official_code = pytest.importorskip("cityscapesscripts.evaluation.evalPanopticSemanticLabeling")
    rng = np.random.default_rng(4)
    pairs = [random_partitions(rng, crowds) for _ in range(12)]
    content = []
    for kind, side in (("true", 0), ("found", 1)):
        rows = [(i, f"{i}.png", pair[side]) for i, pair in enumerate(pairs)]
        file = write_panoptic(tmp_path / f"{kind}.json", rows)
        content.append(json.loads(file.read_text()))
    categories = {c["id"]: c for c in content[0]["categories"]}
    annotations = list(zip(content[0]["annotations"], content[1]["annotations"], strict=True))
    stat = official_code.pq_compute_single_core(
        0, annotations, tmp_path / "true", tmp_path / "found", categories
    )
    official = official_code.average_pq(stat, categories)
    ours = panoptic_quality([t for t, _ in pairs], [p for _, p in pairs])
    for name, quality in (("All", ours.all), ("Things", ours.things), ("Stuff", ours.stuff)):
        assert 0 < quality.pq < 1
        found = [official[name][key] for key in ("pq", "sq", "rq")]
        assert [quality.pq, quality.sq, quality.rq] == pytest.approx(found, abs=1e-12)
    for number, category in categories.items():
        assert ours.per_class[category["name"]].pq == pytest.approx(official["per_class"][number]["pq"])
