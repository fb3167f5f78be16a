"""The report of a run: one HTML file that needs nothing beside it, neither network nor scripts.

Curves are SVG inside the page, so that they are sharp in print and follow the reader's light or dark colours;
pictures are JPEG. A report of many hundreds of images stays below about 2 MB, since nine of them are shown.
"""

from __future__ import annotations

import base64
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rcnn.draw import FOUND, IGNORED, MISSED, SPURIOUS, draw_comparison
from rcnn.structures import Instances, Masks

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.evaluation import Evaluation, ImageMatch

# Written by matplotlib, then replaced by the colour of the page's text.
_INK = "#010203"
_LINES = ("#0a8fdc", "#f08a00", "#22a45d", "#e0457b", "#8b62e8", "#c2a200", "#10a8a0", "#e2533d")
_TRUE, _FALSE = "#0a8fdc", "#e0a100"
_SHOWN = 3  # pictures of each kind
_PICTURE_BYTES = 125_000
# (longer side, quality), tried in turn; the last is for pictures that are all noise.
_JPEG_STEPS = ((1200, 88), (1200, 78), (1200, 65), (1200, 50), (900, 50), (640, 45), (400, 40))
_LARGEST_DRAWN = 1800  # longer side of an image in pixels; larger ones are drawn smaller
_POINTS = 300  # of a curve
_METRICS = ("mask/AP", "mask/AP50", "box/AP", "box/AP50", "voc07/mAP")

# What stands where there is no number.
_NONE = "\N{EN DASH}"

Row = list[str | float | None]
Rows = Iterable[Row]
Curve = tuple[list[float], list[float]]


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
    notes: Sequence[str] = (),
) -> Path:
    """Write the report of a run.

    Args:
        path: the HTML file; its folder is made where it is missing.
        title: the heading.
        facts: what was trained on what; rows in their order.
        history: rows of ``metrics.jsonl``, each with any of ``iteration``, ``epoch``, ``seconds``, ``lr``,
            ``loss``, ``loss/…``, ``val/loss`` and the evaluation's metrics.
        evaluation: the measurements, where the model was evaluated.
        dataset: what it was evaluated on; without it there are no pictures.
        predictions: one an image of ``dataset``, those that were evaluated.
        seconds: time of each stage of the run.
        notes: remarks shown at the top.

    Returns:
        ``path``. The file is there completely or, after an error, as it was before.

    Raises:
        ValueError: predictions or matches that are not one an image of ``dataset``.
    """
    if evaluation is not None and dataset is not None:
        _check_lengths(evaluation, dataset, predictions)
    sections = [_notes(notes), _facts(facts)]
    if evaluation is not None:
        sections.insert(1, _headline(evaluation))
    sections.append(_training(history))
    if evaluation is not None:
        sections += [_quality(evaluation), _threshold_and_counts(evaluation, dataset, predictions)]
        if dataset is not None:
            sections.append(_pictures(evaluation, dataset, predictions))
    sections.append(_times(seconds, {} if evaluation is None else evaluation.seconds))
    page = Template(files("rcnn").joinpath("report.html").read_text(encoding="utf-8"))
    _write_whole(path, page.substitute(title=escape(title), body="\n".join(filter(None, sections))))
    return path


