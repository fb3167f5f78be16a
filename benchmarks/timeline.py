"""The line from R-CNN to Mask R-CNN on the same data, backbone and budget: what each step bought.

    python -m benchmarks.timeline D/cbc/Training --val D/cbc/Testing \
        --out runs/timeline --minutes 20 --seeds 0 1 2

Trains R-CNN, Fast R-CNN, Faster R-CNN in four steps and jointly, and, where the data has masks, Mask R-CNN,
as `rcnn train` sets them up for the data, each for the same minutes; then measures them and writes
``timeline.md``, ``timeline.json`` and ``timeline.png`` into the folder. A model that is finished is not
trained again, one that was killed is resumed, and one that fails is left out of the table; all that is said
is kept in ``log.txt``. What is searched for is kept in ``RCNN_CACHE``, or ``~/.cache/rcnn``.

Training time is that of the loop, of the proposals it needs and of what R-CNN fits afterwards, without
evaluations. Seconds an image are medians over some validation images, one at a time, the models taking turns;
the heads' are what remains of a prediction beside proposals and backbone, so resizing and pasting are in
them.
"""

import argparse
import json
import platform
import statistics
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console

from rcnn import load, open_data, train
from rcnn.data.dataset import Dataset
from rcnn.data.external_proposals import default_cache, with_proposals
from rcnn.evaluation.rpn_proposals import rpn_proposals
from rcnn.inference.detector import Detector
from rcnn.inference.stopwatch import Stopwatch
from rcnn.io.checkpoint import write_atomically
from rcnn.metrics.recall import proposal_recall
from rcnn.parts.selective_search import selective_search
from rcnn.training.run_folder import append_line

STAGES = ("proposals", "backbone", "heads")
NAMES = {
    "rcnn": "R-CNN (2013)",
    "fast_rcnn": "Fast R-CNN (2015)",
    "faster_rcnn_alternating": "Faster R-CNN, four steps (2015)",
    "faster_rcnn_joint": "Faster R-CNN, jointly (2015)",
    "mask_rcnn": "Mask R-CNN (2017)",
}


@dataclass
class Row:
    """What is known of one model: a value for each seed.

    Attributes:
        images: validation images that it was measured on.
        runs: as :func:`measured` gives them.
        seconds: an image, by stage, of the first seed's model.
    """

    images: int = 0
    runs: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def shown(self, key: str, digits: int = 1, scale: float = 1.0) -> str:
        """The mean over the seeds, and their deviation where there are several."""
        values = [scale * run[key] for run in self.runs]
        mean = f"{statistics.fmean(values):.{digits}f}"
        return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def seconds_of(detector: Detector, image: torch.Tensor) -> dict[str, float]:
    """The seconds by stage of one image; proposals are searched for where the model needs them given."""
    network: Any = detector.network
    boxes, began = None, time.perf_counter()
    if network.needs_proposals:
        boxes = [selective_search(image, network.settings.search)]
    searched = time.perf_counter()
    with Stopwatch(detector.inference_network) as watch:
        detector.predict([image], min_score=0.01, proposals=boxes)
    whole = time.perf_counter() - began
    proposals = searched - began + watch.seconds.get("rpn", 0.0)
    backbone = sum(watch.seconds.get(part, 0.0) for part in ("backbone", "neck"))
    return {"proposals": proposals, "backbone": backbone, "heads": whole - proposals - backbone}


def settings_of(name: str, options: argparse.Namespace) -> tuple[str, list[str]]:
    """The model that a row of the table is, and the settings that make it so."""
    settings = [f"train.workers={options.workers}"]
    if name.startswith("faster_rcnn"):
        return "faster_rcnn", [*settings, f"model.scheme={name.rpartition('_')[2]}"]
    if name in ("rcnn", "fast_rcnn") and options.proposals is not None:
        settings.append(f"model.search.count={options.proposals}")
    if name == "rcnn":
        # A look at an image takes it seconds: one evaluation of ten images, at the end of the fine-tuning.
        settings += ["train.eval_every=1.0", "train.eval_images=10"]
        settings += [] if options.svm_images is None else [f"model.svm.images={options.svm_images}"]
    return name, settings


def refuse_others(name: str, seed: int, val: Dataset, options: argparse.Namespace) -> None:
    """Stop where a folder of this name was made with other options, instead of telling of them as these."""
    folder: Path = options.out / f"{name}-seed{seed}"
    file, facts = folder.with_suffix(".json"), described(name, val, options)
    if folder.is_dir() and (not file.is_file() or file.read_text(encoding="utf-8") != facts):
        raise SystemExit(f"{folder}: not made with {facts}; choose another --out")


