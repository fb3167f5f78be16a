"""The one loader: what it opens, what it refuses, and whose code it imports."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from dark import Dark, DarkSettings, detector
from rcnn import models
from rcnn.importers import convert
from rcnn.inference.detector import Detector
from rcnn.io import checkpoint
from rcnn.loading import load, load_detector, shipped
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe


@pytest.fixture(autouse=True)
def dark_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "dark", Dark)


def test_a_saved_detector_loads_equal(tmp_path: Path) -> None:
    original = Detector(
        Dark(2, DarkSettings(threshold=0.25)),
        Transform(short_side=99),
        ("a", "ü"),
        0.3,
        {"metrics": {"AP": 0.5}},
    )
    loaded = load_detector(original.save(tmp_path / "m.safetensors"))
    assert isinstance(loaded.network, Dark)
    assert loaded.network.settings == DarkSettings(threshold=0.25)
    assert not loaded.network.training
    assert (loaded.transform, loaded.class_names, loaded.min_score) == (
        Transform(short_side=99),
        ("a", "ü"),
        0.3,
    )
    assert loaded.info["metrics"] == {"AP": 0.5}
    assert loaded.info["versions"].keys() >= {"torch", "torchvision"}
    assert_close(loaded.network.weight, original.network.weight)
    again = load_detector(loaded.save(tmp_path / "n.safetensors"))
    assert again.info == loaded.info


def test_settings_of_prediction_can_be_changed(tmp_path: Path) -> None:
    recipe = tiny_recipe("faster_rcnn")
    file = Detector(tiny_network(recipe), recipe.transform, NAMES).save(tmp_path / "a.safetensors")
    changed = load_detector(file, settings=["model.box.nms_iou=0.3", "transform.scale=2"])
    plain = load_detector(file)
    assert (plain.network.settings.box.nms_iou, changed.network.settings.box.nms_iou) == (0.5, 0.3)
    assert changed.network.box.settings.nms_iou == 0.3
    assert changed.transform.scale == 2.0
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.network.parameters(), changed.network.parameters(), strict=True)
    )
    with pytest.raises(ValueError, match=r"model\.box\.channels=7: the weights are for other settings: size"):
        load_detector(file, settings=["model.box.channels=7"])
    with pytest.raises(ValueError, match=r"train: no such setting; .*transform"):
        load_detector(file, settings=["train.lr=1"])


def test_other_weights_can_be_stored_in_place_of_the_networks(tmp_path: Path) -> None:
    half = {"weight": torch.tensor([0.5, 1.5], dtype=torch.float16)}
    loaded = load_detector(detector().save(tmp_path / "m.safetensors", half))
    assert_close(loaded.network.weight, torch.nn.Parameter(torch.tensor([0.5, 1.5])))


def test_a_runs_checkpoint_gives_its_averaged_weights(tmp_path: Path) -> None:
    """Beside the weights, a run's last checkpoint holds their average and the optimiser's state."""
    tensors = {"network.weight": torch.zeros(2), "optimizer.0.step": torch.tensor(3)}
    checkpoint.write_checkpoint(tmp_path / "last.safetensors", tensors, detector().describe())
    assert load_detector(tmp_path).network.weight.tolist() == [0, 0]
    tensors["ema.weight"] = torch.ones(2)
    checkpoint.write_checkpoint(tmp_path / "last.safetensors", tensors, detector().describe())
    assert load_detector(tmp_path).network.weight.tolist() == [1, 1]
    detector().save(tmp_path / "best.safetensors")
    assert load_detector(str(tmp_path)).network.weight.tolist() == [0, 1]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model in this folder; expected best\.safetensors"):
        load_detector(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_detector(tmp_path / "none.safetensors")
    checkpoint.write_checkpoint(tmp_path / "bare.safetensors", {}, {})
    with pytest.raises(
        ValueError, match=r"bare\.safetensors: not a detector: its metadata lacks architecture"
    ):
        load_detector(tmp_path / "bare.safetensors")
    described = detector().describe()
    checkpoint.write_checkpoint(tmp_path / "a.safetensors", {}, {**described, "architecture": "mask"})
    with pytest.raises(
        ValueError, match=r"a\.safetensors: architecture 'mask' is unknown; did you mean mask_rcnn"
    ):
        load_detector(tmp_path / "a.safetensors")
    checkpoint.write_checkpoint(tmp_path / "b.safetensors", {"other": torch.zeros(1)}, described)
    with pytest.raises(ValueError, match=r"b\.safetensors: made by another version"):
        load_detector(tmp_path / "b.safetensors")
    checkpoint.write_checkpoint(tmp_path / "c.safetensors", {}, {**described, "model": {"thresh": 1}})
    with pytest.raises(ValueError, match=r"c\.safetensors.*model\.thresh: .* did you mean model\.threshold"):
        load_detector(tmp_path / "c.safetensors")


def test_a_bare_name_asks_for_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"maskrcnn_resnet50_fpn_coco": detector()}
    monkeypatch.setattr(convert, "load_published", published.__getitem__)
    assert load("maskrcnn_resnet50_fpn_coco").class_names == ("light", "dark")
    with pytest.raises(FileNotFoundError, match="mask_r: no such file or folder, and no model of this"):
        load_detector("mask_r")


def test_the_model_that_comes_with_the_package() -> None:
    assert load("nuclei", "cpu").class_names == load_detector(shipped()["nuclei"], "cpu").class_names


def test_an_exported_file_is_no_network() -> None:
    with pytest.raises(
        ValueError, match=r"a\.onnx: an exported model, which rcnn\.load opens; expected a net"
    ):
        load_detector("a.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file or folder"):
        load("none.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "an exported file has its own precision"),
        ({"settings": ["model.box.nms_iou=0.4"]}, "export the model with --set"),
        ({"device": "cuda"}, "run on the CPU; found device cuda"),
    ],
    ids=["precision", "settings", "device"],
)
def test_what_is_fixed_in_an_exported_file(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}"):
        load("a.onnx", **options)


def test_precision(tmp_path: Path) -> None:
    file = detector().save(tmp_path / "a.safetensors")
    assert load(file, "cpu").precision == "auto"
    assert load(file, "cpu", precision="float32").precision == "float32"
    with pytest.warns(FutureWarning, match=r'half=False is now precision="float32"'):
        assert load(file, "cpu", half=False).precision == "float32"


OWN = """
import rcnn
from rcnn.parts.backbone import Stage
from torch import nn

