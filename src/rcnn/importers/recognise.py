"""Which of our models a state of our key names belongs to, and the conventions that become ours.

A state says by its keys and shapes what layers there are. It does not say how images were normalised, where
strides lie, or how regions were read: each program's module adds that.

Legend: K classes without the background, A anchors per cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor

from rcnn.models import MODELS
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, CascadeSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.pretrained import State, is_weight, load_tensors
from rcnn.parts.rpn import RPNSettings
from rcnn.transform import Transform

Network = FasterRCNN | MaskRCNN | KeypointRCNN
Settings = FasterRCNNSettings | MaskRCNNSettings | KeypointRCNNSettings

# Blocks of the four stages, and whether they are bottlenecks.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
_CLASS_LAYERS = ("box.logits.", "box.deltas.", "mask.logits.", "keypoint.logits.")
_C4_SIZES = ((32.0, 64.0, 128.0, 256.0, 512.0),)


@dataclass(frozen=True)
class Conventions:
    """In what a program's weights differ from ours without differing in shape.

    Attributes:
        channels: the order in which the first convolution sees the colours.
        background: its place among the rows of the classifier; where it is first it has a box, too.
        anchors: what varies slowest among the anchors of a cell.
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    background: Literal["first", "last"] = "last"
    anchors: Literal["ratio", "size"] = "ratio"


@dataclass(frozen=True)
class RecognisedModel:
    """What a program's file turns out to be.

    Attributes:
        settings: of our model.
        state: its tensors under our names, in the order of their conventions.
        conventions: theirs.
        transform: from images to what their network saw.
        class_names: where the file has them.
        notes: what was taken from where, in words.
        min_score: below it detections are left out, where a configuration says so; None: ours.
    """

    settings: Settings
    state: State
    conventions: Conventions
    transform: Transform
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    min_score: float | None = None


Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def rename_tensors(state: Mapping[str, Tensor], rules: Rules, dropped: str) -> State:
    """The tensors under our names: each key by the first rule that fits; those that fit ``dropped`` go."""
    ours: State = {}
    for key, tensor in state.items():
        if re.search(dropped, key):
            continue
        new = next((re.sub(rule, name, key) for rule, name in rules if re.search(rule, key)), key)
        ours[new] = tensor
    return ours


def box_head_prefix(number: str | None) -> str:
    """The box head, or one of a cascade's by its ``number.``."""
    return f"box.steps.{number}" if number else "box."


def num_classes(state: State, what: str) -> int:
    """K of a state of our names."""
    key = f"{_box_name(state)}.logits.bias"
    _require_key(state, key, what)
    return len(state[key]) - 1


def _box_name(state: State) -> str:
    """Where the box head is: the first of a cascade, or the only one."""
    return "box.steps.0" if "box.steps.0.logits.bias" in state else "box"


def recognise(state: State, what: str) -> Settings:
    """The settings that keys and shapes show, all others at their defaults.

    Raises:
        ValueError: no detector, or one with layers that our models do not have; it names them.
    """
    for key in ("backbone.stages.0.conv1.weight", "rpn.objectness.weight", f"{_box_name(state)}.deltas.bias"):
        _require_key(state, key, what)
    _refuse_unknown_layers(state, what)
    backbone, fpn, rpn = _backbone(state, what), _fpn(state), _rpn(state)
    box = _box(state, num_classes(state, what))
    if "keypoint.logits.weight" in state:
        mask = _mask(state, num_classes(state, what)) if "mask.logits.weight" in state else None
        return KeypointRCNNSettings(backbone, fpn, rpn, box, _keypoint(state), mask)
    if "mask.logits.weight" in state:
        return MaskRCNNSettings(backbone, fpn, rpn, box, _mask(state, num_classes(state, what)))
    return FasterRCNNSettings(backbone, fpn, rpn, box)


def architecture(settings: Settings) -> str:
    """The model that has settings of this kind, as ``rcnn.models.MODELS`` calls it."""
    return next(name for name, model in MODELS.items() if model.Settings is type(settings))


