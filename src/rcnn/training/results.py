"""What a run leaves at its end: the best model with its threshold, the evaluation, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from rcnn.evaluation.evaluator import evaluate
from rcnn.evaluation.explain.missed import with_causes
from rcnn.evaluation.report import write_report
from rcnn.inference.detector import Detector
from rcnn.io.atomic import write_atomically
from rcnn.loading import load_detector
from rcnn.metrics import percent
from rcnn.metrics.metric import Evaluation
from rcnn.training.defaults import Reason
from rcnn.training.progress import say
from rcnn.training.recipe import Recipe
from rcnn.training.run_folder import BEST, EVALUATION, REPORT, read_history, read_run
from rcnn.training.schemes import Trained
from rcnn.training.split import Split


def write_results(
    folder: Path,
    recipe: Recipe,
    *,
    split: Split,
    reasons: Sequence[Reason],
    trained: Trained,
    device: torch.device,
    console: Console,
) -> Evaluation:
    """Give the best model its threshold, write the evaluation and the report, print the tables.

    Args:
        folder: of the run.
        recipe: its settings.
        split: its data.
        reasons: for its settings.
        trained: how training ended.
        device: where to evaluate.
        console: where to print.
    """
    began = time.perf_counter()
    detector = load_detector(folder, device)
    # The figures that stay are those of float32.
    measured = detector.for_measuring()
    evaluation, predictions = trained.measured or evaluate(measured, split.val)
    evaluation = with_causes(evaluation, measured, split.val)
    threshold, why_threshold = _kept_threshold(folder, recipe) or _threshold(detector, evaluation)
    state = trained.state
    # What follows the loop (SVMs) is in no checkpoint of it: the time that was noted first is kept.
    seconds = max(state.seconds, detector.info.get("training_seconds", 0.0))
    info = {
        **detector.info,
        **split.record(),
        "metrics": evaluation.to_json()["metrics"],
        "best_iteration": state.best_iteration,
        "training_seconds": seconds,
    }
    replace(detector, min_score=threshold, info=info).save(folder / BEST)
    content = {"precision": measured.used_precision, **evaluation.to_json()}
    write_atomically(folder / EVALUATION, json.dumps(content).encode())
    facts = _facts([*split.messages, *map(str, reasons)]) | {
        "seed": str(recipe.train.seed),
        "steps": f"{state.iteration} ({state.skipped} skipped), best at {state.best_iteration}",
        **({"measured without": str(evaluation.left_out)} if evaluation.left_out else {}),
        **({"threshold": why_threshold} if why_threshold else {}),
    }
    times = {
        "training": seconds,
        "evaluation while training": state.eval_seconds,
        "final evaluation": time.perf_counter() - began,
    }
    write_report(
        folder / REPORT, title=f"{recipe.model} on {Path(*split.train.source.parts[-2:])}", facts=facts,
        history=read_history(folder), evaluation=evaluation, dataset=split.val, predictions=predictions,
        seconds=times,
    )  # fmt: skip
    _print(evaluation, folder, console)
    return evaluation


def _kept_threshold(folder: Path, recipe: Recipe) -> tuple[float, str] | None:
    """The threshold of the model that training started from, where it is kept or nothing was trained."""
    start = read_run(folder).get("start")
    if start is None or not (recipe.train.keep_threshold or recipe.train.epochs == 0):
        return None
    return float(start["min_score"]), f"{start['min_score']:.3f}, that of {start['source']}"


def _threshold(detector: Detector, evaluation: Evaluation) -> tuple[float, str]:
    """The score from which detections are shown, and what the report says of it."""
    if evaluation.measures("partition") and detector.merge is not None:
        # The quality of a panoptic segmentation was measured with the threshold of its settings.
        threshold = detector.merge.min_score
        return threshold, f"{threshold:g}, of the objects that a panoptic segmentation is made of"
    threshold = evaluation.f1_threshold
    if not evaluation.has_objects:
        return threshold, ""
    return threshold, f"{threshold:.3f}, where F1 is highest ({percent(evaluation.f1)} %)"


def _facts(lines: Sequence[str]) -> dict[str, str]:
    """Rows of the report from lines such as ``data: 12 images``; equal names are merged."""
    facts: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(": ")
        if colon:
            facts[name] = f"{facts[name]}; {text}" if name in facts else text
    return facts


def _print(evaluation: Evaluation, folder: Path, console: Console) -> None:
    console.print(evaluation.table())
    for name in (BEST, REPORT):
        say(console, f"{folder / name}")
