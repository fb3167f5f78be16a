"""What the families of metrics beyond COCO's and VOC's found, as tables for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rcnn.metrics import percent
from rcnn.metrics.errors import ERROR_KINDS
from rcnn.metrics.nuclei import IOUS
from rcnn.metrics.recall import COUNTS

if TYPE_CHECKING:
    from rcnn.evaluation.evaluator import Evaluation

NUCLEI = (
    *((f"F1_{round(100 * t)}", f"F1 of detection, IoU {t:.2f}") for t in (IOUS[0], IOUS[5], IOUS[8])),
    ("F1", "F1 of detection, mean over IoU 0.50 to 0.95"),
    ("PQ", "PQ"), ("SQ", "SQ"), ("RQ", "RQ"), ("AJI", "AJI"), ("AJI_plus", "AJI+"),
    ("pixel_dice", "F1 = Dice of pixels (Cell17's F1, other reading)"),
    ("object_F1", "F1 of objects, GlaS (Cell17's F1)"),
    ("object_dice", "Dice of objects, GlaS (Cell17's Dice)"),
    ("object_hausdorff", "Hausdorff of objects, GlaS, px (Cell17's)"),
)  # fmt: skip
Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class MetricTable:
    """The numbers of one family as text.

    Attributes:
        title: what they are.
        columns: the heads.
        rows: of as many cells each.
    """

    title: str
    columns: tuple[str, ...]
    rows: Rows

    def rich(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title, box=SIMPLE_HEAD, padding=(0, 1))
        for column in self.columns:
            table.add_column(column, justify="right" if table.columns else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def metric_tables(evaluation: Evaluation) -> list[MetricTable]:
    """One table for each family that was measured and has one, and one of keypoints where there are some."""
    keypoints = [_keypoints(evaluation)] if "keypoint/error" in evaluation.metrics else []
    return keypoints + [TABLES[name](evaluation) for name in evaluation.families if name in TABLES]


def _keypoints(evaluation: Evaluation) -> MetricTable:
    start = "keypoint/error_"
    rows = [
        (key.removeprefix(start), _plain(error))
        for key, error in evaluation.metrics.items()
        if key.startswith(start)
    ]
    found = percent(evaluation.metrics["keypoint/found"])
    title = f"Keypoints of the objects found ({found} % of all)"
    return MetricTable(title, ("", "px off"), [("all", _plain(evaluation.metrics["keypoint/error"])), *rows])


def _nuclei(evaluation: Evaluation) -> MetricTable:
    metrics = evaluation.metrics
    rows = []
    for key, name in NUCLEI:
        write = _plain if key == "object_hausdorff" else percent
        rows.append((name, write(metrics[f"nuclei/{key}"]), write(metrics[f"nuclei_per_image/{key}"])))
    title = f"Nuclei, detections of score {metrics['nuclei/threshold']:.2f} and above, in %"
    return MetricTable(title, ("", "pooled", "mean of images"), rows)


def _errors(evaluation: Evaluation) -> MetricTable:
    metrics = evaluation.metrics
    rows = [
        (kind, f"{metrics[f'errors/{kind}_count']:.0f}", percent(metrics[f"errors/{kind}"]))
        for kind in ERROR_KINDS
    ]
    what = "masks" if evaluation.has_masks else "boxes"
    title = f"Errors, AP50 of {what} {percent(metrics['errors/AP50'])} %"
    return MetricTable(title, ("kind", "number", "costs AP50, %"), rows)


def _cityscapes(evaluation: Evaluation) -> MetricTable:
    rows: list[tuple[str, ...]] = [
        ("all", *(percent(evaluation.metrics[f"cityscapes/{key}"]) for key in ("AP", "AP50")))
    ]
    rows += [
        (name, *(percent(values[f"cityscapes/{key}"]) for key in ("AP", "AP50")))
        for name, values in evaluation.per_class.items()
    ]
    return MetricTable("Cityscapes' metrics of masks, in %", ("class", "AP", "AP50"), rows)


def _proposals(evaluation: Evaluation) -> MetricTable:
    names = ("recall50", "recall70", "AR")
    rows = [
        (str(n), *(percent(evaluation.metrics[f"proposals/{name}@{n}"]) for name in names)) for n in COUNTS
    ]
    title = f"Recall of {evaluation.metrics['proposals/per_image']:.0f} proposals an image, in %"
    return MetricTable(title, ("first", "IoU 0.5", "IoU 0.7", "mean, IoU 0.5 to 0.95"), rows)


def _speed(evaluation: Evaluation) -> MetricTable:
    found = {k.removeprefix("speed/"): v for k, v in evaluation.metrics.items() if k.startswith("speed/")}
    rows: list[tuple[str, ...]] = [("images a second", f"{found['images_per_second']:.2f}")]
    rows += [
        (f"{k.removesuffix('_seconds')}, s an image", f"{v:.4f}")
        for k, v in found.items()
        if k.endswith("_seconds")
    ]
    rows.append(("peak memory, MB", f"{found['peak_megabytes']:.0f}"))
    return MetricTable("Speed", ("", ""), rows)


TABLES: dict[str, Callable[[Evaluation], MetricTable]] = {
    "nuclei": _nuclei, "errors": _errors, "cityscapes": _cityscapes, "proposals": _proposals, "speed": _speed,
}  # fmt: skip


def _plain(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"
