"""MMDetection's models: every key has its place, the configuration is read, differences are carried."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from rcnn.importers import mmdetection
from rcnn.importers.recognise import build, reorder_tensors
from their_states import State, assert_alike, drawn, network_of, pair, rgb_image, zeros
from their_states import mmdetection as written

MODELS: dict[str, dict[str, Any]] = {
    "faster-rcnn_r50_fpn": {},
    "faster-rcnn_r101_fpn": {"depth": 101},
    "mask-rcnn_r50_fpn": {"mask": True},
    "mask-rcnn_r101_fpn": {"mask": True, "depth": 101},
    "mask-rcnn_r50_fpn, Cityscapes": {"mask": True, "classes": 8},
    "mask-rcnn_r50-caffe-c4": {"mask": True, "c4": True},
    "one box and one mask for all classes": {"mask": True, "agnostic": True},
    "an RPN with a softmax": {"two_logits": True},
    "cascade-rcnn_r50_fpn": {"steps": 3},
}
# As Config.pretty_text writes them, shortened.
CAFFE = """
_base_x = './a.py'
auto_scale_lr = dict(base_batch_size=16, enable=False)
custom = some_function(3)
model = dict(
    backbone=dict(depth=50, norm_cfg=dict(requires_grad=False, type='BN'), style='caffe'),
    data_preprocessor=dict(
        bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], pad_size_divisor=32, std=[1.0, 1.0, 1.0]),
    roi_head=dict(
        bbox_head=dict(
            bbox_coder=dict(target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.05, 0.05, 0.1, 0.1])),
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7, sampling_ratio=2, type='RoIAlign'))),
    rpn_head=dict(
        anchor_generator=dict(ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(
        rcnn=dict(max_per_img=300, nms=dict(iou_threshold=0.4, type='nms'), score_thr=0.01),
        rpn=dict(max_per_img=500, nms_pre=700)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=1200, nms_pre=1500)))
"""


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_keys_complete_in_both_directions(options: dict[str, Any]) -> None:
    state = written(zeros, **options)
    found = mmdetection.read({"meta": {}, "state_dict": state}, "a.pth")
    ours = {k: v.shape for k, v in network_of(found).state_dict().items() if "num_batches" not in k}
    converted = {k: v.shape for k, v in reorder_tensors(found).items() if "num_batches" not in k}
    assert converted == ours
    assert len(converted) == len(state) - sum("num_batches" in k for k in state)


def read(meta: dict[str, Any], **options: Any) -> Any:
    return mmdetection.read({"meta": meta, "state_dict": written(zeros, **options)}, "a.pth")


def test_without_a_configuration() -> None:
    found = read({})
    settings = found.settings
    assert found.notes == ("images: RGB; stride in the 3x3 convolution: by MMDetection's defaults",)
    assert (settings.backbone.stride_at, settings.backbone.norm) == ("3x3", "frozen")
    assert (settings.rpn.post_nms, settings.rpn.beta) == ((1000, 1000), 0.0)
    assert (settings.box.weights, settings.box.pool.sampling_ratio) == ((10, 10, 5, 5), 0)
    assert found.transform.mean == pytest.approx((0.485, 0.456, 0.406))
    assert found.transform.std == pytest.approx((0.229, 0.224, 0.225))
    assert not found.transform.antialias
    assert found.class_names is None


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_configuration_of_the_checkpoint(key: str) -> None:
    found = read({key: CAFFE, "dataset_meta": {"classes": ("a", "b"), "palette": None}}, classes=2)
    assert found.notes == (
        "images: BGR; stride in the 1x1 convolution: from the checkpoint's configuration",
    )  # fmt: skip
    settings = found.settings
    assert settings.backbone.stride_at == "1x1"
    assert settings.box.weights == (20, 20, 10, 10)
    assert settings.box.pool.sampling_ratio == 2
    assert (settings.box.min_score, settings.box.nms_iou, settings.box.max_detections) == (0.01, 0.4, 300)
    assert settings.rpn.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert (settings.rpn.pre_nms, settings.rpn.post_nms) == ((1500, 700), (1200, 500))
    assert found.transform.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert found.class_names == ("a", "b")


def test_without_a_configuration_the_bases_of_c4_and_of_the_cascade() -> None:
    found = read({}, c4=True, mask=True)
    assert (found.settings.backbone.stride_at, found.conventions.channels) == ("1x1", "bgr")
    assert found.transform.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert found.transform.std == pytest.approx((1 / 255,) * 3)
    assert (found.settings.rpn.pre_nms, found.settings.rpn.post_nms) == ((12000, 6000), (2000, 1000))
    settings = read({}, steps=3).settings
    assert settings.box.weights == (10, 10, 5, 5)
    assert settings.box.cascade.weights[1] == pytest.approx((1 / 0.033, 1 / 0.033, 1 / 0.067, 1 / 0.067))
    assert (settings.box.beta, settings.rpn.beta) == pytest.approx((1.0, 1 / 9))
    assert settings.rpn.post_nms == (2000, 1000)


def test_what_is_no_plain_value_does_not_hide_the_rest() -> None:
    found = read({"cfg": CAFFE.replace("depth=50", "depth=50, init=dict(a=float('inf'), b=1)")})
    assert found.settings.backbone.stride_at == "1x1"
    assert found.conventions.channels == "bgr"
    assert mmdetection.configuration("a = dict(x=f(1), **{'y': 2}, z=[3, g()])") == {"a": {"y": 2}}


def test_settings_that_change_what_is_found() -> None:
    text = """
