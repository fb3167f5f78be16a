"""Draws the README's picture and the figures of docs/lineage.md.

    python docs/figures.py readme D runs
    python docs/figures.py lineage D/nuclei/val

``D`` is the folder of the data sets. The README's picture shows held-out images with what three models found
on them: the one that comes with the package, and two that are trained by::

    OMP_NUM_THREADS=1 rcnn train D/cbc/Training --val D/cbc/Testing --minutes 8 --seed 0 --out runs/cbc
    OMP_NUM_THREADS=1 rcnn train D/mouse/keypoints_train.json --val D/mouse/keypoints_val.json --minutes 8 \
        --seed 0 --out runs/mouse

The figures of the lineage show one image of BBBC038 (2018 Data Science Bowl, CC0); every box, label, bin and
target in them comes from the functions that train and predict.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, resize, to_pil_image

from rcnn import Instances, Masks, load, open_data
from rcnn.draw import contact_sheet, palette
from rcnn.evaluation.pictures import FOUND, MISSED, SPURIOUS
from rcnn.inference.postprocess import paste_masks
from rcnn.io.picture_files import write_image
from rcnn.models.fast_rcnn import FastRCNNSettings
from rcnn.ops import boxes as box_ops
from rcnn.ops.anchors import cell_anchors, grid_anchors
from rcnn.ops.masks import mask_targets
from rcnn.ops.matching import NEGATIVE, POSITIVE, fold_seeds, random_keys, sample
from rcnn.ops.roi import assign_levels
from rcnn.ops.warp import warp
from rcnn.parts.batch import Regions, Targets
from rcnn.parts.regions import sample_proposals
from rcnn.parts.rpn import RPN, RPNSettings
from rcnn.parts.selective_search import SelectiveSearchSettings, selective_search

IMAGE = "2e2d29fc"  # the first letters of its name
FACTOR = 3
OUT = Path(__file__).parent / "lineage"
ANCHORS = RPNSettings(sizes=((48, 96, 192),), ratios=(0.5, 1.0, 2.0), cross_boundary=False, count=256)
STRIDE = 16


@dataclass(frozen=True)
class Panel:
    """One part of the README's picture.

    Attributes:
        model: a name or a run below the folder of runs.
        data: the held-out images, below the folder of data sets.
        image: the first letters of the image's name.
        corner, side: the square of the image that is shown, in pixels.
        title: the caption; ``{}`` is the number of objects found whose centres are in the square.
    """

    model: str
    data: str
    image: str
    corner: tuple[int, int]
    side: int
    title: str


PANELS = (
    Panel("nuclei", "nuclei/val", "3b3f51", (0, 0), 256, "{} nuclei, outlined"),
    Panel("cbc", "cbc/Testing", "BloodImage_00382", (150, 0), 480, "{} blood cells, three classes"),
    Panel("mouse", "mouse/keypoints_val.json", "12", (50, 50), 230, "a mouse: snout, ears, tail base"),
)
TILE = 520  # twice as wide as it is shown


def main() -> None:
    """Draw the README's picture, or all figures of the lineage."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("readme", "lineage"))
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    options = parser.parse_args()
    if options.what == "readme":
        readme(options.data, options.runs)
    else:
        lineage(options.data)


def readme(data: Path, runs: Path) -> None:
    """Draw docs/overlay.jpg."""
    pictures, captions = zip(*(held_out(panel, data, runs) for panel in PANELS), strict=True)
    write_image(contact_sheet(pictures, captions, columns=len(PANELS), tile=TILE), OUT.parent / "overlay.jpg")


