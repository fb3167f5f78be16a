"""Pictures of what was found: overlays, truth beside prediction, contact sheets.

Images are uint8 ``[3, H, W]`` in and out. An image whose longer side is below 400 pixels is first enlarged by
a whole factor k, so that outlines and text can be read; its overlay is ``[3, kH, kW]``. Masks are painted
window by window, so thousands of objects cost no more memory than the image.
"""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rcnn.structures import VOID, Instances, Masks

if TYPE_CHECKING:
    import numpy.typing as npt

    from rcnn.metrics.matches import ImageMatch

    Pixels = npt.NDArray[np.uint8]
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

READABLE = 400  # an image smaller than this is enlarged
MAX_LABELLED_OBJECTS = 60  # with more objects than this, their texts would cover the picture
MAX_BOXED_OBJECTS = 20  # with more objects than this, boxes around masks are clutter

FOUND: Colour = (0, 235, 185)
MISSED: Colour = (255, 64, 32)
SPURIOUS: Colour = (255, 214, 0)
IGNORED: Colour = (160, 160, 160)
BACKGROUND = "background"

# Told apart on photographs as well as on microscopy, the first two also by the colour-blind.
_PALETTE: tuple[Colour, ...] = (
    (0, 190, 255),
    (255, 136, 0),
    (80, 220, 60),
    (255, 70, 150),
    (170, 110, 255),
    (255, 221, 0),
    (0, 214, 170),
    (255, 80, 64),
    (90, 130, 255),
    (190, 230, 80),
)
_DARK: Colour = (24, 26, 31)
_LIGHT: Colour = (240, 242, 245)


def palette(number: int) -> list[Colour]:
    """The first ``number`` of an endless row of colours in which neighbours are easily told apart."""
    golden = (math.sqrt(5) - 1) / 2
    further = []
    for i in range(len(_PALETTE), number):
        # Lightness rather than value: a pure blue would be lost on a dark background.
        red, green, blue = colorsys.hls_to_rgb(i * golden % 1, 0.56 + 0.12 * (i % 2), 0.95 - 0.2 * (i % 3))
        further.append((round(255 * red), round(255 * green), round(255 * blue)))
    return [*_PALETTE[:number], *further]


def object_colours(instances: Instances) -> list[Colour]:
    """A colour for each object: its class's, or its own where masks are all of one class."""
    if len(instances.class_names) < 2 and instances.masks is not None:
        return palette(len(instances))
    colours = palette(max(instances.labels.tolist(), default=-1) + 1)
    return [colours[label] for label in instances.labels.tolist()]


def draw(
    image: Tensor,
    instances: Instances,
    *,
    labels: bool = True,
    boxes: bool | None = None,
    colours: Sequence[Colour] | None = None,
    opacity: float = 0.35,
) -> Tensor:
    """Draw objects onto a copy of their image.

    Args:
        image: uint8 ``[3, H, W]``, RGB.
        instances: its objects; masks, scores, keypoints and the semantic map are drawn where present.
        labels: write class and score on each object; where there are more than 60, their counts instead.
        boxes: draw the boxes; by default where there are no masks or no more than 20 objects.
        colours: RGB of each object, 0 to 255; by default :func:`object_colours`.
        opacity: of the masks, 0 to 1.

    Returns:
        uint8 ``[3, kH, kW]``, where k is 1 unless the image is smaller than 400 pixels.

    Raises:
        ValueError: an image of another type, size or number of channels, or too few colours.
    """
    _check(image, instances)
    chosen = object_colours(instances) if colours is None else list(colours)
    if len(chosen) != len(instances):
        raise ValueError(
            f"colours: {len(chosen)} given for {len(instances)} objects; give one for each object."
        )
    factor = _enlargement(image)
    pixels = _enlarged(image, factor)
    large_first = _areas(instances).argsort(descending=True).tolist()
    if instances.semantic is not None:
        _paint_classes(pixels, instances, factor=factor, opacity=opacity)
    if instances.masks is not None:
        _paint_masks(pixels, instances.masks, chosen, large_first, factor=factor, opacity=opacity)
    picture = Image.fromarray(pixels)
    pen = ImageDraw.Draw(picture)
    corners = (instances.boxes.cpu() * factor).tolist()
    if boxes is True or (boxes is None and (instances.masks is None or len(instances) <= MAX_BOXED_OBJECTS)):
        for i in large_first:
            _draw_box(pen, corners[i], chosen[i], _line_width(picture.size))
    if instances.keypoints is not None:
        bones = () if instances.skeleton is None else instances.skeleton.bones
        _draw_keypoints(pen, instances.keypoints.cpu() * torch.tensor([factor, factor, 1]), chosen, bones)
    if labels and instances.semantic is not None:
        _write_legend(pen, instances)
    if labels and (len(instances) or instances.semantic is None):
        _write_labels(pen, instances, corners, chosen)
    return _tensor(picture)


