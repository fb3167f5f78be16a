"""Truth and predictions side by side, and crops of objects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from rcnn.draw import IGNORED, Pixels, readable_scale, semantic_colours, side_by_side, titled
from rcnn.lettering import Colour
from rcnn.metrics.matches import ImageMatch
from rcnn.structures import Array, Instances, Masks

FOUND: Colour = (0, 235, 185)
MISSED: Colour = (255, 64, 32)
SPURIOUS: Colour = (255, 214, 0)
MOST_NAMED = 6  # pixel classes in a legend
LARGEST_DRAWN = 1800  # longer side in pixels, above which an image is drawn smaller
CROP = 260  # pixels, the longer side of a crop
CROP_LINE = 3  # pixels
CONTEXT = 0.8  # of the longer side of an object, shown around it
LEAST_CONTEXT = 14.0  # pixels
VERDICTS = {FOUND: "found", MISSED: "missed", SPURIOUS: "spurious", IGNORED: "ignored"}


@dataclass(frozen=True)
class Panel:
    """One of the pictures of a comparison.

    Attributes:
        title: what it shows.
        picture: the overlay.
        legend: the colours on it, and what and how many they mean.
    """

    title: str
    picture: Image.Image
    legend: tuple[tuple[Colour, str], ...] = ()


def draw_comparison(
    image: Pixels, truth: Instances, predictions: Instances, match: ImageMatch
) -> Image.Image:
    """The panels of :func:`compare` in one picture, truth on the left, each under its title."""
    panels = compare(image, truth, predictions, match)
    return side_by_side(*(titled(panel.picture, panel.title, panel.legend) for panel in panels))


def compare(
    image: Pixels, truth: Instances, predictions: Instances, match: ImageMatch
) -> tuple[Panel, Panel]:
    """Truth and predictions; colours show which agree.

    Green: found, red: missed, yellow: spurious, grey: ignored.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        truth: its annotated objects; ignored are those that are neither found nor missed, such as crowds.
        predictions: its predicted objects, of any score; drawn are those that ``match`` names.
        match: which of the two belong together.
    """
    fates = [IGNORED] * len(truth)
    for i in match.matched_truths:
        fates[i] = FOUND
    for i in match.missed_truths:
        fates[i] = MISSED
    spurious = set(match.spurious_predictions)
    drawn = sorted({*match.matched_predictions, *spurious})
    verdicts = [SPURIOUS if i in spurious else FOUND for i in drawn]
    named = max(len(truth.class_names), len(predictions.class_names)) > 1
    return (
        _panel(image, truth, "truth", fates, named),
        _panel(image, predictions[drawn], "predicted", verdicts, named),
    )


def compare_maps(image: Pixels, truth: Instances, predictions: Instances) -> tuple[Panel, Panel]:
    """The pixel classes of truth and predictions; objects are not drawn.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        truth: with a semantic map.
        predictions: likewise.
    """
    return _map_panel(image, truth, "truth"), _map_panel(image, predictions, "predicted")


def _map_panel(image: Pixels, objects: Instances, title: str) -> Panel:
    """The pixel classes alone, with the largest of them in the legend."""
    picture = objects[:0].overlay(image, labels=False, opacity=0.6, scale=readable_scale(objects.size))
    names = objects.semantic_names
    classes = np.zeros(0, np.int64) if objects.semantic is None else objects.semantic.reshape(-1)
    pixels = np.bincount(classes.astype(np.int64), minlength=len(names))[: len(names)]
    colours = semantic_colours(names)
    legend = [
        (colour, names[label])
        for label in np.argsort(-pixels, kind="stable").tolist()
        if pixels[label] and (colour := colours[label]) is not None
    ]
    return Panel(title, picture, tuple(legend[:MOST_NAMED]))


def _panel(image: Pixels, objects: Instances, title: str, verdicts: Sequence[Colour], named: bool) -> Panel:
    """An overlay, with the number of objects in its title and of each colour in its legend."""
    picture = replace(objects, semantic=None).overlay(
        image, labels=named, boxes=objects.masks is None, colours=verdicts, opacity=0.25,
        scale=readable_scale(objects.size),
    )  # fmt: skip
    counts = Counter(verdicts)
    legend = ((colour, f"{counts[colour]} {name}") for colour, name in VERDICTS.items() if counts[colour])
    return Panel(f"{title} {len(verdicts)}", picture, tuple(legend))


def shrunk(image: Pixels, *objects: Instances) -> tuple[Pixels, Instances, Instances]:
    """A large image, its truth and its predictions, reduced by an integer factor."""
    truth, predicted = objects
    step = math.ceil(max(image.shape[:2]) / LARGEST_DRAWN)
    if step <= 1:
        return image, truth, predicted
    small = image[::step, ::step]
    size = (small.shape[0], small.shape[1])
    return small, _smaller(truth, step, size), _smaller(predicted, step, size)


def _smaller(instances: Instances, step: int, size: tuple[int, int]) -> Instances:
    masks = instances.masks
    if masks is not None:
        corners = [(y, x) for x, y, _, _ in masks.windows.tolist()]
        # The pixels of a window that are on the rows and columns that are kept.
        patches = [
            p[-y % step :: step, -x % step :: step]
            for p, (y, x) in zip(masks.patches(), corners, strict=True)
        ]
        origins = [(-(-y // step), -(-x // step)) for y, x in corners]
        masks = Masks.from_patches(patches, origins, size)
    points = instances.keypoints
    if points is not None:
        points = np.concatenate([points[..., :2] / np.float32(step), points[..., 2:]], -1)
    semantic = None if instances.semantic is None else instances.semantic[::step, ::step]
    boxes = instances.boxes / np.float32(step)
    return replace(instances, size=size, boxes=boxes, masks=masks, keypoints=points, semantic=semantic)


def cropped(image: Pixels, boxes: Array, colours: Sequence[Colour]) -> Image.Image:
    """Objects in their surroundings, outlined; a square where the image allows it.

    Args:
        image: uint8 ``[H, W, C]``.
        boxes: ``[N, 4]`` in its pixels; the first is drawn on top.
        colours: one per box.
    """
    boxes = boxes.astype(np.float64)
    corners = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])  # x1 y1 x2 y2
    longer = float((corners[2:] - corners[:2]).max())
    half = longer / 2 + max(CONTEXT * longer / 2, LEAST_CONTEXT)
    centre = (corners[:2] + corners[2:]) / 2
    limits = np.array(image.shape[1::-1])
    x1, y1 = np.floor(centre - half).clip(0, limits - 1).astype(int).tolist()
    x2, y2 = np.ceil(centre + half).clip(1, limits).astype(int).tolist()
    step = max(1, max(x2 - x1, y2 - y1) // (2 * CROP))
    pixels = image[y1:y2:step, x1:x2:step]
    picture = Instances.empty((pixels.shape[0], pixels.shape[1])).overlay(pixels, labels=False)
    factor = CROP / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    for box, colour in zip(boxes[::-1], colours[::-1], strict=True):
        place = (box - np.array([x1, y1, x1, y1])) / step * factor
        pen.rectangle(place.tolist(), outline=colour, width=CROP_LINE)
    return picture
