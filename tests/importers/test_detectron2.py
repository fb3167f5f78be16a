"""Detectron2's models: every key has its place, and the numbers come out as its own arithmetic has them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from rcnn.importers import detectron2
from rcnn.importers.recognise import RecognisedModel, build, reorder_tensors
from rcnn.parts.box_head import CascadeSettings
from rcnn.parts.regions import Regions
from their_arithmetic import their_maps, their_pyramid, their_stage
from their_states import State, assert_alike, drawn, network_of, pair, rgb_image, zeros
from their_states import detectron2 as written

MODELS: dict[str, dict[str, Any]] = {
    "faster_rcnn_R_50_FPN": {},
    "faster_rcnn_R_101_FPN of 2019": {"depth": 101, "old": True},
    "mask_rcnn_R_50_FPN": {"mask": True},
    "mask_rcnn_R_101_FPN": {"mask": True, "depth": 101},
    "mask_rcnn_R_50_FPN, Cityscapes": {"mask": True, "classes": 8},
    "mask_rcnn_R_50_FPN_1x_cls_agnostic": {"mask": True, "agnostic": True},
    "mask_rcnn_R_50_FPN_100ep_LSJ": {"mask": True, "norm": True},
    "keypoint_rcnn_R_50_FPN": {"classes": 1, "keypoints": 17},
    "cascade_mask_rcnn_R_50_FPN": {"mask": True, "steps": 3},
    "faster_rcnn_R_50_C4": {"c4": True, "classes": 20},
    "mask_rcnn_R_101_C4": {"c4": True, "mask": True, "depth": 101, "old": True},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_keys_complete_in_both_directions(options: dict[str, Any]) -> None:
    state = written(zeros, **options)
    found = detectron2.read({"model": state, "__author__": "Detectron2 Model Zoo"}, "a.pkl")
    ours = {k: v.shape for k, v in network_of(found).state_dict().items() if "num_batches" not in k}
    converted = {k: v.shape for k, v in reorder_tensors(found).items() if "num_batches" not in k}
    assert converted == ours
    buffers = [k for k in state if "pixel_" in k or "cell_anchors" in k]
    counts = [k for k in state if "num_batches" in k]
    assert len(converted) == len(state) - len(buffers) - len(counts)


def test_settings_are_those_of_the_zoo() -> None:
    def read(**options: Any) -> Any:
        return detectron2.read(written(zeros, **options), "a.pkl").settings

    mask = read(mask=True)
    assert mask.backbone.stride_at == "1x1"
    assert (mask.rpn.pre_nms, mask.rpn.post_nms, mask.rpn.beta) == ((2000, 1000), (1000, 1000), 0.0)
    for head in (mask.box, mask.mask):
        assert (head.pool.sampling_ratio, head.pool.aligned) == (0, True)
    assert (mask.box.pool.size, mask.mask.pool.size) == (7, 14)
    people = read(classes=1, keypoints=17)
    assert (people.box.beta, people.rpn.post_nms, people.keypoint.refine) == (0.5, (1500, 1000), False)
    c4 = read(c4=True, mask=True)
    assert (c4.fpn, c4.backbone.levels, c4.box.layers, c4.box.pool.size) == (None, (3,), "stage", 14)
    assert (c4.rpn.pre_nms, c4.rpn.post_nms, c4.rpn.sizes) == (
        (12000, 6000), (2000, 1000), ((32, 64, 128, 256, 512),),
    )  # fmt: skip
    agnostic = read(mask=True, agnostic=True)
    assert agnostic.box.class_agnostic
    assert agnostic.mask.class_agnostic
    cascade = read(mask=True, steps=3)
    assert (cascade.box.cascade, cascade.rpn.post_nms) == (CascadeSettings(), (2000, 1000))
    trained = read(mask=True, norm=True)
    assert (trained.backbone.norm, trained.fpn.norm, trained.rpn.convs) == ("batch", "batch", 2)
    assert (trained.box.layers, trained.mask.norm) == ("conv", True)


@pytest.fixture(scope="module")
def pyramid() -> tuple[State, Any, RecognisedModel]:
    state = written(drawn(1), mask=True, classes=3)
    found = detectron2.read({"model": state}, "a.pkl")
    return state, build(found, "a.pkl"), found


@torch.no_grad()
def test_channels_means_and_strides(pyramid: Any) -> None:
    """An RGB image of ours gives the features of the same image in their BGR; a wrong stride does not."""
    state, network, found = pyramid
    assert found.notes[0] == "images: BGR, mean and std by Detectron2's defaults"
    assert found.notes[1].startswith("stride in the 1x1 convolution")
    image = rgb_image()
    plain = replace(found.transform, short_side=None, max_long_side=None)
    ours = network.neck(network.backbone(plain([image]).tensors))
    theirs = their_pyramid(their_maps(255 * image.flip(0)[None], state, 4, "backbone.bottom_up"), state)
    for mine, other in zip(ours, theirs, strict=True):
        assert_alike(mine, other)
    wrong = replace(found, settings=replace(
        found.settings, backbone=replace(found.settings.backbone, stride_at="3x3")
    ))  # fmt: skip
    other = build(wrong, "a.pkl")
    moved = other.neck(other.backbone(plain([image]).tensors))[0]
    assert (moved - theirs[0]).std() > 0.1 * theirs[0].std()


@torch.no_grad()
def test_heads(pyramid: Any) -> None:
    """Adaptive, aligned RoIAlign; fc1 reads channel by channel; background last; weights 10, 10, 5, 5."""
    state, network, _ = pyramid
    draw = torch.Generator().manual_seed(2)
    levels = [torch.randn(1, 256, 24 // 2**i, 32 // 2**i, generator=draw) for i in range(4)]
    boxes = torch.tensor([[3.0, 5, 60, 50], [10, 10, 31, 90], [0, 0, 127, 95]])
    logits, deltas = network.box(levels, Regions.from_lists([boxes]))
    x = torchvision.ops.roi_align(levels[0], [boxes], 7, 1 / 4, 0, True).flatten(1)
    for name in ("box_head.fc1", "box_head.fc2"):
        x = functional.relu(functional.linear(x, *pair(state, f"roi_heads.{name}")))
    scores = functional.linear(x, *pair(state, "roi_heads.box_predictor.cls_score"))
    moves = functional.linear(x, *pair(state, "roi_heads.box_predictor.bbox_pred"))
    assert_alike(logits, scores)
    assert_alike(deltas.flatten(1), moves)
    assert network.box.settings.weights == (10, 10, 5, 5)
    maps = network.mask(levels, Regions.from_lists([boxes]))
    y = torchvision.ops.roi_align(levels[0], [boxes], 14, 1 / 4, 0, True)
    for k in range(1, 5):
        y = functional.relu(functional.conv2d(y, *pair(state, f"roi_heads.mask_head.mask_fcn{k}"), padding=1))
    y = functional.relu(functional.conv_transpose2d(y, *pair(state, "roi_heads.mask_head.deconv"), stride=2))
    assert_alike(maps, functional.conv2d(y, *pair(state, "roi_heads.mask_head.predictor")))


@torch.no_grad()
def test_anchors_of_one_map_change_places() -> None:
    """C4: theirs come size by size, ours ratio by ratio; each keeps its own logit and deltas."""
    state = written(drawn(3), c4=True, classes=2)
    network: Any = build(detectron2.read(state, "a.pkl"), "a.pkl")
    features = torch.randn(1, 1024, 2, 3, generator=torch.Generator().manual_seed(4))
    ours = network.rpn([features])
    rpn = "proposal_generator.rpn_head"
    hidden = functional.relu(functional.conv2d(features, *pair(state, f"{rpn}.conv"), padding=1))
    logits = functional.conv2d(hidden, *pair(state, f"{rpn}.objectness_logits"))
    deltas = functional.conv2d(hidden, *pair(state, f"{rpn}.anchor_deltas"))
    theirs = []
    for y in range(2):
        for x in range(3):
            sizes_and_ratios = [(s, r) for s in (32, 64, 128, 256, 512) for r in (0.5, 1.0, 2.0)]
            for a, (size, ratio) in enumerate(sizes_and_ratios):
                width, height = size / ratio**0.5, size * ratio**0.5
                corners = [16 * x - width / 2, 16 * y - height / 2, 16 * x + width / 2, 16 * y + height / 2]
                moves = deltas[0, 4 * a : 4 * a + 4, y, x].tolist()
                theirs.append([*corners, float(logits[0, a, y, x]), *moves])
    mine = torch.cat([ours.anchors, ours.objectness[0][:, None], ours.deltas[0]], 1)
    assert_close(sorted_rows(mine), sorted_rows(torch.tensor(theirs)), rtol=1e-4, atol=1e-3)


def sorted_rows(rows: Tensor) -> Tensor:
    """In the order of the anchors, which are all different."""
    order = sorted(range(len(rows)), key=lambda i: [round(v, 2) for v in rows[i, :4].tolist()])
    return rows[order]


@torch.no_grad()
def test_last_stage_of_c4() -> None:
    """The head's stage halves its regions in its first convolution; its mean is what is classified."""
    state = written(drawn(6), c4=True, classes=2)
    found = detectron2.read(state, "a.pkl")
    network: Any = build(found, "a.pkl")
    image = rgb_image()
    plain = replace(found.transform, short_side=None, max_long_side=None)
    assert plain.size_divisor == 1
    (ours,) = network.neck(network.backbone(plain([image]).tensors))
    theirs = their_maps(255 * image.flip(0)[None], state, 3, "backbone")[-1]
    assert_alike(ours, theirs)
    boxes = torch.tensor([[3.0, 5, 60, 50], [10, 10, 110, 90]])
    logits, _ = network.box([theirs], Regions.from_lists([boxes]))
    x = torchvision.ops.roi_align(theirs, [boxes], 14, 1 / 16, 0, True)
    x = their_stage(x, state, "roi_heads.res5", 2).mean([2, 3])
    assert_alike(logits, functional.linear(x, *pair(state, "roi_heads.box_predictor.cls_score")))


