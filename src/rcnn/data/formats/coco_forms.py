"""The forms in which tools write the values of COCO annotations, brought into COCO's own.

Exporters write numbers and lists as text, a polygon without its outer list or as pairs of corners, several
run-length codes for one object, or the ``repr`` of bytes. Each form here has one meaning; whatever could mean
two things is left as it is, for the reader to refuse.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from rcnn.data.formats.outlines import is_number
from rcnn.io.json_text import parse_json
from rcnn.structures import Rle

MAX_DIGITS = 15  # of a number written as text


def with_whole_numbers(entry: Any) -> Any:
    """An entry with integer ids where they are written as 1.0, or ``category_id`` as text."""
    if not isinstance(entry, dict):
        return entry
    get = entry.get
    if type(get("id")) is type(get("image_id")) is type(get("category_id")) is int:
        return entry
    odd = {k: entry[k] for k in ("id", "image_id") if isinstance(entry.get(k), float)}
    odd |= {k: entry[k] for k in ("category_id",) if isinstance(entry.get(k), float | str)}
    return {**entry, **{k: whole_number(v) for k, v in odd.items()}} if odd else entry


def whole_number(value: Any) -> Any:
    """The integer that a text of digits, or a float without a fraction, stands for; others are unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str) or len(value) > MAX_DIGITS or not value.isascii():
        return value
    return int(value) if value.strip().removeprefix("-").isdigit() else value


def number(value: Any) -> Any:
    """The number that a text stands for; other values are unchanged."""
    if not isinstance(value, str) or len(value) > 2 * MAX_DIGITS:
        return value
    try:
        return float(value)
    except ValueError:
        return value


def box(found: Any) -> Any:
    """A ``bbox`` as a list of numbers, if its numbers or the whole list are written as text."""
    found = _from_text(found)
    return [number(value) for value in found] if isinstance(found, list) else found


def turned_box(corners: tuple[float, float, float, float], entry: Mapping[str, Any]) -> tuple[float, ...]:
    """The upright box around a box x, y, width, height that CVAT has rotated about its centre.

    Convention: CVAT counts degrees clockwise in ``attributes.rotation``; ``0 0 10 4`` turned by 90 becomes
    ``3 -3 4 10``.
    """
    attributes = entry.get("attributes")
    angle = number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if not is_number(angle) or angle % 360 == 0:
        return corners
    x, y, width, height = corners
    cosine, sine = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    wide, high = width * cosine + height * sine, width * sine + height * cosine
    return x + (width - wide) / 2, y + (height - high) / 2, wide, high


def outline(found: Any) -> Any:
    """A ``segmentation`` as a list of polygons or one run-length code, whatever lists are around it."""
    found = _from_text(found)
    if isinstance(found, dict):
        return _code(found)
    if not isinstance(found, list) or not found:
        return found
    if all(isinstance(part, dict) for part in found):
        codes = [_code(part) for part in found]
        return codes[0] if len(codes) == 1 else codes
    if all(is_number(value) for value in found):
        return [found]
    if _is_pairs(found):
        return [_flat(found)]
    return [_flat(part) if _is_pairs(part) else part for part in found]


def _code(found: dict[str, Any]) -> Rle:
    """A run-length code whose counts are text, as bytes are written by ``json.dumps(..., default=str)``."""
    counts = found.get("counts")
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"') and counts[-1] == counts[1]:
        try:
            counts = ast.literal_eval(counts).decode("ascii")
        except (ValueError, SyntaxError, UnicodeDecodeError, MemoryError):
            return found
        return {**found, "counts": counts}
    return found


def _is_pairs(part: Any) -> bool:
    """Whether a list holds the corners of one polygon as pairs x, y."""
    return (
        isinstance(part, list)
        and len(part) >= 3
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in part)
    )


def _flat(pairs: list[list[float]]) -> list[float]:
    return [value for pair in pairs for value in pair]


def _from_text(found: Any) -> Any:
    """The list or object that a text of JSON stands for, as tables write them; others are unchanged."""
    if not isinstance(found, str) or not found.strip().startswith(("[", "{")):
        return found
    try:
        return parse_json(found)
    except ValueError:
        return found
