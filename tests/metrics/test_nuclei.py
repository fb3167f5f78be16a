"""Metrics of nuclei: hand-worked, and equal to the definitions written out on dense masks."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from objects import SIZE, filled, instances
from rcnn.metrics import nuclei
from rcnn.metrics.nuclei import NUCLEI_METRICS, hausdorff_distance, label_maps, nuclei_metrics, tally
from rcnn.structures import Instances, Masks


def boxes(corners, scores=None, size=SIZE, **present) -> Instances:
    """Objects that fill their boxes."""
    found = instances(corners, scores=scores, masks=filled(corners, size), **present)
    return replace(found, size=size)


def measured(truth, predicted, threshold=0.5):
    return nuclei_metrics([truth], [predicted], threshold).pooled


def test_hand_worked_case() -> None:
    # One object of 100 pixels found in its upper 80; another missed 40 columns further; one prediction of 50
    # pixels on nothing, 20 rows below the missed one's first row.
    truth = boxes([[0, 0, 10, 10], [50, 0, 60, 10]])
    found = boxes([[0, 0, 10, 8], [50, 20, 60, 25]], scores=[0.9, 0.8])
    got = measured(truth, found)
    assert got["F1_50"] == got["F1_75"] == pytest.approx(2 * 1 / 4)
    assert got["F1_80"] == 0.0  # IoU 0.8 is not above 0.8
    assert got["F1"] == pytest.approx(0.5 * 6 / 10)
    assert (got["SQ"], got["RQ"], got["PQ"]) == pytest.approx((0.8, 0.5, 0.4))
    assert got["AJI"] == got["AJI_plus"] == pytest.approx(80 / (100 + 100 + 50))
    assert got["pixel_dice"] == pytest.approx(2 * 80 / (200 + 130))
    assert got["object_F1"] == pytest.approx(0.5)
    dice = 160 / 180
    assert got["object_dice"] == pytest.approx((80 / 130 * dice + 100 / 200 * dice) / 2)
    # The missed and the spurious one take each other as nearest: rows 0 to 9 from rows 20 to 24.
    apart = 20.0
    expected = ((80 * 2 + 50 * apart) / 130 + (100 * 2 + 100 * apart) / 200) / 2
    assert got["object_hausdorff"] == pytest.approx(expected)


def test_pooled_and_per_image_differ_as_they_should() -> None:
    many = [[12 * i, 0, 12 * i + 8, 8] for i in range(4)]
    truths = [boxes(many), boxes([[0, 0, 8, 8]])]
    found = [boxes(many, scores=[0.9] * 4), boxes([[40, 40, 48, 48]], scores=[0.9])]
    got = nuclei_metrics(truths, found, 0.5)
    assert (got.pooled["F1_50"], got.per_image["F1_50"]) == pytest.approx((8 / 10, 0.5))
    assert (got.pooled["AJI"], got.per_image["AJI"]) == pytest.approx((4 / 6, 0.5))
    assert set(got.pooled) == set(got.per_image) == set(NUCLEI_METRICS)


def test_glas_counts_what_covers_the_object_whatever_lies_beside() -> None:
    # Twice the object's size: IoU 0.5 is not above 0.5, yet all of the object is covered.
    got = measured(boxes([[0, 0, 10, 10]]), boxes([[0, 0, 20, 10]], scores=[0.9]))
    assert (got["F1_50"], got["object_F1"]) == (0.0, 1.0)
    half = measured(boxes([[0, 0, 10, 10]]), boxes([[0, 0, 5, 10]], scores=[0.9]))
    assert half["object_F1"] == 0.0


def test_one_prediction_over_two_objects_serves_both_in_aji_and_one_in_aji_plus() -> None:
    truth = boxes([[0, 0, 10, 10], [10, 0, 20, 10]])
    got = measured(truth, boxes([[0, 0, 20, 10]], scores=[0.9]))
    assert got["AJI"] == pytest.approx(200 / 400)
    assert got["AJI_plus"] == pytest.approx(100 / (200 + 100))


def test_a_pixel_belongs_to_the_better_score_and_to_the_truth_listed_first() -> None:
    truth = boxes([[0, 0, 10, 10], [5, 0, 15, 10]])
    found = boxes([[2, 0, 12, 10], [0, 0, 8, 10], [3, 0, 7, 10]], scores=[0.6, 0.9, 0.7])
    true_map, predicted_map = label_maps(truth, found, 0.5)
    assert true_map[0, :16].tolist() == [1] * 10 + [2] * 5 + [0]
    # The third lies wholly below the best one and is no object any more.
    assert predicted_map[0, :13].tolist() == [1] * 8 + [2] * 4 + [0]
    assert tally(truth, found, 0.5).predicted == 2
    assert tally(truth, found, 0.8).predicted == 1


@pytest.mark.parametrize("mark", ["crowd", "difficult"])
def test_void_counts_neither_way(mark) -> None:
    truth = boxes([[0, 0, 10, 10], [30, 0, 40, 10]], **{mark: [False, True]})
    # The second has 60 of 100 pixels on the void and goes; the third 40, and keeps the rest.
    found = boxes([[0, 0, 10, 10], [34, 0, 44, 10], [24, 0, 34, 10]], scores=[0.9, 0.8, 0.7])
    got = tally(truth, found, 0.5)
    assert (got.objects, got.predicted, got.predicted_area) == (1, 2, 160)


def test_nothing_and_one_sided_images() -> None:
    nothing = Instances.empty(SIZE)
    one = boxes([[0, 0, 10, 10]], scores=[0.9])
    both_empty = measured(nothing, nothing)
    assert all(both_empty[name] == 1.0 for name in ("F1", "PQ", "AJI", "pixel_dice", "object_dice"))
    assert math.isnan(both_empty["object_hausdorff"])
    for truth, found in ((one, nothing), (nothing, one)):
        got = measured(truth, found)
        assert all(got[name] == 0.0 for name in ("F1", "PQ", "AJI", "AJI_plus", "object_F1", "object_dice"))
        assert got["object_hausdorff"] == pytest.approx(math.hypot(*SIZE))
    assert math.isnan(nuclei_metrics([], [], 0.5).pooled["AJI"])
    assert math.isnan(nuclei_metrics([], [], 0.5).per_image["AJI"])


def test_objects_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="without masks"):
        measured(instances([[0, 0, 10, 10]]), Instances.empty(SIZE))


# The definitions, written out on dense masks


def random_labels(rng, count, size) -> np.ndarray:
    """Discs that do not overlap: a later one covers earlier ones."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    labels = np.zeros(size, dtype=np.int64)
    for label in range(1, count + 1):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        labels[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(2, 7) ** 2] = label
    return labels


