"""A metric is one row that says what it measures, needs and shows; an evaluation is what all rows found.

Your own metric is a :class:`Metric` too, named by its dotted path::

    rcnn evaluate MODEL DATA --metrics coco,my_package.metrics:MINE

>>> def counted(inputs: MetricInput) -> MetricResult:
...     errors = [abs(len(p) - len(t)) for t, p in zip(inputs.truths, inputs.predictions, strict=True)]
...     return MetricResult({"count/error": sum(errors) / max(1, len(errors))})
>>> MINE = Metric("count", "mean error of the number of objects", "objects", measure=counted)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Group, RenderableType

from rcnn.data.dataset import LeftOut
from rcnn.metrics import percent
from rcnn.metrics.causes import Causes
from rcnn.metrics.counts import CountAgreement
from rcnn.metrics.matches import Agreement, ImageMatch
from rcnn.metrics.overlaps import Kind
from rcnn.metrics.semantic import PixelClasses
from rcnn.metrics.shown import Chart, MetricTable, plain
from rcnn.structures import Instances, MergeSettings

About = Literal["objects", "pixels", "partition"]
Need = Literal["timing", "maps", "proposals"]
BY_MEANING: tuple[About, ...] = ("partition", "objects", "pixels")
"""What a model is judged by: its partitions if it makes any, else its objects, else its pixels."""
# Keys of evaluation.json that are null if the metric of that name was not measured.
_KEYS_OF_DETAILS = ("semantic", "panoptic")


@dataclass(frozen=True)
class MetricInput:
    """What is measured, and what is known about it.

    Before anything is predicted, ``truths`` and ``predictions`` are empty, and it is not known which kinds of
    objects will be compared.

    Attributes:
        truths: one per image, with labels that index ``class_names``; masks and maps where the data has them.
        predictions: one per image, in the same order and coordinates, of all scores down to a low one.
        class_names: the classes of both; empty for a model that finds no objects.
        has_masks: whether masks are compared as well as boxes.
        has_keypoints: whether keypoints are compared.
        max_detections: COCO's cap per image and class.
        threshold: the lowest score that counts, for metrics at one threshold.
        format: the format of the data set, where known.
        speed: timings of the detector; empty if it was not timed.
        pixels: the pixel classes, if data and model have them.
        merge: how the model makes partitions, if it does and the data has them.
    """

    truths: Sequence[Instances] = ()
    predictions: Sequence[Instances] = ()
    class_names: tuple[str, ...] = ()
    has_masks: bool = False
    has_keypoints: bool = False
    max_detections: int = 100
    threshold: float = 0.5
    format: str = ""
    speed: Mapping[str, float] = field(default_factory=dict)
    pixels: PixelClasses | None = None
    merge: MergeSettings | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of objects that are compared, boxes first."""
        kinds: tuple[tuple[Kind, bool], ...] = (
            ("box", True), ("mask", self.has_masks), ("keypoint", self.has_keypoints),
        )  # fmt: skip
        return tuple(kind for kind, there in kinds if there)

    @property
    def shape(self) -> Kind:
        """What decides whether an object is found: masks if there are masks, else boxes."""
        return "mask" if self.has_masks else "box"