def _check_lengths(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> None:
    if not len(dataset) == len(predictions) == len(evaluation.matches):
        raise ValueError(
            f"report of {dataset.source}: {len(dataset)} images, {len(predictions)} predictions and "
            f"{len(evaluation.matches)} matches; give those of one evaluation, one an image each."
        )


def _write_whole(path: Path, text: str) -> None:
    """Write beside the file first: a reader, or a full disk, never meets half a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# Sections, in the page's order


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="card notes"><ul>{items}</ul></section>' if notes else ""


def _headline(evaluation: Evaluation) -> str:
    """The figures that one looks for first, large, and COCO's table."""
    kind = _kind(evaluation)
    matches = evaluation.matches
    true, predicted = sum(m.num_true for m in matches), sum(m.num_predicted for m in matches)
    noun = {"mask": "masks", "box": "boxes"}[kind]
    tiles = [
        (_number(evaluation.metrics.get(f"{kind}/AP")), f"AP of {noun}"),
        (_number(evaluation.metrics.get(f"{kind}/AP50")), f"AP50 of {noun}"),
        (_number(evaluation.f1), f"best F1, at score ≥ {_number(evaluation.f1_threshold)}"),
        (f"{predicted:,} / {true:,}", f"objects predicted / true, {_plural(len(matches), 'image')}"),
    ]
    if "voc07/mAP" in evaluation.metrics:
        tiles.insert(2, (_number(evaluation.metrics["voc07/mAP"]), "VOC07 mAP of boxes"))
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
    rows = [
        [name, *(evaluation.metrics.get(f"{key}/{column}") for column in columns)]
        for key, name in (("mask", "masks"), ("box", "boxes"))
        if f"{key}/AP" in evaluation.metrics
    ]
    head = ["", "AP", "AP50", "AP75", "small", "medium", "large", "AR"]
    explained = (
        "COCO metrics on the held-out images: AP is the mean over IoU 0.50 to 0.95, AP50 and AP75 are at one "
        "IoU; small is below 32² pixels, large above 96²; up to "
        f"{evaluation.max_detections} detections an image and class."
    )
    table = f'<section class="card">{_table(head, rows)}<p style="margin:10px 0 0">{explained}</p></section>'
    return f'<div class="tiles">{boxes}</div>{table}'


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    table = f'<table class="facts">{rows}</table>'
    return f'<h2>What was trained on what</h2><section class="card">{table}</section>'


def _training(history: Sequence[Mapping[str, float]]) -> str:
    axis = next((key for key in ("iteration", "epoch") if any(key in row for row in history)), "row")
    if not history:
        return ""
    metrics = [key for key in _METRICS if _curve(history, key, axis)[0]]
    parts = sorted({key for row in history for key in row if key.startswith("loss/")})
    cards = [
        ("Loss", _loss_chart(history, axis)),
        ("Parts of the loss", _lines_chart(history, parts, axis, average=True)),
        ("Metrics on held-out images", _lines_chart(history, metrics, axis, top=1.0)),
        ("Learning rate", _lines_chart(history, ["lr"], axis)),
    ]
    return "<h2>Training</h2>" + _pair(cards)


def _quality(evaluation: Evaluation) -> str:
    kind = _kind(evaluation)
    noun = {"mask": "masks", "box": "boxes"}[kind]
    cards = [
        (f"Precision and recall of {noun} at IoU 0.5", _precision_recall_chart(evaluation, kind)),
        ("AP by object size", _size_chart(evaluation)),
    ]
    per_class = "" if len(evaluation.per_class) < 2 else _class_table(evaluation)
    return "<h2>Detection quality</h2>" + _pair(cards) + per_class


def _class_table(evaluation: Evaluation) -> str:
    kinds = [kind for kind in ("mask", "box") if f"{kind}/AP" in evaluation.metrics]
    columns = ("AP", "AP50", "AP_small", "AP_medium", "AP_large")
    wanted = [
        (f"{kind}/{column}", f"{kind} {column}")
        for kind in kinds
        for column in (columns if kind == kinds[0] else columns[:2])
    ]
    if "voc07/mAP" in evaluation.metrics:
        wanted.append(("voc07/AP", "VOC07 AP"))
    rows: list[Row] = [
        [name, _whole(values.get("objects")), *(values.get(key) for key, _ in wanted)]
        for name, values in sorted(evaluation.per_class.items(), key=lambda item: -_objects(item[1]))
    ]
    head = ["class", "objects", *(text.replace("AP_", "") for _, text in wanted)]
    return _table_card("AP by class", _table(head, rows, bars={2: 1.0}))


def _table_card(heading: str, table: str) -> str:
    """A long table below a pair of cards."""
    return f'<section class="card below"><h3>{heading}</h3><div class="scroll">{table}</div></section>'


def _threshold_and_counts(
    evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]
) -> str:
    cards = [
        ("Scores of true and false detections", _score_chart(evaluation)),
        ("Objects in each image, true and predicted", _count_chart(evaluation.matches)),
    ]
    threshold = _number(evaluation.f1_threshold)
    text = (
        f"Detections with a score of at least {threshold} are taken for objects: F1 is highest there, "
        f"{_number(evaluation.f1)}. The counts and the pictures below are at this threshold. "
        f"{_count_error(evaluation.matches)}"
    )
    head = ["class", "true", "predicted", "difference", "found", "missed", "spurious", "precision", "recall"]
    table = _table(head, _count_rows(evaluation, dataset, predictions))
    return f"<h2>Threshold and counts</h2><p>{text}</p>{_pair(cards)}{_table_card('Totals', table)}"


