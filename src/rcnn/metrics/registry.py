"""The table of metrics: what each one measures, needs and shows, and when it is chosen.

Evaluator, console and report iterate over these rows; your own metrics are rows like them
(``rcnn.metrics.metric``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rcnn.config import did_you_mean, is_dotted_path, resolve
from rcnn.metrics import curves, tables
from rcnn.metrics.cityscapes import cityscapes_metrics
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.errors import ERROR_KINDS, analyse_errors
from rcnn.metrics.keypoints import keypoint_errors
from rcnn.metrics.metric import About, Metric, MetricInput, MetricResult, Need, Tally
from rcnn.metrics.nuclei import nuclei_metrics
from rcnn.metrics.overlaps import KIND_NOUNS
from rcnn.metrics.panoptic import PanopticQuality, PanopticTally
from rcnn.metrics.recall import proposal_recall
from rcnn.metrics.semantic import SemanticResult, SemanticTally
from rcnn.metrics.voc import voc_metrics

KEYPOINT_MAX_DETECTIONS = 20  # COCO's


@dataclass(frozen=True)
class Choice:
    """The metrics to measure.

    Attributes:
        rows: of METRICS, or the user's own.
        is_named: whether they were named and must be measured; otherwise those that suit the data are.
    """

    rows: tuple[Metric, ...]
    is_named: bool = True

    def needs(self, need: Need) -> bool:
        """Whether any of them needs it."""
        return any(need in row.needs for row in self.rows)

    def suitable(self, inputs: MetricInput, *about: About) -> tuple[Metric, ...]:
        """The rows about ``about`` that can be measured.

        Raises:
            ValueError: a metric that was named lacks an input.
        """
        chosen = []
        for row in (row for row in self.rows if row.about in about):
            lacking = _missing(row, inputs)
            if lacking and self.is_named:
                raise ValueError(f"metrics {row.name}: needs {lacking}; leave {row.name} out.")
            if not lacking and (self.is_named or row.is_default(inputs)):
                chosen.append(row)
        return tuple(chosen)


def choose_metrics(metrics: Sequence[str | Metric] | None) -> Choice:
    """The named metrics without repeats: keys of ``METRICS``, rows, and dotted paths of rows.

    None chooses all of ``METRICS`` that suit the data, ``BASIC`` those of them that are measured in training.

    Raises:
        ValueError: an unknown name, a dotted path to something else, or two metrics with the same name.
    """
    if metrics is None:
        return Choice(tuple(METRICS.values()), is_named=False)
    rows: dict[str, Metric] = {}
    for given in metrics:
        row = given if isinstance(given, Metric) else _find(given)
        if rows.setdefault(row.name, row) is not row:
            raise ValueError(f"metrics: two different metrics are called {row.name}; give each its own name.")
    return Choice(tuple(rows.values()), is_named=tuple(metrics) != BASIC)


def _find(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if is_dotted_path(name):
        found = resolve(name)
        if not isinstance(found, Metric):
            raise ValueError(f"metrics {name}: expected an rcnn.metrics.metric.Metric, found {found!r}")
        return found
    raise ValueError(
        f"metrics {name!r}: unknown; {did_you_mean(name, METRICS)}known are {', '.join(METRICS)}, and "
        "your own as my_package.metrics:MINE."
    )


def _missing(row: Metric, inputs: MetricInput) -> str:
    """What the data or the model lacks for a metric."""
    if row.about == "objects" and not inputs.class_names:
        return "a model that finds objects"
    if row.about == "pixels" and inputs.pixels is None:
        return "semantic maps in the data, and a model that classifies pixels"
    if row.about == "partition" and inputs.merge is None:
        return "masks and semantic maps in the data, and a model that merges both"
    return row.missing_input(inputs)


# How each metric is measured


def _coco(inputs: MetricInput) -> MetricResult:
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in inputs.class_names}
    pr_curves: dict[str, dict[str, list[float]]] = {}
    for kind in inputs.kinds:
        cap = inputs.max_detections
        result = coco_metrics(
            inputs.truths, inputs.predictions, kind=kind, class_names=inputs.class_names,
            max_detections=min(cap, KEYPOINT_MAX_DETECTIONS) if kind == "keypoint" else cap,
        )  # fmt: skip
        metrics |= {f"{kind}/{key}": value for key, value in result.metrics.items()}
        for name, values in result.per_class.items():
            per_class[name] |= {f"{kind}/{key}": value for key, value in values.items()}
        if kind == inputs.shape:
            # A class without truth has a curve of NaNs.
            pr_curves = {
                name: {"recall": result.recall, "precision": curve}
                for name, curve in result.precision.items()
                if curve[0] == curve[0]
            }
    return MetricResult(metrics, per_class, pr_curves)


def _keypoints(inputs: MetricInput) -> MetricResult:
    errors = keypoint_errors(inputs.truths, inputs.predictions)
    metrics = {"keypoint/error": errors.mean, "keypoint/found": errors.found}
    return MetricResult(metrics | {f"keypoint/error_{name}": e for name, e in errors.per_keypoint.items()})


def _voc(year: str, *, eleven_point: bool) -> Callable[[MetricInput], MetricResult]:
    def measure(inputs: MetricInput) -> MetricResult:
        result = voc_metrics(
            inputs.truths, inputs.predictions, class_names=inputs.class_names, eleven_point=eleven_point
        )
        per_class = {name: {f"{year}/AP": value} for name, value in result.per_class.items()}
        return MetricResult({f"{year}/mAP": result.mean_ap}, per_class)

    return measure


def _nuclei(inputs: MetricInput) -> MetricResult:
    result = nuclei_metrics(inputs.truths, inputs.predictions, inputs.threshold)
    pooled = {f"nuclei/{name}": value for name, value in result.pooled.items()}
    means = {f"nuclei_per_image/{name}": value for name, value in result.per_image.items()}
    return MetricResult({"nuclei/threshold": result.threshold, **pooled, **means})


def _cityscapes(inputs: MetricInput) -> MetricResult:
    result = cityscapes_metrics(inputs.truths, inputs.predictions, class_names=inputs.class_names)
    per_class = {
        name: {f"cityscapes/{key}": value for key, value in values.items()}
        for name, values in result.per_class.items()
    }
    return MetricResult({"cityscapes/AP": result.ap, "cityscapes/AP50": result.ap_50}, per_class)


def _errors(inputs: MetricInput) -> MetricResult:
    result = analyse_errors(
        inputs.truths, inputs.predictions, kind=inputs.shape, num_classes=len(inputs.class_names)
    )
    counts = {f"errors/{kind}_count": float(result.counts[kind]) for kind in ERROR_KINDS}
    return MetricResult(
        {"errors/AP50": result.ap, **{f"errors/{kind}": result.costs[kind] for kind in ERROR_KINDS}, **counts}
    )


def _proposals(inputs: MetricInput) -> MetricResult:
    recall = proposal_recall(inputs.truths)
    metrics = {"proposals/per_image": recall.per_image}
    for name, values in (("recall50", recall.at_50), ("recall70", recall.at_70), ("AR", recall.average)):
        metrics |= {f"proposals/{name}@{n}": v for n, v in zip(recall.counts, values, strict=True)}
    return MetricResult(metrics)


def _speed(inputs: MetricInput) -> MetricResult:
    return MetricResult({f"speed/{name}": value for name, value in inputs.speed.items()})


@dataclass(frozen=True)
class _Tallied:
    """A tally whose result becomes a :class:`MetricResult`."""

    tally: Any
    as_result: Callable[[Any], MetricResult]

    def add(self, truth: Any, predicted: Any, /) -> None:
        self.tally.add(truth, predicted)

    def result(self) -> MetricResult:
        return self.as_result(self.tally.result())


def _semantic(inputs: MetricInput) -> Tally:
    assert inputs.pixels is not None
    return _Tallied(SemanticTally(inputs.pixels.names, inputs.pixels.known), _semantic_result)


def _semantic_result(found: SemanticResult) -> MetricResult:
    return MetricResult(found.metrics, found.per_class, per_image=found.per_image, details=found)


def _panoptic(_: MetricInput) -> Tally:
    return _Tallied(PanopticTally(), _panoptic_result)


def _panoptic_result(found: PanopticQuality) -> MetricResult:
    return MetricResult(found.metrics, found.class_metrics(), details=found)


# What each metric needs


def _needs_masks(inputs: MetricInput) -> str:
    return "" if inputs.has_masks else "masks in the data and in the predictions"


def _needs_keypoints(inputs: MetricInput) -> str:
    return "" if inputs.has_keypoints else "keypoints in the data and in the predictions"


def _needs_proposals(inputs: MetricInput) -> str:
    there = inputs.truths and all(truth.proposals is not None for truth in inputs.truths)
    return "" if there else "a data set with proposals, from --proposals FILE (see rcnn propose)"


def _needs_timing(inputs: MetricInput) -> str:
    return "" if inputs.speed else "a MODEL to run"


_ROWS = (
    Metric(
        "coco", "COCO's AP and AR of boxes, masks and keypoints", "objects", measure=_coco,
        in_training=True, table=tables.coco, charts=curves.coco,
        headline=tuple(
            (f"{kind}/{key}", f"{key} of {noun}")
            for kind, noun in KIND_NOUNS.items() for key in ("AP", "AP50")
        ),
    ),
    Metric(
        "panoptic", "panoptic quality (PQ) of things and stuff", "partition", tally=_panoptic,
        in_training=True, table=tables.panoptic,
        headline=(
            ("panoptic/PQ", "PQ"), ("panoptic/PQ_things", "PQ of things"),
            ("panoptic/PQ_stuff", "PQ of stuff"),
        ),
    ),
    Metric(
        "semantic", "mean IoU and accuracy of pixel classes", "pixels", tally=_semantic,
        in_training=True, table=tables.semantic, charts=curves.semantic,
        headline=(
            ("semantic/mIoU", "mean IoU"), ("semantic/pixel_accuracy", "pixel accuracy"),
            ("semantic/mean_accuracy", "mean accuracy"),
            ("semantic/frequency_weighted_IoU", "frequency-weighted IoU"),
        ),
    ),
    Metric(
        "keypoints", "mean distance of keypoints in pixels", "objects", measure=_keypoints,
        missing_input=_needs_keypoints, in_training=True, table=tables.keypoints,
    ),
    Metric(
        "voc07", "VOC 2007's AP of boxes (11 points)", "objects", measure=_voc("voc07", eleven_point=True),
        in_training=True, headline=(("voc07/mAP", "VOC07 mAP"),), class_columns=(("voc07/AP", "VOC07 AP"),),
    ),
    Metric(
        "voc10", "VOC 2010's AP of boxes (area)", "objects", measure=_voc("voc10", eleven_point=False),
        headline=(("voc10/mAP", "VOC10 mAP"),), class_columns=(("voc10/AP", "VOC10 AP"),),
    ),
    Metric(
        "nuclei", "F1, PQ, AJI, Dice and GlaS's metrics at one score threshold", "objects", measure=_nuclei,
        # Nuclei and glands come as masks of one class; other masks are seldom judged this way.
        is_default=lambda inputs: len(inputs.class_names) == 1,
        missing_input=_needs_masks, table=tables.nuclei,
    ),
    Metric(
        "cityscapes", "Cityscapes' AP of masks", "objects", measure=_cityscapes,
        is_default=lambda inputs: inputs.format == "cityscapes", missing_input=_needs_masks,
        # The truths' maps say what is void.
        needs=frozenset({"maps"}), table=tables.cityscapes,
    ),
    Metric(
        "errors", "errors by kind, and the AP each kind costs (TIDE)", "objects", measure=_errors,
        table=tables.errors,
    ),
    Metric(
        "proposals", "recall of the proposals", "objects", measure=_proposals,
        missing_input=_needs_proposals, needs=frozenset({"proposals"}),
        table=tables.proposals, charts=curves.proposals,
    ),
    Metric(
        "speed", "images per second, seconds by part, peak memory", "objects", measure=_speed,
        is_default=lambda _: False, missing_input=_needs_timing, needs=frozenset({"timing"}),
        table=tables.speed,
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
BASIC = tuple(row.name for row in _ROWS if row.in_training)
"""The metrics that are measured during training."""
