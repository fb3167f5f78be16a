"""The charts of a data set's page, as SVG elements: sizes, shapes, numbers and positions of objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from rcnn.evaluation.charts import INK, LINE_COLOURS, figure_and_axes, legend, svg_element

Values = npt.NDArray[np.float64]

MAX_BINS, MIN_BINS = 32, 6
MAX_LINES = 4  # distributions in one chart
GRID = 48  # cells of the longer side of the map of positions
PERCENT = "% of objects"


def histogram(
    series: Mapping[str, Values], name: str, xlabel: str, *, log: bool = False, ylabel: str = PERCENT
) -> str:
    """Distributions, each in percent of its own values; empty without values.

    Args:
        series: the values by what they belong to.
        name: unique among the charts of a page.
        xlabel: what the values are.
        log: a logarithmic axis with plain numbers.
        ylabel: what is counted.
    """
    series = {key: values for key, values in series.items() if len(values)}
    if not series:
        return ""
    every = np.concatenate(list(series.values()))
    edges = _log_edges(every) if log else _edges(every)
    figure, axes = figure_and_axes(xlabel, ylabel)
    labelled = []
    for (key, values), colour in zip(series.items(), LINE_COLOURS, strict=False):
        heights = 100 * np.histogram(values, edges)[0] / len(values)
        if len(series) == 1:
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.45)
        labelled.append((axes.stairs(heights, edges, color=colour, linewidth=1.6), key))
    if log:
        mark_plainly(axes, float(edges[0]), float(edges[-1]))
    if len(series) > 1:
        legend(axes, labelled)
    return svg_element(figure, name)


def _edges(values: Values) -> Values:
    """Whole numbers, one or several in a bin; otherwise bins of equal width."""
    low, high = float(values.min()), float(values.max())
    if np.array_equal(values, np.rint(values)):
        step = max(1, int(np.ceil((high - low + 1) / MAX_BINS)))
        return low - 0.5 + step * np.arange(int((high - low) // step) + 2, dtype=np.float64)
    return np.linspace(low, high if high > low else low + 1, _bins(values) + 1)


def _bins(values: Values) -> int:
    """More bins for more values, so that the bars stay above the noise (Rice's rule)."""
    return int(np.clip(round(2 * len(values) ** (1 / 3)), MIN_BINS, MAX_BINS))


def _log_edges(values: Values) -> Values:
    low, high = (float(v) for v in (values.min(), values.max()))
    edges: Values = np.geomspace(low / 1.02, high * 1.02, _bins(values) + 1)
    return edges


def mark_plainly(axes: Any, low: float, high: float) -> None:
    """A logarithmic x axis with ticks at plain numbers: 1, 2, 5, 10, …, or a few in a narrow range."""
    powers = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [float(tick) for tick in np.geomspace(low, high, 4)]
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def position_map(centres: Values, aspect: float, name: str) -> str:
    """How many objects have their centre where in the image; empty without objects.

    Args:
        centres: ``[N, 2]``, x and y as fractions of the image's width and height.
        aspect: width by height of the usual image.
        name: unique among the charts of a page.
    """
    if not len(centres):
        return ""
    columns = GRID if aspect >= 1 else max(8, round(GRID * aspect))
    rows = GRID if aspect < 1 else max(8, round(GRID / aspect))
    counts = np.histogram2d(centres[:, 1], centres[:, 0], (rows, columns), ((0, 1), (0, 1)))[0]
    top = max(float(np.quantile(counts, 0.995)), 1.0)
    # One colour of growing density is legible on light and on dark pages.
    pixels = np.empty((rows, columns, 4))
    pixels[..., :3] = to_rgb(LINE_COLOURS[0])
    pixels[..., 3] = (counts / top).clip(0, 1)
    figure, axes = figure_and_axes("", "")
    axes.grid(visible=False)
    axes.imshow(pixels, extent=(0, columns, rows, 0), interpolation="nearest")
    axes.set_xticks([0, columns], ["left", "right"])
    axes.set_yticks([0, rows], ["top", "bottom"])
    axes.spines[["top", "right"]].set(visible=True, color=INK, alpha=0.4)
    return svg_element(figure, name)


def size_scatter(sizes: Mapping[tuple[int, int], int], name: str) -> str:
    """Widths and heights of images, as circles whose areas are numbers of images; empty without images."""
    if not sizes:
        return ""
    heights, widths = np.array(list(sizes), np.float64).T
    counts = np.array(list(sizes.values()), np.float64)
    figure, axes = figure_and_axes("width, pixels", "height, pixels")
    areas = 18 + 500 * counts / counts.sum()
    axes.scatter(widths, heights, areas, color=LINE_COLOURS[0], alpha=0.55, edgecolors="none")
    for values, set_limits in ((widths, axes.set_xlim), (heights, axes.set_ylim)):
        set_limits(0, 1.15 * float(values.max()))
    return svg_element(figure, name)


def busiest(series: Mapping[str, Values]) -> dict[str, Values]:
    """The few series with the most values, in their order."""
    order = sorted(series, key=lambda key: -len(series[key]))[:MAX_LINES]
    return {key: values for key, values in series.items() if key in order and len(values)}
