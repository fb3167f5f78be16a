"""A synthetic set of tiny images in shards: how fast it opens and trains, and in how much memory.

    python -m benchmarks.shards --images 1000000

The feed alone (crops as training has them, prepared by the process itself) is measured on Parquet shards, on
tar shards and on the same kind of pictures as files, in turns; images per second of the process's own time do
not depend on what else runs. A training of a few steps follows, with a worker, on all shards
and on a few images, so that the difference is what the images take.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

import rcnn
from rcnn.data.augment import Augment
from rcnn.data.formats.open import open_data
from rcnn.data.formats.parquet_shards import SHARD_ROWS, ParquetWriter
from rcnn.data.formats.webdataset_writer import WebdatasetWriter
from rcnn.data.formats.writer import DroppedContent, Item
from rcnn.data.loader import training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.data.shard_blocks import forget_blocks
from rcnn.transform import Transform

SIDE, PICTURES, BATCH = 48, 500, 8
FEW = 1_000  # images of the set to compare with
STEPS = 12
SHAPES: dict[str, Any] = {"size": (SIDE, SIDE), "objects": (1, 3), "diameter": (10.0, 20.0)}


def write(folder: Path, images: int) -> None:
    """Shards of pictures that recur; what follows the end of a PNG makes each file another one."""
    shapes = draw_shapes(PICTURES, **SHAPES)
    folder.mkdir(parents=True)
    writer = ParquetWriter(folder, shapes, DroppedContent())
    for number in range(PICTURES):
        file = folder / f"{number}.png"
        Image.fromarray(np.asarray(shapes[number].image)).save(file, compress_level=1)
        writer.write(Item(file, shapes[number].truth, (), number))
    pictures, writer.rows, writer.bytes = writer.rows, [], 0
    for first in range(0, images, SHARD_ROWS):
        for number in range(first, min(first + SHARD_ROWS, images)):
            row = pictures[number % PICTURES]
            content = row["image"] + number.to_bytes(4, "little")
            own = {"name": b"%07d.png" % number, "id": str(number), "image": content}
            writer.rows.append({**row, **own, "digest": blake2b(content, digest_size=16).hexdigest()})
            writer.bytes += len(content)
        writer.write_shard()


def write_tars(folder: Path, images: int) -> None:
    """The same as WebDataset's tar shards."""
    shapes = draw_shapes(PICTURES, **SHAPES)
    folder.mkdir(parents=True)
    writer = WebdatasetWriter(folder, shapes, DroppedContent())
    contents = []
    for number in range(PICTURES):
        file = BytesIO()
        Image.fromarray(np.asarray(shapes[number].image)).save(file, "PNG", compress_level=1)
        contents.append((shapes[number].truth, file.getvalue()))
    for number in range(images):
        truth, content = contents[number % PICTURES]
        item = Item(Path(f"{number:07d}.png"), truth, (), number)
        writer.put(item, content + number.to_bytes(4, "little"))
    writer.finish()


def feed(folder: Path, seconds: float) -> None:
    """Print how long a set takes to open, how many images per second become crops, and in what memory."""
    began = time.perf_counter()
    data = open_data(folder)
    opened = time.perf_counter() - began
    batches = training_batches(data, Augment(crop=SIDE), Transform(), batch_size=BATCH, seed=0)
    next(batches)
    began, worked, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        done += len(next(batches))
    rate, own = done / (time.perf_counter() - began), done / (time.process_time() - worked)
    with_blocks = memory(str(os.getpid()))[1]
    forget_blocks()
    pa.default_memory_pool().release_unused()
    blocks = with_blocks - memory(str(os.getpid()))[1]
    print(f"feed, {folder.name}: {len(data)} images opened in {opened:.1f} s", end=", ")
    print(f"{rate:.0f} images/s, {own:.0f} per second of its own", end=", ")
    print(f"{done} images, {blocks:.0f} of {with_blocks:.0f} MB were blocks of shards", flush=True)


class Memory(threading.Thread):
    """Watches the memory of this process and of its workers, in MB.

    Attributes:
        peaks: of each process: the largest resident memory; the largest part of it that is not of mapped
            files, such as libraries, which processes share; the largest part that no other process has.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, list[float]] = {}

    def run(self) -> None:
        """Look once a second."""
        own = os.getpid()
        while True:
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            for name, process in [("training", str(own)), *(("worker", child) for child in children)]:
                try:
                    found = memory(process)
                except (OSError, IndexError):
                    continue  # it has ended
                peaks = self.peaks.setdefault(name, [0.0] * 3)
                self.peaks[name] = list(map(max, peaks, found))
            time.sleep(1)


def memory(process: str) -> list[float]:
    """MB of a process: the peak, what it has now besides mapped files, and what it shares with none."""
    status = Path(f"/proc/{process}/status").read_text()
    resident, anonymous = (int(status.partition(f"{key}:")[2].split()[0]) for key in ("VmHWM", "RssAnon"))
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private"))
    return [value / 1024 for value in (resident, anonymous, private)]


class Stop:
    """Ends a training after some steps."""

    def __init__(self) -> None:
        self.began, self.steps = time.perf_counter(), 0

    def on_step(self, event: Any) -> None:
        """Count."""
        self.steps += 1
        if self.steps == 1:
            print(f"first step after {time.perf_counter() - self.began:.0f} s", flush=True)
        if self.steps == STEPS:
            raise KeyboardInterrupt


def train(folder: Path) -> None:
    """Print what a training of some steps takes, in a process of its own."""
    watch = Memory()
    watch.start()
    with tempfile.TemporaryDirectory() as out:
        run = Path(out, "run")
        with suppress(KeyboardInterrupt):
            rcnn.train(folder, out=run, seed=0, callbacks=[Stop()], workers=1, device="cpu")
    for name, values in watch.peaks.items():
        resident, anonymous, private = values
        print(
            f"{name}: {resident:.0f} MB resident, {anonymous:.0f} without mapped files, {private:.0f} shared "
            "with no other process",
            flush=True,
        )


def main() -> None:
    """Write the sets, and measure each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--tars", type=int, default=100_000, help="images in tar shards")
    parser.add_argument("--no-training", action="store_true", help="measure the feed alone")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often the feed from shards and from files is measured"
    )
    parser.add_argument("--folder", type=Path, help="where to write; kept, and used again if it is there")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.feed:
        feed(asked.feed, asked.seconds)
    elif asked.train:
        train(asked.train)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            compare(asked.folder or Path(temporary), asked)


def compare(place: Path, asked: argparse.Namespace) -> None:
    """Write what is not there, and measure."""
    sets = (("shards", asked.images, write), ("tars", asked.tars, write_tars), ("few", FEW, write))
    for name, count, write_set in sets:
        if not (place / name).exists():
            began = time.perf_counter()
            write_set(place / name, count)
            print(f"written: {count} images in {time.perf_counter() - began:.0f} s", flush=True)
    if not (place / "files").exists():
        draw_shapes(asked.files, **SHAPES).write(place / "files")
    own = [sys.executable, "-m", "benchmarks.shards", "--seconds", str(asked.seconds)]
    for name in ("shards", "tars", "files") * asked.rounds:
        subprocess.run([*own, "--feed", str(place / name)], check=True)
    for name in () if asked.no_training else ("few", "shards"):
        print(f"training on {name}", flush=True)
        subprocess.run([*own, "--train", str(place / name)], check=True)


if __name__ == "__main__":
    main()
