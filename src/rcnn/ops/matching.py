"""Which anchor or proposal is responsible for which object, and which of them are trained on.

Legend: G true boxes, A anchors or proposals.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(overlap: Tensor, high: float, low: float, keep_best: bool) -> tuple[Tensor, Tensor]:
    """Assign each of A candidates to the true box that it overlaps most.

    Args:
        overlap: IoU ``[G, A]``.
        high: at or above this IoU a candidate is positive.
        low: below this IoU it is negative; in between it is ignored.
        keep_best: also make positive the candidates that overlap a true box most, ties included, however
            little (Faster R-CNN §3.1.2, rule i). Like the published code, positives overwrite negatives.

    Returns:
        The index of the true box ``[A]`` (0 where there is none) and the label ``[A]``: 1 positive, 0
        negative, -1 ignored.
    """
    return match_chunks([overlap], overlap.new_zeros(overlap.shape[1]), high, low, keep_best)


def match_chunks(
    overlaps: Iterable[Tensor], zeros: Tensor, high: float, low: float, keep_best: bool
) -> tuple[Tensor, Tensor]:
    """:func:`match` where the overlaps ``[G, A]`` come in parts ``[g, A]``; ``zeros`` are ``[A]``.

    A thousand true boxes and all the anchors of an image take gigabytes at once.
    """
    best, index, is_best = zeros - 1, zeros.to(torch.int64), zeros.to(torch.bool)
    seen = 0
    for overlap in overlaps:
        if overlap.numel():
            value, place = overlap.max(0)
            index = torch.where(value > best, place + seen, index)
            best = torch.maximum(best, value)
            if keep_best:
                best_of_truth = overlap.max(1, keepdim=True).values
                # A true box that nothing overlaps would otherwise call every candidate its best.
                is_best |= ((overlap == best_of_truth) & (best_of_truth > 0)).any(0)
        seen += len(overlap)
    labels = torch.full_like(index, IGNORED)
    labels[best < low] = NEGATIVE
    labels[(best >= high) | is_best] = POSITIVE
    return index, labels


def sample(
    labels: Tensor, count: int, positive_fraction: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Choose at random at most ``count`` candidates, at most ``positive_fraction`` of them positive.

    Where positives are short, negatives fill up; where negatives are short, fewer are taken.

    Args:
        labels: ``[A]`` of 1, 0, -1, from :func:`match`.
        count: how many at the most.
        positive_fraction: the fraction of positives, e.g. 0.5 (RPN) or 0.25 (box head).
        generator: of the random numbers, on the CPU; None is torch's own.

    Returns:
        Indices of the positives and of the negatives, in random order.
    """
    positive = (labels == POSITIVE).nonzero().squeeze(1)
    negative = (labels == NEGATIVE).nonzero().squeeze(1)
    num_positive = min(len(positive), int(count * positive_fraction))
    num_negative = min(len(negative), count - num_positive)
    return _choose(positive, num_positive, generator), _choose(negative, num_negative, generator)


def _choose(candidates: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    order = torch.randperm(len(candidates), generator=generator)[:count]
    return candidates[order.to(candidates.device)]
