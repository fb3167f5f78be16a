"""The detectors of torchvision as oracle: the same weights give the same numbers, stage by stage.

Random networks, made lively: batch norms with the statistics of the test images, and last layers scaled so
that there are proposals and detections of all classes. The weights are float64, as fifty random layers make a
thousandth out of float32's rounding; our heads still give float32, which is what the tolerances allow for.

Differs from torchvision, and is therefore compared otherwise:
- Pasting. Ours looks every pixel up in the map (Detectron2's way); torchvision resizes to whole pixels. So
  the maps are compared, and ours pasted by torchvision's function.
- Mask targets. Ours are cut at 0.5 and read at aligned coordinates; torchvision's are soft and half a pixel
  off. So the mask loss is compared on torchvision's targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from found import Found, by_image, in_pixels
from rcnn.importers.torchvision import (
    DETECTORS,
    from_torchvision,
    torchvision_settings,
    torchvision_transform,
)
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.parts.batch import ImageBatch, Regions, TargetMasks, Targets
from rcnn.structures import Masks
from rcnn.transform import Transform

SIZES = ((150, 230), (101, 120), (200, 160))
# Padded to 96 x 128: the coarsest map has 2 x 2 cells, whose strides torchvision takes for 48 and 64.
SHORT_SIDE = 64
PROPOSALS = 30
DETECTIONS = 8


@dataclass
class Pair:
    """The same network twice, and the same images."""

    theirs: Any
    ours: FasterRCNN | MaskRCNN
    transform: Transform
    images: list[Tensor]
    batch: ImageBatch
    features: list[Tensor]
    their_batch: Any
    their_features: dict[str, Tensor]


def assert_alike(ours: Tensor, theirs: Tensor) -> None:
    spread = float(theirs.std())
    assert spread > 0.05
    assert_close(ours, theirs.to(ours.dtype), rtol=1e-5, atol=1e-5 * spread)


def assert_same(ours: Tensor, theirs: Tensor, atol: float) -> None:
    assert_close(ours, theirs.to(ours.dtype), rtol=1e-3, atol=atol)


def build(name: str, **kwargs: Any) -> Any:
    make = getattr(torchvision.models.detection, name)
    return make(weights=None, weights_backbone=None, num_classes=5, **kwargs)


def pictures(sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Smooth colour with some noise, in [0, 1], float64."""
    coarse = [torch.rand(1, 3, height // 20, width // 20) for height, width in sizes]
    smooth = [nn.functional.interpolate(c, s, mode="bicubic") for c, s in zip(coarse, sizes, strict=True)]
    return [(s[0] * 0.8 + 0.2 * torch.rand_like(s[0])).clamp(0, 1).double() for s in smooth]


def standardise(layer: nn.Module, spread: float) -> None:
    """At its next call, scale the layer so that each channel's outputs have mean 0 and this deviation."""

    def rescale(module: Any, _: Any, output: Tensor) -> Tensor:
        handle.remove()
        dims = [d for d in range(output.ndim) if d != 1]
        mean, factor = output.mean(dims), spread / output.std(dims)
        shape = (1, -1, *[1] * (output.ndim - 2))
        outputs = 1 if isinstance(module, nn.ConvTranspose2d) else 0
        module.weight.data.mul_(factor.view([-1 if d == outputs else 1 for d in range(module.weight.ndim)]))
        module.bias.data.sub_(mean).mul_(factor)
        return (output - mean.view(shape)) * factor.view(shape)

    handle = layer.register_forward_hook(rescale)


@torch.no_grad()
def enliven(model: Any, images: list[Tensor]) -> None:
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.8, 1.2)
        norm.bias.uniform_(-0.2, 0.2)
        norm.momentum = 1.0
    model.train()
    model.backbone(model.transform(images)[0].tensors)
    model.eval()
    heads = model.roi_heads
    standardise(model.rpn.head.cls_logits, 2.0)
    standardise(model.rpn.head.bbox_pred, 0.3)
    standardise(heads.box_predictor.cls_score, 2.0)
    standardise(heads.box_predictor.bbox_pred, 1.0)
    if heads.has_mask():
        standardise(heads.mask_predictor.mask_fcn_logits, 2.0)
    if heads.has_keypoint():
        standardise(heads.keypoint_predictor.kps_score_lowres, 2.0)
    model(images[:1])


@pytest.fixture(scope="module", params=list(DETECTORS))
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(3)
    theirs = build(
        request.param,
        min_size=SHORT_SIDE,
        max_size=1333,
        rpn_post_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_batch_size_per_image=100_000,
        box_batch_size_per_image=100_000,
        box_positive_fraction=0.5,
        box_detections_per_img=DETECTIONS,
    )
    images = pictures(SIZES)
    enliven(theirs.double(), images)
    theirs.float().double()  # what float32 holds: our model is built in it
    ours: Any = from_torchvision(request.param, theirs.state_dict()).double().eval()
    ours.rpn.settings = replace(ours.rpn.settings, post_nms=(PROPOSALS, PROPOSALS), count=100_000)
    sampling = replace(ours.settings.box.sampling, count=100_000, positive_fraction=0.5)
    box = replace(ours.settings.box, sampling=sampling, max_detections=DETECTIONS)
    ours.settings, ours.box.settings = replace(ours.settings, box=box), box
    transform = replace(torchvision_transform(request.param), short_side=SHORT_SIDE, max_long_side=1333)
    their_batch = theirs.transform(images)[0]
    batch = ImageBatch(their_batch.tensors, tuple((h, w) for h, w in their_batch.image_sizes))
    with torch.no_grad():
        features = ours.neck(ours.backbone(batch.tensors))
        their_features = theirs.backbone(their_batch.tensors)
    return Pair(theirs, ours, transform, images, batch, features, their_batch, their_features)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_settings_are_theirs(name: str) -> None:
    with torch.device("meta"):
        theirs, ours = build(name), torchvision_settings(name)
    rpn, heads, transform = theirs.rpn, theirs.roi_heads, torchvision_transform(name)
    assert (rpn._pre_nms_top_n["training"], rpn._pre_nms_top_n["testing"]) == ours.rpn.pre_nms
    assert (rpn._post_nms_top_n["training"], rpn._post_nms_top_n["testing"]) == ours.rpn.post_nms
    assert (rpn.nms_thresh, rpn.score_thresh) == (ours.rpn.nms_iou, ours.rpn.min_objectness)
    assert rpn.anchor_generator.sizes == ours.rpn.sizes
    assert set(rpn.anchor_generator.aspect_ratios) == {ours.rpn.ratios}
    matcher, sampler = rpn.proposal_matcher, rpn.fg_bg_sampler
    assert (matcher.high_threshold, matcher.low_threshold) == (ours.rpn.positive_iou, ours.rpn.negative_iou)
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (
        ours.rpn.count,
        ours.rpn.positive_fraction,
    )
    sampler, sampling = heads.fg_bg_sampler, ours.box.sampling
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (
        sampling.count,
        sampling.positive_fraction,
    )
    assert (heads.proposal_matcher.high_threshold, heads.proposal_matcher.low_threshold) == (
        sampling.positive_iou,
        sampling.background_iou[1],
    )
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img, heads.box_coder.weights) == (
        ours.box.min_score,
        ours.box.nms_iou,
        ours.box.max_detections,
        ours.box.weights,
    )
    # The keypoint model trains at several scales, and predicts at the last.
    assert theirs.transform.min_size[-1] == transform.short_side
    assert theirs.transform.max_size == transform.max_long_side


