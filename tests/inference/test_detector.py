"""Prediction: images of any kind in, objects in their own coordinates out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

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
        assert_close(found.boxes, BOX)
        assert found.size == (40, 60)
        assert found.names == ["dark"]
        assert found.masks is not None
        assert_close(found.masks.areas(), torch.tensor([400.0]))
    assert [r.path for r in results[:3]] == [image_file, image_file, None]


def test_a_single_image_gives_a_list_of_one(image_file: Path) -> None:
    for image in (image_file, str(image_file), picture(), torch.zeros(3, 8, 8), Image.fromarray(picture())):
        assert len(detector().predict(image)) == 1
    assert detector().predict([]) == []


def test_coordinates_are_those_of_the_image_whatever_it_was_resized_to() -> None:
    large = Detector(Dark(2), Transform(short_side=80), ("light", "dark"))
    found = large.predict(picture())[0]
    assert_close(found.boxes, BOX, atol=1.0, rtol=0)
    assert found.size == (40, 60)


def test_batches_give_what_single_images_give() -> None:
    images = [picture(), picture(dark=False), picture()[10:, 5:]]
    one_by_one, batched = detector(), detector()
    single = one_by_one.predict(images)
    together = batched.predict(images, batch_size=2)
    assert one_by_one.network.batch_sizes == [1, 1, 1]
    assert batched.network.batch_sizes == [2, 1]
    assert [len(s) for s in single] == [1, 0, 1]
    for a, b in zip(single, together, strict=True):
        assert_close(a.boxes, b.boxes)
    assert_close(single[2].boxes, BOX - torch.tensor([5.0, 10.0, 5.0, 10.0]))


def test_images_of_like_size_go_together_and_come_back_in_order() -> None:
    sizes = [(40, 60), (80, 60), (40, 62), (82, 60), (41, 60)]
    grouped = detector()
    batches: list[tuple[tuple[int, int], ...]] = []
    grouped.network.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0].sizes))
    found = grouped.predict([np.full((*size, 3), 200, np.uint8) for size in sizes], batch_size=2)
    assert [f.size for f in found] == sizes
    assert batches == [((40, 60), (41, 60)), ((40, 62), (80, 60)), ((82, 60),)]


def test_results_are_tensors_like_any_other() -> None:
    (found,) = detector().predict(picture())
    found.boxes[:, 0] += 1
    (found.boxes * torch.ones(1, requires_grad=True)).sum().backward()


def test_a_network_in_training_stays_in_training() -> None:
    one = detector()
    one.network.train()
    one.predict(picture())
    assert one.network.training


def test_other_precisions_are_refused() -> None:
    one = detector()
    one.network.half()
    with pytest.raises(
        ValueError, match=r"are torch\.float16: make them float32, and predict with half=True"
    ):
        one.predict(picture())


def test_rounding_may_leave_the_range_of_an_image() -> None:
    (found,) = detector().predict(picture() / 255 * (1 + 1e-6))
    assert_close(found.boxes, BOX)


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
