"""One contract for every model: what goes in, what comes out, what has a gradient."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from conftest import real_data
from found import by_image
from rcnn.io.images import image_size, read_image
from rcnn.loading import load_detector
from rcnn.models import MODELS, build_model, model_class, model_name
from rcnn.models.fast_rcnn import FastRCNN
from rcnn.models.faster_rcnn import FasterRCNN, FasterRCNNSettings
from rcnn.models.fcn import FCN
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNN, MaskRCNNSettings
from rcnn.models.model import Model
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.models.rcnn import RCNN
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import ImageBatch, Targets
from rcnn.parts.box_head import BoxHeadSettings, CascadeSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import Instances, Masks
from rcnn.training.recipe import load_recipe, with_settings
from rcnn.transform import Transform

NUM_CLASSES = 3
BACKBONE = BackboneSettings("efficientnet_lite0", (1, 2, 3, 4), frozen_stages=1)
FPN = FPNSettings(channels=16, output="separable")
RPN = RPNSettings(
    sizes=((8,), (16,), (32,), (64,), (96,)), pre_nms=(100, 60), post_nms=(80, 40), count=64, conv="separable"
)
BOX = BoxHeadSettings(
    channels=32, pool=PoolSettings(size=3), sampling=SamplingSettings(count=32), max_detections=20
)
CASCADE = replace(BOX, cascade=CascadeSettings())
KEYPOINT = KeypointHeadSettings(count=3, convs=1, channels=8, pool=PoolSettings(size=4))
MASK = MaskHeadSettings(convs=1, channels=8, pool=PoolSettings(size=4))
SEMANTIC = SemanticHeadSettings(channels=8, groups=2)


def small_vgg16() -> FasterRCNNSettings:
    """The paper's network with small anchors and a narrow head."""
    own = load_recipe("voc07_faster_rcnn_vgg16").settings
    rpn = replace(
        own.rpn,
        sizes=((16, 32, 64),),
        channels=32,
        pre_nms=(100, 60),
        post_nms=(80, 40),
        count=64,
        min_side=2,
    )
    box = replace(own.box, channels=32, pool=replace(own.box.pool, size=3), dropout=0.0, max_detections=20)
    return replace(own, rpn=rpn, box=box)


def small_c4() -> MaskRCNNSettings:
    own = with_settings(load_recipe("mask_rcnn_r50_c4"), ["model.backbone.name=resnet18"]).settings
    rpn = replace(
        own.rpn, sizes=((8, 16, 32, 64),), channels=32, pre_nms=(100, 60), post_nms=(80, 40), count=64
    )
    box = replace(own.box, pool=PoolSettings(size=4), sampling=SamplingSettings(count=32), max_detections=20)
    return replace(
        own, rpn=rpn, box=box, mask=MaskHeadSettings(convs=0, channels=8, pool=PoolSettings(size=8))
    )


BUILD = {
    "Faster R-CNN, FPN": lambda: FasterRCNN(NUM_CLASSES, FasterRCNNSettings(BACKBONE, FPN, RPN, BOX)),
    "Faster R-CNN, VGG-16": lambda: FasterRCNN(NUM_CLASSES, small_vgg16()),
    "Mask R-CNN, FPN": lambda: MaskRCNN(NUM_CLASSES, MaskRCNNSettings(BACKBONE, FPN, RPN, BOX, MASK)),
    "Mask R-CNN, C4": lambda: MaskRCNN(NUM_CLASSES, small_c4()),
    "Faster R-CNN, cascade": lambda: FasterRCNN(NUM_CLASSES, FasterRCNNSettings(BACKBONE, FPN, RPN, CASCADE)),
    "Mask R-CNN, cascade": lambda: MaskRCNN(NUM_CLASSES, MaskRCNNSettings(BACKBONE, FPN, RPN, CASCADE, MASK)),
    "Keypoint R-CNN": lambda: KeypointRCNN(
        NUM_CLASSES, KeypointRCNNSettings(BACKBONE, FPN, RPN, BOX, KEYPOINT, MASK)
    ),
    "Panoptic FPN": lambda: PanopticFPN(
        NUM_CLASSES, PanopticFPNSettings(BACKBONE, FPN, RPN, BOX, MASK, SEMANTIC), num_stuff=2
    ),
}


