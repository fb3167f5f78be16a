"""One training step of Mask R-CNN ResNet-50-FPN against torchvision's, with the same weights and truth.

    python -m benchmarks.step              # time, alternating, about 3 minutes on two cores
    python -m benchmarks.step --half       # both under autocast to bfloat16, as `rcnn train` runs here
    python -m benchmarks.step --memory     # peak memory of both, each in a process of its own

Two images of 512x512 with 30 objects each, the same sampled counts (256 anchors, 512 proposals an image), the
same frozen parts (stem and first stage), SGD with momentum. torchvision is given the truth as the full
bitmaps that it asks for; ours are kept in windows.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.peers import picture, print_peak, print_peaks, torchvision_inputs
from rcnn.device import keep_freed_memory
from rcnn.importers.torchvision import from_torchvision, torchvision_transform
from rcnn.inference.benchmark import alternate, machine, ratios, spread
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.structures import Masks

SIDE, OBJECTS, IMAGES, CLASSES = 512, 30, 2, 80
NAME = "maskrcnn_resnet50_fpn"


def truth(seed: int) -> Targets:
    """Ellipses of 30 to 120 pixels anywhere."""
    draw = torch.Generator().manual_seed(seed)
    sides = 30 + 90 * torch.rand((OBJECTS, 2), generator=draw)
    corners = torch.rand((OBJECTS, 2), generator=draw) * (SIDE - sides)
    boxes = torch.cat([corners, corners + sides], 1)
    axis = torch.arange(SIDE) + 0.5
    centre, half = (corners + sides / 2)[:, :, None], (sides / 2)[:, :, None]
    x, y = (((axis - centre[:, i]) / half[:, i]) ** 2 for i in (0, 1))
    labels = torch.randint(CLASSES, (OBJECTS,), generator=draw)
    masks = Masks.from_dense((x[:, None, :] + y[:, :, None] <= 1).numpy())
    return Targets((SIDE, SIDE), boxes, labels, masks=TargetMasks.from_masks(masks))


def networks() -> tuple[nn.Module, nn.Module]:
    """Torchvision's and ours, with the same random weights, ready for training."""
    torch.manual_seed(0)
    backbone = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    theirs = MaskRCNN(_resnet_fpn_extractor(backbone, 3), CLASSES + 1, min_size=SIDE, max_size=SIDE)
    for path, module in theirs.backbone.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.2 if path.endswith("bn3") else 1.0)
    return theirs.train(), from_torchvision(NAME, theirs.state_dict()).train()


def step_of(network: nn.Module, losses: Callable[[], dict[str, Tensor]], half: bool) -> Callable[[], None]:
    """A step of SGD on what ``losses`` computes, so small that the weights hardly move."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = sum(losses().values(), torch.zeros(()))
        loss.backward()
        optimizer.step()

    return step


def sides(wanted: str | None = None, *, half: bool = False) -> dict[str, Callable[[], None]]:
    """A step of each side, in half precision if so; or of the wanted one alone, for its memory."""
    theirs, ours = networks()
    images = [(255 * picture((SIDE, SIDE), seed)).to(torch.uint8) for seed in range(IMAGES)]
    truths = [truth(seed) for seed in range(IMAGES)]
    inputs = torchvision_inputs(images, truths)
    transform = replace(torchvision_transform(NAME), short_side=SIDE, max_long_side=SIDE)
    steps: dict[str, Callable[[], None]] = {}
    if wanted != "torchvision":
        network: Any = ours
        steps["rcnn"] = step_of(ours, lambda: network(transform(images), truths).losses, half)
    if wanted != "rcnn":
        peer: Any = theirs
        steps["torchvision"] = step_of(theirs, lambda: peer(*inputs), half)
    return steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--busy", action="store_true", help="processor time, for a machine that does other work"
    )
    parser.add_argument("--half", action="store_true", help="both under autocast to bfloat16")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=("rcnn", "torchvision"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        step = sides(options.side, half=options.half)[options.side]
        print_peak(options.side, lambda: (step(), step()))  # the second has the optimiser's state
        return
    print(machine())
    if options.memory:
        print_peaks("benchmarks.step", ["--half"] * options.half)
        return
    clock = time.process_time if options.busy else time.perf_counter
    seconds = alternate(sides(half=options.half), options.rounds, clock)
    for side, values in seconds.items():
        print(f"{side:12} {statistics.median(values):.3f} s a step")
    print(f"ratio        {spread(ratios(seconds, 'torchvision', 'rcnn'))}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
