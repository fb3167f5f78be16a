"""How well counted objects agree with the true ones, image by image: for those who count.

Bland and Altman (1986, Lancet 327:307): the difference d = predicted - true of each image, its mean (the
bias), and the limits of agreement, bias ± 1.96 std(d), between which 95 % of the differences of new images
would lie if they were normally distributed. std divides by n - 1; with a single image there are no limits.

Convention: counts of 10, 20, 30 predicted as 11, 19, 33 differ by 1, -1, 3: bias 1, limits -2.92 and 4.92.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.data.dataset import Dataset
from rcnn.evaluation.alignment import named_as
from rcnn.evaluation.charts import INK, LINE_COLOURS, count_scatter, figure_and_axes, svg_element
from rcnn.evaluation.page import Row, card_pair, html_table, table_card
from rcnn.metrics import DASH
from rcnn.metrics.matches import ImageMatch
from rcnn.structures import Instances

WIDTH = 1.96  # standard deviations on either side
MAX_CHARTED = 4  # classes
ALL = "all classes"


@dataclass(frozen=True)
class CountAgreement:
    """The numbers of objects in each image.

    Attributes:
        true: of the annotation, ``[I]`` for I images.
        predicted: of the detections that count.
    """

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]

    @property
    def differences(self) -> npt.NDArray[np.int64]:
        """Predicted less true, ``[I]``."""
        return self.predicted - self.true

    @property
    def bias(self) -> float:
        """The mean difference; above 0 there are too many objects. NaN without images."""
        return float(self.differences.mean()) if len(self.true) else math.nan

    @property
    def limits(self) -> tuple[float, float]:
        """The limits of agreement; NaN with less than two images."""
        if len(self.true) < 2:
            return math.nan, math.nan
        half = WIDTH * float(self.differences.std(ddof=1))
        return self.bias - half, self.bias + half

    @property
    def mean_error(self) -> float:
        """The mean of the absolute differences."""
        return float(np.abs(self.differences).mean()) if len(self.true) else math.nan


def count_agreements(
    dataset: Dataset, predictions: Sequence[Instances], matches: Sequence[ImageMatch]
) -> dict[str, CountAgreement]:
    """The agreement of all classes together, under ``ALL``, and of each class, the most frequent first.

    Objects that are ignored (crowds, difficult ones, and detections on them) are not counted. Names that
    differ only in case are one class, as in the evaluation.

    Args:
        dataset: the images with truth.
        predictions: the detections, one ``Instances`` per image.
        matches: of the same images, at the threshold that counts.
    """
    names: dict[str, str] = {}
    per_image: list[tuple[Counter[str], Counter[str]]] = []
    for record, found, match in zip(dataset.records, predictions, matches, strict=True):
        known = named_as(dataset.class_names, found.class_names)
        labels, found_names = record.truth.labels, found.names
        true = [known[labels[i]] for i in (*match.matched_truths, *match.missed_truths)]
        predicted = [found_names[i] for i in (*match.matched_predictions, *match.spurious_predictions)]
        names |= {name.casefold(): name for name in (*predicted, *true)}
        per_image.append((Counter(map(str.casefold, true)), Counter(map(str.casefold, predicted))))
    agreements = {
        name: CountAgreement(
            np.array([true[key] for true, _ in per_image], np.int64),
            np.array([predicted[key] for _, predicted in per_image], np.int64),
        )
        for key, name in names.items()
    }
    by_frequency = sorted(agreements.items(), key=lambda item: (-int(item[1].true.sum()), item[0]))
    whole = CountAgreement(
        np.array([match.num_true for match in matches], np.int64),
        np.array([match.num_predicted for match in matches], np.int64),
    )
    return {ALL: whole, **dict(by_frequency)} if len(by_frequency) != 1 else dict(by_frequency)


def agreement_section(
    dataset: Dataset, predictions: Sequence[Instances], matches: Sequence[ImageMatch]
) -> str:
    """Charts and a table of the agreement of counts; empty without images."""
    agreements = count_agreements(dataset, predictions, matches)
    if not matches or not agreements:
        return ""
    rows: list[Row] = [
        [
            name,
            f"{agreement.true.mean():.1f}",
            *(_signed(value) for value in (agreement.bias, *agreement.limits)),
            f"{agreement.mean_error:.2f}",
        ]
        for name, agreement in agreements.items()
    ]
    head = ["class", "true per image", "bias", "lower limit", "upper limit", "mean error"]
    cards, several = [], len(agreements) > 1
    charted = [*agreements.items()][: MAX_CHARTED + 1]
    for number, (name, agreement) in enumerate(charted[1:] + charted[:1]):  # what is of all comes last
        if several and name != ALL:
            title = f"{name}: true and predicted objects per image"
            cards.append(
                (
                    title,
                    count_scatter(agreement.true.tolist(), agreement.predicted.tolist(), f"counts-{number}"),
                )
            )
        title = f"{name}: difference of the counts" if several else "Difference of the counts"
        cards.append((title, difference_chart(agreement, f"differences-{number}")))
    text = (
        "The difference of an image is its predicted less its true number of objects. The bias is its mean, "
        "the limits of agreement are bias ± 1.96 standard deviations (Bland and Altman 1986): 95% of images "
        f"are expected between them. {len(matches)} images; the threshold was chosen on them, so that new "
        "images may agree less."
    )
    table = table_card("Agreement of counts per image", html_table(head, rows))
    return f"<h2>Agreement of counts</h2><p>{text}</p>{card_pair(cards)}{table}"


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
