"""What the soak works with: drawn pictures, and models so small that a training takes seconds."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnn.data.augment import Augment
from rcnn.data.shapes import draw_shapes
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.training.recipe import Recipe, dump_recipe
from rcnn.training.trainer import TrainSettings
from rcnn.transform import Transform

SIDE = 64
PICTURES = 40  # of a prediction
NAMES = ("disk", "square")
SHARED: dict[str, Any] = {
    "backbone": BackboneSettings("efficientnet_lite0", (1, 2), frozen_stages=1),
    "fpn": FPNSettings(channels=16, coarsest="none"),
    "rpn": RPNSettings(sizes=((16,), (32,)), pre_nms=(50, 50), post_nms=(30, 30), count=32),
    "box": BoxHeadSettings(
        channels=16, pool=PoolSettings(size=3), sampling=SamplingSettings(count=16), max_detections=10
    ),
}
MASK = MaskHeadSettings(convs=1, channels=8, pool=PoolSettings(size=4))
MODELS: dict[str, Recipe] = {
    "mask": Recipe(
        "mask_rcnn", MaskRCNNSettings(**SHARED, mask=MASK), Transform(), Augment(crop=SIDE), TrainSettings()
    ),
    "faster": Recipe(
        "faster_rcnn", FasterRCNNSettings(**SHARED), Transform(), Augment(crop=SIDE), TrainSettings()
    ),
    "alternating": Recipe(
        "faster_rcnn",
        FasterRCNNSettings(**SHARED, scheme="alternating"),
        Transform(),
        Augment(crop=SIDE),
        TrainSettings(),
    ),
    "panoptic": Recipe(
        "panoptic_fpn",
        PanopticFPNSettings(**SHARED, mask=MASK, semantic=SemanticHeadSettings(8, 2)),
        Transform(),
        Augment(crop=SIDE),
        TrainSettings(),
    ),
}
TRAININGS = {  # a model, and the processes that prepare its batches
    "mask": ("mask", 0),
    "mask, a worker": ("mask", 1),
    "mask, two workers": ("mask", 2),
    "faster": ("faster", 0),
    "faster, a worker": ("faster", 1),
    "alternating": ("alternating", 0),
    "panoptic": ("panoptic", 0),
}


def write_recipe(training: str, file: Path, seed: int) -> Path:
    """Write the recipe of a training: some ten steps, a checkpoint after each, evaluated now and then."""
    model, workers = TRAININGS[training]
    schedule = TrainSettings(
        epochs=4.0, batch_size=2, lr=1e-3, ema=0.9, save_every=0.0, eval_images=4, seed=seed, workers=workers
    )
    file.write_text(dump_recipe(replace(MODELS[model], train=schedule)), encoding="utf-8")
    return file


def write_data(folder: Path, seed: int) -> None:
    """Write ``objects`` and ``panoptic``, data sets to train on, and ``pictures``, a folder to predict.

    One of the pictures is damaged, and names have blanks, letters beyond ASCII, and bytes that are not UTF-8.
    """
    common: dict[str, Any] = {
        "size": (SIDE, SIDE), "class_names": NAMES, "objects": (1, 3), "diameter": (16.0, 32.0),
        "seed": seed,
    }  # fmt: skip
    draw_shapes(16, **common).write(folder / "objects")
    draw_shapes(12, truth="both", grounds=("stripes", "checks"), **common).write(folder / "panoptic")
    draw_shapes(PICTURES, first=100, **common).write(folder / "drawn")
    pictures = folder / "pictures"
    (folder / "drawn" / "images").rename(pictures)
    shutil.rmtree(folder / "drawn")
    first, second, third, fourth, *_ = sorted(pictures.iterdir())
    first.rename(pictures / " two  blanks .png")
    second.rename(os.fsdecode(os.fsencode(pictures) + b"/caf\xe9.png"))
    (pictures / "zwölf").mkdir()
    third.rename(pictures / "zwölf" / "=1+1.png")
    fourth.write_bytes(fourth.read_bytes()[:200])


def data_of(training: str) -> str:
    """The name of the data set that a training needs."""
    return "panoptic" if training == "panoptic" else "objects"