def _pictures(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> str:
    key = "".join(
        f'<span class="key" style="background:rgb{colour}"></span>{name}'
        for colour, name in (
            (FOUND, "found"),
            (MISSED, "missed"),
            (SPURIOUS, "spurious"),
            (IGNORED, "ignored"),
        )
    )
    html = [
        f"<h2>Best, median and worst images</h2>"
        f"<p>By F1; truth at the left, prediction at the right.{key}</p>"
    ]
    for heading, indices in _choose(evaluation.matches).items():
        figures = [_figure(dataset, i, predictions[i], evaluation.matches[i]) for i in indices]
        if figures:
            html.append(f'<section class="card"><h3>{heading}</h3>{"".join(figures)}</section>')
    return "".join(html)


def _figure(dataset: Dataset, index: int, predicted: Instances, match: ImageMatch) -> str:
    sample = dataset[index]
    image, truth, predicted = _shrunk(sample.image, sample.truth, predicted)
    picture = _jpeg(draw_comparison(image, truth, predicted, match))
    caption = (
        f"<b>{escape(dataset.records[index].path.name)}</b>: F1 {_number(match.f1)}; {match.num_true} true, "
        f"{match.num_predicted} predicted, {len(match.missed_truths)} missed, "
        f"{len(match.spurious_predictions)} spurious"
    )
    image_tag = f'<img src="{picture}" alt="truth and prediction">'
    return f"<figure><figcaption>{caption}</figcaption>{image_tag}</figure>"


def _times(run: Mapping[str, float], per_image: Mapping[str, float]) -> str:
    cards = []
    for heading, times in (("Of the run", run), ("Of one image, evaluating", per_image)):
        known = {name: value for name, value in times.items() if math.isfinite(value)}
        total = sum(known.values())
        rows: list[Row] = [[name, _duration(t), t / total if total else 0.0] for name, t in known.items()]
        if rows:
            rows.append(["together", _duration(total), 1.0])
            cards.append((heading, _table(["stage", "time", "share"], rows, bars={2: 1.0})))
    return "<h2>Time by stage</h2>" + _pair(cards) if cards else ""


# Which images, and how many


def _choose(matches: Sequence[ImageMatch]) -> dict[str, list[int]]:
    """Up to three images of each kind by F1, none of them twice; the emptiest of all are passed over."""
    busy = [i for i, m in enumerate(matches) if m.num_true or m.num_predicted]

    def merit(index: int) -> tuple[float, int, int]:
        match = matches[index]
        errors = len(match.missed_truths) + len(match.spurious_predictions)
        return match.f1, -errors, match.num_true

    order = sorted(busy or range(len(matches)), key=merit)  # worst first
    number = min(_SHOWN, max(1, len(order) // 3))
    best = order[::-1][:number]
    worst = [i for i in order[:number] if i not in best]
    start = max(0, (len(order) - number) // 2)
    median = [i for i in order[start : start + number] if i not in best and i not in worst]
    return {"Best": best, "Median": median, "Worst": worst}


def _count_rows(
    evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]
) -> list[Row]:
    """True, predicted, found, missed and spurious objects, of all classes and of each."""
    found: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    spurious: Counter[str] = Counter()
    names: dict[str, str] = {}
    if dataset is not None:
        for record, predicted, match in zip(dataset.records, predictions, evaluation.matches, strict=True):
            true_names, predicted_names = record.truth.names, predicted.names
            # Names that differ in case alone are one class, as in the evaluation.
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
    difference = f"{(predicted - true) / true:+.1%}" if true else _NONE
    counts = [f"{true:,}", f"{predicted:,}", difference, f"{found:,}", f"{missed:,}", f"{spurious:,}"]
    return [name, *counts, found / predicted if predicted else None, found / true if true else None]


def _count_error(matches: Sequence[ImageMatch]) -> str:
    if not matches:
        return ""
    errors = [m.num_predicted - m.num_true for m in matches]
    exact = sum(error == 0 for error in errors)
    mean = sum(abs(error) for error in errors) / len(errors)
    off = f"The count of an image is off by {mean:.1f} objects on average"
    return f"{off}; it is exact in {exact} of {len(errors)}."


# Charts


def _figure_and_axes(xlabel: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.6, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=_INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=_INK, alpha=0.4)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.set_xlabel(xlabel, color=_INK, fontsize=9)
    axes.set_ylabel(ylabel, color=_INK, fontsize=9)
    return figure, axes


def _legend(axes: Any, labelled: Sequence[tuple[Any, str]], where: str = "best") -> None:
    if labelled:
        handles = [handle for handle, _ in labelled]
        texts = [_plain(text) for _, text in labelled]
        axes.legend(handles, texts, loc=where, fontsize=8.5, frameon=False, labelcolor=_INK)


def _plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar starts a formula, a leading underscore hides an entry."""
    return ("\u200a" if text.startswith("_") else "") + text.replace("$", r"\$")


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element whose ids are its own and whose ink is the page's."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the glyphs of a class name that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    for mark in ('id="', "url(#", 'xlink:href="#'):
        svg = svg.replace(mark, f"{mark}{name}-")
    return svg


def _curve(history: Sequence[Mapping[str, float]], key: str, axis: str) -> Curve:
    """The finite values of a key, over ``axis``; a row without its position has the one before."""
    xs, ys = [], []
    position = 0.0
    for index, row in enumerate(history):
        position = row.get(axis, float(index) if axis == "row" else position)
        value = row.get(key)
        if value is not None and math.isfinite(value):
            xs.append(position)
            ys.append(value)
    return xs, ys


def _thinned(curve: Curve, points: int = _POINTS) -> Curve:
    """The means of as many neighbours as leave at most ``points``."""
    size = math.ceil(len(curve[0]) / points)
    if size <= 1:
        return curve
    starts = np.arange(0, len(curve[0]), size)
    counts = np.diff(np.r_[starts, len(curve[0])])
    xs, ys = (np.add.reduceat(np.array(values), starts) / counts for values in curve)
    return xs.tolist(), ys.tolist()


def _smoothed(curve: Curve) -> Curve:
    """A running mean over a fifteenth of the curve, shorter towards both ends."""
    values = np.array(curve[1])
    half = len(values) // 30
    sums = np.r_[0.0, values.cumsum()]
    positions = np.arange(len(values))
    reach = np.minimum(half, np.minimum(positions, len(values) - 1 - positions))
    means = (sums[positions + reach + 1] - sums[positions - reach]) / (2 * reach + 1)
    return curve[0], means.tolist()


def _loss_chart(history: Sequence[Mapping[str, float]], axis: str) -> str:
    train, held_out = _curve(history, "loss", axis), _curve(history, "val/loss", axis)
    if not train[0] and not held_out[0]:
        return ""
    figure, axes = _figure_and_axes(axis, "loss")
    smooth = _thinned(_smoothed(train))
    labelled = []
    if train[0]:
        axes.plot(*_thinned(train), color=_LINES[0], alpha=0.3, linewidth=0.8)
        labelled.append((axes.plot(*smooth, color=_LINES[0], linewidth=1.8)[0], "training"))
    if held_out[0]:
        labelled.append((axes.plot(*held_out, color=_LINES[1], marker="o", markersize=4)[0], "held out"))
    # The first steps may lie so high that nothing else could be seen.
    axes.set_ylim(0, 1.15 * float(np.quantile([*smooth[1], *held_out[1]], 0.98)) or 1.0)
    _legend(axes, labelled, "upper right")
    return _svg(figure, "loss")


def _lines_chart(
    history: Sequence[Mapping[str, float]],
    keys: Sequence[str],
    axis: str,
    *,
    average: bool = False,
    top: float | None = None,
) -> str:
    """One line a key; ``average`` for noisy values, else as they are."""
    curves = {key: _curve(history, key, axis) for key in keys}
    curves = {
        key: _thinned(_smoothed(curve) if average else curve) for key, curve in curves.items() if curve[0]
    }
    if not curves:
        return ""
    figure, axes = _figure_and_axes(axis, "")
    labelled = []
    for i, (key, curve) in enumerate(curves.items()):
        marker = "o" if len(curve[0]) < 40 else ""
        style = {"color": _LINES[i % len(_LINES)], "linewidth": 1.6, "marker": marker, "markersize": 4}
        labelled.append((axes.plot(*curve, **style)[0], key.removeprefix("loss/")))
    axes.set_ylim(0, top or 1.1 * max(float(np.quantile(ys, 0.98)) for _, ys in curves.values()) or 1.0)
    if len(curves) > 1 or top:
        _legend(axes, labelled)
    return _svg(figure, "lines-" + keys[0].replace("/", "-"))


def _precision_recall_chart(evaluation: Evaluation, kind: str) -> str:
    """The classes with the most objects in colour, the others faint."""
    if not evaluation.pr_curves:
        return ""
    figure, axes = _figure_and_axes("recall", "precision")
    values = evaluation.per_class
    order = sorted(evaluation.pr_curves, key=lambda name: -_objects(values.get(name, {})))
    labelled = []
    for name in order[len(_LINES) :]:
        axes.plot(*_reached(evaluation.pr_curves[name]), color=_INK, alpha=0.15, linewidth=0.8)
    for name, colour in zip(order, _LINES, strict=False):
        line = axes.plot(*_reached(evaluation.pr_curves[name]), color=colour, linewidth=1.8)[0]
        ap50 = _number(values.get(name, {}).get(f"{kind}/AP50"))
        short = name if len(name) <= 24 else f"{name[:23]}…"
        labelled.append((line, f"{short}, AP50 {ap50}"))
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    _legend(axes, labelled, "lower left")
    return _svg(figure, "precision-recall")


def _reached(curve: Mapping[str, list[float]]) -> Curve:
    """The part of a precision-recall curve up to the highest recall; beyond it COCO's precision is 0."""
    end = 1 + max((i for i, precision in enumerate(curve["precision"]) if precision > 0), default=-1)
    return curve["recall"][:end], curve["precision"][:end]


def _size_chart(evaluation: Evaluation) -> str:
    sizes = ("AP", "AP_small", "AP_medium", "AP_large")
    kinds = [kind for kind in ("mask", "box") if f"{kind}/AP" in evaluation.metrics]
    if not kinds:
        return ""
    figure, axes = _figure_and_axes("", "AP")
    labelled = []
    width = 0.76 / len(kinds)
    for i, kind in enumerate(kinds):
        values = [evaluation.metrics.get(f"{kind}/{size}", math.nan) for size in sizes]
        places = [j + (i - (len(kinds) - 1) / 2) * width for j in range(len(sizes))]
        heights = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
        bars = axes.bar(places, heights, width * 0.92, color=_LINES[i])
        labelled.append((bars, {"mask": "masks", "box": "boxes"}[kind]))
        for place, height, value in zip(places, heights, values, strict=True):
            text = {"ha": "center", "va": "bottom", "color": _INK, "fontsize": 8.5}
            axes.text(place, height + 0.012, _number(value), **text)
    axes.set_xticks(range(len(sizes)), ["all", "small\n< 32²", "medium", "large\n> 96²"])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.08)
    if len(kinds) > 1:
        _legend(axes, labelled, "upper right")
    return _svg(figure, "sizes")


def _score_chart(evaluation: Evaluation) -> str:
    true, false = evaluation.scores_true, evaluation.scores_false
    if not true and not false:
        return ""
    figure, axes = _figure_and_axes("score", "detections")
    edges = np.linspace(0, 1, 41)
    labelled = []
    highest = []
    for scores, colour, name in ((false, _FALSE, "false"), (true, _TRUE, "true")):
        counts, _ = np.histogram(scores, edges)
        highest.append(int(counts.max()))
        patch = axes.stairs(counts, edges, fill=True, color=colour, alpha=0.55)
        axes.stairs(counts, edges, color=colour, linewidth=1.3)
        labelled.append((patch, f"{name} ({len(scores):,})"))
    line = axes.axvline(evaluation.f1_threshold, color=_INK, linestyle=(0, (4, 3)), linewidth=1.3)
    labelled.append((line, f"threshold {_number(evaluation.f1_threshold)}"))
    # Weak false detections come in hordes, beside which the true ones would not be seen.
    if max(highest) > 8 * max(1, min(highest)):
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylabel("detections (logarithmic above 10)", color=_INK, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _legend(axes, labelled, "upper center")
    return _svg(figure, "scores")


def _count_chart(matches: Sequence[ImageMatch]) -> str:
    if not matches:
        return ""
    figure, axes = _figure_and_axes("true", "predicted")
    times = Counter((match.num_true, match.num_predicted) for match in matches)
    true, predicted = zip(*times, strict=True)
    highest = max(1, *true, *predicted)
    axes.plot([0, highest], [0, highest], color=_INK, alpha=0.45, linewidth=1, linestyle=(0, (4, 3)))
    # A point's area says how many images lie there.
    area = [18 * math.sqrt(number) for number in times.values()]
    axes.scatter(
        true, predicted, s=area, color=_LINES[0], alpha=0.55, linewidths=0, rasterized=len(times) > 1500
    )
    if highest > 60 and highest > 10 * float(np.median(true)):
        ticks = [0, 5] + [m * 10**e for e in range(1, 6) for m in (1, 2, 5) if m * 10**e <= highest]
        for set_scale, set_ticks in ((axes.set_xscale, axes.set_xticks), (axes.set_yscale, axes.set_yticks)):
            set_scale("symlog", linthresh=10)
            set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            set_ticks([], minor=True)
    axes.set(xlim=(0, 1.05 * highest), ylim=(0, 1.05 * highest))
    return _svg(figure, "counts")


# HTML and pictures


def _table(head: Sequence[str], rows: Rows, bars: Mapping[int, float] | None = None) -> str:
    """A table of escaped texts and numbers of three digits; ``bars``: column → the value of a full bar."""
    bars = bars or {}
    lines = []
    for name, *cells in rows:
        line = [f"<th>{escape(str(name))}</th>"]
        for column, cell in enumerate(cells, 1):
            style = ""
            if column in bars and isinstance(cell, float) and math.isfinite(cell):
                style = f' class="bar" style="--share:{100 * cell / bars[column]:.1f}%"'
            line.append(f"<td{style}>{escape(cell if isinstance(cell, str) else _number(cell))}</td>")
        lines.append(f"<tr>{''.join(line)}</tr>")
    headings = "".join(f"<th>{escape(text)}</th>" for text in head)
    return f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _pair(cards: Sequence[tuple[str, str]]) -> str:
    """Cards in two columns where there is room; those without content are left out."""
    html = "".join(
        f'<div class="card"><h3>{escape(heading)}</h3>{content}</div>'
        for heading, content in cards
        if content
    )
    return f'<div class="pair">{html}</div>' if html else ""


def _kind(evaluation: Evaluation) -> str:
    return "mask" if evaluation.has_masks else "box"


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else _NONE


def _whole(value: float | None) -> str:
    return f"{int(value):,}" if value is not None and math.isfinite(value) else _NONE


def _objects(values: Mapping[str, float]) -> float:
    return values.get("objects", 0)


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _shrunk(image: Tensor, *objects: Instances) -> tuple[Tensor, Instances, Instances]:
    """A large image and its truth and predictions, smaller by a whole factor."""
    truth, predicted = objects
    step = math.ceil(max(image.shape[1:]) / _LARGEST_DRAWN)
    if step <= 1:
        return image, truth, predicted
    small = image[:, ::step, ::step].contiguous()
    size = (small.shape[1], small.shape[2])
    return small, _smaller(truth, step, size), _smaller(predicted, step, size)


def _smaller(instances: Instances, step: int, size: tuple[int, int]) -> Instances:
    masks = instances.masks
    if masks is not None:
        corners = [(y, x) for x, y, _, _ in masks.windows.tolist()]
        # Those pixels of a window that lie on the kept rows and columns of the image.
        patches = [
            p[-y % step :: step, -x % step :: step]
            for p, (y, x) in zip(masks.patches(), corners, strict=True)
        ]
        origins = [(-(-y // step), -(-x // step)) for y, x in corners]
        masks = Masks.from_patches(patches, origins, size)
    return replace(instances, size=size, boxes=instances.boxes / step, masks=masks, keypoints=None)


def _jpeg(image: Tensor) -> str:
    """A data URI of a picture made small enough: lower in quality first, then smaller."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for side, quality in _JPEG_STEPS:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        # Without subsampling thin coloured outlines keep their colour. Not optimised: Pillow fails at that
        # where a noisy picture outgrows its buffer.
        picture.save(data, "JPEG", quality=quality, subsampling=0)
        if data.tell() <= _PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