def disturbed(rng, labels) -> np.ndarray:
    """Moved, with some objects merged, some lost, some new."""
    moved = np.roll(labels, rng.integers(-2, 3, 2), (0, 1))
    there = np.unique(moved[moved > 0])
    for label in there[rng.random(len(there)) < 0.2]:
        moved[moved == label] = 0
    pair = rng.choice(there, 2, replace=False)
    moved[moved == pair[0]] = pair[1]
    new = random_labels(rng, 4, labels.shape)
    return np.where((moved == 0) & (new > 0), new + moved.max(), moved)


def bitmaps(labels) -> np.ndarray:
    return np.stack([labels == label for label in np.unique(labels) if label])


def as_instances(masks, scores=None) -> Instances:
    windows = Masks.from_dense(masks)
    labels = np.zeros(len(masks), np.int64)
    return Instances(windows.size, windows.boxes(), labels, scores, windows)


def dense_hausdorff(a, b) -> float:
    return max(distance_transform_edt(~b)[a].max(), distance_transform_edt(~a)[b].max())


def written_out(true, found) -> dict[str, float]:
    """Every metric from bitmaps ``[N, H, W]`` and ``[P, H, W]``, as the sources define it."""
    common = np.array([[(t & f).sum() for f in found] for t in true], dtype=float)
    joined = np.array([[(t | f).sum() for f in found] for t in true], dtype=float)
    iou, n, p = common / joined, len(true), len(found)
    got = {}
    for i in range(10):
        hits = (iou > round(0.5 + 0.05 * i, 2)).sum()
        got[f"F1_{50 + 5 * i}"] = hits / (hits + (p - hits) / 2 + (n - hits) / 2)
    got["F1"] = np.mean(list(got.values()))
    hits = iou[iou > 0.5]
    got |= {"SQ": hits.mean(), "RQ": got["F1_50"], "PQ": hits.mean() * got["F1_50"]}
    for name, pairs in (
        ("AJI", [(i, iou[i].argmax()) for i in range(n)]),
        ("AJI_plus", list(zip(*linear_sum_assignment(-iou), strict=True))),
    ):
        pairs = [(i, j) for i, j in pairs if iou[i, j] > 0]
        above, below = sum(common[i, j] for i, j in pairs), sum(joined[i, j] for i, j in pairs)
        below += sum(true[i].sum() for i in range(n) if i not in {i for i, _ in pairs})
        below += sum(found[j].sum() for j in range(p) if j not in {j for _, j in pairs})
        got[name] = above / below
    a, b = true.any(0), found.any(0)
    got["pixel_dice"] = 2 * (a & b).sum() / (a.sum() + b.sum())
    # GlaS
    covering = sum(common[:, j].max() > 0.5 * true[common[:, j].argmax()].sum() for j in range(p))
    precision, recall = covering / p, covering / n
    got["object_F1"] = 2 * precision * recall / (precision + recall)
    dices, distances = [], []
    for ones, others, table in ((found, true, common.T), (true, found, common)):
        total = sum(one.sum() for one in ones)
        dice = distance = 0.0
        for one, row in zip(ones, table, strict=True):
            other = others[row.argmax()]
            if row.max() > 0:
                dice += one.sum() / total * 2 * row.max() / (one.sum() + other.sum())
                distance += one.sum() / total * dense_hausdorff(one, other)
            else:
                distance += one.sum() / total * min(dense_hausdorff(one, o) for o in others)
        dices.append(dice)
        distances.append(distance)
    return got | {"object_dice": sum(dices) / 2, "object_hausdorff": sum(distances) / 2}


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definitions_on_dense_masks(seed) -> None:
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, 18, (70, 90))
    true, found = bitmaps(labels), bitmaps(disturbed(rng, labels))
    got = measured(as_instances(true), as_instances(found, np.ones(len(found), np.float32)))
    expected = written_out(true, found)
    assert got == pytest.approx({name: expected[name] for name in NUCLEI_METRICS}, abs=1e-9)
    assert got["AJI"] <= got["AJI_plus"] or math.isclose(got["AJI"], got["AJI_plus"])
    assert 0.1 < got["F1_50"] < 1


