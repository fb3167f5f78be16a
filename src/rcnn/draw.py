"""Pictures of what was found: overlays and contact sheets, from plain arrays.

Images are uint8 ``[H, W, 3]``, RGB; pictures are Pillow images. An overlay has the size of its image, or
that size times a whole factor. Masks are painted window by window, so thousands of objects take no more
memory than the image.

Legend: N objects, H and W image height and width, h and w those of one mask's window.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from rcnn.lettering import (
    DARK,
    LIGHT,
    Colour,
    contrast,
    font_of,
    shortened,
    text_font,
    text_size,
    write,
    write_numbers,
    write_texts,
)

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

MIN_READABLE = 400  # pixels; what people look at is enlarged to at least this
MAX_LABELLED_OBJECTS = 60  # with more objects than this, their texts would cover the picture
MAX_RATIO = 3.0  # of a picture's sides on a contact sheet; longer ones would leave others no room
MAX_BOXED_OBJECTS = 20  # with more objects than this, boxes around masks are clutter

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


def palette(number: int) -> list[Colour]:
    """The first ``number`` of an endless row of colours in which neighbours are easily told apart."""
    golden = (math.sqrt(5) - 1) / 2
    further = []
    for i in range(len(_PALETTE), number):
        # Lightness rather than value: a pure blue would be lost on a dark background.
        red, green, blue = colorsys.hls_to_rgb(i * golden % 1, 0.56 + 0.12 * (i % 2), 0.95 - 0.2 * (i % 3))
        further.append((round(255 * red), round(255 * green), round(255 * blue)))
    return [*_PALETTE[:number], *further]


@dataclass(frozen=True)
class Scene:
    """What is drawn on one image; ``None`` or empty where there is nothing of it.

    Attributes:
        boxes: ``[N, 4]``, x1 y1 x2 y2 in pixels; always there, drawn where there are no masks or few objects.
        colours: RGB of each object, 0 to 255.
        texts: what is written beside each object; empty texts are left out.
        numbers: what is written into each object, as far as it can be read there.
        summary: one text in the top left corner, such as the counts.
        patches: a bitmap ``[h, w]`` per object.
        windows: ``[N, 4]``, where the patches are.
        keypoints: ``[N, K, 3]``; those with a third value above 0 are drawn.
        bones: pairs of keypoints to join.
        classes: integers ``[H, W]``, the class of every pixel.
        class_names: what they index; values beyond are void.
        legend: write the names of the pixel classes that occur.
    """

    boxes: Array
    colours: Sequence[Colour]
    texts: Sequence[str] = ()
    numbers: Sequence[int] = ()
    summary: str = ""
    patches: Sequence[Array] | None = None
    windows: Array | None = None
    keypoints: Array | None = None
    bones: Sequence[tuple[int, int]] = ()
    classes: Array | None = None
    class_names: Sequence[str] = ()
    legend: bool = True


def draw(
    image: Pixels, scene: Scene, *, boxes: bool | None = None, opacity: float = 0.35, scale: int = 1
) -> Image.Image:
    """Draw a scene onto a copy of its image.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        scene: its objects and pixel classes.
        boxes: draw the boxes; by default where there are no masks or at most 20 objects.
        opacity: of the masks and pixel classes, 0 to 1.
        scale: the picture is so many times as wide and high as the image, at least 1.

    Raises:
        ValueError: an image of another type or number of channels, not one colour per object, or a scale
            that is no whole number from 1 on.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image: found {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]; "
            "scale floats by 255 and repeat a single channel three times."
        )
    if len(scene.colours) != len(scene.boxes):
        raise ValueError(f"colours: {len(scene.colours)} for {len(scene.boxes)} objects; give one for each.")
    if scale != int(scale) or scale < 1:
        raise ValueError(f"scale {scale}: expected a whole number from 1 on")
    pixels = _enlarged(image, scale)
    sides = scene.boxes[:, 2:] - scene.boxes[:, :2]
    large_first = np.argsort(-sides.prod(1), kind="stable").tolist()
    if scene.classes is not None:
        _paint_classes(pixels, scene, scale, opacity)
    picture = Image.fromarray(pixels)
    if scene.patches is not None:
        _paint_masks(picture, scene, large_first, scale, opacity)
    pen = ImageDraw.Draw(picture)
    corners = (scene.boxes.astype(np.float32) * scale).tolist()
    if boxes is True or (boxes is None and (scene.patches is None or len(corners) <= MAX_BOXED_OBJECTS)):
        for i in large_first:
            _draw_box(pen, corners[i], scene.colours[i], _line_width(picture.size))
    if scene.keypoints is not None:
        _draw_keypoints(pen, scene, scale)
    if scene.classes is not None and scene.legend:
        _write_legend(pen, scene)
    taken = write_texts(pen, scene.texts, corners, scene.colours, summary=scene.summary)
    write_numbers(pen, scene.numbers, corners, taken)
    return picture


