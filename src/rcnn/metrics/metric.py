"""What a metric is: one row that says what it measures, needs and shows; and what all rows found together.

A metric of one's own is a :class:`Metric`, too, and is named by its dotted path::

    rcnn evaluate MODEL DATA --metrics coco,my_package.metrics:MINE

>>> def counted(inputs: MetricInput) -> MetricResult:
...     errors = [abs(len(p) - len(t)) for t, p in zip(inputs.truths, inputs.predictions, strict=True)]
...     return MetricResult({"count/error": sum(errors) / max(1, len(errors))})
>>> MINE = Metric("count", "how far the numbers of objects are off", "objects", measure=counted)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from rich.console import Group, RenderableType

from rcnn.metrics import percent
from rcnn.metrics.matches import Agreement, ImageMatch
from rcnn.metrics.overlaps import Kind
from rcnn.metrics.semantic import PixelClasses
from rcnn.metrics.shown import Chart, MetricTable
from rcnn.structures import Instances, MergeSettings

About = Literal["objects", "pixels", "partition"]
Need = Literal["timing", "maps", "proposals"]
BY_MEANING: tuple[About, ...] = ("partition", "objects", "pixels")
"""A model that parts the whole image is judged by that, others by their objects, and else by their pixels."""
# Keys of evaluation.json that are null where the metric of that name was not measured.
_KEYS_OF_DETAILS = ("semantic", "panoptic")


@dataclass(frozen=True)
class MetricInput:
    """What is measured, and what is known about it.

    Before anything is predicted there are no truths and predictions, and what is compared is not known.

    Attributes:
        truths: one per image, labels indexing ``class_names``; with masks and maps where the data has them.
        predictions: one per image, in the same order and coordinates, of all scores down to a low one.
        class_names: of both; empty for a model that finds no objects.
        has_masks: whether masks are compared beside boxes.
        has_keypoints: whether keypoints are.
        max_detections: COCO's cap by image and class.
        threshold: the score from which detections count, for metrics at one threshold.
        format: of the data set, where it is known.
        speed: what was measured of the detector at work; empty where it was not timed.
        pixels: the classes of pixels, where data and model have them.
        merge: how the model makes partitions, where it does and the data have them.
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
        """What is compared of objects, boxes first."""
        kinds: tuple[tuple[Kind, bool], ...] = (
            ("box", True), ("mask", self.has_masks), ("keypoint", self.has_keypoints),
        )  # fmt: skip
        return tuple(kind for kind, there in kinds if there)

    @property
    def shape(self) -> Kind:
        """What tells found from missed: masks where there are masks, else boxes."""
        return "mask" if self.has_masks else "box"


@dataclass(frozen=True)
class MetricResult:
    """What one metric found.

    Attributes:
        metrics: over all classes, by ``metric/name``.
        per_class: by class name likewise.
        curves: by class name ``recall`` and ``precision``.
        per_image: the metric of each image by itself, by which the report chooses the images that it shows.
        details: what else its table and charts need; a dataclass is written to ``evaluation.json``, too.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    per_image: list[float] = field(default_factory=list)
    details: Any = None


class Tally(Protocol):
    """Adds up images one after the other."""

    def add(self, truth: Any, predicted: Any, /) -> None:
        """One image.

        About pixels these are semantic maps ``[H, W]`` under one numbering, ``MetricInput.pixels.names``
        (255: void); about partitions, :class:`~rcnn.structures.Panoptic`; about objects, ``Instances``.
        """

    def result(self) -> MetricResult:
        """What was found in all images together."""


@dataclass(frozen=True)
class Metric:
    """A row of ``METRICS``, or a metric of the user's own.

    Attributes:
        name: what it is called in ``--metrics``; its values are called ``name/…``.
        description: what it measures, a line.
        about: objects, the classes of pixels, or partitions of whole images.
        measure: measures all images at the end; of objects only.
        tally: starts a tally that is given one image after the other; the maps of many images together would
            fill the memory. Either this or ``measure``.
        missing_input: what would be needed and is not there; empty where it can be measured.
        is_default: whether it is chosen where none is named.
        in_training: whether it is followed during training.
        headline: (key, text) of the figures that matter most, the first above all: it tells which checkpoint
            is the best. They stand large in the report and are drawn over the training.
        class_columns: (key, heading) of values by class in the report's table of classes.
        table: its numbers, for console and report; those of ``headline`` alone go into a line.
        charts: its curves, for the report.
        needs: what costs time or memory and is provided only where needed: parts of the network timed, the
            truths' semantic maps, proposals of a model that makes its own.
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
        """Raises ValueError: not one of ``measure`` and ``tally``, or ``measure`` about something else."""
        if (self.measure is None) == (self.tally is None):
            raise ValueError(f"metric {self.name}: give one of measure and tally")
        if self.tally is None and self.about != "objects":
            raise ValueError(
                f"metric {self.name}: about {self.about}, which are tallied image by image; give tally"
            )


