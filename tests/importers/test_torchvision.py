"""torchvision's models through the same door: by keys and shapes, or by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch.testing import assert_close
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from rcnn.importers import torchvision as zoo
from rcnn.importers.recognise import build
from rcnn.importers.torchvision import DETECTORS, from_torchvision, published, torchvision_settings

RESNETS = [name for name in DETECTORS if "resnet" in name]


def theirs(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **options).eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_recognised(name: str) -> None:
    """By keys and shapes; only a published file's name tells MobileNet's two detectors apart."""
    with torch.device("meta"):
        state = theirs(name, num_classes=4).state_dict()
    url = Path(published()[f"{name}_coco"]).name
    found = zoo.read(state, url if "_320_" in name else "mine.pth")
    expected = torchvision_settings(name)
    if name in RESNETS:
        # Built without ImageNet weights it has batch norms that train; published it had none.
        expected = replace(expected, backbone=replace(expected.backbone, norm="batch"))
    assert found.settings == expected
    assert found.transform.short_side == (320 if "_320_" in name else 800)


@torch.no_grad()
def test_same_network_as_from_torchvision() -> None:
    network = theirs("maskrcnn_resnet50_fpn", num_classes=3)
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    ours = build(zoo.read(state, "mine.pth"), "mine.pth").state_dict()
    expected = from_torchvision("maskrcnn_resnet50_fpn", state).state_dict()
    assert list(ours) == list(expected)
    for key, tensor in expected.items():
        assert_close(ours[key], tensor, msg=key)


@torch.no_grad()
def test_resnet101_live() -> None:
    """A model that is not published: their detections and ours on the same image."""
    torch.manual_seed(1)
    backbone = resnet_fpn_backbone(backbone_name="resnet101", weights=None)
    network = FasterRCNN(backbone, 3, min_size=128, max_size=200, box_score_thresh=0.0).eval()
    for module in network.backbone.modules():
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d):
            module.weight.fill_(0.5)
    found = zoo.read({"model": network.state_dict(), "epoch": 3}, "mine.pth")
    assert found.settings.backbone.name == "resnet101"
    ours: Any = build(found, "mine.pth")
    image = torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(2))
    transform = replace(found.transform, short_side=128, max_long_side=200)
    mine = ours(transform([image]), min_score=0.0).detections
    expected = network([image])[0]
    count = min(len(mine.scores), 20)
    assert count > 5
    assert_close(mine.scores[:count], expected["scores"][:count], rtol=1e-3, atol=1e-4)


def test_coco_keeps_eighty() -> None:
    with torch.device("meta"):
        state = theirs("fasterrcnn_resnet50_fpn").state_dict()
    found = zoo.read(state, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    assert found.class_names is not None
    assert len(found.class_names) == 80
    assert len(found.state["box.logits.bias"]) == 81
    assert found.notes == ("images: RGB, mean and std of ImageNet; batch norm with eps 0",)
    assert zoo.read(state, "mine.pth").notes[0].endswith("eps 1e-05")
