"""A misspelt name gets a suggestion wherever users type names: one row for each table of names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from rcnn.config import did_you_mean, nearest_names
from rcnn.data.archives import get_data
from rcnn.data.convert import convert
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import Scenes, draw_shapes
from rcnn.importers.convert import import_weights, load_published
from rcnn.inference.detector import Detector
from rcnn.inference.exporters import exporter
from rcnn.loading import load
from rcnn.metrics.registry import choose_metrics
from rcnn.models import model_class
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.pretrained import backbone_normalisation
from rcnn.training.callbacks import open_callbacks
from rcnn.training.recipe import default_recipe, load_recipe, with_settings


def test_the_nearest_name_whatever_its_case() -> None:
    assert nearest_names("Nucleus", ["NUCLEI", "coco"]) == ["NUCLEI"]
    assert did_you_mean("nucleus", ["coco", "nuclei"]) == "did you mean nuclei? "
    assert did_you_mean("zebra", ["coco", "nuclei"]) == ""
    assert did_you_mean("x", []) == ""


TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "shipped models": (lambda: load("nucleus"), "nuclei"),
    "published models": (lambda: load("maskrcnn_resnet50_fpn"), "maskrcnn_resnet50_fpn_coco"),
    "weights": (lambda: load_published("fasterrcnn_resnet50_coco"), "fasterrcnn_resnet50_fpn_coco"),
    "models": (lambda: model_class("maskrcnn"), "mask_rcnn"),
    "backbones": (lambda: build_backbone(BackboneSettings("resnet_50")), "resnet50"),
    "backbone weights": (lambda: backbone_normalisation("vgg-16"), "vgg16"),
    "recipes": (lambda: load_recipe("mask_rcnn_r50_fpn_2x"), "mask_rcnn_r50_fpn_[13]x"),
    "settings": (lambda: with_settings(default_recipe("mask_rcnn"), ["train.lrr=1"]), "train.lr"),
    "choices": (lambda: with_settings(default_recipe("mask_rcnn"), ["train.optimizer=adam"]), "adamw"),
    "formats": (lambda: open_data(Path(__file__).parent, format="yollo"), "yolo"),
    "formats to write": (lambda: convert(draw_shapes(1, size=(32, 32)), "out", to="cocco"), "coco"),
    "data sets": (lambda: get_data("voc2008", "out"), "voc20(07|12)"),
    "exporters": (lambda: exporter("onxx"), "onnx"),
    "importers": (lambda: import_weights("x.pth", "detectron"), "detectron2"),
    "metrics": (lambda: choose_metrics(["nuclie"]), "nuclei"),
    "logs": (lambda: open_callbacks(log=["tensorbord"]), "tensorboard"),
    "precisions": (lambda: Detector(*cast("Any", (None,) * 3), precision=cast("Any", "float_32")), "float32"),
    "grounds": (lambda: Scenes(grounds=("stripe",)), "stripes"),
    "schemes": (
        lambda: with_settings(default_recipe("faster_rcnn"), ["model.scheme=altrnating"]),
        "alternating",
    ),
    "shapes": (lambda: Scenes(class_names=("disc",)), "disk"),
}


@pytest.mark.parametrize(("use", "meant"), TABLES.values(), ids=TABLES)
def test_a_misspelt_name_gets_a_suggestion(use: Callable[[], Any], meant: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError, KeyError), match=rf"did you mean {meant}\?"):
        use()
