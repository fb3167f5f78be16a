"""Targets, loss and kernels of a class for every pixel."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops.losses import global_means
from rcnn.ops.semantic import bilinear_kernel, pixel_loss
from rcnn.parts.batch import Targets
from rcnn.parts.semantic_head import stacked_maps


def truth(*rows):
    semantic = torch.tensor(rows)
    return Targets.empty((semantic.shape[0], semantic.shape[1]), semantic=semantic)


def test_maps_are_padded_with_void():
    stacked = stacked_maps([truth([1, 2]), truth([0], [3])], (2, 3))
    assert stacked.tolist() == [[[1, 2, 255], [255] * 3], [[0, 255, 255], [3, 255, 255]]]


def test_truth_without_a_map_is_refused():
    with pytest.raises(ValueError, match="the truth has no semantic map"):
        stacked_maps([Targets.empty((2, 2))], (2, 2))


def test_loss_by_hand():
    """Equal logits of four classes: log 4 for each pixel that is not void."""
    logits, maps = torch.zeros(2, 4, 1, 3), torch.tensor([[[0, 1, 255]], [[3, 255, 255]]])
    four = torch.tensor(4.0).log()
    assert_close(global_means({"pixels": pixel_loss(logits, maps)})["pixels"], four)
    assert_close(global_means({"pixels": pixel_loss(logits, maps, per_image=True)})["pixels"], 3 * four / 2)


def test_void_alone_has_no_loss_but_a_gradient():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = global_means({"pixels": pixel_loss(logits, torch.full((1, 2, 2), 255))})["pixels"]
    loss.backward()
    assert loss == 0
    assert_close(logits.grad, torch.zeros(1, 3, 2, 2))


def test_the_kernel_of_stride_2():
    profile = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = bilinear_kernel(3, 2)
    assert_close(kernel[1, 1], torch.outer(profile, profile))
    assert kernel[0, 1].abs().sum() == 0


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_the_kernel_interpolates(stride):
    """As torch's bilinear does, away from the border, where it fades instead of repeating the last value."""
    maps = torch.randn((1, 2, 4, 5), generator=torch.Generator().manual_seed(0))
    ours = functional.conv_transpose2d(maps, bilinear_kernel(2, stride), stride=stride)
    theirs = functional.interpolate(maps, scale_factor=stride, mode="bilinear")
    half = stride // 2
    inner = ours[:, :, stride : -stride or None, stride : -stride or None]
    assert_close(inner, theirs[:, :, half:-half, half:-half], rtol=1e-4, atol=1e-5)
