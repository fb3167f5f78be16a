"""MMDetection's detectors, versions 2 and 3: Faster, Mask and Cascade R-CNN on ResNets, FPN or C4.

A checkpoint carries its whole configuration as text in ``meta``. The text is Python; it is parsed, not run,
and what matters is taken from it. Without it the settings are those of ``configs/_base_/models``: of
``faster-rcnn_r50_fpn`` and ``mask-rcnn_r50_fpn``, ``cascade-rcnn_r50_fpn`` or ``faster-rcnn_r50-caffe-c4``.

Facts: github.com/open-mmlab/mmdetection, ``mmdet/models`` and ``configs/_base_``; what ``meta`` holds:
github.com/open-mmlab/mmengine, ``Runner.save_checkpoint``.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rcnn.importers.recognise import (
    Conventions,
    RecognisedModel,
    Rules,
    Settings,
    box_head_prefix,
    merge_objectness_logits,
    recognise,
    rename_tensors,
)
from rcnn.ops.boxes import BoxWeights
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform

# data_preprocessor of the models on torchvision's ResNets, RGB of 0 to 255, and on Caffe's, BGR.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CAFFE_MEAN, CAFFE_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)
# Pixels counted inclusively, as in version 1.
LEGACY = ("LegacyAnchorGenerator", "LegacyDeltaXYWHBBoxCoder")


def read(content: Mapping[str, Any], what: str) -> RecognisedModel:
    """The detector of a checkpoint's content.

    Raises:
        ValueError: no such detector, or one of version 1.
    """
    meta = content.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    config = configuration(meta.get("cfg") or meta.get("config"))
    model = content.get("state_dict", content)
    tensors = {key: value for key, value in model.items() if isinstance(value, Tensor)}
    state = rename_tensors(tensors, _RULES, _DROPPED)
    if "box.logits.bias" in state and len(state["box.deltas.bias"]) == 4 * len(state["box.logits.bias"]):
        raise ValueError(
            f"{what}: a file of MMDetection 1, which puts the background first and counts pixels "
            "inclusively; expected version 2 or 3"
        )
    legacy = sorted(set(_types(config)) & set(LEGACY))
    if legacy:
        raise ValueError(
            f"{what}: its configuration has {' and '.join(legacy)}, as in MMDetection 1; "
            "expected a model with the conventions of version 2 or 3"
        )
    merge_objectness_logits(state, foreground=0)
    recognised = recognise(state, what)
    caffe = recognised.box.layers == "stage" and "model" not in config  # the base of all C4 models
    settings = _with_conventions(recognised, config, caffe=caffe)
    transform, conventions = _images(config, caffe=caffe)
    notes = (
        f"images: {conventions.channels.upper()}; stride in the {settings.backbone.stride_at} convolution: "
        + ("from the checkpoint's configuration" if "model" in config else "by MMDetection's defaults"),
    )
    return RecognisedModel(settings, state, conventions, transform, _class_names(meta), notes)


def _types(config: Any) -> Iterator[str]:
    """The ``type`` of every part of a configuration."""
    if isinstance(config, Mapping):
        if isinstance(config.get("type"), str):
            yield config["type"]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _types(part)


def _with_conventions(settings: Settings, config: Mapping[str, Any], *, caffe: bool) -> Settings:
    # The batch norm of these models keeps its statistics in training (norm_eval).
    style = config_value(config, "model.backbone.style", "caffe" if caffe else "pytorch")
    stride: Any = "1x1" if style == "caffe" else "3x3"
    backbone = replace(settings.backbone, norm="frozen", stride_at=stride)
    changed: Settings = replace(
        settings,
        backbone=backbone,
        rpn=_rpn(settings.rpn, settings.box, config),
        box=_box(settings.box, config),
    )
    mask = getattr(changed, "mask", None)
    if mask is not None:
        pool = _pool(mask.pool, config, "model.roi_head.mask_roi_extractor")
        changed = replace(changed, mask=replace(mask, pool=pool))
    return changed


def _pool(pool: PoolSettings, config: Mapping[str, Any], extractor: str) -> PoolSettings:
    samples = config_value(config, f"{extractor}.roi_layer.sampling_ratio", 0)
    # mmcv's RoIAlign is aligned by default.
    aligned = bool(config_value(config, f"{extractor}.roi_layer.aligned", True))
    return replace(pool, sampling_ratio=samples, aligned=aligned)


def _beta(config: Any, head: str, default: float) -> float:
    """Beta of the loss of a head's boxes; 0 is L1."""
    loss = config_value(config, f"{head}.loss_bbox".lstrip("."), {})
    if loss.get("type") == "SmoothL1Loss":
        return float(loss.get("beta", 1.0))
    return 0.0 if loss.get("type") == "L1Loss" else default


