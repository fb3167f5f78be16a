"""Prediction against torchvision's eager detectors: same image, same threads, in one run.

    python -m benchmarks.prediction                    # all cases, about 12 minutes on two cores
    python -m benchmarks.prediction mask_rcnn nuclei   # some of them
    python -m benchmarks.prediction mask_rcnn --openvino   # as an exported file, too; --half in bfloat16
    python -m benchmarks.prediction --memory           # peak memory too, each side in a process of its own

Published architectures have the same random, lively weights on both sides, and what both find is compared
(masks of networks only). ``--openvino`` adds our exported file as a third side: the graph in OpenVINO, images
and masks before and after it in NumPy. ``--half`` adds ours in bfloat16; of random weights it finds other
boxes, what it costs with trained ones is ``benchmarks.half``'s to say.
The default nuclei model (``rcnn train`` on ``nuclei``) stands against torchvision's Mask R-CNN with its
default heads on the same backbone and a 128-channel pyramid: the same task, not the same network. The case
``backbone`` sets the rate of ResNet-50-FPN, as trained and as prepared, beside the best that torch reaches
here at a product of matrices or a direct convolution. Rates are effective: operations of direct
convolutions over seconds, so that Winograd's way may pass the best.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou

from benchmarks.peers import enliven, picture, print_peak, print_peaks, published_pair, torchvision_detector
from rcnn.device import keep_freed_memory
from rcnn.inference.benchmark import alternate, machine, ratios, spread
from rcnn.inference.detector import Detector
from rcnn.inference.exported import ExportedDetector, open_exported
from rcnn.inference.exporters import export
from rcnn.models.mask_rcnn import MaskRCNN
from rcnn.parts.pretrained import load_backbone_weights
from rcnn.structures import Instances
from rcnn.training.recipe import load_recipe

Found = dict[str, Tensor]
NUCLEI = 150
BACKBONE = "backbone"


@dataclass
class Case:
    """Both sides of a comparison, ready to run.

    Attributes:
        ours: what rcnn finds with ``detector``, or with another that is made of it.
        theirs: what torchvision finds; None where nothing is compared.
        detector: ours.
        maps: the mask maps ``[N, M, M]`` of our detections, where the weights are the same and so the
            detections must be.
    """

    ours: Callable[[Detector | ExportedDetector], Instances]
    theirs: Callable[[], Found] | None
    detector: Detector
    maps: Callable[[], Tensor | None] | None = None


def published(name: str, left: int | None = None) -> Case:
    """One of torchvision's architectures on 480x640, resized to 800x1067; ``left``: so many objects remain.

    Where fewer objects are wanted, torchvision is given the same lowest score.
    """
    image = picture((480, 640))
    theirs, ours = published_pair(name, image)
    lowest = ours.min_score
    if left is not None:
        scores = ours.predict(image)[0].scores
        lowest = float(scores[left - 1 : left + 1].mean())
        theirs.roi_heads.score_thresh = lowest
    return Case(
        lambda side: side.predict([image], min_score=lowest)[0],
        torch.inference_mode()(lambda: theirs([image])[0]),
        ours,
        torch.inference_mode()(
            lambda: ours.inference_network(ours.transform([image]), min_score=lowest).detections.mask_maps
        ),
    )


def nuclei() -> Case:
    """The default model for nuclei on 512x640 with 150 objects."""
    image = picture((512, 640))
    ours = light_detector(image)
    theirs: Any = torchvision_detector(
        1, masks=True, sizes=(16, 32, 64, 128, 256), short_side=512, detections=NUCLEI
    )
    heads = theirs.roi_heads
    heads.score_thresh = 0.0
    last = {theirs.rpn.head.cls_logits: 2.0, theirs.rpn.head.bbox_pred: 0.3}
    last |= {heads.box_predictor.cls_score: 2.0, heads.mask_predictor.mask_fcn_logits: 2.0}
    enliven(theirs, last, [image])
    return Case(
        lambda side: side.predict([image], min_score=0.0, max_detections=NUCLEI)[0],
        torch.inference_mode()(lambda: theirs([image])[0]),
        ours,
    )


def light_detector(image: Tensor, num_classes: int = 1) -> Detector:
    """The model that ``rcnn train`` makes without a recipe, with lively heads on a pretrained backbone."""
    torch.manual_seed(0)
    recipe = load_recipe("light_mask_rcnn")
    network = MaskRCNN(num_classes, recipe.settings)
    load_backbone_weights(network.backbone, recipe.settings.backbone)
    transform = replace(recipe.transform, short_side=None, max_long_side=None)  # images at their own size
    detector = Detector(network.eval(), transform, ("nucleus",) * num_classes)
    nn.init.normal_(network.mask.logits.weight, std=0.1)  # of many classes only the wanted ones are computed
    last = {network.rpn.objectness: 2.0, network.rpn.deltas: 0.3, network.box.logits: 2.0}
    enliven(network, last, detector.transform([image[:, :640, :640]]))
    return detector


def large() -> Case:
    """A thousand objects on 4000x4000, for its memory."""
    image = (255 * picture((4000, 4000))).to(torch.uint8)
    ours = light_detector(picture((640, 640)))
    return Case(lambda side: side.predict([image], min_score=0.0, max_detections=1000)[0], None, ours)


CASES: dict[str, Callable[[], Case]] = {
    "mask_rcnn": lambda: published("maskrcnn_resnet50_fpn"),
    "mask_rcnn, 10 left": lambda: published("maskrcnn_resnet50_fpn", 10),
    "faster_rcnn": lambda: published("fasterrcnn_resnet50_fpn"),
    "mobilenet": lambda: published("fasterrcnn_mobilenet_v3_large_fpn"),
    "keypoint_rcnn": lambda: published("keypointrcnn_resnet50_fpn"),
    "nuclei": nuclei,
    "4000x4000": large,
}


def compare(ours: Instances, theirs: Found, maps: Tensor | None = None) -> str:
    """How many of torchvision's detections ours has too, and the largest differences among those."""
    found = ours.torch()
    overlap = box_iou(theirs["boxes"], found["boxes"])
    overlap[theirs["labels"][:, None] != found["labels"][None] + 1] = 0
    best, index = overlap.max(1)
    both = best > 0.99
    scores = (theirs["scores"] - found["scores"][index])[both].abs().max()
    boxes = (theirs["boxes"] - found["boxes"][index])[both].abs().max()
    text = f"{int(both.sum())} of {len(both)} the same, scores to {scores:.1e}, boxes to {boxes:.1e} px"
    if maps is not None:
        # The two paste differently; so our maps are pasted by torchvision's function.
        pasted = paste_masks_in_image(maps[index[both], None], theirs["boxes"][both], ours.size)
        text += f", masks to {(pasted - theirs['masks'][both]).abs().max():.1e}"
    if "keypoints" in found:
        apart = (found["keypoints"][index] - theirs["keypoints"])[both][..., :2].abs().max()
        text += f", keypoints to {apart:.1e} px"
    return text