def semantic_colours(names: Sequence[str]) -> list[Colour | None]:
    """A colour for each class of pixels; None, left as it is, for the background."""
    colours = iter(palette(len(names)))
    return [None if name.casefold() == BACKGROUND else next(colours) for name in names]


def draw_comparison(image: Tensor, truth: Instances, predictions: Instances, match: ImageMatch) -> Tensor:
    """Truth at the left, predictions at the right; colours say which agree.

    Green: found, red: missed, yellow: spurious, grey: ignored.

    Args:
        image: uint8 ``[3, H, W]``, RGB.
        truth: its annotated objects; ignored are those that are neither found nor missed, such as crowds.
        predictions: its predicted objects, of any score; drawn are those that ``match`` names.
        match: which of the two belong together.

    Returns:
        uint8 ``[3, h, w]``: two overlays as :func:`draw` makes them, side by side under a legend.
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
    left = draw(image, truth, labels=named, boxes=truth.masks is None, colours=fates, opacity=0.25)
    found = predictions[drawn]
    right = draw(image, found, labels=named, boxes=found.masks is None, colours=verdicts, opacity=0.25)
    return _side_by_side(_panel(left, "truth", fates), _panel(right, "predicted", verdicts))


def draw_maps(image: Tensor, truth: Instances, predictions: Instances) -> Tensor:
    """The classes of pixels, truth at the left and predictions at the right, as :func:`draw` paints them.

    Args:
        image: uint8 ``[3, H, W]``, RGB.
        truth: with a semantic map; objects are not drawn.
        predictions: likewise.
    """
    left, right = (draw(image, each[:0], opacity=0.6) for each in (truth, predictions))
    return torch.cat([left, left.new_full((3, left.shape[1], 8), _DARK[0]), right], 2)


def contact_sheet(
    images: Sequence[Tensor], captions: Sequence[str], *, columns: int = 4, tile: int = 320
) -> Tensor:
    """Many images on one sheet, each inside a square of ``tile`` pixels with its caption below.

    Args:
        images: uint8 ``[3, H, W]`` of any sizes.
        captions: one line each; shortened where longer than the square is wide.
        columns: images in a row.
        tile: side of a square in pixels.

    Returns:
        uint8 ``[3, h, w]`` with ``ceil(N / columns)`` rows.

    Raises:
        ValueError: no images, or not one caption for each.
    """
    if not images or len(images) != len(captions):
        raise ValueError(
            f"contact_sheet: {len(images)} images and {len(captions)} captions; "
            "give at least one image, and a caption for each."
        )
    font = _font(max(11, tile // 22))
    gap, line = max(4, tile // 40), math.ceil(_text_size("Ágjy", font)[1] * 1.5)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (gap + columns * (tile + gap), gap + rows * (tile + line + gap)), _DARK)
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = gap + i % columns * (tile + gap), gap + i // columns * (tile + line + gap)
        small = _fitted(Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy()), tile)
        sheet.paste(small, (x + (tile - small.width) // 2, y + (tile - small.height) // 2))
        pen.text((x, y + tile + line / 2), _shortened(caption, font, tile), _LIGHT, font, anchor="lm")
    return _tensor(sheet)


def _check(image: Tensor, instances: Instances) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"image: found {image.dtype} {list(image.shape)}, expected uint8 [3, H, W]; "
            "scale floats by 255 and repeat a single channel three times."
        )
    if tuple(image.shape[1:]) != tuple(instances.size):
        raise ValueError(
            f"instances: on an image of (height, width) {tuple(instances.size)}, the image given has "
            f"{tuple(image.shape[1:])}; give the image that the objects were found on."
        )


def _enlargement(image: Tensor) -> int:
    longer: int = max(1, *image.shape[1:])
    return max(1, math.ceil(READABLE / longer))


def _enlarged(image: Tensor, factor: int) -> Pixels:
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    return np.array(picture)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _areas(instances: Instances) -> Tensor:
    boxes = instances.boxes.cpu()
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _line_width(size: tuple[int, int]) -> int:
    return max(1, round(max(size) / 400))


def _paint_masks(
    pixels: Pixels,
    masks: Masks,
    colours: Sequence[Colour],
    order: Sequence[int],
    *,
    factor: int,
    opacity: float,
) -> None:
    """Blend each mask into ``pixels`` and draw its outline in full colour, inside its window alone."""
    width = _line_width((pixels.shape[1], pixels.shape[0]))
    patches, windows = list(masks.patches()), (masks.windows.cpu() * factor).tolist()
    for i in order:
        patch = patches[i].cpu().numpy().astype(bool).repeat(factor, 0).repeat(factor, 1)
        if not patch.any():
            continue
        x1, y1, x2, y2 = windows[i]
        region = pixels[y1:y2, x1:x2]
        colour = np.array(colours[i], dtype=np.float32)
        region[patch] = (region[patch] * (1 - opacity) + colour * opacity).round().astype(np.uint8)
        # A small object keeps an inside to be seen.
        thin = min(width, 1 + min(patch.shape) // 16)
        region[patch & ~_eroded(patch, thin)] = colours[i]


def _paint_classes(pixels: Pixels, instances: Instances, *, factor: int, opacity: float) -> None:
    """Blend the colour of each pixel's class into ``pixels``; the void becomes grey."""
    assert instances.semantic is not None
    classes = instances.semantic.cpu().numpy().repeat(factor, 0).repeat(factor, 1)
    for value, colour in (*enumerate(semantic_colours(instances.semantic_names)), (VOID, IGNORED)):
        inside = classes == value
        if colour is not None and inside.any():
            blended = pixels[inside] * (1 - opacity) + np.array(colour, dtype=np.float32) * opacity
            pixels[inside] = blended.round().astype(np.uint8)