def held_out(panel: Panel, data: Path, runs: Path) -> tuple[Image.Image, str]:
    """A square of a held-out image with what a model found on it, and the caption."""
    images = open_data(data / panel.data)
    index = next(i for i, r in enumerate(images.records) if str(r.image_id).startswith(panel.image))
    image = images[index].image
    run = runs / panel.model
    (found,) = load(run if run.is_dir() else panel.model, device="cpu").predict(image)
    factor = -(-TILE // panel.side)
    left, top = (factor * place for place in panel.corner)
    square = (left, top, left + factor * panel.side, top + factor * panel.side)
    shown = enlarged(found, factor)
    large = Image.fromarray(image).resize(shown.size[::-1], Image.Resampling.BICUBIC)
    picture = shown.overlay(large, boxes=False, labels=False, opacity=0.45)
    named(ImageDraw.Draw(picture), shown, square)
    centres = (shown.boxes[:, :2] + shown.boxes[:, 2:]) / 2
    count = int(((centres >= square[:2]) & (centres < square[2:])).all(1).sum())
    return picture.crop(square).resize((TILE, TILE), Image.Resampling.LANCZOS), panel.title.format(count)


def enlarged(objects: Instances, factor: int) -> Instances:
    """The objects on an image that is ``factor`` times as wide and high."""
    height, width = objects.size
    masks = objects.masks and Masks.from_dense(objects.masks.dense().repeat(factor, 1).repeat(factor, 2))
    points = (
        None if objects.keypoints is None else objects.keypoints * np.array([factor, factor, 1], np.float32)
    )
    return replace(
        objects,
        size=(factor * height, factor * width),
        boxes=objects.boxes * factor,
        masks=masks,
        keypoints=points,
    )


def named(pen: ImageDraw.ImageDraw, found: Instances, square: tuple[int, int, int, int]) -> None:
    """Boxes with the class names that fit into the square, and keypoints, to be shown at half size."""
    if found.masks is not None:
        return
    font = ImageFont.load_default(44)
    for box, name, colour in zip(found.boxes.tolist(), found.names, found.colours(), strict=True):
        pen.rectangle(box, outline=colour, width=4)
        x, y = box[0] + 10, box[1] + 2
        if found.keypoints is None and x >= square[0] and x + font.getlength(name) <= square[2]:
            pen.text((x, y), name, (255, 255, 255), font, stroke_width=4, stroke_fill=(0, 0, 0))
    for points in () if found.keypoints is None else found.keypoints.tolist():
        for (x, y, _), colour in zip(points, palette(len(points)), strict=True):
            pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour, outline=(255, 255, 255), width=2)


