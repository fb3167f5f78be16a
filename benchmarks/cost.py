"""How the cost of a prediction grows: with objects, pixels, classes, images at once, threads.

    python -m benchmarks.cost --out docs/speed            # writes docs/speed.json and docs/speed.png
    python -m benchmarks.cost --out small --quick    # the three cheapest points of each curve

The model is that of ``rcnn train`` without a recipe, its heads with random, lively weights. Every point is
measured in a process of its own, so that its peak of memory is its own: seconds are the median of five
rounds after one that warms up, of two for 100 megapixels. All curves take about 20 minutes on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import picture
from benchmarks.prediction import light_detector
from rcnn.device import keep_freed_memory
from rcnn.inference.benchmark import machine, peak_memory

CURVES: dict[str, tuple[float, ...]] = {
    "objects": (1, 10, 100, 300, 1000, 2000),
    "megapixels": (0.1, 0.3, 1, 3, 10, 30, 100),
    "classes": (1, 10, 100, 400, 1200),
    "images at once": (1, 2, 4, 8, 16),
    "threads": (1, 2, 4, 8, 16),
}
# What a point has where its curve does not change it.
USUAL: dict[str, float] = {"objects": 100, "megapixels": 0.6, "classes": 1, "images at once": 1}
ROUNDS = 5
LONG = 50  # megapixels from which on there are two


def measure(point: dict[str, float]) -> dict[str, float | None]:
    """Seconds of an image, bytes above the model, and the objects found, at one point."""
    if "threads" in point:
        torch.set_num_threads(int(point["threads"]))
    at = USUAL | point
    side = round((at["megapixels"] * 1e6) ** 0.5)
    # Larger pictures repeat, as a plate of cells does.
    patch = (255 * picture((min(side, 1024),) * 2)).to(torch.uint8)
    repeats = -(-side // patch.shape[1])
    image = patch.repeat(1, repeats, repeats)[:, :side, :side]
    detector = light_detector(picture((640, 640)), int(at["classes"]))
    images = [image] * int(at["images at once"])
    found: list[Any] = []

    def run() -> None:
        found[:] = detector.predict(
            images,
            min_score=0.0 if "objects" in point else 0.05,
            max_detections=int(at["objects"]),
            batch_size=len(images),
        )

    peak = peak_memory(run)
    seconds = []
    for _ in range(2 if at["megapixels"] >= LONG else ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append((time.perf_counter() - began) / len(images))
    return {"seconds": statistics.median(seconds), "peak": peak, "objects found": len(found[0])}


def main() -> None:
    """Measure every curve, write the figures and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="stem of the files to write")
    parser.add_argument("--curves", nargs="*", choices=CURVES, default=list(CURVES))
    parser.add_argument("--quick", action="store_true", help="the first three points of each curve")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(measure(options.point)))
        return
    if options.out is None:
        parser.error("--out is needed")
    curves: dict[str, list[dict[str, float | None]]] = {}
    for name in options.curves:
        values = [v for v in CURVES[name] if name != "threads" or v <= torch.get_num_threads()]
        curves[name] = [_in_process(name, value) for value in values[: 3 if options.quick else None]]
    result = {"machine": machine(), "curves": curves}
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, options.out.with_suffix(".png"))


def _in_process(name: str, value: float) -> dict[str, float | None]:
    command = [sys.executable, "-m", "benchmarks.cost", "--point", json.dumps({name: value})]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    point: dict[str, float | None] = {name: value, **json.loads(printed.splitlines()[-1])}
    print(point, flush=True)
    return point


def draw(result: dict[str, Any], path: Path) -> None:
    """A column for each curve: seconds above, memory below, both axes logarithmic, a line of slope one."""
    from matplotlib.figure import Figure

    curves: dict[str, Sequence[dict[str, float]]] = result["curves"]
    figure = Figure(figsize=(3 * len(curves), 5.5), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, (name, points) in enumerate(curves.items()):
        x = [p[name] for p in points]
        for row, (what, unit) in enumerate((("seconds", 1.0), ("peak", 2.0**20))):
            y = [(p[what] or 0) / unit for p in points]
            axis = axes[row, column]
            axis.loglog(x, y, "o-")
            axis.loglog(x, [y[-1] * v / x[-1] for v in x], ":", color="gray", linewidth=1)
            axis.set_xlabel(name)
            axis.set_ylim(min(y) / 2, max(y) * 2)
        axes[0, column].set_title(name)
    axes[0, 0].set_ylabel("seconds per image")
    axes[1, 0].set_ylabel("MB above the model")
    figure.suptitle(result["machine"], fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    keep_freed_memory()
    main()
