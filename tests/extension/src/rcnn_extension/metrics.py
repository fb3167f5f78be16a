"""Metrics of one's own: about objects, pixels and partitions."""

from __future__ import annotations

from rcnn.metrics.metric import Metric, MetricInput, MetricResult


def _count_error(inputs: MetricInput) -> MetricResult:
    errors = [abs(len(p) - len(t)) for t, p in zip(inputs.truths, inputs.predictions, strict=True)]
    return MetricResult({"count/error": sum(errors) / max(1, len(errors))})


COUNT = Metric("count", "how far the number of objects is off", "objects", measure=_count_error)
