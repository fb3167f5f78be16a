"""Prediction: images of any kind in, objects in their own coordinates out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from dark import BOX, Dark, detector, picture, picture_file
from rcnn import models
from rcnn.inference.detector import Detector
from rcnn.transform import Transform


@pytest.fixture(autouse=True)
def dark_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "dark", Dark)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    return picture_file(tmp_path)


def test_every_kind_of_image_gives_the_same_objects(image_file: Path) -> None:
    pixels = picture()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.dstack([pixels, np.zeros((40, 60), np.uint8)])
    kinds: list[Any] = [
        image_file,
        str(image_file),
        Image.fromarray(pixels),
        Image.fromarray(pixels[:, :, 0]),
        Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257),
        pixels,
        pixels[:, :, 0],
        alpha,
        pixels.astype(np.uint16) * 257,
        (pixels / 255).astype(np.float32),
        pixels / 255,
        tensor,
        tensor[:1],
        tensor / 255,
        (tensor / 255).bfloat16(),
    ]
    results = detector().predict(kinds)
    assert len(results) == len(kinds)
    for found in results:
        assert_allclose(found.boxes, BOX)
        assert found.size == (40, 60)
        assert found.names == ["dark"]
        assert found.masks is not None
        assert found.masks.areas().tolist() == [400]
    assert [r.path for r in results[:3]] == [image_file, image_file, None]


def test_a_single_image_gives_a_list_of_one(image_file: Path) -> None:
    for image in (image_file, str(image_file), picture(), torch.zeros(3, 8, 8), Image.fromarray(picture())):
        assert len(detector().predict(image)) == 1
    assert detector().predict([]) == []


def test_coordinates_are_those_of_the_image_whatever_it_was_resized_to() -> None:
    large = Detector(Dark(2), Transform(short_side=80), ("light", "dark"))
    found = large.predict(picture())[0]
    assert_allclose(found.boxes, BOX, atol=1.0)
    assert found.size == (40, 60)


def test_batches_give_what_single_images_give() -> None:
    images = [picture(), picture(dark=False), picture()[5:, 5:]]
    one_by_one, batched = detector(), detector()
    single = one_by_one.predict(images)
    together = batched.predict(images, batch_size=2)
    assert one_by_one.network.batch_sizes == [1, 1, 1]
    assert batched.network.batch_sizes == [2, 1]
    assert [len(s) for s in single] == [1, 0, 1]
    for a, b in zip(single, together, strict=True):
        assert_allclose(a.boxes, b.boxes)
    assert_allclose(single[2].boxes, BOX - 5)


def test_only_images_padded_to_the_same_size_share_a_batch_and_all_come_back_in_order() -> None:
    sizes = [(40, 60), (80, 60), (40, 62), (82, 60), (41, 60), (40, 70), (64, 64), (33, 33)]
    grouped = detector()
    batches: list[tuple[tuple[int, int], ...]] = []
    grouped.network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].sizes))
    found = grouped.predict([np.full((*size, 3), 200, np.uint8) for size in sizes], batch_size=2)
    assert [f.size for f in found] == sizes
    assert batches == [
        ((40, 60), (40, 62)), ((41, 60), (64, 64)), ((33, 33),), ((40, 70),), ((80, 60), (82, 60)),
    ]  # fmt: skip


def test_a_processor_sees_as_many_images_at_once_as_its_caches_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.inference.detector.PIXELS_AT_ONCE", 2 * 64 * 64)
    divided = detector()
    images = [picture()] * 5 + [np.full((200, 200, 3), 200, np.uint8)] * 2
    found = divided.predict(images, batch_size=8)
    assert divided.network.batch_sizes == [2, 2, 1, 1, 1]
    assert [f.size for f in found] == [(40, 60)] * 5 + [(200, 200)] * 2


def test_results_are_arrays_like_any_other() -> None:
    (found,) = detector().predict(picture())
    found.boxes[:, 0] += 1
    assert (found.boxes.dtype, found.labels.dtype) == (np.float32, np.int64)
    tensors = found.torch()
    (tensors["boxes"] * torch.ones(1, requires_grad=True)).sum().backward()


def test_a_network_in_training_stays_in_training() -> None:
    one = detector()
    one.network.train()
    one.predict(picture())
    assert one.network.training


def test_other_precisions_are_refused() -> None:
    one = detector()
    one.network.half()
    with pytest.raises(
        ValueError, match=r"are torch\.float16: make them float32, and predict with precision=.bf16."
    ):
        one.predict(picture())


def test_rounding_may_leave_the_range_of_an_image() -> None:
    (found,) = detector().predict(picture() / 255 * (1 + 1e-6))
    assert_allclose(found.boxes, BOX)


def test_min_score_and_max_detections_reach_the_network() -> None:
    assert len(detector().predict(picture(), min_score=0.76)[0]) == 0
    assert len(detector().predict(picture(), min_score=0.75)[0]) == 1
    strict = Detector(Dark(2), Transform(), ("light", "dark"), min_score=0.8)
    assert len(strict.predict(picture())[0]) == 0
    assert len(strict.predict(picture(), min_score=0.0)[0]) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 40, 60), np.uint8), r"must be \[H, W\], .*got \[3, 40, 60\]"),
        (np.zeros((0, 4, 3), np.uint8), "got .0, 4, 3."),
        (np.full((4, 4), 255.0), r"must lie in \[0, 1\]; got 255 to 255"),
        (np.full((4, 4), np.nan), r"must lie in \[0, 1\]; got nan"),
        (np.zeros((4, 4), complex), "integers or floats; got complex128"),
        (torch.zeros(4, 4), r"tensor must be \[3, H, W\]; got \[4, 4\]"),
        ([None], "expected a path, .* got NoneType"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector().predict(image)


@pytest.mark.parametrize("setting", [{"min_score": 1.5}, {"max_detections": 0}, {"batch_size": 0}])
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        detector().predict(picture(), **setting)


def test_other_numbers_of_channels_are_those_of_the_transform() -> None:
    five = Detector(Dark(2), Transform(mean=(0.5,) * 5, std=(0.5,) * 5), ("light", "dark"))
    pixels = np.repeat(picture()[:, :, :1], 5, 2)
    (found,) = five.predict(pixels)
    assert_allclose(found.boxes, BOX)
    with pytest.raises(ValueError, match=r"expected an array \[H, W, 5\] as image; got \[40, 60, 3\]"):
        five.predict(picture())
    gray = Detector(Dark(2), Transform(mean=(0.5,), std=(0.5,)), ("light", "dark"))
    assert_allclose(gray.predict([pixels[:, :, 0], pixels[:, :, :1]], batch_size=2)[1].boxes, BOX)


def test_the_old_name_of_the_precision_is_warned_of() -> None:
    with pytest.warns(
        FutureWarning, match=r'half=True is now precision="bf16"; the old name will be removed'
    ):
        assert Detector(Dark(2), Transform(), (), half=True).precision == "bf16"
    with pytest.warns(FutureWarning, match=r'half=False is now precision="float32"'):
        assert replace(detector(), half=False).precision == "float32"
    with pytest.raises(ValueError, match="precision 'fp16': did you mean bf16"):
        replace(detector(), precision="fp16")


def test_auto_is_the_rule_of_the_device_and_float32_where_results_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = detector()
    for rule in ("bf16", "float32"):
        monkeypatch.setattr("rcnn.inference.detector.auto_precision", lambda device, network, rule=rule: rule)
        assert one.used_precision == rule
        assert one.for_measuring().used_precision == "float32"
    asked = replace(one, precision="bf16")
    assert asked.for_measuring() is asked
    assert one.precision == "auto", "it is not changed"
