"""What a GPU does with rcnn: is it right, how fast is it beside torchvision, and how long does it wait?

    python -m benchmarks.gpu --out DIR                      # on a GPU
    python -m benchmarks.gpu --device cpu --tiny --out DIR  # a rehearsal on a CPU

Each part stands by itself; ``--only same,training`` runs some of them. What is done is kept in
``DIR/gpu.json`` after every measurement: the same command goes on where it stopped, and begins nothing new
once ``--seconds`` are over. ``DIR/gpu.md`` is the table of it. A part that fails is a row that says so.

This has been rehearsed on a CPU only, and was never run on a GPU.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from benchmarks import feed
from rcnn.data.cores import available_cores
from rcnn.data.geometry import TrainingSample
from rcnn.data.loader import training_batches
from rcnn.device import Arithmetic, autocast, training_precision
from rcnn.inference.detector import Detector
from rcnn.models import build_model
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.structures import Instances, Size
from rcnn.training.arithmetic import tf32
from rcnn.training.recipe import Recipe, load_recipe

PARTS = ("same", "training", "feed", "prediction")
RECIPES = (
    "light_mask_rcnn", "mask_rcnn_r50_fpn_1x", "cascade_mask_rcnn_r50_fpn_1x", "keypoint_rcnn_r50_fpn_1x",
    "panoptic_fpn_r50_1x", "mask_rcnn_r50_c4", "voc07_fast_rcnn_vgg16", "voc11_fcn8s_vgg16",
)  # fmt: skip
TIMED = "mask_rcnn_r50_fpn_1x"
JITTERED = "mask_rcnn_r50_fpn_lsj"  # another feed
CONTIGUOUS = "rcnn channel by channel"  # not as rcnn.device.MEMORY_FORMAT has it
SIDES = ("rcnn", "torchvision", CONTIGUOUS)
CLASSES = tuple(f"class {i}" for i in range(5))
PIXELS = {"panoptic_fpn": (*CLASSES, "sky", "grass"), "fcn": ("background", "cat", "dog")}
# Random networks in float32 without TF32: sums in another order, and now and then another proposal.
TOLERANCES = {"loss": 1e-2, "gradient": 2e-2, "unmatched objects": 0.05, "other pixels": 0.01}
"""The most of each fraction: of a loss, of the gradient's norm, of the objects without a counterpart of the
same class, box, score, mask and keypoints, and of the pixels of another class."""
BOX_TOLERANCE, SCORE_TOLERANCE = 1.0, 0.02  # pixels, of keypoints, too
MASK_OVERLAP, MAX_FAR_KEYPOINTS = 0.95, 0.1  # IoU; the largest of random heat maps is a near thing

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images and few networks, as a rehearsal")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=330.0, help="nothing new is begun after them")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    device = torch.device(options.device)
    jobs = {
        name: job for part in PARTS if part in wanted for name, job in jobs_of(part, device, options.tiny)
    }
    options.out.mkdir(parents=True, exist_ok=True)
    run(jobs, options.out, time.monotonic() + options.seconds, machine(device))


def run(jobs: dict[str, Callable[[], Row]], out: Path, until: float, facts: Row) -> None:
    """Do the jobs that are not done, one after the other; what fails is tried again the next time."""
    file = out / "gpu.json"
    done: dict[str, Row] = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    for name, job in jobs.items():
        if name in done and "failed" not in done[name]:
            continue
        if time.monotonic() > until:
            print(f"{name}: not begun, the time is over; run the command again")
            continue
        try:
            done[name] = job()
        except Exception as error:  # the other parts are measured nevertheless
            done[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(f"{name}: {shown(done[name])}", flush=True)
        file.write_text(json.dumps({"machine": facts, "rows": done}, indent=1), encoding="utf-8")
    lines = [f"{', '.join(f'{k} {v}' for k, v in facts.items())}", "", "| what | found |", "|---|---|"]
    lines += [f"| {name} | {shown(row)} |" for name, row in done.items()]
    (out / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def shown(row: Row) -> str:
    """A row in a line."""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())


def machine(device: torch.device) -> Row:
    """What was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "torch": torch.__version__}


