"""A model on a data set, in numbers: COCO's and VOC's metrics, the best threshold, what each image got.

The threshold of choice is the one at which the detections of all images together have the highest F1, see
``rcnn.metrics.matches``; masks are compared where there are masks, else boxes.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from rcnn.data.check import check, keypoint_order, matching_label, refuse_or_skip
from rcnn.data.dataset import Dataset
from rcnn.data.formats.coco_results import read_results
from rcnn.data.formats.open import open_data
from rcnn.inference.stopwatch import Stopwatch
from rcnn.metrics import check_pairs, percent
from rcnn.metrics.matches import UNMATCHED, ImageMatch, best_threshold, pair
from rcnn.metrics.overlaps import Kind
from rcnn.metrics.panoptic import PanopticQuality, PanopticTally
from rcnn.metrics.registry import METRICS, MetricInput, MetricResult, check_metric_names, choose_metrics
from rcnn.metrics.semantic import SemanticResult, SemanticTally
from rcnn.structures import OTHER, Instances, MergeSettings, Skeleton, merge, true_segments

KINDS: tuple[Kind, ...] = ("box", "mask", "keypoint")
COCO_MAX_DETECTIONS = 100
UNNAMED = ("object",)  # the class of formats that have no names

Headline = Literal["box", "mask", "keypoint", "semantic", "panoptic"]


class Predictor(Protocol):
    """What can be evaluated."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of its predictions index."""

    def predict(
        self,
        images: Sequence[Path | npt.NDArray[Any]],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
    ) -> list[Instances]:
        """The objects of each image in its own coordinates, best score first."""


@dataclass(frozen=True)
class Evaluation:
    """All that is measured of one model on one data set. Metrics are in [0, 1], NaN where there is no truth.

    Attributes:
        metrics: ``box/AP box/AP50 box/AP75 box/AP_small box/AP_medium box/AP_large box/AR1 box/AR10 box/AR``,
            the same under ``mask/`` where there are masks and ``keypoint/`` where there are keypoints (cap
            20), ``keypoint/error`` and ``keypoint/found`` (``rcnn.metrics.keypoints``), ``voc07/mAP``
            (11 points) and ``voc10/mAP`` (area), of boxes; further families under their own names
            (``rcnn.metrics.registry``), those that were chosen. Where pixels are classified,
            ``semantic/mIoU``, ``semantic/pixel_accuracy``, ``semantic/mean_accuracy`` and
            ``semantic/frequency_weighted_IoU``.
        per_class: by class name the same COCO metrics, ``voc07/AP``, ``voc10/AP``, ``cityscapes/AP``, and
            ``objects``, the number of truths without crowds; of a model that classifies pixels alone
            ``semantic/IoU``, ``semantic/accuracy`` and ``semantic/share``.
        pr_curves: by class name ``recall`` (0, 0.01, …, 1) and ``precision`` at IoU 0.5, of masks where there
            are masks; classes with truth only.
        f1_threshold: the score threshold with the highest F1 of matches at IoU 0.5; 0.5 if no detection is
            true.
        f1: the F1 reached there, over all images and classes.
        matches: one an image, at that threshold.
        scores_true: the scores of all true detections, of any score.
        scores_false: the scores of all false ones.
        seconds: time an image by stage.
        max_detections: the cap of detections by image and class in the COCO metrics.
        has_masks: whether masks were compared.
        has_keypoints: whether keypoints were.
        families: the families of metrics that were measured.
        has_boxes: whether objects were compared at all; without, there are no matches and no threshold.
        semantic: what was measured of the pixels' classes, where the model tells them.
        panoptic: what was measured of objects and pixels as one partition, where the model makes one.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    pr_curves: dict[str, dict[str, list[float]]]
    f1_threshold: float
    f1: float
    matches: list[ImageMatch]
    scores_true: list[float]
    scores_false: list[float]
    seconds: dict[str, float]
    max_detections: int
    has_masks: bool = False
    has_keypoints: bool = False
    families: tuple[str, ...] = ()
    has_boxes: bool = True
    semantic: SemanticResult | None = None
    panoptic: PanopticQuality | None = None

    @property
    def headline(self) -> Headline:
        """What the model is for, and is judged by: keypoints, else masks, else boxes, else pixels.

        A model that parts the whole image is judged by that.
        """
        if self.panoptic is not None:
            return "panoptic"
        if not self.has_boxes:
            return "semantic"
        return "keypoint" if self.has_keypoints else "mask" if self.has_masks else "box"

    @property
    def headline_metric(self) -> str:
        """The key of ``metrics`` that says how good the model is."""
        names = {"semantic": "semantic/mIoU", "panoptic": "panoptic/PQ"}
        return names.get(self.headline, f"{self.headline}/AP")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them, for ``json.dump``; what is not finite is None, paths are text."""
        values: dict[str, Any] = _json_ready(asdict(self))
        return values

    def table(self) -> Group:
        """The metrics in percent, a row for all classes and one for each, boxes, masks and pixels apart."""
        tables = [self._object_table()] if "box/AP" in self.metrics else []
        return Group(
            *tables, *(found.table() for found in (self.panoptic, self.semantic) if found is not None)
        )

    def _object_table(self) -> Table:
        columns = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
        title = f"{len(self.matches)} images, metrics in %"
        # One blank between columns: the table must fit a terminal of 80.
        table = Table(title=title, caption=self._caption(), box=SIMPLE_HEAD, padding=0)
        for name in ("", "class", "objects", "AP", "AP50", "AP75", "small", "medium", "large", "AR"):
            table.add_column(name, justify="left" if name in ("", "class") else "right")
        for kind in (kind for kind in KINDS if f"{kind}/AP" in self.metrics):
            objects = sum(int(values["objects"]) for values in self.per_class.values())
            cells = [percent(self.metrics[f"{kind}/{column}"]) for column in columns]
            table.add_row(kind, "all", str(objects), *cells, style="bold")
            for name, values in self.per_class.items() if len(self.per_class) > 1 else ():
                cells = [percent(values[f"{kind}/{column}"]) for column in columns]
                table.add_row(kind, name, str(int(values["objects"])), *cells)
            table.add_section()
        return table

    def _caption(self) -> str:
        """What does not go into the rows."""
        said = []
        if "keypoint/error" in self.metrics:
            error, found = self.metrics["keypoint/error"], percent(self.metrics["keypoint/found"])
            said.append(f"keypoints {error:.1f} px off in the {found} % of objects found")
        years = [year for year in ("voc07", "voc10") if f"{year}/mAP" in self.metrics]
        if years:
            said.append(", ".join(f"{y.upper()} mAP {percent(self.metrics[f'{y}/mAP'])}" for y in years))
        said.append(f"best F1 {percent(self.f1)} at score {self.f1_threshold:.2f}")
        said.append(f"up to {self.max_detections} detections an image and class")
        return "; ".join(said)


