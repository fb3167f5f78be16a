"""The charts of a run's report, as SVG elements for its page.

They are sharp in print and follow the reader's light or dark theme. A chart with nothing to show is the empty
string.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rcnn.io.escaping import for_terminal
from rcnn.metrics import number, percent
from rcnn.metrics.matches import Agreement, ImageMatch
from rcnn.metrics.shown import Bars, Chart, Lines, Matrix

# Written by matplotlib, then replaced by the page's text colour.
INK = "#010203"
LINE_COLOURS = ("#0a8fdc", "#f08a00", "#22a45d", "#e0457b", "#8b62e8", "#c2a200", "#10a8a0", "#e2533d")
_TRUE, _FALSE = "#0a8fdc", "#e0a100"
LONGEST_LABEL = 40  # characters
_POINTS = 300  # of a curve
_MAX_MARKED_POINTS = 40  # of a line with a dot at each

History = Sequence[Mapping[str, float]]
Curve = tuple[list[float], list[float]]


def figure_and_axes(xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    """An empty chart in the page's colours, and its axes."""
    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.4)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_xlabel(xlabel, color=INK, fontsize=9)
    axes.set_ylabel(ylabel, color=INK, fontsize=9)
    return figure, axes


def _show_percent(axis: Any) -> None:
    """Give an axis of fractions from 0 to 1 ticks in percent, and say so in its label."""
    axis.set_ticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0", "20", "40", "60", "80", "100"])
    label = axis.get_label_text()
    axis.set_label_text(f"{label}, %" if label else "%")


def legend(axes: Any, labelled: Sequence[tuple[Any, str]], where: str = "best") -> None:
    """Name what is drawn, if there is anything to name."""
    if labelled:
        handles = [handle for handle, _ in labelled]
        texts = [plain_label(text) for _, text in labelled]
        axes.legend(handles, texts, loc=where, fontsize=8.5, frameon=False, labelcolor=INK)


def plain_label(text: str) -> str:
    """Text escaped for matplotlib: a dollar starts a formula, a leading underscore hides an entry.

    Longer texts than the chart has room for are cut in the middle; tables have them whole.
    """
    half = LONGEST_LABEL // 2
    text = for_terminal(text if len(text) <= LONGEST_LABEL else f"{text[:half]}…{text[-half:]}")
    return ("\u200a" if text.startswith("_") else "") + text.replace("$", r"\$")


