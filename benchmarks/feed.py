"""How fast training batches are made, up to the hand-over to a device: images like COCO's, with masks.

    python -m benchmarks.feed
    python -m benchmarks.feed --recipes mask_rcnn_r50_fpn_1x --workers 2 --batches 20

The data set is drawn first: JPEGs of COCO's usual sizes, three in ten of them upright, with seven polygons
each. Two processes prepare batches of 16; this one takes them as a training on a GPU does, and copies each
block, as into pinned memory. ``cpu`` is for a training on a CPU: images are resized by the workers, then
normalised and padded by this process. Beside images per second, which other work on the machine lowers, stand
milliseconds of processor time per image, in this process and in the workers, and the pixels of padded batches
for one of the images.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rcnn.data import loader
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.geometry import TrainingSample
from rcnn.data.packing import Packet
from rcnn.training.recipe import Recipe, load_recipe

SIZES = (*[(480, 640)] * 5, *[(427, 640)] * 2, *[(640, 480)] * 2, (640, 427))
OBJECTS, CLASSES, BATCH = 7, 80, 16


def write(folder: Path, images: int, classes: int = CLASSES) -> Dataset:
    """Pictures of noise in soft colours, and outlines of 15 to 50 corners."""
    rng = np.random.default_rng(0)
    pictures: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number in range(images):
        height, width = SIZES[int(rng.integers(len(SIZES)))]
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
        soft = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int64)
        noisy = soft + rng.integers(-12, 13, (height, width, 3))
        name = f"{number:06d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
        pictures.append({"id": number, "file_name": name, "height": height, "width": width})
        for _ in range(OBJECTS):
            corners = _outline(rng, height, width)
            x1, y1 = corners.min(0).tolist()
            w, h = np.ptp(corners, axis=0).tolist()
            objects.append({
                "id": len(objects) + 1, "image_id": number, "category_id": int(rng.integers(classes)) + 1,
                "iscrowd": 0, "bbox": [x1, y1, w, h], "area": w * h * 0.7,
                "segmentation": [corners.reshape(-1).tolist()],
            })  # fmt: skip
    names = [{"id": label + 1, "name": f"class {label}"} for label in range(classes)]
    file = folder / "coco.json"
    file.write_text(json.dumps({"images": pictures, "annotations": objects, "categories": names}))
    return open_data(file)


def _outline(rng: np.random.Generator, height: int, width: int) -> np.ndarray[Any, Any]:
    """Corners ``[K, 2]`` around a place in an image, 20 to 350 pixels across."""
    radius = np.exp(rng.uniform(np.log(20), np.log(350))) / 2
    centre = rng.uniform((10, 10), (width - 10, height - 10))
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(15, 50))))
    around = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.7, 1, (len(angles), 1))
    corners: np.ndarray[Any, Any] = (centre + radius * around).clip(0, (width, height)).round(2)
    return corners


def taken(packet: Packet, device: torch.device) -> list[TrainingSample]:
    """What a device would be handed over: a copy of the block, not yet rendered."""
    samples: list[TrainingSample] = replace(packet, block=packet.block.clone()).unpacked()
    return samples


def measure(data: Dataset, recipe: Recipe, device: torch.device, workers: int, batches: int) -> str:
    """A row: images per second and processor time per image."""
    made = loader.training_batches(
        data, recipe.augment, recipe.transform, batch_size=BATCH, seed=0, workers=workers, device=device
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    next(made)
    began, own, padded, covered = time.perf_counter(), time.process_time(), 0, 0
    for _ in range(batches):
        samples = next(made)
        if device.type == "cpu":
            recipe.transform.batch([sample.image for sample in samples])
        sides = [sample.targets.size for sample in samples]
        height, width = recipe.transform.padded((max(h for h, _ in sides), max(w for _, w in sides)))
        padded, covered = padded + BATCH * height * width, covered + sum(h * w for h, w in sides)
    seconds, own = time.perf_counter() - began, time.process_time() - own
    del made  # ends the workers, whose time counts then
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    count = batches * BATCH
    return (
        f"{count / seconds:8.1f} images/s  {1000 * own / count:6.1f} ms here  about "
        f"{1000 * theirs / (count + BATCH):6.1f} ms in workers  {padded / covered:5.2f} pixels padded for one"
    )


def main() -> None:
    """Draw the data set, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", nargs="+", default=["mask_rcnn_r50_fpn_1x", "mask_rcnn_r50_fpn_lsj"])
    parser.add_argument("--devices", nargs="+", default=["cuda", "cpu"])
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    loader.arrived = taken  # type: ignore[attr-defined] # there need not be a GPU
    with tempfile.TemporaryDirectory() as name:
        data = write(Path(name), asked.images)
        for recipe in asked.recipes:
            for device in asked.devices:
                row = measure(data, load_recipe(recipe), torch.device(device), asked.workers, asked.batches)
                print(f"{recipe:24} {device:5} {row}", flush=True)


if __name__ == "__main__":
    main()
