"""What keeping the maps of a frozen backbone brings: images per second of CPU time, with and without it.

    python -m benchmarks.frozen_backbone D/nuclei/train --backbone resnet50
    python -m benchmarks.frozen_backbone D/nuclei/train --recipe mask_rcnn_r50_fpn_1x --crop 256

Three trainings of the same network on the same few images, a step after the other in one process, batches
included: everything trains; the backbone is frozen; its maps are kept as well (``--cache-gb``), and the steps
that read all of them are measured. Times are CPU time of one thread, so that other work on the machine
matters little. Weights are random: they change no time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from rcnn import open_data
from rcnn.config import override_tables, parse_assignments
from rcnn.data.dataset import Dataset
from rcnn.models import build_model
from rcnn.training.callbacks import Callbacks, TrainEvent
from rcnn.training.defaults import plan
from rcnn.training.recipe import Recipe, load_recipe
from rcnn.training.trainer import Trainer

EPOCHS = 3  # the first computes the maps, the others read them
VARIANTS = ("everything trains", "backbone frozen", "its maps kept")


class Clock:
    """CPU time of each step."""

    def __init__(self) -> None:
        self.ends = [time.process_time()]

    def on_step(self, event: TrainEvent) -> None:
        """Note when the step ended."""
        self.ends.append(time.process_time())

    def seconds(self) -> list[float]:
        """The seconds of each step."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def rates(data: Dataset, recipe: Recipe, variant: str) -> list[float]:
    """Images per second of the steps after the first epoch."""
    kept, frozen = variant == VARIANTS[2], variant != VARIANTS[0]
    train = replace(recipe.train, freeze=("backbone",) if frozen else (), cache_gb=4.0 if kept else 0.0)
    recipe = replace(recipe, train=train)
    torch.manual_seed(0)
    names = data.class_names, data.semantic_names
    network = build_model(recipe.model, recipe.settings, *names, skeleton=data.skeleton)
    if frozen:
        network.backbone.freeze()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            network, recipe, data, Path(folder), evaluate=lambda full: {"score": 0.0}, describe={},
            callbacks=Callbacks([clock]), say=lambda line: None,
        )  # fmt: skip
        clock.ends = [time.process_time()]
        trainer.run()
    first = -(-len(data) // train.batch_size)
    return [train.batch_size / seconds for seconds in clock.seconds()[first:]]


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--recipe", help="a model of this recipe instead of the planned one")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data(options.data)
    data = data.subset(data.evenly_spaced(options.images))
    recipe, _ = plan(data, backbone=options.backbone, epochs=EPOCHS, workers=0)
    if options.recipe:
        given = load_recipe(options.recipe)
        recipe = replace(recipe, model=given.model, settings=given.settings)
    recipe = replace(recipe, augment=replace(recipe.augment, crop=options.crop))
    tables = {"model": recipe.settings, "train": recipe.train}
    changed = override_tables(tables, parse_assignments(options.set))
    schedule = replace(changed["train"], save_every=1e9, eval_every=2.0, clip_norm=1.0)
    recipe = replace(recipe, settings=changed["model"], train=schedule)
    print(
        f"{recipe.model}, {recipe.settings.backbone.name}, crops of {options.crop}, torch {torch.__version__}"
    )
    base: float | None = None
    for variant in VARIANTS:
        found = rates(data, recipe, variant)
        middle = statistics.median(found)
        base = base or middle
        print(
            f"{variant:18} {middle:6.2f} images/s of CPU time ({min(found):.2f} to {max(found):.2f}), "
            f"{middle / base:.2f} times"
        )


if __name__ == "__main__":
    main()
