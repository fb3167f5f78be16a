"""Whether choosing the images to annotate next is better than taking them at random.

    python -m benchmarks.next_images D/nuclei --out runs/next --iterations 200 --seeds 0 1 2

From ten random images of D/nuclei/train, five rounds of ten more are added: at random, or chosen by
:func:`rcnn.next_images` with the model of the round before. Each model is trained from ImageNet weights, as
`rcnn train` plans it, for about the same number of iterations (a part of the images is held
out); the first one is shared. Mask AP is measured on
images of D/nuclei/val, which no training saw, against the images annotated and the objects in them.
Everything goes into OUT/next.json after each model, and a second call continues there.

`--look-at N` chooses among N random images of those that are left, and `--val-images N` measures on N images
spread over the validation set: both make the benchmark shorter and the figures rougher.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rcnn import Detector, evaluate, load, next_images, open_data, train
from rcnn.data.dataset import Dataset
from rcnn.io.atomic import write_atomically

WAYS = ("random", "chosen")
METRIC = "mask/AP"
BATCH = 4  # images of a training step, as planned
Round = dict[str, Any]


def trained(data: Dataset, out: Path, options: argparse.Namespace, seed: int) -> Detector:
    """A model trained on ``data``, or the one that is in ``out`` already.

    The number of iterations is the same for any number of images, of which some are held out.
    """
    if not (out / "report.html").exists():
        shutil.rmtree(out, ignore_errors=True)  # what a killed training left
        settings = [f"train.batch_size={BATCH}", "train.eval_every=0.5"]
        epochs = options.iterations * BATCH / len(data)
        train(data, out=out, seed=seed, epochs=epochs, settings=settings, workers=0)
    detector = load(out)
    assert isinstance(detector, Detector)
    return detector


def measured(detector: Detector, data: Dataset, val: Dataset, annotated: Sequence[int]) -> Round:
    """What is stored of a round."""
    ap = 100 * float(evaluate(detector.for_measuring(), val)[0].metrics[METRIC])
    objects = sum(len(data.records[index].truth) for index in annotated)
    return {"annotated": list(annotated), "images": len(annotated), "objects": objects, "AP": ap}


def chosen(
    detector: Detector, data: Dataset, annotated: Sequence[int], left: Sequence[int], count: int
) -> list[int]:
    """The images that :func:`rcnn.next_images` chooses among those that are ``left``."""
    index_of = {data.records[index].path.resolve(): index for index in left}
    found = next_images(
        detector, list(index_of), count, annotated=[data.records[index].path for index in annotated]
    )
    return [index_of[image.path.resolve()] for image in found.chosen]


def one_round(options: argparse.Namespace, way: str, seed: int, rounds: Sequence[Round]) -> Round:
    """The round that follows ``rounds``: images added, a model trained and measured."""
    data, val = open_data(options.data / "train"), open_data(options.data / "val")
    if options.val_images:
        val = val.subset(val.evenly_spaced(options.val_images))
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    number = len(rounds)
    annotated = rounds[-1]["annotated"] if rounds else []
    left = [index for index in order if index not in set(annotated)]
    if way == "random" or not rounds:
        annotated = annotated + left[: options.images]
    else:
        # A generator of this round's own: a second call must look at the same images.
        some = np.random.default_rng([seed, number]).permutation(left)[: options.look_at].tolist()
        detector = trained(data.subset(annotated), folder_of(options, way, seed, number - 1), options, seed)
        annotated = annotated + chosen(detector, data, annotated, some, options.images)
    detector = trained(data.subset(annotated), folder_of(options, way, seed, number), options, seed)
    return measured(detector, data, val, annotated)


def folder_of(options: argparse.Namespace, way: str, seed: int, number: int) -> Path:
    """The run folder of a round; both ways share the first."""
    folder: Path = options.out / f"seed{seed}" / (f"{way}{number}" if number else "first")
    return folder


def table(rows: Mapping[str, Mapping[str, Sequence[Round]]]) -> str:
    """Mean AP over the seeds with the range, and mean objects annotated, as Markdown."""
    lines = [
        "| images | random | chosen | objects, random | objects, chosen | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for number in range(max((len(way) for ways in rows.values() for way in ways.values()), default=0)):
        both = [ways for ways in rows.values() if all(len(ways.get(way, ())) > number for way in WAYS)]
        if not both:
            break
        cells = [str(both[0]["random"][number]["images"])]
        for way in WAYS:
            values = [ways[way][number]["AP"] for ways in both]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
        cells += [f"{np.mean([ways[way][number]['objects'] for ways in both]):.0f}" for way in WAYS]
        lines.append(f"| {' | '.join([*cells, str(len(both))])} |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=200, help="steps of each training")
    parser.add_argument("--images", type=int, default=10, help="images of the start, and of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--look-at", type=int, metavar="N", help="choose among N random images")
    parser.add_argument("--val-images", type=int, metavar="N", help="measure on N images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    file = options.out / "next.json"
    rows: dict[str, dict[str, list[Round]]] = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    )
    for seed in options.seeds:
        ways = rows.setdefault(str(seed), {way: [] for way in WAYS})
        for number in range(options.rounds + 1):
            for way in WAYS:
                if len(ways[way]) > number:
                    continue
                shared = number == 0 and way != WAYS[0]
                found = ways[WAYS[0]][0] if shared else one_round(options, way, seed, ways[way])
                ways[way].append(found)
                write_atomically(file, json.dumps(rows, indent=1).encode())
                print(f"seed {seed}, {way}: {found['images']} images, AP {found['AP']:.1f}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