@dataclass(frozen=True)
class Evaluation:
    """All that was measured of one model on one data set. Metrics are in [0, 1], NaN where there is no truth.

    Attributes:
        measured: each metric that was measured, and what it found.
        seconds: seconds per image by stage.
        num_objects: by class, the true objects without crowds; empty where objects were not compared.
        kinds: what was compared of objects, boxes first; empty likewise.
        max_detections: the cap of detections by image and class in COCO's metrics.
        agreement: which detection found which object, at the best threshold.
    """

    measured: tuple[tuple[Metric, MetricResult], ...]
    seconds: dict[str, float] = field(default_factory=dict)
    num_objects: dict[str, int] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()
    max_detections: int = 0
    agreement: Agreement = field(default_factory=Agreement)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All values over all classes, such as ``box/AP``, ``voc07/mAP``, ``semantic/mIoU``."""
        return {key: value for _, result in self.measured for key, value in result.metrics.items()}

    @property
    def followed(self) -> dict[str, float]:
        """The values of the metrics that are followed during training."""
        return {k: v for row, result in self.measured if row.in_training for k, v in result.metrics.items()}

    @cached_property
    def per_class(self) -> dict[str, dict[str, float]]:
        """By class name all values of a class; of objects ``objects``, their number, too.

        Where objects are compared these are their classes; otherwise those of the pixels.
        """
        classes: dict[str, dict[str, float]] = {n: {"objects": c} for n, c in self.num_objects.items()}
        for _, result in self.measured:
            for name, values in result.per_class.items():
                if name in self.num_objects or not self.kinds:
                    classes.setdefault(name, {}).update(values)
        return classes

    @cached_property
    def pr_curves(self) -> dict[str, dict[str, list[float]]]:
        """By class name ``recall`` (0, 0.01, …, 1) and ``precision`` at IoU 0.5; classes with truth only."""
        return {name: curve for _, result in self.measured for name, curve in result.curves.items()}

    @property
    def f1_threshold(self) -> float:
        """The score threshold with the highest F1 of matches at IoU 0.5; 0.5 if no detection is true."""
        return self.agreement.threshold

    @property
    def f1(self) -> float:
        """The F1 reached there, over all images and classes."""
        return self.agreement.f1

    @property
    def matches(self) -> list[ImageMatch]:
        """What each image got at that threshold."""
        return self.agreement.matches

    @property
    def has_objects(self) -> bool:
        """Whether objects were compared at all; without, there are no matches and no threshold."""
        return bool(self.kinds)

    @property
    def shape(self) -> Kind:
        """What told found from missed: masks where there are masks, else boxes."""
        return "mask" if "mask" in self.kinds else "box"

    def measures(self, about: About) -> bool:
        """Whether any metric about this was measured."""
        return any(metric.about == about for metric, _ in self.measured)

    def details(self, name: str) -> Any:
        """What the metric of a name found beside its numbers; None where it was not measured."""
        return next((result.details for metric, result in self.measured if metric.name == name), None)

    def headline(self) -> list[tuple[str, str]]:
        """(key, text) of the figures that matter most, the one that the model is judged by first."""
        ordered = sorted(self.measured, key=lambda pair: BY_MEANING.index(pair[0].about))
        return [(key, text) for metric, _ in ordered for key, text in metric.headline if key in self.metrics]

    @property
    def headline_metric(self) -> str:
        """The key of ``metrics`` that says how good the model is.

        Raises:
            ValueError: nothing was measured that says so.
        """
        found = self.headline()
        if not found:
            names = ", ".join(metric.name for metric, _ in self.measured)
            raise ValueError(f"metrics {names or '(none)'}: none of them says how good a model is")
        return found[0][0]

    def tables(self, *about: About) -> list[MetricTable]:
        """The tables of all metrics, or of those about these things; of one that says nothing, its values."""
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
        """Everything for a terminal: the tables, and a line of what is in none of them."""
        shown: list[RenderableType] = [table.rich() for table in self.tables()]
        said = [
            f"{text} {percent(self.metrics[key])}"
            for metric, _ in self.measured if metric.table is None
            for key, text in metric.headline if key in self.metrics
        ]  # fmt: skip
        if self.has_objects:
            said.append(f"best F1 {percent(self.f1)} at score {self.f1_threshold:.2f}")
        return Group(*shown, *(["; ".join(said)] if said else []))

    def to_json(self) -> dict[str, Any]:
        """The values as JSON has them, for ``json.dump``; what is not finite is None, paths are text."""
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
            "seconds": self.seconds,
            "max_detections": self.max_detections,
            "has_masks": "mask" in self.kinds,
            "has_keypoints": "keypoint" in self.kinds,
            "families": [metric.name for metric, _ in self.measured],
            "has_boxes": self.has_objects,
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
