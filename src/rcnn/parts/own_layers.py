"""Layers of a user's own in a head, named by dotted path: ``model.box.head = "my_package.heads:build"``.

The function is called with the number of channels C of the feature maps and the head's settings, and returns
a module. Of pooled regions ``[R, C, P, P]`` it makes

- for ``model.box.head`` the features ``[R, D]`` that classes and boxes are read from;
- for ``model.mask.head`` the maps ``[R, D, P, P]`` that masks of twice the side are made from.

D is found by trying it out. P is ``settings.pool.size``; R may be 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rcnn.config import resolve


def own_layers(path: str, in_channels: int, settings: Any, *, maps: bool) -> tuple[nn.Module, int]:
    """The layers that the function at ``path`` makes, and their channels D.

    Args:
        path: a dotted path.
        in_channels: C.
        settings: of the head.
        maps: whether they make maps ``[R, D, P, P]``, and not features ``[R, D]``.

    Raises:
        ValueError: no such function, or it returns something else.
    """
    made, side = resolve(path)(in_channels, settings), settings.pool.size
    if not isinstance(made, nn.Module):
        raise ValueError(f"head {path}: it returned {type(made).__name__}; expected a module")
    training = made.training
    try:
        with torch.no_grad():
            found = made.eval()(torch.zeros(2, in_channels, side, side))
    except Exception as error:  # whatever a user's module raises
        raise ValueError(
            f"head {path} cannot process regions [R, {in_channels}, {side}, {side}]. It says: "
            f"{str(error) or type(error).__name__}"
        ) from error
    finally:
        made.train(training)
    expected = (2, -1, side, side) if maps else (2, -1)
    shape = tuple(getattr(found, "shape", ()))
    if len(shape) != len(expected) or any(e not in (-1, s) for e, s in zip(expected, shape, strict=True)):
        wanted = f"[R, D, {side}, {side}]" if maps else "[R, D]"
        raise ValueError(f"head {path}: for 2 regions it returns {list(shape)}; expected {wanted}")
    return made, shape[1]
