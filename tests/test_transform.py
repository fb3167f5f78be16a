"""The transform: sizes, pixels, padding, of tensors and of arrays."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rcnn.transform import Transform


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


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (Transform(), "no change"),
        (Transform(scale=2.25), "enlarged"),
        (Transform(scale=0.4), "shrunk, filtered"),
        (Transform(scale=0.4, antialias=False), "shrunk, not filtered"),
        (Transform(short_side=30, max_long_side=40, margin=0.5), "limited"),
        (Transform(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), size_divisor=8), "other channels"),
    ],
)
def test_arrays_become_what_tensors_become(transform, why):
    """Exported files prepare images without torch."""
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=size, dtype=np.uint8) for size in ((40, 61, 3), (64, 50, 3))]
    images.append(rng.random((33, 32, 3), np.float32))
    expected = transform([torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images])
    resized = [transform.resize_array(image) for image in images]
    assert tuple(image.shape[:2] for image in resized) == expected.sizes, why
    assert_close(torch.from_numpy(transform.batch_arrays(resized)), expected.tensors, rtol=0, atol=1e-5)


def test_a_batch_says_what_it_is_padded_to():
    batch = Transform(size_divisor=64)([torch.zeros(3, 65, 1)])
    assert (batch.size_divisor, tuple(batch.tensors.shape)) == (64, (1, 3, 128, 64))
    assert Transform(size_divisor=64).padded((65, 1)) == (128, 64)


def test_the_number_of_channels_is_that_of_the_mean():
    transform = Transform(mean=(0.5,) * 5, std=(0.2,) * 5)
    assert transform.channels == 5
    batch = transform([torch.full((5, 40, 30), 0.7)])
    assert_close(batch.tensors[:, :, :40, :30], torch.ones(1, 5, 40, 30))
    assert transform.batch_arrays([np.full((40, 30, 5), 0.7, np.float32)]).shape == (1, 5, 64, 32)
    with pytest.raises(ValueError, match=r"transform\.mean .* transform\.std .*: expected one number per"):
        Transform(mean=(0.5,))


@pytest.mark.parametrize(
    "transform",
    [
        Transform(),
        Transform(scale=2.25),
        Transform(scale=0.7, max_long_side=300),
        Transform(short_side=320),
        Transform(short_side=800, max_long_side=1333),
        Transform(short_side=600, max_long_side=1000, margin=0.5),
    ],
)
def test_sizes_in_whole_numbers_are_the_same(transform):
    """Exported graphs compute them so."""
    sizes = [(h, w) for h in range(1, 2500, 97) for w in range(1, 2500, 89)]
    assert [tuple(transform.resized_symbols(*size)) for size in sizes] == [
        transform.resized(s) for s in sizes
    ]


def test_a_transform_is_read_from_metadata():
    assert Transform.from_json({"mean": [0, 0, 0], "scale": 2.0, "unknown": 1}) == Transform(
        scale=2.0, mean=(0, 0, 0)
    )


def test_it_is_imported_without_torch():
    code = "import sys, rcnn.transform, rcnn.inference.predictor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
