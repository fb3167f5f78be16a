"""Detectron2's detectors: Faster, Mask, Keypoint and Cascade R-CNN on ResNets, with a pyramid or as C4.

Facts: github.com/facebookresearch/detectron2 at 02b5c4e2, ``config/defaults.py``, ``configs/`` and
``modeling/``. The settings are those of its model zoo, since a file has only the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from rcnn.importers.recognise import (
    Conventions,
    RecognisedModel,
    Rules,
    Settings,
    box_head_prefix,
    recognise,
    rename_tensors,
)
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.pretrained import Channels
from rcnn.transform import Transform

# cfg.MODEL.PIXEL_MEAN, BGR of 0 to 255; the deviations are 1, as in all models of MSRA's ResNets.
PIXEL_MEAN = (103.530, 116.280, 123.675)
PIXEL_STD = (1.0, 1.0, 1.0)


def read(content: Mapping[str, Any], what: str) -> RecognisedModel:
    """The detector of a file's content: ``model`` in the zoo's and in training's files, else the tensors.

    Raises:
        ValueError: no such detector.
    """
    model = content.get("model", content)
    if "blobs" in content or "conv1_w" in content:
        raise ValueError(f"{what}: a file of Detectron or Caffe2, expected one of Detectron2")
    tensors = {key: value for key, value in model.items() if isinstance(value, Tensor)}
    state = rename_tensors(tensors, _rules(tensors), _DROPPED)
    settings = recognise(state, what)
    transform, channels, where = _images(tensors, pyramid=settings.fpn is not None)
    # A deviation of 1 belongs to the ResNets of Caffe; those of torchvision have one of some 58.
    stride: Any = "1x1" if max(transform.std) < 2 / 255 else "3x3"
    settings = _with_conventions(settings, stride)
    notes = (
        f"images: {channels.upper()}, mean and std {where}",
        f"stride in the {stride} convolution, as in the ResNets that have this std",
    )
    return RecognisedModel(settings, state, Conventions(channels, anchors="size"), transform, notes=notes)


def _with_conventions(settings: Settings, stride: Literal["1x1", "3x3"]) -> Settings:
    """What every model of the zoo has in common."""
    people = isinstance(settings, KeypointRCNNSettings)
    pyramid = settings.fpn is not None
    # The pyramid's configurations keep fewer proposals in training than Detectron.
    kept = (1500 if people else 1000) if pyramid and settings.box.cascade is None else 2000
    rpn = replace(
        settings.rpn,
        beta=0.0,
        pre_nms=(2000, 1000) if pyramid else (12000, 6000),
        post_nms=(kept, 1000),
    )
    box = replace(settings.box, pool=_pool(settings.box.pool), beta=0.5 if people else 0.0, min_side=0.0)
    backbone = replace(settings.backbone, stride_at=stride)
    changed: Settings = replace(settings, backbone=backbone, rpn=rpn, box=box)
    for name in ("mask", "keypoint"):
        head = getattr(changed, name, None)
        if head is not None:
            changed = replace(changed, **{name: replace(head, pool=_pool(head.pool))})
    return changed


def _pool(pool: PoolSettings) -> PoolSettings:
    return replace(pool, sampling_ratio=0, aligned=True)  # ROIAlignV2


def _images(tensors: Mapping[str, Tensor], *, pyramid: bool) -> tuple[Transform, Any, str]:
    """How images were prepared: by the buffers that older files have, else by the zoo's defaults."""
    mean, std, where = PIXEL_MEAN, PIXEL_STD, "by Detectron2's defaults"
    if "pixel_mean" in tensors and "pixel_std" in tensors:
        mean, std = _three(tensors["pixel_mean"]), _three(tensors["pixel_std"])
        where = "from the file"
    # In photographs, blue has the lowest mean.
    channels = "bgr" if mean[0] <= mean[2] else "rgb"
    if channels == "bgr":
        mean, std = (mean[2], mean[1], mean[0]), (std[2], std[1], std[0])
    transform = Transform(
        short_side=800,
        max_long_side=1333,
        mean=_from_255(mean),
        std=_from_255(std),
        antialias=True,  # PIL
        size_divisor=32 if pyramid else 1,
        margin=0.5,  # sides are rounded
    )
    return transform, channels, where


def _three(tensor: Tensor) -> Channels:
    first, second, third = tensor.flatten().tolist()
    return first, second, third


def _from_255(values: Channels) -> Channels:
    return values[0] / 255, values[1] / 255, values[2] / 255


_DROPPED = r"^pixel_(mean|std)$|anchor_generator\.cell_anchors|^proposal_generator\.anchor_generator\."
_BODY = r"^backbone\.(?:bottom_up\.)?"


def _rules(tensors: Mapping[str, Tensor]) -> Rules:
    """From their names to ours; where fc1 comes depends on the convolutions before it."""
    convs = sum(bool(re.fullmatch(r"roi_heads\.box_head\.(0\.)?conv\d\.weight", key)) for key in tensors)
    first = 3 * convs + 1
    return (
        (_BODY + r"stem\.conv1\.norm\.", "backbone.stages.0.bn1."),
        (_BODY + r"stem\.conv1\.", "backbone.stages.0.conv1."),
        (
            _BODY + r"res(\d)\.(\d+)\.(.+)$",
            lambda m: f"backbone.stages.{int(m[1]) - 1}.{m[2]}.{_block(m[3])}",
        ),
        (r"^roi_heads\.res5\.(\d+)\.(.+)$", lambda m: f"box.stage.{m[1]}.{_block(m[2])}"),
        (
            r"^backbone\.fpn_(lateral|output)(\d)\.(norm\.)?",
            lambda m: f"neck.{m[1]}.{int(m[2]) - 2}.{int(m[3] is not None)}.",
        ),
        (r"^proposal_generator\.rpn_head\.conv\.(?:conv(\d)\.)?", lambda m: f"rpn.conv.{m[1] or 0}.0."),
        (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
        (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
        (
            r"^roi_heads\.box_head\.(\d\.)?conv(\d)\.(norm\.)?",
            lambda m: f"{box_head_prefix(m[1])}layers.{3 * int(m[2]) - 3 + (m[3] is not None)}.",
        ),
        (
            r"^roi_heads\.box_head\.(\d\.)?fc([12])\.",
            lambda m: f"{box_head_prefix(m[1])}layers.{first + 2 * int(m[2]) - 2}.",
        ),
        (r"^roi_heads\.box_predictor\.(\d\.)?cls_score\.", lambda m: f"{box_head_prefix(m[1])}logits."),
        (r"^roi_heads\.box_predictor\.(\d\.)?bbox_pred\.", lambda m: f"{box_head_prefix(m[1])}deltas."),
        (
            r"^roi_heads\.mask_head\.mask_fcn(\d)\.(norm\.)?",
            lambda m: f"mask.layers.{int(m[1]) - 1}.{int(m[2] is not None)}.",
        ),
        (r"^roi_heads\.mask_head\.deconv\.", "mask.upsample."),
        (r"^roi_heads\.mask_head\.predictor\.", "mask.logits."),
        (r"^roi_heads\.keypoint_head\.conv_fcn(\d)\.", lambda m: f"keypoint.layers.{2 * int(m[1]) - 2}."),
        (r"^roi_heads\.keypoint_head\.score_lowres\.", "keypoint.logits."),
    )


def _block(rest: str) -> str:
    """A name inside a residual block."""
    rest = re.sub(r"^conv(\d)\.norm\.", r"bn\1.", rest)
    return re.sub(r"^shortcut\.(norm\.)?", lambda m: f"downsample.{int(m[1] is not None)}.", rest)