def jobs_of(part: str, device: torch.device, tiny: bool) -> Iterator[tuple[str, Callable[[], Row]]]:
    """The measurements of a part, by name."""
    if part == "same":
        size = (64, 96) if tiny else (128, 160)
        for name in RECIPES:
            yield f"same as the CPU: {name}", lambda name=name: same_as_cpu(name, device, size)
        return
    recipe = RECIPES[0] if tiny else TIMED
    if part == "feed":
        half = precisions(device, "training")[-1]
        for name in [recipe] if tiny else [recipe, JITTERED]:
            yield f"batches from files: {name}", lambda name=name: time_feed(name, device, tiny)
        name = f"training from files: {recipe}, {half}"
        yield name, lambda: time_feed(recipe, device, tiny, trains=half)
        return
    sizes: tuple[int, Size] = (2, (96, 128)) if tiny else (8, (800, 1344))
    measure = time_training if part == "training" else time_prediction
    sides = SIDES if part == "training" else SIDES[:2]
    for precision in precisions(device, part):
        for side in sides:
            if not (side == "torchvision" and tiny):
                yield (
                    f"{part}, {side}, {precision}",
                    lambda side=side, precision=precision: measure(recipe, device, sizes, precision, side),
                )


def precisions(device: torch.device, part: str) -> list[str]:
    """What a part is timed in: float32, TF32 where it may be there, and the device's half precision."""
    half = training_precision(device)
    return [
        "float32",
        *(["tf32"] if device.type == "cuda" else []),
        *([half] if half == "bf16" or (half == "fp16" and part == "training") else []),
    ]


def arithmetic_of(precision: str) -> Arithmetic:
    """What autocast makes of a precision; TF32 is float32 to it."""
    return "bf16" if precision == "bf16" else "fp16" if precision == "fp16" else "float32"


def network_of(name: str) -> tuple[Recipe, Any]:
    """A recipe's network with random weights, without dropout."""
    recipe = load_recipe(name)
    torch.manual_seed(0)
    network = build_model(recipe.model, recipe.settings, CLASSES, PIXELS.get(recipe.model, ()))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return recipe, network


def picture(size: Size, seed: int) -> torch.Tensor:
    """Noise, uint8 ``[3, H, W]``."""
    return torch.randint(256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def truth(size: Size, recipe: Recipe, seed: int) -> Targets:
    """Eight rectangles with everything that some network learns from."""
    draw = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]])
    corners = torch.rand((8, 2), generator=draw) * extent * 0.7
    boxes = torch.cat([corners, corners + torch.rand((8, 2), generator=draw) * extent * 0.25 + 8], 1)
    windows = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].floor()], 1).long()
    pixels = torch.ones(int((windows[:, 2:] - windows[:, :2]).prod(1).sum()), dtype=torch.uint8)
    places = torch.cat([boxes[:, None, :2] + 4 + torch.zeros(8, 17, 2), torch.full((8, 17, 1), 2.0)], 2)
    classes = len(PIXELS.get(recipe.model, ()))
    semantic = torch.randint(classes, size, generator=draw) if classes else None
    return Targets(
        size, boxes, torch.arange(8) % len(CLASSES), TargetMasks(pixels, windows, size), keypoints=places,
        semantic=semantic, proposals=torch.cat([boxes, boxes + 5]),
    )  # fmt: skip


def same_as_cpu(name: str, device: torch.device, size: Size) -> Row:
    """How far losses, gradients and detections are from the CPU's, with the same weights and seeds.

    Raises:
        ValueError: further than the tolerances.
    """
    found = []
    for where in (torch.device("cpu"), device):
        recipe, network = network_of(name)
        network = network.to(where).train()
        batch = recipe.transform.batch([picture(size, i) for i in range(2)])
        batch = replace(batch, tensors=batch.tensors.to(where), seeds=(1, 2))
        with tf32(False):
            losses = network(batch, [truth(size, recipe, i) for i in range(2)]).losses
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
            norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
            names = CLASSES if network.finds_objects else ()
            detector = Detector(
                network.eval(), recipe.transform, names, precision="float32", fuse=False,
                semantic_names=PIXELS.get(recipe.model, ()),
            )  # fmt: skip
            proposals = [truth(size, recipe, 3).proposals]
            objects = detector.predict([picture(size, 3)], min_score=0.0, proposals=proposals)[0]
        found.append(({k: float(v.detach()) for k, v in losses.items()}, float(norm), objects))
    (here, own_norm, one), (there, norm, other) = found
    loss = max(abs(here[k] - there[k]) / max(1e-3, abs(here[k])) for k in here)
    row = {"loss": loss, "gradient": abs(norm - own_norm) / own_norm, **compared(one, other)}
    # Written so that NaN is too much.
    if wrong := [name for name, most in TOLERANCES.items() if name in row and not row[name] <= most]:
        raise ValueError(
            f"{shown(row)}; too much of: "
            + ", ".join(f"{name} (at most {TOLERANCES[name]})" for name in wrong)
        )
    return row


