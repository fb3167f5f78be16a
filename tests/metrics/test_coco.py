"""COCO metrics: equal to pycocotools on real sets, and hand-worked cases."""

import contextlib
import copy
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from conftest import real_data
from objects import SIZE, filled, instances
from rcnn.metrics import coco
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.matches import IGNORED, pair
from rcnn.structures import Instances, Masks


def coco_truth(annotations: dict, image: dict, names: dict[int, int]) -> Instances:
    """One image of a COCO file."""
    mine = [a for a in annotations["annotations"] if a["image_id"] == image["id"]]
    size = (image["height"], image["width"])
    index = COCO()
    index.imgs = {image["id"]: image}
    corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
    return Instances(
        size,
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([names[a["category_id"]] for a in mine], np.int64),
        masks=Masks.from_rle([index.annToRLE(a) for a in mine], size),
        crowd=np.array([bool(a["iscrowd"]) for a in mine], bool),
        areas=np.array([a["area"] for a in mine], np.float32),
    )


def nuclei_truth(folder: Path) -> Instances:
    bitmaps = [np.asarray(Image.open(file)) for file in sorted((folder / "masks").glob("*.png"))]
    masks = Masks.from_dense(np.stack(bitmaps))
    return Instances(masks.size, masks.boxes(), np.zeros(len(masks), np.int64), masks=masks)


