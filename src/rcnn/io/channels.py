"""All channels of an image in their own depth, to be measured, whatever channels a model takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rcnn.io.images import image_header, read_intensities
from rcnn.io.reading import ChoiceError, Reading

COLOURS = ("red", "green", "blue")


def read_channels(path: str | Path, reading: Reading) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """The intensities of every channel.

    As for looking at: WhiteIsZero is inverted and palettes become colours, so that more is brighter.

    Args:
        path: the file.
        reading: the plane and orientation; its channels matter only where pages are taken for channels.

    Returns:
        ``[H, W, C]``, and the name of each channel: empty for a single one, ``red``, ``green``, ``blue``, or
        ``c0``, ``c1``, … by their numbers in the file.

    Raises:
        ImageError: as :func:`rcnn.io.images.read_image`.
    """
    every = _every_channel(Path(path), reading)
    values, is_rgb = read_intensities(Path(path), every)
    return values, named_channels(values.shape[2], is_rgb=is_rgb, numbers=every.channels)


def channel_names(path: str | Path, reading: Reading) -> tuple[str, ...]:
    """The names that :func:`read_channels` returns, from the file's header."""
    every = _every_channel(Path(path), reading)
    header = image_header(path, every)
    return named_channels(header.own_channels, is_rgb=header.is_rgb is not False, numbers=every.channels)


def named_channels(
    count: int, *, is_rgb: bool = True, numbers: tuple[int, ...] | None = None
) -> tuple[str, ...]:
    """What channels are called; three are colours if ``is_rgb``, others have their numbers."""
    if count == 1:
        return ("",)
    return COLOURS if count == 3 and is_rgb else tuple(f"c{i}" for i in numbers or range(count))


def _every_channel(path: Path, reading: Reading) -> Reading:
    """The reading of all channels; of a file whose pages are taken for channels, those chosen."""
    every = replace(reading, channels=None)
    try:
        image_header(path, every)
    except ChoiceError:
        return reading
    return every
