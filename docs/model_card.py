"""Writes the model that comes with the package, and its card, from a run on nuclei.

    python docs/model_card.py runs/nuclei4 D/nuclei/val

The runs' recipes are docs/nuclei/*.toml.

The run's best weights go to ``trained/nuclei.safetensors`` in float16. The numbers of the card are measured
with that file; ``model_card.txt`` is its text.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rcnn import Instances, evaluate, load, open_data
from rcnn.data.dataset import Dataset
from rcnn.evaluation.evaluator import evaluate_predictions
from rcnn.evaluation.pictures import draw_comparison
from rcnn.io.picture_files import write_image
from rcnn.metrics.metric import Evaluation
from rcnn.metrics.nuclei import nuclei_metrics
from rcnn.structures import Array

ROOT = Path(__file__).parents[1]
KINDS = ("fluorescence", "stained", "brightfield")
COLUMNS = {
    "mask AP": "AP", "AP50": "AP50", "AP75": "AP75", "F1 at IoU 0.5": "F1_50", "at 0.75": "F1_75",
    "AJI": "AJI", "PQ": "PQ", "Dice": "pixel_dice",
}  # fmt: skip


def kind(image: Array) -> str:
    """How an image was made, judged by its colours: uint8 ``[H, W, 3]``."""
    values = image.astype(float)
    if float((values.max(2) - values.min(2)).mean()) > 5:
        return "stained"
    return "brightfield" if float(values.mean()) > 127 else "fluorescence"


def main() -> None:
    """Write the model, the card and its pictures."""
    run, data = Path(sys.argv[1]), open_data(sys.argv[2])
    file = ROOT / "trained" / "nuclei.safetensors"
    best = load(run)
    state = best.network.state_dict()
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    replace(best, class_names=("nucleus",)).save(file, half)
    evaluation, predictions = evaluate(load(file), data)
    # The metrics in the header are those of the weights as they are shipped.
    info = {**best.info, "metrics": evaluation.metrics}
    best = replace(best, class_names=("nucleus",), info=info, min_score=evaluation.f1_threshold)
    best.save(file, half)
    kinds = [kind(data[i].image) for i in range(len(data))]
    rows = [row("all", range(len(data)), data, predictions, evaluation.max_detections, best.min_score)]
    for name in KINDS:
        rows.append(
            row(
                name, [i for i, k in enumerate(kinds) if k == name], data, predictions,
                evaluation.max_detections, best.min_score,
            )
        )  # fmt: skip
    pictures = failures(data, predictions, evaluation, kinds)
    versions = ", ".join(f"{name} {version}" for name, version in best.info["versions"].items())
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").format(
        megabytes=file.stat().st_size / 1e6, threshold=best.min_score, header=" | ".join(COLUMNS),
        rule="|---" * (len(COLUMNS) + 3) + "|", rows="\n".join(rows), pictures=pictures,
        seconds=evaluation.seconds["predicting"], threads=torch.get_num_threads(), versions=versions,
    )  # fmt: skip
    (ROOT / "docs" / "nuclei.md").write_text(text, encoding="utf-8")


def row(
    name: str,
    indices: Sequence[int],
    data: Dataset,
    predictions: Sequence[Instances],
    cap: int,
    threshold: float,
) -> str:
    """One row of the table: the metrics over some of the images."""
    truths = [data.records[i].load_truth() for i in indices]
    found = [predictions[i] for i in indices]
    evaluation = evaluate_predictions(truths, found, data.class_names, has_masks=True, max_detections=cap)
    nuclei = nuclei_metrics(truths, found, threshold).pooled
    values = {k.removeprefix("mask/"): v for k, v in evaluation.metrics.items() if k.startswith("mask/")}
    values |= nuclei
    numbers = [f"{100 * values[column]:.1f}" for column in COLUMNS.values()]
    return f"| {name} | {len(truths)} | {sum(map(len, truths))} | {' | '.join(numbers)} |"


def failures(
    data: Dataset, predictions: Sequence[Instances], evaluation: Evaluation, kinds: Sequence[str]
) -> str:
    """The worst image of each kind, by missed and spurious nuclei; Markdown."""
    lines = []
    for name in KINDS:
        mine = [i for i, k in enumerate(kinds) if k == name]
        if not mine:
            continue
        worst = max(mine, key=lambda i: wrong(evaluation, i))
        match = evaluation.matches[worst]
        sample = data[worst]
        picture = draw_comparison(sample.image, sample.truth, predictions[worst], match)
        write_image(picture, ROOT / "docs" / "nuclei" / f"{name}.jpg")
        missed, spurious = len(match.missed_truths), len(match.spurious_predictions)
        said = f"{name}: {missed} of {len(sample.truth)} missed, {spurious} spurious"
        lines.append(f"![{said}](nuclei/{name}.jpg)\n\n*{said}*")
    return "\n\n".join(lines)


def wrong(evaluation: Evaluation, index: int) -> float:
    """The fraction of an image's objects and detections that do not agree."""
    match = evaluation.matches[index]
    bad = len(match.missed_truths) + len(match.spurious_predictions)
    return bad / max(1, bad + len(match.matched_truths))


if __name__ == "__main__":
    main()
