"""Keypoints and the maps that networks make of them, one map per keypoint inside each region (Mask R-CNN §5).

A keypoint is a continuous coordinate; cell ``i`` of a map covers ``i`` to ``i + 1`` and represents its middle
(Heckbert 1990).

Legend: R regions, K keypoints, S the side of the maps.
"""

import torch
from torch import Tensor


def keypoint_cells(keypoints: Tensor, regions: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The cell of the map that contains each keypoint.

    Args:
        keypoints: ``[R, K, 3]``: x, y, visibility.
        regions: ``[R, 4]``, one for the object of each row.
        side: S.

    Returns:
        int64 ``[R, K]``, row * S + column, and bool ``[R, K]``: whether the keypoint is annotated and inside
        its region (borders included).
    """
    corner, extent = regions[:, None, :2], (regions[:, None, 2:] - regions[:, None, :2])
    places = (keypoints[..., :2] - corner) / extent * side
    inside = ((places >= 0) & (places <= side)).all(-1) & (keypoints[..., 2] > 0)
    column, row = places.nan_to_num().floor().clamp(0, side - 1).long().unbind(-1)
    return row * side + column, inside


def find_keypoints(maps: Tensor, boxes: Tensor) -> Tensor:
    """Where each map has its top, to parts of a cell.

    That is the top of the parabolas through the highest cell and its neighbours. Keypoints at whole pixels,
    as Detectron and torchvision have them, are ``rcnn.inference.postprocess.highest_pixels``.

    Args:
        maps: logits ``[R, K, S, S]``.
        boxes: ``[R, 4]``; the result is in their coordinates.

    Returns:
        float32 ``[R, K, 3]``: x, y and the logit there.
    """
    side = maps.shape[-1]
    score, place = maps.flatten(2).max(2)  # [R, K]
    row, column = place // side, place % side
    x = column + 0.5 + _offset(maps, place, column, 1)
    y = row + 0.5 + _offset(maps, place, row, side)
    cells = torch.stack([x, y], 2) / side
    points = boxes[:, None, :2] + cells * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.cat([points, score[..., None]], 2).float()


def _offset(maps: Tensor, place: Tensor, position: Tensor, step: int) -> Tensor:
    """How far from the highest cell the parabola through it and its two neighbours has its top.

    Args:
        maps: ``[R, K, S, S]``.
        place: the highest cell, ``[R, K]``.
        position: its row or column; at a border there is no parabola, and the offset is 0.
        step: from a cell to its neighbour: 1 for columns, S for rows.
    """
    last = maps.shape[-1] - 1
    flat, size = maps.flatten(2), maps.shape[-2] * maps.shape[-1]
    before, middle, after = (
        flat.gather(2, (place + shift).clamp(0, size - 1)[..., None])[..., 0] for shift in (-step, 0, step)
    )
    bend = before - 2 * middle + after
    offset = ((before - after) / (2 * bend)).clamp(-0.5, 0.5)
    return torch.where((bend < 0) & (position > 0) & (position < last), offset, 0.0)