@pytest.mark.parametrize("all_pairs", [0, 2**20])
def test_hausdorff_distance_is_symmetric_and_that_of_all_pairs(all_pairs, monkeypatch) -> None:
    monkeypatch.setattr(nuclei, "ALL_PAIRS", all_pairs)
    rng = np.random.default_rng(0)
    for _ in range(5):
        one, other = (rng.integers(0, 20, (int(rng.integers(1, 30)), 2)) for _ in range(2))
        there = max(min(math.dist(a, b) for b in other) for a in one)
        back = max(min(math.dist(a, b) for a in one) for b in other)
        assert hausdorff_distance(one, other) == pytest.approx(max(there, back))
        assert hausdorff_distance(other, one) == pytest.approx(max(there, back))


def test_two_thousand_objects_take_seconds_not_gigabytes() -> None:
    corners = [[20 * i, 20 * j, 20 * i + 15, 20 * j + 15] for i in range(50) for j in range(40)]
    moved = [[x + 1, y + 1, x2 + 1, y2 + 1] for x, y, x2, y2 in corners[:-200]]
    size = (820, 1020)
    truth, found = boxes(corners, size=size), boxes(moved, scores=[0.9] * len(moved), size=size)
    began = time.process_time()
    got = measured(truth, found)
    assert time.process_time() - began < 20
    assert got["F1_50"] == pytest.approx(2 * 1800 / 3800)
    assert got["pixel_dice"] == pytest.approx(2 * 1800 * 14 * 14 / (3800 * 225))
