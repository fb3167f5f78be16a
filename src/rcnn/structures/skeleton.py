"""What the keypoints of an object are called, and how they belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Skeleton:
    """What the keypoints of an object are called and how they belong together.

    Attributes:
        names: one per keypoint.
        bones: pairs of keypoints that are drawn joined.
        mirror: for each keypoint the one that takes its place in a mirrored image: the right eye for the
            left; itself where it has no partner.
        sigmas: how far annotators scatter around each keypoint, in object sizes (square root of the area);
            what COCO's object keypoint similarity is measured in.
    """

    names: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()
    mirror: tuple[int, ...] = ()
    sigmas: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Skeleton | None:
        """From a model's metadata, which has lists for tuples; None where it has no skeleton.

        Raises:
            ValueError: a part that is missing, of another type, or does not fit the others.
        """
        if values is None:
            return None
        try:
            bones = tuple((int(a), int(b)) for a, b in values["bones"])
            names = tuple(str(name) for name in values["names"])
            mirror = tuple(int(place) for place in values["mirror"])
            return cls(names, bones, mirror, tuple(float(sigma) for sigma in values["sigmas"]))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"skeleton: expected names, bones, mirror and sigmas ({error!r})") from error

    @property
    def lacks_partners(self) -> bool:
        """Whether none of several keypoints is known to take the place of another in mirrored images."""
        return len(self.names) > 1 and self.mirror == tuple(range(len(self.names)))

    def with_partners(self, pairs: Iterable[tuple[str, str]]) -> Skeleton:
        """The same skeleton whose mirrored partners are these pairs of names, and no others.

        Raises:
            ValueError: a name that is not a keypoint's, or occurs twice.
        """
        mirror = list(range(len(self.names)))
        for pair in pairs:
            a, b = (self._place(name) for name in pair)
            if mirror[a] != a or mirror[b] != b or a == b:
                raise ValueError(f"flip_pairs: {pair[0]} and {pair[1]}: expected each keypoint in one pair.")
            mirror[a], mirror[b] = b, a
        return replace(self, mirror=tuple(mirror))

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"flip_pairs: there is no keypoint {name!r}; there are {', '.join(self.names)}.")
        return self.names.index(name)

    def __post_init__(self) -> None:
        """Check that the parts fit, and fill in those left out: partners by name, sigmas of 0.05.

        Raises:
            ValueError: a part of another length, or a keypoint that is not there.
        """
        count = len(self.names)
        object.__setattr__(self, "mirror", self.mirror or _partners(self.names))
        object.__setattr__(self, "sigmas", self.sigmas or (DEFAULT_SIGMA,) * count)
        if len(self.sigmas) != count or not all(sigma > 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas {self.sigmas}: expected {count} numbers above 0, one per keypoint")
        if sorted(self.mirror) != list(range(count)):
            raise ValueError(f"mirror {self.mirror}: expected each of 0 to {count - 1} once")
        if any(not 0 <= end < count for bone in self.bones for end in bone):
            raise ValueError(f"bones {self.bones}: expected pairs of 0 to {count - 1}")


DEFAULT_SIGMA = 0.05
# How names say left: left_ear; l_ear, ear.L; earL, LEar; paw_lf, fl_paw; lear.
LEFT = (
    "(?i:left)", "(?<![A-Za-z])[lL](?![A-Za-z])", "(?<=[a-z0-9])L(?![a-z])", "^[lL](?=[A-Z])",
    "(?<=_)[lL]", "[lL](?=_)", "^l",
)  # fmt: skip


def _partners(names: tuple[str, ...]) -> tuple[int, ...]:
    """For each name the index of its mirror image: ``left_eye`` and ``right_eye``, ``earL`` and ``earR``."""
    index = {name: i for i, name in enumerate(names)}
    partners = list(range(len(names)))
    for name, i in index.items():
        others = (index.get(re.sub(side, _opposite, name, count=1)) for side in LEFT)
        other = next((o for o in others if o is not None and o != i), None)
        if other is not None:
            partners[i], partners[other] = other, i
    return tuple(partners)


def _opposite(left: re.Match[str]) -> str:
    right = "right" if len(left[0]) > 1 else "r"
    return right.upper() if left[0].isupper() else right.title() if left[0].istitle() else right
