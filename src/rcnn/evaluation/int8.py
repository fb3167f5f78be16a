"""What eight-bit integers cost a model: the same metrics of the network and of its exported file."""

from __future__ import annotations

from dataclasses import dataclass

from rcnn.data.dataset import Dataset
from rcnn.evaluation.evaluator import evaluate
from rcnn.evaluation.running import Predictor, Progress
from rcnn.metrics.metric import Evaluation
from rcnn.metrics.registry import BASIC

NUM_CALIBRATION_IMAGES = 100  # images that show which values occur in an exported model


@dataclass(frozen=True)
class Int8Comparison:
    """The headline metrics and the speed of a model, in float32 and in int8."""

    exact: Evaluation
    rounded: Evaluation

    def __str__(self) -> str:
        exact, rounded = self.exact, self.rounded
        lines = [
            f"{name}: {exact.metrics[name]:.4f}, in int8 {rounded.metrics[name]:.4f}"
            for name, _ in exact.headline()
        ]
        slow, fast = (result.seconds["predicting"] for result in (exact, rounded))
        return "\n".join((*lines, f"seconds per image: {slow:.3f}, in int8 {fast:.3f}"))


def compare_int8(
    network: Predictor, exported: Predictor, dataset: Dataset, *, progress: Progress | None = None
) -> Int8Comparison:
    """Evaluate a network and its exported file on the same images.

    Args:
        network: the detector that was exported.
        exported: its file in int8.
        dataset: images with truth.
        progress: called with the number of images done and of all, once for each of the two.
    """
    exact, _ = evaluate(network, dataset, metrics=BASIC, progress=progress)
    rounded, _ = evaluate(exported, dataset, metrics=BASIC, progress=progress)
    return Int8Comparison(exact, rounded)
