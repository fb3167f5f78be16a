"""What a model costs on the machine at hand: time, time by stage, memory; the tools of ``benchmarks/`` too.

Times are medians of rounds that alternate between the sides compared, after one round that warms up: what
else the machine does then meets both alike.
"""

from __future__ import annotations

import gc
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from rcnn.device import fast_bfloat16
from rcnn.inference.detector import Detector
from rcnn.inference.fused import FusedConv
from rcnn.inference.stopwatch import Stopwatch
from rcnn.kernels import kernels

ROUNDS = 5
NOISE = (480, 640)  # the size of the image where none is given


@dataclass(frozen=True)
class BenchmarkResult:
    """What a detector costs.

    Attributes:
        machine: what it was measured on.
        images: how many were predicted in each round.
        objects: how many were found in them.
        seconds: of an image, in each round.
        unfused: the same with the network as it was trained, without ``rcnn.inference.fused``.
        half: the same in half precision; empty where the device is not quicker in it.
        stages: seconds of an image in each part, in order.
        peak: bytes taken above the model; None where nobody can tell.
        compiled: whether convolutions ran in compiled code (``rcnn.kernels.compiled``).
    """

    machine: str
    images: int
    objects: int
    seconds: list[float]
    unfused: list[float]
    half: list[float]
    stages: dict[str, float]
    peak: int | None
    compiled: bool

    def table(self) -> Table:
        """The figures as text."""
        table = Table(title=self.machine, box=SIMPLE_HEAD, padding=0, show_header=False, title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        table.add_row("images a second", spread([1 / s for s in self.seconds]), style="bold")
        table.add_row("seconds an image", spread(self.seconds))
        for name, seconds in self.stages.items():
            table.add_row(f"  {name}", f"{seconds:.4f}")
        table.add_row("convolutions in compiled code", "yes" if self.compiled else "no")
        table.add_row("the network as trained, seconds", spread(self.unfused))
        table.add_row(
            "times quicker", spread([a / b for a, b in zip(self.unfused, self.seconds, strict=True)])
        )
        if self.half:
            table.add_row("in half precision (--half), seconds", spread(self.half))
        peak = "unknown on this system" if self.peak is None else f"{self.peak / 2**20:.0f} MB"
        table.add_row("peak memory above the model", peak)
        table.caption = (
            f"{self.images} images with {self.objects} objects in a round; medians of {len(self.seconds)} "
            "rounds, lowest and highest"
        )
        return table


def bench(detector: Detector, images: Sequence[Tensor], rounds: int = ROUNDS) -> BenchmarkResult:
    """Measure a detector on uint8 images ``[3, H, W]``; of an empty sequence, on one of noise."""
    given = list(images) or [noise()]
    found: list[int] = []

    def run(one: Detector) -> None:
        found[:] = [len(objects) for image in given for objects in one.predict(image)]

    peak = peak_memory(lambda: run(detector))  # first, as the allocator keeps what it once had
    sides = {"fused": detector, "unfused": replace(detector, fuse=False)}
    if fast_bfloat16(detector.device):
        sides["half"] = replace(detector, half=True)
    seconds = alternate({name: partial(run, side) for name, side in sides.items()}, rounds)
    per_image = {name: [s / len(given) for s in values] for name, values in seconds.items()}
    parts = {name: s / len(given) for name, s in _stages(detector, lambda: run(detector)).items()}
    fused = any(isinstance(module, FusedConv) for module in detector.inference_network.modules())
    compiled = fused and kernels.kernels() is not None
    return BenchmarkResult(
        machine(), len(given), sum(found), per_image["fused"], per_image["unfused"],
        per_image.get("half", []), parts, peak, compiled,
    )  # fmt: skip


def noise() -> Tensor:
    """An image of random pixels; a network finds little in it, so the heads for objects have little to do."""
    return torch.randint(256, (3, *NOISE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _stages(detector: Detector, run: Callable[[], None]) -> dict[str, float]:
    """Seconds by part while ``run`` works, the work before and after the network included."""
    with Stopwatch(detector.inference_network) as watch:
        began = time.perf_counter()
        run()
        whole = time.perf_counter() - began
    return watch.seconds | {"images, pasting": whole - sum(watch.seconds.values())}


def machine() -> str:
    """The processor, its instructions, the threads used and the version of torch, in a line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text(encoding="utf-8").splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {torch.get_num_threads()} threads, {capability}, torch {torch.__version__}"


def alternate(
    sides: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each side in each round; in every round each side runs once.

    Args:
        sides: what to run, by name.
        rounds: how often, after once to warm up.
        clock: ``time.process_time`` tells what the work costs on a machine that is busy.
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
    """How many times quicker ``fast`` was than ``slow``, in each round."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes that the process needs while ``run`` works beyond those it had; None where nobody can tell.

    Memory that the allocator keeps from earlier work hides what is taken: measure in a fresh process.
    """
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    gc.collect()
    clear.write_text("5")  # the highest mark begins anew
    before = _status_bytes(status, "VmRSS")
    run()
    return max(0, _status_bytes(status, "VmHWM") - before)


def _status_bytes(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