def perturbed(truth: Instances, num_classes: int, rng: np.random.Generator) -> Instances:
    """Predictions of middling quality: shifted truth, some twice, some of a wrong class, tied scores."""
    picks = rng.integers(0, max(len(truth), 1), len(truth) * 3 // 2)
    chosen = replace(truth[picks], crowd=None, areas=None)
    shift = rng.integers(-3, 4, (len(picks), 2))
    boxes = (chosen.boxes + np.tile(shift, 2) + rng.random((len(picks), 4))).astype(np.float32)
    other = rng.integers(0, num_classes, len(picks))
    labels = np.where(rng.random(len(picks)) < 0.2, other, chosen.labels)
    scores = ((rng.random(len(picks)) * 20).round() / 20).astype(np.float32)
    height, width = truth.size
    patches, origins = [], []
    for patch, (x1, y1, _, _), (dx, dy) in zip(
        chosen.masks.patches(), chosen.masks.windows.tolist(), shift.tolist(), strict=True
    ):
        x, y = min(max(x1 + dx, 0), width - 1), min(max(y1 + dy, 0), height - 1)
        patches.append(patch[: height - y, : width - x])
        origins.append((y, x))
    masks = Masks.from_patches(patches, origins, truth.size)
    order = np.argsort(-scores, kind="stable")
    return replace(chosen, boxes=boxes, labels=labels, scores=scores, masks=masks)[order]


def reference(
    annotations: dict, predictions: list[Instances], kind: str, cap: int, categories: list[int]
) -> tuple[dict[str, float], COCOeval]:
    """pycocotools's own answer, from its tables; a cap other than 100 is beyond its ``summarize``."""
    results = []
    for image, predicted in zip(annotations["images"], predictions, strict=True):
        for result in predicted.to_coco(image["id"], categories):
            # Its loadRes takes the box's area for the mask's where it finds a box.
            result.pop("bbox" if kind == "mask" else "segmentation", None)
            results.append(result)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm" if kind == "mask" else "bbox")
        evaluation.params.maxDets = [1, 10, cap]
        evaluation.evaluate()
        evaluation.accumulate()
    return tables_mean(evaluation.eval["precision"], evaluation.eval["recall"]), evaluation


def tables_mean(precision, recall) -> dict[str, float]:
    def mean(table):
        return table[table > -1].mean() if (table > -1).any() else math.nan

    found = {"AP": mean(precision[:, :, :, 0, 2])}
    found |= {"AP50": mean(precision[0, :, :, 0, 2]), "AP75": mean(precision[5, :, :, 0, 2])}
    for number, size in enumerate(("small", "medium", "large"), 1):
        found[f"AP_{size}"] = mean(precision[:, :, :, number, 2])
        found[f"AR_{size}"] = mean(recall[:, :, number, 2])
    for number, name in enumerate(("AR1", "AR10", "AR")):
        found[name] = mean(recall[:, :, 0, number])
    found |= {"AR50": mean(recall[0, :, 0, 2]), "AR75": mean(recall[5, :, 0, 2])}
    return found


def as_annotations(truths: list[Instances]) -> dict:
    """Mask truths of one class as a COCO file."""
    images = [{"id": n + 1, "height": t.size[0], "width": t.size[1]} for n, t in enumerate(truths)]
    annotations = []
    for image, truth in zip(images, truths, strict=True):
        for result, area in zip(truth.to_coco(image["id"]), truth.masks.areas().tolist(), strict=True):
            number = len(annotations) + 1
            annotations.append({**result, "id": number, "area": area, "iscrowd": 0})
    return {"images": images, "categories": [{"id": 1, "name": "nucleus"}], "annotations": annotations}


@pytest.fixture(scope="module")
def photographs() -> tuple[dict, list[Instances], list[str]]:
    folder = real_data("coco/annotations")
    annotations = json.loads((folder / "instances_train.json").read_text())
    crowded = {a["image_id"] for a in annotations["annotations"] if a["iscrowd"]}
    annotations["images"].sort(key=lambda image: (image["id"] not in crowded, image["id"]))
    annotations["images"] = sorted(annotations["images"][:30], key=lambda image: image["id"])
    kept = {image["id"] for image in annotations["images"]}
    annotations["annotations"] = [a for a in annotations["annotations"] if a["image_id"] in kept]
    assert any(a["iscrowd"] for a in annotations["annotations"])
    labels = {c["id"]: n for n, c in enumerate(annotations["categories"])}
    truths = [coco_truth(annotations, image, labels) for image in annotations["images"]]
    return annotations, truths, [c["name"] for c in annotations["categories"]]


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("cap", [100, 12])
def test_equals_pycocotools_on_photographs_with_crowds(photographs, kind, cap) -> None:
    annotations, truths, names = photographs
    rng = np.random.default_rng(3)
    predictions = [perturbed(truth, len(names), rng) for truth in truths]
    categories = [c["id"] for c in annotations["categories"]]
    expected, evaluation = reference(annotations, predictions, kind, cap, categories)
    got = coco_metrics(truths, predictions, kind=kind, class_names=names, max_detections=cap)
    assert got.metrics == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 0.1 < got.metrics["AP"] < 0.9
    for label, name in enumerate(names):
        curve = evaluation.eval["precision"][0, :, label, 0, 2]
        curve = np.where(curve < 0, np.nan, curve)
        np.testing.assert_allclose(got.precision[name], curve, rtol=0, atol=1e-6)
        own = evaluation.eval["precision"][:, :, [label]], evaluation.eval["recall"][:, [label]]
        assert got.per_class[name] == pytest.approx(tables_mean(*own), abs=1e-6, nan_ok=True)
    known = [values for values in got.per_class.values() if not math.isnan(values["AP"])]
    assert len(known) > 5
    assert len({values["AP_small"] for values in known}) > 3  # by size too they are not all the same


def test_equals_pycocotools_summarize_where_that_is_defined(photographs) -> None:
    annotations, truths, names = photographs
    rng = np.random.default_rng(5)
    predictions = [perturbed(truth, len(names), rng) for truth in truths]
    categories = [c["id"] for c in annotations["categories"]]
    _, evaluation = reference(annotations, predictions, "mask", 100, categories)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    got = coco_metrics(truths, predictions, kind="mask", class_names=names).metrics
    sizes = [f"{what}_{size}" for what in ("AP", "AR") for size in ("small", "medium", "large")]
    names = ["AP", "AP50", "AP75", *sizes[:3], "AR1", "AR10", "AR", *sizes[3:]]
    assert [got[name] for name in names] == pytest.approx(evaluation.stats.tolist(), abs=1e-6)


@pytest.fixture(scope="module")
def nuclei() -> list[Instances]:
    """Three images of few nuclei, and the one with the least above ninety (pycocotools is slow on more)."""
    counts = {f: len(list((f / "masks").iterdir())) for f in real_data("nuclei/val").iterdir()}
    folders = sorted(counts, key=lambda folder: (counts[folder], folder.name))
    crowded = next(folder for folder in folders if counts[folder] > 90)
    return [nuclei_truth(folder) for folder in (*folders[:3], crowded)]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_equals_pycocotools_on_nuclei_beyond_a_hundred(nuclei, kind) -> None:
    truths = nuclei
    rng = np.random.default_rng(7)
    predictions = [perturbed(truth, 1, rng) for truth in truths]
    assert max(len(predicted) for predicted in predictions) > 100
    annotations = as_annotations(truths)
    found = {}
    for cap in (100, 500):
        expected, _ = reference(annotations, predictions, kind, cap, [1])
        got = coco_metrics(truths, predictions, kind=kind, class_names=["nucleus"], max_detections=cap)
        assert got.metrics == pytest.approx(expected, abs=1e-6, nan_ok=True)
        found[cap] = got.metrics["AP50"]
    assert found[500] > found[100] + 0.02


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("most", [1, 40])
def test_a_few_classes_at_a_time_give_the_same(photographs, monkeypatch, kind, most) -> None:
    _, truths, names = photographs
    rng = np.random.default_rng(3)
    predictions = [perturbed(truth, len(names), rng) for truth in truths]
    together = coco_metrics(truths, predictions, kind=kind, class_names=names)
    held = []
    index = coco._indexed
    monkeypatch.setattr(
        coco, "_indexed", lambda *given: (held.append(sum(map(len, given[2]))), index(*given))[1]
    )
    monkeypatch.setattr(coco, "MOST_AT_ONCE", most)
    packed = [[replace(one, masks=one.masks.packed()) for one in images] for images in (truths, predictions)]
    apart = coco_metrics(*packed, kind=kind, class_names=names)
    assert repr(apart) == repr(together), "to the last bit"
    fullest = max(
        sum(int((one.labels == label).sum()) for images in packed for one in images)
        for label in range(len(names))
    )
    assert max(map(sum, zip(held[::2], held[1::2], strict=True))) <= max(most, fullest)
    assert len(held) > 4


def test_nothing_is_printed(capfd) -> None:
    found = instances([[0, 0, 10, 10]], scores=[0.9])
    coco_metrics([instances([[0, 0, 10, 10]])], [found], kind="box", class_names=["a"])
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_hand_worked_case() -> None:
    truth = instances([[0, 0, 10, 10], [20, 20, 30, 30]])
    # IoU 1 with the first, a false one, then 0.8 with the second: true at 0.50 to 0.80, 7 of 10 thresholds.
    found = instances([[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 28]], scores=[0.9, 0.8, 0.7])
    got = coco_metrics([truth], [found], kind="box", class_names=["a"])
    both = (51 * 1 + 50 * 2 / 3) / 101  # recalls 0 to 0.5 at precision 1, 0.51 to 1 at 2/3
    one = 51 / 101
    assert got.metrics["AP50"] == pytest.approx(both)
    assert got.metrics["AP"] == pytest.approx((7 * both + 3 * one) / 10)
    assert got.metrics["AR1"] == pytest.approx(0.5)
    assert got.metrics["AR"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert got.recall[50:52] == [0.5, 0.51]
    assert got.precision["a"][50:52] == pytest.approx([1.0, 2 / 3])


def test_a_class_without_truth_is_nan_and_left_out_of_the_mean() -> None:
    truth = instances([[0, 0, 10, 10]])
    found = instances([[0, 0, 10, 10], [0, 0, 10, 10]], labels=[0, 1], scores=[0.9, 0.8])
    got = coco_metrics([truth], [found], kind="box", class_names=["a", "b"])
    assert got.metrics["AP"] == pytest.approx(1.0)
    assert got.per_class["a"]["AP"] == pytest.approx(1.0)
    assert math.isnan(got.per_class["b"]["AP"])
    assert all(math.isnan(p) for p in got.precision["b"])


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_no_predictions_are_zero_and_no_truth_is_nan(kind) -> None:
    bitmap = np.zeros((1, *SIZE))
    bitmap[:, 10:20, 10:20] = 1
    truth = instances([[10, 10, 20, 20]], masks=Masks.from_dense(bitmap))
    nothing = Instances.empty(SIZE)
    got = coco_metrics([truth], [nothing], kind=kind, class_names=["a"])
    assert (got.metrics["AP"], got.metrics["AR"]) == (0.0, 0.0)
    assert math.isnan(got.metrics["AP_large"])
    found = replace(truth, scores=np.array([0.5], np.float32))
    for prediction in (nothing, found):
        assert math.isnan(coco_metrics([nothing], [prediction], kind=kind, class_names=["a"]).metrics["AP"])
    assert math.isnan(coco_metrics([], [], kind=kind, class_names=["a"]).per_class["a"]["AP"])


def test_crowd_is_neither_found_nor_missed() -> None:
    truth = instances([[0, 0, 50, 50], [60, 60, 80, 80]], crowd=[True, False])
    # Two within the crowd, best scores; counted as false they would halve the precision and more.
    found = instances([[0, 0, 9, 9], [9, 9, 20, 20], [60, 60, 80, 80]], scores=[0.9, 0.8, 0.7])
    got = coco_metrics([truth], [found], kind="box", class_names=["a"])
    assert got.metrics["AP"] == pytest.approx(1.0)


def test_an_object_without_outline_is_neither_found_nor_missed_as_a_mask() -> None:
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]
    truth = instances(boxes, masks=filled(boxes), has_mask=[True, False])
    found = instances([boxes[0], boxes[1]], scores=[0.8, 0.9], masks=filled([boxes[0], [20, 20, 24, 30]]))
    got = {
        kind: coco_metrics([truth], [found], kind=kind, class_names=("a",)).metrics
        for kind in ("box", "mask")
    }
    assert got["mask"]["AP"] == pytest.approx(1.0)  # what is on its box is ignored
    assert got["box"]["AP"] == pytest.approx(1.0)  # its box counts
    lost = coco_metrics([truth], [found[[0]]], kind="box", class_names=("a",)).metrics
    assert lost["AR"] == pytest.approx(0.5)
    matching = {kind: pair(truth, found, kind) for kind in ("box", "mask")}
    assert matching["box"].found == [0, 1]
    assert matching["mask"].found == [0, IGNORED]
    assert matching["mask"].objects == [0]


def test_truth_areas_come_from_the_annotation_then_the_mask_then_the_box() -> None:
    bitmap = np.zeros((1, *SIZE))
    bitmap[:, :40, :20] = 1  # 800 pixels: small; its box of 40 x 40 would be medium
    boxes = [[0, 0, 40, 40]]
    found = instances(boxes, scores=[0.9])
    for truth, expected in (
        (instances(boxes), "medium"),
        (instances(boxes, masks=Masks.from_dense(bitmap)), "small"),
        (instances(boxes, masks=Masks.from_dense(bitmap), areas=[9999.0]), "large"),
    ):
        metrics = coco_metrics([truth], [found], kind="box", class_names=["a"]).metrics
        measured = [size for size in ("small", "medium", "large") if metrics[f"AP_{size}"] == 1.0]
        assert measured == [expected]


def test_cap_of_one_keeps_the_best() -> None:
    truth = instances([[0, 0, 10, 10], [20, 20, 30, 30]])
    found = instances([[20, 20, 30, 30], [0, 0, 10, 10]], scores=[0.6, 0.9])
    got = coco_metrics([truth], [found], kind="box", class_names=["a"], max_detections=1)
    assert got.metrics["AR"] == got.metrics["AR10"] == pytest.approx(0.5)
    assert got.metrics["AP"] == pytest.approx(51 / 101)


def test_what_does_not_belong_together_is_refused() -> None:
    truth, found = instances([[0, 0, 10, 10]]), instances([[0, 0, 10, 10]], scores=[0.9])
    cases = [
        ([truth, truth], [found], "1 images, truths of 2"),
        ([truth], [replace(found, size=(50, 50))], r"\(50, 50\)"),
        ([truth], [replace(found, scores=None)], "scores"),
        ([truth], [replace(found, scores=np.array([math.nan]))], "finite"),
        ([truth], [replace(found, labels=np.array([1]))], "labels 1 to 1"),
    ]
    for truths, predictions, message in cases:
        with pytest.raises(ValueError, match=message):
            coco_metrics(truths, predictions, kind="box", class_names=["a"])
    with pytest.raises(ValueError, match="without masks"):
        coco_metrics([truth], [found], kind="mask", class_names=["a"])
    with pytest.raises(ValueError, match="max_detections is 0"):
        coco_metrics([truth], [found], kind="box", class_names=["a"], max_detections=0)