def readable_scale(size: tuple[int, int]) -> int:
    """The whole factor at which outlines and texts on an image of (height, width) ``size`` can be read."""
    return max(1, math.ceil(MIN_READABLE / max(1, *size)))


def semantic_colours(names: Sequence[str]) -> list[Colour | None]:
    """A colour for each class of pixels; None, left as it is, for the background."""
    colours = iter(palette(len(names)))
    return [None if name.casefold() == BACKGROUND else next(colours) for name in names]


def contact_sheet(
    images: Sequence[Image.Image | Pixels], captions: Sequence[str], *, columns: int = 4, tile: int = 320
) -> Image.Image:
    """Many images on one sheet in rows, the images of a row equally high, each with its caption below.

    Rows are as wide as ``columns`` squares of ``tile`` pixels, so that no room is lost beside or above images
    that are not square; only images more than three times as wide as high, or the other way round, are set in
    a frame.

    Args:
        images: pictures of any sizes, or arrays uint8 ``[H, W, 3]``.
        captions: lines below each image; shortened in the middle where they are wider than the image.
        columns: images per row.
        tile: mean width of the images in pixels.

    Raises:
        ValueError: no images, or not one caption for each.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f"contact_sheet: {len(images)} images and {len(captions)} captions; "
            "give at least one image, and a caption for each."
        )
    columns = min(columns, len(images))
    gap = max(4, tile // 40)
    pictures = [image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images]
    rows = [
        _sheet_row(pictures[i : i + columns], captions[i : i + columns], tile, gap)
        for i in range(0, len(images), columns)
    ]
    height = gap + sum(row.height + gap for row in rows)
    sheet = Image.new("RGB", (gap + columns * (tile + gap), height), DARK)
    y = gap
    for row in rows:
        sheet.paste(row, (gap, y))
        y += row.height + gap
    return sheet


def _sheet_row(pictures: Sequence[Image.Image], captions: Sequence[str], tile: int, gap: int) -> Image.Image:
    """Pictures of one height side by side, together as wide as squares of ``tile``, over their captions."""
    font = font_of(max(11, tile // 18))
    line = math.ceil(text_size("Ágjy", font)[1] * 1.2)
    lines = [caption.split("\n") for caption in captions]
    ratios = [min(max(one.width / one.height, 1 / MAX_RATIO), MAX_RATIO) for one in pictures]
    height = min(round(len(pictures) * tile / sum(ratios)), 2 * tile)
    widths = [max(1, round(height * ratio)) for ratio in ratios]
    total = len(pictures) * (tile + gap) - gap
    row = Image.new("RGB", (total, height + line * max(map(len, lines))), DARK)
    pen = ImageDraw.Draw(row)
    x = 0
    for picture, width, texts in zip(pictures, widths, lines, strict=True):
        small = _fitted(picture, width, height)
        row.paste(small, (x + (width - small.width) // 2, (height - small.height) // 2))
        for i, text in enumerate(texts):
            # The first line is a name; lists that follow begin with what matters most.
            short = shortened(text, font, width, tail=0.5 if i == 0 else 0)
            pen.text((x, height + (i + 0.5) * line), short, LIGHT, font, anchor="lm")
        x += width + gap
    return row


def titled(picture: Image.Image, title: str, legend: Sequence[tuple[Colour, str]] = ()) -> Image.Image:
    """A picture under a strip with a title and, behind it, colours and what they mean."""
    font = font_of(max(13, round(0.026 * math.sqrt(picture.width * picture.height))))
    strip, gap = math.ceil(text_size(title, font)[1] * 1.5), font.getlength("nn")
    needed = gap + font.getlength(title) + sum(2.5 * gap + font.getlength(text) for _, text in legend)
    panel = Image.new("RGB", (max(picture.width, math.ceil(needed)), picture.height + strip), DARK)
    panel.paste(picture, ((panel.width - picture.width) // 2, strip))
    pen = ImageDraw.Draw(panel)
    x = gap / 2
    pen.text((x, strip / 2), title, LIGHT, font, anchor="lm")
    x += font.getlength(title)
    for colour, text in legend:
        x += gap
        pen.rectangle((x, strip * 0.3, x + strip * 0.4, strip * 0.7), fill=colour)
        x += strip * 0.4 + gap / 2
        pen.text((x, strip / 2), text, LIGHT, font, anchor="lm")
        x += font.getlength(text)
    return panel


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures in one, with a gap between them."""
    gap = max(4, left.width // 100)
    both = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), DARK)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + gap, 0))
    return both


