"""Configurations of Detectron2: what they say is done, and what cannot be done is named key by key."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.testing import assert_close

from rcnn.importers import detectron2
from rcnn.importers.convert import import_weights
from rcnn.importers.detectron2_config import read_config, with_config
from rcnn.importers.detectron2_keys import CARRIED, DEFAULTS, SHOWN_BY_WEIGHTS
from their_arithmetic import their_detections
from their_states import detectron2 as written
from their_states import drawn, rgb_image, zeros

PYRAMID: dict[str, Any] = yaml.safe_load("""
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  BACKBONE: {NAME: build_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN:
    IN_FEATURES: [p2, p3, p4, p5, p6]
    PRE_NMS_TOPK_TRAIN: 2000
    PRE_NMS_TOPK_TEST: 1000
    POST_NMS_TOPK_TRAIN: 1000
    POST_NMS_TOPK_TEST: 1000
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5]}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 2, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 4, POOLER_RESOLUTION: 14}
VERSION: 2
""")
"""What ``configs/Base-RCNN-FPN.yaml`` says of the model."""

# The same for other data, with every number of prediction changed; with what a trainer's dump has besides.
CELLS: dict[str, Any] = yaml.safe_load("""
_BASE_: Base.yaml
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160, MIN_SIZE_TRAIN: "(64, 96)", RANDOM_FLIP: none}
MODEL:
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  WEIGHTS: detectron2://ImageNetPretrained/torchvision/R-50.pkl
  RESNETS: {STRIDE_IN_1X1: false}
  BACKBONE: {FREEZE_AT: 0}
  ANCHOR_GENERATOR:
    SIZES: [[12], [24], [48], [96], [192]]
    ASPECT_RATIOS: [[0.4, 1.0, 2.5]]
    OFFSET: 0.5
    ANGLES: [[-90, 0, 90]]
  RPN:
    NMS_THRESH: 0.6
    PRE_NMS_TOPK_TEST: 200
    POST_NMS_TOPK_TEST: 60
    SMOOTH_L1_BETA: 0.11
    IOU_THRESHOLDS: [0.2, 0.6]
    LOSS_WEIGHT: 1.0
  ROI_HEADS: {NUM_CLASSES: 3, SCORE_THRESH_TEST: 0.1, NMS_THRESH_TEST: 0.4, IOU_THRESHOLDS: [0.55]}
  ROI_BOX_HEAD:
    BBOX_REG_WEIGHTS: !!seq [8.0, 8.0, 4.0, 4.0]
    POOLER_SAMPLING_RATIO: 2
    POOLER_TYPE: ROIAlign
  RETINANET: {NUM_CLASSES: 80}
  MY_HEAD: {DIM: 7}
SOLVER: {BASE_LR: 0.02, STEPS: "(30, 40)", CLIP_GRADIENTS: {ENABLED: true}}
TEST: {DETECTIONS_PER_IMAGE: 15, EVAL_PERIOD: 100}
OUTPUT_DIR: ./output
""")


def write(folder: Path, content: dict[str, Any], name: str = "config.yaml") -> Path:
    (folder / "Base.yaml").write_text(yaml.safe_dump(PYRAMID), "utf-8")
    (folder / name).write_text(yaml.safe_dump(content), "utf-8")
    return folder / name


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One configuration, complete, as the trainer's dump."""
    both = copy.deepcopy(below)
    for key, value in above.items():
        if key != "_BASE_":
            both[key] = merged(both.get(key, {}), value) if isinstance(value, dict) else value
    return both


@torch.no_grad()
def test_the_same_detections(tmp_path: Path) -> None:
    """Weights and configuration of a training on other data; all detections are those of their arithmetic."""
    state = written(drawn(1), classes=3)
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_final.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\n", "utf-8")
    imported = import_weights(
        tmp_path / "model_final.pth", "detectron2", classes=tmp_path / "names.txt",
        config=write(tmp_path, CELLS),
    )  # fmt: skip
    pixels = (rgb_image() * 255).round()
    boxes, scores, labels = their_detections(pixels, state, merged(PYRAMID, CELLS))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
    (found,) = imported.detector.predict(image)
    assert len(found) == len(boxes) == 15
    assert found.labels.tolist() == labels.tolist()
    assert len(set(labels.tolist())) > 1
    assert_close(torch.from_numpy(found.scores), scores, rtol=1e-3, atol=1e-4)
    assert_close(torch.from_numpy(found.boxes), boxes, rtol=1e-3, atol=5e-2)


