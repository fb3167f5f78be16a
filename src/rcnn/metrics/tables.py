"""The tables of the metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rcnn.metrics import percent
from rcnn.metrics.errors import ERROR_KINDS
from rcnn.metrics.metric import Evaluation
from rcnn.metrics.nuclei import IOUS
from rcnn.metrics.overlaps import KIND_NOUNS, Kind
from rcnn.metrics.panoptic import PanopticQuality, Quality
from rcnn.metrics.recall import COUNTS, ProposalRecall
from rcnn.metrics.semantic import SemanticResult
from rcnn.metrics.shown import Cell, MetricTable

KINDS: tuple[Kind, ...] = ("box", "mask", "keypoint")
COCO_COLUMNS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")
NUCLEI = (
    *((f"F1_{round(100 * t)}", f"F1 of detection, IoU {t:.2f}") for t in (IOUS[0], IOUS[5], IOUS[8])),
    ("F1", "F1 of detection, mean over IoU 0.50 to 0.95"),
    ("PQ", "PQ"), ("SQ", "SQ"), ("RQ", "RQ"), ("AJI", "AJI"), ("AJI_plus", "AJI+"),
    ("pixel_dice", "F1 = Dice of pixels (Cell17's F1, other reading)"),
    ("object_F1", "F1 of objects, GlaS (Cell17's F1)"),
    ("object_dice", "Dice of objects, GlaS (Cell17's Dice)"),
    ("object_hausdorff", "Hausdorff of objects, GlaS, px (Cell17's)"),
)  # fmt: skip


def coco(evaluation: Evaluation) -> MetricTable:
    """A row for all classes and one per class, the most frequent first; boxes, masks and keypoints apart."""
    rows: list[tuple[Cell, ...]] = []
    bold = []
    classes = sorted(evaluation.num_objects, key=lambda name: -evaluation.num_objects[name])
    for kind in (kind for kind in KINDS if f"{kind}/AP" in evaluation.metrics):
        bold.append(len(rows))
        everything = [evaluation.metrics[f"{kind}/{column}"] for column in COCO_COLUMNS]
        rows.append((kind, "all", str(sum(evaluation.num_objects.values())), *everything))
        for name in classes if len(classes) > 1 else ():
            values = evaluation.per_class[name]
            own = [values[f"{kind}/{column}"] for column in COCO_COLUMNS]
            rows.append((kind, name, str(evaluation.num_objects[name]), *own))
    columns = ("", "class", "objects", *(column.removeprefix("AP_") for column in COCO_COLUMNS))
    return MetricTable(
        f"COCO metrics of {len(evaluation.matches)} images", columns, rows,
        "AP is the mean over IoU 0.50 to 0.95; AP50 and AP75 are at one IoU (OKS for keypoints).\n"
        "Small is below 32² pixels, large above 96²; "
        f"up to {evaluation.max_detections} detections per image and class",
        bold=tuple(bold), bars=(3,), num_names=2,
    )  # fmt: skip


def keypoints(evaluation: Evaluation) -> MetricTable:
    """The mean distance of each keypoint."""
    start = "keypoint/error_"
    rows = [
        (key.removeprefix(start), _plain(error))
        for key, error in evaluation.metrics.items()
        if key.startswith(start)
    ]
    found = percent(evaluation.metrics["keypoint/found"])
    title = f"Keypoints of found objects ({found} % of all objects)"
    return MetricTable(
        title, ("", "error, px"), [("all", _plain(evaluation.metrics["keypoint/error"])), *rows]
    )


def nuclei(evaluation: Evaluation) -> MetricTable:
    """Pooled values, and means over the images."""
    metrics, rows = evaluation.metrics, []
    for key, name in NUCLEI:
        values: list[Cell] = [metrics[f"nuclei/{key}"], metrics[f"nuclei_per_image/{key}"]]
        if key == "object_hausdorff":  # in pixels
            values = [_plain(float(value)) for value in values]
        rows.append((name, *values))
    title = f"Nuclei, detections with a score of at least {metrics['nuclei/threshold']:.2f}"
    return MetricTable(title, ("", "pooled", "mean over images"), rows)


def errors(evaluation: Evaluation) -> MetricTable:
    """The number of errors of each kind, and what the kind costs."""
    metrics = evaluation.metrics
    rows = [
        (kind, f"{metrics[f'errors/{kind}_count']:.0f}", metrics[f"errors/{kind}"]) for kind in ERROR_KINDS
    ]
    caption = (
        f"AP50 of {KIND_NOUNS[evaluation.shape]} is {percent(metrics['errors/AP50'])} %. "
        "As in AP, detections of any score count:\n"
        "fewer objects are missed and more detections are false than at score "
        f"≥ {evaluation.f1_threshold:.2f}"
    )
    return MetricTable("Errors, detections of any score", ("kind", "number", "AP50 lost"), rows, caption)


def cityscapes(evaluation: Evaluation) -> MetricTable:
    """AP over all classes, and of each class."""
    rows: list[tuple[Cell, ...]] = [("all", *(evaluation.metrics[f"cityscapes/{k}"] for k in ("AP", "AP50")))]
    rows += [
        (name, values["cityscapes/AP"], values["cityscapes/AP50"])
        for name, values in evaluation.per_class.items()
    ]
    return MetricTable("Cityscapes metrics of masks", ("class", "AP", "AP50"), rows, bold=(0,))


def proposals(evaluation: Evaluation) -> MetricTable:
    """Recall by number of proposals."""
    keys = ("recall50", "recall70", "AR")
    rows: list[tuple[Cell, ...]] = [
        (str(n), *(evaluation.metrics[f"proposals/{key}@{n}"] for key in keys)) for n in COUNTS
    ]
    return _recall(evaluation.metrics["proposals/per_image"], rows)


def recall(found: ProposalRecall) -> MetricTable:
    """Recall by number of proposals."""
    values = zip(found.counts, found.at_50, found.at_70, found.average, strict=True)
    return _recall(found.per_image, [(str(count), *recalls) for count, *recalls in values])


def _recall(per_image: float, rows: list[tuple[Cell, ...]]) -> MetricTable:
    title = f"Recall of {per_image:.0f} proposals per image"
    return MetricTable(title, ("proposals", "IoU 0.5", "IoU 0.7", "mean, IoU 0.5 to 0.95"), rows)


def speed(evaluation: Evaluation) -> MetricTable:
    """Seconds per part of the network, and memory."""
    found = {k.removeprefix("speed/"): v for k, v in evaluation.metrics.items() if k.startswith("speed/")}
    rows = [("images per second", f"{found['images_per_second']:.2f}")]
    rows += [
        (f"{k.removesuffix('_seconds')}, s per image", f"{v:.4f}")
        for k, v in found.items()
        if k.endswith("_seconds")
    ]
    rows.append(("peak memory, MB", f"{found['peak_megabytes']:.0f}"))
    return MetricTable("Speed", ("", ""), rows)


def semantic(evaluation: Evaluation) -> MetricTable:
    """The means, and one row per class, the largest first."""
    result: SemanticResult = evaluation.details("semantic")
    metrics = {key: percent(value) for key, value in result.metrics.items()}
    rows: list[tuple[Cell, ...]] = [
        ("mean", "", result.metrics["semantic/mIoU"], result.metrics["semantic/mean_accuracy"])
    ]
    by_share = sorted(result.per_class.items(), key=lambda item: -_finite(item[1]["semantic/share"]))
    rows += [
        (name, *(values[f"semantic/{key}"] for key in ("share", "IoU", "accuracy")))
        for name, values in by_share
    ]
    return MetricTable(
        f"Pixel classes in {len(result.per_image)} images", ("class", "pixels", "IoU", "accuracy"), rows,
        f"pixel accuracy {metrics['semantic/pixel_accuracy']} %, "
        f"frequency-weighted IoU {metrics['semantic/frequency_weighted_IoU']} %",
        bold=(0,), bars=(2,),
    )  # fmt: skip


def panoptic(evaluation: Evaluation) -> MetricTable:
    """A row for all, for things, for stuff, and for each class that occurs."""
    result: PanopticQuality = evaluation.details("panoptic")
    means = (("all", result.all), ("things", result.things), ("stuff", result.stuff))
    rows: list[tuple[Cell, ...]] = [(name, *_qualities(quality), "", "", "") for name, quality in means]
    rows += [
        (name, *_qualities(quality), *map(str, result.counts[name]))
        for name, quality in result.per_class.items()
        if sum(result.counts[name])
    ]
    return MetricTable(
        "Panoptic quality", ("class", "PQ", "SQ", "RQ", "found", "spurious", "missed"), rows,
        "PQ = SQ · RQ: the mean IoU of the segments found, and the F1 of finding them, at IoU above 0.5",
        bold=(0, 1, 2), bars=(1,),
    )  # fmt: skip


def _qualities(quality: Quality) -> Iterator[float]:
    yield from (quality.pq, quality.sq, quality.rq)


def _plain(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
