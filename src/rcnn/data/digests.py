"""Digests of many images in little memory: sequences and sets of text, 8 bytes each.

A short digest is the first 16 of a digest's hexadecimal digits, and kept as the number that they write.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any, overload

import numpy as np
import numpy.typing as npt

DIGITS = 16  # of a short digest: among a billion images, two are mistaken for equal with 3 %

Numbers = npt.NDArray[np.uint64]


def short_digests(digests: npt.NDArray[np.uint8]) -> Numbers:
    """The short digests, as numbers ``[I]``, of digests as bytes ``[I, B]`` with B of at least 8."""
    first = np.ascontiguousarray(digests[:, : DIGITS // 2])
    return first.view(">u8").reshape(-1).astype(np.uint64)


def _text(number: int) -> str:
    return f"{number:0{DIGITS}x}"


class Digests(Sequence[str]):
    """Short digests, one per image.

    Attributes:
        numbers: uint64 ``[I]``.
    """

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    @classmethod
    def of(cls, digests: Iterable[str]) -> Digests:
        """From their text."""
        return cls(np.fromiter((int(digest, 16) for digest in digests), np.uint64))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Digests: ...

    def __getitem__(self, index: int | slice) -> str | Digests:
        found = self.numbers[index]
        return Digests(found) if isinstance(found, np.ndarray) else _text(int(found))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digests) and np.array_equal(self.numbers, other.numbers)

    __hash__ = None  # type: ignore[assignment]


class DigestSet(Set[str]):
    """A set of short digests.

    Attributes:
        numbers: uint64, sorted, each once.
    """

    def __init__(self, numbers: Numbers | None = None) -> None:
        self.numbers = np.unique(np.zeros(0, np.uint64) if numbers is None else numbers)

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> DigestSet:  # type: ignore[override] # of text alone
        """What the operators of sets make."""
        return cls(Digests.of(it).numbers)

    @classmethod
    def of(cls, digests: Iterable[str]) -> DigestSet:
        """Those of a sequence or set."""
        return (
            cls(digests.numbers) if isinstance(digests, Digests | DigestSet) else cls._from_iterable(digests)
        )

    def __or__(self, other: Set[Any]) -> DigestSet:
        return DigestSet(np.concatenate([self.numbers, DigestSet.of(other).numbers]))

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, str) and bool(self.holds(Digests.of([digest])).all())

    def __iter__(self) -> Iterator[str]:
        return map(_text, map(int, self.numbers))

    def __len__(self) -> int:
        return len(self.numbers)

    def holds(self, digests: Digests) -> npt.NDArray[np.bool_]:
        """Which of some digests are in the set, ``[I]``."""
        places = np.searchsorted(self.numbers, digests.numbers)
        inside = places < len(self.numbers)
        inside[inside] = self.numbers[places[inside]] == digests.numbers[inside]
        return inside


def pack_digests(digests: Iterable[str]) -> str:
    """Short digests as one text for JSON, 11 characters each; their order is lost."""
    return base64.b64encode(DigestSet.of(digests).numbers.astype(">u8").tobytes()).decode()


def unpack_digests(packed: str) -> DigestSet:
    """The digests of :func:`pack_digests`."""
    values = base64.b64decode(packed)
    whole = len(values) // 8 * 8  # a damaged text
    return DigestSet(np.frombuffer(values[:whole], ">u8").astype(np.uint64))
