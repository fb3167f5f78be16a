"""The page of a prediction's measurements: distributions, a scatter, tables, and what each column is.

One HTML file without scripts that needs no network, like the report of a run. It is made from the tables that
were written, so that a prediction that was interrupted and continued has the same page.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rcnn.evaluation.data_charts import busiest, histogram
from rcnn.evaluation.page import Row, card_pair, html_page, html_table, table_card
from rcnn.io.atomic import write_atomically
from rcnn.measuring.charts import MAX_SERIES, is_wide, scatter
from rcnn.measuring.summary import area_values
from rcnn.measuring.wording import UNITS, label_of, meaning_of, parted
from rcnn.metrics import DASH

MAX_ROWS = 200  # of a table on the page; files have all
MIN_IMAGES = 5  # of a distribution
MAX_SIZES = 4  # pixel sizes that are named
BACKGROUNDS = {
    "ring": "the free pixels 2 to 7 pixels around the object",
    "image": "all pixels of the image outside objects",
}
TEXTS = ("image", "class", "region")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """The tables of a prediction, read back.

    Attributes:
        objects: the columns of ``measurements.csv``.
        summary: the rows of ``summary.csv``.
        regions: the rows of ``regions.csv``.
    """

    objects: dict[str, npt.NDArray[np.object_] | Values]
    summary: list[dict[str, str]]
    regions: list[dict[str, str]]

    @classmethod
    def of(cls, folder: Path) -> Tables:
        """Those in a folder."""
        rows = _read(folder / "measurements.csv")
        return cls(_columns(rows[1:], rows[0]), _records(folder, "summary"), _records(folder, "regions"))

    def __len__(self) -> int:
        return len(self.objects["row"])

    @cached_property
    def classes(self) -> list[str]:
        """The classes, the most frequent first."""
        names = dict.fromkeys(row["class"] for row in self.summary)
        counts = Counter(self.objects["class"].tolist())
        return sorted(names, key=lambda name: -counts[name])

    @cached_property
    def areas(self) -> tuple[str, Values]:
        """The column of areas that is shown, and its values: of masks, or of boxes."""
        values = area_values(self.objects)
        name = next(name for name in self.objects if parted(name)[0] == "box_area")
        found = next((n for n in self.objects if parted(n)[0] == "area"), name)
        return (found if np.isfinite(self.objects[found]).any() else name), values

    def by_class(self, values: Values) -> dict[str, Values]:
        """Values by class, without those that are missing."""
        own = {name: values[self.objects["class"] == name] for name in self.classes}
        return busiest({name: some[np.isfinite(some)] for name, some in own.items()})

    def column(self, name: str) -> str | None:
        """The column of that name without its unit, if it is there and has values."""
        found = next((column for column in self.objects if parted(column)[0] == name), None)
        return found if found is not None and np.isfinite(self.objects[found]).any() else None


def _read(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
        return list(csv.reader(opened))


def _records(folder: Path, name: str) -> list[dict[str, str]]:
    file = folder / f"{name}.csv"
    rows = _read(file) if file.is_file() else [[]]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def _columns(
    rows: Sequence[Sequence[str]], head: Sequence[str]
) -> dict[str, npt.NDArray[np.object_] | Values]:
    columns: dict[str, npt.NDArray[np.object_] | Values] = {}
    for place, name in enumerate(head):
        cells = [row[place] for row in rows]
        columns[name] = (
            np.array(cells, object)
            if name in TEXTS
            else np.array([float(cell) if cell else np.nan for cell in cells], np.float64)
        )
    return columns


def write_page(folder: Path, *, background: str, regions: str | None = None) -> Path:
    """Write ``measurements.html`` from the tables in a folder.

    Args:
        folder: what a prediction wrote.
        background: what the background of intensities was.
        regions: the file of regions, if there was one.
    """
    tables = Tables.of(folder)
    body = [
        _tiles(tables), _charts(tables), _classes(tables), _regions(tables, regions), _images(tables),
        _glossary(tables, background),
    ]  # fmt: skip
    path = folder / "measurements.html"
    content = html_page("Measurements", "\n".join(filter(None, body)))
    write_atomically(path, content.encode(errors="replace"))
    return path


def _tiles(tables: Tables) -> str:
    """The numbers that are looked for first."""
    images = len(dict.fromkeys(row["image"] for row in tables.summary))
    name, areas = tables.areas
    known = areas[np.isfinite(areas)]
    unit = parted(name)[1]
    tiles = [(f"{len(tables):,}", "objects"), (f"{images:,}", "images")]
    density = _density_column(tables)
    if density is not None and images:
        area = sum(float(row[f"image_area_{density}"]) for row in _one_per_image(tables))
        tiles.append((f"{len(tables) / area:,.4g}", f"objects per {UNITS[density]}"))
    if len(known):
        tiles.append((f"{np.median(known):,.4g} {unit}", f"median {parted(name)[0].replace('_', ' ')}"))
    border, cut = (int(np.nansum(tables.objects[key])) for key in ("at_border", "cut"))
    tiles.append((f"{border:,}", "objects at the border of an image"))
    tiles += [(f"{cut:,}", "objects cut by tiles")] if cut else []
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    return f'<div class="tiles">{boxes}</div>'


def _one_per_image(tables: Tables) -> list[dict[str, str]]:
    return list({row["image"]: row for row in tables.summary}.values())


def _density_column(tables: Tables) -> str | None:
    """The unit of density in column names, such as ``mm2``."""
    names = tables.summary[0] if tables.summary else {}
    return next((n.removeprefix("density_per_") for n in names if n.startswith("density_per_")), None)


def _charts(tables: Tables) -> str:
    """Distributions of what there is, and scatters of size against shape and intensity."""
    name, areas = tables.areas
    if not len(tables):
        return "<p>No object was found.</p>"
    sizes = {key: values[values > 0] for key, values in tables.by_class(areas).items()}
    cards = [(_title(name), histogram(sizes, "sizes", label_of(name), log=is_wide(areas)))]
    for key in ("circularity", "neighbour_distance", _intensity(tables)):
        column = None if key is None else tables.column(key) or (key if key in tables.objects else None)
        if column is not None:
            own = tables.by_class(_numbers(tables, column))
            cards.append((_title(column), histogram(own, key or "", label_of(column))))
    for key in ("circularity", _intensity(tables)):
        column = None if key is None else tables.column(key) or (key if key in tables.objects else None)
        if column is not None:
            cards.append(
                (f"{_title(column)} and {parted(name)[0].replace('_', ' ')}", _scatter(tables, name, column))
            )
    if tables.column("circularity") is None:
        width, height = (tables.column(f"box_{side}") for side in ("width", "height"))
        if width and height:
            cards.append(("Width and height", _scatter(tables, width, height)))
    counts = Counter(tables.objects["image"].tolist())
    per_image = np.array([counts[row["image"]] for row in _one_per_image(tables)], np.float64)
    if len(per_image) >= MIN_IMAGES:
        chart = histogram({"images": per_image}, "per-image", "objects", ylabel="% of images")
        cards.append(("Objects per image", chart))
    note = ""
    if len(tables.classes) > MAX_SERIES:
        note = f"<p>Of the {len(tables.classes)} classes, the {MAX_SERIES} most frequent are shown.</p>"
    return f"<h2>Distributions</h2>{note}{card_pair(cards)}"


def _intensity(tables: Tables) -> str | None:
    """The column of intensities that is charted: of the first channel, corrected where it can be."""
    for start in ("intensity_corrected", "intensity_mean"):
        for name in tables.objects:
            if name.startswith(start) and np.isfinite(_numbers(tables, name)).any():
                return name
    return None


def _title(column: str) -> str:
    text = parted(column)[0].replace("_", " ")
    return text[:1].upper() + text[1:]


def _numbers(tables: Tables, column: str) -> Values:
    return np.asarray(tables.objects[column], np.float64)


def _scatter(tables: Tables, x: str, y: str) -> str:
    classes = tables.objects["class"]
    across, down = _numbers(tables, x), _numbers(tables, y)
    shown = tables.classes[:MAX_SERIES]
    series = {name: (across[classes == name], down[classes == name]) for name in shown}
    return scatter(series, f"scatter-{y.replace('_', '-')}", label_of(x), label_of(y))


def _classes(tables: Tables) -> str:
    """Mean, spread and quartiles of the areas of each class."""
    name, areas = tables.areas
    rows: list[Row] = []
    for label in tables.classes:
        own = areas[tables.objects["class"] == label]
        own = own[np.isfinite(own)]
        values = (own.mean(), own.std(), *np.percentile(own, (25, 50, 75))) if len(own) else ()
        cells = [f"{value:,.4g}" for value in values] or [DASH] * 5
        rows.append([label, f"{int((tables.objects['class'] == label).sum()):,}", *cells])
    head = ["class", "objects", "mean", "std", "lower quartile", "median", "upper quartile"]
    return table_card(f"By class: {label_of(name)}", html_table(head, rows))


def _regions(tables: Tables, source: str | None) -> str:
    if not tables.regions:
        return ""
    text = (
        f"From {escape(Path(source or '').name)}. An object belongs to a region if its centroid is in it; "
        "where regions overlap, it counts in each."
    )
    return f"<h2>Regions</h2><p>{text}</p>{_records_card('Objects by region', tables.regions)}"


def _images(tables: Tables) -> str:
    return f"<h2>Images</h2>{_records_card('Objects by image', tables.summary)}" if tables.summary else ""


def _records_card(title: str, records: Sequence[Mapping[str, str]]) -> str:
    names = list(records[0])
    rows: list[Row] = [[_short(row[name]) for name in names] for row in records[:MAX_ROWS]]
    more = f"<p>The first {MAX_ROWS} of {len(records):,} rows.</p>" if len(records) > MAX_ROWS else ""
    head = [_heading(name) for name in names]
    num_names = 1 + sum(name in ("region", "class") for name in names)
    return table_card(title, html_table(head, rows, num_names=num_names) + more)


def _heading(name: str) -> str:
    """A column of a summary for people."""
    start, separator, unit = name.rpartition("_")
    shown = parted(f"area_{unit}")[1]
    text = (start if separator and shown else name).removesuffix("_per").replace("_", " ")
    if not (separator and shown):
        return text
    return f"{text} per {shown}" if name.startswith("density") else f"{text}, {shown}"


def _short(cell: str) -> str:
    """A number with four digits; other cells as they are, a dash for empty ones."""
    try:
        return f"{float(cell):,.4g}" if "." in cell or "e" in cell else f"{int(cell):,}"
    except ValueError:
        return cell or DASH


def _glossary(tables: Tables, background: str) -> str:
    """Where sizes and backgrounds are from, and what each column holds."""
    meanings: dict[str, list[str]] = {}
    for name in tables.objects:
        if name != "image":
            meanings.setdefault(meaning_of(name), []).append(name)
    lines = "".join(
        f"<tr><th>{escape(', '.join(names))}</th><td>{escape(meaning)}</td></tr>"
        for meaning, names in meanings.items()
    )
    note = "" if _intensity(tables) is None else f" The background is {BACKGROUNDS[background]}."
    text = f"{_pixel_sizes(tables)}{note} The columns of measurements.csv:"
    table = f'<table class="facts">{lines}</table>'
    return f'<h2>What the columns are</h2><p>{escape(text)}</p><section class="card">{table}</section>'


def _pixel_sizes(tables: Tables) -> str:
    """The sides of pixels and where they are from, as a sentence."""
    if not tables.summary:
        return ""
    column = next(name for name in tables.summary[0] if name.startswith("pixel_size_"))
    unit = column.removeprefix("pixel_size_")
    if unit == "px":
        return "No pixel size is known: lengths are in pixels."
    sizes = dict.fromkeys(
        f"{row[column]} {UNITS[unit]} ({row['pixel_size_source']})" for row in tables.summary
    )
    return f"Side of a pixel: {', '.join(list(sizes)[:MAX_SIZES])}{', …' if len(sizes) > MAX_SIZES else ''}."