@pytest.mark.parametrize("short", [97, 154, 161, 195, 333, 480])
def test_images_are_resized_to_their_sizes(short: int) -> None:
    """Theirs can be a pixel short: 97 * (800 / 97) is a little less than 800, and cut."""
    images = [torch.rand(3, short, 500), torch.rand(3, 2 * short, short)]
    theirs = build("fasterrcnn_mobilenet_v3_large_320_fpn").transform(images)[0]
    ours = torchvision_transform("fasterrcnn_mobilenet_v3_large_320_fpn")(images)
    assert list(ours.sizes) == [tuple(size) for size in theirs.image_sizes]
    assert_close(ours.tensors, theirs.tensors, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_batch_and_features(pair: Pair) -> None:
    batch = pair.transform([image.float() for image in pair.images])
    assert batch.sizes == pair.batch.sizes
    assert_same(batch.tensors, pair.batch.tensors, 1e-4)
    assert len(pair.features) == len(pair.their_features)
    for ours, theirs in zip(pair.features, pair.their_features.values(), strict=True):
        assert_alike(ours, theirs)


@torch.no_grad()
def test_rpn_outputs_anchors_and_proposals(pair: Pair) -> None:
    maps = list(pair.their_features.values())
    logits, deltas = pair.theirs.rpn.head(maps)
    ours = pair.ours.rpn(pair.features)
    anchors = pair.theirs.rpn.anchor_generator(pair.their_batch, maps)[0]
    assert_close(ours.anchors, anchors.float(), rtol=0, atol=0)
    # Their channels are anchor by anchor; ours are in the order of the anchors.
    flat = torch.cat([level.permute(0, 2, 3, 1).flatten(1) for level in logits], 1)
    flat_deltas = torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, 4) for level in deltas], 1)
    assert_alike(ours.objectness, flat)
    assert_alike(ours.deltas, flat_deltas)
    found = pair.ours.rpn.decode(ours, pair.batch.extents).lists(len(pair.batch))
    proposals, _ = pair.theirs.rpn(pair.their_batch, pair.their_features)
    for mine, theirs in zip(found, proposals, strict=True):
        assert len(mine) == len(theirs) > 20
        assert_same(mine, theirs, 1e-3)