def _write_legend(pen: ImageDraw.ImageDraw, instances: Instances) -> None:
    """The names of the classes of pixels that occur, in their colours, from the lower left corner up."""
    assert instances.semantic is not None
    width, height = pen.im.size
    font = _font(max(12, round(0.024 * math.sqrt(width * height))))
    present = set(np.unique(instances.semantic.cpu().numpy()).tolist())
    colours = semantic_colours(instances.semantic_names)
    bottom = float(height)
    for value, (name, colour) in enumerate(zip(instances.semantic_names, colours, strict=True)):
        if value in present and colour is not None:
            bottom -= _text_size(name, font)[1]
            _write(pen, name, [(0, bottom)], colour, font, ())


def _eroded(patch: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.bool_]:
    """The mask without its outermost ``times`` pixels; beyond the window is outside."""
    for _ in range(times):
        framed = np.pad(patch, 1)
        patch = patch & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return patch


def _draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = box
    # Pillow's corners are inclusive pixels; ours end where the next pixel begins.
    pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: Tensor,
    colours: Sequence[Colour],
    bones: Sequence[tuple[int, int]],
) -> None:
    """Dots where visibility or score is above 0, and a line where both ends of a bone are."""
    width = _line_width(pen.im.size)
    radius = 1.5 * width + 1
    for points, colour in zip(keypoints.tolist(), colours, strict=True):
        for start, end in bones:
            if points[start][2] > 0 and points[end][2] > 0:
                pen.line((*points[start][:2], *points[end][:2]), fill=colour, width=width)
        for x, y, visible in points:
            if visible > 0:
                disc = (x - radius, y - radius, x + radius, y + radius)
                pen.ellipse(disc, fill=colour, outline=_contrast(colour))


