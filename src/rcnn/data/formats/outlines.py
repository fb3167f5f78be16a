"""Check outlines as COCO writes them: polygons and run-length codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from rcnn.structures import Rle, Size
from rcnn.structures.run_lengths import FIRST, MORE, numbers_of

# Pixels. JSON numbers may exceed the range of floats, and drawing a line needs memory by its length.
MAX_COORDINATE = 1e6
MOST_DIGITS = 7  # of a run length as text: 35 bits
MIN_OVERLAP = 0.5  # IoU of a box and the box of its outline; below, they hardly belong together


def is_number(value: Any, *, finite: bool = True) -> TypeGuard[float]:
    """Whether a JSON value is a number and not a boolean; NaN and infinity only if ``finite`` is False."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MAX_COORDINATE or (isinstance(value, float) and not finite)


def polygon_fault(found: Any) -> str | None:
    """The fault of a list of polygons, None if it can be drawn."""
    if not isinstance(found, list) or not all(isinstance(part, list) for part in found):
        return "Expected segmentation as a list of polygons [[x1, y1, x2, y2, …], …] or a run-length code."
    for part in found:
        if len(part) % 2 or not all(is_number(v) for v in part):
            return f"A polygon has {len(part)} values; expected pixels x1, y1, x2, y2, … in pairs."
    return None


def rle_fault(found: dict[str, Any], size: Size) -> str | None:
    """The fault of a run-length code, None if it can be decoded on an image of ``size``."""
    counts = found.get("counts")
    if found.get("size") != list(size):
        return f"The mask has the size (height, width) {found.get('size')}, its image {list(size)}."
    if isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts):
        covered = sum(counts)
    elif isinstance(counts, str) and counts.isascii():
        covered = _coded_pixels(counts)
    else:
        return "Expected the counts of the run-length code as a list of integers or as text."
    if covered != size[0] * size[1]:
        return f"The run-length code covers {covered} pixels, its image has {size[0] * size[1]}."
    return None


def rle_bounds(code: Rle) -> tuple[float, ...] | None:
    """x1 y1 x2 y2 of a valid run-length code, None if it is empty."""
    from faster_coco_eval.core import mask as coco_mask

    compressed = code if isinstance(code["counts"], str) else coco_mask.frPyObjects(code, *code["size"])
    x, y, width, height = np.asarray(coco_mask.toBbox(compressed)).reshape(-1).tolist()
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def joined_rle(codes: Sequence[Rle], size: Size) -> Rle:
    """The union of valid run-length codes; a single one with its counts as they are."""
    if len(codes) == 1:
        return {"size": list(size), "counts": codes[0]["counts"]}
    from faster_coco_eval.core import mask as coco_mask

    packed = [c if isinstance(c["counts"], str) else coco_mask.frPyObjects(c, *size) for c in codes]
    counts = coco_mask.merge(packed)["counts"]
    return {"size": list(size), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def _coded_pixels(text: str) -> int:
    """The sum of the runs of a compressed code, -1 if it is invalid."""
    characters = np.frombuffer(text.encode(), dtype=np.uint8)
    codes = characters.astype(np.int64) - FIRST
    if len(codes) == 0 or codes.min() < 0 or codes.max() >= 2 * MORE or codes[-1] & MORE:
        return -1
    numbers, ends = numbers_of(characters)
    if np.diff(ends, prepend=0).max() > MOST_DIGITS:
        return -1
    runs = np.r_[numbers[:1], numbers[1::2].cumsum(), numbers[2::2].cumsum()]
    return int(runs.sum()) if runs.min() >= 0 else -1
