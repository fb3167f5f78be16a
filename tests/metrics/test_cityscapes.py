"""Cityscapes' AP: equal to its own scripts on generated files, and hand-worked cases."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from objects import FAR, SIZE, A, B, filled, instances
from rcnn.data.formats.cityscapes import THINGS
from rcnn.data.formats.open import open_data
from rcnn.metrics.cityscapes import IOUS, cityscapes_metrics, shared_pixels
from rcnn.structures import Instances, Masks

# Their ids and names of three classes with instances, and what is void.
CLASSES = {24: "person", 26: "car", 33: "bicycle"}
VOID_ID, ROAD_ID = 0, 7


def boxes(corners, scores=None, **present) -> Instances:
    return instances(corners, scores=scores, masks=filled(corners), **present)


def measured(truth, predicted, **settings):
    return cityscapes_metrics([truth], [predicted], class_names=("a",), **settings)


def test_hand_worked_case() -> None:
    big = [[0, 0, 20, 20], [30, 30, 50, 50]]
    # IoU 1 at 0.9, nothing at 0.8, and 0.9 at 0.7, which is above 0.5 to 0.85.
    found = boxes([[0, 0, 20, 20], [60, 60, 80, 80], [30, 30, 50, 48]], scores=[0.9, 0.8, 0.7])
    got = measured(boxes(big), found)
    # Points from the lowest score: (recall 1, precision 2/3), (1/2, 1/2), (1/2, 1), and (0, 1).
    both = 2 / 3 * (1 - 0.5) / 2 + 0.5 * (1 - 0.5) / 2 + 1 * 0.5 / 2 + 1 * 0.5 / 2
    assert got.ap_50 == pytest.approx(both)
    # With the third false: (1/2, 1/3), (1/2, 1/2), (1/2, 1), (0, 1).
    one = 0 + 0 + 0.5 / 2 + 0.5 / 2
    ious = sum(t < 0.9 for t in IOUS)
    assert got.ap == pytest.approx((ious * both + (10 - ious) * one) / 10)


def test_an_overlap_of_just_the_threshold_is_none() -> None:
    assert measured(boxes([[0, 0, 20, 20]]), boxes([[0, 0, 10, 20]], scores=[0.9])).ap_50 == 0.0
    assert measured(boxes([[0, 0, 20, 20]]), boxes([[0, 0, 11, 20]], scores=[0.9])).ap_50 == 1.0


def test_groups_small_objects_and_void_are_passed_over() -> None:
    truth = boxes([[0, 0, 20, 20], [40, 0, 80, 40], [0, 60, 9, 70]], crowd=[False, True, False])
    semantic = np.zeros(SIZE, np.int64)
    semantic[80:, :] = 255
    corners = [[0, 0, 20, 20], [40, 0, 60, 20], [0, 60, 8, 70], [0, 85, 20, 95], [60, 60, 75, 75]]
    found = boxes(corners, scores=[0.5, 0.9, 0.9, 0.9, 0.4])
    got = measured(replace(truth, semantic=semantic), found)
    # Only the last is false, and below the true one: (recall 1, precision 1/2), (1, 1), (0, 1).
    assert got.ap_50 == pytest.approx(0.5 * 0 + 1 * 0.5 + 1 * 0.5)
    assert measured(truth, found).ap_50 < got.ap_50  # without the map the one on the void is false


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    truth = boxes([[0, 0, 20, 20]])
    found = boxes([[0, 0, 20, 20], [40, 40, 60, 60]], labels=[0, 1], scores=[0.9, 0.9])
    got = cityscapes_metrics([truth], [found], class_names=("a", "b"))
    assert got.ap == got.per_class["a"]["AP"] == 1.0
    assert math.isnan(got.per_class["b"]["AP"])


def test_nothing() -> None:
    nothing = Instances.empty(SIZE)
    assert measured(boxes([[0, 0, 20, 20]]), nothing).ap == 0.0
    assert math.isnan(measured(nothing, boxes([[0, 0, 20, 20]], scores=[0.9])).ap)
    with pytest.raises(ValueError, match="without masks"):
        measured(instances([A]), nothing)


def test_shared_pixels_are_those_of_dense_masks() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.random((5, 30, 40)) < 0.3 for _ in range(2))
    one[:, 15:], other[:2, :, 20:], other[4] = False, False, False
    expected = (one[:, None] & other[None]).sum((2, 3))
    np.testing.assert_array_equal(shared_pixels(Masks.from_dense(one), Masks.from_dense(other)), expected)
    assert shared_pixels(filled([A, B]), filled([FAR])).tolist() == [[0.0], [0.0]]


def scripts():
    """Cityscapes' own evaluation."""
    pytest.importorskip(
        "cityscapesscripts",
        reason="pip install --no-deps cityscapesscripts pyquaternion appdirs coloredlogs humanfriendly",
    )
    from cityscapesscripts import evaluation
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling  # noqa: F401

    return evaluation.evalInstanceLevelSemanticLabeling