def soften(model: nn.Module) -> None:
    """Random backbones make enormous features: bring them to a scale at which scores and boxes differ."""
    draw = torch.Generator().manual_seed(7)
    images = torch.randn((1, 3, 64, 96), generator=draw)
    with torch.no_grad():
        for level, features in enumerate(model.neck(model.backbone(images))):
            assert features.isfinite().all(), level
        scale = max(float(features.std()) for features in model.neck(model.backbone(images)))
        for layer, spread in ((model.rpn.objectness, 1.0), (model.rpn.deltas, 0.2)):
            nn.init.normal_(layer.weight, std=spread / max(scale, 1e-3), generator=draw)
        for head in getattr(model.box, "steps", [model.box]):
            nn.init.normal_(head.logits.weight, std=0.3 / max(scale, 1e-3), generator=draw)


@pytest.fixture(scope="module", params=BUILD, ids=str)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    built = BUILD[request.param]()
    soften(built)
    return built


def pictures(*sizes, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.rand((3, *size), generator=draw) for size in sizes]


def batch_of(*sizes, seeds=()) -> ImageBatch:
    return replace(Transform()(pictures(*sizes)), seeds=tuple(seeds))


def keypoints_in(boxes) -> torch.Tensor:
    """Three in each box, the last not annotated."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2, 2)
    low, extent = corners[:, :1], corners[:, 1:] - corners[:, :1]
    places = low + torch.tensor([[0.2, 0.3], [0.7, 0.5], [0.5, 0.5]]) * extent
    return torch.cat([places, torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1).expand(len(boxes), -1, -1)], 2)


def truth_on(size, *boxes, crowd=None, masks: bool = True) -> Instances:
    bitmaps = np.zeros((len(boxes), *size), np.bool_)
    for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes, strict=True):
        bitmap[y1:y2, x1:x2] = 1
    return Instances(
        size,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.arange(len(boxes)) % NUM_CLASSES,
        keypoints=keypoints_in(boxes).numpy(),
        masks=Masks.from_dense(bitmaps) if masks else None,
        semantic=np.where(bitmaps.any(0), 0, NUM_CLASSES),
        crowd=None if crowd is None else np.array(crowd),
    )


def detect(model, batch, **overrides):
    model.eval()
    with torch.no_grad():
        output = model(batch, **overrides)
    assert output.losses == {}
    return by_image(output.detections, batch.sizes)


def losses_of(model, batch, truths):
    model.train()
    output = model(batch, truths)
    assert output.detections is None
    return output.losses


def check_detections(model, batch, detections, most=20):
    assert len(detections) == len(batch)
    for found, size in zip(detections, batch.sizes, strict=True):
        n = len(found)
        assert n <= most
        assert found.size == size
        assert (found.boxes.shape, found.boxes.dtype) == ((n, 4), torch.float32)
        assert (found.labels.shape, found.labels.dtype) == ((n,), torch.int64)
        assert (found.scores.shape, found.scores.dtype) == ((n,), torch.float32)
        assert ((found.labels >= 0) & (found.labels < NUM_CLASSES)).all()
        assert ((found.scores > 0) & (found.scores <= 1)).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 0::2] <= size[1]).all()
        assert (found.boxes[:, 1::2] <= size[0]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        if isinstance(model, KeypointRCNN):
            assert (found.keypoints.shape, found.keypoints.dtype) == ((n, 3, 3), torch.float32)
            inside = found.keypoints[..., :2] - found.boxes[:, None, :2]
            assert ((inside >= 0) & (inside <= (found.boxes[:, 2:] - found.boxes[:, :2])[:, None])).all()
        if isinstance(model, PanopticFPN):
            assert (found.semantic_logits.shape, found.semantic_logits.dtype) == ((3, *size), torch.float32)
        if isinstance(model, MaskRCNN | KeypointRCNN | PanopticFPN):
            assert (found.mask_maps.shape, found.mask_maps.dtype) == ((n, 8, 8), torch.float32)
            assert ((found.mask_maps >= 0) & (found.mask_maps <= 1)).all()
        else:
            assert found.mask_maps is None


def test_heads_that_train_on_a_region_at_a_time_have_the_same_losses_and_gradients(model, monkeypatch):
    """All models' losses and gradients, where mask and keypoint heads take one region after the other."""
    sizes = (64, 96), (50, 70)
    truths = [truth_on(sizes[0], (4, 4, 30, 40), (40, 10, 90, 60)), truth_on(sizes[1], (5, 5, 25, 45))]
    found = []
    for at_once in (None, 1):
        if at_once is not None:
            monkeypatch.setattr("rcnn.parts.mask_head.CHUNK_ELEMENTS", at_once)
            monkeypatch.setattr("rcnn.parts.keypoint_head.CHUNK_REGIONS", at_once)
        copied = copy.deepcopy(model)
        losses = losses_of(copied, replace(batch_of(*sizes), seeds=(1, 2)), truths)
        sum(losses.values()).backward()
        found.append((losses, {n: p.grad for n, p in copied.named_parameters() if p.grad is not None}))
    assert list(found[0][0]) == list(found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_models_by_name():
    names = {
        "rcnn": RCNN,
        "fast_rcnn": FastRCNN,
        "faster_rcnn": FasterRCNN,
        "mask_rcnn": MaskRCNN,
        "keypoint_rcnn": KeypointRCNN,
        "fcn": FCN,
        "panoptic_fpn": PanopticFPN,
    }
    assert dict(MODELS) == names
    assert all(cls.__bases__ == (Model,) for cls in MODELS.values())


def test_defaults_are_the_papers():
    settings = MaskRCNNSettings()
    assert (settings.backbone.name, settings.fpn.channels, settings.mask.pool.size) == ("resnet50", 256, 14)
    assert (settings.rpn.positive_iou, settings.rpn.negative_iou, settings.rpn.count) == (0.7, 0.3, 256)
    assert (settings.box.sampling.count, settings.box.sampling.positive_fraction) == (512, 0.25)
    paper = load_recipe("voc07_faster_rcnn_vgg16").settings
    assert (paper.rpn.normaliser, paper.rpn.box_weight, paper.rpn.cross_boundary) == ("paper", 10.0, False)
    assert (paper.rpn.pre_nms, paper.rpn.post_nms, paper.rpn.min_side) == ((12000, 6000), (2000, 300), 16)
    assert (paper.box.pool.pooling, paper.box.nms_iou, paper.box.channels) == ("pool", 0.3, 4096)


def test_detections_of_two_sizes(model):
    batch = batch_of((64, 96), (50, 70))
    detections = detect(model, batch)
    check_detections(model, batch, detections)
    assert all(len(found) for found in detections)


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (7, 200), (32, 1)], ids=str)
def test_any_size(model, size):
    batch = batch_of(size, (20, 30))
    check_detections(model, batch, detect(model, batch, min_score=0.0))
    losses = losses_of(model, batch, [truth_on(size, (0, 0, 1, 1)), truth_on((20, 30), (2, 2, 12, 14))])
    assert all(loss.isfinite() for loss in losses.values())