def _rpn(rpn: RPNSettings, box: BoxHeadSettings, config: Mapping[str, Any]) -> RPNSettings:
    # pre_nms, and post_nms in training, of the C4 models, the cascade, and the others.
    nms_pre, kept = (2000, 1000), 1000
    if box.layers == "stage":
        nms_pre, kept = (12000, 6000), 2000
    elif box.cascade is not None:
        kept = 2000
    anchors = "model.rpn_head.anchor_generator"
    strides, scales = (
        config_value(config, f"{anchors}.strides", None),
        config_value(config, f"{anchors}.scales", None),
    )
    train, test = (
        config_value(config, "model.train_cfg.rpn_proposal", {}),
        config_value(config, "model.test_cfg.rpn", {}),
    )
    sizes = rpn.sizes
    if strides and scales:
        sizes = tuple(tuple(float(stride * scale) for scale in scales) for stride in strides)
    return replace(
        rpn,
        sizes=sizes,
        ratios=tuple(config_value(config, f"{anchors}.ratios", rpn.ratios)),
        offset=float(config_value(config, f"{anchors}.center_offset", rpn.offset)),
        beta=_beta(config, "model.rpn_head", 0.0 if box.cascade is None else 1 / 9),
        pre_nms=(train.get("nms_pre", nms_pre[0]), test.get("nms_pre", nms_pre[1])),
        post_nms=(train.get("max_per_img", kept), test.get("max_per_img", 1000)),
        nms_iou=float(config_value(test, "nms.iou_threshold", rpn.nms_iou)),
    )


def _box(box: BoxHeadSettings, config: Mapping[str, Any]) -> BoxHeadSettings:
    heads = config_value(config, "model.roi_head.bbox_head", {})
    if not isinstance(heads, list):
        heads = [heads] if box.cascade is None else [heads] * len(CASCADE_STDS)
    first, *more = (
        _box_weights(config_value(head, "bbox_coder.target_stds", stds))
        for head, stds in zip(heads, CASCADE_STDS, strict=False)
    )
    if box.cascade is not None and more:
        box = replace(box, cascade=replace(box.cascade, weights=tuple(more)))
    test = config_value(config, "model.test_cfg.rcnn", {})
    return replace(
        box,
        pool=_pool(box.pool, config, "model.roi_head.bbox_roi_extractor"),
        weights=first,
        beta=_beta(heads[0], "", 0.0 if box.cascade is None else 1.0),
        min_side=0.0,
        min_score=float(test.get("score_thr", 0.05)),
        nms_iou=float(config_value(test, "nms.iou_threshold", 0.5)),
        max_detections=test.get("max_per_img", 100),
    )


def _box_weights(stds: Any) -> BoxWeights:
    dx, dy, dw, dh = (round(1 / std, 6) for std in stds)
    return dx, dy, dw, dh


def _images(config: Mapping[str, Any], *, caffe: bool) -> tuple[Transform, Conventions]:
    """How images were prepared: by version 3's preprocessor, or by version 2's pipeline."""
    norm = config_value(config, "model.data_preprocessor", None) or config.get("img_norm_cfg", {})
    rgb = bool(norm.get("bgr_to_rgb", norm.get("to_rgb", not caffe)))
    mean, std = (
        tuple(float(v) / 255 for v in norm.get(key, default))
        for key, default in (("mean", CAFFE_MEAN if caffe else MEAN), ("std", CAFFE_STD if caffe else STD))
    )
    if not rgb:
        mean, std = mean[::-1], std[::-1]
    short_side, max_long_side = _scale(config.get("test_pipeline"))
    transform = Transform(
        short_side=short_side,
        max_long_side=max_long_side,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        antialias=False,  # OpenCV's bilinear
        margin=0.5,  # sides are rounded
    )
    return transform, Conventions("rgb" if rgb else "bgr")


