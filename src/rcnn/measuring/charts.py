"""The charts of a page of measurements, as SVG elements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rcnn.evaluation.charts import LINE_COLOURS, figure_and_axes, legend, svg_element
from rcnn.evaluation.data_charts import mark_plainly

Values = npt.NDArray[np.float64]

MAX_SERIES = 4  # classes in one chart
MAX_VECTORS = 1500  # points; more are drawn as a picture
WIDE = 30.0  # times from a low to a high percentile, above which an axis is logarithmic


def scatter(series: Mapping[str, tuple[Values, Values]], name: str, xlabel: str, ylabel: str) -> str:
    """One value over another, a point per object; empty without points.

    Args:
        series: x and y by class; points without both are left out.
        name: unique among the charts of a page.
        xlabel: what x is.
        ylabel: what y is.
    """
    known = {key: np.isfinite(x) & np.isfinite(y) for key, (x, y) in series.items()}
    points = {key: (x[known[key]], y[known[key]]) for key, (x, y) in series.items() if known[key].any()}
    if not points:
        return ""
    count = sum(len(x) for x, _ in points.values())
    figure, axes = figure_and_axes(xlabel, ylabel)
    labelled = []
    for (key, (x, y)), colour in zip(points.items(), LINE_COLOURS, strict=False):
        style = {"color": colour, "alpha": 0.55 if count < 400 else 0.3, "linewidths": 0}
        drawn = axes.scatter(x, y, s=18 if count < 400 else 8, rasterized=count > MAX_VECTORS, **style)
        labelled.append((drawn, key))
    every = np.concatenate([x for x, _ in points.values()])
    if is_wide(every):
        mark_plainly(axes, float(every.min()) / 1.1, float(every.max()) * 1.1)
    if len(points) > 1:
        legend(axes, labelled)
    return svg_element(figure, name)


def is_wide(values: Values) -> bool:
    """Whether values range so widely that only a logarithmic axis shows them."""
    values = values[np.isfinite(values)]
    if len(values) < 2 or values.min() <= 0:
        return False
    low, high = np.percentile(values, (5, 95))
    return bool(high > WIDE * low)
