"""Texts on pictures: labels beside objects, numbers inside them, each where it covers nothing else.

Coordinates are pixels of the picture; a rectangle is x1, y1, x2, y2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
Rectangles = npt.NDArray[np.float32]

SMALLEST = 9  # pixels; digits of a smaller font cannot be read
DARK: Colour = (24, 26, 31)
LIGHT: Colour = (240, 242, 245)


@lru_cache(maxsize=64)
def font_of(size: int) -> Font:
    """The font of this size in pixels."""
    return ImageFont.load_default(size)


def text_font(pen: ImageDraw.ImageDraw) -> Font:
    """The font for texts on a picture, larger on larger ones."""
    return font_of(_text_size_on(pen))


@lru_cache(maxsize=4096)
def text_size(text: str, font: Font) -> tuple[float, float]:
    """Width and height of a text with its margins; the height is the same for every text of a font."""
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ágjy")
    height = bottom - top
    return math.ceil(right - left + 0.5 * height), math.ceil(1.1 * height)


def shortened(text: str, font: Font, width: float, *, tail: float = 0.5) -> str:
    """The text, without its middle where it is wider than ``width``: names are told apart by both ends.

    Args:
        text: one line.
        font: in which it is to be written.
        width: pixels that there are.
        tail: 0 to 1, the fraction of what is kept that comes from the end of the text.
    """
    short, kept = text, len(text)
    while kept and font.getlength(short) > width:
        kept -= 1
        end = int(kept * tail)
        short = f"{text[: kept - end]}…{text[len(text) - end :]}"
    return short


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever is read more easily on ``colour``."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def write(
    pen: ImageDraw.ImageDraw,
    text: str,
    places: Sequence[tuple[float, float]],
    colour: Colour,
    font: Font,
    taken: Sequence[Rectangle] = (),
) -> Rectangle:
    """Write a text on its own ground, at the first of ``places`` that is still free, else at the first."""
    w, h = text_size(text, font)
    width, height = pen.im.size
    inside = [(max(0.0, min(x, width - w)), max(0.0, min(y, height - h))) for x, y in places]
    rectangles = [(x, y, x + w, y + h) for x, y in inside]
    chosen = next((r for r in rectangles if not any(_overlap(r, other) for other in taken)), rectangles[0])
    x, y, right, bottom = chosen
    pen.rectangle((x, y, right - 1, bottom - 1), fill=colour)
    pen.text(((x + right) / 2, (y + bottom) / 2), text, contrast(colour), font, anchor="mm")
    return chosen


def write_texts(
    pen: ImageDraw.ImageDraw,
    texts: Sequence[str],
    boxes: Sequence[Sequence[float]],
    colours: Sequence[Colour],
    *,
    summary: str = "",
) -> list[Rectangle]:
    """The summary in the top left corner, and each object's text at a corner of its box that is free.

    Returns:
        Where there is text now.
    """
    font = text_font(pen)
    taken: list[Rectangle] = []
    if summary:
        taken.append(write(pen, summary, [(0, 0)], DARK, font))
    for text, (x1, y1, x2, y2), colour in zip(texts, boxes, colours, strict=False):
        if not text:
            continue
        w, h = text_size(text, font)
        places = [(x1, y1 - h), (x1, y1), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2 - h), (x1, y2 - h)]
        taken.append(write(pen, text, places, colour, font, taken))
    return taken


def write_numbers(
    pen: ImageDraw.ImageDraw,
    numbers: Sequence[int],
    boxes: Sequence[Sequence[float]],
    taken: Sequence[Rectangle] = (),
) -> list[bool]:
    """A number in the middle of each object, in a font that fits, or beside it where there is room.

    Objects that are too small for a number that can be read, and too close to others to have it beside them,
    get none, so that numbers hide nothing.

    Args:
        pen: draws on the picture.
        numbers: one per object, or none at all.
        boxes: x1, y1, x2, y2 of each object.
        taken: where there is text already.

    Returns:
        Whether each number was written.
    """
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    texts = np.array([*taken, *[(0, 0, 0, 0)] * len(numbers)], np.float32).reshape(-1, 4)
    written = []
    for i, (number, box) in enumerate(zip(numbers, corners[: len(numbers)], strict=True), len(taken)):
        size, place = _place_of(str(number), box, _text_size_on(pen), texts)
        if place is None:
            size, place = SMALLEST, _beside(str(number), box, pen.im.size, np.concatenate([corners, texts]))
        if place is not None:
            middle = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
            pen.text(middle, str(number), LIGHT, font_of(size), "mm", stroke_width=1, stroke_fill=DARK)
            texts[i] = place
        written.append(place is not None)
    return written


def _text_size_on(pen: ImageDraw.ImageDraw) -> int:
    width, height = pen.im.size
    return max(12, round(0.024 * math.sqrt(width * height)))


def _digits_size(text: str, font: Font) -> tuple[float, float]:
    """Width and height of digits with their stroke."""
    left, top, right, bottom = font.getbbox(text)
    return right - left + 2, bottom - top + 2


def _place_of(text: str, box: Rectangles, largest: int, texts: Rectangles) -> tuple[int, Rectangle | None]:
    """The font size for a text in the middle of its box, and where; None if too small or not free."""
    width, height = _digits_size(text, font_of(100))
    # An ellipse leaves less room than its box.
    fitting = int(100 * 0.8 * min((box[2] - box[0]) / width, (box[3] - box[1]) / height))
    if fitting < SMALLEST:
        return SMALLEST, None
    size = min(largest, fitting)
    place = _centred(text, font_of(size), float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
    return size, None if _overlaps(place, texts).any() else place


def _beside(text: str, box: Rectangles, size: tuple[int, int], hindrances: Rectangles) -> Rectangle | None:
    """A place right, left, below or above of a box, inside the picture, that covers no hindrance."""
    font = font_of(SMALLEST)
    w, h = _digits_size(text, font)
    x1, y1, x2, y2 = map(float, box)
    # Beside an object at the border, too, a number is whole.
    x = min(max((x1 + x2) / 2, w / 2), size[0] - w / 2)
    y = min(max((y1 + y2) / 2, h / 2), size[1] - h / 2)
    for middle in (x2 + w / 2 + 1, y), (x1 - w / 2 - 1, y), (x, y2 + h / 2 + 1), (x, y1 - h / 2 - 1):
        place = _centred(text, font, *middle)
        inside = min(place) >= 0 and place[2] <= size[0] and place[3] <= size[1]
        if inside and not _overlaps(place, hindrances).any():
            return place
    return None


def _centred(text: str, font: Font, x: float, y: float) -> Rectangle:
    w, h = _digits_size(text, font)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _overlaps(one: Rectangle, others: Rectangles) -> npt.NDArray[np.bool_]:
    """Which of ``others`` ``[N, 4]`` share pixels with a rectangle."""
    first = np.maximum(np.array(one[:2], np.float32), others[:, :2])
    last = np.minimum(np.array(one[2:], np.float32), others[:, 2:])
    shared: npt.NDArray[np.bool_] = np.all(first < last, axis=1)
    return shared


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
