"""What a model gains on a new kind of images by going on from it, and what it forgets of the old one.

    python -m benchmarks.going_on D/nuclei --out runs/going_on --start-minutes 20 --minutes 3 --seeds 0 1 2

A start model is trained on the images of D/nuclei/train that are not stained. From it, and from ImageNet
weights, training goes on for the same minutes with a few stained images. Mask AP is measured on the stained
and on the fluorescence images of D/nuclei/val, which no training saw: of the start model as it is, of the one
that went on from it, and of the one that did not. All go into OUT/going_on.json after each training, and a
second call does not repeat what is there.

On a machine that does other work meanwhile, ``--start-iterations`` and ``--iterations`` replace the minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rcnn import Detector, evaluate, load, open_data, train
from rcnn.data.dataset import Dataset
from rcnn.data.twins import content_digests
from rcnn.io.atomic import write_atomically
from rcnn.structures import Array
from rcnn.training.settings import TrainSettings
from rcnn.training.split import HoldOut

KINDS = ("stained", "fluorescence")
MODELS = ("start", "went on", "from ImageNet")
METRIC = "mask/AP"
Row = dict[str, float]


def kind(image: Array) -> str:
    """How an image was made, by its colours and brightness: uint8 ``[H, W, 3]``; as docs/model_card.py."""
    values = image.astype(float)
    if float((values.max(2) - values.min(2)).mean()) > 5:
        return "stained"
    return "brightfield" if float(values.mean()) > 127 else "fluorescence"


def of_kinds(data: Dataset) -> dict[str, list[int]]:
    """The indices of the images of each kind."""
    found: dict[str, list[int]] = {"stained": [], "fluorescence": [], "brightfield": []}
    for index, record in enumerate(data.records):
        found[kind(record.load_image())].append(index)
    return found


def parts(data: Path, few: int, seed: int) -> tuple[Dataset, Dataset, dict[str, Dataset]]:
    """The training images of the start model, a few stained ones, and the validation images of each kind."""
    train_data, val = open_data(data / "train"), open_data(data / "val")
    kinds = of_kinds(train_data)
    unstained = sorted(kinds["fluorescence"] + kinds["brightfield"])
    chosen = np.random.default_rng(seed).permutation(kinds["stained"])[:few]
    by_kind = of_kinds(val)
    return (
        train_data.subset(unstained),
        train_data.subset(sorted(chosen.tolist())),
        {name: val.subset(by_kind[name]) for name in KINDS},
    )


def measured(model: Path, val: Mapping[str, Dataset]) -> Row:
    """Mask AP in % on the images of each kind."""
    detector = load(model)
    assert isinstance(detector, Detector)
    return {
        name: 100 * float(evaluate(replace(detector, precision="float32"), part)[0].metrics[METRIC])
        for name, part in val.items()
    }


def length(data: Dataset, minutes: float, iterations: int | None, seed: int) -> dict[str, float]:
    """The length of a training for ``train``: minutes, or the epochs that give the number of iterations."""
    if iterations is None:
        return {"minutes": minutes}
    held = HoldOut(seed).choose(data, content_digests(data.records))
    return {"epochs": iterations * TrainSettings.batch_size / (len(data) - len(held))}


def finished(run: Path, data: Dataset, *, seed: int, **options: Any) -> None:
    """Train, or resume what was interrupted, unless the run is complete."""
    if (run / "report.html").exists():
        return
    if (run / "run.json").exists():
        train(data, resume=run)
    else:
        train(data, out=run, seed=seed, **options)


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, Row]:
    """The three models of a seed, trained unless they are there, and measured."""
    unstained, stained, val = parts(options.data, options.images, seed)
    folder = options.out / f"seed{seed}"
    runs = dict(zip(MODELS, (folder / "start", folder / "from", folder / "imagenet"), strict=True))
    settings = list(options.set)
    longer = length(unstained, options.start_minutes, options.start_iterations, seed)
    shorter = length(stained, options.minutes, options.iterations, seed)
    finished(runs["start"], unstained, seed=seed, settings=settings, **longer)
    finished(runs["went on"], stained, seed=seed, start=runs["start"], settings=settings, **shorter)
    finished(runs["from ImageNet"], stained, seed=seed, settings=settings, **shorter)
    return {name: measured(run, val) for name, run in runs.items()}


def table(rows: Sequence[Mapping[str, Row]]) -> str:
    """Means over the seeds with the range, as Markdown; and what is gained and forgotten."""
    lines = [f"| model | {' | '.join(KINDS)} |", "|---|---|---|"]
    for name in MODELS:
        cells = []
        for of in KINDS:
            values = [row[name][of] for row in rows]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    gained, kept = (np.mean([row["went on"][of] - row["start"][of] for row in rows]) for of in KINDS)
    against = np.mean([row["went on"]["stained"] - row["from ImageNet"]["stained"] for row in rows])
    lines.append("")
    lines.append(f"gained on the new kind: {gained:.1f}; against ImageNet weights: {against:.1f}")
    lines.append(f"forgotten of the old kind: {-kept:.1f} (the aim: at most 2)")
    return "\n".join(lines)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start-minutes", type=float, default=20)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--start-iterations", type=int, help="steps of the start model instead of minutes")
    parser.add_argument("--iterations", type=int, help="steps of the others instead of minutes")
    parser.add_argument("--images", type=int, default=16, help="stained images to go on with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    file = options.out / "going_on.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for seed in options.seeds:
        if str(seed) not in rows:
            rows[str(seed)] = one_seed(options, seed)
            write_atomically(file, json.dumps(rows, indent=1).encode())
    print(table([rows[str(seed)] for seed in options.seeds]))


if __name__ == "__main__":
    main()
