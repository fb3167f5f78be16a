"""What a metric shows: a table for the console and the report, and charts for the report, as plain values.

Nothing is drawn here: ``rcnn.evaluation`` draws the charts and writes the report's page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rcnn.io.escaping import for_terminal
from rcnn.metrics import percent
from rcnn.metrics.overlaps import Floats

Cell = str | float
MAX_PADDED_COLUMNS = 7  # a table of more columns must be narrow to fit a terminal of 80


@dataclass(frozen=True)
class MetricTable:
    """The numbers of a metric.

    Attributes:
        title: what the numbers are.
        columns: the column headings.
        rows: one cell per column. A float is a fraction, shown in percent, as a dash where it is NaN. Strings
            are shown as they are.
        caption: what readers need to know besides.
        bold: indices of summary rows.
        bars: indices of columns whose fractions the report also shows as bars.
        num_names: how many columns on the left name the row.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    caption: str = ""
    bold: tuple[int, ...] = ()
    bars: tuple[int, ...] = ()
    num_names: int = 1

    @property
    def heading(self) -> str:
        """The title, with the unit of the fractions if there are any."""
        has_fractions = any(isinstance(cell, float) for row in self.rows for cell in row)
        return f"{self.title}, in %" if has_fractions else self.title

    def rich(self) -> Table:
        """The table for a terminal."""
        padding = (0, 1) if len(self.columns) <= MAX_PADDED_COLUMNS else 0
        caption = plain(self.caption) if self.caption else None
        table = Table(title=plain(self.heading), caption=caption, box=SIMPLE_HEAD, padding=padding)
        for number, column in enumerate(self.columns):
            table.add_column(plain(column), justify="left" if number < self.num_names else "right")
        for number, row in enumerate(self.rows):
            if number in self.bold and number and number - 1 not in self.bold:
                table.add_section()
            cells = [percent(cell) if isinstance(cell, float) else cell for cell in row]
            table.add_row(*map(plain, cells), style="bold" if number in self.bold else None)
        return table


def plain(text: str) -> Text:
    """A text for a terminal, in which brackets are brackets and control characters are escaped."""
    return Text(for_terminal(text))


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: its entry in the legend; a line without one is drawn faintly.
        x: the positions.
        y: the values there.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Lines:
    """A chart of lines. An axis whose values are all in [0, 1] has fractions, which are shown in percent.

    Attributes:
        title: what is shown.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
        lines: the lines, the most important first.
        log_x: whether the horizontal axis is logarithmic, with a tick at each position of the first line.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False


@dataclass(frozen=True)
class Bars:
    """A chart of grouped bars.

    Attributes:
        title: what is shown.
        y: the label of the vertical axis.
        groups: the names of the groups.
        bars: by entry in the legend, a value in [0, 1] per group.
    """

    title: str
    y: str
    groups: Sequence[str]
    bars: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, shown as fractions of each row.

    Attributes:
        title: what is shown.
        names: the classes.
        counts: ``[C, C]``, by true class (row) and predicted class (column).
    """

    title: str
    names: Sequence[str]
    counts: Floats


Chart = Lines | Bars | Matrix