def svg_element(figure: Figure, name: str) -> str:
    """The figure as an SVG element with ids of its own and the text colour of the page."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the glyphs of a class name that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for mark in ('id="', "url(#", 'xlink:href="#'):
        svg = svg.replace(mark, f"{mark}{name}-")
    return svg


def curve_of(history: History, key: str, axis: str) -> Curve:
    """The finite values of a key over ``axis``; a row without a position takes the previous one.

    ``axis`` is ``iteration``, ``epoch``, or ``row`` for the row's index.
    """
    xs, ys = [], []
    position = 0.0
    for index, row in enumerate(history):
        position = row.get(axis, float(index) if axis == "row" else position)
        value = row.get(key)
        if value is not None and math.isfinite(value):
            xs.append(position)
            ys.append(value)
    return xs, ys


def thinned(curve: Curve, points: int = _POINTS) -> Curve:
    """The curve averaged over groups of neighbours, so that at most ``points`` are left."""
    size = math.ceil(len(curve[0]) / points)
    if size <= 1:
        return curve
    starts = np.arange(0, len(curve[0]), size)
    counts = np.diff(np.r_[starts, len(curve[0])])
    xs, ys = (np.add.reduceat(np.array(values), starts) / counts for values in curve)
    return xs.tolist(), ys.tolist()


def smoothed(curve: Curve) -> Curve:
    """A running mean over a fifteenth of the curve, over fewer points towards both ends."""
    values = np.array(curve[1])
    half = len(values) // 30
    sums = np.r_[0.0, values.cumsum()]
    positions = np.arange(len(values))
    reach = np.minimum(half, np.minimum(positions, len(values) - 1 - positions))
    means = (sums[positions + reach + 1] - sums[positions - reach]) / (2 * reach + 1)
    return curve[0], means.tolist()


def loss_chart(history: History, axis: str) -> str:
    """The training loss, raw and smoothed, and the loss of the held-out images, over ``axis``."""
    train, held_out = curve_of(history, "loss", axis), curve_of(history, "val/loss", axis)
    if not train[0] and not held_out[0]:
        return ""
    figure, axes = figure_and_axes(axis, "loss")
    smooth = thinned(smoothed(train))
    labelled = []
    if train[0]:
        axes.plot(*thinned(train), color=LINE_COLOURS[0], alpha=0.3, linewidth=0.8)
        labelled.append((axes.plot(*smooth, color=LINE_COLOURS[0], linewidth=1.8)[0], "training"))
    if held_out[0]:
        labelled.append(
            (axes.plot(*held_out, color=LINE_COLOURS[1], marker="o", markersize=4)[0], "held out")
        )
    # The first steps may be so high that nothing else would be visible.
    axes.set_ylim(0, 1.15 * float(np.quantile([*smooth[1], *held_out[1]], 0.98)) or 1.0)
    legend(axes, labelled, "upper right")
    return svg_element(figure, "loss")


def lines_chart(
    history: History,
    keys: Sequence[str],
    axis: str,
    *,
    smooth: bool = False,
    top: float | None = None,
) -> str:
    """Values of the history over ``axis``, one line per key.

    Args:
        history: rows of ``metrics.jsonl``.
        keys: the values to draw; those without values are left out.
        axis: see :func:`curve_of`.
        smooth: whether to smooth the lines, for noisy values.
        top: the upper end of the vertical axis; by default from the values.
    """
    curves = {key: curve_of(history, key, axis) for key in keys}
    curves = {key: thinned(smoothed(curve) if smooth else curve) for key, curve in curves.items() if curve[0]}
    if not curves:
        return ""
    figure, axes = figure_and_axes(axis, "")
    labelled = []
    for i, (key, curve) in enumerate(curves.items()):
        marker = "o" if len(curve[0]) < 40 else ""
        style = {
            "color": LINE_COLOURS[i % len(LINE_COLOURS)],
            "linewidth": 1.6,
            "marker": marker,
            "markersize": 4,
        }
        labelled.append((axes.plot(*curve, **style)[0], key.removeprefix("loss/")))
    axes.set_ylim(0, top or 1.1 * max(float(np.quantile(ys, 0.98)) for _, ys in curves.values()) or 1.0)
    if top == 1.0:
        _show_percent(axes.yaxis)
    if len(curves) > 1 or top:
        legend(axes, labelled)
    return svg_element(figure, "lines-" + keys[0].replace("/", "-"))


def metric_chart(shown: Chart, name: str) -> str:
    """A chart of a metric; ``name`` is unique among the charts of a page."""
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if isinstance(shown, Lines):
        return _lines(shown, name)
    return _bars(shown, name) if isinstance(shown, Bars) else _matrix(shown, name)


def _lines(shown: Lines, name: str) -> str:
    if not shown.lines:
        return ""
    figure, axes = figure_and_axes(shown.x, shown.y)
    for line in (line for line in shown.lines if not line.label):
        axes.plot(line.x, line.y, color=INK, alpha=0.15, linewidth=0.8)
    labelled = []
    main = (line for line in shown.lines if line.label)
    for line, colour in zip(main, itertools.cycle(LINE_COLOURS), strict=False):
        marker = "o" if len(line.x) <= _MAX_MARKED_POINTS else ""
        style = {"color": colour, "linewidth": 1.8, "marker": marker, "markersize": 4}
        labelled.append((axes.plot(line.x, line.y, **style)[0], line.label))
    if shown.log_x:
        ticks = shown.lines[0].x
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    for values, axis, set_limits in (
        ([x for line in shown.lines for x in line.x], axes.xaxis, axes.set_xlim),
        ([y for line in shown.lines for y in line.y], axes.yaxis, axes.set_ylim),
    ):
        if values and min(values) >= 0 and max(values) <= 1:  # fractions
            _show_percent(axis)
            set_limits(0, 1.02)
    legend(axes, labelled)
    return svg_element(figure, name)


def _bars(shown: Bars, name: str) -> str:
    if not shown.bars:
        return ""
    figure, axes = figure_and_axes("", shown.y)
    labelled = []
    width = 0.76 / len(shown.bars)
    for i, (label, values) in enumerate(shown.bars.items()):
        places = [j + (i - (len(shown.bars) - 1) / 2) * width for j in range(len(values))]
        heights = [value if math.isfinite(value) else 0.0 for value in values]
        labelled.append(
            (axes.bar(places, heights, width * 0.92, color=LINE_COLOURS[i % len(LINE_COLOURS)]), label)
        )
        for place, height, value in zip(places, heights, values, strict=True):
            text = {"ha": "center", "va": "bottom", "color": INK, "fontsize": 8.5}
            axes.text(place, height + 0.012, percent(value), **text)
    axes.set_xticks(range(len(shown.groups)), [plain_label(group) for group in shown.groups])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.08 if len(shown.bars) == 1 else 1.1 + 0.12 * len(shown.bars))  # room for the legend
    _show_percent(axes.yaxis)
    if len(shown.bars) > 1:
        legend(axes, labelled, "upper right")
    return svg_element(figure, name)


def _matrix(shown: Matrix, name: str) -> str:
    matrix = np.asarray(shown.counts, np.float64)
    present = [i for i in range(len(matrix)) if matrix[i].sum() or matrix[:, i].sum()]
    if not present:
        return ""
    matrix = matrix[np.ix_(present, present)]
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    names = [plain_label(shown.names[i][:16]) for i in present]
    figure, axes = figure_and_axes("predicted", "true")
    axes.grid(visible=False)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    small = {"fontsize": 8 if len(names) <= 12 else 6}
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0, **small)
    axes.set_yticks(range(len(names)), names, **small)
    for row, column in np.ndindex(fractions.shape) if len(names) <= 8 else ():
        fraction = fractions[row, column]
        colour = "#ffffff" if fraction > 0.5 else "#000000"
        axes.text(column, row, f"{100 * fraction:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return svg_element(figure, name)


def score_chart(agreement: Agreement) -> str:
    """Histograms of the scores of true and false detections, and the threshold."""
    true, false = agreement.scores_true, agreement.scores_false
    if not true and not false:
        return ""
    figure, axes = figure_and_axes("score", "detections")
    edges = np.linspace(0, 1, 41)
    labelled = []
    highest = []
    for scores, colour, name in ((false, _FALSE, "false"), (true, _TRUE, "true")):
        counts, _ = np.histogram(scores, edges)
        highest.append(int(counts.max()))
        patch = axes.stairs(counts, edges, fill=True, color=colour, alpha=0.55)
        axes.stairs(counts, edges, color=colour, linewidth=1.3)
        labelled.append((patch, f"{name} ({len(scores):,})"))
    line = axes.axvline(agreement.threshold, color=INK, linestyle=(0, (4, 3)), linewidth=1.3)
    labelled.append((line, f"threshold {number(agreement.threshold)}"))
    # There are often so many weak false detections that the true ones would be invisible.
    if max(highest) > 8 * max(1, min(highest)):
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylabel("detections (logarithmic above 10)", color=INK, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    legend(axes, labelled, "upper center")
    return svg_element(figure, "scores")


def count_chart(matches: Sequence[ImageMatch]) -> str:
    """The number of predicted objects over that of true objects, one point per image."""
    true, predicted = ([getattr(m, key) for m in matches] for key in ("num_true", "num_predicted"))
    return count_scatter(true, predicted, "counts")


def count_scatter(true_counts: Sequence[int], predicted_counts: Sequence[int], name: str) -> str:
    """Predicted over true numbers of objects, one point per image; ``name`` is unique on a page."""
    if not len(true_counts):
        return ""
    figure, axes = figure_and_axes("true", "predicted")
    times = Counter((int(a), int(b)) for a, b in zip(true_counts, predicted_counts, strict=True))
    true, predicted = zip(*times, strict=True)
    highest = max(1, *true, *predicted)
    axes.plot([0, highest], [0, highest], color=INK, alpha=0.45, linewidth=1, linestyle=(0, (4, 3)))
    # A point's area shows how many images it stands for.
    area = [18 * math.sqrt(number) for number in times.values()]
    axes.scatter(
        true, predicted, s=area, color=LINE_COLOURS[0], alpha=0.55, linewidths=0, rasterized=len(times) > 1500
    )
    if highest > 60 and highest > 10 * float(np.median(true)):
        ticks = [0, 5] + [m * 10**e for e in range(1, 6) for m in (1, 2, 5) if m * 10**e <= highest]
        for set_scale, set_ticks in ((axes.set_xscale, axes.set_xticks), (axes.set_yscale, axes.set_yticks)):
            set_scale("symlog", linthresh=10)
            set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            set_ticks([], minor=True)
    else:  # objects are counted in whole numbers
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlim=(0, 1.05 * highest), ylim=(0, 1.05 * highest))
    return svg_element(figure, name)
