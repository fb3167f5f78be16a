"""Explanations of every kind of model: detections stay the same, causes add up, values are JSON."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rcnn.data.dataset import Dataset, Record
from rcnn.evaluation.evaluator import evaluate
from rcnn.evaluation.explain.explain import explain
from rcnn.evaluation.explain.missed import explain_data, explain_object, find_image
from rcnn.evaluation.explain.passes import NotExplainableError, watch
from rcnn.evaluation.explain.sections import SECTIONS
from rcnn.evaluation.explain.sentences import LEFT, LOST
from rcnn.inference.detector import Detector
from rcnn.metrics.causes import CAUSES
from rcnn.models.fast_rcnn import FastRCNN, FastRCNNSettings
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.models.rcnn import RCNN, RCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import CascadeSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import Instances, Masks
from rcnn.transform import Transform
from tiny import BOX, MASK, NAMES, SHARED, tiny_shapes

BACKBONE = BackboneSettings("efficientnet_lite0", (2,))
CASCADE = {**SHARED, "box": replace(BOX, cascade=CascadeSettings())}
KEYPOINT = KeypointHeadSettings(count=2, convs=1, channels=8, pool=MASK.pool)
SEMANTIC = SemanticHeadSettings(channels=8, groups=2)
BUILD: dict[str, Callable[[], Any]] = {
    "Faster R-CNN": lambda: FasterRCNN(2, FasterRCNNSettings(**SHARED)),
    "Faster R-CNN, not shared": lambda: FasterRCNN(2, FasterRCNNSettings(**SHARED, shared=False)),
    "Mask R-CNN": lambda: MaskRCNN(2, MaskRCNNSettings(**SHARED, mask=MASK)),
    "Mask R-CNN, cascade": lambda: MaskRCNN(2, MaskRCNNSettings(**CASCADE, mask=MASK)),
    "Keypoint R-CNN": lambda: KeypointRCNN(2, KeypointRCNNSettings(**SHARED, keypoint=KEYPOINT)),
    "Panoptic FPN": lambda: PanopticFPN(
        2, PanopticFPNSettings(**SHARED, mask=MASK, semantic=SEMANTIC), num_stuff=1
    ),
    "Fast R-CNN": lambda: FastRCNN(2, FastRCNNSettings(BACKBONE, box=replace(BOX, cascade=None))),
    "R-CNN": lambda: RCNN(2, RCNNSettings(BACKBONE, side=64, pool=2, layers=0, max_detections=10)),
}
PROPOSALS = np.array([[4, 4, 30, 30], [20, 20, 60, 56], [0, 8, 40, 60], [30, 2, 62, 30]], np.float32)


def random_detector(build: Callable[[], Any], **fields: Any) -> Detector:
    """A detector whose scores differ between regions and classes."""
    torch.manual_seed(0)
    network = build()
    heads = getattr(network.box, "steps", [network.box]) if hasattr(network, "box") else [network]
    for head in heads:
        nn.init.normal_(head.logits.weight, std=0.05)
    return Detector(network.eval(), Transform(), NAMES, min_score=0.3, precision="float32", **fields)


def data_of(count: int, *, masks: bool = False) -> Dataset:
    shapes = tiny_shapes(count)
    records = []
    for number in range(count):
        sample = shapes[number]
        truth = replace(sample.truth, proposals=PROPOSALS)
        records.append(
            Record(
                Path(f"picture {number}.png"), number, replace(truth, masks=None),
                (lambda own=truth.masks: own) if masks else None, image=lambda image=sample.image: image,
            )
        )  # fmt: skip
    return Dataset("shapes", Path("shapes"), NAMES, records)


@pytest.fixture(scope="module", params=BUILD, ids=str)
def detector(request: pytest.FixtureRequest) -> Detector:
    return random_detector(BUILD[request.param])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return data_of(2)


def the_same(one: Instances, other: Instances) -> bool:
    """Whether both have the same objects, bit for bit."""
    fields = ("boxes", "labels", "scores", "keypoints")
    equal = [
        np.array_equal(getattr(one, f), getattr(other, f)) for f in fields if getattr(one, f) is not None
    ]
    masks = one.masks is None or np.array_equal(one.masks.pixels, other.masks.pixels)
    return len(one) == len(other) and all(equal) and masks


def test_detections_are_the_same_watched_and_not(detector: Detector, data: Dataset) -> None:
    for fused in (True, False):
        own = replace(detector, fuse=fused)
        (found,) = own.predict(data[0].image, proposals=[PROPOSALS])
        watched = watch(own, data[0].image, proposals=PROPOSALS)
        assert len(found)
        assert the_same(found, watched.found)
        shown = watched.passes[0]
        # The notes are about these detections: each is one of the pairs, with its score and box.
        assert np.array_equal(shown.pair_scores[shown.kept], found.scores)
        assert np.allclose(shown.pair_boxes[shown.kept], found.boxes, atol=1e-3)
        assert np.array_equal(shown.pair_labels[shown.kept], found.labels)


def test_causes_add_up_to_the_missed_objects_of_the_evaluation(detector: Detector, data: Dataset) -> None:
    evaluation, _ = evaluate(detector, data, min_score=0.0)
    threshold = evaluation.f1_threshold
    causes = explain_data(detector, data, min_score=threshold, max_detections=evaluation.max_detections)
    missed = [(n, i) for n, match in enumerate(evaluation.matches) for i in match.missed_truths]
    assert [(one.number, one.object) for one in causes.missed] == missed
    assert sum(causes.counts.values()) == len(missed)
    assert causes.num_objects == sum(match.num_true for match in evaluation.matches)
    assert set(causes.counts) <= set(CAUSES)
    assert json.loads(json.dumps(causes.to_json()))["counts"] == causes.counts


def test_every_object_is_explained_in_json(detector: Detector, data: Dataset) -> None:
    truth = data[0].truth
    for index in range(len(truth)):
        shown = explain_object(detector, data, 0, index=index)
        values = json.loads(shown.json_text())
        assert values["subject"]["object"] == index
        assert values["subject"]["box"] == pytest.approx(truth.boxes[index].tolist())
        assert (shown.cause is None) == shown.found
        check_stages(shown)
        check_tables(values)


def check_stages(shown: Any) -> None:
    """Candidates become fewer from stage to stage; the one that loses the last is the cause."""
    numbers = [(stage.own_entering, stage.own_leaving) for stage in shown.stages]
    assert all(entering >= leaving for entering, leaving in numbers)
    lost = [stage for stage in shown.stages if stage.cause is not None]
    assert [stage.cause for stage in lost] == ([] if shown.cause is None else [shown.cause] if lost else [])
    for stage in shown.stages:
        assert stage.title == SECTIONS[stage.key].title
        assert stage.text
        assert "{" not in stage.text
        assert stage.code.startswith("rcnn/")
        assert stage.line > 0
        assert stage.source.lstrip("@").split("\n")[0]
        assert stage.url.startswith("https://arxiv.org/abs/") or not stage.paper


def check_tables(values: dict[str, Any]) -> None:
    """The columns of a table are equally long, and indices point into theirs."""
    for name in ("anchors", "proposals", "regions", "selected", "detections"):
        assert len({len(column) for column in values[name].values()}) == 1, name
    proposals, regions = values["proposals"], values["regions"]
    kept = [i for i, fate in enumerate(proposals["fates"]) if fate == "kept"]
    assert sorted(proposals["regions"][i] for i in kept) == list(range(len(regions["boxes"])))
    for table in (proposals, values["selected"]):
        for fate, by in zip(table["fates"], table["by"], strict=True):
            assert (by >= 0) == (fate == "suppressed")
            assert by < 0 or table["fates"][by] != "suppressed"
    if values["levels"]:
        for level in values["levels"]:
            assert level["rows"] * level["columns"] > 0
    if values["region"] is not None:
        region = values["region"]
        assert region["box"] == regions["boxes"][region["row"]]
        assert len(region["scores"]) == len(values["class_names"])


def test_levels_describe_every_anchor() -> None:
    """The anchors of the first cell, moved by the steps, are those that the network has."""
    detector = random_detector(BUILD["Mask R-CNN"])
    image = np.zeros((64, 48, 3), np.uint8)
    own = watch(detector, image).passes[0]
    shown = explain(detector, image, at=(20, 20))
    assert own.anchoring is not None
    made = [
        np.array(cell) + np.array([level.step[0] * column, level.step[1] * row] * 2)
        for level in shown.levels
        for row in range(level.rows)
        for column in range(level.columns)
        for cell in level.cell
    ]
    np.testing.assert_allclose(np.stack(made), own.anchoring.boxes, atol=1e-3)


def test_every_stage_has_its_sentences() -> None:
    assert set(LEFT) == set(LOST) == set(SECTIONS)


# Places


@pytest.fixture(scope="module")
def mask_rcnn() -> Detector:
    return random_detector(BUILD["Mask R-CNN"])


def test_a_place_in_an_image(mask_rcnn: Detector, data: Dataset) -> None:
    image = data[0].image
    (found,) = mask_rcnn.predict(image)
    best = explain(mask_rcnn, image)
    assert best.subject.box == found.boxes[0].tolist()
    assert best.found
    assert best.mask is not None
    assert np.shape(best.mask.map) == (8, 8)
    here = explain(mask_rcnn, image, at=(32, 32), class_name="SQUARE")
    assert here.subject.class_name == "square"
    assert not here.subject.known
    x1, y1, x2, y2 = here.subject.box
    assert x1 <= 32 <= x2
    assert y1 <= 32 <= y2
    box = explain(mask_rcnn, image, at=(2, 2, 9, 9), min_score=1.0)
    assert box.subject.known
    assert box.subject.box == [2, 2, 9, 9]
    assert not box.found


def test_the_object_at_a_place(mask_rcnn: Detector) -> None:
    data = data_of(2)
    truth = data[1].truth
    centre = (truth.boxes[0, :2] + truth.boxes[0, 2:]) / 2
    assert explain_object(mask_rcnn, data, 1, at=centre.tolist()).subject.object == 0
    assert explain(mask_rcnn, data[1].image, at=centre.tolist(), truth=truth).subject.object == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"at": (99, 3)}, "place 99,3: outside the image, which is 64 x 64 pixels"),
        ({"at": (3,)}, "place 3: expected X,Y or a box X1,Y1,X2,Y2"),
        ({"at": (9, 9, 2, 12)}, "place 9,9,2,12: expected a box .* with X1 < X2"),
        ({"at": (3, float("nan"))}, "expected X,Y"),
        ({"at": (3, 3), "class_name": "disc"}, "class 'disc': did you mean disk.*one of disk, square"),
        ({"index": 0}, "object 0: only annotated objects have a number"),
    ],
    ids=["outside", "one number", "turned", "nan", "class", "no truth"],
)  # fmt: skip
def test_what_cannot_be_followed(
    mask_rcnn: Detector, data: Dataset, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explain(mask_rcnn, data[0].image, **asked)


def test_truth_that_does_not_fit(mask_rcnn: Detector, data: Dataset) -> None:
    with pytest.raises(ValueError, match=r"truth: of an image of \(9, 9\), but the image is \(64, 64\)"):
        explain(mask_rcnn, data[0].image, truth=Instances.empty((9, 9), NAMES))
    with pytest.raises(ValueError, match="object 7: the image has"):
        explain(mask_rcnn, data[0].image, truth=data[0].truth, index=7)


def test_images_by_name(data: Dataset) -> None:
    assert find_image(data, "picture 1.png") == find_image(data, "picture 1") == find_image(data, "1") == 1
    with pytest.raises(ValueError, match=r"shapes: no image is called picture 7\.png; did you mean"):
        find_image(data, "picture 7.png")
    with pytest.raises(ValueError, match=r"2 images are called picture 0\.png"):
        find_image(replace(data, records=[data.records[0]] * 2), "picture 0.png")


# Refusals


def test_a_model_without_objects_is_refused() -> None:
    network = FCN(
        2, FCNSettings(BackboneSettings("efficientnet_lite0", (2,)), alignment="centred", channels=8)
    )
    detector = Detector(network.eval(), Transform(), ())
    with pytest.raises(NotExplainableError, match="FCN classifies pixels and finds no objects"):
        explain(detector, np.zeros((32, 32, 3), np.uint8))


def test_an_exported_file_is_refused(data: Dataset) -> None:
    class Exported:
        class_names = NAMES

    for ask in (lambda d: explain(d, data[0].image), lambda d: explain_data(d, data)):
        with pytest.raises(NotExplainableError, match="an exported file does not show its stages"):
            ask(Exported())


def test_a_model_of_other_parts_is_refused(mask_rcnn: Detector, data: Dataset) -> None:
    class Own(MaskRCNN):
        def detect(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            from rcnn.parts.batch import Detections

            return Detections.none(images)

    network = Own(2, mask_rcnn.network.settings).eval()
    with pytest.raises(NotExplainableError, match="Own does not show its stages"):
        explain(replace(mask_rcnn, network=network), data[0].image)


def test_no_objects_and_no_images(mask_rcnn: Detector) -> None:
    empty = Record(
        Path("none.png"), 0, Instances.empty((64, 64), NAMES), image=lambda: np.zeros((64, 64, 3), np.uint8)
    )
    causes = explain_data(mask_rcnn, Dataset("shapes", Path("shapes"), NAMES, [empty]))
    assert causes.counts == {}
    assert causes.num_objects == 0
    assert causes.table().rows == [("all missed objects", "0", pytest.approx(np.nan, nan_ok=True))]
    with pytest.raises(ValueError, match="shapes: no images to explain"):
        explain_data(mask_rcnn, Dataset("shapes", Path("shapes"), NAMES, []))


def test_crowds_are_not_missed(mask_rcnn: Detector) -> None:
    data = data_of(1)
    truth = data.records[0].truth
    crowd = replace(truth, crowd=np.ones(len(truth), np.bool_))
    marked = replace(data, records=[replace(data.records[0], truth=crowd)])
    assert explain_data(mask_rcnn, marked, min_score=0.99).missed == []
    with pytest.raises(ValueError, match="it is neither found nor missed"):
        explain_object(mask_rcnn, marked, 0, index=0)


def test_masks_are_compared_where_both_have_them(mask_rcnn: Detector) -> None:
    data = data_of(2, masks=True)
    causes = explain_data(mask_rcnn, data)
    assert causes.kind == "mask"
    assert isinstance(data[0].truth.masks, Masks)
    assert explain_data(mask_rcnn, data_of(2)).kind == "box"
