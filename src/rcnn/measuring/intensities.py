"""The intensity of objects and of what is around them, channel by channel, in stored values.

Backgrounds:
    - ``ring``: the median of the pixels that are more than 2 and at most 7 pixels away from the object and
      belong to no object; none if there are fewer than 10 of them. For uneven illumination.
    - ``image``: the median of all pixels of the image that belong to no object. For crowded images.

Legend: H and W image height and width, C channels, N objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rcnn.config import did_you_mean
from rcnn.structures import Array, Instances, Masks

Background = Literal["ring", "image"]
GAP, REACH = 2, 7  # pixels around an object between which its ring is
MIN_PIXELS = 10
STATISTICS = ("mean", "std", "min", "max", "background", "corrected")


def check_background(name: str) -> None:
    """Refuse an unknown background.

    Raises:
        ValueError: it is unknown.
    """
    known = get_args(Background)
    if name not in known:
        raise ValueError(
            f"background {name!r}: {did_you_mean(name, known)}expected one of {', '.join(known)}"
        )


def column_names(channels: Sequence[str]) -> list[str]:
    """The names of the columns of channels, such as ``intensity_mean_red``."""
    return [f"intensity_{what}{f'_{name}' if name else ''}" for name in channels for what in STATISTICS]


def intensities_of(
    image: Array, found: Instances, channels: Sequence[str], background: Background
) -> dict[str, npt.NDArray[np.float64]]:
    """Mean, standard deviation (of all pixels, not of a sample), least and greatest value of each object.

    With them its background, and the mean less the background. NaN where there are no pixels.

    Args:
        image: ``[H, W, C]``, stored values.
        found: the objects; one without an outline is all that is in its box.
        channels: the names of the C channels.
        background: see the module docstring.
    """
    masks = areas_of(found)
    taken = np.zeros(found.size, bool)
    for patch, (x1, y1, x2, y2) in zip(masks.patches(), masks.windows.tolist(), strict=True):
        taken[y1:y2, x1:x2] |= patch.astype(bool)
    table = np.full((len(found), image.shape[2], len(STATISTICS)), np.nan)
    everywhere = _median(image[~taken]) if background == "image" else None
    for row, patch, window in zip(table, masks.patches(), masks.windows.tolist(), strict=True):
        if not patch.any():
            continue
        x1, y1, x2, y2 = window
        inside = image[y1:y2, x1:x2][patch.astype(bool)].astype(np.float64)  # [pixels, C]
        row[:, 0], row[:, 1], row[:, 2], row[:, 3] = (
            inside.mean(0), inside.std(0), inside.min(0), inside.max(0),
        )  # fmt: skip
        row[:, 4] = _ring(image, taken, patch, window) if everywhere is None else everywhere
        row[:, 5] = row[:, 0] - row[:, 4]
    columns = table.transpose(1, 2, 0).reshape(len(channels) * len(STATISTICS), len(found))
    return dict(zip(column_names(channels), columns, strict=True))


def areas_of(found: Instances) -> Masks:
    """The masks of objects; of those without an outline, the pixels whose centres are in their box."""
    height, width = found.size
    masks = None if found.masks is None else list(found.masks.patches())
    patches, origins = [], []
    for i, (box, outlined) in enumerate(zip(found.boxes.tolist(), found.outlined.tolist(), strict=True)):
        if outlined and masks is not None and found.masks is not None:
            x, y = found.masks.windows[i, :2].tolist()
            patches.append(masks[i])
            origins.append((y, x))
            continue
        x1, y1, x2, y2 = np.ceil(np.array(box) - 0.5).clip(0, [width, height] * 2).astype(int).tolist()
        patches.append(np.ones((max(y2 - y1, 0), max(x2 - x1, 0)), np.uint8))
        origins.append((y1, x1))
    return Masks.from_patches(patches, origins, found.size)


def _ring(image: Array, taken: npt.NDArray[np.bool_], patch: Array, window: Sequence[int]) -> Array:
    """The median of the free pixels around an object, ``[C]``; NaN where there are too few."""
    x1, y1, x2, y2 = window
    height, width = taken.shape
    left, top = max(x1 - REACH, 0), max(y1 - REACH, 0)
    right, bottom = min(x2 + REACH, width), min(y2 + REACH, height)
    own = np.zeros((bottom - top, right - left), bool)
    own[y1 - top : y2 - top, x1 - left : x2 - left] = patch
    distance = ndimage.distance_transform_edt(~own)
    ring = (distance > GAP) & (distance <= REACH) & ~taken[top:bottom, left:right]
    if np.count_nonzero(ring) < MIN_PIXELS:
        return np.full(image.shape[2], np.nan)
    return _median(image[top:bottom, left:right][ring])


def _median(values: Array) -> Array:
    """The median of ``[pixels, C]`` over pixels; NaN without any."""
    if not len(values):
        return np.full(values.shape[1], np.nan)
    middle: Array = np.median(values.astype(np.float64), axis=0)
    return middle