def _enlarged(image: Pixels, factor: int) -> Pixels:
    if factor == 1:
        return image.copy()
    picture = Image.fromarray(image)
    size = (picture.width * factor, picture.height * factor)
    return np.array(picture.resize(size, Image.Resampling.BICUBIC))


def _line_width(size: tuple[int, int]) -> int:
    return max(1, round(max(size) / 400))


def _paint_masks(
    picture: Image.Image, scene: Scene, order: Sequence[int], factor: int, opacity: float
) -> None:
    """Blend each mask into ``picture`` and draw its outline in full colour, inside its window alone."""
    assert scene.patches is not None
    assert scene.windows is not None
    width = _line_width(picture.size)
    windows = (scene.windows * factor).tolist()
    values = np.arange(256) * (1 - opacity)
    for i in order:
        patch = scene.patches[i].astype(np.bool_)
        patch = patch if factor == 1 else patch.repeat(factor, 0).repeat(factor, 1)
        if not patch.any():
            continue
        colour, place = scene.colours[i], tuple(windows[i])
        tint = np.array(colour, np.float32)[:, None] * np.float32(opacity)
        becomes = (values + tint).round().reshape(-1).tolist()  # of the 256 values of each channel
        picture.paste(picture.crop(place).point(becomes), place, _stencil(patch))
        # A small object keeps an inside to be seen.
        thin = min(width, 1 + min(patch.shape) // 16)
        picture.paste(colour, place, _stencil(patch & ~_eroded(patch, thin)))


def _stencil(patch: npt.NDArray[np.bool_]) -> Image.Image:
    """A bitmap as Pillow pastes through it."""
    return Image.fromarray(patch.view(np.uint8) * np.uint8(255))


def _paint_classes(pixels: Pixels, scene: Scene, factor: int, opacity: float) -> None:
    """Blend the colour of each pixel's class into ``pixels``; the void becomes grey."""
    assert scene.classes is not None
    classes = scene.classes.repeat(factor, 0).repeat(factor, 1)
    known = [(classes == value, c) for value, c in enumerate(semantic_colours(scene.class_names))]
    for inside, colour in (*known, (classes >= len(scene.class_names), IGNORED)):
        if colour is not None and inside.any():
            blended = pixels[inside] * (1 - opacity) + np.array(colour, dtype=np.float32) * opacity
            pixels[inside] = blended.round().astype(np.uint8)


def _write_legend(pen: ImageDraw.ImageDraw, scene: Scene) -> None:
    """The names of the pixel classes that occur, in their colours, from the bottom left corner up."""
    assert scene.classes is not None
    font = text_font(pen)
    present = set(np.unique(scene.classes).tolist())
    bottom = float(pen.im.size[1])
    for value, (name, colour) in enumerate(
        zip(scene.class_names, semantic_colours(scene.class_names), strict=True)
    ):
        if value in present and colour is not None:
            bottom -= text_size(name, font)[1]
            write(pen, name, [(0, bottom)], colour, font)


def _eroded(patch: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.bool_]:
    """The mask without its outermost ``times`` pixels; beyond the window is outside."""
    framed = np.pad(patch, times)
    for _ in range(times):
        inside = framed[1:-1, 1:-1] & framed[:-2, 1:-1]
        for neighbour in (framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:]):
            inside &= neighbour
        framed = inside
    return framed


def _draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = box
    # Pillow's corners are inclusive pixels; ours end where the next pixel begins.
    pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)


def _draw_keypoints(pen: ImageDraw.ImageDraw, scene: Scene, factor: int) -> None:
    """Dots where visibility or score is above 0, and a line where both ends of a bone are."""
    assert scene.keypoints is not None
    width = _line_width(pen.im.size)
    radius = 1.5 * width + 1
    scaled = scene.keypoints.astype(np.float32) * np.array([factor, factor, 1], np.float32)
    for points, colour in zip(scaled.tolist(), scene.colours, strict=True):
        for start, end in scene.bones:
            if points[start][2] > 0 and points[end][2] > 0:
                pen.line((*points[start][:2], *points[end][:2]), fill=colour, width=width)
        for x, y, visible in points:
            if visible > 0:
                disc = (x - radius, y - radius, x + radius, y + radius)
                pen.ellipse(disc, fill=colour, outline=contrast(colour))


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The picture as large as it can be within a width and a height."""
    scale = min(width / picture.width, height / picture.height)
    size = (
        min(width, max(1, round(picture.width * scale))),
        min(height, max(1, round(picture.height * scale))),
    )
    return picture.resize(size, Image.Resampling.LANCZOS)
