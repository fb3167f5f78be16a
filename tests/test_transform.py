"""The transform: sizes, pixels, padding, and the way back."""

import pytest
import torch
from torch.testing import assert_close

from rcnn.structures import Instances
from rcnn.transform import Transform, largest_class


@pytest.mark.parametrize(
    ("transform", "size", "expected", "why"),
    [
        (Transform(), (37, 51), (37, 51), "the image's own scale"),
        (Transform(scale=2.0), (37, 51), (74, 102), "a fixed factor"),
        (Transform(short_side=600), (375, 500), (600, 800), "the papers' 600"),
        (Transform(short_side=600, max_long_side=1000), (375, 900), (416, 1000), "the long side rules"),
        (Transform(max_long_side=100), (50, 400), (12, 100), "a limit alone"),
        (Transform(scale=0.1), (5, 300), (1, 30), "at least one pixel"),
        (Transform(short_side=320), (1, 1), (320, 320), "the smallest image"),
        (Transform(short_side=800, max_long_side=1333), (10000, 50), (1333, 6), "a strip"),
        (Transform(short_side=320), (154, 200), (320, 415), "154 * (320 / 154) is 319.99999999999994"),
    ],
)
def test_sizes(transform, size, expected, why):
    assert transform.resized(size) == expected, why


@pytest.mark.parametrize("side", [320, 480, 512, 800])
def test_the_short_side_is_what_was_asked_for(side):
    transform = Transform(short_side=side)
    assert {transform.resized((n, 2 * n))[0] for n in range(1, 2000)} == {side}


def test_uint8_and_float_are_the_same_image():
    image = torch.randint(0, 256, (3, 11, 13), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    transform = Transform(short_side=20)
    assert_close(transform([image]).tensors, transform([image.float() / 255]).tensors)


def test_normalisation_and_padding():
    transform = Transform(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), size_divisor=8)
    images = [torch.full((3, 5, 9), 0.6), torch.full((3, 7, 3), 0.1)]
    batch = transform(images)
    assert batch.tensors.shape == (2, 3, 8, 16)
    assert batch.sizes == ((5, 9), (7, 3))
    assert batch.tensors.dtype == torch.float32
    expected = torch.tensor([1.0, 0.4, 0.15]).view(3, 1, 1).expand(3, 5, 9)
    assert_close(batch.tensors[0, :, :5, :9], expected)
    assert batch.tensors[0, :, 5:].abs().sum() == batch.tensors[0, :, :, 9:].abs().sum() == 0
    assert batch.tensors[1, :, 7:].abs().sum() == batch.tensors[1, :, :, 3:].abs().sum() == 0


def test_an_image_that_fits_is_not_touched():
    image = torch.rand((3, 32, 64), generator=torch.Generator().manual_seed(0))
    batch = Transform(mean=(0, 0, 0), std=(1, 1, 1))([image])
    assert_close(batch.tensors[0], image, rtol=0, atol=0)
    assert image.max() <= 1  # and the caller's is still the caller's


def test_resizing_keeps_constants_and_ramps():
    assert_close(Transform(scale=1.7).resize(torch.full((3, 9, 9), 0.3)), torch.full((3, 15, 15), 0.3))
    ramp = ((torch.arange(8.0) + 0.5) / 8).expand(3, 8, 8)
    doubled = Transform(scale=2.0).resize(ramp)
    assert_close(doubled[0, 0, 1:-1], ((torch.arange(16.0) + 0.5) / 16)[1:-1])  # pixel centres stay in place


def test_shrinking_with_and_without_a_filter():
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    assert_close(
        Transform(scale=0.25).resize(stripes)[:, 4:-4, 4:-4], torch.full((3, 8, 8), 0.5), rtol=0, atol=0.02
    )
    plain = Transform(scale=1 / 3, antialias=False).resize(stripes)
    assert plain.std() > 0.2  # aliased


@pytest.mark.parametrize("size", [(1, 1), (37, 51), (50, 1000), (200, 120)])
def test_boxes_come_back(size):
    transform = Transform(short_side=64, max_long_side=300)
    height, width = transform.resized(size)
    whole = torch.tensor([[0.0, 0, width, height], [width / 4, height / 2, width / 2, height]])
    detections = Instances((height, width), whole, torch.zeros(2, dtype=torch.int64))
    back = transform.invert(detections, size)
    h, w = size
    assert back.size == size
    assert_close(back.boxes, torch.tensor([[0.0, 0, w, h], [w / 4, h / 2, w / 2, h]]))
    assert back.masks is None


def test_keypoints_come_back_and_keep_their_scores():
    detections = Instances(
        (20, 40),
        torch.tensor([[0.0, 0, 40, 20]]),
        torch.tensor([0]),
        keypoints=torch.tensor([[[10.0, 5, 0.7]]]),
    )
    assert_close(Transform().invert(detections, (40, 120)).keypoints, torch.tensor([[[30.0, 10, 0.7]]]))


def test_masks_are_pasted_at_the_images_own_resolution():
    maps = torch.zeros((1, 4, 4))
    maps[0, :, :2] = 1
    detections = Instances((16, 16), torch.tensor([[4.0, 4, 12, 12]]), torch.tensor([0]), mask_maps=maps)
    back = Transform().invert(detections, (32, 64))
    assert back.mask_maps is None
    assert back.masks.shape == (1, 32, 64)
    assert back.masks.boxes().tolist() == [[16, 8, 32, 24]]  # the left half of 16 8 48 24
    assert back.masks.areas().tolist() == [256 - 12]  # its four corners are round


def test_nothing_comes_back_as_nothing():
    detections = Instances.empty((16, 16), mask_maps=torch.zeros((0, 28, 28)), scores=torch.zeros(0))
    back = Transform().invert(detections, (30, 40))
    assert len(back) == len(back.masks) == 0
    assert back.masks.size == (30, 40)


def test_classes_of_pixels_are_decided_at_the_images_own_resolution():
    """Two classes whose logits cross in the middle: the border is exact at any enlargement."""
    ramp = torch.arange(4).float() - 1.5
    logits = torch.stack([-ramp, ramp])[:, None].expand(2, 3, 4)
    found = Instances.empty((3, 4), semantic_logits=logits)
    back = Transform().invert(found, (6, 8))
    assert back.semantic_logits is None
    assert (back.semantic.dtype, back.semantic.shape) == (torch.int64, (6, 8))
    assert back.semantic.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 6
    assert Transform().invert(found, (3, 4)).semantic.tolist() == [[0, 0, 1, 1]] * 3


def test_largest_class_equals_all_classes_at_once():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 7, 9), generator=draw)
    whole = torch.nn.functional.interpolate(logits[None], (20, 31), mode="bilinear")[0]
    assert_close(largest_class(logits, (20, 31)), whole.argmax(0))


def test_maps_come_back_by_the_nearest_pixel():
    semantic = torch.tensor([[0, 255], [1, 2]])
    back = Transform().invert(Instances.empty((2, 2), semantic=semantic), (4, 4)).semantic
    assert back.tolist() == [[0, 0, 255, 255]] * 2 + [[1, 1, 2, 2]] * 2
