"""RoI pooling: torchvision's kernels and Caffe's definition as oracles, levels at the paper's borders."""

import math

import pytest
import torch
import torchvision
from torch.testing import assert_close

from rcnn.ops.roi import assign_levels, roi_pool

STRIDES = (4, 8, 16)


def maps(seed: int = 0, images: int = 2, channels: int = 3, dtype=torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(24, 32), (12, 16), (6, 8)]
    return [torch.randn((images, channels, h, w), generator=draw, dtype=dtype) for h, w in shapes]


def regions(count: int = 40, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes on a 96x128 image, some beyond its borders, some empty, one far outside, one of all."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=draw) * 160 - 30
    boxes = torch.cat([corner, corner + torch.rand((count, 2), generator=draw) * 90], 1)
    boxes[0] = torch.tensor([20.0, 20, 20, 20])
    boxes[1] = torch.tensor([0.0, 0, 128, 96])
    boxes[2] = torch.tensor([-300.0, -300, -200, -200])
    boxes[3] = torch.tensor([127.9, 95.9, 128, 96])
    boxes[4] = torch.tensor([10.0, 30, 60, 30])
    boxes[5] = torch.tensor([-8.0, 8, 40, 56])  # halves of a cell: rounded away from zero, not to even
    return boxes, torch.randint(0, 2, (count,), generator=draw)


def pooled_by_torchvision(features, boxes, images, levels, size, sampling_ratio, aligned):
    output = features[0].new_zeros((len(boxes), features[0].shape[1], size, size))
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], 1)
    for i, (box, level) in enumerate(zip(rois, levels.tolist(), strict=True)):
        output[i] = torchvision.ops.roi_align(
            features[level], box[None], size, 1 / STRIDES[level], sampling_ratio, aligned
        )[0]
    return output


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 7])
def test_align_equals_torchvision(aligned, sampling_ratio, size):
    features, (boxes, images) = maps(), regions()
    levels = torch.arange(len(boxes)) % 3
    ours = roi_pool(
        features, boxes, images, levels, STRIDES, size, sampling_ratio=sampling_ratio, aligned=aligned
    )
    expected = pooled_by_torchvision(features, boxes, images, levels, size, sampling_ratio, aligned)
    assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradient_of_align_equals_torchvision(aligned, sampling_ratio):
    boxes, images = regions()
    levels = torch.arange(len(boxes)) % 3
    weights = torch.randn((len(boxes), 3, 4, 4), generator=torch.Generator().manual_seed(5))
    gradients = []
    for theirs in (False, True):
        features = [f.requires_grad_() for f in maps()]
        if theirs:
            pooled = pooled_by_torchvision(features, boxes, images, levels, 4, sampling_ratio, aligned)
        else:
            pooled = roi_pool(
                features, boxes, images, levels, STRIDES, 4, sampling_ratio=sampling_ratio, aligned=aligned
            )
        (pooled * weights).sum().backward()
        gradients.append([f.grad for f in features])
    for own, expected in zip(*gradients, strict=True):
        assert_close(own, expected, rtol=1e-5, atol=1e-5)


def test_align_reads_a_ramp_exactly():
    """On f(x, y) = x, in cells, bilinear interpolation is exact: a bin's value is its centre."""
    ramp = (torch.arange(16.0) + 0.5).expand(1, 1, 16, 16)
    boxes, images = torch.tensor([[16.0, 16, 48, 40]]), torch.zeros(1, dtype=torch.int64)
    pooled = roi_pool([ramp], boxes, images, images, (4,), 4)
    assert_close(pooled[0, 0, 0], torch.tensor([5.0, 7, 9, 11]))  # cells 4 to 12 in 4 bins