def test_without_the_configuration_they_differ(tmp_path: Path) -> None:
    """So the test above can fail: the zoo's settings find other boxes with these weights."""
    state = written(drawn(1), classes=3)
    plain = detectron2.read({"model": state}, "a.pth")
    changed = with_config(plain, read_config(write(tmp_path, CELLS)), "a.pth")
    for part in ("rpn", "box", "backbone"):
        assert getattr(plain.settings, part) != getattr(changed.settings, part)
    assert (plain.conventions.channels, changed.conventions.channels) == ("bgr", "rgb")


def test_a_base_and_a_dump_say_the_same(tmp_path: Path) -> None:
    found = detectron2.read({"model": written(zeros, classes=3)}, "a.pth")
    by_base = with_config(found, read_config(write(tmp_path, CELLS)), "a.pth")
    complete = with_config(found, read_config(write(tmp_path, merged(PYRAMID, CELLS), "dump.yaml")), "a.pth")
    assert (by_base.settings, by_base.transform) == (complete.settings, complete.transform)
    assert by_base.settings.rpn.sizes == ((12,), (24,), (48,), (96,), (192,))
    assert by_base.settings.box.sampling.positive_iou == 0.55
    assert (by_base.settings.rpn.negative_iou, by_base.settings.rpn.positive_iou) == (0.2, 0.6)
    assert (by_base.transform.short_side, by_base.min_score) == (96, 0.1)


@pytest.mark.parametrize(
    "options",
    [{"mask": True}, {"mask": True, "steps": 3}, {"c4": True}, {"classes": 1, "keypoints": 17}],
    ids=["mask", "cascade", "C4", "keypoints"],
)
def test_the_zoos_configurations_are_what_is_assumed_without_them(
    options: dict[str, Any], tmp_path: Path
) -> None:
    found = detectron2.read({"model": written(zeros, **options)}, "a.pkl")
    more: dict[str, Any] = {"MODEL": {"MASK_ON": "mask" in options, "KEYPOINT_ON": "keypoints" in options}}
    if "steps" in options:
        more["MODEL"] |= {"ROI_HEADS": {"NAME": "CascadeROIHeads"}, "RPN": {"POST_NMS_TOPK_TRAIN": 2000}}
    if "keypoints" in options:
        heads = {"ROI_HEADS": {"NUM_CLASSES": 1}, "ROI_BOX_HEAD": {"SMOOTH_L1_BETA": 0.5}}
        more["MODEL"] |= heads | {"RPN": {"POST_NMS_TOPK_TRAIN": 1500}}
    content = more if "c4" in options else merged(PYRAMID, more)
    changed = with_config(found, read_config(write(tmp_path, content)), "a.pkl")
    assert changed.settings == found.settings
    assert changed.transform == found.transform
    assert changed.conventions == found.conventions


def test_every_key_that_is_not_carried_is_named(tmp_path: Path) -> None:
    found = detectron2.read({"model": written(zeros, classes=3)}, "a.pth")
    _, training, others, unknown = with_config(found, read_config(write(tmp_path, CELLS)), "a.pth").notes
    assert training == (
        "not carried, of training or its surroundings: INPUT.MIN_SIZE_TRAIN, INPUT.RANDOM_FLIP, "
        "MODEL.RPN.LOSS_WEIGHT, MODEL.WEIGHTS, OUTPUT_DIR, SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED, "
        "SOLVER.STEPS, TEST.EVAL_PERIOD"
    )
    assert others == (
        "not carried, of other models: MODEL.ANCHOR_GENERATOR.ANGLES, MODEL.RETINANET.NUM_CLASSES"
    )
    assert unknown.startswith("not carried, unknown to Detectron2 itself; ")
    assert unknown.endswith(": MODEL.MY_HEAD.DIM")