class Mine(rcnn.FasterRCNN):
    pass

def build(settings):
    return [Stage(nn.Conv2d(3, 8, 3, 4, 1), 8, 4), Stage(nn.Conv2d(8, 8, 3, 2, 1), 8, 8)]
"""


@pytest.mark.parametrize("what", ["model", "backbone"])
def test_a_file_decides_on_no_import(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model or backbone of a user's own is opened if it is imported already, or if the caller trusts it."""
    name = f"own_{what}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module(name)
    rpn = RPNSettings(sizes=((32.0,), (64.0,), (128.0,)), channels=8)
    backbone = BackboneSettings(f"{name}:build" if what == "backbone" else "timm:test_resnet", (0, 1), 0)
    if what == "model":
        backbone = replace(backbone, levels=(2, 3))
    kind = own.Mine if what == "model" else FasterRCNN
    network = kind(2, FasterRCNNSettings(backbone, FPNSettings(8), rpn, BoxHeadSettings(channels=8)))
    file = Detector(network, Transform(), NAMES).save(tmp_path / "m.safetensors")
    assert type(load_detector(file, "cpu").network) is kind
    monkeypatch.delitem(sys.modules, name)
    path = f"{name}:{'Mine' if what == 'model' else 'build'}"
    with pytest.raises(ValueError, match=rf"m\.safetensors: it names {path}, .* give --trust {name}"):
        load(file, "cpu")
    with pytest.raises(ValueError, match="never imported because a file says so"):
        load(file, "cpu", trust=["own"])
    assert name not in sys.modules
    opened = load_detector(file, "cpu", trust=[name])
    assert_close(opened.network.state_dict(), network.state_dict())
    assert opened.network.settings == network.settings


CODE = """
import sys
import rcnn
try:
    rcnn.load("none.onnx")
except FileNotFoundError:
    pass
heavy = {"torch", "torchvision", "timm"} & set(sys.modules)
assert not heavy, heavy
"""


def test_an_exported_file_is_opened_without_torch() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
