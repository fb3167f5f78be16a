"""The semantic branch: its layers are the paper's, its classes begin where the settings say."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from rcnn.ops.losses import global_means
from rcnn.parts.batch import Detections, Targets
from rcnn.parts.semantic_head import SemanticHead, SemanticHeadSettings
from rcnn.structures import VOID


def pyramid(side: int = 64, channels: int = 6, count: int = 5) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn((2, channels, side >> k, side >> k), generator=draw) for k in range(2, 2 + count)]


def head(things: str = "other", strides=(4, 8, 16, 32)) -> SemanticHead:
    torch.manual_seed(0)
    return SemanticHead(6, strides, 3, 2, SemanticHeadSettings(8, 2, things))


def test_the_papers_layers():
    paper = SemanticHead(256, (4, 8, 16, 32), 80, 53, SemanticHeadSettings())
    assert [len(level) for level in paper.levels] == [1, 1, 2, 3]
    first = paper.levels[3][0]
    assert (first[0].in_channels, first[0].out_channels, first[0].kernel_size) == (256, 128, (3, 3))
    assert (first[1].num_groups, first[1].num_channels) == (32, 128)
    assert paper.logits.out_channels == 54
    each = SemanticHead(256, (4, 8, 16, 32), 8, 11, SemanticHeadSettings(things="each"))
    assert each.logits.out_channels == 19


def test_the_sum_of_all_levels_by_hand():
    own, maps = head(), pyramid()
    expected = 0
    for level, doublings in enumerate((0, 1, 2, 3)):
        hidden = maps[level]
        for block in own.levels[level]:
            conv, norm, _ = block
            hidden = functional.group_norm(
                functional.conv2d(hidden, conv.weight, padding=1), 2, norm.weight, norm.bias
            ).relu()
            if doublings:
                hidden = nn.Upsample(scale_factor=2, mode="bilinear")(hidden)
        expected = expected + hidden
    found = own(maps)
    assert found.shape == (2, 3, 16, 16)
    assert_close(found, functional.conv2d(expected, own.logits.weight, own.logits.bias), rtol=1e-4, atol=1e-4)
    assert own.upsampled(found).shape == (2, 3, 64, 64)


def test_maps_with_odd_sides():
    maps = [torch.zeros((1, 6, side, side)) for side in (9, 5, 3, 2)]
    assert head()(maps).shape == (1, 3, 9, 9)


def test_another_finest_stride():
    own = head(strides=(8, 16))
    assert own.upsampled(own(pyramid(count=4)[1:])).shape == (2, 3, 64, 64)


def truth(rows: list[list[int]]) -> Targets:
    return Targets.empty((len(rows), len(rows[0])), semantic=torch.tensor(rows))


def test_things_are_one_class_before_the_stuff():
    rows = [[0, 2, 3, 4, VOID]]
    assert head().targets([truth(rows)], (2, 6)).tolist() == [[[0, 0, 1, 2, VOID, VOID], [VOID] * 6]]
    assert head("each").targets([truth(rows)], (1, 5)).tolist() == [rows]


def test_the_loss_is_the_mean_over_known_pixels():
    logits = torch.zeros((1, 3, 1, 1))
    logits[:, 1] = math.log(2)  # probabilities 1/4, 2/4, 1/4 wherever it is enlarged to
    loss = global_means(head().loss(logits, [truth([[0, 3, VOID, VOID]])]))["semantic"]
    assert_close(loss, torch.tensor((math.log(4) + math.log(2)) / 2))
    assert global_means(head().loss(logits, [truth([[VOID]])]))["semantic"] == 0


def test_truth_without_a_map_is_refused():
    with pytest.raises(ValueError, match="semantic map"):
        head().targets([Targets.empty((4, 4))], (4, 4))


def test_decoding_gives_all_pixels_of_the_batch():
    own = head()
    logits = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))
    found = own.decode(logits, Detections.none(torch.zeros((2, 3, 64, 64))))
    assert_close(found.semantic_logits, own.upsampled(logits))