def assert_the_same(alone, found):
    """The same objects, boxes within a hundredth of a pixel, scores within a thousandth."""
    assert len(alone) == len(found)
    assert_close(alone.labels, found.labels)
    assert_close(alone.boxes, found.boxes, rtol=0, atol=1e-2)
    assert_close(alone.scores, found.scores, rtol=0, atol=1e-3)
    for name in ("mask_maps", "keypoints", "semantic_logits"):
        if (values := getattr(found, name)) is not None:
            assert_close(getattr(alone, name), values, rtol=1e-3, atol=1e-2)


SEVERAL = {
    "padded alike": ((64, 96), (50, 70), (40, 90)),
    "padded to other sizes": ((128, 160), (50, 70), (33, 150), (64, 96), (1, 7)),
}


@pytest.mark.parametrize("sizes", SEVERAL.values(), ids=SEVERAL)
def test_one_batch_equals_one_by_one(model, sizes):
    images = pictures(*sizes)
    together = detect(model, Transform()(images), max_detections=200)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(model, Transform()([image]), max_detections=200)
        assert_the_same(alone, found)
        assert len(found) or min(image.shape[1:]) == 1


def test_groups_are_padded_as_the_transform_pads():
    """Images of 40 and 60 pixels make one group with a divisor of 64 and two with 32."""
    images = pictures((40, 40), (60, 60))
    groups = [Transform(size_divisor=step)(images).equal_groups() for step in (32, 64)]
    assert groups == [{(64, 64): [0, 1]}, {(64, 64): [0, 1]}]
    images = pictures((20, 40), (60, 60))
    groups = [Transform(size_divisor=step)(images).equal_groups() for step in (32, 64)]
    assert groups == [{(32, 64): [0], (64, 64): [1]}, {(64, 64): [0, 1]}]


