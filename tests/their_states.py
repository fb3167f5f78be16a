"""States of other programs' detectors: their exact key names and shapes, with numbers of one's own.

Detectron2 at 02b5c4e2 (``modeling/backbone``, ``modeling/proposal_generator``, ``modeling/roi_heads``)
and MMDetection 3 (``models/backbones/resnet.py``, ``necks/fpn.py``, ``dense_heads/rpn_head.py``,
``roi_heads``).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from rcnn.importers.recognise import RecognisedModel, num_classes
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.keypoint_rcnn import KeypointRCNN
from rcnn.models.mask_rcnn import MaskRCNN

Make = Callable[[tuple[int, ...]], Tensor]
State = dict[str, Tensor]
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def zeros(shape: tuple[int, ...]) -> Tensor:
    """Zeros that take no memory."""
    return torch.zeros(()).expand(shape)


def drawn(seed: int = 0) -> Make:
    """Weights of a size at which features stay about as large as they were."""
    draw = torch.Generator().manual_seed(seed)

    def make(shape: tuple[int, ...]) -> Tensor:
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 100
        return torch.randn(shape, generator=draw) / math.sqrt(fan_in)

    return make


class Writer:
    """Collects a state, layer by layer."""

    def __init__(self, make: Make) -> None:
        self.make, self.state = make, {}

    def conv(self, name: str, out: int, into: int, kernel: int, *, bias: bool = True) -> None:
        self.state[f"{name}.weight"] = self.make((out, into, kernel, kernel))
        if bias:
            self.state[f"{name}.bias"] = self.make((out,))

    def linear(self, name: str, out: int, into: int) -> None:
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = self.make((out, into)), self.make((out,))

    def norm(self, name: str, width: int, *, counted: bool = False) -> None:
        self.state[f"{name}.weight"] = 1 + self.make((width,))
        self.state[f"{name}.bias"] = self.make((width,))
        self.state[f"{name}.running_mean"] = self.make((width,))
        self.state[f"{name}.running_var"] = 1 + self.make((width,)).abs()
        if counted:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def detectron2(
    make: Make,
    *,
    depth: int = 50,
    classes: int = 80,
    mask: bool = False,
    keypoints: int = 0,
    c4: bool = False,
    norm: bool = False,
    agnostic: bool = False,
    old: bool = False,
    steps: int = 0,
) -> State:
    """A model of the zoo; ``norm``: as its new baselines, ``old``: with the buffers of 2019's files."""
    w = Writer(make)
    body = "backbone" if c4 else "backbone.bottom_up"

    def conv_norm(name: str, out: int, into: int, kernel: int) -> None:
        w.conv(name, out, into, kernel, bias=False)
        w.norm(f"{name}.norm", out, counted=norm)

    def stage(name: str, blocks: int, number: int) -> None:
        out, middle = 256 * 2**number, 64 * 2**number
        for b in range(blocks):
            into = out if b else (out // 2 if number else 64)
            if b == 0:
                conv_norm(f"{name}.{b}.shortcut", out, into, 1)
            conv_norm(f"{name}.{b}.conv1", middle, into, 1)
            conv_norm(f"{name}.{b}.conv2", middle, middle, 3)
            conv_norm(f"{name}.{b}.conv3", out, middle, 1)

    if old:
        w.state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
        w.state["pixel_std"] = torch.ones(3, 1, 1)
        for level in range(1 if c4 else 5):
            w.state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = make((3, 4))
    conv_norm(f"{body}.stem.conv1", 64, 3, 7)
    for number in range(3 if c4 else 4):
        stage(f"{body}.res{number + 2}", BLOCKS[depth][number], number)
    width, anchors = (1024, 15) if c4 else (256, 3)
    for level in () if c4 else (2, 3, 4, 5):
        for kind, into, kernel in (("lateral", 256 * 2 ** (level - 2), 1), ("output", 256, 3)):
            w.conv(f"backbone.fpn_{kind}{level}", 256, into, kernel, bias=not norm)
            if norm:
                w.norm(f"backbone.fpn_{kind}{level}.norm", 256, counted=True)
    rpn = "proposal_generator.rpn_head"
    for name in ("conv.conv0", "conv.conv1") if norm else ("conv",):
        w.conv(f"{rpn}.{name}", width, width, 3)
    w.conv(f"{rpn}.objectness_logits", anchors, width, 1)
    w.conv(f"{rpn}.anchor_deltas", 4 * anchors, width, 1)
    if c4:
        stage("roi_heads.res5", 3, 3)
    last = 2048 if c4 else 1024
    for step in [f".{k}" for k in range(steps)] or [""]:
        for k in range(1, 5) if norm else ():
            conv_norm(f"roi_heads.box_head{step}.conv{k}", 256, 256, 3)
        if not c4:
            w.linear(f"roi_heads.box_head{step}.fc1", 1024, 256 * 49)
        if not c4 and not norm:
            w.linear(f"roi_heads.box_head{step}.fc2", 1024, 1024)
        w.linear(f"roi_heads.box_predictor{step}.cls_score", classes + 1, last)
        one_box = agnostic or steps
        w.linear(f"roi_heads.box_predictor{step}.bbox_pred", 4 if one_box else 4 * classes, last)
    if mask:
        for k in () if c4 else range(1, 5):
            w.conv(f"roi_heads.mask_head.mask_fcn{k}", 256, 256, 3, bias=not norm)
            if norm:
                w.norm(f"roi_heads.mask_head.mask_fcn{k}.norm", 256, counted=True)
        w.state["roi_heads.mask_head.deconv.weight"] = make((2048 if c4 else 256, 256, 2, 2))
        w.state["roi_heads.mask_head.deconv.bias"] = make((256,))
        w.conv("roi_heads.mask_head.predictor", 1 if agnostic else classes, 256, 1)
    if keypoints:
        for k in range(1, 9):
            w.conv(f"roi_heads.keypoint_head.conv_fcn{k}", 512, 256 if k == 1 else 512, 3)
        w.state["roi_heads.keypoint_head.score_lowres.weight"] = make((512, keypoints, 4, 4))
        w.state["roi_heads.keypoint_head.score_lowres.bias"] = make((keypoints,))
    return w.state


def mmdetection(
    make: Make,
    *,
    depth: int = 50,
    classes: int = 80,
    mask: bool = False,
    c4: bool = False,
    agnostic: bool = False,
    two_logits: bool = False,
    steps: int = 0,
) -> State:
    """A model on ``configs/_base_/models``; ``two_logits``: an RPN with ``use_sigmoid=False``."""
    w = Writer(make)

    def stage(name: str, blocks: int, number: int) -> None:
        out, middle = 256 * 2**number, 64 * 2**number
        for b in range(blocks):
            into = out if b else (out // 2 if number else 64)
            for c, (outs, ins, kernel) in enumerate(
                ((middle, into, 1), (middle, middle, 3), (out, middle, 1)), start=1
            ):
                w.conv(f"{name}.{b}.conv{c}", outs, ins, kernel, bias=False)
                w.norm(f"{name}.{b}.bn{c}", outs, counted=True)
            if b == 0:
                w.conv(f"{name}.{b}.downsample.0", out, into, 1, bias=False)
                w.norm(f"{name}.{b}.downsample.1", out, counted=True)

    w.conv("backbone.conv1", 64, 3, 7, bias=False)
    w.norm("backbone.bn1", 64, counted=True)
    for number in range(3 if c4 else 4):
        stage(f"backbone.layer{number + 1}", BLOCKS[depth][number], number)
    width, anchors = (1024, 15) if c4 else (256, 3)
    for level in () if c4 else range(4):
        w.conv(f"neck.lateral_convs.{level}.conv", 256, 256 * 2**level, 1)
        w.conv(f"neck.fpn_convs.{level}.conv", 256, 256, 3)
    w.conv("rpn_head.rpn_conv", width, width, 3)
    w.conv("rpn_head.rpn_cls", anchors * (2 if two_logits else 1), width, 1)
    w.conv("rpn_head.rpn_reg", 4 * anchors, width, 1)
    if c4:
        stage("roi_head.shared_head.layer4", 3, 3)
    last = 2048 if c4 else 1024
    for step in [f".{k}" for k in range(steps)] or [""]:
        if not c4:
            w.linear(f"roi_head.bbox_head{step}.shared_fcs.0", 1024, 256 * 49)
            w.linear(f"roi_head.bbox_head{step}.shared_fcs.1", 1024, 1024)
        w.linear(f"roi_head.bbox_head{step}.fc_cls", classes + 1, last)
        w.linear(f"roi_head.bbox_head{step}.fc_reg", 4 if agnostic or steps else 4 * classes, last)
    if mask:
        for k in () if c4 else range(4):
            w.conv(f"roi_head.mask_head.convs.{k}.conv", 256, 256, 3)
        w.state["roi_head.mask_head.upsample.weight"] = make((2048 if c4 else 256, 256, 2, 2))
        w.state["roi_head.mask_head.upsample.bias"] = make((256,))
        w.conv("roi_head.mask_head.conv_logits", 1 if agnostic else classes, 256, 1)
    return w.state


def network_of(found: RecognisedModel) -> Any:
    """The network without memory for its weights."""
    classes = num_classes(found.state, "a state")
    kinds = {"MaskRCNNSettings": MaskRCNN, "KeypointRCNNSettings": KeypointRCNN}
    with torch.device("meta"):
        kind: Any = kinds.get(type(found.settings).__name__, FasterRCNN)
        return kind(classes, found.settings)


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    spread = float(theirs.std())
    assert spread > 1e-3
    assert_close(ours, theirs, rtol=1e-3, atol=2e-3 * spread)


def rgb_image() -> Tensor:
    draw = torch.Generator().manual_seed(5)
    small = torch.rand(1, 3, 6, 8, generator=draw) * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1)
    return functional.interpolate(small, (96, 128), mode="bicubic").clamp(0, 1)[0]


def pair(state: State, name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]