def build(found: RecognisedModel, what: str, *, fresh_classes: int | None = None) -> Network:
    """The network with all of the tensors, each in its place.

    Args:
        found: what the file is.
        what: what it is called in messages.
        fresh_classes: None: the classes of the weights. A number: as many others; the layers that depend on
            the classes then start at random, for fine-tuning.

    Raises:
        ValueError: tensors that are missing, have no place, or another shape; it names them.
    """
    classes = num_classes(found.state, what)
    model: Any = MODELS[architecture(found.settings)]
    network: Network = model(fresh_classes or classes, found.settings)
    fresh = () if fresh_classes is None else _CLASS_LAYERS
    needed = [key for key in network.state_dict() if is_weight(key) and not key.startswith(fresh)]
    load_tensors(network, reorder_tensors(found), what, needed=needed, exactly=True)
    return network.eval()


def reorder_tensors(found: RecognisedModel) -> State:
    """The tensors with colours, classes and anchors in our order."""
    state, theirs = dict(found.state), found.conventions
    if theirs.channels == "bgr":
        state["backbone.stages.0.conv1.weight"] = state["backbone.stages.0.conv1.weight"].flip(1)
    if theirs.background == "first":
        _move_background(state)
    if theirs.anchors == "size":
        _swap_anchors(state, len(found.settings.rpn.ratios))
    return state


def _move_background(state: State) -> None:
    """From the first place to the last; its box and its mask go."""
    classes = len(state["box.logits.bias"])
    for end in ("weight", "bias"):
        state[f"box.logits.{end}"] = state[f"box.logits.{end}"].roll(-1, 0)
        if len(state["box.deltas.bias"]) > 4:
            assert len(state["box.deltas.bias"]) == 4 * classes
            state[f"box.deltas.{end}"] = state[f"box.deltas.{end}"][4:]
        if f"mask.logits.{end}" in state and len(state[f"mask.logits.{end}"]) == classes:
            state[f"mask.logits.{end}"] = state[f"mask.logits.{end}"][1:]


def _swap_anchors(state: State, ratios: int) -> None:
    """From all ratios of each size to all sizes of each ratio."""
    anchors = len(state["rpn.objectness.bias"])
    order = torch.arange(anchors).view(-1, ratios).T.reshape(-1)
    for end in ("weight", "bias"):
        state[f"rpn.objectness.{end}"] = state[f"rpn.objectness.{end}"][order]
        deltas = state[f"rpn.deltas.{end}"]
        deltas = deltas.reshape(anchors, 4, *deltas.shape[1:])
        state[f"rpn.deltas.{end}"] = deltas[order].flatten(0, 1)


def merge_objectness_logits(state: State, foreground: int) -> None:
    """Turn a softmax of the RPN over two logits an anchor into a sigmoid of their difference, in place.

    The two are equal: ``exp(f) / (exp(f) + exp(b)) = sigmoid(f - b)``. ``foreground`` is the place of f.
    """
    if 2 * len(state["rpn.deltas.bias"]) != 4 * len(state["rpn.objectness.bias"]):
        return
    for end in ("weight", "bias"):
        logits = state[f"rpn.objectness.{end}"]
        pairs = logits.reshape(-1, 2, *logits.shape[1:])
        state[f"rpn.objectness.{end}"] = pairs[:, foreground] - pairs[:, 1 - foreground]


def _backbone(state: State, what: str) -> BackboneSettings:
    own = re.compile(r"(?:backbone\.stages|box\.stage)\.(?:(\d)\.)?(\d+)\.conv1\.weight")
    blocks: dict[int, set[int]] = {}
    for key in state:
        match = own.fullmatch(key)
        if match and not key.startswith("backbone.stages.0."):
            # The last stage of the C4 models is their head.
            blocks.setdefault(int(match[1] or 4), set()).add(int(match[2]))
    counts = tuple(len(blocks.get(stage, ())) for stage in (1, 2, 3, 4))
    bottleneck = "backbone.stages.1.0.conv3.weight" in state
    if (counts, bottleneck) not in _RESNETS:
        raise ValueError(
            f"{what}: a ResNet with {counts} blocks; expected one of {', '.join(_RESNETS.values())}"
        )
    levels = (3,) if "box.stage.0.conv1.weight" in state else (1, 2, 3, 4)
    trained = "backbone.stages.0.bn1.num_batches_tracked" in state
    return BackboneSettings(_RESNETS[counts, bottleneck], levels, norm="batch" if trained else "frozen")