def compared(one: Instances, other: Instances) -> Row:
    """What fraction of the objects of each side have no counterpart on the other, and of pixels."""
    row: Row = {"objects": f"{len(one)} and {len(other)}"}
    if len(one) or len(other):
        alone = sum(counterpart(a, b) is None for a, b in each_against(one, other))
        row["unmatched objects"] = alone / (len(one) + len(other))
    if one.semantic is not None and other.semantic is not None:
        row["other pixels"] = float((one.semantic != other.semantic).mean())
    return row


def each_against(one: Instances, other: Instances) -> Iterator[tuple[Instances, Instances]]:
    """Each object of either side, with all of the other's."""
    for mine, theirs in ((one, other), (other, one)):
        for i in range(len(mine)):
            yield mine[[i]], theirs


def counterpart(mine: Instances, others: Instances) -> int | None:
    """The number of the object among others that is the one, all told; None if there is none."""
    near = (
        (others.labels == mine.labels[0])
        & (abs(others.boxes - mine.boxes[0]).max(1, initial=0.0) <= BOX_TOLERANCE)
        & (abs(others.scores - mine.scores[0]) <= SCORE_TOLERANCE)
    )
    for i in np.flatnonzero(near):
        if same_outline(mine, others[[int(i)]]):
            return int(i)
    return None


def same_outline(one: Instances, other: Instances) -> bool:
    """Whether two objects have the same mask and keypoints, if any."""
    if one.masks is not None and other.masks is not None:
        inside, also = one.masks.dense()[0], other.masks.dense()[0]
        both, either = (inside & also).sum(), (inside | also).sum()
        if both < MASK_OVERLAP * either:
            return False
    if one.keypoints is not None and other.keypoints is not None:
        far = abs(one.keypoints - other.keypoints)[..., :2].max(-1) > BOX_TOLERANCE
        return bool(far.mean() <= MAX_FAR_KEYPOINTS)
    return True


def time_training(name: str, device: torch.device, sizes: tuple[int, Size], precision: str, side: str) -> Row:
    """A step of SGD, forward to update, on a batch that is on the device."""
    count, size = sizes
    recipe, network = network_of(name)
    truths = [truth(size, recipe, i).to(device) for i in range(count)]
    batch = recipe.transform.batch([picture(size, i) for i in range(count)])
    batch = replace(batch, tensors=batch.tensors.to(device), seeds=tuple(range(count)))
    peer = side == "torchvision"
    if peer:
        network, given = torchvision_side(size, device, count, truths)
    network = network.to(device).train()
    if side == CONTIGUOUS:
        network = network.to(memory_format=torch.contiguous_format)
        batch = replace(batch, tensors=batch.tensors.contiguous())
    step = step_of(network, device, precision)
    with tf32(precision == "tf32"):
        return timed(partial(step, *given) if peer else partial(step, batch, truths), device, count)


