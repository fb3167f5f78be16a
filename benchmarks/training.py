"""Training throughput against torchvision: the same backbone, the same crops, the same truth, in one run.

    python -m benchmarks.training D/nuclei/train
    python -m benchmarks.training D/nuclei/train --memory   # peak memory, each in a process of its own

Both train on identical batches of four 256x256 crops with AdamW; rounds alternate, medians of the rounds
are printed. Ours is the recipe that `rcnn train` chooses for the data; torchvision's MaskRCNN (FasterRCNN
for boxes) comes with its default heads on a 128-channel pyramid.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.peers import print_peak, print_peaks, torchvision_detector, torchvision_inputs
from rcnn import open_data
from rcnn.data.geometry import TrainingSample
from rcnn.data.loader import training_batches
from rcnn.device import fast_bfloat16, keep_freed_memory
from rcnn.models import MODELS
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.training.defaults import plan
from rcnn.training.trainer import Trainer

STEPS = 4  # of a round


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--amp", choices=("auto", "off"), default="auto")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=("rcnn", "torchvision"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        arguments = [str(options.data), "--crop", str(options.crop), "--amp", options.amp]
        print_peaks("benchmarks.training", arguments)
        return
    torch.manual_seed(0)
    data = open_data(options.data)
    recipe, _ = plan(data, epochs=1)
    recipe = replace(
        recipe,
        augment=replace(recipe.augment, crop=options.crop),
        train=replace(recipe.train, amp=options.amp),
    )
    source = training_batches(data, recipe.augment, recipe.transform, batch_size=4, seed=0)
    batches = [next(source) for _ in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Callable[[list[TrainingSample]], object]] = {}
        if options.side != "torchvision":
            steps["rcnn"] = _ours(data, recipe, Path(folder)).step
        if options.side != "rcnn":
            steps["torchvision"] = _theirs(len(data.class_names), data.has_masks, options.crop)
        if options.side:
            print_peak(options.side, lambda: [steps[options.side](batch) for batch in batches])
            return
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for round_number in range(options.rounds + 1):
            for name, step in steps.items():
                began = time.perf_counter()
                for batch in batches:
                    step(batch)
                if round_number:  # the first warms up
                    seconds[name].append(time.perf_counter() - began)
    _print(seconds, sum(map(len, batches)), options.amp)


def _ours(data, recipe, folder):  # type: ignore[no-untyped-def]
    network = MODELS[recipe.model](len(data.class_names), recipe.settings)
    load_backbone_weights(network.backbone, recipe.settings.backbone)
    network.train()
    return Trainer(
        network,
        recipe,
        data,
        folder,
        evaluate=lambda full: {"score": 0.0},
        describe={},
    )


def _theirs(num_classes: int, masks: bool, crop: int):  # type: ignore[no-untyped-def]
    network = torchvision_detector(
        num_classes, masks=masks, sizes=(16, 32, 64, 128, 256), short_side=crop
    ).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=6e-4)

    def step(samples: list[TrainingSample]) -> None:
        images, targets = torchvision_inputs([s.image for s in samples], [s.targets for s in samples])
        optimizer.zero_grad()
        sum(network(images, targets).values()).backward()
        optimizer.step()

    return step


def _print(seconds: dict[str, list[float]], images: int, amp: str) -> None:
    cpu = torch.device("cpu")
    precision = "bfloat16 where it pays" if amp == "auto" and fast_bfloat16(cpu) else "float32"
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {capability}, torch {torch.__version__}")
    print(f"ours in {precision}; images/s, median of {len(seconds['rcnn'])} rounds, lowest to highest")
    for name, rounds in seconds.items():
        rates = [images / s for s in rounds]
        print(f"{name:12} {statistics.median(rates):6.2f}  ({min(rates):.2f} to {max(rates):.2f})")
    ratios = [b / a for a, b in zip(seconds["rcnn"], seconds["torchvision"], strict=True)]
    print(f"{'ratio':12} {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    keep_freed_memory()
    main()
