"""Selective search (Uijlings et al. 2013, IJCV 104): proposals by merging segments that look alike.

Fast mode with the settings of R-CNN's published code. The segmentation and the merging are OpenCV's, from its
contrib module (the extra ``selective-search``).

Differs from the paper: a box's place is a random number times its place among all boxes by size, the largest
first, where the paper takes its place in the hierarchy of merging. OpenCV ranks likewise, but draws from
the C library's global generator, so that no two calls give the same order; it does not expose the hierarchy.

Legend: P proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.config.ranges import check_ranges, ranged
from rcnn.extras import install_command


@dataclass(frozen=True)
class SelectiveSearchSettings:
    """Selective search in fast mode; the defaults are those of R-CNN's published code.

    Attributes:
        width: the image is resized to this width first; None keeps its own.
        ks: scales of the first segmentation: larger means larger segments, and is their least size in pixels.
        sigma: standard deviation of the Gaussian before the segmentation, in pixels.
        min_side: boxes with a shorter side, in pixels of the resized image, are dropped.
        count: P, the maximum number of proposals per image.
        seed: random seed of the order of the proposals.
    """

    width: int | None = ranged(500, 1, 100000)
    ks: tuple[int, ...] = ranged((50, 100), 1, 1e6)
    sigma: float = ranged(0.8, 0, 1000)
    min_side: float = ranged(20.0, 0, 100000)
    count: int = ranged(2000, 1, 1e7)
    seed: int = ranged(0, 0, 2147483647)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting outside its range, named.
        """
        if self.width is not None and self.width < 1:
            raise ValueError(f"width must be at least 1 pixel, or None, not {self.width}.")
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be one or more numbers of at least 1, not {self.ks}.")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}.")
        check_ranges(self)


def selective_search(
    image: npt.NDArray[np.uint8], settings: SelectiveSearchSettings | None = None
) -> npt.NDArray[np.float32]:
    """Boxes that may hold an object, float32 ``[P, 4]`` in pixels of the image, best first.

    The same image and settings give the same boxes in the same order, on every platform with the same OpenCV.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        settings: those of R-CNN's code where None.

    Raises:
        ValueError: not such an image, or OpenCV's contrib module is not installed (the message says how).
    """
    settings = settings or SelectiveSearchSettings()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
    pixels = np.ascontiguousarray(image)
    resized = _resized(pixels, settings.width)
    boxes = ranked(_merged_boxes(resized, settings), settings.seed)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= settings.min_side).all(1)][: settings.count]
    # Whole images only: the factors of both sides differ by the rounding of the resized height.
    factors = [pixels.shape[1] / resized.shape[1], pixels.shape[0] / resized.shape[0]]
    scaled: npt.NDArray[np.float32] = (boxes * np.array(factors * 2)).astype(np.float32)
    return scaled


def ranked(boxes: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Each distinct box once: in order of a random number times its place by area, the largest first."""
    boxes = np.unique(boxes, axis=0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    by_size = boxes[np.argsort(-areas, kind="stable")]
    places = np.arange(1, len(boxes) + 1) * np.random.default_rng(seed).random(len(boxes))
    ordered: npt.NDArray[np.int64] = by_size[np.argsort(places, kind="stable")]
    return ordered


def _resized(pixels: npt.NDArray[np.uint8], width: int | None) -> npt.NDArray[np.uint8]:
    if width is None or width == pixels.shape[1]:
        return pixels
    cv2 = require_opencv()
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    shrinks = width < pixels.shape[1]
    resized: npt.NDArray[np.uint8] = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized


def _merged_boxes(pixels: npt.NDArray[np.uint8], settings: SelectiveSearchSettings) -> npt.NDArray[np.int64]:
    """Corners ``[P, 4]`` of all segments and their unions, in no particular order."""
    cv2 = require_opencv()
    parts = cv2.ximgproc.segmentation
    search = parts.createSelectiveSearchSegmentation()
    for space in (cv2.COLOR_RGB2HSV, cv2.COLOR_RGB2Lab):
        search.addImage(cv2.cvtColor(pixels, space))
    for k in settings.ks:
        search.addGraphSegmentation(parts.createGraphSegmentation(settings.sigma, float(k), k))
    for names in (("Color", "Texture", "Size", "Fill"), ("Texture", "Size", "Fill")):
        search.addStrategy(_similarity(parts, names))
    corners = np.asarray(search.process(), dtype=np.int64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners


def _similarity(parts: Any, names: tuple[str, ...]) -> Any:
    """The mean of several measures of how alike two segments are."""
    together = parts.createSelectiveSearchSegmentationStrategyMultiple()
    for name in names:
        measure = getattr(parts, f"createSelectiveSearchSegmentationStrategy{name}")()
        together.addStrategy(measure, 1 / len(names))
    return together


def require_opencv() -> Any:
    """OpenCV with its contrib modules, without which there is no selective search.

    Raises:
        ValueError: it is not installed; says how to install it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"selective search needs OpenCV's contrib module: {install_command('selective-search')}"
        ) from error
    if not hasattr(cv2, "ximgproc"):
        raise ValueError(
            "selective search needs OpenCV's contrib module, and the OpenCV installed here has none: "
            f"pip uninstall opencv-python opencv-python-headless && {install_command('selective-search')}"
        )
    return cv2