def _write_labels(
    pen: ImageDraw.ImageDraw,
    instances: Instances,
    corners: Sequence[Sequence[float]],
    colours: Sequence[Colour],
) -> None:
    width, height = pen.im.size
    font = _font(max(12, round(0.024 * math.sqrt(width * height))))
    taken: list[Rectangle] = []
    one_class = len(instances.class_names) < 2
    if len(instances) > MAX_LABELLED_OBJECTS or one_class:
        taken.append(_write(pen, _counts(instances), [(0, 0)], _DARK, font, ()))
    if len(instances) > MAX_LABELLED_OBJECTS:
        return
    for text, (x1, y1, x2, y2), colour in zip(_texts(instances, one_class), corners, colours, strict=True):
        if not text:
            continue
        w, h = _text_size(text, font)
        places = [(x1, y1 - h), (x1, y1), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2 - h), (x1, y2 - h)]
        taken.append(_write(pen, text, places, colour, font, taken))


def _texts(instances: Instances, one_class: bool) -> list[str]:
    """Class and score of each object; the score alone where the class goes without saying."""
    names = [""] * len(instances) if one_class else instances.names
    scores = (
        [""] * len(instances) if instances.scores is None else [f"{s:.2f}" for s in instances.scores.tolist()]
    )
    return [f"{name} {score}".strip() for name, score in zip(names, scores, strict=True)]


def _counts(instances: Instances) -> str:
    """Such as ``12 nucleus`` or ``70 RBC, 2 WBC``, the most frequent first."""
    if not instances.class_names:
        return f"{len(instances)} objects"
    if len(instances) == 0:
        return f"0 {instances.class_names[0]}"
    return ", ".join(f"{count} {name}" for name, count in Counter(instances.names).most_common())


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    places: Sequence[tuple[float, float]],
    colour: Colour,
    font: Font,
    taken: Sequence[Rectangle],
) -> Rectangle:
    """Write a text on its own ground, at the first of ``places`` that is still free, else at the first."""
    w, h = _text_size(text, font)
    width, height = pen.im.size
    inside = [(max(0.0, min(x, width - w)), max(0.0, min(y, height - h))) for x, y in places]
    rectangles = [(x, y, x + w, y + h) for x, y in inside]
    chosen = next((r for r in rectangles if not any(_overlap(r, other) for other in taken)), rectangles[0])
    x, y, right, bottom = chosen
    pen.rectangle((x, y, right - 1, bottom - 1), fill=colour)
    pen.text(((x + right) / 2, (y + bottom) / 2), text, _contrast(colour), font, anchor="mm")
    return chosen


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=32)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _text_size(text: str, font: Font) -> tuple[float, float]:
    """Width and height of a text with its margins; the height is the same for every text of a font."""
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ágjy")
    height = bottom - top
    return math.ceil(right - left + 0.5 * height), math.ceil(1.1 * height)


def _shortened(text: str, font: Font, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _contrast(colour: Colour) -> Colour:
    """Black or white, whichever is read more easily on ``colour``."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _panel(overlay: Tensor, title: str, verdicts: Sequence[Colour]) -> Image.Image:
    """An overlay under a strip that says what it is and counts the colours on it."""
    names = {FOUND: "found", MISSED: "missed", SPURIOUS: "spurious", IGNORED: "ignored"}
    counts = Counter(verdicts)
    entries = [(colour, f"{counts[colour]} {name}") for colour, name in names.items() if counts[colour]]
    height, width = overlay.shape[1:]
    font = _font(max(13, round(0.026 * math.sqrt(width * height))))
    strip, gap = math.ceil(_text_size(title, font)[1] * 1.5), font.getlength("nn")
    head = f"{title} {len(verdicts)}"
    needed = gap + font.getlength(head) + sum(2.5 * gap + font.getlength(text) for _, text in entries)
    panel = Image.new("RGB", (max(width, math.ceil(needed)), height + strip), _DARK)
    panel.paste(Image.fromarray(overlay.permute(1, 2, 0).numpy()), ((panel.width - width) // 2, strip))
    pen = ImageDraw.Draw(panel)
    x = gap / 2
    pen.text((x, strip / 2), head, _LIGHT, font, anchor="lm")
    x += font.getlength(head)
    for colour, text in entries:
        x += gap
        pen.rectangle((x, strip * 0.3, x + strip * 0.4, strip * 0.7), fill=colour)
        x += strip * 0.4 + gap / 2
        pen.text((x, strip / 2), text, _LIGHT, font, anchor="lm")
        x += font.getlength(text)
    return panel


def _side_by_side(left: Image.Image, right: Image.Image) -> Tensor:
    gap = max(4, left.width // 100)
    both = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), _DARK)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return _tensor(both)
