"""COCO's average precision and recall, of boxes, masks and keypoints.

Matching and curves come from faster-coco-eval, a fast C++ port of pycocotools; tests check that both agree.
The means are taken here, from its table of precisions, because its ``summarize`` fixes the cap at 100
detections. Classes are measured each by itself, and therefore evaluated a few at a time: the objects that the
library holds take much memory.

Legend: T IoU thresholds (0.50, 0.55, …, 0.95), R recalls (0, 0.01, …, 1), K classes, A area ranges, M
detection caps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from rcnn.metrics import check_pairs
from rcnn.metrics.overlaps import Floats, Kind, crowds
from rcnn.structures import Instances

_EVALUATORS = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
IOU_50, IOU_75 = 0, 5
AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
SIZES = ("small", "medium", "large")
MOST_AT_ONCE = 2**16  # objects, true and found, that the evaluator holds: a kilobyte and a half each


@dataclass(frozen=True)
class CocoResult:
    """What COCO reports; NaN wherever there is no truth to measure against.

    Attributes:
        metrics: ``AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR AR50 AR75 AR_small AR_medium
            AR_large``, each in [0, 1], means over the classes with truth. All but ``AR1`` and ``AR10`` use
            the full cap.
        per_class: the same by class name.
        recall: the grid of recalls, 0 to 1 in 101 steps.
        precision: by class name, the best precision at IoU 0.5 at each recall or beyond; NaNs without
            truth.
        max_detections: the cap on detections per image and class.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    recall: list[float]
    precision: dict[str, list[float]]
    max_detections: int


def coco_metrics(
    truths: Sequence[Instances],
    predictions: Sequence[Instances],
    *,
    kind: Kind,
    class_names: Sequence[str],
    max_detections: int = 100,
) -> CocoResult:
    """Compute COCO's metrics over a set of images.

    A truth's area, which decides whether it is small, medium or large (bounds 32² and 96²), is
    ``truth.areas`` where present (COCO's annotations have it), else the mask's where there are masks, else
    the box's; for ``kind="box"`` too, as in COCO. Crowds are neither found nor missed. COCO has no
    ``difficult`` mark (VOC's), so such objects count.

    Args:
        truths: one per image.
        predictions: one per image, in the same order and the same coordinates, with scores.
        kind: whether boxes, masks or keypoints are compared; for these the overlap is the object keypoint
            similarity with the sigmas of the truths' ``skeleton``, and objects without an annotated keypoint
            are neither found nor missed.
        class_names: what the labels of both index.
        max_detections: how many detections per image and class count, best first.

    Raises:
        ValueError: truths and predictions that do not belong together, objects without masks for
            ``kind="mask"``, or a cap below 1.
    """
    check_pairs(truths, predictions, class_names)
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}, expected at least 1.")
    precision, recall = _evaluated(truths, predictions, kind, len(class_names), max_detections)
    recalls = [step / 100 for step in range(101)]
    per_class, curves = {}, {}
    for label, name in enumerate(class_names):
        per_class[name] = _summary(precision[:, :, [label]], recall[:, [label]])
        curve = precision[IOU_50, :, label, AREAS["all"], -1]
        curves[name] = [float(p) if p >= 0 else math.nan for p in curve]
    return CocoResult(_summary(precision, recall), per_class, recalls, curves, max_detections)


def _summary(precision: Floats, recall: Floats) -> dict[str, float]:
    """COCO's numbers from precisions ``[T, R, K, A, M]`` and recalls ``[T, K, A, M]``."""
    at_cap, recall_of_all = precision[..., -1], recall[:, :, AREAS["all"]]
    of_all = at_cap[..., AREAS["all"]]
    sizes = {f"AP_{name}": _mean(at_cap[..., AREAS[name]]) for name in SIZES}
    return {
        "AP": _mean(of_all),
        "AP50": _mean(of_all[IOU_50]),
        "AP75": _mean(of_all[IOU_75]),
        **sizes,
        "AR1": _mean(recall_of_all[..., 0]),
        "AR10": _mean(recall_of_all[..., 1]),
        "AR": _mean(recall_of_all[..., 2]),
        "AR50": _mean(recall_of_all[IOU_50, :, 2]),
        "AR75": _mean(recall_of_all[IOU_75, :, 2]),
        **{f"AR_{name}": _mean(recall[:, :, AREAS[name], -1]) for name in SIZES},
    }