def described(name: str, val: Dataset, options: argparse.Namespace) -> str:
    """What a run must have been made with to be taken as it is, as JSON."""
    settings = [text for text in settings_of(name, options)[1] if "workers" not in text]
    facts = {
        "minutes": options.minutes, "backbone": options.backbone, "settings": settings,
        "test images": len(val), "data": str(options.data), "val": str(options.val),
    }  # fmt: skip
    return json.dumps(facts)


def trained(name: str, seed: int, data: Dataset, val: Dataset, options: argparse.Namespace) -> Path:
    """The folder of a finished run: found, resumed or made."""
    folder: Path = options.out / f"{name}-seed{seed}"
    write_atomically(folder.with_suffix(".json"), described(name, val, options).encode())
    if (folder / "report.html").is_file():
        return folder
    console = Console(quiet=True)
    if (folder / "run.json").is_file():
        return train(data, val=val, resume=folder, console=console)
    model, settings = settings_of(name, options)
    return train(
        data, val=val, model=model, backbone=options.backbone, minutes=options.minutes, seed=seed, out=folder,
        settings=settings, console=console,
    )  # fmt: skip


def measured(folder: Path, val: Dataset) -> dict[str, float]:
    """Accuracy, training time and recall of a finished run; kept in its folder."""
    file = folder / "timeline.json"
    if not file.is_file():
        detector = load(folder)
        network: Any = detector.network
        if network.needs_proposals:
            proposed = with_proposals(val, cache=default_cache(), settings=network.settings.search)
        else:
            boxes = rpn_proposals(detector, val, network.settings.rpn.post_nms[1])
            proposed = with_proposals(val, boxes)
        recall = proposal_recall([record.truth for record in proposed.records])
        metrics = detector.info["metrics"]
        values = {
            "voc07/mAP": metrics["voc07/mAP"], "box/AP": metrics["box/AP"], "box/AP50": metrics["box/AP50"],
            "training": detector.info["training_seconds"], "proposals": recall.per_image,
            "recall50": recall.at_50[-1], "recall70": recall.at_70[-1],
            "recall50 of 300": recall.at_50[recall.counts.index(300)],
            "recall70 of 300": recall.at_70[recall.counts.index(300)],
        }  # fmt: skip
        write_atomically(file, json.dumps(values).encode())
    kept: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return kept


def timed(folders: dict[str, Path], val: Dataset, count: int) -> dict[str, dict[str, float]]:
    """Median seconds per image by stage of each model; the models take turns, the first image warms up."""
    detectors = {name: load(folder) for name, folder in folders.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in detectors}
    chosen = val.evenly_spaced(count)
    for place, index in enumerate([chosen[0], *chosen]):
        image = val[index].image
        for name, detector in detectors.items():
            seconds = seconds_of(detector, image)
            if place:
                found[name].append(seconds)
    return {
        name: {stage: statistics.median(seconds[stage] for seconds in each) for stage in STAGES}
        for name, each in found.items()
    }


def table(rows: dict[str, Row], options: argparse.Namespace) -> str:
    """The rows as Markdown."""
    head = (
        "model", "VOC07 mAP", "box AP", "training, min", "s an image", "proposals", "backbone", "heads",
        "boxes an image", "recall at 0.5", "at 0.7", "test images",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        cells = [row.shown("voc07/mAP", scale=100), row.shown("box/AP", scale=100)]
        cells += [row.shown("training", scale=1 / 60), f"{sum(row.seconds.values()):.3g}"]
        cells += [f"{row.seconds[stage]:.3g}" for stage in STAGES] + [row.shown("proposals", 0)]
        cells += [row.shown("recall50", scale=100), row.shown("recall70", scale=100), str(row.images)]
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, options.seeds))
    about = (
        f"{options.minutes:g} minutes each, seeds {seeds}, backbone {options.backbone}; "
        f"mAP, AP and recall in %, "
        f"mean ± deviation over the seeds; seconds are medians of {options.images} images on {machine()}."
    )
    return "\n".join([*lines, "", about, ""])


