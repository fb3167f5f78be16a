"""CVAT's auto-annotation interface, by its SDK's own types and checks; no server is run."""

import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import cvat_sdk.auto_annotation as sdk
import numpy as np
import pytest
from cvat_sdk.auto_annotation.driver import _AnnotationMapper
from cvat_sdk.masks import decode_mask
from numpy.testing import assert_array_equal
from PIL import Image

from dark import BOX, detector, picture
from rcnn.inference import cvat
from rcnn.inference.cvat import DetectionFunction
from rcnn.inference.detector import Detector
from rcnn.structures import Instances, Masks, Skeleton

SIZE = (40, 60)


@dataclass(frozen=True)
class Context(sdk.DetectionFunctionContext):
    frame_name: str = "a.png"
    conf_threshold: float | None = None
    conv_mask_to_poly: bool = False


def accepted(function: Any, shapes: list[Any], kind: str, *, polygons: bool = False) -> list[Any]:
    """The shapes as CVAT's driver hands them to a task that has the function's labels of this kind."""
    labels = [
        SimpleNamespace(
            id=100 + label.id,
            name=label.name,
            type=kind,
            attributes=[],
            sublabels=[
                SimpleNamespace(id=200 + s.id, name=s.name, attributes=[])
                for s in getattr(label, "sublabels", [])
            ],
        )
        for label in function.spec.labels
    ]
    mapper = _AnnotationMapper(
        logging.getLogger(), function.spec.labels, labels, allow_unmatched_labels=False,
        conv_mask_to_poly=polygons,
    )  # fmt: skip
    tags, mapped = mapper.validate_and_remap(shapes, 7)
    assert tags == []
    return mapped


def test_masks_are_returned_bit_for_bit() -> None:
    function = DetectionFunction(replace(detector(), precision="float32"))
    (shape,) = accepted(function, function.detect(Context(), Image.fromarray(picture())), "mask")
    assert (shape.type.value, shape.frame, shape.label_id, shape.score) == ("mask", 7, 101, 0.75)
    mask = decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0])
    (found,) = replace(detector(), precision="float32").predict(picture())
    assert_array_equal(mask, found.masks[0])


def test_the_threshold_of_the_task_decides() -> None:
    function = DetectionFunction(detector())
    image = Image.fromarray(picture())
    assert len(function.detect(Context(conf_threshold=0.75), image)) == 1
    assert function.detect(Context(conf_threshold=0.76), image) == []
    assert function.detect(Context(), Image.fromarray(picture(dark=False))) == []


def test_parts_of_an_object_are_polygons_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps = np.zeros((2, *SIZE), bool)
    bitmaps[0, 2:8, 3:9] = bitmaps[0, 12:15, 3:9] = True  # two parts
    bitmaps[1, 20:30, 20:30] = True
    bitmaps[1, 23:26, 23:26] = False  # a hole
    masks = Masks.from_dense(bitmaps)
    scores = np.array([0.9, 0.8], np.float32)
    found = Instances(SIZE, masks.boxes(), np.array([0, 1]), scores, masks=masks)
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [found])
    function = DetectionFunction(detector())
    shapes = function.detect(Context(conv_mask_to_poly=True), Image.new("RGB", SIZE[::-1]))
    mapped = accepted(function, shapes, "polygon", polygons=True)
    assert [getattr(shape, "group", None) for shape in mapped] == [1, 1, None]
    parts = [np.array(shape.points).reshape(-1, 2) for shape in mapped]
    assert_array_equal(Masks.from_outlines([parts[:2], parts[2:]], SIZE).dense(), bitmaps)
    whole = accepted(function, function.detect(Context(), Image.new("RGB", SIZE[::-1])), "mask")
    decoded = [decode_mask(shape.points, image_width=SIZE[1], image_height=SIZE[0]) for shape in whole]
    assert_array_equal(decoded, bitmaps)


def test_boxes_are_returned_where_there_is_nothing_else_or_they_are_asked_for() -> None:
    for function in (DetectionFunction(detector(masks=False)), DetectionFunction(detector(), boxes=True)):
        (shape,) = accepted(function, function.detect(Context(), Image.fromarray(picture())), "rectangle")
        assert shape.points == pytest.approx(BOX[0].tolist())


def test_keypoints_are_skeletons(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.array([[[3.5, 4.5, 2.0], [8.5, 9.5, -1.0]]], np.float32)
    pose = Instances(SIZE, BOX, np.array([1]), np.array([0.9], np.float32), keypoints=points)
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [pose])
    function = DetectionFunction(replace(detector(), skeleton=Skeleton(("nose", "tail"))))
    shapes = function.detect(Context(), Image.new("RGB", SIZE[::-1]))
    (shape,) = accepted(function, shapes, "skeleton")
    assert [(e.label_id, e.points, e.occluded) for e in shape.elements] == [
        (200, [3.5, 4.5], False),
        (201, [8.5, 9.5], True),
    ]


def test_create_is_what_cvat_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    import rcnn

    monkeypatch.setattr(rcnn, "load", lambda model, device: detector(), raising=False)
    function = cvat.create("runs/cells")
    assert isinstance(function.spec, sdk.DetectionFunctionSpec)
    assert [(label.name, label.id) for label in function.spec.labels] == [("light", 0), ("dark", 1)]


def test_a_model_of_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="classifies pixels only"):
        DetectionFunction(replace(detector(), class_names=()))