def _mean(values: Floats) -> float:
    """The mean of all values but -1, which marks classes without truth; NaN if there are none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else math.nan


def _evaluated(
    truths: Sequence[Instances], predictions: Sequence[Instances], kind: Kind, num_classes: int, cap: int
) -> tuple[Floats, Floats]:
    """Precisions ``[T, R, K, A, M]`` and recalls ``[T, K, A, M]``, -1 for classes without truth."""
    parts = [(np.full((10, 101, 0, 4, 3), -1.0), np.full((10, 0, 4, 3), -1.0))]
    if not truths:
        parts.append((np.full((10, 101, num_classes, 4, 3), -1.0), np.full((10, num_classes, 4, 3), -1.0)))
        num_classes = 0
    counts = _objects_of_classes(truths, num_classes) + _objects_of_classes(predictions, num_classes)
    parts += [_evaluated_part(truths, predictions, kind, classes, cap) for classes in _parts_of(counts)]
    precisions, recalls = zip(*parts, strict=True)
    return np.concatenate(precisions, 2), np.concatenate(recalls, 1)


def _evaluated_part(
    truths: Sequence[Instances], predictions: Sequence[Instances], kind: Kind, classes: range, cap: int
) -> tuple[Floats, Floats]:
    """The same for some of the classes; what it takes is free again afterwards."""
    evaluator = _evaluator(_some(truths, classes), _some(predictions, classes), kind, classes)
    if kind == "keypoint":
        # The size ranges of boxes; COCO drops the small one only in its report.
        evaluator.params.areaRng = [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]
        evaluator.params.areaRngLbl = list(AREAS)
        evaluator.params.kpt_oks_sigmas = np.array(_sigmas(truths))
    evaluator.params.catIds = list(classes)
    evaluator.params.maxDets = [min(1, cap), min(10, cap), cap]
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return np.asarray(precision, dtype=np.float64), np.asarray(recall, dtype=np.float64)


def _objects_of_classes(images: Sequence[Instances], num_classes: int) -> npt.NDArray[np.int64]:
    """The number of objects ``[K]`` of each class."""
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in images)])
    return np.bincount(labels, minlength=num_classes)[:num_classes]


def _parts_of(counts: npt.NDArray[np.int64]) -> Iterator[range]:
    """Classes that are evaluated together: as many as have no more than ``MOST_AT_ONCE`` objects, or one."""
    first, held = 0, 0
    for label, count in enumerate(counts.tolist()):
        if held and held + count > MOST_AT_ONCE:
            yield range(first, label)
            first, held = label, 0
        held += count
    if first < len(counts):
        yield range(first, len(counts))


def _some(images: Sequence[Instances], classes: range) -> Iterator[Instances]:
    """The objects of some classes in each image."""
    for one in images:
        chosen = (one.labels >= classes.start) & (one.labels < classes.stop)
        yield one if chosen.all() else one[chosen]


def _evaluator(
    truths: Iterable[Instances], predictions: Iterable[Instances], kind: Kind, classes: range
) -> Any:
    """COCO's evaluator of images with objects of these classes."""
    annotations, images = [], []
    for number, truth in enumerate(truths, 1):
        annotations.append(_truth_annotations(number, truth, kind))
        images.append({"id": number, "height": truth.size[0], "width": truth.size[1]})
    results = [_detections(number, predicted, kind) for number, predicted in enumerate(predictions, 1)]
    return COCOeval_faster(
        _indexed(images, classes, annotations), _indexed(images, classes, results), _EVALUATORS[kind]
    )


