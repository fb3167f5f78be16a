"""Proposals: the input regions of the second stage, from the RPN or external.

Legend: N proposals of one image, R regions of a batch, G true boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rcnn.config.ranges import check_ranges, ranged
from rcnn.ops import boxes as box_ops
from rcnn.ops.matching import IGNORED, NEGATIVE, match, sample
from rcnn.parts.batch import Regions, Targets


def external_proposals(targets: Sequence[Targets]) -> list[Tensor]:
    """The proposals ``[P, 4]`` that come with the truth of each image.

    Raises:
        ValueError: an image without proposals.
    """
    boxes = []
    for target in targets:
        if target.proposals is None:
            raise ValueError(
                f"{target.path}: no proposals, which this model needs: see rcnn.data.external_proposals"
            )
        boxes.append(target.proposals)
    return boxes


@dataclass(frozen=True)
class SampledRegions:
    """Regions chosen for training, with what they should become.

    Attributes:
        regions: the R regions, image by image.
        labels: int64 ``[R]``; the background is ``num_classes``.
        gt_indices: int64 ``[R]``, the true object of each region, an index into its image's instances;
            positives only mean anything.
        is_positive: bool ``[R]``.
        gt_boxes: float32 ``[R, 4]``; the true box of each region, the region itself where it is background.
    """

    regions: Regions
    labels: Tensor
    gt_indices: Tensor
    is_positive: Tensor
    gt_boxes: Tensor

    def positives(self) -> "SampledRegions":
        """Only the positive regions."""
        keep = self.is_positive
        regions = Regions(self.regions.boxes[keep], self.regions.image_indices[keep])
        return SampledRegions(
            regions, self.labels[keep], self.gt_indices[keep], self.is_positive[keep], self.gt_boxes[keep]
        )

    def limit_positives(self, max_per_image: int | None) -> "SampledRegions":
        """The positive regions, at most this number per image; in random order, so the draw is fair."""
        positives = self.positives()
        if max_per_image is None:
            return positives
        images = positives.regions.image_indices
        rank = torch.arange(len(images), device=images.device) - torch.searchsorted(images, images)
        return replace(positives, is_positive=rank < max_per_image).positives()


@dataclass(frozen=True)
class SamplingSettings:
    """Which proposals the heads are trained on (Fast R-CNN §2.3).

    Attributes:
        count: R per image; FPN and Mask R-CNN 512, Fast R-CNN 64.
        positive_fraction: at most this fraction is positive.
        positive_iou: at or above it a proposal is positive.
        background_iou: below the second and at or above the first it is background (Fast R-CNN 0.1, later 0).
        append_gt: true boxes join the proposals (py-faster-rcnn and all later codes).
        max_crowd_overlap: a background proposal with more of its area inside a crowd region is left out
            (Detectron: 0.7).
    """

    count: int = ranged(512, 1, 1e7)
    positive_fraction: float = ranged(0.25, 0, 1)
    positive_iou: float = ranged(0.5, 0, 1)
    background_iou: tuple[float, float] = ranged((0.0, 0.5), 0, 1)
    append_gt: bool = True
    max_crowd_overlap: float = ranged(0.7, 0, 1)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: nothing would be sampled.
        """
        if self.count < 1:
            raise ValueError(f"sampling.count {self.count}: expected at least 1 region per image")
        check_ranges(self)


def sample_proposals(
    proposals: Sequence[Tensor],
    truths: Sequence[Targets],
    num_classes: int,
    settings: SamplingSettings,
    generators: Sequence[torch.Generator | None],
) -> SampledRegions:
    """Draw training regions from each image's proposals ``[N, 4]``, with its generator (Fast R-CNN §2.3)."""
    chosen = [
        _sample_image(p, t, num_classes, settings, generator)
        for p, t, generator in zip(proposals, truths, generators, strict=True)
    ]
    boxes, labels, truth, positive, gt_boxes = zip(*chosen, strict=True)
    return SampledRegions(
        Regions.from_lists(boxes),
        torch.cat(labels),
        torch.cat(truth),
        torch.cat(positive),
        torch.cat(gt_boxes),
    )


def _sample_image(
    proposals: Tensor,
    truth: Targets,
    num_classes: int,
    settings: SamplingSettings,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    real, crowds = split_crowds(truth)
    gt_boxes = truth.boxes[real]
    if settings.append_gt:
        proposals = torch.cat([proposals, gt_boxes])
    overlap = box_ops.iou(gt_boxes, proposals)
    index, status = match(overlap, settings.positive_iou, settings.background_iou[1], keep_best=False)
    if settings.background_iou[0] > 0 and len(gt_boxes):
        status[overlap.max(0).values < settings.background_iou[0]] = IGNORED
    ignore_in_crowds(status, proposals, crowds, settings.max_crowd_overlap)
    positive, negative = sample(status, settings.count, settings.positive_fraction, generator)
    keep = torch.cat([positive, negative])
    is_positive = torch.arange(len(keep), device=keep.device) < len(positive)
    boxes = proposals[keep]
    if len(real) == 0:
        background = torch.full_like(keep, num_classes)
        return boxes, background, torch.zeros_like(keep), is_positive, boxes
    matched = real[index[keep]]
    labels = torch.where(is_positive, truth.labels[matched], num_classes)
    return boxes, labels, matched, is_positive, torch.where(is_positive[:, None], truth.boxes[matched], boxes)


def split_crowds(truth: Targets) -> tuple[Tensor, Tensor]:
    """The indices of the real objects, and the boxes ``[C, 4]`` of the crowd regions."""
    if truth.crowd is None:
        return torch.arange(len(truth), device=truth.boxes.device), truth.boxes[:0]
    return (~truth.crowd).nonzero().squeeze(1), truth.boxes[truth.crowd]


def ignore_in_crowds(labels: Tensor, candidates: Tensor, crowds: Tensor, max_overlap: float) -> None:
    """Turn negatives that are mostly inside a crowd region into ignored ones, in place."""
    if len(crowds):
        inside = box_ops.covered_fraction(candidates, crowds).max(1).values > max_overlap
        labels[inside & (labels == NEGATIVE)] = IGNORED
