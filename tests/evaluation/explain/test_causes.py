"""Each cause on a case where it is known: the shipped model, one setting or weight of it changed.

The truth is what the unchanged model finds, so that nothing is missed before the change.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import rcnn
from rcnn.evaluation.explain.explain import Case, explain, followed
from rcnn.evaluation.explain.passes import watch
from rcnn.evaluation.explain.subject import true_object
from rcnn.inference import tiles
from rcnn.inference.detector import Detector
from rcnn.io.images import read_image
from rcnn.loading import load_detector, sample_images
from rcnn.metrics.causes import CAUSES
from rcnn.structures import Instances

SIDE = 128


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("nuclei", "cpu", precision="float32")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return read_image(sample_images("nuclei")[1])[:SIDE, :SIDE]


@pytest.fixture(scope="module")
def truth(detector: Detector, image: np.ndarray) -> Instances:
    (found,) = detector.predict(image)
    assert len(found) >= 5
    return replace(found, scores=None)


def lost(detector: Detector, image: np.ndarray, truth: Instances, **asked: Any) -> dict[int, tuple[str, str]]:
    """The cause of each missed object, and the stage at which it is lost."""
    watched = watch(detector, image, **asked)
    case = Case.of(watched, truth, class_names=detector.class_names)
    causes = {}
    for index in case.missed:
        end = followed(watched, true_object(case.truth, index), case)
        assert end.cause in CAUSES
        stage = "" if end.chain is None or end.chain.lost_at is None else end.chain.lost_at.key
        causes[index] = (end.cause, stage)
    return causes


def with_settings(*settings: str) -> Detector:
    return load_detector("nuclei", "cpu", precision="float32", settings=settings)


def with_weights(detector: Detector, change: Callable[[Any], None]) -> Detector:
    """The detector with some weights changed."""
    network = copy.deepcopy(detector.network)
    with torch.no_grad():
        change(network)
    return replace(detector, network=network)


def test_nothing_is_missed_before_the_change(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    assert lost(detector, image, truth) == {}
    assert lost(detector, image, replace(truth, masks=None)) == {}


def test_a_threshold_raised(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    scores = detector.predict(image)[0].scores
    causes = lost(detector, image, truth, min_score=float(np.median(scores)))
    assert set(causes.values()) == {("threshold", "threshold")}
    assert len(causes) >= len(truth) // 2


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        (("model.rpn.post_nms=[1,1]",), "proposals"),
        (("model.rpn.pre_nms=[1,1]", "model.box.max_detections=1"), "top_k"),
    ],
    ids=["one proposal", "one anchor per level"],
)
def test_a_cap_on_proposals(
    image: np.ndarray, truth: Instances, settings: tuple[str, ...], stage: str
) -> None:
    causes = lost(with_settings(*settings), image, truth, max_detections=1)
    assert set(causes.values()) <= {("rpn_score", stage), ("cap", "cap")}
    assert list(causes.values()).count(("rpn_score", stage)) >= len(truth) - 4  # one proposal per level


def test_a_cap_on_detections(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    causes = lost(detector, image, truth, max_detections=2)
    assert set(causes.values()) == {("cap", "cap")}
    assert len(causes) == len(truth) - 2


def test_two_objects_at_one_place(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    """One box cannot count for both."""
    twice = truth[[*range(len(truth)), 0]]
    (cause,) = lost(detector, image, twice).values()
    assert cause == ("suppressed", "nms")


def test_neighbours_that_may_not_overlap(image: np.ndarray, truth: Instances) -> None:
    causes = lost(with_settings("model.box.nms_iou=0"), image, truth)
    overlaps = rcnn.structures.box_ious(truth.boxes, truth.boxes) - np.eye(len(truth))
    assert set(causes.values()) <= {("suppressed", "nms")}
    assert set(causes) <= set(np.flatnonzero(overlaps.max(1) > 0).tolist())


def test_a_class_swapped(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    """What was the nucleus' row now says "debris"."""
    settings = detector.network.settings
    network = type(detector.network)(2, settings).eval()
    state = detector.network.state_dict()
    wanted = network.state_dict()
    for name, values in state.items():
        if wanted[name].shape == values.shape:
            continue
        rows = len(wanted[name]) - len(values)  # a class more
        first = values[:rows] if "logits" not in name or "mask" in name else torch.zeros_like(values[:rows])
        state[name] = torch.cat([first, values])
    state["box.logits.bias"][0] = -20
    network.load_state_dict(state)
    swapped = replace(detector, network=network, class_names=("nucleus", "debris"))
    causes = lost(swapped, image, replace(truth, class_names=("nucleus", "debris")))
    assert set(causes.values()) == {("other_class", "class")}
    assert len(causes) == len(truth)


