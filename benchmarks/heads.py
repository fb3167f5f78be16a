"""What lighter heads are worth: AP after the same time of training, head by head.

    python -m benchmarks.heads D/nuclei/train --val D/nuclei/val --minutes 2 --out runs/heads

Each variant is ``rcnn train`` without a recipe but for the heads that it names, the papers'; all begin
with the same pretrained backbone, seed and order of images, and are measured on the same validation images.
Run it on an idle machine: the minutes are those of the clock.
"""

import argparse
import json
from pathlib import Path

from rcnn import open_data, train
from rcnn.data.dataset import Dataset
from rcnn.inference.benchmark import machine
from rcnn.training.run_folder import read_history

PYRAMID = ("model.fpn.channels=256", "model.rpn.channels=256")
BOX = ("model.box.channels=1024", "model.box.sampling.count=512", "model.box.sampling.positive_fraction=0.25")
MASK = ("model.mask.convs=4", "model.mask.channels=256", "model.mask.pool.sampling_ratio=2")
REGIONS = ("model.mask.max_regions=128",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "light, as chosen": (),
    "the papers' pyramid and RPN": PYRAMID,
    "the papers' box head": BOX,
    "the papers' mask head, on 16 regions": MASK,
    "light mask head, on 128 regions": REGIONS,
    "all of the papers'": (*PYRAMID, *BOX, *MASK, *REGIONS),
    "lighter masks: 1 x 64": ("model.mask.convs=1", "model.mask.channels=64"),
}


def measure(name: str, data: Path, val: Dataset, minutes: float, seed: int, out: Path) -> dict[str, float]:
    """Train one variant; its steps, AP, and seconds a prediction takes, as the run itself measured them."""
    folder = train(
        data, val=val, minutes=minutes, seed=seed, out=out, settings=[*VARIANTS[name], "train.eval_every=1.0"]
    )
    measured = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    shown = {key: measured["metrics"][key] for key in ("mask/AP", "mask/AP50", "box/AP")}
    steps = read_history(folder)[-1]["iteration"]
    return {"steps": steps, **shown, "seconds an image": measured["seconds"]["predicting"]}


def main() -> None:
    """Measure every variant, one after the other; print a row of the table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--images", type=int, default=40, help="validation images, spread over the part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    whole = open_data(options.val)
    val = whole.subset(whole.evenly_spaced(options.images))
    print(machine())
    for name in options.variants:
        folder = options.out / f"{list(VARIANTS).index(name)}"
        print(
            json.dumps({name: measure(name, options.data, val, options.minutes, options.seed, folder)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
