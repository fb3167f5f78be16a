"""Fast R-CNN (Girshick 2015, arXiv 1504.08083): the backbone sees the image once, each proposal is pooled.

Differs from the paper: box targets are divided by the fixed deviations 0.1, 0.1, 0.2, 0.2 (py-faster-rcnn,
``box.weights``), not by those measured on the training set, class by class; biases have the rate of the
weights (published: twice).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from rcnn.config.ranges import check_ranges, ranged
from rcnn.device import MEMORY_FORMAT
from rcnn.models.light import Light
from rcnn.models.model import Model
from rcnn.ops.losses import Losses
from rcnn.parts.backbone import BackboneSettings, build_backbone
from rcnn.parts.batch import Detections, ImageBatch, Regions, Targets
from rcnn.parts.box_head import BoxHead, BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings, build_neck
from rcnn.parts.regions import SamplingSettings, external_proposals, sample_proposals
from rcnn.parts.selective_search import SelectiveSearchSettings


def _published_head() -> BoxHeadSettings:
    return BoxHeadSettings(
        channels=4096,
        dropout=0.5,
        pool=PoolSettings(pooling="pool"),
        sampling=SamplingSettings(count=64, background_iou=(0.1, 0.5), append_gt=True),
        nms_iou=0.3,
    )


@dataclass(frozen=True)
class FastRCNNSettings:
    """Fast R-CNN with VGG-16 (the paper's model L).

    Attributes:
        backbone: the convolutional network.
        search: how proposals are searched for where none are given.
        fpn: a pyramid on top of the backbone (later than the paper); None: the head reads the backbone's
            last map.
        box: the head. A minibatch has two images with 64 regions each (§2.3, hierarchical sampling).
        ranks: ranks of the head's fully connected layers after truncated SVD, see
            :meth:`FastRCNN.compressed`; None: not compressed.
    """

    backbone: BackboneSettings = field(
        default_factory=lambda: BackboneSettings("vgg16", (4,), frozen_stages=2)
    )
    search: SelectiveSearchSettings = field(default_factory=SelectiveSearchSettings)
    fpn: FPNSettings | None = None
    box: BoxHeadSettings = field(default_factory=_published_head)
    ranks: tuple[int, int] | None = ranged(None, 1, 65536)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_ranges(self)


class FastRCNN(Model):
    """A class and a box for each of the proposals given."""

    Settings = FastRCNNSettings
    needs_proposals = True
    exportable = False

    def __init__(self, num_classes: int, settings: FastRCNNSettings | None = None) -> None:
        """Build with random weights; see ``rcnn.parts.pretrained`` for others."""
        super().__init__()
        self.settings = s = settings or FastRCNNSettings()
        self.backbone = build_backbone(s.backbone)
        self.neck = build_neck(self.backbone.channels, self.backbone.strides, s.fpn)
        self.box = BoxHead(self.neck.channels, self.neck.roi_strides, num_classes, s.box, backbone=s.backbone)
        if s.ranks is not None:
            for (name, layer), rank in zip(_linear(self.box), s.ranks, strict=True):
                setattr(self.box.layers, name, _empty_pair(layer, rank))
        self.to(memory_format=MEMORY_FORMAT)

    @classmethod
    def light_settings(cls, light: Light) -> FastRCNNSettings:
        """One map of stride 16, as in the paper, and its RoI pooling."""
        box = replace(light.box, pool=PoolSettings(pooling="pool"))
        return FastRCNNSettings(light.backbone((light.levels[2],)), light.search, box=box)

    @classmethod
    def check_settings(cls, settings: FastRCNNSettings) -> None:
        """Refuse compressed layers."""
        if settings.ranks is not None:
            raise ValueError(
                "model.ranks: layers are trained uncompressed; `rcnn predict --svd` compresses them later"
            )

    def losses(self, batch: ImageBatch, targets: Sequence[Targets]) -> Losses:
        """Those of the sampled proposals of the targets.

        Raises:
            ValueError: an image without proposals.
        """
        proposals, seeds = external_proposals(targets), batch.sampling_seeds()
        features = self.neck(self.backbone(batch.tensors))
        sampled = sample_proposals(
            proposals, targets, self.box.num_classes, self.settings.box.sampling, seeds
        )
        return self.box.losses(features, sampled, targets, seeds)

    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        proposals: Regions | None = None,
        *,
        min_score: float | Tensor,
        max_detections: int | Tensor,
    ) -> Detections:
        """Boxes and their classes among the proposals."""
        assert proposals is not None
        features = self.neck(self.backbone(images))
        return self.box.detect(features, proposals, sizes, min_score=min_score, max_detections=max_detections)

    def compressed(self, ranks: tuple[int, int] = (1024, 256)) -> Self:
        """The network with its two fully connected layers by truncated singular value decomposition (§3.1).

        A layer ``W ≈ U S V`` of u outputs and v inputs becomes two: ``S V`` without a bias and ``U`` with the
        layer's own. That saves work where rank * (u + v) < u * v; for fc6 and fc7 of VGG-16 the paper keeps
        1024 and 256, and loses 0.3 mAP.

        Args:
            ranks: how many singular values of each layer are kept.

        Returns:
            A network for prediction, which saves and loads as any other; this one is left as it is.

        Raises:
            ValueError: a head without two fully connected layers, one that is compressed already, or ranks
                beyond those of the layers.
        """
        layers = _linear(self.box)
        if self.settings.ranks is not None or len(layers) != 2:
            raise ValueError("compressing needs a head with two uncompressed fully connected layers")
        for (name, layer), rank in zip(layers, ranks, strict=True):
            if not 1 <= rank <= min(layer.weight.shape):
                raise ValueError(f"ranks {ranks}: layer {name} has ranks from 1 to {min(layer.weight.shape)}")
        smaller = type(self)(self.box.num_classes, replace(self.settings, ranks=ranks))
        state = dict(self.state_dict())
        for (name, layer), rank in zip(layers, ranks, strict=True):
            u, s, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            key = f"box.layers.{name}"
            state[f"{key}.0.weight"] = s[:rank, None] * v[:rank]
            state[f"{key}.1.weight"] = u[:, :rank]
            state[f"{key}.1.bias"] = state.pop(f"{key}.bias")
            del state[f"{key}.weight"]
        smaller.load_state_dict(state)
        return smaller.to(layers[0][1].weight.device).train(self.training)


def _linear(head: BoxHead) -> list[tuple[str, nn.Linear]]:
    """The fully connected layers of a head, with their names in ``layers``."""
    return [(name, layer) for name, layer in head.layers.named_children() if isinstance(layer, nn.Linear)]


def _empty_pair(layer: nn.Linear, rank: int) -> nn.Sequential:
    first = nn.Linear(layer.in_features, rank, bias=False)
    return nn.Sequential(first, nn.Linear(rank, layer.out_features))
