"""The compiled functions against torch, by every instruction set that this CPU has."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch.nn import functional
from torch.testing import assert_close

from rcnn.kernels import library
from rcnn.kernels.functions import Kernels
from rcnn.ops.convolution import ACTIVATIONS, SAME, convolve
from rcnn.ops.roi import roi_align


@pytest.fixture(scope="module", params=library.SETS)
def built(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RCNN_KERNELS", request.param)
        library.load.cache_clear()
        try:
            yield Kernels(library.load())
        except library.UnavailableError as error:
            pytest.skip(str(error))
        finally:
            library.load.cache_clear()


@pytest.fixture(params=[1, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("batch", "channels", "kernels", "height", "width"),
    [
        (1, 32, 32, 1, 1),  # less than a tile
        (2, 64, 32, 33, 50),  # no multiple of a tile
        (1, 32, 64, 8, 12),  # whole tiles
        (3, 32, 96, 90, 121),  # several turns, the last of them smaller
        (70, 64, 64, 14, 14),  # images that share a turn
        (0, 32, 32, 14, 14),  # no images
    ],
)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.usefixtures("threads")
def test_equals_the_direct_convolution(
    built: Kernels, batch: int, channels: int, kernels: int, height: int, width: int, relu: bool
) -> None:
    generator = torch.Generator().manual_seed(height)
    images = torch.randn((batch, channels, height, width), generator=generator)
    weight, bias = (
        torch.randn(shape, generator=generator) for shape in ((kernels, channels, 3, 3), (kernels,))
    )
    expected = functional.conv2d(images, weight, bias, padding=1)
    expected = expected.relu() if relu else expected
    packed = built.pack_3x3(weight)
    for given in (images, images.contiguous(memory_format=torch.channels_last)):
        found = built.convolve_3x3(given, packed, bias, relu=relu)
        assert_close(found, expected, rtol=1e-4, atol=2e-4 * channels**0.5)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(
        built.convolve_3x3(images, packed), functional.conv2d(images, weight, padding=1), rtol=1e-4, atol=2e-3
    )


def test_what_is_not_a_number_stays_so(built: Kernels) -> None:
    images = torch.zeros(1, 32, 8, 8)
    images[0, 0, 0, 0] = torch.nan
    found = built.convolve_3x3(images, built.pack_3x3(torch.ones(32, 32, 3, 3)), relu=True)
    assert found[0, :, 0, 0].isnan().all()
    assert not found[0, :, 4:, 4:].isnan().any()


def test_what_does_not_go_together_is_refused(built: Kernels) -> None:
    images, packed = torch.zeros(1, 32, 8, 8), built.pack_3x3(torch.ones(32, 32, 3, 3))
    with pytest.raises(ValueError, match="expected 32 channels"):
        built.convolve_3x3(torch.zeros(1, 64, 8, 8), packed)
    with pytest.raises(ValueError, match="float32"):
        built.convolve_3x3(images.double(), packed)
    with pytest.raises(ValueError, match="float32"):
        built.convolve_3x3(images, packed, torch.zeros(32, dtype=torch.float64))
    with pytest.raises(ValueError, match="36 channels: expected a multiple"):
        built.convolve_3x3(torch.zeros(1, 36, 8, 8), torch.zeros(36, 1, 36, built.panel_width))
    bias = torch.arange(64.0)[::2]
    assert torch.equal(built.convolve_3x3(images, packed, bias)[0, :, 0, 0], bias)


def map_of(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("batch", "channels", "kernels", "height", "width"),
    [
        (1, 3, 32, 1, 1),  # one cell
        (2, 40, 72, 13, 17),  # no multiple of a panel
        (1, 64, 64, 14, 56),  # whole tiles
        (1, 512, 160, 30, 31),  # few tiles at a time
        (3, 16, 5, 40, 50),  # less than a panel
        (1, 2048, 64, 5, 5),
        (0, 32, 64, 14, 14),  # no images
    ],
)
@pytest.mark.parametrize(
    ("stride", "addend"), [(1, None), (1, "same"), (1, "half"), (1, "odd"), (2, None), (2, "same")]
)
@pytest.mark.usefixtures("threads")
def test_equals_the_1x1_convolution(
    built: Kernels,
    batch: int,
    channels: int,
    kernels: int,
    height: int,
    width: int,
    stride: int,
    addend: str | None,
) -> None:
    images, weight, bias = (
        map_of(batch, channels, height, width),
        map_of(kernels, channels, 1, 1),
        torch.rand(kernels),
    )
    plain = functional.conv2d(images, weight, bias, stride)
    size = plain.shape[2:]
    sizes = {"same": size, "half": [-(-side // 2) for side in size], "odd": [side // 3 + 2 for side in size]}
    added = None if addend is None or 0 in size else map_of(batch, kernels, *sizes[addend])
    expected = plain if added is None else plain + functional.interpolate(added, size=size)
    packed = built.pack_1x1(weight, bias)
    found = built.convolve_1x1(images, packed, kernels, stride=stride, addend=added)
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * channels**0.5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    without = built.convolve_1x1(images.contiguous(), built.pack_1x1(weight, None), kernels, stride=stride)
    assert_close(
        without, functional.conv2d(images, weight, None, stride), rtol=1e-4, atol=1e-4 * channels**0.5
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_torch(built: Kernels, activation: Any) -> None:
    numbers = torch.tensor([-torch.inf, -7, -3, -1, -0.0, 0, 2, 3, 6, 9, torch.inf, torch.nan])
    images = numbers.view(1, 1, 3, 4)
    form: Any = {"none": lambda x: x}.get(activation) or getattr(functional, activation)
    found = built.convolve_1x1(images, built.pack_1x1(torch.ones(1, 1, 1, 1), None), 1, activation=activation)
    assert_close(found, form(images.clone()), equal_nan=True)


def test_1x1_convolutions_refuse_what_does_not_go_together(built: Kernels) -> None:
    images, packed = torch.zeros(1, 8, 4, 4), built.pack_1x1(torch.ones(40, 8, 1, 1), None)
    for found, match in (
        (lambda: built.convolve_1x1(torch.zeros(1, 9, 4, 4), packed, 40), "expected 8 channels"),
        (lambda: built.convolve_1x1(images.double(), packed, 40), "float32"),
        (lambda: built.convolve_1x1(images, packed, 400), "400 kernels"),
        (lambda: built.convolve_1x1(images, packed, 40, addend=torch.zeros(1, 39, 4, 4)), "added"),
        (lambda: built.convolve_1x1(images, packed, 40, addend=torch.zeros(2, 40, 4, 4)), "added"),
        (lambda: built.convolve_3x3(torch.zeros(1, 32, 4, 4), built.pack_3x3(torch.ones(32, 32, 3, 3)),
                                    addend=torch.zeros(1, 32, 4, 5)), "added"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            found()


@pytest.mark.parametrize(
    ("size", "samples", "aligned"), [(7, 2, True), (7, 2, False), (1, 1, True), (14, 3, False)]
)
@pytest.mark.usefixtures("threads")
def test_equals_roi_align(built: Kernels, size: int, samples: int, aligned: bool) -> None:
    maps, strides = [map_of(2, 96, 20, 30), map_of(2, 96, 10, 15).contiguous()], [4, 8]
    generator = torch.Generator().manual_seed(size)
    corners = torch.rand((50, 2), generator=generator) * 150 - 25
    rois = torch.cat([corners, corners + torch.rand((50, 2), generator=generator) * 90], 1)
    rois[0], rois[1], rois[2] = (
        torch.tensor([0, 0, 120, 80]),
        500.0,
        torch.tensor([3, 3, 3, 3]),
    )  # all, beyond, empty
    images, levels = torch.arange(50) % 2, torch.arange(50) // 3 % 2
    found = built.roi_align(maps, rois, images, levels, strides, size, samples, aligned=aligned)
    expected = roi_align.reference(maps, rois, images, levels, strides, size, samples, aligned)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_regions_that_are_no_numbers_or_of_no_image_read_nothing_foreign(built: Kernels) -> None:
    maps, index = [torch.ones(1, 32, 5, 5)], torch.zeros(3, dtype=torch.int64)
    rois = torch.tensor([[torch.nan] * 4, [-torch.inf, 0, torch.inf, 9], [-1e30, -1e30, 1e30, 1e30]])
    found = built.roi_align(maps, rois, index, index, [1], 2, 2, aligned=True)
    assert torch.isin(found, torch.tensor([0.0, 0.25, 0.5, 1.0])).all()
    for images, levels in ((index + 1, index), (index - 1, index), (index, index + 1)):
        with pytest.raises(IndexError, match="on the levels"):
            built.roi_align(maps, rois, images, levels, [1], 2, 2, aligned=True)
    with pytest.raises(ValueError, match="cells in all"):
        built.roi_align([torch.ones(1, 32, 0, 5)], rois, index, index, [1], 2, 2, aligned=True)
    with pytest.raises(ValueError, match="2 images"):
        built.roi_align(maps, rois, index[:2], index, [1], 2, 2, aligned=True)
    empty = built.roi_align(maps, rois[:0], index[:0], index[:0], [1], 2, 2, aligned=True)
    assert empty.shape == (0, 32, 2, 2)


@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("max_iou", [0.3, 0.5, 0.7])
@pytest.mark.usefixtures("threads")
def test_suppression_keeps_what_torchvision_keeps(built: Kernels, count: int, max_iou: float) -> None:
    generator = torch.Generator().manual_seed(count)
    corners = torch.randint(0, 40, (count, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + torch.randint(0, 30, (count, 2), generator=generator)], 1)
    scores = torch.randint(0, 50, (count,), generator=generator) / 50  # ties, too
    groups = torch.randint(0, 5, (count,), generator=generator) * 2  # classes that nothing is of
    kept = [
        index[torchvision.ops.nms(boxes[index], scores[index], max_iou)]
        for index in ((groups == group).nonzero().squeeze(1) for group in range(9))
    ]
    expected = torch.cat(kept)
    found = built.nms(boxes, scores, groups, max_iou)
    assert torch.equal(found, expected[scores[expected].argsort(descending=True, stable=True)])


def test_odd_numbers_of_channels_do_not_fit(built: Kernels) -> None:
    assert built.supports_3x3(64, 256)
    assert not built.supports_3x3(33, 64)
    assert not built.supports_3x3(64, 33)
    assert not built.supports_3x3(16, 64)


@pytest.mark.parametrize("channels", [16, 21, 96, 100])  # whole vectors, and some that overlap
@pytest.mark.parametrize(("height", "width"), [(33, 50), (16, 20), (5, 6), (1, 9), (3, 2)])
@pytest.mark.parametrize(("side", "padding"), [(3, 1), (3, 2), (3, SAME), (5, 2), (5, SAME)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ["none", "relu6"])
def test_equals_the_depthwise_convolution(
    built: Kernels,
    channels: int,
    height: int,
    width: int,
    side: int,
    padding: int,
    stride: int,
    activation: Any,
) -> None:
    images, weight, bias = (
        3 * map_of(2, channels, height, width),
        map_of(channels, 1, side, side),
        torch.rand(channels),
    )
    packed = built.pack_depthwise(weight)
    for shift in (bias, None):
        expected = convolve.reference(images, weight, shift, [], None, stride, padding, activation)
        found = built.convolve_depthwise(
            images, packed, shift, stride=stride, padding=padding, activation=activation
        )
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert found.is_contiguous(memory_format=torch.channels_last)
    first_layout = built.convolve_depthwise(images.contiguous(), packed, stride=stride, padding=padding)
    assert_close(first_layout, convolve.reference(images, weight, None, [], None, stride, padding, "none"))


def test_depthwise_convolutions_refuse_what_does_not_go_together(built: Kernels) -> None:
    images, packed = torch.zeros(1, 32, 8, 8), built.pack_depthwise(torch.ones(32, 1, 3, 3))
    for found, match in (
        (lambda: built.convolve_depthwise(torch.zeros(1, 48, 8, 8), packed), "expected 32 channels"),
        (lambda: built.convolve_depthwise(images.double(), packed), "float32"),
        (lambda: built.convolve_depthwise(images, packed, torch.zeros(31)), "a bias of 31"),
        (lambda: built.convolve_depthwise(images, packed, stride=3), "stride 3"),
        (lambda: built.convolve_depthwise(images, packed[:8]), "8 numbers"),
        (lambda: built.convolve_depthwise(images[:, :, :2], packed), "smaller than the kernels"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            found()


@pytest.mark.usefixtures("threads")
def test_no_images_have_no_depthwise_convolution(built: Kernels) -> None:
    packed = built.pack_depthwise(torch.ones(32, 1, 3, 3))
    assert built.convolve_depthwise(torch.zeros(0, 32, 8, 8), packed, padding=1).shape == (0, 32, 8, 8)
