"""What a model costs on the machine at hand: time, time by stage, memory; the tools of ``benchmarks/`` too.

Times are medians of rounds that alternate between the sides compared, after one round that warms up:
whatever else the machine does then slows both alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rcnn import kernels
from rcnn.device import fast_bfloat16
from rcnn.inference.detector import Detector
from rcnn.inference.fused import FusedConv
from rcnn.inference.stopwatch import Stopwatch
from rcnn.kernels.about import cpu_name
from rcnn.metrics.shown import plain
from rcnn.structures import Array

ROUNDS = 5
NOISE = (480, 640)  # the size of the image where none is given


@dataclass(frozen=True)
class BenchmarkResult:
    """What a detector costs.

    Attributes:
        machine: what it was measured on.
        images: how many were predicted in each round.
        objects: how many were found in them.
        precision: what it computes in, ``bf16`` or ``float32``.
        seconds: per image, in each round.
        unfused: the same with the network as it was trained, without ``rcnn.inference.fused``.
        other: the same in the other precision; empty where the device has no instructions for bfloat16.
        stages: seconds per image in each part, in order.
        peak: bytes taken above the model; None where that is not known.
        kernels: whether convolutions ran in compiled kernels, and which, or why not.
    """

    machine: str
    images: int
    objects: int
    precision: str
    seconds: list[float]
    unfused: list[float]
    other: list[float]
    stages: dict[str, float]
    peak: int | None
    kernels: str

    def table(self) -> Table:
        """The figures as text."""
        table = Table(
            title=plain(self.machine), box=SIMPLE_HEAD, padding=0, show_header=False, title_justify="left"
        )
        table.add_column()
        table.add_column(justify="right")
        table.add_row("images per second", spread([1 / s for s in self.seconds]), style="bold")
        table.add_row(f"seconds per image, in {self.precision}", spread(self.seconds))
        for name, seconds in self.stages.items():
            table.add_row(f"  {name}", f"{seconds:.4f}")
        table.add_row("convolutions", self.kernels)
        table.add_row("the network as trained, seconds", spread(self.unfused))
        speedup = [a / b for a, b in zip(self.unfused, self.seconds, strict=True)]
        table.add_row("times faster", spread(speedup))
        if self.other:
            table.add_row(f"in {_other(self.precision)} (--precision), seconds", spread(self.other))
        peak = "unknown on this system" if self.peak is None else f"{self.peak / 2**20:.0f} MB"
        table.add_row("peak memory above the model", peak)
        table.caption = (
            f"{self.images} images with {self.objects} objects per round; medians of {len(self.seconds)} "
            "rounds, lowest and highest"
        )
        return table


def bench(detector: Detector, images: Sequence[Array] = (), rounds: int = ROUNDS) -> BenchmarkResult:
    """Measure a detector on uint8 images ``[H, W, 3]``; without any, on one of noise."""
    given = list(images) or [noise(detector.channels)]
    found: list[int] = []

    def run(one: Detector) -> None:
        found[:] = [len(objects) for image in given for objects in one.predict(image)]

    peak = peak_memory(lambda: run(detector))  # first, as the allocator keeps what it once had
    sides = {"fused": detector, "unfused": replace(detector, fuse=False)}
    if fast_bfloat16(detector.device):
        sides["other"] = replace(detector, precision=_other(detector.used_precision))
    seconds = alternate({name: partial(run, side) for name, side in sides.items()}, rounds)
    per_image = {name: [s / len(given) for s in values] for name, values in seconds.items()}
    parts = {name: s / len(given) for name, s in _stages(detector, lambda: run(detector)).items()}
    compiled = any(isinstance(module, FusedConv) for module in detector.inference_network.modules())
    return BenchmarkResult(
        machine(), len(given), sum(found), detector.used_precision, per_image["fused"], per_image["unfused"],
        per_image.get("other", []), parts, peak, kernels.status() if compiled else "torch's",
    )  # fmt: skip


def _other(precision: str) -> Literal["bf16", "float32"]:
    return "float32" if precision == "bf16" else "bf16"


def noise(channels: int) -> Array:
    """Random pixels, uint8 ``[H, W, C]``: a network finds little in them, so its heads have little to do."""
    return np.random.default_rng(0).integers(256, size=(*NOISE, channels), dtype=np.uint8)


def _stages(detector: Detector, run: Callable[[], None]) -> dict[str, float]:
    """Seconds by part while ``run`` works, the work before and after the network included."""
    with Stopwatch(detector.inference_network) as watch:
        began = time.perf_counter()
        run()
        whole = time.perf_counter() - began
    return watch.seconds | {"images, pasting": whole - sum(watch.seconds.values())}


def machine() -> str:
    """The processor, its instructions, the threads used and the version of torch, in a line."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {capability}, torch {torch.__version__}"


def alternate(
    sides: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each side in each round; in every round each side runs once.

    Args:
        sides: what to run, by name.
        rounds: how often, after once to warm up.
        clock: ``time.process_time`` measures what the work costs on a machine that is busy.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, run in sides.items():
            began = clock()
            run()
            if round_number:  # the first warms up
                seconds[name].append(clock() - began)
    return seconds


def spread(values: Sequence[float]) -> str:
    """The median of some values, and the lowest and the highest."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def ratios(seconds: Mapping[str, Sequence[float]], slow: str, fast: str) -> list[float]:
    """How many times faster ``fast`` was than ``slow``, in each round."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes that the process needs while ``run`` works beyond those it had; None where that is not known.

    Memory that the allocator keeps from earlier work hides what is taken: measure in a fresh process.
    """
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    gc.collect()
    clear.write_text("5")  # resets the highest mark
    before = _status_bytes(status, "VmRSS")
    run()
    return max(0, _status_bytes(status, "VmHWM") - before)


def _status_bytes(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
