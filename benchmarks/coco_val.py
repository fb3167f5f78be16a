"""COCO val2017 AP of torchvision's published detectors, through our importer and our evaluation.

    python -m benchmarks.coco_val COCO                                  # all of them
    python -m benchmarks.coco_val COCO --models maskrcnn_resnet50_fpn_coco --json result.json

COCO is a folder with val2017/ and annotations/ as published. The weights are downloaded. Beside each value
stands the one that torchvision publishes with the weights (their `meta`); where they differ by more than
`TOLERANCE`, the exit code is 1. As in torchvision's reference scripts, scores from 0.05 on and at most 100
detections per image are measured.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torchvision
from rich.console import Console
from rich.table import Table

from rcnn import evaluate, load, open_data
from rcnn.catalogue import PUBLISHED
from rcnn.inference.detector import Detector
from rcnn.metrics.metric import Evaluation

MIN_SCORE, MAX_DETECTIONS = 0.05, 100
TOLERANCE = (
    0.3  # points of AP: masks are pasted as Detectron2 does, and images are decoded by another library
)
# torchvision's names of what it publishes, and ours of what we measure.
METRICS = {"box_map": "box/AP", "mask_map": "mask/AP", "kp_map": "keypoint/AP"}


@dataclass(frozen=True)
class Row:
    """One value: what was found and what is published, in points of AP."""

    model: str
    metric: str
    found: float
    published: float

    @property
    def agrees(self) -> bool:
        """Whether the two are as close as they should be."""
        return abs(self.found - self.published) <= TOLERANCE


def published_values(model: str) -> dict[str, float]:
    """Ours of the metrics that torchvision publishes with a model's weights, in points of AP."""
    weights = torchvision.models.get_model_weights(model.removesuffix("_coco"))["COCO_V1"]
    values = weights.meta["_metrics"]["COCO-val2017"]
    return {METRICS[name]: float(value) for name, value in values.items()}


def annotations(coco: Path, model: str) -> Path:
    """The file that a model is measured on: people with their keypoints, or all 80 classes."""
    task = "person_keypoints" if model.startswith("keypoint") else "instances"
    return coco / "annotations" / f"{task}_val2017.json"


def measure(detector: Detector, coco: Path, model: str) -> Evaluation:
    """Predict and measure all images; what cannot be read is printed, and then the values do not compare."""
    dataset = open_data(annotations(coco, model), images=coco / "val2017")
    for problem in dataset.problems:
        print(problem, file=sys.stderr)
    metrics = ["coco", "keypoints"] if "keypoint/AP" in published_values(model) else ["coco"]
    evaluation, _ = evaluate(
        detector, dataset, min_score=MIN_SCORE, max_detections=MAX_DETECTIONS, metrics=metrics
    )
    return evaluation


def rows(coco: Path, models: Sequence[str]) -> Iterator[Row]:
    """All values of the models, one model after the other."""
    for model in models:
        detector = load(model, precision="float32")
        assert isinstance(detector, Detector)
        evaluation = measure(detector, coco, model)
        for metric, value in published_values(model).items():
            yield Row(model, metric, 100 * evaluation.metrics[metric], value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and say whether everything agrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("coco", type=Path, help="folder with val2017/ and annotations/")
    parser.add_argument("--models", nargs="+", choices=PUBLISHED, default=list(PUBLISHED), metavar="MODEL")
    parser.add_argument("--json", type=Path, help="write the values here, too")
    options = parser.parse_args(arguments)
    missing = sorted({str(f) for m in options.models if not (f := annotations(options.coco, m)).is_file()})
    if missing:
        parser.error(f"not there: {', '.join(missing)}; expected COCO 2017 as published")
    table = Table("model", "metric", "found", "published", "difference")
    found = []
    for row in rows(options.coco, options.models):
        found.append(row)
        difference = f"{row.found - row.published:+.2f}{'' if row.agrees else ' !'}"
        table.add_row(row.model, row.metric, f"{row.found:.2f}", f"{row.published:.1f}", difference)
    Console().print(table)
    if options.json is not None:
        content = [asdict(row) for row in found]
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.agrees for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
