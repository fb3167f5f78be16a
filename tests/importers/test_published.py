"""torchvision's published detectors: names of all versions, classes, batch norms of an eps of 0."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.importers import convert
from rcnn.importers.convert import load_published
from rcnn.importers.torchvision import from_torchvision, published


def randomise(network: nn.Module) -> nn.Module:
    """Batch norms with statistics of all sizes."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 1e-3, 2.0)
    return network.eval()


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The key names of the files that torchvision published before version 0.13."""
    rules = (
        (r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
        (r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}."),
    )
    renamed = {}
    for key, tensor in state.items():
        new = key
        for pattern, name in rules:
            new = re.sub(pattern, name, new)
        renamed[new] = tensor
    return renamed


@pytest.fixture(scope="module")
def mask_rcnn() -> dict[str, Tensor]:
    """The state of torchvision's Mask R-CNN with the 91 classes of COCO."""
    torch.manual_seed(0)
    detection = torchvision.models.detection
    network = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    return {k: v for k, v in randomise(network).state_dict().items() if "num_batches" not in k}


def test_names_of_all_versions(mask_rcnn: dict[str, Tensor]) -> None:
    new = from_torchvision("maskrcnn_resnet50_fpn", mask_rcnn).state_dict()
    old = from_torchvision("maskrcnn_resnet50_fpn", old_names(mask_rcnn)).state_dict()
    for key, tensor in new.items():
        assert torch.equal(tensor, old[key]), key


def test_classes_of_ones_own(mask_rcnn: dict[str, Tensor]) -> None:
    model = from_torchvision("maskrcnn_resnet50_fpn", mask_rcnn, num_classes=2)
    state = model.state_dict()
    assert state["box.logits.weight"].shape[0] == 3
    assert state["mask.logits.weight"].shape[0] == 2
    assert_close(state["box.layers.1.weight"], mask_rcnn["roi_heads.box_head.fc6.weight"])


def test_weights_of_another_model(mask_rcnn: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"another model: this one has no (roi_heads|mask\.)"):
        from_torchvision("fasterrcnn_resnet50_fpn", mask_rcnn)
    lacking = {k: v for k, v in mask_rcnn.items() if "layer3.2.conv1" not in k}
    with pytest.raises(ValueError, match=r"lack 1 tensors .*backbone\.stages\.3\.2\.conv1\.weight"):
        from_torchvision("maskrcnn_resnet50_fpn", lacking)
    with pytest.raises(ValueError, match=r"'retinanet' is not a torchvision detector"):
        from_torchvision("retinanet", mask_rcnn)
    with pytest.raises(ValueError, match=r"no Faster, Mask or Keypoint R-CNN .* found nothing"):
        from_torchvision("maskrcnn_resnet50_fpn", {})


def test_published_detector(mask_rcnn: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eighty classes, each with its own row of the weights; batch norms made for an eps of 0."""
    asked = []

    def found(url: str) -> Path:
        asked.append(url)
        return Path("there.pth")

    monkeypatch.setattr(convert, "find_weights", found)
    monkeypatch.setattr(convert, "read_tensors", lambda path: mask_rcnn)
    detector = load_published("maskrcnn_resnet50_fpn_coco")
    assert asked == ["https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"]
    assert asked == [detector.info["source"]]
    assert len(detector.class_names) == 80
    assert detector.class_names[0] == "person"
    assert detector.class_names[79] == "toothbrush"
    state = detector.network.state_dict()
    # COCO's category 90 is the toothbrush, 13 the stop sign, which comes after the missing 12.
    for label, category in ((0, 1), (79, 90), (detector.class_names.index("stop sign"), 13)):
        rows = mask_rcnn["roi_heads.box_predictor.bbox_pred.weight"][4 * category : 4 * category + 4]
        assert_close(state["box.deltas.weight"][4 * label : 4 * label + 4], rows)
        bias = mask_rcnn["roi_heads.box_predictor.cls_score.bias"][category]
        assert_close(state["box.logits.bias"][label], bias)
        kernel = mask_rcnn["roi_heads.mask_predictor.mask_fcn_logits.weight"][category]
        assert_close(state["mask.logits.weight"][label], kernel)
    assert_close(state["box.logits.bias"][80], mask_rcnn["roi_heads.box_predictor.cls_score.bias"][0])
    scale = mask_rcnn["backbone.body.bn1.weight"] / mask_rcnn["backbone.body.bn1.running_var"].sqrt()
    ours = state["backbone.stages.0.bn1.weight"] / (state["backbone.stages.0.bn1.running_var"] + 1e-5).sqrt()
    assert_close(ours, scale)
    small = replace(detector, transform=replace(detector.transform, short_side=64))
    found_objects = small.predict(torch.zeros(3, 40, 50), min_score=0.0, max_detections=3)[0]
    assert found_objects.size == (40, 50)


def test_published_names() -> None:
    names = published()
    assert len(names) == 7
    for name, url in names.items():
        assert re.fullmatch(r"https://.*-[0-9a-f]{8}\.pth", url)
        assert name.removesuffix("_coco") in url
    with pytest.raises(
        KeyError, match="'yolo' is not published; expected one of fasterrcnn_resnet50_fpn_coco"
    ):
        load_published("yolo")
