"""Accuracy after the same time against torchvision's detector on the same backbone, in one run.

    python -m benchmarks.accuracy D/cbc/Training --val D/cbc/Testing --minutes 20
    python -m benchmarks.accuracy … --together     # both at the same time, each on half of the cores
    python -m benchmarks.accuracy D/nuclei/train --val D/nuclei/val --minutes 2 --peer-minutes 20 --crop 256

Ours is `rcnn train` without a recipe. The peer is torchvision's Faster R-CNN (Mask R-CNN where there are
masks) with its default heads on a 128-channel pyramid, whole images at their own scale, flips, AdamW 6e-4
with a cosine over the time. Both are measured by the same code on the validation part.

`--peer-minutes` gives the peer more time: where it is still behind, ours was sooner by more than the ratio.
`--light` gives it lighter heads: 512 in its box head, two mask convolutions of 96, 64 regions an image, its
backbone in channels_last. The peer's time is that of its steps alone; ours has the reading of images in it.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.peers import keep_scale, lighten, torchvision_detector, torchvision_inputs
from rcnn import load, open_data, train
from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset
from rcnn.data.loader import training_batches
from rcnn.evaluation.evaluator import evaluate
from rcnn.inference.benchmark import machine
from rcnn.metrics.metric import Evaluation
from rcnn.ops.masks import paste_masks
from rcnn.structures import Instances
from rcnn.training.run_folder import read_history
from rcnn.transform import Transform

SIDES = ("rcnn", "torchvision")


class Peer:
    """A torchvision detector with the ``predict`` that :func:`rcnn.evaluate` asks for."""

    def __init__(self, network: nn.Module, class_names: tuple[str, ...]) -> None:
        self.network, self.class_names = network, class_names

    @torch.inference_mode()
    def predict(self, images: list[Tensor], *, min_score: float, max_detections: int) -> list[Instances]:
        """The objects of uint8 images; masks pasted by us, from torchvision's maps."""
        self.network.eval()
        self.network.roi_heads.detections_per_img = max_detections
        self.network.roi_heads.score_thresh = min_score
        results = []
        for image in images:
            # Masks are pasted as sparse windows: torchvision's own full bitmaps would take gigabytes.
            maps: list[Tensor] = []
            if self.network.roi_heads.has_mask():
                self.network.transform.postprocess = _keep_maps(self.network.transform, maps)
            (found,) = self.network([image.float() / 255])
            size = (int(image.shape[1]), int(image.shape[2]))
            masks = paste_masks(maps[0], found["boxes"], size) if maps else None
            results.append(
                Instances(
                    size,
                    found["boxes"],
                    found["labels"] - 1,
                    found["scores"],
                    masks,
                    class_names=self.class_names,
                )
            )
        return results


def _keep_maps(transform, maps):  # type: ignore[no-untyped-def]
    original = type(transform).postprocess

    def postprocess(result, image_shapes, original_sizes):  # type: ignore[no-untyped-def]
        maps[:] = [entry.pop("masks")[:, 0] for entry in result]
        return original(transform, result, image_shapes, original_sizes)

    return postprocess


def train_peer(
    data: Dataset, val: Dataset, minutes: float, seed: int, *, crop: int | None = None, light: bool = False
) -> tuple[Evaluation, int]:
    """Train torchvision's detector for some minutes; its evaluation and the images it saw."""
    torch.manual_seed(seed)
    sides = torch.cat([r.truth.boxes[:, 2:] - r.truth.boxes[:, :2] for r in data.records])
    finest = 8 if sides.median() < 32 else 16
    network = torchvision_detector(
        len(data.class_names), masks=data.has_masks, sizes=[finest * 2**i for i in range(5)], short_side=256
    )
    if light:
        lighten(network, len(data.class_names))
    keep_scale(network)
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=6e-4)
    largest = max(max(r.truth.size) for r in data.records)
    flips = Augment(
        crop=crop or largest, scale_jitter=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue=0
    )
    seconds, step = 0.0, 0
    for batch in training_batches(data, flips, Transform(), batch_size=4, seed=seed, workers=1):
        began = time.perf_counter()
        share = seconds / (60 * minutes)
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.zero_grad()
        sum(
            network(*torchvision_inputs([s.image for s in batch], [s.truth for s in batch])).values()
        ).backward()
        optimizer.step()
        step += 1
        seconds += time.perf_counter() - began
        if seconds >= 60 * minutes:
            break
    return evaluate(Peer(network, data.class_names), val)[0], 4 * step


def measure(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one side in this process."""
    data, val = open_data(options.data), open_data(options.val)
    if side == "torchvision":
        minutes = options.peer_minutes or options.minutes
        result, images = train_peer(data, val, minutes, options.seed, crop=options.crop, light=options.light)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                options.data, val=options.val, minutes=options.minutes, seed=options.seed,
                out=options.out or Path(folder) / "run", console=Console(quiet=True),
            )  # fmt: skip
            steps = read_history(run)[-1]["iteration"]
            result, images = evaluate(load(run), val)[0], 4 * steps
    shown = {k: v for k, v in result.metrics.items() if k.split("/")[1] in ("AP", "AP50", "AP75", "mAP")}
    return {"images": images, "seconds": result.seconds["predicting"], **shown}


def main() -> None:
    """Train both, each in a process of its own, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--peer-minutes", type=float, help="of the peer, where they differ")
    parser.add_argument("--crop", type=int, help="the peer trains on crops of so many pixels")
    parser.add_argument("--light", action="store_true", help="the peer has lighter heads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="at the same time, each on half of the cores")
    parser.add_argument("--out", type=Path, help="keep the run of rcnn in this folder")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options)))
        return
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    running = {}
    for side, own in zip(SIDES, (cores[:half], cores[half:]), strict=True):
        if options.together:
            os.sched_setaffinity(0, own)  # what is started next inherits it
        command = [sys.executable, "-m", "benchmarks.accuracy", *sys.argv[1:], "--side", side]
        running[side] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if not options.together:
            running[side].wait()
    how = f"at the same time on {half} cores each" if options.together else "one after the other"
    minutes = f"{options.minutes:g} and {options.peer_minutes or options.minutes:g} minutes"
    print(f"{machine()}; {minutes}, {how}, seed {options.seed}")
    for side, process in running.items():
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{side} failed")
        found = json.loads(out)
        metrics = ", ".join(f"{k} {v:.4f}" for k, v in found.items() if "/" in k)
        print(f"{side:12} {found['images']} images, {metrics}, predicting {found['seconds']:.2f} s an image")


if __name__ == "__main__":
    main()