def _fpn(state: State) -> FPNSettings | None:
    if "neck.lateral.0.0.weight" not in state:
        return None
    norm: Literal["none", "batch"] = "batch" if "neck.lateral.0.1.weight" in state else "none"
    return FPNSettings(len(state["neck.lateral.0.0.weight"]), norm)


def _rpn(state: State) -> RPNSettings:
    convs = sum(bool(re.fullmatch(r"rpn\.conv\.\d\.0\.weight", key)) for key in state)
    width, channels = state["rpn.conv.0.0.weight"].shape[:2]
    settings = RPNSettings(convs=convs, channels=None if width == channels else width)
    return settings if "neck.lateral.0.0.weight" in state else replace(settings, sizes=_C4_SIZES)


def _box(state: State, classes: int) -> BoxHeadSettings:
    name = _box_name(state)
    agnostic = classes > 1 and len(state[f"{name}.deltas.bias"]) == 4
    cascade = None if name == "box" else CascadeSettings()
    settings = BoxHeadSettings(class_agnostic=agnostic, cascade=cascade)
    if "box.stage.0.conv1.weight" in state:
        return replace(settings, layers="stage", pool=replace(settings.pool, size=14))
    conv = f"{name}.layers.13.weight" in state
    wide = state[f"{name}.layers.13.weight" if conv else f"{name}.layers.1.weight"]
    size = isqrt(wide.shape[1] // len(state["neck.lateral.0.0.weight"]))
    return replace(
        settings,
        layers="conv" if conv else "fc",
        channels=len(wide),
        pool=replace(settings.pool, size=size),
    )


def _mask(state: State, classes: int) -> MaskHeadSettings:
    convs = sum(bool(re.fullmatch(r"mask\.layers\.\d\.0\.weight", key)) for key in state)
    return MaskHeadSettings(
        convs=convs,
        channels=state["mask.upsample.weight"].shape[1],
        norm="mask.layers.0.1.weight" in state,
        class_agnostic=classes > 1 and len(state["mask.logits.bias"]) == 1,
    )


def _keypoint(state: State) -> KeypointHeadSettings:
    convs = [key for key in state if re.fullmatch(r"keypoint\.layers\.\d+\.weight", key)]
    channels, count = state["keypoint.logits.weight"].shape[:2]
    return KeypointHeadSettings(count=count, convs=len(convs), channels=channels, refine=False)


def _require_key(state: State, key: str, what: str) -> None:
    if key not in state:
        some = ", ".join(list(state)[:4]) or "nothing"
        raise ValueError(
            f"{what}: it contains no Faster, Mask or Keypoint R-CNN on a ResNet; found {some}, …"
        )


# A sign of each kind of layer that our models have not, and what to call it.
_UNKNOWN = (
    (r"\.conv2_offset\.", "deformable convolutions"),
    (r"^sem_seg_head\.|^semantic_head\.", "a semantic segmentation branch"),
    (r"\.(conv|gen_context|gc)_mask\.|\.context_block", "context blocks"),
    (r"^backbone\.stem\.", "a deep stem"),
    (r"^bbox_head\.|^head\.", "a one-stage detector"),
    (r"^roi_head\.mask_head\.\d\.(convs|upsample|conv_logits)\.", "a mask head per step of a cascade"),
)


def _refuse_unknown_layers(state: State, what: str) -> None:
    kinds = [name for sign, name in _UNKNOWN if any(re.search(sign, key) for key in state)]
    if "backbone.stages.0.bn1.weight" in state and "backbone.stages.0.bn1.running_mean" not in state:
        kinds.append("group norm, or batch norm without its statistics")
    if "backbone.stages.1.0.conv3.weight" in state and len(state["backbone.stages.1.0.conv2.weight"]) != 64:
        kinds.append("a ResNeXt or a wide ResNet")
    if "box.stage.0.conv1.weight" not in state and "neck.lateral.0.0.weight" not in state:
        kinds.append("a single map of stride 16 or 32 with other heads than the C4 models'")
    if kinds:
        raise ValueError(f"{what}: it has {' and '.join(kinds)}, which rcnn's models do not have")