@torch.no_grad()
def test_region_features(pair: Pair) -> None:
    """What the box head pools is torchvision's, on boxes of all levels, at and beyond the border."""
    boxes = torch.tensor(
        [[0, 0, 128, 128], [3.3, 7.1, 20.9, 15.2], [100, 90, 130, 170], [-9, -9, 40, 30], [5, 5, 5.2, 5.2]]
    )
    sizes = pair.their_batch.image_sizes
    theirs = pair.theirs.roi_heads.box_roi_pool(pair.their_features, [boxes.double()] * 3, sizes)
    ours = pair.ours.box.pool(pair.features, Regions.from_lists([boxes, boxes, boxes]))
    assert_alike(ours, theirs)


@torch.no_grad()
def test_detections(pair: Pair) -> None:
    expected = pair.theirs(pair.images)
    # All images of theirs share one padding, so ours are found without groups.
    ours = pair.ours.detect(pair.batch.tensors, pair.batch.extents, min_score=0.05, max_detections=DETECTIONS)
    sizes = [(image.shape[1], image.shape[2]) for image in pair.images]
    everything = zip(
        sizes, by_image(ours, pair.batch.sizes), in_pixels(ours, pair.batch, sizes), expected, strict=True
    )
    labels = set()
    for size, resized, found, theirs in everything:
        mine = Found(size, *(torch.from_numpy(v) for v in (found.boxes, found.labels, found.scores)))
        assert len(mine) == DETECTIONS
        assert_close(mine.labels + 1, theirs["labels"])
        assert_same(mine.scores, theirs["scores"], 1e-5)
        assert_same(mine.boxes, theirs["boxes"], 1e-3)
        if resized.mask_maps is not None:
            pasted = paste_masks_in_image(resized.mask_maps[:, None], theirs["boxes"], size)
            assert theirs["masks"].std() > 0.05
            assert_same(pasted, theirs["masks"], 1e-3)
        assert ("masks" in theirs) == (resized.mask_maps is not None)
        assert ("keypoints" in theirs) == (found.keypoints is not None)
        if found.keypoints is not None:
            keypoints = torch.from_numpy(found.keypoints)
            assert theirs["keypoints"][..., :2].std() > 5
            assert_same(keypoints[..., :2], theirs["keypoints"][..., :2], 1e-3)
            assert_same(keypoints[..., 2], theirs["keypoints_scores"], 1e-3)
        labels |= set(mine.labels.tolist())
    assert labels == {0, 1, 2, 3}


LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_boxes": "loss_rpn_box_reg",
    "classes": "loss_classifier",
    "boxes": "loss_box_reg",
    "masks": "loss_mask",
    "keypoints": "loss_keypoint",
}


def truth(size: tuple[int, int], count: int) -> dict[str, Tensor]:
    """Objects of torchvision: some boxes, ellipses in them, labels from 1."""
    height, width = size
    corner = torch.rand(count, 2) * torch.tensor([width * 0.5, height * 0.5])
    side = 20 + torch.rand(count, 2) * 40
    boxes = torch.cat([corner, corner + side], 1)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centre, half = corner + side / 2, side / 2
    u = (x - centre[:, 0, None, None]) / half[:, 0, None, None]
    v = (y - centre[:, 1, None, None]) / half[:, 1, None, None]
    return {
        "boxes": boxes.double(),
        "labels": torch.arange(count) % 4 + 1,
        "masks": (u**2 + v**2 <= 1).to(torch.uint8),
        "keypoints": keypoints_in(boxes),  # float32, or torchvision refuses
    }


def keypoints_in(boxes: Tensor) -> Tensor:
    """``[N, 17, 3]``: most of them inside, some outside, some not annotated."""
    spread = torch.rand(len(boxes), 17, 2) * 1.1
    places = boxes[:, None, :2] + spread * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.cat([places, (torch.rand(len(boxes), 17, 1) > 0.2) * 2.0], 2)


def with_soft_targets(mask_head: Any, targets: list[dict[str, Tensor]]) -> Any:
    """Let our mask loss use torchvision's targets."""

    def soft(sampled: Any, _: Any, size: int) -> Tensor:
        parts = []
        for i, target in enumerate(targets):
            mine = sampled.regions.image_indices == i
            boxes, index = sampled.regions.boxes[mine], sampled.gt_indices[mine]
            parts.append(project_masks_on_boxes(target["masks"], boxes, index, size))
        return torch.cat(parts)

    mask_head.targets = soft


def training(model: nn.Module) -> None:
    """Training mode, batch norms with their stored statistics apart."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@pytest.mark.parametrize("counts", [(0,), (0, 1, 5)], ids=str)
def test_losses_and_gradients(pair: Pair, counts: tuple[int, ...]) -> None:
    torch.manual_seed(sum(counts))
    images = pair.images[: len(counts)]
    targets = [truth(tuple(i.shape[1:]), n) for i, n in zip(images, counts, strict=True)]
    training(pair.theirs)
    training(pair.ours)
    expected = pair.theirs(images, targets)
    resized = pair.theirs.transform(images, targets)[1]
    padded = pair.theirs.transform(images)[0]
    batch = ImageBatch(padded.tensors, tuple((h, w) for h, w in padded.image_sizes))
    truths = [
        Targets(
            size,
            t["boxes"].float(),
            t["labels"] - 1,
            masks=TargetMasks.from_masks(Masks.from_dense(t["masks"].numpy())),
            keypoints=t["keypoints"],
        )
        for size, t in zip(batch.sizes, resized, strict=True)
    ]
    if isinstance(pair.ours, MaskRCNN):
        with_soft_targets(pair.ours.mask, resized)
    losses = pair.ours(batch, truths).losses
    assert {LOSSES[name] for name in losses} == set(expected)
    assert (losses["boxes"] > 0) == (sum(counts) > 0)
    for name, loss in losses.items():
        same = expected[LOSSES[name]].to(loss.dtype)
        assert_close(loss, same, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    ours = torch.autograd.grad(sum(losses.values()), pair.ours.neck.lateral[0][0].weight)[0]
    same_weight = pair.theirs.backbone.fpn.inner_blocks[0][0].weight
    theirs = torch.autograd.grad(sum(expected.values()), same_weight)[0]
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()