def _json_ready(value: Any) -> Any:
    """Nested values without NaN, infinities and paths."""
    if isinstance(value, Mapping):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def evaluate(
    detector: Predictor,
    dataset: Dataset | str | Path,
    *,
    batch_size: int = 1,
    min_score: float = 0.01,
    max_detections: int | None = None,
    metrics: Sequence[str] | None = None,
    threshold: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, list[Instances]]:
    """Run a detector over a data set and measure its detections.

    Classes are matched by name, whatever their case. Objects of a class that the detector does not know count
    as missed, under a row of their own, with a warning.

    Args:
        detector: anything with ``predict`` and ``class_names``, an exported model too.
        dataset: images with truth, or the place of some that :func:`rcnn.open_data` reads; of a place all
            must be without errors.
        batch_size: images given to ``predict`` at once.
        min_score: the lowest score asked for. Low on purpose: the tail of weak detections is worth 0.2 to 0.3
            points of AP, and costs time.
        max_detections: the cap of detections of an image, in the detector and the metrics; by default 100, or
            as many as the fullest image has objects.
        metrics: the families to measure, keys of ``rcnn.metrics.registry.METRICS``; None: those that suit
            the data.
        threshold: the score from which detections count in metrics at one threshold, such as those of
            nuclei; None: where F1 is highest on these very data.
        progress: called with the number of images done and of all.

    Returns:
        The evaluation (with ``seconds`` an image for decoding and predicting) and the detections, one an
        image, semantic maps as uint8 since many are kept. Truths of the evaluation's matches keep
        the order of the records'.

    Raises:
        ValueError: a data set without images, an image or annotation that cannot be read, or metrics that
            are unknown or lack something.
    """
    check_metric_names(metrics or ())
    if not isinstance(dataset, Dataset):
        opened = open_data(dataset)
        dataset, _ = refuse_or_skip(opened, False, report=check(opened, decode=False))
    if not len(dataset):
        raise ValueError(f"{dataset.source}: no images to evaluate on; give a data set with at least one.")
    cap = max_detections
    if cap is None:
        cap = default_max_detections([record.truth for record in dataset.records])
    truths: list[Instances] = []
    predictions: list[Instances] = []
    predict: Callable[..., list[Instances]] = detector.predict
    seconds = {"decoding": 0.0, "predicting": 0.0}
    # Only Cityscapes' metrics look at it, at the void in it; and maps of many images are gigabytes.
    of_void = dataset.format == "cityscapes" or "cityscapes" in (metrics or ())
    watch = Stopwatch(getattr(detector, "inference_network", None) if "speed" in (metrics or ()) else None)
    tallies = PixelEvaluator(dataset, detector)
    for start in range(0, len(dataset), batch_size):
        began = time.perf_counter()
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        decoded = time.perf_counter()
        images = [sample.image for sample in samples]
        boxes = [sample.truth.proposals for sample in samples]
        # Only where the data set brings them: whatever else predicts need not know of proposals.
        brought = {} if any(b is None for b in boxes) else {"proposals": boxes}
        with watch:
            found = predict(images, min_score=min_score, max_detections=cap, **brought)
        seconds["decoding"] += (decoded - began) / len(dataset)
        seconds["predicting"] += (time.perf_counter() - decoded) / len(dataset)
        for sample, instances in zip(samples, found, strict=True):
            tallies.add(sample.truth, instances)
            predictions.append(_compact(instances))
        paths = (dataset.records[start + i].path for i in range(len(samples)))
        for sample, path in zip(samples, paths, strict=True):
            truth = _compact(replace(sample.truth, path=path))
            truths.append(truth if of_void else replace(truth, semantic=None))
        if progress is not None:
            progress(len(truths), len(dataset))
    semantic = tallies.semantic
    if not detector.class_names and semantic is not None:
        return semantic_evaluation(semantic, seconds), predictions
    truths, class_names = align_truth_classes(truths, dataset.class_names, detector.class_names)
    has_masks = dataset.has_masks and _all_have(predictions, "masks")
    measured = align_keypoints(predictions, dataset.skeleton)
    speed = watch.speed(len(dataset), **seconds)
    evaluation = evaluate_predictions(
        truths, measured or predictions, class_names, has_masks=has_masks, has_keypoints=measured is not None,
        max_detections=cap, seconds=seconds, metrics=metrics, threshold=threshold, format=dataset.format,
        speed=speed, semantic=semantic, panoptic=tallies.panoptic,
    )  # fmt: skip
    return evaluation, predictions


