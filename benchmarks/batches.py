"""Time per image in batches of equal sizes on a CPU, against one image at a time.

    python -m benchmarks.batches                      # Mask R-CNN R50-FPN at 800 px, the nuclei model at 512
    python -m benchmarks.batches nuclei --threads 1

The same images are predicted with ``batch_size`` 1, 8 and 16 in turn.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

import rcnn
from benchmarks.peers import picture, published_pair
from rcnn.device import keep_freed_memory
from rcnn.inference.benchmark import alternate, machine, ratios, spread
from rcnn.inference.detector import Detector
from rcnn.structures import Array, Size

IMAGES = 16
BATCHES = (1, 8, 16)


def published() -> tuple[Detector, Size]:
    """Mask R-CNN R50-FPN with random, lively weights, and the size of its images."""
    size = (480, 640)
    return published_pair("maskrcnn_resnet50_fpn", picture(size))[1], size


def nuclei() -> tuple[Detector, Size]:
    """The model of the demonstration, and the size of its images."""
    return rcnn.load("nuclei", "cpu"), (256, 320)


CASES: dict[str, Callable[[], tuple[Detector, Size]]] = {"mask_rcnn": published, "nuclei": nuclei}


def measure(name: str, rounds: int) -> None:
    """Print a case's milliseconds per image, and the ratios to one image at a time."""
    detector, size = CASES[name]()
    images: list[Array] = [
        (255 * picture(size, seed)).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        for seed in range(IMAGES)
    ]
    detector.predict(images[0])
    sides = {str(batch): partial(detector.predict, images, batch_size=batch) for batch in BATCHES}
    seconds = alternate(sides, rounds)
    for batch, found in seconds.items():
        slower = [1 / faster for faster in ratios(seconds, "1", batch)]
        print(f"{name:10} batch {batch:2}  {1000 * min(found) / IMAGES:7.1f} ms an image, "
              f"{spread(slower)} times one at a time", flush=True)  # fmt: skip


def main() -> None:
    """Measure each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print(machine())
    for name in arguments.cases or CASES:
        measure(name, arguments.rounds)


if __name__ == "__main__":
    main()
