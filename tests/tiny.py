"""Networks and pictures so small that a step of training takes some hundredths of a second."""

from typing import Any

import torch

from rcnn.data.augment import Augment
from rcnn.data.shapes import Shapes, draw_shapes
from rcnn.models import MODELS
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.training.recipe import Recipe
from rcnn.training.trainer import TrainSettings
from rcnn.transform import Transform

SIDE = 64
NAMES = ("disk", "square")
BOX = BoxHeadSettings(
    channels=16, pool=PoolSettings(size=3), sampling=SamplingSettings(count=16), max_detections=10
)
SHARED: dict[str, Any] = {
    "backbone": BackboneSettings("efficientnet_lite0", (1, 2), frozen_stages=1),
    "fpn": FPNSettings(channels=16, coarsest="none"),
    "rpn": RPNSettings(sizes=((16,), (32,)), pre_nms=(50, 50), post_nms=(30, 30), count=32),
    "box": BOX,
}
ONE_LEVEL: dict[str, Any] = {  # the graph is half as large, and exported in half the time
    **SHARED,
    "backbone": BackboneSettings("efficientnet_lite0", (0,)),
    "fpn": None,
    "rpn": RPNSettings(sizes=((16, 32),), pre_nms=(50, 50), post_nms=(30, 30), count=32),
}
MASK = MaskHeadSettings(convs=1, channels=8, pool=PoolSettings(size=4))


def tiny_recipe(model: str = "mask_rcnn", **train: Any) -> Recipe:
    """Two images a step in float32, no worker processes; ``train`` are fields of ``TrainSettings``."""
    settings = MaskRCNNSettings(**SHARED, mask=MASK) if model == "mask_rcnn" else FasterRCNNSettings(**SHARED)
    length = {} if "minutes" in train else {"epochs": 1.0}
    schedule = TrainSettings(**{"batch_size": 2, "workers": 0, "lr": 1e-3, "amp": "off", **length, **train})
    return Recipe(model, settings, Transform(), Augment(crop=SIDE), schedule)


def tiny_shapes(count: int, first: int = 0) -> Shapes:
    """Pictures of 64 x 64 pixels with one to three disks and squares."""
    return draw_shapes(
        count, first=first, size=(SIDE, SIDE), class_names=NAMES, objects=(1, 3), diameter=(16.0, 32.0)
    )


def tiny_network(recipe: Recipe) -> Any:
    """What the recipe describes, drawn with its seed, on an ImageNet backbone."""
    torch.manual_seed(recipe.train.seed)
    network = MODELS[recipe.model](len(NAMES), recipe.settings)
    load_backbone_weights(network.backbone, recipe.settings.backbone)
    return network