def evaluate_results(
    path: str | Path,
    dataset: Dataset,
    *,
    max_detections: int | None = None,
    metrics: Sequence[str] | None = None,
    threshold: float | None = None,
) -> tuple[Evaluation, list[Instances]]:
    """Measure somebody else's detections, from a COCO results file; no model is needed.

    Args:
        path: the JSON file, see ``rcnn.data.formats.coco_results``.
        dataset: the images it is about, with truth.
        max_detections: as in :func:`evaluate`.
        metrics: likewise.
        threshold: likewise.

    Raises:
        ValueError: a file that does not fit the data set, or metrics that are unknown or lack something.
    """
    check_metric_names(metrics or ())
    predictions = read_results(path, dataset)
    truths = [replace(record.load_truth(), path=record.path) for record in dataset.records]
    evaluation = evaluate_predictions(
        truths, predictions, dataset.class_names,
        has_masks=dataset.has_masks and _all_have(predictions, "masks"),
        has_keypoints=align_keypoints(predictions, dataset.skeleton) is not None,
        max_detections=max_detections, metrics=metrics, threshold=threshold, format=dataset.format,
    )  # fmt: skip
    return evaluation, predictions


class PixelEvaluator:
    """Adds up what the pixels of images show: their classes, and the partition into things and stuff.

    Each where the data has it and the detector makes it, else its result is None.
    """

    def __init__(self, dataset: Dataset, detector: Predictor) -> None:
        """Raises ValueError: no semantic maps in the data, and the detector makes nothing else."""
        known: tuple[str, ...] = getattr(detector, "semantic_names", ())
        if known and not dataset.has_semantic and not detector.class_names:
            raise ValueError(f"{dataset.source}: no semantic maps, which this model is measured by")
        names = dataset.semantic_names
        if OTHER in known:  # a class for all things, which come first
            things = len(dataset.class_names)
            names = (*(OTHER for _ in names[:things]), *names[things:])
        self._classes = SemanticTally(known, names) if known and dataset.has_semantic else None
        self._merge: MergeSettings | None = getattr(detector, "merge", None)
        whole = self._merge is not None and dataset.has_masks and dataset.has_semantic
        self._partitions = PanopticTally() if whole else None

    def add(self, truth: Instances, found: Instances) -> None:
        """One image's objects and semantic maps, of the truth and of the detector."""
        if self._classes is not None:
            self._classes.add(truth.semantic, found.semantic)
        if self._partitions is not None:
            self._partitions.add(true_segments(truth), merge(found, settings=self._merge))

    @property
    def semantic(self) -> SemanticResult | None:
        """The measures of classes of pixels."""
        return None if self._classes is None else self._classes.result()

    @property
    def panoptic(self) -> PanopticQuality | None:
        """The qualities of the partitions."""
        return None if self._partitions is None else self._partitions.result()


