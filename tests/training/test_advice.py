"""When a plan advises to start from a published detector, and what it says."""

from pathlib import Path

import pytest

from rcnn.catalogue import PUBLISHED
from rcnn.data.dataset import Dataset
from rcnn.training.advice import FOR_MODEL, MAX_IMAGES, start_advice
from tiny import tiny_shapes


def photographs(*names: str, count: int = 3) -> Dataset:
    shapes = tiny_shapes(1)
    return Dataset("none", Path("none"), names, [shapes.records[0]] * count)


def test_it_names_the_model_the_classes_and_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCNN_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    (line,) = start_advice("mask_rcnn", photographs("Dog", "gnome", "person"), photographs=True)
    assert line.value.startswith("--from maskrcnn_resnet50_fpn_v2_coco brings an RPN and heads")
    assert "2 of the 3 classes: person, Dog" in line.value
    assert "downloaded from https://" in line.why
    assert "RCNN_WEIGHTS" in line.why
    name = PUBLISHED["maskrcnn_resnet50_fpn_v2_coco"].rsplit("/", 1)[-1]
    (tmp_path / name).write_bytes(b"")
    (line,) = start_advice("mask_rcnn", photographs("gnome"), photographs=True)
    assert line.why == "its weights are on this machine"
    assert "classes" not in line.value


def test_it_is_silent_where_it_would_not_help() -> None:
    assert start_advice("mask_rcnn", photographs("dog"), photographs=False) == []
    assert start_advice("fcn", photographs("dog"), photographs=True) == []
    assert start_advice("mask_rcnn", photographs("dog", count=MAX_IMAGES + 1), photographs=True) == []


def test_every_name_is_published() -> None:
    assert set(FOR_MODEL.values()) <= set(PUBLISHED)
