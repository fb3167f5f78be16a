"""Which anchor or proposal is responsible for which object, and which of them are trained on.

All images of a batch are looked at together, and every result has a shape that the host knows: nothing here
waits for a device.

Legend: B images, G true boxes, A anchors or proposals, S places for the sampled ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

WORD = 2**32 - 1
LAST_KEY = 2**63 - 1  # of a candidate that is not to be chosen; no other has it
# Independent streams of random keys for the images of a batch; the steps of a cascade follow the last.
ANCHORS, PROPOSALS = 0, 1


def match(overlap: Tensor, high: float, low: float, keep_best: bool) -> tuple[Tensor, Tensor]:
    """Assign each of A candidates to the true box that it overlaps most.

    Args:
        overlap: IoU ``[..., G, A]``; a row below 0 stands for no true box.
        high: at or above this IoU a candidate is positive.
        low: below this IoU it is negative; in between it is ignored.
        keep_best: also make positive the candidates that overlap a true box most, ties included, however
            little (Faster R-CNN §3.1.2, rule i). Like the published code, positives overwrite negatives.

    Returns:
        The index of the true box ``[..., A]`` (0 where there is none) and the label ``[..., A]``: 1 positive,
        0 negative, -1 ignored.
    """
    zeros = overlap.new_zeros((*overlap.shape[:-2], overlap.shape[-1]))
    return match_chunks([overlap], zeros, high, low, keep_best)


def match_chunks(
    overlaps: Iterable[Tensor], zeros: Tensor, high: float, low: float, keep_best: bool
) -> tuple[Tensor, Tensor]:
    """:func:`match` where the overlaps come in parts ``[..., g, A]``; ``zeros`` are ``[..., A]``.

    A thousand true boxes and all the anchors of an image take gigabytes at once.
    """
    best, index, is_best = zeros - 1, zeros.to(torch.int64), zeros.to(torch.bool)
    seen = 0
    for overlap in overlaps:
        if overlap.numel():
            value, place = overlap.max(-2)
            index = torch.where(value > best, place + seen, index)
            best = torch.maximum(best, value)
            if keep_best:
                best_of_truth = overlap.max(-1, keepdim=True).values
                # A true box that nothing overlaps would otherwise call every candidate its best.
                is_best |= ((overlap == best_of_truth) & (best_of_truth > 0)).any(-2)
        seen += overlap.shape[-2]
    labels = torch.full_like(index, IGNORED).masked_fill_(best < low, NEGATIVE)
    return index, labels.masked_fill_((best >= high) | is_best, POSITIVE)


def fold_seeds(seeds: Sequence[int]) -> Tensor:
    """Seeds of up to 64 bits as numbers of 32 bits, int64 ``[B]``, on the CPU."""
    low = torch.tensor([seed & WORD for seed in seeds], dtype=torch.int64)
    high = torch.tensor([seed >> 32 & WORD for seed in seeds], dtype=torch.int64)
    return _mixed(_mixed(low) ^ high)


def random_keys(seeds: Tensor, candidates: Tensor, stream: int) -> Tensor:
    """A random number for each candidate of each image, int64 ``[B, A]``, different for all of an image.

    A hash of the image's seed and the candidate's number, in whole numbers below 2**63, whose results are
    the same on every device. So an image has the same candidates sampled wherever it is, and in any batch.

    Args:
        seeds: int64 ``[B]`` of 32 bits, from :func:`fold_seeds`.
        candidates: int64 ``[A]``, the number of each candidate, below 2**32.
        stream: which of the random numbers of an image: ``ANCHORS``, ``PROPOSALS`` or more.
    """
    own = _mixed((seeds + stream * 0x3C6EF372) & WORD)
    hashed = _mixed(_mixed(candidates) ^ own[:, None])  # [B, A]
    return ((hashed >> 1) << 32) | candidates


def _mixed(words: Tensor) -> Tensor:
    """A hash of numbers of 32 bits to such, one to one (C. Wellons's hash-prospector, 2018 and later).

    Its factors are below 2**31, so that no product overflows 64 bits.
    """
    words = ((words ^ (words >> 16)) * 0x21F0AAAD) & WORD
    words = ((words ^ (words >> 15)) * 0x735A2D97) & WORD
    return words ^ (words >> 15)


@dataclass(frozen=True)
class Sample:
    """Candidates chosen from each image of a batch; some places may be empty.

    Attributes:
        index: int64 ``[B, S]``, the candidate in each place; anything where there is none.
        positive: bool ``[B, S]``: chosen as a positive.
        chosen: bool ``[B, S]``: chosen at all.
    """

    index: Tensor
    positive: Tensor
    chosen: Tensor


def sample(labels: Tensor, keys: Tensor, count: int, positive_fraction: float) -> Sample:
    """Choose at random at most ``count`` candidates per image, at most ``positive_fraction`` positive.

    Where positives are short, negatives fill up; where negatives are short, fewer are taken.

    Args:
        labels: ``[B, A]`` of 1, 0, -1, from :func:`match`.
        keys: int64 ``[B, A]``, from :func:`random_keys`; the smallest are chosen.
        count: how many at the most.
        positive_fraction: the fraction of positives, e.g. 0.5 (RPN) or 0.25 (box head).

    Returns:
        The positives of an image before its negatives, both in random order.
    """
    candidates = labels.shape[1]
    positives, is_positive = _smallest(
        keys, labels == POSITIVE, min(int(count * positive_fraction), candidates)
    )
    negatives, is_negative = _smallest(keys, labels == NEGATIVE, min(count, candidates))
    room = count - is_positive.sum(1, keepdim=True)
    is_negative &= torch.arange(negatives.shape[1], device=labels.device) < room
    return Sample(
        torch.cat([positives, negatives], 1),
        torch.cat([is_positive, torch.zeros_like(is_negative)], 1),
        torch.cat([is_positive, is_negative], 1),
    )


def _smallest(keys: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` wanted candidates ``[B, count]`` with the smallest keys, and whether there is one."""
    found, index = torch.where(wanted, keys, LAST_KEY).topk(count, dim=1, largest=False)
    return index, found < LAST_KEY
