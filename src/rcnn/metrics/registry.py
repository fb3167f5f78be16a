"""The families of metrics by name, in one place: what each measures, needs, and when it is chosen.

A new family is a function from :class:`MetricInput` to :class:`MetricResult` and a line of ``METRICS``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rcnn.metrics.cityscapes import cityscapes_metrics
from rcnn.metrics.coco import coco_metrics
from rcnn.metrics.errors import ERROR_KINDS, analyse_errors
from rcnn.metrics.keypoints import keypoint_errors
from rcnn.metrics.nuclei import nuclei_metrics
from rcnn.metrics.overlaps import Kind
from rcnn.metrics.recall import proposal_recall
from rcnn.metrics.voc import voc_metrics
from rcnn.structures import Instances

KEYPOINT_MAX_DETECTIONS = 20  # COCO's


@dataclass(frozen=True)
class MetricInput:
    """What all families measure.

    Attributes:
        truths: one an image, labels indexing ``class_names``.
        predictions: one an image, in the same order and coordinates, of all scores.
        class_names: of both.
        has_masks: whether masks are compared beside boxes.
        has_keypoints: whether keypoints are.
        max_detections: COCO's cap by image and class.
        threshold: the score from which detections count, for metrics at one threshold.
        format: of the data set, where it is known.
        speed: what was measured of the detector at work; empty where none was run.
    """

    truths: Sequence[Instances]
    predictions: Sequence[Instances]
    class_names: tuple[str, ...]
    has_masks: bool
    has_keypoints: bool
    max_detections: int
    threshold: float
    format: str = ""
    speed: Mapping[str, float] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What is compared, boxes first."""
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
    """What one family found.

    Attributes:
        metrics: over all classes, by ``family/name``.
        per_class: by class name likewise.
        curves: by class name ``recall`` and ``precision``, of COCO's alone.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A name of ``--metrics``.

    Attributes:
        about: what it measures, a line.
        measure: does it.
        missing_input: what would be needed and is not there; empty where it can be measured.
        is_default: whether it is chosen where none is named; only asked where nothing is lacking.
    """

    about: str
    measure: Callable[[MetricInput], MetricResult]
    missing_input: Callable[[MetricInput], str] = lambda _: ""
    is_default: Callable[[MetricInput], bool] = lambda _: True


def choose_metrics(names: Sequence[str] | None, inputs: MetricInput) -> tuple[str, ...]:
    """The families named, without repeats; for None, or for BASIC, those of them that suit the data.

    Raises:
        ValueError: a name that is unknown, or a family that lacks something.
    """
    if names is None or tuple(names) == BASIC:
        families = {name: METRICS[name] for name in names or METRICS}
        return tuple(n for n, f in families.items() if not f.missing_input(inputs) and f.is_default(inputs))
    check_metric_names(names)
    for name in names:
        lacking = METRICS[name].missing_input(inputs)
        if lacking:
            raise ValueError(f"metrics {name}: needs {lacking}; leave {name} out.")
    return tuple(dict.fromkeys(names))


def check_metric_names(names: Sequence[str]) -> None:
    """Refuse what is no family, with the nearest that is.

    Raises:
        ValueError: an unknown name.
    """
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name.lower(), METRICS, 1, 0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"metrics {name!r}: unknown; {hint}known are {', '.join(METRICS)}.")


def _coco(inputs: MetricInput) -> MetricResult:
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in inputs.class_names}
    curves: dict[str, dict[str, list[float]]] = {}
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
            curves = {
                name: {"recall": result.recall, "precision": curve}
                for name, curve in result.precision.items()
                if curve[0] == curve[0]
            }
    if inputs.has_keypoints:
        errors = keypoint_errors(inputs.truths, inputs.predictions)
        metrics |= {"keypoint/error": errors.mean, "keypoint/found": errors.found}
        metrics |= {f"keypoint/error_{name}": error for name, error in errors.per_keypoint.items()}
    return MetricResult(metrics, per_class, curves)


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


def _masks_lacking(inputs: MetricInput) -> str:
    return "" if inputs.has_masks else "masks in the data and in the predictions"


def _proposals_lacking(inputs: MetricInput) -> str:
    there = inputs.truths and all(truth.proposals is not None for truth in inputs.truths)
    return "" if there else "a data set with proposals, from --proposals FILE (see rcnn propose)"


METRICS: dict[str, Metric] = {
    "coco": Metric("COCO's AP and AR of boxes, masks and keypoints; how far keypoints are off", _coco),
    "voc07": Metric("VOC 2007's AP of boxes (11 points)", _voc("voc07", eleven_point=True)),
    "voc10": Metric("VOC 2010's AP of boxes (area)", _voc("voc10", eleven_point=False)),
    "nuclei": Metric(
        "F1, PQ, AJI, Dice and GlaS's metrics at one score threshold", _nuclei, missing_input=_masks_lacking,
        # What nuclei and glands look like as data; other masks seldom are judged so.
        is_default=lambda c: len(c.class_names) == 1,
    ),
    "cityscapes": Metric(
        "Cityscapes' AP of masks", _cityscapes, missing_input=_masks_lacking,
        is_default=lambda c: c.format == "cityscapes",
    ),
    "errors": Metric("kinds of errors, and the AP each costs (TIDE)", _errors),
    "proposals": Metric("recall of the proposals given", _proposals, missing_input=_proposals_lacking),
    "speed": Metric(
        "images a second, seconds by stage, peak memory",
        lambda c: MetricResult({f"speed/{name}": value for name, value in c.speed.items()}),
        missing_input=lambda c: "" if c.speed else "a MODEL that is run", is_default=lambda _: False,
    ),
}  # fmt: skip
BASIC = ("coco", "voc07", "voc10")  # what is followed during training