def in_openvino(detector: Detector) -> ExportedDetector:
    """The same detector, exported and opened again."""
    with tempfile.TemporaryDirectory() as folder:
        out = export(detector, Path(folder) / "model", "openvino")
        return open_exported(out, threads=torch.get_num_threads())


def measure(name: str, rounds: int, clock: Callable[[], float], *, openvino: bool, half: bool) -> None:
    """Time a case and print it, a line for each of our sides."""
    case = CASES[name]()
    if case.theirs is None:
        seconds = alternate({"rcnn": partial(case.ours, case.detector)}, min(rounds, 2), clock)
        print(
            f"{name:20} rcnn {spread(seconds['rcnn'])} s; {len(case.ours(case.detector))} objects", flush=True
        )
        return
    ours: dict[str, Detector | ExportedDetector] = {"rcnn": case.detector}
    if openvino:
        ours["OpenVINO"] = in_openvino(case.detector)
    if half:
        ours["bfloat16"] = replace(case.detector, precision="bf16")
    sides: dict[str, Callable[[], object]] = {side: partial(case.ours, one) for side, one in ours.items()}
    seconds = alternate(sides | {"torchvision": case.theirs}, rounds, clock)
    expected = case.theirs()
    for side, one in ours.items():
        found = case.ours(one)
        line = (
            f"{name:20} {side} {statistics.median(seconds[side]):.3f} s, "
            f"torchvision {statistics.median(seconds['torchvision']):.3f} s, "
            f"ratio {spread(ratios(seconds, 'torchvision', side))}; "
            f"{len(found)} and {len(expected['boxes'])} objects"
        )
        if case.maps is not None and side != "bfloat16":
            line += "; " + compare(found, expected, case.maps() if side == "rcnn" else None)
        print(line, flush=True)


def measure_backbone(rounds: int) -> None:
    """Print the rates of ResNet-50-FPN on 800x1088, and of what torch does best, in GFLOP/s."""
    _, detector = published_pair("maskrcnn_resnet50_fpn", picture((480, 640)))
    images = torch.rand(1, 3, 800, 1088).to(memory_format=torch.channels_last)
    square, maps = torch.rand(3072, 3072), torch.rand(1, 256, 200, 272).to(memory_format=torch.channels_last)
    kernels = torch.rand(256, 256, 3, 3).to(memory_format=torch.channels_last)
    plain: Any = detector.network
    prepared: Any = detector.inference_network
    sides: dict[str, Callable[[], object]] = {
        "backbone as trained": lambda: plain.neck(plain.backbone(images)),
        "backbone as prepared": lambda: prepared.neck(prepared.backbone(images)),
        "product of matrices": lambda: square @ square,
        "direct convolution": lambda: functional.conv2d(maps, kernels, padding=1),
    }
    operations = {}
    with torch.inference_mode():
        for name in sides.keys() - {"backbone as prepared"}:
            with FlopCounterMode(display=False) as counter:
                sides[name]()
            operations[name] = counter.get_total_flops()
        operations["backbone as prepared"] = operations["backbone as trained"]
        seconds = alternate(sides, rounds)
    rates = {name: operations[name] / statistics.median(seconds[name]) / 1e9 for name in sides}
    best = max(rates["product of matrices"], rates["direct convolution"])
    shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    shares = ", ".join(
        f"{100 * rates[f'backbone as {form}'] / best:.0f} %" for form in ("trained", "prepared")
    )
    print(f"{BACKBONE:20} effective GFLOP/s: {shown}; the backbone at {shares} of the best", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join([*CASES, BACKBONE]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--openvino", action="store_true")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument(
        "--busy", action="store_true", help="processor time, for a machine that does other work"
    )
    parser.add_argument("--side", choices=("rcnn", "torchvision"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.side:
        case = CASES[options.cases[0]]()
        run = partial(case.ours, case.detector) if options.side == "rcnn" else case.theirs
        if run is not None:
            print_peak(options.side, run)
        return
    print(machine())
    clock = time.process_time if options.busy else time.perf_counter
    for name in options.cases or [*CASES, BACKBONE]:
        if name == BACKBONE:
            measure_backbone(options.rounds)
            continue
        measure(name, options.rounds, clock, openvino=options.openvino, half=options.half)
        if options.memory:
            print_peaks("benchmarks.prediction", [name])


if __name__ == "__main__":
    keep_freed_memory()
    main()
