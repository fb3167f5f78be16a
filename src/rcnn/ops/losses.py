"""The losses of Fast R-CNN §2.3 in the forms that the published codes use."""

import torch
import torch.distributed
from torch import Tensor


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum of smooth L1 distances over all elements: ``0.5 d² / beta`` below ``beta``, else ``d - beta / 2``.

    ``beta`` 1 is the paper's formula, 1/9 py-faster-rcnn's sigma of 3 (times 9), 0 plain L1 (Detectron2).

    Convention: distances 0.5 and 2 at ``beta`` 1 give 0.125 + 1.5.
    """
    distance = (prediction - target).abs()
    if beta == 0:
        return distance.sum()
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta).sum()


def mean_over(count: int, device: torch.device) -> float:
    """What to divide a sum over ``count`` items by, so that its mean is the one over the whole global batch.

    One process: ``count``. Several: the mean of their counts, since their gradients are averaged afterwards;
    without it a process with few positives would weigh each of them more than its neighbour does. Never below
    1 in all.
    """
    if not torch.distributed.is_initialized():
        return float(max(count, 1))
    total = torch.tensor([count], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return max(float(total), 1.0) / torch.distributed.get_world_size()
