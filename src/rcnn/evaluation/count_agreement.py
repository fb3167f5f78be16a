"""How well counted objects agree with the true ones, as a section of the report (``rcnn.metrics.counts``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from rcnn.evaluation.charts import (
    INK,
    LINE_COLOURS,
    count_scatter,
    figure_and_axes,
    plain_label,
    svg_element,
)
from rcnn.evaluation.page import Row, card_pair, html_table, table_card
from rcnn.metrics import DASH
from rcnn.metrics.counts import ALL, CountAgreement

MAX_CHARTED = 4  # classes with charts of their own
MAX_COMPARED = 40  # classes in one chart


def agreement_section(agreements: Mapping[str, CountAgreement]) -> str:
    """Charts and a table of the agreement of counts; empty without images.

    The most frequent classes have charts of their own; if there are more, one chart compares all.

    Args:
        agreements: by class, the most frequent first, and of all together.
    """
    classes = {name: agreement for name, agreement in agreements.items() if name != ALL}
    if not classes:
        return ""
    images = len(next(iter(agreements.values())).true)
    text = (
        "The difference of an image is its predicted less its true number of objects. The bias is its mean, "
        "the limits of agreement are bias ± 1.96 standard deviations (Bland and Altman 1986): 95% of images "
        f"are expected between them. {images} images; the threshold was chosen on them, so that new "
        f"images may agree less.{_left_out(len(classes))}"
    )
    cards = _cards(classes, agreements.get(ALL))
    table = table_card("Agreement of counts per image", html_table(_HEAD, _rows(agreements)))
    return f"<h2>Agreement of counts</h2><p>{text}</p>{card_pair(cards)}{table}"


_HEAD = ["class", "true per image", "bias", "lower limit", "upper limit", "mean error"]


def _rows(agreements: Mapping[str, CountAgreement]) -> list[Row]:
    return [
        [
            name,
            f"{agreement.true.mean():.1f}",
            *(_signed(value) for value in (agreement.bias, *agreement.limits)),
            f"{agreement.mean_error:.2f}",
        ]
        for name, agreement in agreements.items()
    ]


def _left_out(classes: int) -> str:
    """Which classes have charts, where not all have."""
    if classes <= MAX_CHARTED:
        return ""
    compared = "all" if classes <= MAX_COMPARED else f"the {MAX_COMPARED} most frequent"
    return (
        f" Of the {classes} classes, the {MAX_CHARTED} most frequent have charts of their own, one chart "
        f"compares {compared}, and the table has all."
    )


def _cards(classes: Mapping[str, CountAgreement], whole: CountAgreement | None) -> list[tuple[str, str]]:
    """The charts with their titles: of the most frequent classes, and of all together."""
    if whole is None:  # a single class, whose scatter the report has already
        (only,) = classes.values()
        return [("Difference of the counts", difference_chart(only, "differences"))]
    cards = []
    for number, (name, agreement) in enumerate([*classes.items()][:MAX_CHARTED]):
        true, predicted = agreement.true.tolist(), agreement.predicted.tolist()
        scatter = count_scatter(true, predicted, f"counts-{number}")
        cards.append((f"{name}: true and predicted objects per image", scatter))
        title = f"{name}: difference of the counts"
        cards.append((title, difference_chart(agreement, f"differences-{number}")))
    cards.append((f"{ALL}: difference of the counts", difference_chart(whole, "differences-all")))
    if len(classes) > MAX_CHARTED:
        cards.append(("Bias and limits of agreement by class", classes_chart(classes)))
    return cards


def classes_chart(classes: Mapping[str, CountAgreement]) -> str:
    """The bias of each class with its limits of agreement, the most frequent class at the top."""
    shown = [*classes.items()][:MAX_COMPARED]
    figure, axes = figure_and_axes("predicted less true, per image", "")
    figure.set_size_inches(5.6, max(3.3, 0.8 + 0.2 * len(shown)))
    places = range(len(shown))
    for place, (_, agreement) in zip(places, shown, strict=True):
        low, high = agreement.limits
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color=LINE_COLOURS[0], alpha=0.55, linewidth=2.4)
    axes.plot([agreement.bias for _, agreement in shown], places, "o", color=LINE_COLOURS[1], markersize=4)
    axes.axvline(0, color=INK, alpha=0.35, linewidth=0.8)
    axes.set_yticks(places, [plain_label(name) for name, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return svg_element(figure, "agreement-by-class")


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else DASH


def difference_chart(agreement: CountAgreement, name: str) -> str:
    """The difference of each image's counts over their mean, with the bias and the limits of agreement.

    Args:
        agreement: the counts.
        name: unique among the charts of a page.
    """
    if not len(agreement.true):
        return ""
    means = (agreement.true + agreement.predicted) / 2
    figure, axes = figure_and_axes("mean of true and predicted", "predicted less true")
    times = Counter(zip(means.tolist(), agreement.differences.tolist(), strict=True))
    x, y = zip(*times, strict=True)
    area = [18 * math.sqrt(count) for count in times.values()]  # shows how many images a point stands for
    axes.scatter(x, y, s=area, color=LINE_COLOURS[0], alpha=0.55, linewidths=0, rasterized=len(times) > 1500)
    axes.axhline(0, color=INK, alpha=0.35, linewidth=0.8)
    lines = ((agreement.bias, "bias", "-"), *((limit, "limit", (0, (4, 3))) for limit in agreement.limits))
    right = max(1.0, float(means.max()))
    for value, text, style in lines:
        if math.isfinite(value):
            axes.axhline(value, color=LINE_COLOURS[1], linewidth=1.3, linestyle=style)
            if text == "bias" or agreement.limits[0] < agreement.limits[1]:
                label = f"{text} {value:+.1f}"
                place = {"ha": "right", "va": "bottom", "fontsize": 8.5, "color": INK}
                axes.text(1.09 * right, value, label, **place)
    axes.set_xlim(-0.02 * right, 1.1 * right)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.margins(y=0.15)
    return svg_element(figure, name)
