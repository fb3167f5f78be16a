"""Peak memory of evaluating as many masks as COCO val2017 has, of a detector and of a file of results.

    python -m benchmarks.evaluation_memory [--images 5000] [--objects 7] [--detections 100] [--classes 80]
    python -m benchmarks.evaluation_memory --only detector --classes 1

writes synthetic images of 640 by 480 with annotated polygons, and evaluates, each in a process of its own: a
detector that costs nothing, whose detections have masks of 28 by 28 pasted on the image; the same detections
as a bare list of COCO's results; and as the COCO file with polygons that `rcnn predict` writes. Memory is
anonymous memory (Linux' RssAnon), sampled twenty times a second, after the imports and at its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch  # a detector needs it
from PIL import Image

from rcnn import evaluate, evaluate_results, open_data
from rcnn.data.formats.coco_text import CocoText
from rcnn.inference.postprocess import paste_masks
from rcnn.structures import Array, Instances
from rcnn.structures.coco import category_entries

SIZE = (480, 640)
SIDE = 28
CASES = ("detector", "results", "file")


def scene(number: int, objects: int, classes: int) -> tuple[Array, Array]:
    """The true boxes ``[N, 4]`` and labels ``[N]`` of an image."""
    rng = np.random.default_rng([1, number])
    corner, extent = rng.random((objects, 2)), 20 + 200 * rng.random((objects, 2)) ** 2
    low = corner * (np.array(SIZE[::-1]) - extent)
    return np.concatenate([low, low + extent], 1).astype(np.float32), rng.integers(0, classes, objects)


class Finder:
    """Finds the objects of each image several times, more or less well, and things that are not there."""

    def __init__(self, objects: int, detections: int, classes: int) -> None:
        self.objects, self.detections, self.classes = objects, detections, classes
        self.class_names = tuple(f"class {label}" for label in range(classes))
        y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        waves = np.arange(64)
        border = 11 + 2 * np.sin(angle * (2 + waves % 5)[:, None, None] + waves[:, None, None])
        self.maps = (1 / (1 + np.exp(radius - border))).astype(np.float32)
        self.number = 0

    def predict(self, images: Sequence[Path | Array], **_: Any) -> list[Instances]:
        """The objects of the next images."""
        first, self.number = self.number, self.number + len(images)
        return [self.found(number) for number in range(first, self.number)]

    def found(self, number: int) -> Instances:
        """The objects of an image."""
        rng = np.random.default_rng([2, number])
        boxes, labels = scene(number, self.objects, self.classes)
        chosen = rng.integers(0, self.objects, self.detections)
        spread = rng.random((self.detections, 1)) * (boxes[chosen, 2:] - boxes[chosen, :2]).mean(1)[:, None]
        moved = boxes[chosen] + rng.normal(0, 0.3, (self.detections, 4)) * spread
        low, high = np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])
        moved = np.concatenate([low, high + 4], 1).clip(0, [640, 480, 640, 480]).astype(np.float32)
        wrong = rng.random(self.detections) < 0.3
        own = np.where(wrong, rng.integers(0, self.classes, self.detections), labels[chosen])
        scores = np.sort(rng.random(self.detections))[::-1].astype(np.float32)
        maps = self.maps[rng.integers(0, len(self.maps), self.detections)]
        masks = paste_masks(maps, moved, SIZE)
        return Instances(SIZE, moved, own.astype(np.int64), scores, masks, class_names=self.class_names)


def write_data(folder: Path, finder: Finder, images: int) -> Path:
    """Images and their annotations, polygons of 24 corners, as a COCO file."""
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], 1) / 2
    content: dict[str, list[Any]] = {
        "images": [], "annotations": [], "categories": category_entries(finder.class_names),
    }  # fmt: skip
    for number in range(images):
        name = f"{number:06d}.jpg"
        pixels = np.full((*SIZE, 3), number % 256, np.uint8)
        pixels[: number // 256 + 1, 0] = 255
        Image.fromarray(pixels).save(folder / name)
        content["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for box, label in zip(*scene(number, finder.objects, finder.classes), strict=True):
            extent = box[2:] - box[:2]
            corners = (box[:2] + box[2:]) / 2 + circle * extent
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": number, "category_id": int(label) + 1,
                "bbox": [*map(float, box[:2]), *map(float, extent)], "iscrowd": 0,
                "area": float(extent.prod() * np.pi / 4),
                "segmentation": [[round(float(v), 2) for v in corners.reshape(-1)]],
            })  # fmt: skip
    path = folder / "truth.json"
    path.write_text(json.dumps(content))
    return path


def write_results(path: Path, finder: Finder, images: int, *, results_only: bool) -> None:
    """What the finder finds, as a file."""
    text = CocoText(category_entries(finder.class_names), results_only=results_only)
    with path.open("w") as file:
        file.write(text.start())
        for number in range(images):
            found = finder.found(number)
            file.write(text.text(number, found))
            text.note(number, f"{number:06d}.jpg", SIZE, len(found))
        file.write(text.end())


def anonymous() -> float:
    """Anonymous memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


@contextmanager
def watched() -> Iterator[list[float]]:
    """The memory while a block runs: first and peak, in MB."""
    memory = [anonymous()] * 2
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            memory[1] = max(memory[1], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def measure(case: str, folder: Path, finder: Finder, metrics: Sequence[str]) -> None:
    """Evaluate in one of the ways; print memory, time, and figures to compare."""
    torch.zeros(1)
    began = time.perf_counter()
    with watched() as memory:
        data = open_data(folder / "truth.json")
        if case == "detector":
            got, _ = evaluate(finder, data, metrics=metrics)
        else:
            got, _ = evaluate_results(folder / f"{case}.json", data, metrics=metrics)
    values = ", ".join(f"{key} {got.metrics[key]:.6f}" for key, _ in got.headline()[:4])
    print(
        f"{case}: {memory[0]:.0f} MB after the imports, at most {memory[1]:.0f} MB "
        f"({memory[1] - memory[0]:.0f} MB more); {time.perf_counter() - began:.0f} s; {values}",
        flush=True,
    )


def main() -> None:
    """Write the data and measure each case in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("images", 5000), ("objects", 7), ("detections", 100), ("classes", 80)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--metrics", default="coco", help="as of rcnn evaluate")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    finder = Finder(options.objects, options.detections, options.classes)
    if options.inside is not None:
        measure(options.only[0], options.inside, finder, options.metrics.split(","))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder, finder, options.images)
        for case in options.only:
            if case != "detector":
                write_results(folder / f"{case}.json", finder, options.images, results_only=case == "results")
            words = [sys.executable, "-m", "benchmarks.evaluation_memory", *sys.argv[1:], "--inside", place]
            subprocess.run([*words, "--only", case], check=True)
            (folder / f"{case}.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
