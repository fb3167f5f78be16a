"""The report of a run: one self-contained HTML file, which needs no network and no scripts.

It leads with pictures: the best and the worst images, then the others. Charts are embedded as SVG
(``rcnn.evaluation.charts``), pictures as JPEG. Only nine images are shown, so that the report of any data set
stays below about 2 MB.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rcnn.evaluation import charts
from rcnn.evaluation.alignment import named_as
from rcnn.evaluation.count_agreement import agreement_section
from rcnn.evaluation.explain.pages import causes_section
from rcnn.evaluation.page import (
    Row,
    card_pair,
    figure,
    html_page,
    html_table,
    in_percent,
    key,
    metric_table,
    plural,
    table_card,
)
from rcnn.evaluation.pictures import VERDICTS, Panel, compare, compare_maps, shrunk
from rcnn.io.atomic import write_atomically
from rcnn.metrics import DASH, number
from rcnn.metrics.matches import ImageMatch
from rcnn.metrics.metric import About, Evaluation, Metric
from rcnn.metrics.registry import METRICS
from rcnn.structures import Instances

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset

_SHOWN = 3  # pictures of each kind
_SECTIONS: dict[About, str] = {
    "partition": "Things and stuff", "pixels": "Pixel classes", "objects": "Detection",
}  # fmt: skip


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation | None,
    dataset: Dataset | None,
    predictions: Sequence[Instances],
    seconds: Mapping[str, float],
) -> Path:
    """Write the report of a run.

    Args:
        path: the HTML file; its folder is created if it is missing.
        title: the heading.
        facts: rows of the table of data and settings.
        history: rows of ``metrics.jsonl``, each with any of ``iteration``, ``epoch``, ``seconds``, ``lr``,
            ``loss``, ``loss/…``, ``val/loss`` and the evaluation's metrics.
        evaluation: the results, if the model was evaluated.
        dataset: what it was evaluated on; without it there are no pictures.
        predictions: the predictions that were evaluated, one per image of ``dataset``.
        seconds: time of each stage of the run.

    Returns:
        ``path``. After an error the file is what it was before.

    Raises:
        ValueError: predictions or matches that are not one per image of ``dataset``.
    """
    if evaluation is not None and dataset is not None:
        _check_lengths(evaluation, dataset, predictions)
    measured = () if evaluation is None else tuple(metric for metric, _ in evaluation.measured)
    sections = [] if evaluation is None else _results(evaluation, dataset, predictions)
    sections += [_training(history, measured), _facts(facts)]
    sections.append(_times(seconds, {} if evaluation is None else evaluation.seconds))
    write_atomically(path, html_page(title, "\n".join(filter(None, sections))).encode())
    return path


def _check_lengths(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> None:
    matched = len(evaluation.matches) if evaluation.has_objects else len(dataset)
    if not len(dataset) == len(predictions) == matched:
        raise ValueError(
            f"report of {dataset.source}: {len(dataset)} images, {len(predictions)} predictions and "
            f"{len(evaluation.matches)} matches; give those of one evaluation, one of each per image."
        )


def _results(evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]) -> list[str]:
    """The sections about the evaluation: pictures first, then numbers."""
    objects = evaluation.has_objects
    pictures = [] if dataset is None else [_pixel_pictures(evaluation, dataset, predictions)]
    if dataset is not None and objects:
        pictures.insert(0, _pictures(evaluation, dataset, predictions))
    counts = _threshold_and_counts(evaluation, dataset, predictions) if objects else ""
    tables = [_section(evaluation, about) for about in ("partition", "pixels", "objects")]
    return [_headline(evaluation), *pictures, counts, _missed(evaluation, dataset), *tables]


def _missed(evaluation: Evaluation, dataset: Dataset | None) -> str:
    """Why objects were missed, with examples."""
    if evaluation.causes is None or dataset is None:
        return ""
    text = f"Objects missed at score ≥ {number(evaluation.f1_threshold)}, in {evaluation.explained}."
    return f"<h2>Why objects were missed</h2><p>{text}</p>{causes_section(evaluation.causes, dataset)}"


# Sections, in the order of the page


def _headline(evaluation: Evaluation) -> str:
    """The values that readers look for first, in large type."""
    tiles = [(in_percent(evaluation.metrics[key], " %"), text) for key, text in evaluation.headline()]
    if evaluation.has_objects:
        matches = evaluation.matches
        true, predicted = sum(m.num_true for m in matches), sum(m.num_predicted for m in matches)
        tiles += [
            (in_percent(evaluation.f1, " %"), f"best F1, at score ≥ {number(evaluation.f1_threshold)}"),
            (f"{predicted:,} / {true:,}", f"objects predicted / true, {plural(len(matches), 'image')}"),
        ]
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    return f'<div class="tiles">{boxes}</div>' if tiles else ""


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    table = f'<table class="facts">{rows}</table>'
    return f'<h2>Data and settings</h2><section class="card">{table}</section>'


def _training(history: Sequence[Mapping[str, float]], measured: Sequence[Metric]) -> str:
    """The losses, the learning rate and the headline metrics over training."""
    axis = next((key for key in ("iteration", "epoch") if any(key in row for row in history)), "row")
    if not history:
        return ""
    rows = {row.name: row for row in (*METRICS.values(), *measured)}
    followed = [key for row in rows.values() for key, _ in row.headline]
    metrics = [key for key in followed if charts.curve_of(history, key, axis)[0]]
    parts = sorted({key for row in history for key in row if key.startswith("loss/")})
    cards = [
        ("Loss", charts.loss_chart(history, axis)),
        ("Loss terms", charts.lines_chart(history, parts, axis, smooth=True)),
        ("Metrics on held-out images", charts.lines_chart(history, metrics, axis, top=1.0)),
        ("Learning rate", charts.lines_chart(history, ["lr"], axis)),
    ]
    return "<h2>Training</h2>" + card_pair(cards)


def _section(evaluation: Evaluation, about: About) -> str:
    """The charts and tables of all metrics about ``about``."""
    rows = [metric for metric, _ in evaluation.measured if metric.about == about]
    cards = [
        (shown.title, charts.metric_chart(shown, f"{row.name}-{place}"))
        for row in rows
        for place, shown in enumerate(row.charts(evaluation))
    ]
    below = "".join(table_card(table.heading, metric_table(table)) for table in evaluation.tables(about))
    content = card_pair(cards) + below + _class_table(evaluation, about)
    return f"<h2>{_SECTIONS[about]}</h2>{content}" if content else ""


def _class_table(evaluation: Evaluation, about: About) -> str:
    """The values per class of metrics without a table of classes, the most frequent classes first."""
    columns = [column for row, _ in evaluation.measured if row.about == about for column in row.class_columns]
    if not columns or len(evaluation.per_class) < 2:
        return ""
    rows: list[Row] = [
        [name, _whole(values.get("objects")), *(values.get(key, math.nan) for key, _ in columns)]
        for name, values in sorted(evaluation.per_class.items(), key=lambda item: -_objects(item[1]))
    ]
    head = ["class", "objects", *(heading for _, heading in columns)]
    return table_card("By class, in %", html_table(head, rows, bars={2: 1.0}))


def _pixel_pictures(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> str:
    """Pixel classes in the images selected by the first metric that has a value for each image."""
    judged = [pair for pair in evaluation.measured if pair[0].about == "pixels" and pair[1].per_image]
    if not judged:
        return ""
    row, result = judged[0]
    name = row.headline[0][1] if row.headline else row.name

    def shown(index: int) -> str:
        sample = dataset[index]
        panels = compare_maps(*shrunk(sample.image, sample.truth, predictions[index]))
        return _figure(dataset, index, panels, f"{escape(name)} {in_percent(result.per_image[index], ' %')}")

    order = sorted(range(len(dataset)), key=lambda i: _finite(result.per_image[i], 1.0))
    return _gallery("Pixel classes in images", f"Chosen by {escape(name)}.", _choose(order), shown)


def _gallery(
    heading: str, text: str, chosen: Mapping[str, Sequence[int]], shown: Callable[[int], str]
) -> str:
    """Pictures under the keys of ``chosen``, whose values are indices of images; best and worst lead."""
    cards = {
        name: f'<section class="card {name.lower()}"><h3>{name}</h3>'
        f'<div class="figures">{"".join(map(shown, indices))}</div></section>'
        for name, indices in chosen.items()
        if indices
    }
    first = "".join(cards.pop(name, "") for name in ("Best", "Worst"))
    return f'<h2>{heading}</h2><p>{text}</p><div class="gallery">{first}</div>{"".join(cards.values())}'


def _finite(value: float, otherwise: float = 0.0) -> float:
    return value if math.isfinite(value) else otherwise


def _threshold_and_counts(
    evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]
) -> str:
    cards = [
        ("Scores of true and false detections", charts.score_chart(evaluation.agreement)),
        ("True and predicted objects per image", charts.count_chart(evaluation.matches)),
    ]
    threshold = number(evaluation.f1_threshold)
    text = (
        f"Detections with a score of at least {threshold} count as objects, here and in the pictures: F1 is "
        f"highest at this threshold ({in_percent(evaluation.f1, ' %')}). {_count_error(evaluation.matches)}"
    )
    head = ["class", "true", "predicted", "difference", "found", "missed", "spurious"]
    table = html_table([*head, "precision, %", "recall, %"], _count_rows(evaluation, dataset, predictions))
    totals = table_card(f"Totals, detections with score ≥ {threshold}", table)
    counts = f"<h2>Threshold and counts</h2><p>{text}</p>{card_pair(cards)}{totals}"
    return counts + agreement_section(evaluation.counts)


def _pictures(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> str:
    legend = "".join(key(colour, name) for colour, name in VERDICTS.items())

    def shown(index: int) -> str:
        return _compared(dataset, index, predictions[index], evaluation.matches[index])

    text = f"Chosen by F1, at score ≥ {number(evaluation.f1_threshold)}. {legend}"
    return _gallery("What it finds", text, _choose(_by_f1(evaluation.matches)), shown)


def _compared(dataset: Dataset, index: int, predicted: Instances, match: ImageMatch) -> str:
    sample = dataset[index]
    image, truth, predicted = shrunk(sample.image, sample.truth, predicted)
    panels = compare(image, truth, predicted, match)
    return _figure(dataset, index, panels, f"F1 {in_percent(match.f1, ' %')}")


def _figure(dataset: Dataset, index: int, panels: Sequence[Panel], caption: str) -> str:
    name = escape(dataset.records[index].path.name)
    titled = [
        (escape(panel.title) + "".join(key(*entry) for entry in panel.legend), panel.picture)
        for panel in panels
    ]
    return figure(f'<b title="{name}">{name}</b><span>{caption}</span>', titled)


def _times(run: Mapping[str, float], per_image: Mapping[str, float]) -> str:
    cards = []
    for heading, times in (("The run", run), ("Evaluation, per image", per_image)):
        known = {name: value for name, value in times.items() if math.isfinite(value)}
        total = sum(known.values())
        rows: list[Row] = [[name, _duration(t), t / total if total else 0.0] for name, t in known.items()]
        if rows:
            rows.append(["total", _duration(total), 1.0])
            cards.append((heading, html_table(["stage", "time", "% of all"], rows, bars={2: 1.0})))
    return "<h2>Time per stage</h2>" + card_pair(cards) if cards else ""


# Which images, and how many


def _by_f1(matches: Sequence[ImageMatch]) -> list[int]:
    """The images from worst to best; those without any objects are left out if there are others."""
    busy = [i for i, m in enumerate(matches) if m.num_true or m.num_predicted]

    def merit(index: int) -> tuple[float, int, int]:
        match = matches[index]
        errors = len(match.missed_truths) + len(match.spurious_predictions)
        return match.f1, -errors, match.num_true

    return sorted(busy or range(len(matches)), key=merit)


def _choose(order: Sequence[int]) -> dict[str, list[int]]:
    """Up to three best, median and worst images, each shown once; ``order`` is from worst to best."""
    number = min(_SHOWN, max(1, len(order) // 3))
    best = list(order[::-1][:number])
    worst = [i for i in order[:number] if i not in best]
    start = max(0, (len(order) - number) // 2)
    median = [i for i in order[start : start + number] if i not in best and i not in worst]
    return {"Best": best, "Median": median, "Worst": worst}


def _count_rows(
    evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]
) -> list[Row]:
    """True, predicted, found, missed and spurious objects, over all classes and per class."""
    found: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    spurious: Counter[str] = Counter()
    names: dict[str, str] = {}
    if dataset is not None:
        for record, predicted, match in zip(dataset.records, predictions, evaluation.matches, strict=True):
            known = named_as(dataset.class_names, predicted.class_names)
            true_names, predicted_names = [known[i] for i in record.truth.labels], predicted.names
            # Names that differ only in case are one class, as in the evaluation.
            names |= {name.casefold(): name for name in (*true_names, *predicted_names)}
            found.update(true_names[i].casefold() for i in match.matched_truths)
            missed.update(true_names[i].casefold() for i in match.missed_truths)
            spurious.update(predicted_names[i].casefold() for i in match.spurious_predictions)
    matches = evaluation.matches
    rows = [
        _count_row(
            "all",
            sum(len(m.matched_truths) for m in matches),
            sum(len(m.missed_truths) for m in matches),
            sum(len(m.spurious_predictions) for m in matches),
        )
    ]
    keys = sorted(found.keys() | missed.keys() | spurious.keys(), key=lambda k: (-found[k] - missed[k], k))
    if len(keys) > 1:
        rows += [_count_row(names[key], found[key], missed[key], spurious[key]) for key in keys]
    return rows


def _count_row(name: str, found: int, missed: int, spurious: int) -> Row:
    true, predicted = found + missed, found + spurious
    difference = f"{(predicted - true) / true:+.1%}" if true else DASH
    counts = [f"{true:,}", f"{predicted:,}", difference, f"{found:,}", f"{missed:,}", f"{spurious:,}"]
    return [name, *counts, found / predicted if predicted else None, found / true if true else None]


def _count_error(matches: Sequence[ImageMatch]) -> str:
    if not matches:
        return ""
    errors = [m.num_predicted - m.num_true for m in matches]
    exact = sum(error == 0 for error in errors)
    mean = sum(abs(error) for error in errors) / len(errors)
    off = f"The count per image is off by {mean:.1f} objects on average"
    return f"{off}, and exact in {exact} of {len(errors)} images."


# Texts


def _whole(value: float | None) -> str:
    return f"{int(value):,}" if value is not None and math.isfinite(value) else DASH


def _objects(values: Mapping[str, float]) -> float:
    return values.get("objects", 0)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