def _scale(pipeline: Any) -> tuple[int, int]:
    """Short and long side of the images: ``Resize`` of version 3, ``MultiScaleFlipAug`` of version 2."""
    for step in pipeline if isinstance(pipeline, list) else ():
        scale = config_value(step, "scale", config_value(step, "img_scale", None))
        if isinstance(scale, list) and len(scale) == 2 and all(isinstance(side, int) for side in scale):
            return min(scale), max(scale)
    return 800, 1333


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    data = meta.get("dataset_meta")
    found = data if isinstance(data, dict) else meta
    names = found.get("classes", found.get("CLASSES"))
    return tuple(map(str, names)) if isinstance(names, list | tuple) else None


def configuration(text: Any) -> dict[str, Any]:
    """The values of a configuration's text that are plain data; what is not is left out. Nothing is run."""
    try:
        body = ast.parse(text).body if isinstance(text, str) else []
    except SyntaxError:
        return {}
    values = {}
    for line in body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            try:
                values[line.targets[0].id] = _plain(line.value)
            except ValueError:
                continue
    return values


def _plain(node: ast.expr) -> Any:
    """A literal, where ``dict(a=1)`` counts as one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return _entries((word.arg, word.value) for word in node.keywords)
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        return _entries(zip(keys, node.values, strict=True))
    return ast.literal_eval(node)


def _entries(pairs: Iterable[tuple[Any, ast.expr]]) -> dict[Any, Any]:
    """Those with a plain value; the key None stands for ``**``."""
    entries: dict[Any, Any] = {}
    for key, node in pairs:
        with contextlib.suppress(ValueError):
            value = _plain(node)
            entries.update(value if key is None else {key: value})
    return entries


def config_value(config: Any, path: str, default: Any) -> Any:
    """The value at a dotted path of a configuration, or the default."""
    for key in path.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return default
        config = config[key]
    return config


# cascade-rcnn_r50_fpn; the first is that of all heads.
CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))

_DROPPED = r"^data_preprocessor\."
_RULES: Rules = (
    (r"^backbone\.(conv1|bn1)\.", r"backbone.stages.0.\1."),
    (r"^backbone\.layer(\d)\.", r"backbone.stages.\1."),
    (r"^backbone\.stem\.", "backbone.stem."),
    (r"^roi_head\.shared_head\.layer4\.", "box.stage."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"neck.lateral.\1.0."),
    (r"^neck\.lateral_convs\.(\d)\.bn\.", r"neck.lateral.\1.1."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"neck.output.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.bn\.", r"neck.output.\1.1."),
    (r"^rpn_head\.rpn_conv\.", "rpn.conv.0.0."),
    (r"^rpn_head\.rpn_cls\.", "rpn.objectness."),
    (r"^rpn_head\.rpn_reg\.", "rpn.deltas."),
    (
        r"^roi_head\.bbox_head\.(\d\.)?shared_fcs\.([01])\.",
        lambda m: f"{box_head_prefix(m[1])}layers.{2 * int(m[2]) + 1}.",
    ),
    (r"^roi_head\.bbox_head\.(\d\.)?fc_cls\.", lambda m: f"{box_head_prefix(m[1])}logits."),
    (r"^roi_head\.bbox_head\.(\d\.)?fc_reg\.", lambda m: f"{box_head_prefix(m[1])}deltas."),
    (r"^roi_head\.mask_head\.convs\.(\d)\.conv\.", r"mask.layers.\1.0."),
    (r"^roi_head\.mask_head\.upsample\.", "mask.upsample."),
    (r"^roi_head\.mask_head\.conv_logits\.", "mask.logits."),
)
