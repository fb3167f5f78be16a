"""Weights between those of two networks: WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903, §3).

Around trained weights the loss on the old images has no slope, so that what is forgotten grows with the
square of the distance, while what is gained on new images grows in proportion to it. A part of the way
therefore keeps most of the old and has some of the new.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def interpolate(
    first: Mapping[str, Tensor], last: Mapping[str, Tensor], fraction: float
) -> dict[str, Tensor]:
    """The tensors at a fraction of the way from the first to the last.

    At 0 and 1, and where both agree, they are equal to the given ones bit for bit.

    Args:
        first: tensors by name.
        last: of the same names, shapes and types.
        fraction: from 0 to 1.

    Returns:
        New tensors; integers are those of ``last``, or of ``first`` at 0.
    """
    nearer = last if fraction else first
    return {
        name: tensor.lerp(last[name], fraction) if tensor.is_floating_point() else nearer[name].clone()
        for name, tensor in first.items()
    }
