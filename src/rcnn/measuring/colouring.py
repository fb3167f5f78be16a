"""Objects coloured by what was measured, and the bar that says what the colours mean.

The colours are matplotlib's *viridis*: ordered also for the colour-blind and in grey. By default they reach
from the 2nd to the 98th percentile of each image, and values beyond have the colours of the ends.

Legend: N objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from rcnn.draw import IGNORED
from rcnn.lettering import DARK, LIGHT, Colour, font_of, shortened, text_size
from rcnn.structures import Array

PERCENTILES = (2, 98)
DARKEST = 0.12  # of the colours that are used: the first ones cannot be seen on black
SMALLEST_BAR = 240  # pixels; narrower pictures are set on a wider ground


@dataclass(frozen=True)
class Colouring:
    """How the values of one column become colours.

    Attributes:
        column: its name, with the unit.
        low: the value of the first colour.
        high: the value of the last.
    """

    column: str
    low: float
    high: float

    @classmethod
    def of(cls, column: str, values: Array, limits: tuple[float, float] | None = None) -> Colouring:
        """The colouring of values ``[N]``, between limits or, by default, their percentiles."""
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        if limits is None:
            limits = tuple(np.percentile(known, PERCENTILES).tolist()) if len(known) else (0.0, 1.0)
        low, high = limits
        return cls(column, low, high if high > low else low + 1e-9)

    def colours(self, values: Array) -> list[Colour]:
        """A colour for each value ``[N]``; grey where there is none."""
        known = np.nan_to_num(np.asarray(values, np.float64), nan=self.low)
        places = ((known - self.low) / (self.high - self.low)).clip(0, 1)
        found = colormaps["viridis"](DARKEST + (1 - DARKEST) * places, bytes=True)[:, :3].tolist()
        missing = np.isnan(np.asarray(values, np.float64)).tolist()
        return [IGNORED if no else (r, g, b) for (r, g, b), no in zip(found, missing, strict=True)]

    def with_bar(self, picture: Image.Image) -> Image.Image:
        """A picture over a strip with the colours, the values at their ends, and the column's name."""
        size = max(12, round(0.022 * math.sqrt(picture.width * picture.height)))
        font = font_of(size)
        line = math.ceil(text_size("Ágjy", font)[1] * 1.15)
        width = max(picture.width, SMALLEST_BAR)
        whole = Image.new("RGB", (width, picture.height + 2 * line + line // 2), DARK)
        whole.paste(picture, ((width - picture.width) // 2, 0))
        ends = [f"{value:.4g}" for value in (self.low, self.high)]
        left = math.ceil(font.getlength(ends[0])) + size
        right = width - math.ceil(font.getlength(ends[1])) - size
        steps = colormaps["viridis"](np.linspace(DARKEST, 1, max(2, right - left)), bytes=True)[None, :, :3]
        bar = Image.fromarray(np.ascontiguousarray(np.repeat(steps, max(4, line // 2), 0)))
        top = picture.height + line // 2
        whole.paste(bar, (left, top))
        pen = ImageDraw.Draw(whole)
        middle = top + bar.height / 2
        pen.text((left - size / 2, middle), ends[0], LIGHT, font, anchor="rm")
        pen.text((right + size / 2, middle), ends[1], LIGHT, font, anchor="lm")
        name = shortened(self.column, font, width - size)
        pen.text((width / 2, top + bar.height + line * 0.7), name, LIGHT, font, anchor="mm")
        return whole