def _sigmas(truths: Sequence[Instances]) -> tuple[float, ...]:
    """The sigmas of the truths' one skeleton."""
    skeletons = {truth.skeleton for truth in truths if truth.skeleton is not None}
    if len(skeletons) != 1:
        raise ValueError(
            f"the truths have {len(skeletons)} different skeletons; expected one, whose sigmas keypoints are "
            "compared by."
        )
    return skeletons.pop().sigmas


def _indexed(images: list[dict[str, int]], classes: range, per_image: list[list[dict[str, Any]]]) -> Any:
    """COCO's index of annotations; ids start at 1, because 0 means "not matched" to the evaluator."""
    annotations = [annotation for image in per_image for annotation in image]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    categories = [{"id": label, "name": str(label)} for label in classes]
    return COCO({"images": images, "categories": categories, "annotations": annotations, "info": {}})


def _truth_annotations(number: int, truth: Instances, kind: Kind) -> list[dict[str, Any]]:
    """One image's truth as COCO annotations, without ids."""
    annotations = _shapes(number, truth, kind)
    areas = truth.areas
    if areas is None and truth.masks is not None:
        areas = truth.masks.areas()
    if areas is not None:
        for annotation, area in zip(annotations, areas.tolist(), strict=True):
            annotation["area"] = area
    if kind == "keypoint" and truth.keypoints is not None:
        for annotation, count in zip(annotations, (truth.keypoints[..., 2] > 0).sum(1).tolist(), strict=True):
            annotation["num_keypoints"] = count
    for annotation, crowd in zip(annotations, crowds(truth, kind).tolist(), strict=True):
        annotation["iscrowd"] = int(crowd)
    return annotations


def _detections(number: int, predicted: Instances, kind: Kind) -> list[dict[str, Any]]:
    """One image's predictions as COCO results; the area is that of what is compared, box or mask."""
    results = _shapes(number, predicted, kind)
    if predicted.masks is not None and kind == "mask":
        for result, area in zip(results, predicted.masks.areas().tolist(), strict=True):
            result["area"] = area
    if predicted.keypoints is not None and kind == "keypoint" and len(predicted):
        points = predicted.keypoints[..., :2]
        low, high = points.min(1), points.max(1)
        for result, area in zip(results, (high - low).prod(1).tolist(), strict=True):
            result["area"] = area
    scores = [] if predicted.scores is None else predicted.scores.tolist()
    for result, score in zip(results, scores, strict=True):
        result["score"] = score
    return results


def _shapes(number: int, instances: Instances, kind: Kind) -> list[dict[str, Any]]:
    """What truth and predictions have in common: image, class, box, area, and run-length codes for masks."""
    boxes = instances.boxes.astype(np.float64)
    extents = boxes[:, 2:] - boxes[:, :2]
    shapes: list[dict[str, Any]] = [
        {"image_id": number, "category_id": label, "area": area, "iscrowd": 0}
        for label, area in zip(instances.labels.tolist(), extents.prod(1).tolist(), strict=True)
    ]
    if kind != "mask":
        for shape, box in zip(shapes, np.concatenate([boxes[:, :2], extents], 1).tolist(), strict=True):
            shape["bbox"] = box
    place = f"image {number - 1}" + (f" ({instances.path})" if instances.path is not None else "")
    if kind == "keypoint" and len(instances):
        if instances.keypoints is None:
            raise ValueError(
                f"{place}: {len(instances)} objects without keypoints; compare boxes or provide keypoints."
            )
        for shape, points in zip(
            shapes, instances.keypoints.reshape(len(instances), -1).tolist(), strict=True
        ):
            shape["keypoints"] = points
    if kind == "mask" and len(instances):
        if instances.masks is None:
            raise ValueError(
                f'{place}: {len(instances)} objects without masks; compare boxes (kind="box") or '
                "provide masks."
            )
        for shape, code in zip(shapes, instances.masks.rle(), strict=True):
            shape["segmentation"] = code
    return shapes
