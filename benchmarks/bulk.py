"""Bulk prediction against the plain loop: images/s, and a job of a million rows planned and continued.

    python -m benchmarks.bulk IMAGES [--model nuclei] [--count 200] [--ways loop,threads,one,two]
    python -m benchmarks.bulk --plan 1000000

``loop``: one process with one torch thread reads an image, predicts it and makes its run-length codes;
``threads``: the same with all threads; ``worker``: a job in this process, one thread; ``one`` and ``two``:
Ray actors with one thread each, without the time that Ray and the models need to start.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rcnn.bulk import BulkOptions, predict_bulk
from rcnn.bulk.manifest import list_images
from rcnn.bulk.ray_workers import RayOptions
from rcnn.bulk.results import PARTS
from rcnn.bulk.storage import Place
from rcnn.bulk.worker import ShardWorker, WorkerOptions

WAYS = ("loop", "threads", "worker", "one", "two")


def loop(model: str, images: list[str], threads: int | None) -> float:
    """Images/s of a loop that anybody would write."""
    import torch

    import rcnn

    if threads is not None:
        torch.set_num_threads(threads)
    detector = rcnn.load(model, "cpu")
    detector.predict(images[0])
    began = time.perf_counter()
    for path in images:
        (found,) = detector.predict(path)
        json.dumps([] if found.masks is None else found.masks.rle())
    return len(images) / (time.perf_counter() - began)


def job(model: str, images: list[str], rows: int, actors: int) -> float:
    """Images/s of a job, from the first shard's end to the last one's where actors have to start."""
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        listing = Path(folder) / "list.txt"
        listing.write_text("\n".join(images), encoding="utf-8")
        times: list[tuple[float, int]] = []
        began = time.perf_counter()
        predict_bulk(
            model, str(listing), f"{folder}/out", BulkOptions(rows_per_shard=rows),
            worker=WorkerOptions(device="cpu", threads=1),
            ray=RayOptions(actors=actors) if actors else None,
            progress=lambda done, of: times.append((time.perf_counter(), done)),
        )  # fmt: skip
        if not actors:
            return len(images) / (time.perf_counter() - began)
        # Each actor's first shard is left out: it has the start in it.
        first = times[actors - 1]
        return (times[-1][1] - first[1]) / (times[-1][0] - first[0])


def measure(way: str, model: str, images: list[str], rows: int) -> float:
    """Images/s of one way."""
    if way in ("loop", "threads"):
        return loop(model, images, 1 if way == "loop" else None)
    return job(model, images, rows, {"worker": 0, "one": 1, "two": 2}[way])


def plan(rows: int) -> None:
    """The time to plan and to continue a job of so many images that nobody predicts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "list.parquet"
        pq.write_table(pa.table({"path": [f"s3://bucket/{i:09}.png" for i in range(rows)]}), table)
        out = Place.at(f"{folder}/out")

        def nothing(self: ShardWorker, shard: int) -> object:
            raise KeyboardInterrupt

        do, ShardWorker.do = ShardWorker.do, nothing  # type: ignore[method-assign, assignment]
        for what in ("planned", "continued"):
            began = time.perf_counter()
            with contextlib.suppress(KeyboardInterrupt):
                predict_bulk("nuclei", str(table), str(out), worker=WorkerOptions(device="cpu"))
            print(f"{rows} images {what} in {time.perf_counter() - began:.1f} s", flush=True)
            for shard in range(0, rows // 1000, 2):  # half of it is done
                source = out / PARTS / f"{shard:08d}.parquet"
                if what == "planned":
                    source.write(b"")
        ShardWorker.do = do  # type: ignore[method-assign]


def main() -> None:
    """Run the ways in turn, each in a process of its own, and print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="?")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rows", type=int, default=8, help="rows per shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--plan", type=int, metavar="ROWS")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plan:
        plan(arguments.plan)
        return
    images = list(list_images([arguments.images]).addresses[: arguments.count])
    if arguments.one:
        print(measure(arguments.one, arguments.model, images, arguments.rows))
        return
    speeds: dict[str, list[float]] = {way: [] for way in arguments.ways.split(",")}
    for _ in range(arguments.rounds):
        for way, found in speeds.items():
            command = [sys.executable, "-m", "benchmarks.bulk", *sys.argv[1:], "--one", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(float(done.stdout.split()[-1]))
            print(f"{way}: {found[-1]:.3f} images/s", flush=True)
    base = statistics.median(speeds.get("loop", [float("nan")]))
    for way, found in speeds.items():
        middle = statistics.median(found)
        print(f"{way:8} {middle:.3f} images/s, {middle / base:.2f} times the loop")


if __name__ == "__main__":
    main()
