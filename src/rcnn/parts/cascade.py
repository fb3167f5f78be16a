"""The second stage in several steps (Cascade R-CNN, Cai and Vasconcelos 2018, arXiv 1712.00726).

Each step has layers of its own and reads the boxes of the step before, with a higher overlap asked of its
positives: boxes get better from step to step, and so each is trained on boxes as good as it asks for.

Differs from the paper: its losses are weighted 1, 1/2, 1/4; here all count alike, and the gradient that
reaches the feature maps is the mean of the steps' (Detectron2). Scores are the mean of each step's scores of
its own boxes (Detectron2); in the paper all steps score the last boxes.

Legend: S steps, R regions, K classes without the background.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rcnn.device import moved
from rcnn.ops import boxes as box_ops
from rcnn.ops.losses import Losses
from rcnn.ops.matching import PROPOSALS
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.batch import Detections, Regions, Targets
from rcnn.parts.box_head import BoxHead, BoxHeadSettings
from rcnn.parts.class_rows import ClassKeys, Rows, rows_of_parts
from rcnn.parts.pretrained import PretrainedPart
from rcnn.parts.regions import SampledRegions, sample_proposals
from rcnn.structures.trace import watched


class CascadeHead(nn.Module):
    """S box heads, one after the other; a box is the same for all classes, as the next step reads it."""

    def __init__(
        self, in_channels: int, strides: Sequence[int], num_classes: int, settings: BoxHeadSettings
    ) -> None:
        """Build the heads.

        Raises:
            ValueError: the backbone's last stage as the layers of all of them.
        """
        super().__init__()
        if settings.cascade is None or settings.layers == "stage":
            raise ValueError('box.cascade needs box.layers "fc" or "conv", of which each step has its own')
        self.settings = settings
        self.num_classes = num_classes
        self.stage: nn.Module = nn.Identity()
        self.stage_channels = in_channels
        first = replace(settings, cascade=None, class_agnostic=True)
        steps = [first]
        for iou, weights in zip(settings.cascade.ious, settings.cascade.weights, strict=True):
            # All boxes of the step before are trained on, and the true ones are not added again.
            sampling = replace(
                settings.sampling,
                positive_fraction=1.0,
                positive_iou=iou,
                background_iou=(0.0, iou),
                append_gt=False,
            )
            steps.append(replace(first, weights=weights, sampling=sampling))
        self.steps = nn.ModuleList(BoxHead(in_channels, strides, num_classes, step) for step in steps)

    def pretrained_parts(self) -> list[PretrainedPart]:
        """The parts that there may be weights for: fully connected layers of every step, or of none."""
        return [part for step in self.steps if isinstance(step, BoxHead) for part in step.pretrained_parts()]

    def class_rows(self, keys: ClassKeys) -> Rows:
        """Those of every step."""
        return {f"steps.{name}": rows for name, rows in rows_of_parts(self.steps, keys).items()}

    def losses(
        self,
        features: Sequence[Tensor],
        sampled: SampledRegions,
        truths: Sequence[Targets],
        seeds: Tensor,
    ) -> Losses:
        """Both losses of every step, ``classes_1``, ``boxes_1`` and on.

        Args:
            features: maps ``[B, C, H, W]``.
            sampled: the regions of the first step.
            truths: of each image, from which those of the later steps get their labels.
            seeds: the sampling seed of each image.
        """
        losses: Losses = {}
        shared = [_scale_gradient(level, 1 / len(self.steps)) for level in features]
        sizes = moved(torch.tensor([truth.size for truth in truths]).float(), features[0].device)
        before: Regions | None = None
        for number, step in enumerate(self.steps, start=1):
            assert isinstance(step, BoxHead)
            if before is not None:
                large = box_ops.larger_than(before.boxes, step.settings.min_side).nonzero()[:, 0]
                left = Regions(before.boxes[large], before.image_indices[large], most=before.most)
                sampled = sample_proposals(
                    left, truths, self.num_classes, step.settings.sampling, seeds,
                    stream=PROPOSALS + number - 1,
                )  # fmt: skip
            logits, deltas = step(shared, sampled.regions)
            own = step.loss(logits, deltas, sampled)
            losses |= {f"{name}_{number}": loss for name, loss in own.items()}
            before = _moved(step, deltas, sampled.regions, sizes)
        return losses

    @torch.no_grad()
    def detect(
        self,
        features: Sequence[Tensor],
        regions: Regions,
        sizes: Tensor,
        *,
        min_score: float | Tensor | None = None,
        max_detections: int | Tensor | None = None,
    ) -> Detections:
        """Detections of each image, best first: the mean of the steps' scores, the boxes of the last."""
        scores = []
        if (trace := watched()) is not None:
            trace.note("regions", "Cascade R-CNN §4.1", regions=regions)
        for step in self.steps:
            assert isinstance(step, BoxHead)
            logits, deltas = step(features, regions)
            scores.append(logits.softmax(1))
            regions = _moved(step, deltas, regions, sizes)
        mean = torch.stack(scores).mean(0)[:, : self.num_classes]
        assert isinstance(step, BoxHead)
        return step.select_detections(
            mean, regions.boxes[:, None], regions.image_indices, sizes,
            min_score=min_score, max_detections=max_detections,
        )  # fmt: skip


def build_box_head(
    in_channels: int,
    strides: Sequence[int],
    num_classes: int,
    settings: BoxHeadSettings,
    *,
    backbone: BackboneSettings | None = None,
) -> BoxHead | CascadeHead:
    """The second stage that the settings describe: one step, or a cascade."""
    if settings.cascade is not None:
        return CascadeHead(in_channels, strides, num_classes, settings)
    return BoxHead(in_channels, strides, num_classes, settings, backbone=backbone)


def _scale_gradient(features: Tensor, scale: float) -> Tensor:
    """The same values, with their gradient scaled."""
    fixed = features.detach()
    return fixed + (features - fixed) * scale


@torch.no_grad()
def _moved(step: BoxHead, deltas: Tensor, regions: Regions, sizes: Tensor) -> Regions:
    """The regions where the deltas ``[R, 1, 4]`` take them, inside their images of ``sizes`` ``[B, 2]``."""
    boxes = box_ops.decode(deltas, regions.boxes, step.settings.weights)[:, 0]
    return replace(regions, boxes=box_ops.clip(boxes, sizes[regions.image_indices]))