model = dict(
    rpn_head=dict(
        anchor_generator=dict(center_offset=0.5), loss_bbox=dict(type='SmoothL1Loss', beta=0.25)),
    roi_head=dict(
        bbox_head=dict(loss_bbox=dict(type='L1Loss')),
        bbox_roi_extractor=dict(roi_layer=dict(aligned=False))),
    test_cfg=dict(rpn=dict(nms=dict(iou_threshold=0.9))))
test_pipeline = [dict(type='Load'), dict(type='Resize', scale=(2048, 1024), keep_ratio=True)]
"""
    found = read({"cfg": text})
    rpn = found.settings.rpn
    assert (rpn.offset, rpn.nms_iou, rpn.beta) == (0.5, 0.9, 0.25)
    assert not found.settings.box.pool.aligned
    assert found.settings.box.beta == 0
    assert (found.transform.short_side, found.transform.max_long_side) == (1024, 2048)
    for kind in ("LegacyAnchorGenerator", "LegacyDeltaXYWHBBoxCoder"):
        with pytest.raises(ValueError, match=rf"a\.pth: its configuration has {kind}, as in MMDetection 1"):
            read({"cfg": f"model = dict(rpn_head=dict(part=[dict(type='{kind}')]))"})


def test_a_cascade_has_box_weights_of_its_own() -> None:
    heads = ", ".join(f"dict(bbox_coder=dict(target_stds={stds}))" for stds in (
        "[0.1, 0.1, 0.2, 0.2]", "[0.05, 0.05, 0.1, 0.1]", "[0.025, 0.025, 0.05, 0.05]",
    ))  # fmt: skip
    box = read({"cfg": f"model = dict(roi_head=dict(bbox_head=[{heads}]))"}, steps=3).settings.box
    assert box.weights == (10, 10, 5, 5)
    assert box.cascade.weights == ((20, 20, 10, 10), (40, 40, 20, 20))
    state = {**written(zeros, steps=3), "roi_head.mask_head.0.upsample.weight": zeros((256, 256, 2, 2))}
    with pytest.raises(ValueError, match="a mask head per step of a cascade"):
        mmdetection.read(state, "a.pth")


def test_version_two_says_it_elsewhere() -> None:
    text = "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"
    found = read({"config": text, "CLASSES": ["x"]}, classes=1)
    assert found.conventions.channels == "bgr"
    assert found.transform.std == pytest.approx((1 / 255,) * 3)
    assert found.class_names == ("x",)


def test_a_configuration_is_not_run() -> None:
    text = "a = dict(b=[1, -2.5, ('x', None)], c={'d': True})\nb = __import__('os').getcwd()\nc = a"
    assert mmdetection.configuration(text) == {"a": {"b": [1, -2.5, ["x", None]], "c": {"d": True}}}
    assert mmdetection.configuration("not python (") == {}
    assert mmdetection.configuration(None) == {}


def test_version_one_is_refused() -> None:
    state = written(zeros, classes=3)
    state["roi_head.bbox_head.fc_reg.weight"] = zeros((16, 1024))
    state["roi_head.bbox_head.fc_reg.bias"] = zeros((16,))
    with pytest.raises(ValueError, match=r"old\.pth: a file of MMDetection 1"):
        mmdetection.read(state, "old.pth")


def their_features(image: Tensor, state: State, style: str) -> Tensor:
    """The coarsest level of a pyramid over ``Bottleneck``s of a style, as ``models/backbones/resnet.py``."""

    def layer(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = functional.conv2d(x, weight, None, stride, weight.shape[2] // 2)
        keys = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{bn}.{key}"] for key in keys), eps=1e-5)

    x = functional.relu(layer(image, "backbone.conv1", "backbone.bn1", 2))
    x = functional.max_pool2d(x, 3, 2, 1)
    for number, blocks in enumerate((3, 4, 6, 3), start=1):
        for b in range(blocks):
            name, stride = f"backbone.layer{number}.{b}", 2 if number > 1 and b == 0 else 1
            first, second = (stride, 1) if style == "caffe" else (1, stride)
            y = functional.relu(layer(x, f"{name}.conv1", f"{name}.bn1", first))
            y = functional.relu(layer(y, f"{name}.conv2", f"{name}.bn2", second))
            y = layer(y, f"{name}.conv3", f"{name}.bn3")
            own = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if b == 0 else x
            x = functional.relu(y + own)
    x = functional.conv2d(x, *pair(state, "neck.lateral_convs.3.conv"))
    return functional.conv2d(x, *pair(state, "neck.fpn_convs.3.conv"), padding=1)


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
@torch.no_grad()
def test_style_and_normalisation(style: str) -> None:
    """Both families of models: RGB with stds and a stride in the 3x3, BGR without and in the 1x1."""
    state = written(drawn(1), classes=2)
    meta = {"cfg": CAFFE if style == "caffe" else ""}
    found = mmdetection.read({"meta": meta, "state_dict": state}, "a.pth")
    network: Any = build(found, "a.pth")
    image = rgb_image()
    plain = replace(found.transform, short_side=None, max_long_side=None)
    ours = network.neck(network.backbone(plain([image]).tensors))[3]
    values = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in values)
    theirs = 255 * image.flip(0) - mean.flip(0) if style == "caffe" else (255 * image - mean) / std
    assert_alike(ours, their_features(theirs[None], state, style))


@torch.no_grad()
def test_two_logits_become_one() -> None:
    """The softmax's probability of an object is the sigmoid of ours."""
    state = written(drawn(2), classes=2, two_logits=True)
    network: Any = build(mmdetection.read(state, "a.pth"), "a.pth")
    features = torch.randn(1, 256, 3, 4, generator=torch.Generator().manual_seed(4))
    hidden = functional.relu(functional.conv2d(features, *pair(state, "rpn_head.rpn_conv"), padding=1))
    scores = functional.conv2d(hidden, *pair(state, "rpn_head.rpn_cls"))
    theirs = scores.permute(0, 2, 3, 1).reshape(-1, 2).softmax(1)[:, 0]
    ours = network.rpn.objectness(network.rpn.conv(features)).permute(0, 2, 3, 1).flatten().sigmoid()
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
