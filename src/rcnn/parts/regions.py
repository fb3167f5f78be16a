"""Proposals: the input regions of the second stage, from the RPN or external.

Legend: B images, N proposals of one image, P those of the image that has most, R regions of a batch, G true
boxes, A candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.config.ranges import check_ranges, ranged
from rcnn.ops import boxes as box_ops
from rcnn.ops.matching import IGNORED, NEGATIVE, PROPOSALS, WORD, match, random_keys, sample
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.truth_batch import TruthBatch

GT_CHUNK_SIZE = 64  # true boxes whose overlaps with all candidates are in memory at once
MAX_CANDIDATES = WORD  # the highest number of a candidate


def external_proposals(targets: Sequence[Targets]) -> Regions:
    """The proposals that come with the truth of each image.

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
    return Regions.from_lists(boxes)


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

    def positives(self, max_per_image: int | None = None) -> "SampledRegions":
        """The positive regions, at most this number per image; in random order, so the draw is fair."""
        keep = self.is_positive
        if max_per_image is not None:
            images, seen = self.regions.image_indices, keep.cumsum(0)
            first = torch.searchsorted(images, images)
            keep = keep & (seen - seen[first] + keep[first].to(seen.dtype) <= max_per_image)
        chosen = keep.nonzero()[:, 0]
        regions = Regions(
            self.regions.boxes[chosen], self.regions.image_indices[chosen], most=self.regions.most
        )
        return SampledRegions(
            regions, self.labels[chosen], self.gt_indices[chosen], self.is_positive[chosen],
            self.gt_boxes[chosen],
        )  # fmt: skip


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
    proposals: Regions,
    truths: Sequence[Targets],
    num_classes: int,
    settings: SamplingSettings,
    seeds: Tensor,
    *,
    stream: int = PROPOSALS,
) -> SampledRegions:
    """Draw training regions from each image's proposals (Fast R-CNN §2.3).

    Args:
        proposals: of all images.
        truths: of each image.
        num_classes: K, the label of the background.
        settings: which are drawn.
        seeds: of each image, from :meth:`rcnn.parts.batch.ImageBatch.sampling_seeds`.
        stream: which of the random numbers of an image, see :func:`rcnn.ops.matching.random_keys`.
    """
    truth = TruthBatch.from_targets(truths)
    boxes, there = proposals.padded(len(truth))
    numbers = torch.arange(boxes.shape[1], device=boxes.device)
    if settings.append_gt:
        boxes, there = torch.cat([boxes, truth.boxes], 1), torch.cat([there, truth.real], 1)
        # Numbers from the end, so that those of proposals do not depend on the rest of the batch.
        own = MAX_CANDIDATES - torch.arange(truth.boxes.shape[1], device=boxes.device)
        numbers = torch.cat([numbers, own])
    index, status = match_truth(boxes, truth, settings)
    keys = random_keys(seeds, numbers, stream)
    drawn = sample(status.masked_fill(~there, IGNORED), keys, settings.count, settings.positive_fraction)
    place = drawn.chosen.flatten().nonzero()[:, 0]
    image, is_positive = place // drawn.index.shape[1], drawn.positive.flatten()[place]
    chosen = drawn.index.flatten()[place]
    regions, matched = boxes[image, chosen], index[image, chosen]
    return SampledRegions(
        Regions(regions, image, most=settings.count),
        torch.where(is_positive, truth.labels[image, matched], num_classes),
        matched,
        is_positive,
        torch.where(is_positive[:, None], truth.boxes[image, matched], regions),
    )


def match_truth(boxes: Tensor, truth: TruthBatch, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """The object and the label ``[B, P]`` of proposals ``[B, P, 4]``, see :func:`rcnn.ops.matching.match`."""
    overlap = box_ops.iou(truth.boxes, boxes).masked_fill(~truth.real[..., None], -1)
    low, high = settings.background_iou
    index, status = match(overlap, settings.positive_iou, high, keep_best=False)
    if low > 0:
        slight = (overlap.max(1).values < low) & truth.has_objects
        status = status.masked_fill(slight, IGNORED)
    return index, ignore_in_crowds(status, boxes, truth, settings.max_crowd_overlap)


def split_crowds(truth: Targets) -> tuple[Tensor, Tensor]:
    """The indices of the real objects, and the boxes ``[C, 4]`` of the crowd regions."""
    if truth.crowd is None:
        return torch.arange(len(truth), device=truth.boxes.device), truth.boxes[:0]
    return (~truth.crowd).nonzero().squeeze(1), truth.boxes[truth.crowd]


def ignore_in_crowds(labels: Tensor, candidates: Tensor, truth: TruthBatch, max_overlap: float) -> Tensor:
    """Labels ``[B, A]`` with negatives that are mostly inside a crowd region ignored.

    Args:
        labels: of :func:`rcnn.ops.matching.match`.
        candidates: ``[B, A, 4]``, or ``[A, 4]`` of all images.
        truth: of the images.
        max_overlap: the fraction of its area that a negative may have in a crowd region.
    """
    if truth.crowd is None:
        return labels
    inside = torch.zeros_like(labels, dtype=torch.bool)
    for boxes, crowd in zip(
        torch.split(truth.boxes, GT_CHUNK_SIZE, 1), torch.split(truth.crowd, GT_CHUNK_SIZE, 1), strict=True
    ):
        covered = box_ops.covered_fraction(candidates, boxes) > max_overlap  # [B, A, g]
        inside |= (covered & crowd[:, None]).any(2)
    return labels.masked_fill(inside & (labels == NEGATIVE), IGNORED)