def ratios(rows: dict[str, Row]) -> list[str]:
    """How much quicker each step made what it was about."""
    found = []
    if "rcnn" in rows and "fast_rcnn" in rows:
        slow, quick = (sum(rows[n].seconds[s] for s in ("backbone", "heads")) for n in ("rcnn", "fast_rcnn"))
        found.append(f"Without its proposals Fast R-CNN takes {slow / quick:.1f} times less than R-CNN.")
    search = rows.get("fast_rcnn") or rows.get("rcnn")
    learnt = rows.get("faster_rcnn_alternating") or rows.get("faster_rcnn_joint")
    if search and learnt:
        ratio = search.seconds["proposals"] / learnt.seconds["proposals"]
        found.append(f"Faster R-CNN's proposals take {ratio:.1f} times less than selective search.")
    return found


def machine() -> str:
    """What it ran on."""
    return f"{torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}"


def picture(rows: dict[str, Row]) -> Figure:
    """Accuracy on the left, seconds per image by stage on the right."""
    figure = Figure(figsize=(11, 0.9 + 0.75 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))
    for shift, (key, label) in enumerate((("voc07/mAP", "VOC07 mAP"), ("box/AP", "box AP"))):
        means = [100 * statistics.fmean(run[key] for run in row.runs) for row in rows.values()]
        left.barh(places - 0.2 + 0.4 * shift, means, 0.38, label=label, alpha=0.75)
        for place, row in zip(places, rows.values(), strict=True):
            values = [100 * run[key] for run in row.runs]
            left.plot(values, [place - 0.2 + 0.4 * shift] * len(values), "k|", markersize=9)
    for shift, stage in enumerate(STAGES):
        values = [row.seconds[stage] for row in rows.values()]
        right.barh(places - 0.27 + 0.27 * shift, values, 0.25, label=stage, alpha=0.75)
    left.set_yticks(places, [NAMES[name] for name in rows])
    left.invert_yaxis()
    left.set_xlabel("%, a mark for each seed")
    right.set_xscale("log")
    right.set_xlabel("seconds per image")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    return figure


def write(rows: dict[str, Row], failed: Sequence[str], options: argparse.Namespace) -> None:
    """The three files."""
    notes = [*ratios(rows), *(f"Left out: {what}" for what in failed)]
    text = table(rows, options) + "".join(f"\n{note}\n" for note in notes)
    content = {
        "machine": machine(), "failed": list(failed), "models": {n: vars(row) for n, row in rows.items()},
        "options": {key: str(value) for key, value in vars(options).items()},
    }  # fmt: skip
    write_atomically(options.out / "timeline.md", text.encode())
    write_atomically(options.out / "timeline.json", json.dumps(content, indent=1).encode())
    picture(rows).savefig(options.out / "timeline.png", dpi=150)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument(
        "--models", nargs="+", choices=list(NAMES), help="by default all that the data allows"
    )
    parser.add_argument(
        "--proposals", type=int, help="of a search at most; by default as `rcnn train` chooses"
    )
    parser.add_argument("--svm-images", type=int, help="training images that R-CNN's SVMs look at; all")
    parser.add_argument("--rcnn-images", type=int, help="validation images that R-CNN is measured on; all")
    parser.add_argument("--images", type=int, default=10, help="validation images that are timed")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, write."""
    options = parsed(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    data, val = open_data(options.data), open_data(options.val)
    names = options.models or [name for name in NAMES if data.has_masks or name != "mask_rcnn"]
    rows: dict[str, Row] = {}
    failed: list[str] = []
    folders: dict[str, Path] = {}

    def say(text: str) -> None:
        print(text, flush=True)
        append_line(options.out / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    few = options.rcnn_images
    parts = {n: val if n != "rcnn" or few is None else val.subset(val.evenly_spaced(few)) for n in names}
    for seed in options.seeds:
        for name in names:
            refuse_others(name, seed, parts[name], options)
    for seed in options.seeds:
        for name in names:
            own = parts[name]
            say(f"{name}, seed {seed}")
            try:
                folder = trained(name, seed, data, own, options)
                result = measured(folder, own)
            except Exception as error:
                failed.append(f"{name}, seed {seed}: {error}")
                say(f"failed: {failed[-1]}\n{traceback.format_exc()}")
                continue
            say(", ".join(f"{key} {value:.4g}" for key, value in result.items()))
            folders.setdefault(name, folder)
            row = rows.setdefault(name, Row(len(own)))
            row.runs.append(result)
    say("timing")
    for name, seconds in timed(folders, val, options.images).items():
        rows[name].seconds = seconds
        if name in ("rcnn", "fast_rcnn"):
            for run in rows[name].runs:
                run["training"] += seconds["proposals"] * len(data)
    ordered = {name: rows[name] for name in names if name in rows}
    write(ordered, failed, options)
    say(table(ordered, options))


if __name__ == "__main__":
    main()