def caffe_roi_pool(feature, boxes, images, stride, size):
    """RoIPoolingLayer of Caffe, literally: rounded corners, inclusive ends, floor and ceil of the bins."""

    def half_away(value):  # C's round
        return int(math.copysign(math.floor(abs(value) + 0.5), value))

    _, channels, height, width = feature.shape
    output = feature.new_zeros((len(boxes), channels, size, size))
    for r, (box, image) in enumerate(zip(boxes.tolist(), images.tolist(), strict=True)):
        x1, y1, x2, y2 = (half_away(v / stride) for v in box)
        bin_w, bin_h = max(x2 - x1 + 1, 1) / size, max(y2 - y1 + 1, 1) / size
        for i in range(size):
            top = min(max(math.floor(i * bin_h) + y1, 0), height)
            bottom = min(max(math.ceil((i + 1) * bin_h) + y1, 0), height)
            for j in range(size):
                left = min(max(math.floor(j * bin_w) + x1, 0), width)
                right = min(max(math.ceil((j + 1) * bin_w) + x1, 0), width)
                if bottom > top and right > left:
                    output[r, :, i, j] = feature[image, :, top:bottom, left:right].amax((1, 2))
    return output


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_pool_equals_caffes_definition(size):
    features, (boxes, images) = maps(), regions(60)
    for level, (feature, stride) in enumerate(zip(features, STRIDES, strict=True)):
        levels = torch.full((60,), level)
        ours = roi_pool(features, boxes, images, levels, STRIDES, size, sampling_ratio=None)
        assert_close(ours, caffe_roi_pool(feature, boxes, images, stride, size), rtol=0, atol=0)


def test_pool_sends_the_gradient_to_the_maximum_only():
    feature = torch.arange(16.0).view(1, 1, 4, 4).requires_grad_()
    zero = torch.zeros(1, dtype=torch.int64)
    roi_pool(
        [feature], torch.tensor([[0.0, 0, 3, 3]]), zero, zero, (1,), 2, sampling_ratio=None
    ).sum().backward()
    expected = torch.zeros((4, 4))
    expected[1::2, 1::2] = 1
    assert_close(feature.grad[0, 0], expected)


@pytest.mark.parametrize("sampling_ratio", [0, 2, None])
def test_no_regions_give_zero_gradients(sampling_ratio):
    features, none = [f.requires_grad_() for f in maps()], torch.zeros(0, dtype=torch.int64)
    pooled = roi_pool(features, torch.zeros((0, 4)), none, none, STRIDES, 7, sampling_ratio=sampling_ratio)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (0, 2),
        (1, 2),
        (55.9, 2),
        (56, 2),
        (111.9, 2),
        (112, 3),
        (223.9, 3),
        (224, 4),
        (447.9, 4),
        (448, 5),
        (5000, 5),
    ],
)
def test_levels_of_squares(side, level):
    """FPN eq. 1, index 0 is level 2: exactly 112, 224 and 448 lie on the coarser side."""
    box = torch.tensor([[10.0, 10, 10 + side, 10 + side]])
    assert assign_levels(box, (4, 8, 16, 32)).tolist() == [level - 2]


def test_levels_of_oblongs_go_by_their_area():
    boxes = torch.tensor([[0.0, 0, 448, 112], [0, 0, 112, 448], [0, 0, 448, 56], [0, 0, 448, 0]])
    assert assign_levels(boxes, (4, 8, 16, 32)).tolist() == [2, 2, 1, 0]


def test_levels_equal_torchvisions():
    from torchvision.ops.poolers import LevelMapper

    boxes, _ = regions(200)
    boxes[:, 2:] += torch.arange(200.0)[:, None] * 3
    expected = LevelMapper(2, 5)([boxes])
    assert_close(assign_levels(boxes, (4, 8, 16, 32)), expected)


def test_levels_of_another_canonical_size_and_of_one_map():
    boxes = torch.tensor([[0.0, 0, 56, 56], [0, 0, 55, 55]])
    assert assign_levels(boxes, (4, 8, 16), canonical_size=56).tolist() == [2, 1]
    assert assign_levels(boxes, (16,)).tolist() == [0, 0]
    assert assign_levels(torch.zeros((0, 4)), (4, 8)).shape == (0,)


def test_maps_in_half_precision_are_pooled_with_exact_boxes() -> None:
    maps = torch.arange(4096.0).view(1, 1, 64, 64)
    # As bfloat16 534 is 536, which ends a cell further.
    rois = torch.tensor([[400.0, 100.0, 534.0, 300.0]])
    zero = torch.zeros(1, dtype=torch.int64)
    pooled = [
        roi_pool([m], rois, zero, zero, [16], 2, sampling_ratio=None) for m in (maps, maps.to(torch.bfloat16))
    ]
    assert_close(pooled[1], pooled[0].to(torch.bfloat16).float())
