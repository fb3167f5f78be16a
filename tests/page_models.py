"""Small networks with random heads, saved as models: they find something of every kind in any picture."""

from pathlib import Path

import torch

from rcnn.inference.detector import Detector
from rcnn.models.fcn import FCN, FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNN, KeypointRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPN, PanopticFPNSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import PoolSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.structures import MergeSettings, Skeleton
from rcnn.transform import Transform
from tiny import MASK, NAMES, SHARED, tiny_network, tiny_recipe

GROUNDS = ("stripes", "checks")
POINTS = Skeleton(("nose", "ear", "tail"), ((0, 1), (1, 2)), (0, 1, 2), (0.05,) * 3)
MIN_SCORE = 0.1


def box_model(path: Path) -> Path:
    """Finds disks and squares; trains in hundredths of a second per step."""
    network = tiny_network(tiny_recipe("faster_rcnn"))
    return Detector(network.eval(), Transform(), NAMES, min_score=MIN_SCORE).save(path)


def panoptic_model(path: Path) -> Path:
    """Finds disks, squares and two kinds of ground."""
    settings = PanopticFPNSettings(
        **SHARED, mask=MASK, semantic=SemanticHeadSettings(8, 2), merge=MergeSettings(MIN_SCORE, 0.5, 300)
    )
    torch.manual_seed(3)
    network = PanopticFPN(len(NAMES), settings, num_stuff=len(GROUNDS))
    load_backbone_weights(network.backbone, settings.backbone)
    pixels = network.pixel_names(NAMES, GROUNDS)
    detector = Detector(network.eval(), Transform(), NAMES, min_score=MIN_SCORE, semantic_names=pixels)
    return detector.save(path)


def keypoint_model(path: Path) -> Path:
    """Finds mice with three keypoints."""
    head = KeypointHeadSettings(count=len(POINTS.names), convs=1, channels=8, pool=PoolSettings(size=4))
    settings = KeypointRCNNSettings(**SHARED, keypoint=head)
    torch.manual_seed(0)
    network = KeypointRCNN(1, settings)
    load_backbone_weights(network.backbone, settings.backbone)
    return Detector(network.eval(), Transform(), ("mouse",), min_score=MIN_SCORE, skeleton=POINTS).save(path)


def semantic_model(path: Path, names: tuple[str, ...]) -> Path:
    """Finds pixel classes alone."""
    settings = FCNSettings(
        BackboneSettings("efficientnet_lite0", (2, 3, 4), frozen_stages=0), pool=False, channels=16, kernel=1,
        alignment="centred",
    )  # fmt: skip
    torch.manual_seed(0)
    network = FCN(len(names), settings)
    load_backbone_weights(network.backbone, settings.backbone)
    for layer in network.modules():  # the paper's zeros would find one class everywhere
        if isinstance(layer, torch.nn.Conv2d) and float(layer.weight.detach().abs().max()) == 0:
            torch.nn.init.normal_(layer.weight, std=0.1)
    return Detector(network.eval(), Transform(), (), semantic_names=names).save(path)