def test_nuclei_at_the_border_are_found_beside_a_larger_image():
    """The shipped model on photographs: beside a large one, those at two borders of a small one were lost."""
    detector = load_detector("nuclei", "cpu").for_measuring()
    sizes = {path: image_size(path) for path in sorted(real_data("nuclei/val").glob("*/images/*.png"))}
    small = [path for path, size in sizes.items() if size == (256, 256)][:2]
    large = next(path for path, size in sizes.items() if 300 < size[0] < 600)
    images = [torch.from_numpy(read_image(path).transpose(2, 0, 1).copy()) for path in (*small, large)]
    together = detect(detector.network, detector.transform(images), min_score=detector.min_score)
    assert sum(map(len, together)) > 30
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(detector.network, detector.transform([image]), min_score=detector.min_score)
        assert_the_same(alone, found)


def test_instances_and_targets_are_alike_as_truth(model):
    truths, batch = TRUTHS["objects"], batch_of(SIZE, SIZE, seeds=(1, 2))
    with torch.no_grad():
        losses = losses_of(model, batch, truths)
        again = losses_of(model, batch, [Targets.from_instances(truth) for truth in truths])
    assert_close(again, losses, rtol=0, atol=0)


class Mine(MaskRCNN):
    """A model of a user's own."""


def test_a_model_of_ones_own_is_named_by_its_dotted_path():
    assert model_name(Mine) == f"{__name__}:Mine"
    settings = MaskRCNNSettings(BACKBONE, FPN, RPN, BOX, MASK)
    built = build_model(f"{__name__}:Mine", settings, ("a", "b"))
    assert type(built) is Mine
    assert model_name(built) == f"{__name__}:Mine"
    with pytest.raises(ValueError, match="is unknown; did you mean mask_rcnn"):
        model_class("maks_rcnn")
    with pytest.raises(ValueError, match="expected a class that inherits"):
        model_class(f"{__name__}:soften")


def test_detecting_does_not_depend_on_chance(model):
    batch = batch_of((64, 96))
    first, second = detect(model, batch)[0], detect(model, batch)[0]
    assert_close(first.boxes, second.boxes, rtol=0, atol=0)


def test_more_detections_than_the_settings_allow(model):
    batch = batch_of((64, 96))
    usual = detect(model, batch, min_score=0.0)[0]
    assert len(usual) == 20
    many = detect(model, batch, min_score=0.0, max_detections=150)
    check_detections(model, batch, many, most=150)
    assert len(many[0]) > 60  # more than the 40 proposals of the settings could give of one class
    assert many[0].scores[0] >= usual.scores[0] - 1e-6  # more proposals, none lost


def test_the_cap_of_the_settings_is_no_higher_than_what_the_proposals_allow():
    """A cap of 150 means 150, though only 40 proposals are kept by default."""
    torch.manual_seed(0)
    box = replace(BOX, max_detections=150, min_score=0.0)
    capped = FasterRCNN(1, FasterRCNNSettings(BACKBONE, FPN, RPN, replace(box, nms_iou=1.0)))
    soften(capped)
    assert len(detect(capped, batch_of((64, 96)))[0]) > 40


def test_fewer_detections(model):
    batch = batch_of((64, 96))
    usual, few = detect(model, batch)[0], detect(model, batch, max_detections=3)[0]
    assert len(few) == 3
    assert_close(few.boxes, usual.boxes[:3])