def test_means_of_the_file_come_first() -> None:
    state = written(zeros, old=True)
    state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    found = detectron2.read({"model": state}, "a.pkl")
    assert found.conventions.channels == "rgb"
    assert found.notes[0] == "images: RGB, mean and std from the file"
    # The std of torchvision's ResNets, whose stride is in the other convolution.
    assert found.settings.backbone.stride_at == "3x3"
    assert found.transform.mean == pytest.approx((0.485, 0.456, 0.406))
    assert found.transform.std == pytest.approx((0.229, 0.224, 0.225))
    default = detectron2.read(written(zeros), "a.pkl").transform
    assert default.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert default.std == pytest.approx((1 / 255,) * 3)


@pytest.mark.parametrize(("height", "width"), [(333, 500), (97, 300), (480, 640), (600, 2000)])
def test_images_are_resized_to_their_sizes(height: int, width: int) -> None:
    """``ResizeShortestEdge.get_output_shape`` with 800 and 1333."""
    scale = min(800 / min(height, width), 1333 / max(height, width))
    expected = int(height * scale + 0.5), int(width * scale + 0.5)
    assert detectron2.read(written(zeros), "a.pkl").transform.resized((height, width)) == expected


def test_images_are_smoothed_as_pillow_does() -> None:
    """``ResizeTransform`` is Pillow's bilinear filter, which widens where an image shrinks."""
    image = torch.randint(256, (3, 1203, 1604), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = detectron2.read(written(zeros), "a.pkl").transform
    assert transform.antialias
    (found,) = transform([image]).tensors
    height, width = transform.resized((1203, 1604))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    there = np.array(picture.resize((width, height), Image.BILINEAR))
    std = torch.tensor(transform.std)[:, None, None] * 255
    back = found[:, :height, :width] * std + torch.tensor(transform.mean)[:, None, None] * 255
    assert float((back - torch.from_numpy(there).permute(2, 0, 1)).abs().max()) < 2


REFUSED = {
    "group norm": lambda s: [s.pop(k) for k in list(s) if "running" in k],
    "deformable convolutions": lambda s: s.update(
        {"backbone.bottom_up.res3.0.conv2_offset.weight": zeros((27, 128, 3, 3))}
    ),
    "semantic segmentation": lambda s: s.update({"sem_seg_head.predictor.weight": zeros((54, 128, 1, 1))}),
    "ResNeXt": lambda s: s.update({"backbone.bottom_up.res2.0.conv2.weight": zeros((256, 8, 3, 3))}),
    "single map": lambda s: [s.pop(k) for k in list(s) if "fpn_" in k],
    r"blocks; expected one of resnet18": lambda s: [s.pop(k) for k in list(s) if ".res4.5." in k],
    "no Faster, Mask or Keypoint R-CNN": lambda s: [s.pop(k) for k in list(s) if "rpn_head" in k],
    "expected one of Detectron2": lambda s: s.update(blobs=zeros((1,))),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_other_networks_are_refused(words: str) -> None:
    state = written(zeros)
    REFUSED[words](state)
    with pytest.raises(ValueError, match=rf"x\.pkl: .*{words}"):
        detectron2.read(state, "x.pkl")