def test_anchors_too_large(image: np.ndarray, truth: Instances, detector: Detector) -> None:
    sizes = [[600 * size for size in level] for level in detector.network.settings.rpn.sizes]
    causes = lost(with_settings(f"model.rpn.sizes={sizes}"), image, truth)
    assert set(causes.values()) == {("anchors", "anchors")}
    assert len(causes) == len(truth)


@pytest.mark.parametrize(
    ("part", "stage"), [("box", "box"), ("rpn", "rpn_boxes")], ids=["of the second stage", "of the RPN"]
)
@pytest.mark.parametrize("log_size", [-5.0, -30.0], ids=["to small boxes", "to nothing"])
def test_deltas_scaled(
    detector: Detector, image: np.ndarray, truth: Instances, part: str, stage: str, log_size: float
) -> None:
    def change(network: Any) -> None:
        deltas = getattr(network, part).deltas
        deltas.bias.view(-1, 4)[:, 2:] += log_size * (5 if part == "box" else 1)

    causes = lost(with_weights(detector, change), image, truth)
    # Without a fitting anchor, an object is lost before its boxes are moved.
    assert set(causes.values()) <= {("loose", stage), *([("anchors", "anchors")] if part == "rpn" else [])}
    assert ("loose", stage) in causes.values()
    assert len(causes) == len(truth)


def test_background(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    def change(network: Any) -> None:
        network.box.logits.bias[-1] += 30.0

    causes = lost(with_weights(detector, change), image, truth)
    assert set(causes.values()) == {("background", "not_background")}
    assert len(causes) == len(truth)


def test_masks_inside_out(detector: Detector, image: np.ndarray, truth: Instances) -> None:
    def change(network: Any) -> None:
        network.mask.logits.weight *= -1
        network.mask.logits.bias *= -1

    changed = with_weights(detector, change)
    causes = lost(changed, image, truth)
    assert set(causes.values()) == {("outline", "mask")}
    assert len(causes) == len(truth)
    assert lost(changed, image, replace(truth, masks=None)) == {}  # boxes alone are found


def test_a_class_that_the_model_does_not_know(
    detector: Detector, image: np.ndarray, truth: Instances
) -> None:
    named = replace(truth, class_names=("platelet",))
    with pytest.warns(UserWarning, match="platelet"):
        causes = lost(detector, image, named)
    assert set(causes.values()) == {("unknown_class", "")}
    assert len(causes) == len(truth)


def test_between_tiles(
    detector: Detector, image: np.ndarray, truth: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles that share nothing, objects at their borders are cut, and each has one cause."""
    monkeypatch.setattr(tiles, "MAX_UNTILED_PIXELS", 100)
    monkeypatch.setattr(
        "rcnn.inference.detector.make_tiles", lambda size: tiles.make_tiles(size, side=96, overlap=0)
    )
    watched = watch(detector, image)
    assert len(watched.passes) == len(watched.tiles) == 9
    assert np.array_equal(watched.found.boxes, detector.predict(image)[0].boxes)
    rows = np.concatenate(watched.merged)
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(watched.found)))
    causes = lost(detector, image, truth)
    assert causes
    for index in range(len(truth)):
        shown = explain(detector, image, truth=truth, index=index)
        assert (shown.cause is not None) == (index in causes)
        x1, y1, x2, y2 = shown.window
        assert (x2 - x1) < SIDE
        assert (y2 - y1) < SIDE
