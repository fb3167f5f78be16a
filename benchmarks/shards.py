"""A synthetic set of tiny images in Parquet shards: how fast it opens and trains, and in how much memory.

    python benchmarks/shards.py --images 1000000

The same pictures as files (``--files`` of them) give the images per second to compare with. Prepared are
crops as training has them, by the process itself (no workers); no network is run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.formats.parquet_shards import SHARD_ROWS, ParquetWriter
from rcnn.data.formats.writer import DroppedContent, Item
from rcnn.data.loader import training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.data.twins import content_digests
from rcnn.training.statistics import Statistics
from rcnn.transform import Transform

SIDE, PICTURES, BATCH = 48, 500, 8


def write(folder: Path, images: int) -> None:
    """Shards of pictures that recur; what follows the end of a PNG makes each file another one."""
    shapes = draw_shapes(PICTURES, size=(SIDE, SIDE), objects=(1, 3), diameter=(10.0, 20.0))
    folder.mkdir(parents=True)
    writer = ParquetWriter(folder, shapes, DroppedContent())
    for number in range(PICTURES):
        file = folder / f"{number}.png"
        Image.fromarray(np.asarray(shapes[number].image)).save(file, compress_level=1)
        writer.write(Item(file, shapes[number].truth, (), number))
    pictures, writer.rows = writer.rows, []
    for first in range(0, images, SHARD_ROWS):
        for number in range(first, min(first + SHARD_ROWS, images)):
            row = pictures[number % PICTURES]
            content = row["image"] + number.to_bytes(4, "little")
            own = {"name": b"%07d.png" % number, "id": str(number), "image": content}
            writer.rows.append({**row, **own, "digest": blake2b(content, digest_size=16).hexdigest()})
        writer.write_shard()


def speed(data: Dataset, seconds: float) -> float:
    """Images per second that become crops, after the first batch."""
    batches = training_batches(data, Augment(crop=SIDE), Transform(), batch_size=BATCH, seed=0)
    next(batches)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += len(next(batches))
    return done / (time.perf_counter() - began)


def peak() -> float:
    """The largest memory of this process so far, in GB."""
    status = Path("/proc/self/status").read_text()  # getrusage would count the process that forked this one
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def measure(folder: Path, seconds: float) -> None:
    """Print what a process of its own needs."""
    print(f"memory of the imported package: {peak():.2f} GB")
    began = time.perf_counter()
    data = open_data(folder)
    print(f"opened: {len(data)} images in {time.perf_counter() - began:.1f} s, peak {peak():.2f} GB")
    began = time.perf_counter()
    if data.format == "parquet shards":
        Statistics.from_dataset(data)
        digests = content_digests(data.records)
        print(f"statistics and {len(set(digests))} digests: {time.perf_counter() - began:.1f} s")
    print(f"prepared: {speed(data, seconds):.0f} images/s, peak {peak():.2f} GB")


def main() -> None:
    """Write both sets, and measure each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        shards, files = Path(name) / "shards", Path(name) / "files"
        began = time.perf_counter()
        write(shards, asked.images)
        print(f"written: {asked.images} images in {time.perf_counter() - began:.0f} s", flush=True)
        settings = {"size": (SIDE, SIDE), "objects": (1, 3), "diameter": (10.0, 20.0)}
        draw_shapes(asked.files, **settings).write(files)
        for folder in (shards, files):
            print(folder.name, flush=True)
            command = [sys.executable, __file__, "--measure", str(folder), "--seconds", str(asked.seconds)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
