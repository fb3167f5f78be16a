"""A data set made ready for the evaluation of a model: faulty images refused or skipped, proposals added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.data.check import refuse_or_measure
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import SELECTIVE_SEARCH, Progress, default_cache, with_proposals
from rcnn.data.problems import Problem
from rcnn.metrics.metric import Metric
from rcnn.metrics.recall import COUNTS
from rcnn.metrics.registry import choose_metrics

if TYPE_CHECKING:
    from rcnn.inference.detector import Detector
    from rcnn.inference.exported import ExportedDetector


def usable_images(
    dataset: Dataset, detector: Detector | ExportedDetector, *, skip_bad: bool = False
) -> tuple[Dataset, list[Problem]]:
    """The data set without images that the model cannot be evaluated on, and why they are not usable.

    As :func:`rcnn.data.check.refuse_or_measure`, which this raises as; errors in outlines do not matter to a
    model that finds boxes only.
    """
    return refuse_or_measure(dataset, skip_bad, boxes_only=_finds_boxes_only(detector))


def with_required_proposals(
    dataset: Dataset,
    detector: Detector | ExportedDetector,
    file: str | Path | None = None,
    *,
    metrics: Sequence[str | Metric] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data set with the proposals that the model or a metric requires.

    Args:
        dataset: the images.
        detector: takes external proposals, or has an RPN.
        file: external proposals; None: selective search, if the model takes external proposals.
        metrics: as of :func:`rcnn.evaluate`; if one that is named requires proposals, those of the RPN are
            added.
        progress: called with the number of images done and of all.

    Raises:
        ValueError: a file, but the model has an RPN; a metric requires proposals, and the model has no RPN.
    """
    network: Any = getattr(detector, "network", None)
    if getattr(network, "needs_proposals", False):
        source = SELECTIVE_SEARCH if file is None else file
        settings = network.settings.search
        return with_proposals(dataset, source, cache=default_cache(), settings=settings, progress=progress)
    if file is not None:
        raise ValueError(
            f"--proposals {file}: only for models without an RPN; this model generates its own proposals. "
            "Remove the option."
        )
    choice = choose_metrics(metrics)
    if not (choice.is_named and choice.needs("proposals")):
        return dataset
    if network is None:
        raise ValueError("an exported file has no RPN to query: use the checkpoint of a Faster or Mask R-CNN")
    from rcnn.evaluation.rpn_proposals import rpn_proposals  # asks a network, which needs torch

    return with_proposals(dataset, rpn_proposals(detector, dataset, COUNTS[-1], progress))  # type: ignore[arg-type]


def _finds_boxes_only(detector: Detector | ExportedDetector) -> bool:
    network: Any = getattr(detector, "network", None)
    if network is None:
        info: Any = getattr(detector, "info", {})
        return "model" in info and info["model"].get("mask") is None
    return not getattr(network, "needs_masks", True)