def step_of(network: Any, device: torch.device, precision: str) -> Callable[..., None]:
    """A step of SGD that changes nothing, of what the network takes."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

    def step(*given: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, arithmetic_of(precision)):
            found = network(*given)
        losses = found if isinstance(found, dict) else found.losses
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimizer.step()

    return step


def time_feed(name: str, device: torch.device, tiny: bool, *, trains: str | None = None) -> Row:
    """Batches of JPEG files with outlines, as the device gets them.

    Args:
        name: of a recipe.
        device: that gets them.
        tiny: few.
        trains: the precision of the step that each batch is for; None: there is none.
    """
    count, batches = (2, 1) if tiny else (8, 10)
    recipe, network = network_of(name)
    step = step_of(network.to(device).train(), device, trains) if trains else None
    with tempfile.TemporaryDirectory() as folder:
        data = feed.write(Path(folder), 2 * count * batches, len(CLASSES))
        made = training_batches(
            data, recipe.augment, recipe.transform, batch_size=count, seed=0, workers=available_cores(),
            device=device,
        )  # fmt: skip

        def work(made: Iterator[list[TrainingSample]]) -> None:
            for samples in islice(made, batches):
                there = [sample.to(device) for sample in samples]
                batch = replace(recipe.transform.batch([s.image for s in there]), seeds=tuple(range(count)))
                if step is not None:
                    step(batch, [sample.targets for sample in there])

        # Closed, it ends the workers, who read the folder.
        with closing(cast("Generator[list[TrainingSample]]", made)):
            return timed(partial(work, made), device, count * batches)


def time_prediction(
    name: str, device: torch.device, sizes: tuple[int, Size], precision: str, side: str
) -> Row:
    """All of predicting images of one size: resizing, network, masks."""
    count, size = sizes
    recipe, network = network_of(name)
    images = [picture(size, i) for i in range(count)]
    if side == "torchvision":
        theirs, _ = torchvision_side(size, device, count, [])

        def predict() -> None:
            with torch.no_grad(), autocast(device, arithmetic_of(precision)):
                theirs.eval()([image.to(device) / 255 for image in images])
    else:
        detector = Detector(
            network.to(device).eval(), recipe.transform, CLASSES,
            precision="bf16" if precision == "bf16" else "float32",
        )  # fmt: skip

        def predict() -> None:
            detector.predict(images, min_score=0.0, batch_size=count)

    with tf32(precision == "tf32"):
        return timed(predict, device, count)


def torchvision_side(size: Size, device: torch.device, count: int, truths: list[Targets]) -> tuple[Any, Any]:
    """Torchvision's Mask R-CNN, and what it takes."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    network = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1, min_size=min(size),
        max_size=max(size), box_score_thresh=0.0,
    ).to(device)  # fmt: skip
    images = [picture(size, i).to(device) / 255 for i in range(count)]
    targets = [
        {
            "boxes": one.boxes, "labels": one.labels + 1,
            "masks": torch.from_numpy(one.masks.masks().dense()).to(device, torch.uint8),
        }
        for one in truths if one.masks is not None
    ]  # fmt: skip
    return network, (images, targets)


def timed(work: Callable[[], None], device: torch.device, count: int, rounds: int = 5) -> Row:
    """Images per second; on a GPU also memory, the share of the time that it waits, and host syncs."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    seconds = []
    for _ in range(rounds if device.type == "cuda" else 1):
        synchronise()
        began = time.perf_counter()
        work()
        synchronise()
        seconds.append(time.perf_counter() - began)
    row: Row = {"images/s": count / statistics.median(seconds), "s": statistics.median(seconds)}
    if device.type != "cuda":
        return row
    try:
        return row | gpu_facts(work, synchronise)
    except Exception as error:  # the times are known nevertheless
        return row | {"not profiled": f"{type(error).__name__}: {error}"[:200]}


def gpu_facts(work: Callable[[], None], synchronise: Callable[[], None]) -> Row:
    """What a GPU says of itself: peak memory, waiting, syncs and where they are."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.reset_peak_memory_stats()
    with torch.profiler.profile(activities=activities) as profile:
        began = time.perf_counter()
        work()
        synchronise()
        wall = time.perf_counter() - began
    kernels = [e for e in profile.key_averages() if str(e.device_type).endswith("CUDA")]
    busy = sum(e.self_device_time_total for e in kernels) / 1e6
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
    torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchron" in str(w.message)]
    return {
        "GiB": torch.cuda.max_memory_allocated() / 2**30, "waits": max(0.0, 1 - busy / wall),
        "syncs": len(places), "at": " ".join(sorted(set(places))),
    }  # fmt: skip


if __name__ == "__main__":
    main()
