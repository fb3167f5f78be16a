"""Heads with layers of a user's own: what they take, what is refused, how they are saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rcnn.inference.detector import Detector
from rcnn.loading import load_detector
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.parts.batch import ImageBatch, TargetMasks, Targets
from rcnn.parts.own_layers import own_layers
from rcnn.transform import Transform
from tiny import BOX, MASK, NAMES, SHARED


def box_layers(in_channels, settings):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * settings.pool.size**2, 12), nn.GELU(), nn.LayerNorm(12)
    )


def mask_layers(in_channels, settings):
    return nn.Sequential(nn.Conv2d(in_channels, 10, 1), nn.BatchNorm2d(10), nn.SiLU())


def pool_away(in_channels, settings):
    return nn.AdaptiveAvgPool2d(1)


def no_module(in_channels, settings):
    return 3


def too_narrow(in_channels, settings):
    return nn.Conv2d(in_channels + 1, 4, 1)


SETTINGS = MaskRCNNSettings(
    **SHARED | {"box": replace(BOX, head=f"{__name__}:box_layers")},
    mask=replace(MASK, head=f"{__name__}:mask_layers"),
)


def test_a_model_with_own_heads_trains_predicts_and_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MaskRCNN(len(NAMES), SETTINGS)
    assert (network.box.logits.in_features, network.mask.upsample.in_channels) == (12, 10)
    assert [part.name for part in network.pretrained_parts()] == ["backbone"]
    images = ImageBatch(torch.rand((1, 3, 64, 64)), ((64, 60),), (3,))
    masks = TargetMasks(torch.ones(400, dtype=torch.uint8), torch.tensor([[5, 5, 25, 25]]), (64, 60))
    truth = Targets((64, 60), torch.tensor([[5.0, 5, 25, 25]]), torch.tensor([1]), masks)
    sum(network.train()(images, [truth]).losses.values()).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    detector = Detector(network.eval(), Transform(), NAMES)
    image = torch.rand((3, 50, 70)).numpy().transpose(1, 2, 0)
    (found,) = detector.predict(image, min_score=0.0)
    assert len(found)
    (again,) = load_detector(detector.save(tmp_path / "own.safetensors"), "cpu").predict(image, min_score=0.0)
    assert (again.boxes == found.boxes).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pool_away", r"returns \[2, 8, 1, 1\]; expected \[R, D, 4, 4\]"),
        ("no_module", "returned int; expected a module"),
        ("too_narrow", r"cannot process regions \[R, 8, 4, 4\]"),
        ("box_layers", r"returns \[2, 12\]; expected \[R, D, 4, 4\]"),
        ("missing", "has no missing"),
    ],
)
def test_layers_that_do_not_fit(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own_layers(f"{__name__}:{name}", 8, MASK, maps=True)


def test_own_layers_take_the_place_of_convolutions() -> None:
    mlp = replace(SETTINGS.mask, layers="mlp")
    with pytest.raises(ValueError, match=r"mask\.head takes the place of convolutions"):
        MaskRCNN(2, replace(SETTINGS, mask=mlp))