def test_minimum_score(model):
    batch = batch_of((64, 96))
    scores = detect(model, batch, max_detections=200)[0].scores
    middle = float(scores[len(scores) // 2])
    kept = detect(model, batch, min_score=middle, max_detections=200)[0].scores
    assert_close(kept, scores[scores > middle])
    assert len(detect(model, batch, min_score=1.0)[0]) == 0


SIZE = (64, 96)
TRUTHS = {
    "objects": [truth_on(SIZE, (5, 5, 40, 30), (50, 20, 90, 60)), truth_on(SIZE, (30, 10, 50, 50))],
    "one empty": [truth_on(SIZE), truth_on(SIZE, (30, 10, 50, 50))],
    "all empty": [truth_on(SIZE), truth_on(SIZE)],
    "empty without masks": [truth_on(SIZE, masks=False), truth_on(SIZE, masks=False)],
    "only crowds": [
        truth_on(SIZE, (0, 0, 96, 64), crowd=[True]),
        truth_on(SIZE, (9, 9, 40, 40), crowd=[True]),
    ],
    "a crowd and an object": [truth_on(SIZE, (0, 0, 48, 64), (60, 10, 90, 50), crowd=[True, False])] * 2,
    "one pixel": [truth_on(SIZE, (10, 10, 11, 11)), truth_on(SIZE, (95, 63, 96, 64))],
}


@pytest.mark.parametrize("truths", TRUTHS.values(), ids=TRUTHS)
def test_losses_are_finite_and_reach_every_parameter(model, truths):
    """Every trainable parameter, always: distributed training waits for each of them."""
    model.zero_grad(set_to_none=True)
    losses = losses_of(model, batch_of(SIZE, SIZE, seeds=(1, 2)), truths)
    keys = ["rpn_objectness", "rpn_boxes", "classes", "boxes"]
    if model.settings.box.cascade is not None:
        keys = [*keys[:2], *(f"{name}_{step}" for step in (1, 2, 3) for name in keys[2:])]
    more = {MaskRCNN: ["masks"], KeypointRCNN: ["keypoints", "masks"], PanopticFPN: ["masks", "semantic"]}
    assert list(losses) == [*keys, *more.get(type(model), [])]
    for loss in losses.values():
        assert loss.shape == ()
        assert loss.isfinite()
        assert loss >= 0
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_seeds_decide_the_losses(model):
    def total(seeds, order=(0, 1)):
        images, truths = pictures(SIZE, SIZE), TRUTHS["objects"]
        batch = Transform()([images[i] for i in order])
        with torch.no_grad():
            return losses_of(
                model, replace(batch, seeds=tuple(seeds[i] for i in order)), [truths[i] for i in order]
            )

    torch.manual_seed(5)
    first = total((1, 2))
    torch.manual_seed(6)
    again = total((1, 2))
    assert_close(again, first, rtol=0, atol=0)
    other = total((3, 4))
    assert any(other[key] != first[key] for key in first)
    assert_close(
        total((1, 2), order=(1, 0)), first, rtol=1e-4, atol=1e-5
    )  # the place in the batch does not matter


def test_losses_in_evaluation_have_no_gradient_but_the_same_form(model):
    model.eval()
    with torch.no_grad():
        losses = model(batch_of(SIZE, SIZE, seeds=(1, 2)), TRUTHS["objects"]).losses
    assert all(loss.isfinite() for loss in losses.values())


def mirror(model: nn.Module) -> None:
    """Make a network with one map, middle anchors and 2 x 2 pools commute with a horizontal flip."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.flip(-1)) / 2)
        # A mirrored region is a mirrored map: the layer after pooling must not care, and nobody moves in x.
        first = model.box.layers[1]
        grid = first.weight.view(first.out_features, -1, 3, 3)
        first.weight.copy_(((grid + grid.flip(-1)) / 2).flatten(1))
        for layer in (model.rpn.deltas, model.box.deltas):
            layer.weight.view(-1, 4, *layer.weight.shape[1:])[:, 0] = 0
            layer.bias.view(-1, 4)[:, 0] = 0


def test_flipping_the_image_flips_the_detections():
    """With symmetric kernels; RoIAlign, since the rounding of RoI pooling is not symmetric."""
    torch.manual_seed(0)
    settings = small_vgg16()
    pool = PoolSettings(size=3)
    # No limits: ties between mirrored anchors would be cut differently.
    rpn = replace(settings.rpn, pre_nms=(10000, 10000), post_nms=(10000, 10000), nms_iou=1.0)
    box = replace(settings.box, pool=pool, max_detections=10000, nms_iou=1.0, min_score=0.0)
    model = FasterRCNN(NUM_CLASSES, replace(settings, rpn=rpn, box=box))
    soften(model)
    mirror(model)
    image = pictures((64, 96))[0]
    plain, flipped = (detect(model, Transform()([i]))[0] for i in (image, image.flip(-1)))
    assert len(plain) == len(flipped) > 100
    back = flipped.boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]) + torch.tensor([96.0, 0, 96, 0])
    own = torch.cat([plain.boxes, plain.scores[:, None] * 100, plain.labels[:, None] * 100], 1)
    other = torch.cat([back, flipped.scores[:, None] * 100, flipped.labels[:, None] * 100], 1)
    distance = torch.cdist(own, other, p=torch.inf)
    assert distance.min(1).values.max() < 0.01
    assert distance.min(0).values.max() < 0.01
    assert (plain.boxes - flipped.boxes).abs().max() > 1  # the image is not its own mirror image