def lineage(data: Path) -> None:
    """Draw all figures of docs/lineage.md."""
    image, truth = opened(data)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    proposals = torch.from_numpy(selective_search(pixels, SelectiveSearchSettings(min_side=15)))
    for name, tiles in (
        ("rcnn", rcnn(image, truth, proposals)),
        ("fast_rcnn", fast_rcnn(image, truth, proposals)),
        ("faster_rcnn", faster_rcnn(image, truth)),
        ("fpn", fpn(image, truth)),
        ("align", align(image, truth)),
        ("mask_rcnn", mask_rcnn(image, truth)),
        ("fcn", fcn(image, truth)),
    ):
        pictures, captions = zip(*tiles, strict=True)
        columns = 3 if len(tiles) in (3, 6) else 4
        shown = [to_pil_image(picture) for picture in pictures]
        sheet = contact_sheet(shown, captions, columns=columns, tile=960 // columns)
        write_image(sheet, OUT / f"{name}.png")


Tiles = list[tuple[Tensor, str]]


def opened(folder: Path) -> tuple[Tensor, Targets]:
    """The image, enlarged, and its objects."""
    data = open_data(folder)
    index = next(i for i, record in enumerate(data.records) if str(record.image_id).startswith(IMAGE))
    found = data[index]
    truth = enlarged(found.truth, FACTOR)
    image = torch.from_numpy(found.image).permute(2, 0, 1)
    return resize(image, list(truth.size)), Targets.from_instances(truth)


def overlaid(image: Tensor, found: Instances, *, boxes: bool) -> Tensor:
    """The image with objects drawn on it."""
    picture = found.overlay(image.permute(1, 2, 0).numpy(), boxes=boxes, labels=False)
    return pil_to_tensor(picture)


def boxed(image: Tensor, boxes: Tensor, colours: Sequence[tuple[int, int, int]], width: int = 2) -> Tensor:
    """The image, darkened a little, with boxes on it."""
    picture = to_pil_image((image * 0.75).to(torch.uint8))
    pen = ImageDraw.Draw(picture)
    for box, colour in zip(boxes.tolist(), colours, strict=True):
        pen.rectangle(box, outline=colour, width=width)
    return pil_to_tensor(picture)


def rcnn(image: Tensor, truth: Targets, proposals: Tensor) -> Tiles:
    """All proposals, the best of each object, and what the network sees of them."""
    overlap = box_ops.iou(truth.boxes, proposals)
    best = overlap.max(1)
    hit = best.values >= 0.5
    outlines = boxed(image, proposals[best.indices], [FOUND if h else MISSED for h in hit.tolist()], 4)
    shown = proposals[best.indices[best.values.argsort(descending=True)[:4]]]
    warped = warp(image.float(), shown, side=227, context=16).clamp(0, 255).to(torch.uint8)
    return [
        (overlaid(image, truth.instances(), boxes=False), f"{len(truth)} nuclei, annotated"),
        (boxed(image, proposals, palette(len(proposals)), 1), f"{len(proposals)} proposals"),
        (outlines, f"the best of each: IoU of 0.5 for {int(hit.sum())}"),
        (tiled(warped), "four of them warped to 227 x 227"),
    ]


def tiled(images: Tensor) -> Tensor:
    """Four images in a square."""
    upper, lower = torch.cat([images[0], images[1]], 2), torch.cat([images[2], images[3]], 2)
    return torch.cat([upper, lower], 1)


def fast_rcnn(image: Tensor, truth: Targets, proposals: Tensor) -> Tiles:
    """Proposals by their overlap, and the minibatch drawn of them."""
    settings = replace(FastRCNNSettings().box.sampling, append_gt=False)
    best = box_ops.iou(truth.boxes, proposals).max(0).values
    low, high = settings.background_iou
    regions = sample_proposals(Regions.from_lists([proposals]), [truth], 1, settings, fold_seeds([0]))
    colours = [FOUND if positive else SPURIOUS for positive in regions.is_positive.tolist()]
    positive, near = proposals[best >= high], proposals[(best >= low) & (best < high)]
    return [
        (boxed(image, positive, [FOUND] * len(positive)), f"{len(positive)} with IoU of {high} or more"),
        (boxed(image, near, [SPURIOUS] * len(near), 1), f"{len(near)} with {low} to {high}: background"),
        (
            boxed(image, regions.regions.boxes, colours),
            f"drawn: {int(regions.is_positive.sum())} positives of {len(colours)}",
        ),
    ]


def faster_rcnn(image: Tensor, truth: Targets) -> Tiles:
    """The anchors of one place, those responsible for an object, and the minibatch."""
    height, width = truth.size
    cell = cell_anchors(ANCHORS.sizes[0], ANCHORS.ratios)
    anchors = grid_anchors(cell, height // STRIDE, width // STRIDE, STRIDE, offset=0.5)
    labels = RPN(8, [STRIDE], ANCHORS).match(anchors, [truth])[1][0]
    keys = random_keys(fold_seeds([0]), torch.arange(len(anchors)), stream=0)
    minibatch = sample(labels[None], keys, ANCHORS.count, 0.5)
    positives = minibatch.positive[minibatch.chosen]
    chosen, others = (minibatch.index[minibatch.chosen][which] for which in (positives, ~positives))
    positive = anchors[labels == POSITIVE]
    middle = cell + torch.tensor([width, height, width, height]) / 2
    counts = [int((labels == label).sum()) for label in (POSITIVE, NEGATIVE)]
    drawn = torch.cat([anchors[others], anchors[chosen]])
    colours = [SPURIOUS] * len(others) + [FOUND] * len(chosen)
    return [
        (boxed(image, middle, palette(len(middle)), 3), "the 9 anchors of one place"),
        (boxed(image, positive, [FOUND] * len(positive)), f"{counts[0]} positive of {len(anchors)} anchors"),
        (boxed(image, drawn, colours, 1), f"minibatch: {len(chosen)} positive, {len(others)} negative"),
    ]


def fpn(image: Tensor, truth: Targets) -> Tiles:
    """On which level each object is pooled, and the cells of two levels."""
    levels = assign_levels(truth.boxes, (4, 8, 16, 32))
    colours = palette(4)
    tiles = [(boxed(image, truth.boxes, [colours[k] for k in levels.tolist()], 4), "levels by eq. 1")]
    for k in sorted(set(levels.tolist())):
        picture = to_pil_image(
            boxed(image, truth.boxes[levels == k], [colours[k]] * int((levels == k).sum()), 4)
        )
        grid(ImageDraw.Draw(picture), picture.size, 4 * 2**k)
        tiles.append((pil_to_tensor(picture), f"P{k + 2}: cells of {4 * 2**k} pixels"))
    return tiles


def grid(pen: ImageDraw.ImageDraw, size: tuple[int, int], stride: int) -> None:
    """Lines between the cells of a map."""
    for x in range(0, size[0], stride):
        pen.line((x, 0, x, size[1]), fill=(255, 255, 255), width=1)
    for y in range(0, size[1], stride):
        pen.line((0, y, size[0], y), fill=(255, 255, 255), width=1)


def align(image: Tensor, truth: Targets, size: int = 7, stride: int = 32) -> Tiles:
    """One region on a map of stride 32: what is pooled with rounding, and what without."""
    box = truth.boxes[(truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1).argmax()]
    x1, y1, x2, y2 = box.tolist()
    margin = stride
    left, top = (int(v) // stride * stride - margin for v in (x1, y1))
    side = int(max(x2 - left, y2 - top)) + margin
    left, top = max(0, left), max(0, top)
    zoom = 640 / side
    window = image[:, top : top + side, left : left + side]
    scene = to_pil_image(
        (resize(window, [int(window.shape[1] * zoom), int(window.shape[2] * zoom)]) * 0.6).to(torch.uint8)
    )

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - left) * zoom, (y - top) * zoom

    pooled, aligned = scene.copy(), scene.copy()
    for picture in (pooled, aligned):
        pen = ImageDraw.Draw(picture)
        grid(pen, picture.size, round(stride * zoom))
        pen.rectangle((*at(x1, y1), *at(x2, y2)), outline=SPURIOUS, width=5)
    pen = ImageDraw.Draw(pooled)
    # Fast R-CNN: corners to whole cells, the last one included, then whole cells of each bin.
    cells = [round(v / stride) for v in (x1, y1, x2, y2)]
    rounded = [cells[0] * stride, cells[1] * stride, (cells[2] + 1) * stride, (cells[3] + 1) * stride]
    pen.rectangle((*at(*rounded[:2]), *at(*rounded[2:])), outline=MISSED, width=7)
    pen = ImageDraw.Draw(aligned)
    width, height = (x2 - x1) / size, (y2 - y1) / size
    for i, j in product(range(size), range(size)):
        pen.rectangle(
            (*at(x1 + i * width, y1 + j * height), *at(x1 + (i + 1) * width, y1 + (j + 1) * height)),
            outline=FOUND,
            width=2,
        )
        for u, v in product((0.25, 0.75), (0.25, 0.75)):
            x, y = at(x1 + (i + u) * width, y1 + (j + v) * height)
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=FOUND)
    window = resize(window, [640, 640])
    return [
        (window, "an object"),
        (pil_to_tensor(pooled), "RoI pooling: red is read for the yellow box"),
        (pil_to_tensor(aligned), f"RoIAlign: {size} x {size} bins, 4 samples in each"),
    ]


def mask_rcnn(image: Tensor, truth: Targets, side: int = 28) -> Tiles:
    """The targets of shifted regions, and the targets pasted back."""
    assert truth.masks is not None
    areas = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
    index = areas.argsort(descending=True)[:4]
    extent = truth.boxes[index, 2:] - truth.boxes[index, :2]
    shift = torch.tensor([[0.1, 0.0, 0.1, 0.05], [-0.1, 0.05, 0.0, 0.1], [0.0] * 4, [0.05, -0.1, 0.15, 0.0]])
    rois = box_ops.clip(truth.boxes[index] + shift * extent.repeat(1, 2), truth.size)
    targets = mask_targets(truth.masks, index, rois, side)
    pasted = paste_masks(targets.numpy(), rois.numpy(), truth.size)
    found = Instances(truth.size, rois.numpy(), truth.labels[index].numpy(), masks=pasted)
    return [
        (boxed(image, rois, [FOUND] * 4, 4), "four positive regions"),
        (
            tiled((targets >= 0.5).to(torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255),
            f"their targets, {side} x {side}",
        ),
        (overlaid(image, found, boxes=True), "the targets pasted back"),
    ]


def fcn(image: Tensor, truth: Targets) -> Tiles:
    """What can be said of the classes of pixels at three strides."""
    assert truth.masks is not None
    inside = torch.from_numpy(truth.masks.masks().dense()).any(0).float()
    tiles = []
    for stride in (32, 16, 8):
        height, width = (side // stride * stride for side in truth.size)
        coarse = torch.nn.functional.avg_pool2d(inside[None, None, :height, :width], stride)
        fine = torch.nn.functional.interpolate(coarse, size=truth.size, mode="bilinear")[0, 0] >= 0.5
        mask = Instances(
            truth.size,
            np.array([[0.0, 0, truth.size[1], truth.size[0]]], np.float32),
            np.zeros(1, np.int64),
            masks=Masks.from_dense(fine[None].numpy()),
        )
        iou = float((fine & inside.bool()).sum() / (fine | inside.bool()).sum())
        tiles.append((overlaid(image, mask, boxes=False), f"stride {stride}: IoU {iou:.2f} at best"))
    return tiles


if __name__ == "__main__":
    main()