def test_no_key_is_lost(tmp_path: Path) -> None:
    """The law: a key of the file is carried, checked, shown by the weights, or named."""
    found = detectron2.read({"model": written(zeros, classes=3)}, "a.pth")
    config = read_config(write(tmp_path, CELLS))
    named = {
        key
        for note in with_config(found, config, "a.pth").notes[1:]
        for key in note.split(": ")[-1].split(", ")
    }
    assert named == set(config.values) - set(DEFAULTS) - set(SHOWN_BY_WEIGHTS) - {"VERSION"}
    assert set(CARRIED) < set(DEFAULTS)


REFUSED: dict[str, tuple[Any, str]] = {
    "MODEL.META_ARCHITECTURE": ("RetinaNet", "expected GeneralizedRCNN"),
    "MODEL.FPN.FUSE_TYPE": ("avg", "expected sum"),
    "MODEL.RESNETS.RES5_DILATION": (2, "expected 1"),
    "MODEL.RESNETS.NORM": ("GN", "expected FrozenBN or BN or SyncBN"),
    "MODEL.RESNETS.DEPTH": (101, "but a.pth shows 50"),
    "MODEL.ROI_HEADS.NUM_CLASSES": (80, "but a.pth shows 3"),
    "MODEL.MASK_ON": (True, "but a.pth shows False"),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([2.0, 2.0, 1.0, 1.0], "expected"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignRotated", "expected ROIAlignV2 or ROIAlign or ROIPool"),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ([[1.0]] * 4 + [[2.0]], "expected the same for all levels"),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": ([0.4, 0.5], "expected 1"),
    "INPUT.FORMAT": ("L", "expected BGR or RGB"),
    "TEST.AUG.ENABLED": (True, "expected False"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_our_models_do_not_have_is_refused(key: str, tmp_path: Path) -> None:
    value, words = REFUSED[key]
    content = copy.deepcopy(CELLS)
    *steps, last = key.split(".")
    table = content
    for step in steps:
        table = table.setdefault(step, {})
    table[last] = value
    found = detectron2.read({"model": written(zeros, classes=3)}, "a.pth")
    with pytest.raises(ValueError, match=rf"config\.yaml: (.*; )?{key} is .*{words}"):
        with_config(found, read_config(write(tmp_path, content)), "a.pth")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    content = merged(CELLS, {"MODEL": {"FPN": {"FUSE_TYPE": "avg"}, "MASK_ON": True}})
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(merged(PYRAMID, content)), "utf-8")
    found = detectron2.read({"model": written(zeros, classes=3)}, "a.pth")
    with pytest.raises(ValueError, match=r"MODEL\.MASK_ON is True.*; MODEL\.FPN\.FUSE_TYPE is avg"):
        with_config(found, read_config(tmp_path / "dump.yaml"), "a.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "_BASE_: ../Base-RCNN-FPN.yaml\nMODEL: {MASK_ON: true}",
            "its _BASE_ .* is not there; put it there, or",
        ),
        ("_BASE_: config.yaml", "leads back to itself"),
        ("- a\n- b", "holds one list"),
        ("model:\n  type: MaskRCNN", "no MODEL in it"),
        ("MODEL: !!python/object/apply:os.system [ls]", "this is not YAML of plain values"),
        ("VERSION: 1\nMODEL: {MASK_ON: true}", "VERSION 1, expected 2"),
    ],
    ids=["no base", "circle", "list", "of another program", "code", "version 1"],
)
def test_other_files_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=rf"config\.yaml: .*{words}"):
        read_config(tmp_path / "config.yaml")


def test_configurations_of_other_programs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such configuration"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="are read for detectron2, not for mmdetection"):
        import_weights("a.pth", "mmdetection", config=write(tmp_path, CELLS))