def _compact(instances: Instances) -> Instances:
    if instances.semantic is None:
        return instances
    return replace(instances, semantic=instances.semantic.astype(np.uint8))


def semantic_evaluation(result: SemanticResult, seconds: Mapping[str, float] | None = None) -> Evaluation:
    """The evaluation of a model that classifies pixels and finds no objects."""
    return Evaluation(
        metrics=result.metrics, per_class=result.per_class, pr_curves={},
        f1_threshold=0.5, f1=math.nan, matches=[], scores_true=[], scores_false=[],
        seconds=dict(seconds or {}), max_detections=0, has_boxes=False, semantic=result,
    )  # fmt: skip


def _all_have(predictions: Sequence[Instances], field: str) -> bool:
    """Whether a detector makes this: some predictions have it, and all of those with objects."""
    there = [getattr(p, field) is not None for p in predictions]
    return any(there) and all(has for has, p in zip(there, predictions, strict=True) if len(p))


def align_truth_classes(
    truths: Sequence[Instances], data_names: Sequence[str], model_names: Sequence[str]
) -> tuple[list[Instances], tuple[str, ...]]:
    """The truths with a model's labels, and the names these index.

    Names that differ in case only are one class. A class that has objects in the data and is unknown to the
    model comes after the model's own, with a warning: its objects will count as missed. Data whose format has
    no names (mask folders, label images: ``object``) are of the one class of a model that has one.
    """
    if tuple(data_names) == UNNAMED and len(model_names) == 1:
        data_names = model_names
    names = list(model_names)
    used = sorted({label for truth in truths for label in truth.labels.tolist()})
    unknown = []
    for name in (data_names[label] for label in used):
        if matching_label(names, name) is None:
            names.append(name)
            unknown.append(name)
    if unknown:
        warnings.warn(
            f"the data have objects of {', '.join(map(repr, unknown))}, which the model does not know "
            f"(it knows {', '.join(map(repr, model_names))}): they count as missed.",
            stacklevel=2,
        )
    found = [matching_label(names, name) for name in data_names]
    new_labels = np.array([-1 if label is None else label for label in found], np.int64)
    aligned = [replace(t, labels=new_labels[t.labels], class_names=tuple(names)) for t in truths]
    return aligned, tuple(names)


def align_keypoints(predictions: Sequence[Instances], skeleton: Skeleton | None) -> list[Instances] | None:
    """The predictions with the keypoints of the data's ``skeleton``, chosen by name and in its order.

    None where there is nothing to compare: keypoints on one side only or, with a warning, a keypoint of the
    data that the model does not find.
    """
    if skeleton is None or not _all_have(predictions, "keypoints"):
        return None
    own = next((p.skeleton.names for p in predictions if p.skeleton is not None), skeleton.names)
    order = keypoint_order(skeleton.names, own)
    if order is None:
        warnings.warn(
            f"the data have the keypoints {', '.join(skeleton.names)}; the model finds {', '.join(own)}, not "
            "all of these: keypoints are not measured.",
            stacklevel=2,
        )
        return None
    if order == list(range(len(own))):
        return list(predictions)
    return [
        p if p.keypoints is None else replace(p, keypoints=p.keypoints[:, order], skeleton=skeleton)
        for p in predictions
    ]


