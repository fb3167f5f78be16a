"""The form of what a prediction writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rcnn.config import did_you_mean
from rcnn.config.ranges import check_ranges, ranged
from rcnn.io.folders import free_folder, has_content

OverlayFormat = Literal["png", "jpg"]
FOUND = Path("found")


@dataclass(frozen=True)
class OutputFiles:
    """The form of overlays and of ``predictions.json``.

    Attributes:
        overlays: write ``overlays/NAME``: the objects on their image, each with its row in ``objects.csv``.
        overlay_scale: overlays are so many times as wide and high as their image; 2 or more makes room for
            the numbers of small objects.
        overlay_format: ``png``, or the smaller and slightly blurred ``jpg``.
        results_only: ``predictions.json`` is the bare list of results that COCO's evaluation reads, with
            run-length codes; without ``image_ids``, an image's id is then its path below the given folder.
    """

    overlays: bool = True
    overlay_scale: int = ranged(1, 1, 64, words="a whole number from 1 on")
    overlay_format: OverlayFormat = "png"
    results_only: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a scale that is no whole number from 1 on, or an unknown format.
        """
        check_ranges(self)
        known = get_args(OverlayFormat)
        if self.overlay_format not in known:
            hint = did_you_mean(str(self.overlay_format), known)
            raise ValueError(
                f"overlay_format {self.overlay_format!r}: {hint}expected one of {', '.join(known)}"
            )


def output_folder(out: str | Path | None) -> Path:
    """The folder named, or ``found``, ``found-2`` and so on: the first that holds nothing yet."""
    return free_folder(FOUND, has_content) if out is None else Path(out)
