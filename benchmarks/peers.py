"""The peer of the benchmarks: torchvision's detectors on the very trunk that rcnn uses."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from rcnn.parts.backbone import TrunkSettings, build_trunk
from rcnn.structures import Instances
from rcnn.weights import load_trunk, trunk_normalisation


class PyramidTrunk(nn.Module):
    """An rcnn trunk with torchvision's FPN on top, as torchvision's detectors want their backbone."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        settings = TrunkSettings(name, frozen_stages=1)
        self.trunk = build_trunk(settings)
        load_trunk(self.trunk, settings)
        self.fpn = FeaturePyramidNetwork(list(self.trunk.channels), channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Maps by name, finest first."""
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.trunk(images))))


def torchvision_detector(
    num_classes: int,
    *,
    masks: bool,
    sizes: Sequence[float],
    short_side: int,
    trunk: str = "efficientnet_lite0",
    channels: int = 128,
    detections: int = 100,
) -> nn.Module:
    """Torchvision's Mask or Faster R-CNN with its own default heads, losses and sampling.

    Args:
        num_classes: without the background.
        masks: Mask R-CNN.
        sizes: anchor sizes, one for each of the five levels.
        short_side: the size that its transform resizes to.
        trunk: a trunk of rcnn.
        channels: of the pyramid.
        detections: at most so many an image.
    """
    mean, std = trunk_normalisation(trunk)
    anchors = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * len(sizes))
    make: Any = MaskRCNN if masks else FasterRCNN
    return make(
        PyramidTrunk(trunk, channels), num_classes + 1, rpn_anchor_generator=anchors, min_size=short_side,
        max_size=2 * short_side, image_mean=list(mean), image_std=list(std),
        box_detections_per_img=detections,
    )  # fmt: skip


def torchvision_inputs(
    images: Sequence[Tensor], truths: Sequence[Instances]
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """uint8 images and truths as torchvision takes them: floats, and dicts whose labels begin at 1."""
    targets = []
    for truth in truths:
        real = truth if truth.crowd is None else truth[~truth.crowd]
        target = {"boxes": real.boxes, "labels": real.labels + 1}
        if real.masks is not None:
            target["masks"] = real.masks.dense().to(torch.uint8)
        targets.append(target)
    return [image.float() / 255 for image in images], targets