def default_max_detections(truths: Sequence[Instances]) -> int:
    """COCO's 100 detections, or as many as the fullest image has objects."""
    return max(COCO_MAX_DETECTIONS, max((len(truth) for truth in truths), default=0))


def evaluate_predictions(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    *,
    has_masks: bool,
    has_keypoints: bool = False,
    max_detections: int | None = None,
    seconds: Mapping[str, float] | None = None,
    metrics: Sequence[str] | None = None,
    threshold: float | None = None,
    format: str = "",
    speed: Mapping[str, float] | None = None,
    semantic: SemanticResult | None = None,
    panoptic: PanopticQuality | None = None,
) -> Evaluation:
    """Measure predictions that are at hand.

    Args:
        truths: one an image, labels indexing ``class_names``.
        predictions: one an image, in the same order and coordinates, of all scores down to a low one.
        class_names: of both.
        has_masks: whether to compare masks beside boxes.
        has_keypoints: whether to compare keypoints too.
        max_detections: COCO's cap; by default 100, or as many as the fullest image has objects.
        seconds: time an image by stage, to which ``measuring`` is added.
        metrics: families to measure, as in :func:`evaluate`.
        threshold: likewise.
        format: of the data set, which the choice of families looks at.
        speed: what the family of that name reports.
        semantic: what was measured of pixels beside.
        panoptic: what was measured of partitions beside.

    Raises:
        ValueError: truths and predictions that do not belong together, masks missing, or metrics that are
            unknown or lack something.
    """
    began = time.perf_counter()
    check_pairs(truths, predictions, class_names)
    cap = default_max_detections(truths) if max_detections is None else max_detections
    shape: Kind = "mask" if has_masks else "box"
    pairings = [pair(replace(t, semantic=None), p, shape) for t, p in zip(truths, predictions, strict=True)]
    best, f1 = best_threshold(pairings)
    inputs = MetricInput(
        truths, predictions, tuple(class_names), has_masks=has_masks, has_keypoints=has_keypoints,
        max_detections=cap, threshold=best if threshold is None else threshold, format=format,
        speed=speed or {},
    )  # fmt: skip
    families = choose_metrics(metrics, inputs)
    measures = _compute_metrics(inputs, families)
    if semantic is not None:
        measures.metrics.update(semantic.metrics)
    if panoptic is not None:
        measures.metrics.update(panoptic.metrics)
        for name, values in panoptic.class_metrics().items():
            if name in measures.per_class:  # a thing
                measures.per_class[name].update(values)
    judged = [(score, found) for p in pairings for score, found in zip(p.scores, p.found, strict=True)]
    passed = (time.perf_counter() - began) / max(1, len(truths))
    return Evaluation(
        metrics=measures.metrics,
        per_class=measures.per_class,
        pr_curves=measures.curves,
        f1_threshold=best,
        f1=f1,
        matches=[pairing.at(best) for pairing in pairings],
        scores_true=[score for score, found in judged if found >= 0],
        scores_false=[score for score, found in judged if found == UNMATCHED],
        seconds={**(seconds or {}), "measuring": passed},
        max_detections=cap,
        has_masks=has_masks,
        has_keypoints=has_keypoints,
        families=families,
        semantic=semantic,
        panoptic=panoptic,
    )


def _compute_metrics(inputs: MetricInput, families: Sequence[str]) -> MetricResult:
    """What all families measured, in one."""
    names = inputs.class_names
    counts = zip(names, _objects(inputs.truths, len(names)), strict=True)
    whole = MetricResult({}, {name: {"objects": count} for name, count in counts})
    for name in families:
        found = METRICS[name].measure(inputs)
        whole.metrics.update(found.metrics)
        whole.curves.update(found.curves)
        for name, values in found.per_class.items():
            whole.per_class[name].update(values)
    return whole


def _objects(truths: Sequence[Instances], num_classes: int) -> list[int]:
    """The number of objects of each class, crowds left out."""
    counts = np.zeros(num_classes, np.int64)
    for truth in truths:
        labels = truth.labels if truth.crowd is None else truth.labels[~truth.crowd]
        counts += np.bincount(labels, minlength=num_classes)
    return list(map(int, counts))