@dataclass(frozen=True)
class MetricResult:
    """What one metric found.

    Attributes:
        metrics: values over all classes, by ``metric/name``.
        per_class: by class name, likewise.
        curves: by class name, ``recall`` and ``precision``.
        per_image: the value for each image, by which the report selects the images that it shows.
        details: what else its table and charts need; a dataclass is also written to ``evaluation.json``.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    per_image: list[float] = field(default_factory=list)
    details: Any = None


class Tally(Protocol):
    """Adds up images one by one."""

    def add(self, truth: Any, predicted: Any, /) -> None:
        """Add one image.

        For pixels these are semantic maps ``[H, W]`` that index ``MetricInput.pixels.names`` (255 is void),
        for partitions :class:`~rcnn.structures.Panoptic`, for objects ``Instances``.
        """

    def result(self) -> MetricResult:
        """The result over all images."""


@dataclass(frozen=True)
class Metric:
    """A row of ``METRICS``, or a metric of your own.

    Attributes:
        name: its name in ``--metrics``; the keys of its values start with ``name/``.
        description: what it measures, in one line.
        about: objects, pixel classes, or partitions of whole images.
        measure: measures all images at the end; for objects only.
        tally: starts a tally that is given the images one by one, since the maps of many images together
            would fill the memory. Give either this or ``measure``.
        missing_input: names what is needed and missing; empty if it can be measured.
        is_default: whether it is chosen when no metrics are named.
        in_training: whether it is measured during training.
        headline: (key, text) of the values that matter most. The first one decides which checkpoint is best.
            The report shows them in large type and plots them over training.
        class_columns: (key, heading) of values per class for the report's table of classes.
        table: its numbers, for console and report. Without one, the console prints ``headline`` in a line.
        charts: its curves, for the report.
        needs: inputs that cost time or memory, and are provided only on request: ``timing`` of the network's
            parts, the truths' semantic ``maps``, ``proposals`` of a model that makes its own.
    """

    name: str
    description: str
    about: About
    measure: Callable[[MetricInput], MetricResult] | None = None
    tally: Callable[[MetricInput], Tally] | None = None
    missing_input: Callable[[MetricInput], str] = lambda _: ""
    is_default: Callable[[MetricInput], bool] = lambda _: True
    in_training: bool = False
    headline: tuple[tuple[str, str], ...] = ()
    class_columns: tuple[tuple[str, str], ...] = ()
    table: Callable[[Evaluation], MetricTable] | None = None
    charts: Callable[[Evaluation], Sequence[Chart]] = lambda _: ()
    needs: frozenset[Need] = frozenset()

    def __post_init__(self) -> None:
        """Check that the row can be measured.

        Raises:
            ValueError: not exactly one of ``measure`` and ``tally``, or ``measure`` for pixels or partitions.
        """
        if (self.measure is None) == (self.tally is None):
            raise ValueError(f"metric {self.name}: give either measure or tally")
        if self.tally is None and self.about != "objects":
            raise ValueError(
                f"metric {self.name}: metrics about {self.about} are tallied image by image; give tally"
            )


@dataclass(frozen=True)
class Evaluation:
    """Everything measured for one model on one data set. Metrics are in [0, 1], NaN where there is no truth.

    Attributes:
        measured: each metric that was measured, and its result.
        seconds: seconds per image, by stage.
        num_objects: true objects per class, without crowds; empty if objects were not compared.
        kinds: the kinds of objects that were compared, boxes first; empty likewise.
        max_detections: the cap on detections per image and class in COCO's metrics.
        agreement: which detection found which object at the best threshold.
        counts: by class, and of all together, how well the numbers of objects agree at that threshold.
        left_out: what is missing from the data because of errors, if anything.
        causes: why objects were missed, where that was asked.
        cut_at: the lowest score of a file of detections, where weaker ones seem to have been dropped.
    """

    measured: tuple[tuple[Metric, MetricResult], ...]
    seconds: dict[str, float] = field(default_factory=dict)
    num_objects: dict[str, int] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()
    max_detections: int = 0
    agreement: Agreement = field(default_factory=Agreement)
    counts: dict[str, CountAgreement] = field(default_factory=dict)
    left_out: LeftOut | None = None
    causes: Causes | None = None
    cut_at: float | None = None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All values over all classes, such as ``box/AP``, ``voc07/mAP`` and ``semantic/mIoU``."""
        return {key: value for _, result in self.measured for key, value in result.metrics.items()}

    @property
    def followed(self) -> dict[str, float]:
        """The values of the metrics that are measured during training."""
        return {k: v for row, result in self.measured if row.in_training for k, v in result.metrics.items()}

    @cached_property
    def per_class(self) -> dict[str, dict[str, float]]:
        """All values per class name; for objects also ``objects``, their number.

        These are the classes of the objects if objects are compared, otherwise the pixel classes.
        """
        classes: dict[str, dict[str, float]] = {n: {"objects": c} for n, c in self.num_objects.items()}
        for _, result in self.measured:
            for name, values in result.per_class.items():
                if name in self.num_objects or not self.kinds:
                    classes.setdefault(name, {}).update(values)
        return classes

    @cached_property
    def pr_curves(self) -> dict[str, dict[str, list[float]]]:
        """By class name, ``recall`` (0, 0.01, …, 1) and ``precision`` at IoU 0.5; only classes with truth."""
        return {name: curve for _, result in self.measured for name, curve in result.curves.items()}

    @property
    def f1_threshold(self) -> float:
        """The score threshold with the highest F1 of matches at IoU 0.5; 0.5 if no detection is true."""
        return self.agreement.threshold

    @property
    def f1(self) -> float:
        """The F1 at that threshold, over all images and classes."""
        return self.agreement.f1

    @property
    def matches(self) -> list[ImageMatch]:
        """The matches in each image at that threshold."""
        return self.agreement.matches

    @property
    def has_objects(self) -> bool:
        """Whether objects were compared; if not, there are no matches and no threshold."""
        return bool(self.kinds)

    @property
    def shape(self) -> Kind:
        """What decided whether an object was found: masks if there are masks, else boxes."""
        return "mask" if "mask" in self.kinds else "box"

    @property
    def explained(self) -> str:
        """The images whose missed objects have causes; empty where causes were not asked for."""
        if self.causes is None:
            return ""
        lacking, looked = sum(bool(m.missed_truths) for m in self.matches), self.causes.num_images
        which = "all images" if looked == lacking else f"{looked} of the {lacking} images"
        return f"{which} with missed objects"

    def measures(self, about: About) -> bool:
        """Whether any metric about it was measured."""
        return any(metric.about == about for metric, _ in self.measured)

    def details(self, name: str) -> Any:
        """The details of the metric of that name; None if it was not measured."""
        return next((result.details for metric, result in self.measured if metric.name == name), None)

    def headline(self) -> list[tuple[str, str]]:
        """(key, text) of the values that matter most; the model is judged by the first."""
        ordered = sorted(self.measured, key=lambda pair: BY_MEANING.index(pair[0].about))
        return [(key, text) for metric, _ in ordered for key, text in metric.headline if key in self.metrics]

    @property
    def headline_metric(self) -> str:
        """The key of the value by which the model is judged.

        Raises:
            ValueError: no metric with a headline was measured.
        """
        found = self.headline()
        if not found:
            names = ", ".join(metric.name for metric, _ in self.measured)
            raise ValueError(
                f"metrics {names or '(none)'}: none of them has a headline by which to judge a model"
            )
        return found[0][0]

    def tables(self, *about: About) -> list[MetricTable]:
        """The tables of all metrics, or of those about ``about``; plain ones for metrics without headline."""
        tables = []
        for metric, result in self.measured:
            if about and metric.about not in about:
                continue
            if metric.table is not None:
                tables.append(metric.table(self))
            elif not metric.headline:
                rows = [(key, f"{value:.4g}") for key, value in result.metrics.items()]
                tables.append(MetricTable(metric.description, (metric.name, ""), rows))
        return tables

    def table(self) -> Group:
        """Everything for a terminal: the tables, and a line with the values that are in none of them."""
        shown: list[RenderableType] = [table.rich() for table in self.tables()]
        shown += [] if self.causes is None else [self.causes.table().rich()]
        said = [
            f"{text} {percent(self.metrics[key])}"
            for metric, _ in self.measured if metric.table is None
            for key, text in metric.headline if key in self.metrics
        ]  # fmt: skip
        if self.has_objects:
            said.append(f"best F1 {percent(self.f1)} at score {self.f1_threshold:.2f}")
        if self.causes is not None and not self.explained.startswith("all"):
            said.append(f"causes: in {self.explained}")
        if self.left_out is not None:
            said.append(f"measured without: {self.left_out}")
        if self.cut_at is not None:
            said.append(
                f"no score is below {self.cut_at:.2f}: if weaker detections were dropped, AP is too low; "
                "rcnn predict keeps them with --min-score 0.01"
            )
        return Group(*shown, *([plain("; ".join(said))] if said else []))

    def to_json(self) -> dict[str, Any]:
        """The values for ``json.dump``: None instead of what is not finite, strings instead of paths."""
        details = {
            metric.name: asdict(result.details)
            for metric, result in self.measured
            if is_dataclass(result.details) and not isinstance(result.details, type)
        }
        values = {
            "metrics": self.metrics,
            "per_class": self.per_class,
            "pr_curves": self.pr_curves,
            "f1_threshold": self.f1_threshold,
            "f1": self.f1,
            "matches": [asdict(match) for match in self.matches],
            "scores_true": self.agreement.scores_true,
            "scores_false": self.agreement.scores_false,
            "count_agreement": {name: agreement.to_json() for name, agreement in self.counts.items()},
            "seconds": self.seconds,
            "max_detections": self.max_detections,
            "left_out": None if self.left_out is None else asdict(self.left_out),
            "cut_at": self.cut_at,
            "has_masks": "mask" in self.kinds,
            "has_keypoints": "keypoint" in self.kinds,
            "families": [metric.name for metric, _ in self.measured],
            "has_boxes": self.has_objects,
            "causes": None if self.causes is None else self.causes.to_json(),
        }
        ready: dict[str, Any] = _json_ready({**dict.fromkeys(_KEYS_OF_DETAILS), **details, **values})
        return ready


def _json_ready(value: Any) -> Any:
    """Nested values without NaN, infinities and paths."""
    if isinstance(value, Mapping):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
