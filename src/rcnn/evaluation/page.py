"""The building blocks of an HTML page: tables, cards and embedded pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from PIL import Image

from rcnn.metrics import number
from rcnn.metrics.shown import MetricTable

_PICTURE_BYTES = 125_000
# (longer side, quality), tried in turn; the last ones are for noisy pictures.
_JPEG_STEPS = ((1200, 88), (1200, 78), (1200, 65), (1200, 50), (900, 50), (640, 45), (400, 40))

Row = list[str | float | None]
Rows = Iterable[Sequence[str | float | None]]


def html_page(title: str, body: str) -> str:
    """A complete page."""
    frame = Template(files("rcnn.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    return frame.substitute(title=escape(title), body=body)


def html_table(
    head: Sequence[str], rows: Rows, bars: Mapping[int, float] | None = None, bold: Sequence[int] = ()
) -> str:
    """A table; strings are escaped, numbers have three digits.

    Args:
        head: the column headings.
        rows: the cells.
        bars: by column, the value of a full bar.
        bold: indices of rows in bold type.
    """
    bars, bold_class = bars or {}, ' class="bold"'
    lines = []
    for place, (name, *cells) in enumerate(rows):
        line = [f"<th>{escape(str(name))}</th>"]
        for column, cell in enumerate(cells, 1):
            style = ""
            if column in bars and isinstance(cell, float) and math.isfinite(cell):
                style = f' class="bar" style="--share:{100 * cell / bars[column]:.1f}%"'
            line.append(f"<td{style}>{escape(cell if isinstance(cell, str) else number(cell))}</td>")
        lines.append(f"<tr{bold_class if place in bold else ''}>{''.join(line)}</tr>")
    headings = "".join(f"<th>{escape(text)}</th>" for text in head)
    return f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def metric_table(shown: MetricTable) -> str:
    """The table of a metric, with its caption below."""
    html = html_table(shown.columns, shown.rows, bars=dict.fromkeys(shown.bars, 1.0), bold=shown.bold)
    return html + (f'<p class="caption">{escape(shown.caption)}.</p>' if shown.caption else "")


def card_pair(cards: Sequence[tuple[str, str]]) -> str:
    """Cards in two columns if there is room; those without content are left out."""
    html = "".join(
        f'<div class="card"><h3>{escape(heading)}</h3>{content}</div>'
        for heading, content in cards
        if content
    )
    return f'<div class="pair">{html}</div>' if html else ""


def table_card(heading: str, content: str) -> str:
    """A card with a long table, below a pair of cards."""
    return (
        f'<section class="card below"><h3>{escape(heading)}</h3><div class="scroll">{content}</div></section>'
    )


def jpeg(picture: Image.Image) -> str:
    """A data URI of a picture, reduced in quality and then in size until it is small enough."""
    for side, quality in _JPEG_STEPS:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        # Without subsampling, thin outlines keep their colour. Not optimised: Pillow fails to if a noisy
        # picture is larger than its buffer.
        picture.save(data, "JPEG", quality=quality, subsampling=0)
        if data.tell() <= _PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
