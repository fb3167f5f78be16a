"""torchvision's detectors: Faster, Mask and Keypoint R-CNN, versions 1 and 2, on ResNets or MobileNetV3.

What a file is, its keys and shapes show; the published ones are known by name, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor

from rcnn.catalogue import PUBLISHED
from rcnn.importers.recognise import (
    Conventions,
    Network,
    RecognisedModel,
    Settings,
    build,
    recognise,
    rename_tensors,
)
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.pretrained import EPS, IMAGENET, State, with_eps
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform

ZERO_EPS_MODELS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
_MOBILENET = "fasterrcnn_mobilenet_v3_large_fpn"
_CONVENTIONS = Conventions(background="first")
_NO_KEY = r"(?!)"


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
    state = with_eps(rename_tensors(tensors, KEYS, _NO_KEY), eps)
    if any(key.startswith("backbone.body.0.") for key in tensors):
        architecture = name or _MOBILENET
        settings = torchvision_settings(architecture)
    else:
        architecture = "resnet"
        settings = with_torchvision_conventions(recognise(state, what))
    notes = (f"images: RGB, mean and std of ImageNet; batch norm with eps {eps:g}",)
    return RecognisedModel(settings, state, _CONVENTIONS, torchvision_transform(architecture), names, notes)


def from_torchvision(name: str, state_dict: Mapping[str, Tensor], num_classes: int | None = None) -> Network:
    """Our model with the settings and the weights of one of ``torchvision.models.detection``.

    Classes move by one: torchvision's label 1 is our label 0, its background 0 comes last. The images must go
    through :func:`torchvision_transform`.

    Args:
        name: the function that builds it there, e.g. ``maskrcnn_resnet50_fpn``; one of ``DETECTORS``.
        state_dict: its tensors; the key names of all versions are understood.
        num_classes: None: the classes of the weights. A number: as many classes of your own, background not
            counted; then the layers that depend on the classes start at random, for fine-tuning.

    Raises:
        ValueError: an unknown name, or a state that lacks tensors or has others.
    """
    settings = torchvision_settings(name)
    state = rename_tensors(state_dict, KEYS, _NO_KEY)
    if isinstance(settings, KeypointRCNNSettings) and "keypoint.logits.bias" in state:
        head = replace(settings.keypoint, count=len(state["keypoint.logits.bias"]))
        settings = replace(settings, keypoint=head)
    found = RecognisedModel(settings, state, _CONVENTIONS, torchvision_transform(name))
    network = build(found, name, fresh_classes=num_classes)
    network.train()
    return network


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


def published() -> dict[str, str]:
    """The detectors with published weights, by name, with the addresses of these."""
    return dict(PUBLISHED)


def _published_name(what: str) -> str | None:
    """The detector whose published file has this name."""
    stems = {Path(url).stem: name.removesuffix("_coco") for name, url in published().items()}
    return stems.get(Path(what).stem)


def coco_labels() -> tuple[list[int], tuple[str, ...]]:
    """COCO's 80 classes in the order of their ids: their labels in torchvision, and their names.

    The weights have 90: the ten that COCO never annotated (``N/A`` in torchvision's list) are left out.
    """
    categories = _coco("fasterrcnn_resnet50_fpn").meta["categories"]
    found = [(i, category) for i, category in enumerate(categories) if i > 0 and category != "N/A"]
    return [i for i, _ in found], tuple(category for _, category in found)


def torchvision_transform(name: str) -> Transform:
    """What torchvision does to images before the detector ``name`` sees them."""
    short, long = (320, 640) if "_320_" in name else (800, 1333)
    mean, std = IMAGENET
    return Transform(short_side=short, max_long_side=long, mean=mean, std=std, antialias=False, margin=0)


def torchvision_settings(name: str) -> Settings:
    """Our settings that make the same model as torchvision's ``name``.

    Raises:
        ValueError: no such model.
    """
    if name not in DETECTORS:
        raise ValueError(f"{name!r} is not a torchvision detector that rcnn knows: {', '.join(DETECTORS)}")
    return DETECTORS[name]()


def _fasterrcnn() -> FasterRCNNSettings:
    rpn = RPNSettings(rounding="torchvision", strides="inferred")
    box = BoxHeadSettings(pool=PoolSettings(aligned=False), beta=1 / 9)
    return FasterRCNNSettings(BackboneSettings("resnet50"), FPNSettings(), rpn, box)


def _fasterrcnn_v2() -> FasterRCNNSettings:
    first = _fasterrcnn()
    return FasterRCNNSettings(
        BackboneSettings("resnet50", norm="batch"),
        FPNSettings(norm="batch"),
        replace(first.rpn, convs=2),
        replace(first.box, layers="conv"),
    )


def _fasterrcnn_mobilenet() -> FasterRCNNSettings:
    first = _fasterrcnn()
    return FasterRCNNSettings(
        # torchvision freezes two blocks more, in the middle of our fourth stage.
        BackboneSettings("mobilenet_v3_large", levels=(4, 5), frozen_stages=3),
        FPNSettings(),
        replace(first.rpn, sizes=((32, 64, 128, 256, 512),) * 3, min_objectness=0.05),
        first.box,
    )


def _fasterrcnn_mobilenet_320() -> FasterRCNNSettings:
    large = _fasterrcnn_mobilenet()
    return replace(large, rpn=replace(large.rpn, pre_nms=(2000, 150), post_nms=(2000, 150)))


def _maskrcnn() -> MaskRCNNSettings:
    first = _fasterrcnn()
    mask = MaskHeadSettings(pool=PoolSettings(size=14, aligned=False))
    return MaskRCNNSettings(first.backbone, first.fpn, first.rpn, first.box, mask)


def _maskrcnn_v2() -> MaskRCNNSettings:
    boxes, first = _fasterrcnn_v2(), _maskrcnn()
    return MaskRCNNSettings(boxes.backbone, boxes.fpn, boxes.rpn, boxes.box, replace(first.mask, norm=True))


def _keypointrcnn() -> KeypointRCNNSettings:
    first = _fasterrcnn()
    pool = PoolSettings(size=14, aligned=False)
    return KeypointRCNNSettings(
        first.backbone, first.fpn, first.rpn, first.box, KeypointHeadSettings(pool=pool, refine=False)
    )


DETECTORS: dict[str, Callable[[], Settings]] = {
    "fasterrcnn_resnet50_fpn": _fasterrcnn,
    "fasterrcnn_resnet50_fpn_v2": _fasterrcnn_v2,
    "fasterrcnn_mobilenet_v3_large_fpn": _fasterrcnn_mobilenet,
    "fasterrcnn_mobilenet_v3_large_320_fpn": _fasterrcnn_mobilenet_320,
    "maskrcnn_resnet50_fpn": _maskrcnn,
    "maskrcnn_resnet50_fpn_v2": _maskrcnn_v2,
    "keypointrcnn_resnet50_fpn": _keypointrcnn,
}
"""The detectors of ``torchvision.models.detection`` that belong to the family, with our settings for them."""

# The first block of each stage of our MobileNet backbone.
_MOBILENET_STARTS = (0, 1, 3, 5, 8, 14)
KEYS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^backbone\.body\.(conv1|bn1)\.", r"backbone.stages.0.\1."),
    (r"^backbone\.body\.layer(\d)\.", r"backbone.stages.\1."),
    (
        r"^backbone\.body\.(\d+)\.",
        lambda m: f"backbone.stages.{sum(int(m[1]) >= s for s in _MOBILENET_STARTS) - 1}.{m[1]}.",
    ),
    # The older names, before torchvision 0.13, have no number for the convolution in its block.
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:(\d)\.)?", lambda m: f"neck.lateral.{m[1]}.{m[2] or 0}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:(\d)\.)?", lambda m: f"neck.output.{m[1]}.{m[2] or 0}."),
    (r"^rpn\.head\.conv\.(?:(\d)\.0\.)?", lambda m: f"rpn.conv.{m[1] or 0}.0."),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box.layers.1."),
    (r"^roi_heads\.box_head\.fc7\.", "box.layers.3."),
    # Each of the four blocks is three layers of ours: convolution, norm, ReLU; then flattening, then fc.
    (r"^roi_heads\.box_head\.([0-3])\.([01])\.", lambda m: f"box.layers.{3 * int(m[1]) + int(m[2])}."),
    (r"^roi_heads\.box_head\.5\.", "box.layers.13."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box.logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box.deltas."),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask.layers.{int(m[1]) - 1}.0."),
    (r"^roi_heads\.mask_head\.(\d)\.([01])\.", r"mask.layers.\1.\2."),
    (r"^roi_heads\.keypoint_head\.(\d+)\.", r"keypoint.layers.\1."),
    (r"^roi_heads\.keypoint_predictor\.kps_score_lowres\.", "keypoint.logits."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask.logits."),
)


def select_classes(state: Mapping[str, Tensor], classes: Sequence[int]) -> State:
    """A state of torchvision with some of its classes, background included, in this order."""
    chosen = dict(state)
    for key, tensor in state.items():
        if ".cls_score." in key or ".mask_fcn_logits." in key:
            chosen[key] = tensor[classes]
        if ".bbox_pred." in key and key.startswith("roi_heads"):
            chosen[key] = tensor.view(-1, 4, *tensor.shape[1:])[classes].flatten(0, 1)
    return chosen


def _coco(name: str) -> Any:
    return torchvision.models.get_model_weights(name)["COCO_V1"]
