"""The papers' ablations: each switch does what it says, whatever it is worth.

docs/recipes.md lists them with the figures that their authors found.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torch.testing import assert_close

from rcnn.data.geometry import TrainingSample
from rcnn.models.faster_rcnn import FasterRCNN
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.models.rcnn import RCNN, STEEPNESS, RCNNSettings
from rcnn.ops.losses import global_means
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Detections, ImageBatch, TargetMasks, Targets
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.mask_head import MaskHead, MaskHeadSettings
from rcnn.parts.regions import Regions, SampledRegions
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.structures import Masks
from rcnn.training.recipe import default_recipe, with_settings
from tiny import tiny_recipe, tiny_shapes

RECIPES = Path(__file__).parents[1] / "docs" / "recipes.md"
HEAD = MaskHeadSettings(convs=2, channels=6, pool=PoolSettings(size=4))
BOX = torch.tensor([[4.0, 4, 20, 20]])


def switched(model: str, *settings: str):
    """The tiny model of the tests with some settings, given as on the command line."""
    torch.manual_seed(0)
    recipe = with_settings(tiny_recipe(model), settings)
    return (MaskRCNN if model == "mask_rcnn" else FasterRCNN)(2, recipe.settings)


def mask_head(num_classes: int = 3, **changes) -> MaskHead:
    torch.manual_seed(0)
    return MaskHead(4, (4,), num_classes, replace(HEAD, **changes)).eval()


# RoIPool against RoIAlign (Mask R-CNN table 2c, 2d)


@pytest.mark.parametrize("part", ["box", "mask"])
def test_pooling_rounds_and_align_does_not(part: str) -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    at, moved = torch.tensor([[16.0, 16, 32, 32]]), torch.tensor([[16.6, 16, 32.6, 32]])
    read = {}
    for pooling in ("pool", "align"):
        network = switched("mask_rcnn", f"model.{part}.pool.pooling={pooling}", f"model.{part}.pool.size=2")
        pool = getattr(network, part).pool
        pool.strides = (4,)
        read[pooling] = [
            pool([ramp], Regions(boxes, torch.zeros(1, dtype=torch.int64)))[0, 0] for boxes in (at, moved)
        ]
    # 0.6 pixels are 0.15 cells: nothing to a rounding, 0.15 on a ramp that rises by 1 a cell.
    assert_close(read["pool"][1], read["pool"][0], rtol=0, atol=0)
    assert_close(read["align"][1] - read["align"][0], torch.full((2, 2), 0.15))
    rois = torch.cat([torch.zeros((1, 1)), moved], 1)
    assert_close(read["pool"][1], torchvision.ops.roi_pool(ramp, rois, 2, 0.25)[0, 0])
    assert_close(read["align"][1], torchvision.ops.roi_align(ramp, rois, 2, 0.25, 2, aligned=True)[0, 0])


# Sigmoid against softmax masks (table 2b)


def one_positive(label: int) -> tuple[SampledRegions, Targets]:
    """A region whose object of class ``label`` fills its left half."""
    bitmap = np.zeros((1, 24, 24), np.bool_)
    bitmap[0, 4:20, 4:12] = True
    masks = TargetMasks.from_masks(Masks.from_dense(bitmap))
    truth = Targets((24, 24), BOX, torch.tensor([label]), masks=masks)
    zero, yes = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    return SampledRegions(Regions(BOX, zero), torch.tensor([label]), zero, yes, BOX), truth


def decoded(head: MaskHead, logits: Tensor, label: int) -> Tensor:
    found = Detections(BOX, torch.tensor([label]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    maps = head.decode(logits, found).mask_maps
    assert maps is not None
    return maps


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_classes_compete_under_softmax_only(activation: str) -> None:
    head = mask_head(activation=activation)
    logits = torch.randn((1, head.maps, 8, 8), generator=torch.Generator().manual_seed(0))
    assert head.maps == (3 if activation == "sigmoid" else 4), "softmax has a map of the background"
    louder = logits.clone()
    louder[:, 1] += 2.0
    before, after = decoded(head, logits, 0), decoded(head, louder, 0)
    if activation == "sigmoid":
        assert_close(after, before)
        assert_close(before[0], logits[0, 0].sigmoid())
    else:
        assert bool((after < before).all())
        assert_close(before[0], logits[0].softmax(0)[0])


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_what_the_loss_asks_of_the_other_classes(activation: str) -> None:
    head = mask_head(activation=activation)
    logits = torch.zeros((1, head.maps, 8, 8), requires_grad=True)
    sampled, truth = one_positive(label=1)
    loss = global_means(head.loss(logits, sampled, [truth]))["masks"]
    # All alike: log 2 against log 4, whatever the goal.
    assert_close(loss, torch.tensor(2.0 if activation == "sigmoid" else 4.0).log())
    loss.backward()
    assert logits.grad is not None
    pushed = logits.grad[0] * 64  # the loss is a mean over 8 x 8 pixels
    left, right = torch.ones((8, 4)), torch.ones((8, 4))
    if activation == "sigmoid":
        assert_close(pushed[1], torch.cat([-0.5 * left, 0.5 * right], 1))
        assert_close(pushed[[0, 2]], torch.zeros((2, 8, 8)))
    else:
        assert_close(pushed[1], torch.cat([-0.75 * left, 0.25 * right], 1))
        assert_close(pushed[3], torch.cat([0.25 * left, -0.75 * right], 1))
        assert_close(pushed[[0, 2]], torch.full((2, 8, 8), 0.25))


# Class-agnostic masks (§4.1)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("agnostic", [True, False])
def test_one_map_for_all_classes(agnostic: bool, activation: str) -> None:
    head = mask_head(class_agnostic=agnostic, activation=activation)
    assert head.maps == (1 if agnostic else 3) + (activation == "softmax")
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((1, head.maps, 8, 8), generator=draw)
    same = torch.equal(decoded(head, logits, 0), decoded(head, logits, 2))
    assert same is agnostic
    losses = [global_means(head.loss(logits, *_as_lists(one_positive(label))))["masks"] for label in (0, 2)]
    assert bool(losses[0] == losses[1]) is agnostic


def _as_lists(given: tuple[SampledRegions, Targets]) -> tuple[SampledRegions, list[Targets]]:
    return given[0], [given[1]]


# MLP against FCN mask head (table 2e)


@pytest.mark.parametrize("layers", ["fcn", "mlp"])
def test_a_pixel_of_an_mlp_depends_on_the_whole_region(layers: str) -> None:
    settings = {"layers": layers, "convs": 1, "channels": 32, "pool": PoolSettings(size=8)}
    head = mask_head(**settings)
    torch.nn.init.normal_(head.logits.weight, generator=torch.Generator().manual_seed(0))
    pooled = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1), requires_grad=True)
    logits = head.head(pooled)
    assert logits.shape == (1, 3, 16, 16)
    logits[0, 0, 7, 7].backward()
    assert pooled.grad is not None
    reached = (pooled.grad[0] != 0).any(0)
    # Pixel 7 of the doubled map lies in cell 3; a 3 x 3 convolution reads its neighbours.
    expected = torch.zeros((8, 8), dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert_close(reached, expected if layers == "fcn" else torch.ones_like(expected))
    shifted = head.head(pooled.detach().roll(1, 3))
    follows = torch.allclose(shifted[..., 4:14], logits.detach()[..., 2:12], atol=1e-5)
    assert follows is (layers == "fcn")


def test_the_papers_mlp() -> None:
    head = MaskHead(
        256, (4,), 80, MaskHeadSettings(layers="mlp", convs=2, channels=1024, pool=PoolSettings(size=14))
    )
    linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [1024, 1024, 80 * 28**2]
    assert head.head(torch.zeros((0, 256, 14, 14))).shape == (0, 80, 28, 28)
    with pytest.raises(ValueError, match="at least one hidden layer"):
        mask_head(layers="mlp", convs=0)


@pytest.mark.parametrize(
    "settings", [["mlp", "sigmoid", "false"], ["fcn", "softmax", "false"], ["mlp", "softmax", "true"]]
)
def test_a_mask_rcnn_with_them_trains_and_predicts(settings: list[str]) -> None:
    names = ("layers", "activation", "class_agnostic")
    network = switched("mask_rcnn", *(f"model.mask.{n}={v}" for n, v in zip(names, settings, strict=True)))
    sample = TrainingSample.from_sample(tiny_shapes(1)[0])
    batch = ImageBatch(sample.image[None].float() / 255, ((64, 64),), (1,))
    output = network.train()(batch, [sample.targets])
    torch.stack(list(output.losses.values())).sum().backward()
    assert all(p.grad is not None for p in network.mask.parameters())
    found = network.eval()(batch, min_score=0.0).detections
    assert found is not None
    assert len(found)
    assert found.mask_maps is not None
    assert found.mask_maps.shape == (len(found), 8, 8)
    assert float(found.mask_maps.detach().min()) >= 0
    assert float(found.mask_maps.detach().max()) <= 1


# 1 or 3 scales, 1 or 3 ratios of anchors (Faster R-CNN, the table of anchors)


@pytest.mark.parametrize("sizes", [[128.0], [128.0, 256.0, 512.0]], ids=len)
@pytest.mark.parametrize("ratios", [[1.0], [0.5, 1.0, 2.0]], ids=len)
def test_scales_and_ratios_make_the_anchors(sizes: list[float], ratios: list[float]) -> None:
    changes = [f"model.rpn.sizes=[{sizes}]", f"model.rpn.ratios={ratios}"]
    rpn = RPN(4, (16,), with_settings(default_recipe("faster_rcnn"), changes).settings.rpn)
    anchors = rpn([torch.zeros(1, 4, 1, 2)]).anchors
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    pairs = torch.stack([(width * height).sqrt(), height / width], 1).tolist()
    found = sorted(pairs, key=lambda pair: [round(number, 2) for number in pair])  # rounding is the CPU's
    every = sorted((size, ratio) for size in sizes for ratio in ratios for _ in range(2))  # two cells
    assert_close(torch.tensor(found), torch.tensor(every), rtol=1e-4, atol=1e-4)
    count = len(sizes) * len(ratios)
    assert (rpn.objectness.out_channels, rpn.deltas.out_channels) == (count, 4 * count)


# With and without cross-boundary anchors (§3.3)


@pytest.mark.parametrize("crossing", [True, False])
def test_anchors_across_the_border_train_or_not(crossing: bool) -> None:
    settings = RPNSettings(
        sizes=((8, 24),),
        ratios=(1.0,),
        offset=0.5,
        cross_boundary=crossing,
        count=1000,
        positive_fraction=0.5,
    )
    rpn = RPN(4, (8,), settings)
    torch.manual_seed(0)
    output = rpn([torch.randn(1, 4, 4, 4)])
    objectness = output.objectness.detach().requires_grad_()
    truth = Targets((32, 32), torch.tensor([[0.0, 0, 24, 24]]), torch.tensor([0]))
    losses = rpn.loss(replace(output, objectness=objectness), [truth], torch.zeros(1, dtype=torch.int64))
    global_means(losses)["rpn_objectness"].backward()
    assert objectness.grad is not None
    trains = objectness.grad[0] != 0
    outside = (output.anchors < 0).any(1) | (output.anchors > 32).any(1)
    assert int(outside.sum()) == 12  # the larger anchors of all but the four cells in the middle
    assert bool(trains[~outside].any())
    assert bool(trains[outside].any()) is crossing


# SVM against softmax (R-CNN appendix B)


@pytest.mark.parametrize("classifier", ["svm", "softmax"])
def test_which_classifier_scores(classifier: str) -> None:
    torch.manual_seed(0)
    settings = RCNNSettings(
        BackboneSettings("efficientnet_lite0", (2,), frozen_stages=1), side=32, context=4, pool=2, layers=0
    )
    recipe = with_settings(
        replace(default_recipe("rcnn"), settings=settings), [f"model.classifier={classifier}"]
    )
    network = RCNN(2, recipe.settings).eval()
    network.fitted.fill_(1)
    features = torch.randn(5, network.svms.in_features)
    torch.nn.init.normal_(network.svms.weight, std=0.05)
    margins, softmax = network.svms(features), network.logits(features).softmax(1)[:, :2]
    by_svm = (STEEPNESS * margins).sigmoid()
    assert not torch.allclose(by_svm, softmax, atol=0.1)
    assert_close(network.scores(features), by_svm if classifier == "svm" else softmax)


# Proposals unshared against shared (table 2)


@pytest.mark.parametrize("shared", [True, False])
def test_whose_maps_the_rpn_reads(shared: bool) -> None:
    network = switched("faster_rcnn", f"model.shared={str(shared).lower()}").eval()
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    seen = []
    network.rpn.register_forward_hook(lambda _, __, output: seen.append(output.objectness))
    network(ImageBatch(images, ((64, 64),)))
    with torch.no_grad():
        for parameter in network.backbone.parameters():
            parameter.mul_(1.1)
    network(ImageBatch(images, ((64, 64),)))
    assert torch.equal(seen[0], seen[1]) is not shared
    own = [key for key, _ in network.named_parameters() if key.startswith(("rpn_backbone.", "rpn_neck."))]
    assert bool(own) is not shared


# The table


def test_the_table_names_settings_that_exist() -> None:
    section = RECIPES.read_text(encoding="utf-8").split("## The papers' ablations")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 8
    for row in rows:
        named = re.findall(r"`([^`]+=[^`]+)`", row.split("|")[2])
        model = "rcnn" if "SVM" in row else "faster_rcnn" if "Faster" in row else "mask_rcnn"
        assert with_settings(default_recipe(model), named) != default_recipe(model), row
