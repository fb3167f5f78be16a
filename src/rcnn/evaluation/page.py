"""The building blocks of an HTML page: tables, cards and embedded pictures."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from PIL import Image

from rcnn.io.escaping import for_terminal
from rcnn.metrics import DASH, percent
from rcnn.metrics.shown import MetricTable

_PICTURE_BYTES = 62_000
# (longer side, quality), tried in turn; the last ones are for noisy pictures.
_JPEG_STEPS = ((900, 88), (900, 78), (900, 65), (720, 60), (640, 50), (480, 45), (320, 40))

Row = list[str | float | None]
Rows = Iterable[Sequence[str | float | None]]


def html_page(title: str, body: str) -> str:
    """A complete page."""
    frame = Template(files("rcnn.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    # Names may hold what UTF-8 and a page cannot.
    return for_terminal(frame.substitute(title=escape(title), body=body), lines=True)


def html_table(
    head: Sequence[str],
    rows: Rows,
    bars: Mapping[int, float] | None = None,
    bold: Sequence[int] = (),
    num_names: int = 1,
) -> str:
    """A table that scrolls within its card; strings are escaped, numbers are fractions and shown in percent.

    Args:
        head: the column headings.
        rows: the cells.
        bars: by column, the value of a full bar.
        bold: indices of rows in bold type.
        num_names: how many columns on the left name the row.
    """
    bars, bold_class, name_class = bars or {}, ' class="bold"', ' class="name"'
    lines = []
    for place, cells in enumerate(rows):
        line = [f"<th>{escape(str(name))}</th>" for name in cells[:num_names]]
        for column, cell in enumerate(cells[num_names:], num_names):
            style = ""
            if column in bars and isinstance(cell, float) and math.isfinite(cell):
                style = f' class="bar" style="--share:{100 * cell / bars[column]:.1f}%"'
            line.append(f"<td{style}>{escape(cell if isinstance(cell, str) else in_percent(cell))}</td>")
        lines.append(f"<tr{bold_class if place in bold else ''}>{''.join(line)}</tr>")
    headings = "".join(
        f"<th{name_class if place < num_names else ''}>{escape(text)}</th>" for place, text in enumerate(head)
    )
    table = f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def in_percent(value: float | None, unit: str = "") -> str:
    """A fraction in percent, or a dash without a unit where there is no number."""
    return f"{percent(value)}{unit}" if value is not None and math.isfinite(value) else DASH


def plural(number: int, noun: str) -> str:
    """Such as ``1 image`` or ``2,000 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def metric_table(shown: MetricTable) -> str:
    """The table of a metric, with its caption below."""
    html = html_table(
        shown.columns, shown.rows, dict.fromkeys(shown.bars, 1.0), shown.bold, num_names=shown.num_names
    )
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
    return f'<section class="card below"><h3>{escape(heading)}</h3>{content}</section>'


def figure(caption: str, panels: Sequence[tuple[str, Image.Image]]) -> str:
    """Pictures under their titles: side by side, or below each other on a narrow screen; titles are HTML."""
    html = "".join(
        f'<div><p>{title}</p><img src="{jpeg(picture)}" alt="{re.sub("<.*?>", "", title)}"></div>'
        for title, picture in panels
    )
    return f'<figure><figcaption>{caption}</figcaption><div class="panels">{html}</div></figure>'


def key(colour: tuple[int, int, int], text: str) -> str:
    """A colour and what it means."""
    return f'<span class="key"><i style="background:rgb{colour}"></i>{escape(text)}</span>'


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
