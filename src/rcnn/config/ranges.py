"""Ranges of settings, in the metadata of dataclass fields, and the check that they are kept.

A setting is checked where it is given: a dataclass calls :func:`check_ranges` when it is made, whether by a
recipe, a checkpoint, the command line or Python. **Law:** no setting of a number is made with NaN, with an
infinity, or outside its range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

RANGE = "range"
"""The key of a field's metadata."""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have, alone or in a tuple.

    Attributes:
        low: the lowest.
        high: the highest.
        above: whether ``low`` itself is excluded.
        below: whether ``high`` itself is excluded.
        words: what is expected, in words; None: the numbers.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False
    words: str | None = None

    def __contains__(self, value: object) -> bool:
        """Whether a number is in the range; NaN and infinities never are."""
        if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
            return False
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        """The range in words, after "expected"."""
        low = f"{'above' if self.above else 'from'} {self.low:g}"
        high = f"{'to below' if self.below else 'to'} {self.high:g}"
        return self.words or f"a number {low} {high}"


def ranged(
    default: Any,
    low: float,
    high: float,
    *,
    above: bool = False,
    below: bool = False,
    words: str | None = None,
) -> Any:
    """A dataclass field with a default and a :class:`Range`, which describes the arguments."""
    return field(default=default, metadata={RANGE: Range(low, high, above, below, words)})


def check_ranges(settings: Any) -> None:
    """Refuse a dataclass with a number outside its field's range; None and texts are not looked at.

    Raises:
        ValueError: it names the field, the value, and what is expected.
    """
    for spec in fields(settings):
        allowed = spec.metadata.get(RANGE)
        if allowed is None:
            continue
        value = getattr(settings, spec.name)
        whole = "int" in str(spec.type) and "float" not in str(spec.type)
        for number in _numbers(value):
            if number not in allowed or (whole and number != int(number)):
                shown = list(value) if isinstance(value, tuple) else value
                also = " (an integer)" if whole and number in allowed else ""
                if allowed.words and isinstance(number, int | float) and number > allowed.high:
                    also = f", at most {allowed.high:g}"
                raise ValueError(f"{spec.name} is {shown}: expected {allowed}{also}")


def _numbers(value: Any) -> Iterator[Any]:
    """The numbers of a value, in tuples at any depth; anything else that is no text or None, too."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif value is not None and not isinstance(value, str):
        yield value
