"""What `rcnn predict` does besides predicting: images/s with a detector that costs nothing.

    python -m benchmarks.predict_throughput                       # tables, then tables and overlays
    python -m benchmarks.predict_throughput --against OLD/src     # another version in turn with this one

Images are JPEGs of 1067x800 with the spectrum of photographs and 20 objects each, whose masks are blobs. A
detector that knows them beforehand leaves what the command itself does: reading, run-length codes, outlines,
drawing, encoding and writing. Each measurement is a process of its own; processor time per image is given
besides, which other work on the machine disturbs less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rcnn.inference.output_files import OutputFiles
from rcnn.inference.postprocess import paste_masks
from rcnn.inference.writers import predict_to_files
from rcnn.io.reading import Reading
from rcnn.structures import Array, Instances

SIZE = (800, 1067)
OBJECTS = 20
NAMES = tuple(f"class {i}" for i in range(80))
KINDS = ("tables", "overlays")
DISTINCT = 16  # images; further ones are copies


@dataclass(frozen=True)
class Known:
    """A detector that finds what it was given, whatever it sees.

    Attributes:
        found: what it finds, in turn.
    """

    found: list[Instances]
    class_names: tuple[str, ...] = NAMES
    category_ids: tuple[int, ...] = tuple(range(1, len(NAMES) + 1))
    semantic_names: tuple[str, ...] = ()
    skeleton: None = None
    merge: None = None
    transform: None = None
    channels: int = 3
    min_score: float = 0.5
    batch_size: int = 1
    used_precision: str = "float32"
    reading: Reading = field(default_factory=Reading)
    info: dict[str, Any] = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)

    def cap(self, _: object) -> int:
        """The most objects of an image."""
        return 100

    def batch_key(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Images of one size can share a batch."""
        return size

    def predict(self, images: Any, **_: Any) -> list[Instances]:
        """What it knows, one per image."""
        given = images if isinstance(images, list) else [images]
        results = []
        for _ in given:
            results.append(self.found[len(self.calls) % len(self.found)])
            self.calls.append(1)
        return results


def photograph(seed: int) -> Array:
    """uint8 ``[800, 1067, 3]``: noise whose amplitude falls with its frequency, as a photograph's does."""
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIZE[0])[:, None], np.fft.rfftfreq(SIZE[1]))
    spectrum = np.fft.rfft2(draw.normal(size=(4, *SIZE))) / np.maximum(frequency, 1 / SIZE[1]) ** 1.2
    values = np.fft.irfft2(spectrum, s=SIZE)
    values = (values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True)
    colours = values[:1] * 55 + values[1:] * 15 + 120  # the channels differ little
    pixels: Array = np.rint(colours.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def objects(seed: int, count: int = OBJECTS, size: tuple[int, int] = SIZE) -> Instances:
    """Blobs of 30 to 400 pixels, as a mask head with maps of 28x28 gives them."""
    draw = np.random.default_rng(seed)
    height, width = size
    sides = np.exp(draw.uniform(np.log(30), np.log(min(400, height - 1)), (count, 2)))
    corners = draw.uniform(0, 1, (count, 2)) * (np.array([width, height]) - sides)
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    angle = np.arctan2(y, x)
    phases = draw.uniform(0, 2 * np.pi, (count, 3, 1, 1))
    radius = 0.85 + sum(0.12 * np.sin((k + 2) * angle + phases[:, k]) / (k + 1) for k in range(3))
    maps = (1 / (1 + np.exp(-12 * (radius - np.hypot(x, y))))).astype(np.float32)
    scores = np.sort(draw.uniform(0.5, 1, count))[::-1].astype(np.float32)
    labels = draw.integers(0, len(NAMES), count)
    return Instances(size, boxes, labels, scores, paste_masks(maps, boxes, size), class_names=NAMES)


def make_images(folder: Path, count: int) -> None:
    """So many JPEGs."""
    folder.mkdir(parents=True)
    for i in range(count):
        path = folder / f"{i:05}.jpg"
        if i < DISTINCT:
            Image.fromarray(photograph(i)).save(path, quality=90)
        else:
            path.write_bytes((folder / f"{i % DISTINCT:05}.jpg").read_bytes())


def measure(kind: str, folder: Path) -> str:
    """Images/s, and milliseconds of processor time per image."""
    detector: Any = Known([objects(i) for i in range(DISTINCT)])
    files = OutputFiles(overlays=kind == "overlays")
    with tempfile.TemporaryDirectory() as out:
        predict_to_files(detector, [folder / "00000.jpg"], f"{out}/first", files=files)
        used, began = sum(os.times()[:2]), time.perf_counter()
        summary = predict_to_files(detector, [folder], f"{out}/found", files=files)
        seconds, used = time.perf_counter() - began, sum(os.times()[:2]) - used
    if summary.failed:
        raise ValueError(f"{len(summary.failed)} images failed, for example {summary.failed[0]}")
    return f"{summary.images / seconds} {1000 * used / summary.images}"


def main() -> None:
    """Measure each kind in turn, and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--against", type=Path, metavar="SRC", help="the sources of another version")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(options.one[0], Path(options.one[1])))
        return
    versions = {"this": ""} if options.against is None else {"other": str(options.against), "this": ""}
    found: dict[tuple[str, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        make_images(folder, options.count)
        for _ in range(options.rounds):
            for kind in options.kinds.split(","):
                for version, sources in versions.items():
                    environment = dict(os.environ, **({"PYTHONPATH": sources} if sources else {}))
                    command = [
                        sys.executable,
                        "-m",
                        "benchmarks.predict_throughput",
                        "--one",
                        kind,
                        str(folder),
                    ]
                    done = subprocess.run(
                        command, capture_output=True, text=True, check=True, env=environment
                    )
                    figures = [float(word) for word in done.stdout.split()[-2:]]
                    found.setdefault((kind, version), []).append(figures)
                    print(f"{kind}, {version}: {figures[0]:.1f} images/s, {figures[1]:.1f} ms", flush=True)
    for (kind, version), rounds in found.items():
        speed, used = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{kind:9} {version:6} {speed:6.1f} images/s, {used:6.1f} ms of processor time per image")


if __name__ == "__main__":
    main()