def scene(rng, size=(120, 200)):
    """An instance image as the scripts read it: void, road, objects, groups, small ones."""
    ids = np.full(size, ROAD_ID, dtype=np.int32)
    ids[: rng.integers(5, 25)] = VOID_ID
    for number in range(14):
        y, x = rng.integers(0, size[0] - 10), rng.integers(0, size[1] - 10)
        h, w = rng.integers(4, 40, 2)
        category = int(rng.choice(list(CLASSES)))
        ids[y : y + h, x : x + w] = category if rng.random() < 0.2 else category * 1000 + number
    return ids


def predicted_masks(rng, ids):
    """(class id, score, bitmap): objects moved, cut, doubled or of a wrong class, and some on nothing."""
    found = []
    for value in np.unique(ids):
        if value >= 24:
            for _ in range(int(rng.choice([0, 1, 1, 2]))):
                bitmap = np.roll(ids == value, rng.integers(-3, 4, 2), (0, 1))
                category = (
                    int(rng.choice(list(CLASSES)))
                    if rng.random() < 0.15
                    else int(value) // (1000 if value > 999 else 1)
                )
                found.append((category, round(float(rng.uniform(0.05, 1)), 1), bitmap))
    for _ in range(4):
        bitmap = np.zeros(ids.shape, dtype=bool)
        y, x = rng.integers(0, 60), rng.integers(0, 150)
        bitmap[y : y + 30, x : x + 30] = True
        found.append((int(rng.choice(list(CLASSES))), round(float(rng.uniform(0.05, 1)), 1), bitmap))
    return found


def as_predictions(found) -> Instances:
    masks = Masks.from_dense(np.stack([bitmap for *_, bitmap in found]))
    labels = np.array([list(THINGS.values()).index(category) for category, *_ in found])
    return Instances(masks.size, masks.boxes(), labels, np.array([s for _, s, _ in found], np.float32), masks)


def write_scene(folder, name, ids, found) -> tuple[str, str]:
    """A data set as published, beside it predictions and their masks as the scripts read them."""
    photos, gt = folder / "leftImg8bit" / "val" / "ulm", folder / "gtFine" / "val" / "ulm"
    for part in (photos, gt):
        part.mkdir(parents=True, exist_ok=True)
    truth, listed = gt / f"{name}_gtFine_instanceIds.png", folder / f"{name}_pred.txt"
    Image.fromarray(np.zeros((*ids.shape, 3), dtype=np.uint8)).save(photos / f"{name}_leftImg8bit.png")
    Image.fromarray(ids.astype(np.uint16)).save(truth)
    lines = []
    for number, (category, score, bitmap) in enumerate(found):
        Image.fromarray((bitmap * 255).astype(np.uint8)).save(folder / f"{name}_{number}.png")
        lines.append(f"{name}_{number}.png {category} {np.float32(score)}\n")
    listed.write_text("".join(lines))
    return str(truth), str(listed)


def test_equals_the_scripts_of_cityscapes(tmp_path, monkeypatch) -> None:
    evaluation = scripts()
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # which NumPy 2.4 has no more
    # What they write down on the way is not wanted, and not all of it is JSON to NumPy 2.
    monkeypatch.setattr(evaluation, "writeDict2JSON", lambda *_: None)
    rng = np.random.default_rng(0)
    scenes = [scene(rng) for _ in range(6)]
    found = [predicted_masks(rng, ids) for ids in scenes]
    files = [
        write_scene(tmp_path, f"ulm_{i:06}_000019", *s) for i, s in enumerate(zip(scenes, found, strict=True))
    ]
    settings = evaluation.args
    settings.predictionPath, settings.quiet, settings.JSONOutput = str(tmp_path), True, False
    settings.gtInstancesFile = str(tmp_path / "instances.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy 2, and of means over classes without objects
        theirs = evaluation.evaluateImgLists([p for _, p in files], [t for t, _ in files], settings)
    data = open_data(tmp_path)
    truths = [record.load_truth() for record in data.records]
    predictions = [as_predictions(f) for f in found]
    got = cityscapes_metrics(truths, predictions, class_names=data.class_names)
    averages = theirs["averages"]
    assert (got.ap, got.ap_50) == pytest.approx((averages["allAp"], averages["allAp50%"]), abs=1e-9)
    for name, values in got.per_class.items():
        expected = averages["classes"][name]
        own = expected["ap"], expected["ap50%"]
        assert (values["AP"], values["AP50"]) == pytest.approx(own, abs=1e-9, nan_ok=True)
        assert math.isnan(values["AP"]) == (name not in CLASSES.values())
    assert 0.1 < got.ap < 0.9
