"""The report of a run: one HTML file that needs nothing beside it, neither network nor scripts.

Curves are SVG inside the page, see ``rcnn.evaluation.charts``; pictures are JPEG. A report of many hundreds
of images stays below about 2 MB, since nine of them are shown.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rcnn.draw import IGNORED, Pixels
from rcnn.evaluation import charts
from rcnn.evaluation.charts import DASH, number
from rcnn.evaluation.pictures import FOUND, MISSED, SPURIOUS, draw_comparison, draw_maps
from rcnn.evaluation.tables import metric_tables
from rcnn.io.atomic import write_atomically
from rcnn.structures import Instances, Masks

if TYPE_CHECKING:
    from rcnn.data.dataset import Dataset
    from rcnn.evaluation.evaluator import Evaluation
    from rcnn.metrics.matches import ImageMatch
    from rcnn.metrics.panoptic import PanopticQuality
    from rcnn.metrics.semantic import SemanticResult

_SHOWN = 3  # pictures of each kind
_PICTURE_BYTES = 125_000
# (longer side, quality), tried in turn; the last is for pictures that are all noise.
_JPEG_STEPS = ((1200, 88), (1200, 78), (1200, 65), (1200, 50), (900, 50), (640, 45), (400, 40))
_LARGEST_DRAWN = 1800  # longer side of an image in pixels; larger ones are drawn smaller
_METRICS = (
    "panoptic/PQ", "keypoint/AP", "keypoint/AP50", "mask/AP", "mask/AP50", "box/AP", "box/AP50", "voc07/mAP",
    "semantic/mIoU", "semantic/pixel_accuracy",
)  # fmt: skip

_SEMANTIC = {
    "mIoU": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_IoU": "frequency-weighted IoU",
}

Row = list[str | float | None]
Rows = Iterable[Row]


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
        path: the HTML file; its folder is made where it is missing.
        title: the heading.
        facts: what was trained on what; rows in their order.
        history: rows of ``metrics.jsonl``, each with any of ``iteration``, ``epoch``, ``seconds``, ``lr``,
            ``loss``, ``loss/…``, ``val/loss`` and the evaluation's metrics.
        evaluation: the measurements, where the model was evaluated.
        dataset: what it was evaluated on; without it there are no pictures.
        predictions: one an image of ``dataset``, those that were evaluated.
        seconds: time of each stage of the run.

    Returns:
        ``path``. The file is there completely or, after an error, as it was before.

    Raises:
        ValueError: predictions or matches that are not one an image of ``dataset``.
    """
    if evaluation is not None and dataset is not None:
        _check_lengths(evaluation, dataset, predictions)
    sections = [_facts(facts)]
    semantic = None if evaluation is None else evaluation.semantic
    if semantic is not None:
        sections.insert(0, _semantic_headline(semantic))
    if evaluation is not None and evaluation.has_boxes:
        sections.insert(0, _headline(evaluation))
    sections.append(_training(history))
    if evaluation is not None and evaluation.panoptic is not None:
        sections.append(_panoptic_quality(evaluation.panoptic))
    if semantic is not None:
        sections.append(_semantic_quality(semantic))
        if dataset is not None:
            sections.append(_semantic_pictures(semantic, dataset, predictions))
    if evaluation is not None and evaluation.has_boxes:
        sections += [_quality(evaluation), _threshold_and_counts(evaluation, dataset, predictions)]
        if dataset is not None:
            sections.append(_pictures(evaluation, dataset, predictions))
    sections.append(_times(seconds, {} if evaluation is None else evaluation.seconds))
    page = Template(files("rcnn.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(title=escape(title), body="\n".join(filter(None, sections)))
    write_atomically(path, text.encode())
    return path


def _check_lengths(evaluation: Evaluation, dataset: Dataset, predictions: Sequence[Instances]) -> None:
    matched = len(evaluation.matches) if evaluation.has_boxes else len(dataset)
    if not len(dataset) == len(predictions) == matched:
        raise ValueError(
            f"report of {dataset.source}: {len(dataset)} images, {len(predictions)} predictions and "
            f"{len(evaluation.matches)} matches; give those of one evaluation, one an image each."
        )


# Sections, in the page's order


def _headline(evaluation: Evaluation) -> str:
    """The figures that one looks for first, large, and COCO's table."""
    kind = evaluation.headline if evaluation.panoptic is None else "mask"
    matches = evaluation.matches
    true, predicted = sum(m.num_true for m in matches), sum(m.num_predicted for m in matches)
    noun = charts.KIND_NOUNS[kind]
    tiles = [
        (number(evaluation.metrics.get(f"{kind}/AP")), f"AP of {noun}"),
        (number(evaluation.metrics.get(f"{kind}/AP50")), f"AP50 of {noun}"),
        (number(evaluation.f1), f"best F1, at score ≥ {number(evaluation.f1_threshold)}"),
        (f"{predicted:,} / {true:,}", f"objects predicted / true, {_plural(len(matches), 'image')}"),
    ]
    if "voc07/mAP" in evaluation.metrics:
        tiles.insert(2, (number(evaluation.metrics["voc07/mAP"]), "VOC07 mAP of boxes"))
    if evaluation.panoptic is not None:
        parts = (("", ""), ("_things", " of things"), ("_stuff", " of stuff"))
        tiles[:1] = [
            (number(evaluation.metrics[f"panoptic/PQ{part}"]), f"PQ{text}") for part, text in parts
        ] + tiles[:1]
    boxes = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(t)}</span></div>' for v, t in tiles)
    columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
    rows = [
        [name, *(evaluation.metrics.get(f"{key}/{column}") for column in columns)]
        for key, name in charts.KIND_NOUNS.items()
        if f"{key}/AP" in evaluation.metrics
    ]
    head = ["", "AP", "AP50", "AP75", "small", "medium", "large", "AR"]
    explained = (
        "COCO metrics on the held-out images: AP is the mean over IoU 0.50 to 0.95, AP50 and AP75 are at one "
        "IoU (of keypoints: OKS); small is below 32² pixels, large above 96²; up to "
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
    metrics = [key for key in _METRICS if charts.curve_of(history, key, axis)[0]]
    parts = sorted({key for row in history for key in row if key.startswith("loss/")})
    cards = [
        ("Loss", charts.loss_chart(history, axis)),
        ("Parts of the loss", charts.lines_chart(history, parts, axis, smooth=True)),
        ("Metrics on held-out images", charts.lines_chart(history, metrics, axis, top=1.0)),
        ("Learning rate", charts.lines_chart(history, ["lr"], axis)),
    ]
    return "<h2>Training</h2>" + _pair(cards)


def _quality(evaluation: Evaluation) -> str:
    kind = _kind(evaluation)
    noun = charts.KIND_NOUNS[kind]
    cards = [
        (f"Precision and recall of {noun} at IoU 0.5", charts.precision_recall_chart(evaluation, kind)),
        ("AP by object size", charts.size_chart(evaluation)),
    ]
    per_class = "" if len(evaluation.per_class) < 2 else _class_table(evaluation)
    return "<h2>Detection quality</h2>" + _pair(cards) + per_class + _metric_tables(evaluation)


def _metric_tables(evaluation: Evaluation) -> str:
    """The tables of what was measured beside COCO's and VOC's metrics, such as the cost of errors."""
    return "".join(
        _table_card(escape(table.title), _table(table.columns, [list(row) for row in table.rows]))
        for table in metric_tables(evaluation)
    )


def _class_table(evaluation: Evaluation) -> str:
    kinds = [kind for kind in ("keypoint", "mask", "box") if f"{kind}/AP" in evaluation.metrics]
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


def _panoptic_quality(result: PanopticQuality) -> str:
    rows: list[Row] = [
        [name, quality.pq, quality.sq, quality.rq, *result.counts[name]]
        for name, quality in result.per_class.items()
        if sum(result.counts[name])
    ]
    head = ["class", "PQ", "SQ", "RQ", "found", "spurious", "missed"]
    text = (
        "Every pixel belongs to one segment. PQ = SQ · RQ: how well the segments found fit, and the F1 of "
        "finding them, at IoU above 0.5."
    )
    return (
        f"<h2>Panoptic quality</h2><p>{text}</p>{_table_card('By class', _table(head, rows, bars={1: 1.0}))}"
    )


def _semantic_headline(result: SemanticResult) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{number(result.metrics[f"semantic/{key}"])}</b><span>{text}</span></div>'
        for key, text in _SEMANTIC.items()
    )
    return f'<div class="tiles">{tiles}</div>'


def _semantic_quality(result: SemanticResult) -> str:
    """IoU of each class, and what the pixels of each were taken for."""
    columns = ("share", "IoU", "accuracy")
    order = sorted(result.per_class.items(), key=lambda item: -_finite(item[1]["semantic/share"]))
    rows: list[Row] = [[name, *(values[f"semantic/{key}"] for key in columns)] for name, values in order]
    table = _table(["class", "share of pixels", "IoU", "accuracy"], rows, bars={2: 1.0})
    cards = [("What the pixels of each class were taken for", charts.confusion_chart(result))]
    return f"<h2>Classes of pixels</h2>{_pair(cards)}{_table_card('IoU by class', table)}"


def _semantic_pictures(result: SemanticResult, dataset: Dataset, predictions: Sequence[Instances]) -> str:
    order = sorted(range(len(dataset)), key=lambda i: _finite(result.per_image[i], 1.0))  # worst first
    count = min(_SHOWN, max(1, len(order) // 3))
    middle = max(0, (len(order) - count) // 2)
    chosen = {"Worst": order[:count], "Median": order[middle : middle + count], "Best": order[::-1][:count]}
    html = ["<h2>Worst, median and best images</h2><p>By their own mean IoU; truth at the left.</p>"]
    shown: set[int] = set()
    for heading, indices in chosen.items():
        figures = []
        for index in (i for i in indices if i not in shown):
            sample = dataset[index]
            image, truth, predicted = _shrunk(sample.image, sample.truth, predictions[index])
            picture = _jpeg(draw_maps(image, truth, predicted))
            name = escape(dataset.records[index].path.name)
            caption = f"<b>{name}</b>: mean IoU {number(result.per_image[index])}"
            tag = f'<img src="{picture}" alt="truth and prediction">'
            figures.append(f"<figure><figcaption>{caption}</figcaption>{tag}</figure>")
        shown |= set(indices)
        if figures:
            html.append(f'<section class="card"><h3>{heading}</h3>{"".join(figures)}</section>')
    return "".join(html)


def _finite(value: float, otherwise: float = 0.0) -> float:
    return value if math.isfinite(value) else otherwise


def _threshold_and_counts(
    evaluation: Evaluation, dataset: Dataset | None, predictions: Sequence[Instances]
) -> str:
    cards = [
        ("Scores of true and false detections", charts.score_chart(evaluation)),
        ("Objects in each image, true and predicted", charts.count_chart(evaluation.matches)),
    ]
    threshold = number(evaluation.f1_threshold)
    text = (
        f"Detections with a score of at least {threshold} are taken for objects: F1 is highest there, "
        f"{number(evaluation.f1)}. The counts and the pictures below are at this threshold. "
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
        f"<b>{escape(dataset.records[index].path.name)}</b>: F1 {number(match.f1)}; {match.num_true} true, "
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
    difference = f"{(predicted - true) / true:+.1%}" if true else DASH
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
            line.append(f"<td{style}>{escape(cell if isinstance(cell, str) else number(cell))}</td>")
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


def _whole(value: float | None) -> str:
    return f"{int(value):,}" if value is not None and math.isfinite(value) else DASH


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


def _shrunk(image: Pixels, *objects: Instances) -> tuple[Pixels, Instances, Instances]:
    """A large image and its truth and predictions, smaller by a whole factor."""
    truth, predicted = objects
    step = math.ceil(max(image.shape[:2]) / _LARGEST_DRAWN)
    if step <= 1:
        return image, truth, predicted
    small = image[::step, ::step]
    size = (small.shape[0], small.shape[1])
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
    points = instances.keypoints
    if points is not None:
        points = np.concatenate([points[..., :2] / np.float32(step), points[..., 2:]], -1)
    semantic = None if instances.semantic is None else instances.semantic[::step, ::step]
    boxes = instances.boxes / np.float32(step)
    return replace(instances, size=size, boxes=boxes, masks=masks, keypoints=points, semantic=semantic)


def _jpeg(picture: Image.Image) -> str:
    """A data URI of a picture made small enough: lower in quality first, then smaller."""
    for side, quality in _JPEG_STEPS:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        # Without subsampling thin coloured outlines keep their colour. Not optimised: Pillow fails at that
        # where a noisy picture outgrows its buffer.
        picture.save(data, "JPEG", quality=quality, subsampling=0)
        if data.tell() <= _PICTURE_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
