"""Panoptic FPN learns four images by heart, things and stuff; its losses are weighed as the settings say."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from found import in_pixels
from rcnn.data.dataset import Sample
from rcnn.data.shapes import Shapes, draw_shapes
from rcnn.metrics.panoptic import PanopticQuality, panoptic_quality
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import MergeSettings, merge, stuff_names, true_segments
from rcnn.transform import Transform

NAMES = ("disk", "square", "star")
GROUNDS = ("stripes", "checks")
SETTINGS = PanopticFPNSettings(
    BackboneSettings("efficientnet_lite0", (1, 2, 3, 4), frozen_stages=0),
    FPNSettings(64),
    RPNSettings(sizes=((16,), (32,), (64,), (96,), (128,)), post_nms=(200, 100)),
    BoxHeadSettings(channels=128, sampling=SamplingSettings(count=64), pool=PoolSettings()),
    MaskHeadSettings(convs=2, channels=64),
    SemanticHeadSettings(channels=64),
    merge=MergeSettings(min_stuff_area=64),
)


def pictures() -> Shapes:
    return draw_shapes(
        4, truth="both", size=(96, 96), seed=1, class_names=NAMES, grounds=GROUNDS, objects=(2, 4),
        diameter=(24, 48), max_covered=0.1,
    )  # fmt: skip


def pixels(sample: Sample) -> Tensor:
    return torch.from_numpy(sample.image.transpose(2, 0, 1).copy())


def learnt(settings: PanopticFPNSettings, shapes: Shapes, steps: int) -> PanopticFPN:
    torch.manual_seed(0)
    samples = [shapes[n] for n in range(len(shapes))]
    batch, truths = Transform()([pixels(s) for s in samples]), [s.truth for s in samples]
    model = PanopticFPN(len(NAMES), settings, num_stuff=len(GROUNDS))
    load_backbone_weights(model.backbone, settings.backbone)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        sum(model(batch, truths).losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0, error_if_nonfinite=True)
        optimiser.step()
        schedule.step()
    return model.eval()


def quality(model: PanopticFPN, shapes: Shapes) -> PanopticQuality:
    names = model.pixel_names(NAMES, (*NAMES, *GROUNDS))
    found, truths = [], []
    for n in range(len(shapes)):
        batch, size = Transform()([pixels(shapes[n])]), shapes[n].truth.size
        with torch.no_grad():
            detections = model(batch).detections
        (named,) = in_pixels(detections, batch, [size], class_names=NAMES, semantic_names=names)
        found.append(merge(named, settings=model.settings.merge))
        truths.append(true_segments(shapes[n].truth))
    return panoptic_quality(truths, found)


@pytest.mark.slow
@pytest.mark.parametrize(("things", "steps"), [("other", 200), ("each", 200)])
def test_four_images_by_heart(things: str, steps: int) -> None:
    settings = replace(SETTINGS, semantic=replace(SETTINGS.semantic, things=things))
    measured = quality(learnt(settings, pictures(), steps), pictures())
    assert measured.all.pq >= 0.9, measured
    assert min(measured.things.pq, measured.stuff.pq) >= 0.85, measured


def test_losses_are_weighed() -> None:
    shapes = pictures()
    sample = shapes[0]
    batch = replace(Transform()([pixels(sample)]), seeds=(3,))
    torch.manual_seed(0)
    model = PanopticFPN(len(NAMES), SETTINGS, num_stuff=len(GROUNDS)).eval()
    with torch.no_grad():
        once = model(batch, [sample.truth]).losses
        model.settings = replace(SETTINGS, instance_weight=0.5, semantic_weight=1.0)
        again = model(batch, [sample.truth]).losses
    factors = {"classes": 0.5, "boxes": 0.5, "masks": 0.5, "semantic": 2.0}
    assert set(factors) < set(once)
    for name, loss in once.items():
        assert_close(again[name], loss * factors.get(name, 1.0))


def test_the_papers_settings() -> None:
    paper = PanopticFPNSettings()
    assert (paper.instance_weight, paper.semantic_weight) == (1.0, 0.5)
    assert paper.semantic == SemanticHeadSettings(channels=128, groups=32, things="other")
    assert paper.backbone.name == "resnet50"


def test_truth_without_a_semantic_map_is_refused() -> None:
    model = PanopticFPN(len(NAMES), SETTINGS, num_stuff=len(GROUNDS))
    sample = pictures()[0]
    with pytest.raises(ValueError, match="semantic map"):
        model(Transform()([pixels(sample)]), [replace(sample.truth, semantic=None)])


def test_a_backbone_without_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="choose another backbone"):
        PanopticFPN(1, PanopticFPNSettings(backbone=BackboneSettings("alexnet", (0, 1, 2))))


def test_pixels_are_named() -> None:
    model = PanopticFPN(len(NAMES), SETTINGS, num_stuff=2)
    names = model.pixel_names(NAMES, (*NAMES, *GROUNDS))
    assert len(names) == model.semantic.logits.out_channels == 3
    assert stuff_names(NAMES, names) == GROUNDS
