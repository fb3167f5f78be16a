"""torchvision's detectors: Faster, Mask and Keypoint R-CNN, versions 1 and 2, on ResNets or MobileNetV3.

The key names are those that ``rcnn.parts.pretrained`` reads. What a file is, its keys and shapes show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rcnn.importers.recognise import Conventions, RecognisedModel, recognise, rename_tensors
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.pretrained import (
    EPS,
    KEYS,
    ZERO_EPS_MODELS,
    Settings,
    coco_labels,
    published,
    select_classes,
    torchvision_settings,
    torchvision_transform,
    with_eps,
)

_MOBILENET = "fasterrcnn_mobilenet_v3_large_fpn"


def read(content: Mapping[str, Any], what: str) -> RecognisedModel:
    """The detector of a file's content: the tensors, or the entry ``model`` of the reference training.

    Raises:
        ValueError: no such detector.
    """
    model = content.get("model", content)
    tensors = {key: value for key, value in model.items() if isinstance(value, Tensor)}
    name = _published_name(what)
    # The oldest were trained with batch norms whose eps was 0 by a mistake (pytorch/vision#2933).
    eps = 0.0 if name in ZERO_EPS_MODELS else EPS
    names: tuple[str, ...] | None = None
    if len(tensors.get("roi_heads.box_predictor.cls_score.bias", ())) == 91:
        rows, names = coco_labels()
        tensors = select_classes(tensors, [0, *rows])
    state = with_eps(rename_tensors(tensors, KEYS, r"(?!)"), eps)
    if any(key.startswith("backbone.body.0.") for key in tensors):
        architecture = name or _MOBILENET
        settings = torchvision_settings(architecture)
    else:
        architecture = "resnet"
        settings = with_torchvision_conventions(recognise(state, what))
    notes = (f"images: RGB, mean and deviation of ImageNet; batch norm with eps {eps:g}",)
    conventions = Conventions(background="first")
    return RecognisedModel(settings, state, conventions, torchvision_transform(architecture), names, notes)


def with_torchvision_conventions(settings: Settings) -> Settings:
    """The settings with what all models of torchvision have in common."""
    rpn = replace(settings.rpn, rounding="torchvision", strides="inferred")
    box = replace(settings.box, pool=_pool(settings.box.pool), beta=1 / 9)
    changed: Settings = replace(settings, rpn=rpn, box=box)
    for name in ("mask", "keypoint"):
        head = getattr(changed, name, None)
        if head is not None:
            changed = replace(changed, **{name: replace(head, pool=_pool(head.pool))})
    return changed


def _pool(pool: PoolSettings) -> PoolSettings:
    return replace(pool, sampling_ratio=2, aligned=False)


def _published_name(what: str) -> str | None:
    """The detector whose published file has this name."""
    stems = {Path(url).stem: name.removesuffix("_coco") for name, url in published().items()}
    return stems.get(Path(what).stem)
