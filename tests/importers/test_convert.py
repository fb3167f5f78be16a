"""The door: a file in, a model out, for the command line and all verbs after it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import rcnn
from rcnn.cli import app
from rcnn.data.formats.coco_keypoints import PERSON
from rcnn.importers.convert import import_weights
from their_states import detectron2, drawn, mmdetection


@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of Detectron2's zoo: Mask R-CNN of 80 classes."""
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    arrays = {k: v.half().numpy() for k, v in detectron2(drawn(), mask=True).items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    return path


def test_from_the_command_line_to_a_prediction(zoo_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask_rcnn"
    result = CliRunner().invoke(
        app, ["weights", "import", str(zoo_file), "--source", "detectron2", "--out", str(out),
              "--set", "transform.short_side=64"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "mask_rcnn: resnet50, a pyramid, 80 classes" in result.output
    assert "images: BGR, mean and std by Detectron2's defaults" in result.output
    assert f"written: {out}.safetensors" in result.output
    detector = rcnn.load(f"{out}.safetensors", "cpu")
    assert detector.info["source"] == "detectron2: model_final.pkl"
    assert len(detector.class_names) == 80
    assert (detector.class_names[0], detector.class_names[79]) == ("person", "toothbrush")
    assert detector.category_ids[10:13] == (11, 13, 14), "COCO's own, which have gaps"
    assert detector.transform.short_side == 64
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    (found,) = detector.predict(Image.fromarray(picture), min_score=0.0, max_detections=3)
    assert found.size == (60, 80)
    assert found.masks is not None


def test_the_old_name_of_the_option_works_with_a_warning(tmp_path: Path) -> None:
    words = ["weights", "import", str(tmp_path / "none.pth"), "--out", str(tmp_path / "a")]
    with pytest.warns(FutureWarning, match="--from is now --source; the old name will be removed in 0.3"):
        old = CliRunner().invoke(app, [*words, "--from", "detectron2"])
    new = CliRunner().invoke(app, [*words, "--source", "detectron2"])
    assert old.output == new.output
    assert "none.pth" in new.output
    neither = CliRunner().invoke(app, words)
    assert "--source detectron2" in neither.output


def test_names_of_classes(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("nucleus\n\nmitosis\n", "utf-8")
    state = mmdetection(drawn(), classes=2)
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: 2 classes without names; give them with --classes FILE"):
        import_weights(tmp_path / "a.pth", "mmdetection")
    imported = import_weights(tmp_path / "a.pth", "mmdetection", classes=names)
    assert imported.detector.class_names == ("nucleus", "mitosis")
    names.write_text("one\n", "utf-8")
    with pytest.raises(ValueError, match=r"names\.txt: 1 names, but .*a\.pth has 2 classes"):
        import_weights(tmp_path / "a.pth", "mmdetection", classes=names)
    with pytest.raises(
        ValueError, match="--source yolo: expected one of torchvision, detectron2, mmdetection"
    ):
        import_weights(tmp_path / "a.pth", "yolo")


def test_people(tmp_path: Path) -> None:
    torch.save({"model": detectron2(drawn(), classes=1, keypoints=17), "iteration": 9}, tmp_path / "p.pth")
    detector = import_weights(tmp_path / "p.pth", "detectron2").detector
    assert detector.class_names == ("person",)
    assert detector.skeleton == PERSON


def test_settings_that_the_file_cannot_tell(tmp_path: Path) -> None:
    torch.save(detectron2(drawn()), tmp_path / "a.pth")
    changes = ["model.backbone.stride_at=3x3", "model.box.pool.aligned=false"]
    imported = import_weights(tmp_path / "a.pth", "detectron2", channels="rgb", settings=changes)
    network: Any = imported.detector.network
    assert network.settings.backbone.stride_at == "3x3"
    assert not network.settings.box.pool.aligned
    plain: Any = import_weights(tmp_path / "a.pth", "detectron2").detector.network
    first = plain.backbone.stages[0].conv1.weight
    assert torch.equal(network.backbone.stages[0].conv1.weight, first.flip(1))
    with pytest.raises(ValueError, match=r"train: no such setting; expected one of: model, transform"):
        import_weights(tmp_path / "a.pth", "detectron2", settings=["train.lr=1"])
    with pytest.raises(
        ValueError, match=r"weights of another shape: rpn\.objectness\.weight \[3, 256, 1, 1\]"
    ):
        import_weights(tmp_path / "a.pth", "detectron2", settings=["model.rpn.ratios=[1.0]"])
