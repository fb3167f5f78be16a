"""Good defaults: a recipe chosen from what the data set holds, and the reasons for each choice.

Every choice follows from a few statistics over boxes and image sizes, which are known before a pixel is
decoded; only the test for an upright direction looks at images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset
from rcnn.models import MODELS, has_object_classes
from rcnn.models.fast_rcnn import FastRCNNSettings
from rcnn.models.faster_rcnn import FasterRCNNSettings
from rcnn.models.fcn import FCNSettings
from rcnn.models.keypoint_rcnn import KeypointRCNNSettings
from rcnn.models.mask_rcnn import MaskRCNNSettings
from rcnn.models.panoptic_fpn import PanopticFPNSettings
from rcnn.models.rcnn import RCNNSettings, RidgeSettings
from rcnn.parts.backbone import BackboneSettings
from rcnn.parts.box_head import BoxHeadSettings, PoolSettings
from rcnn.parts.fpn import FPNSettings
from rcnn.parts.keypoint_head import KeypointHeadSettings
from rcnn.parts.mask_head import MaskHeadSettings
from rcnn.parts.pretrained import backbone_normalisation
from rcnn.parts.regions import SamplingSettings
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.parts.semantic_head import SemanticHeadSettings
from rcnn.training.recipe import Recipe
from rcnn.training.trainer import TrainSettings
from rcnn.transform import Transform

DEFAULT_BACKBONE = "efficientnet_lite0"
# Stages with the strides 4, 8, 16 and, where there is one, 32.
LEVELS = {"vgg16": (2, 3, 4), "alexnet": (0, 1, 2)}
LAST_STAGE = {"mobilenet_v3_large": 5, "alexnet": 2}  # 4 of all others
# Prediction takes about a third of a second on two cores at this size.
TARGET_PIXELS = 640 * 640
MIN_VISIBLE_SIZE = 14.0  # pixels: an object of three to four cells of the finest map
CROP_RANGE = (256, 640)
CROWDED_OBJECTS = 50  # objects of the fullest image
SIGNIFICANT = 2.5  # standard errors
# Standard deviations of images in which upper and lower halves differ: 0.2 under microscopes, 0.55 in COCO.
SCENIC_STD = 0.35
MIN_IMAGES_FOR_ORIENTATION = 20  # images that do not tell whether they have an upright direction
# How much slower the backbone learns on photographs than heads do: it was trained on such.
PHOTOGRAPH_LR_FACTOR = 0.25
MIN_CLASS_OBJECTS = 10  # objects that make a class count for sizes of its own
MIN_ASPECT_SIMILARITY = 0.6  # shapes of a class that differ less than this tell which of its boxes are cut
MIN_BORDER_OBJECTS = 30  # objects at the images' borders that tell how annotators treat what these cut
WHOLE_FRACTION = 0.75  # where such objects are all left to this share, nothing was cut by the borders

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """What the choices are made from.

    Attributes:
        heights: of the images, ``[images]``.
        widths: of the images.
        sides: square roots of the boxes' areas in pixels, ``[objects]``.
        longest: longer sides of the boxes, ``[objects]``.
        ratios: height / width of the boxes.
        owner: the image of each object.
        labels: the class of each object.
        borders: whether the box reaches the left or right, and the upper or lower border of its image, but
            for two pixels; ``[objects, 2]``.
        max_objects: objects of the fullest image.
    """

    heights: Floats
    widths: Floats
    sides: Floats
    longest: Floats
    ratios: Floats
    owner: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    borders: npt.NDArray[np.bool_]
    max_objects: int

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Statistics:
        """Measure the truth of a data set, crowds left out."""
        boxes, owner, labels = [], [], []
        for i, record in enumerate(dataset.records):
            truth = record.truth if record.truth.crowd is None else record.truth[~record.truth.crowd]
            boxes.append(truth.boxes.numpy().astype(np.float64))
            owner += [i] * len(truth)
            labels += truth.labels.tolist()
        corners = np.concatenate([*boxes, np.zeros((0, 4))])
        size = np.maximum(corners[:, 2:] - corners[:, :2], 1.0)
        shapes = np.array([r.truth.size for r in dataset.records], dtype=np.float64).reshape(-1, 2)
        owners = np.array(owner, dtype=np.int64)
        borders = (corners[:, :2] <= 2) | (corners[:, 2:] >= shapes[owners, ::-1] - 2)
        return cls(
            shapes[:, 0], shapes[:, 1], np.sqrt(size.prod(1)), size.max(1), size[:, 1] / size[:, 0],
            owners, np.array(labels, dtype=np.int64), borders,
            max(map(len, boxes), default=0),
        )  # fmt: skip

    def large(self, sizes: Floats, percentile: float) -> float:
        """A high percentile of all objects' sizes, or what is large in a class of large ones, though rare."""
        usual = [
            np.percentile(sizes[self.labels == label], 75)
            for label, count in zip(*np.unique(self.labels, return_counts=True), strict=True)
            if count >= MIN_CLASS_OBJECTS
        ]
        return float(max([np.percentile(sizes, percentile), *usual]))

    @property
    def short_sides(self) -> Floats:
        """The shorter side of each image."""
        return np.minimum(self.heights, self.widths)


def plan(
    data: Dataset,
    *,
    model: str | None = None,
    backbone: str | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe for training on ``data``, and a line of reason for each choice.

    Args:
        data: the training images.
        model: a key of ``MODELS``; None: Keypoint R-CNN where objects have keypoints, else Mask R-CNN where
            all have masks, else Faster R-CNN; FCN where there are semantic maps and no objects,
            Panoptic FPN where they tell stuff beside objects with masks.
        backbone: a key of ``BACKBONES``; None is EfficientNet-Lite0.
        minutes: the schedule by the clock; 20 where neither is given.
        epochs: the schedule by passes over the images.
        seed: of everything random.
        workers: processes that prepare batches; None is 1.
    """
    statistics = Statistics.from_dataset(data)
    count = 0 if data.skeleton is None else len(data.skeleton.names)
    name, why_model = choose_model(data)
    name, why_model = (model, "chosen by you") if model else (name, why_model)
    backbone = backbone or DEFAULT_BACKBONE
    transform, why_size = choose_transform(statistics, backbone)
    factors = np.array([transform.factor(record.truth.size) for record in data.records])
    scaled = replace(
        statistics,
        sides=statistics.sides * factors[statistics.owner],
        longest=statistics.longest * factors[statistics.owner],
    )
    crop, why_crop = choose_crop(scaled, factors)
    rpn, why_anchors = choose_anchors(scaled)
    turns, why_turns = has_no_orientation(data, statistics)
    visible, drop_truncated, why_visible = choose_visible(statistics)
    jitter = (choose_min_scale(scaled, crop), 1.33)
    augment = Augment(
        crop=crop, rotate90=turns, scale_jitter=jitter, min_visible=visible, drop_truncated=drop_truncated
    )
    photographs = not turns and len(data) >= MIN_IMAGES_FOR_ORIENTATION
    train = TrainSettings(
        minutes=minutes if minutes is not None or epochs is not None else 20.0, epochs=epochs, seed=seed,
        backbone_lr=PHOTOGRAPH_LR_FACTOR if photographs else 1.0, workers=1 if workers is None else workers,
    )  # fmt: skip
    settings = light_settings(
        name, backbone, rpn, statistics.max_objects, keypoints=count, masks=data.has_masks
    )
    if photographs:
        why_turns += "; the backbone, which knows such images, learns slowly"
    reasons = [
        f"model: {name} ({why_model}), backbone {backbone} (ImageNet weights)",
        f"input: {why_size}",
        f"crops: {why_crop}{why_visible}",
        f"orientation: {why_turns}",
        describe_schedule(train),
    ]
    if not has_object_classes(name):
        return Recipe(name, settings, transform, augment, train), reasons
    why_regions = f"anchors: {why_anchors}"
    max_objects = (settings if name == "rcnn" else settings.box).max_detections
    if MODELS[name].needs_external_proposals:
        settings = replace(settings, search=choose_search(statistics))
        why_regions = (
            f"search: up to {settings.search.count} boxes with sides from {settings.search.min_side:g} px"
            + (f", in images {settings.search.width} px wide" if settings.search.width else "")
        )
    reasons.insert(3, why_regions)
    reasons.insert(
        5, f"detections: at most {max_objects} per image (the fullest has {statistics.max_objects})"
    )
    return Recipe(name, settings, transform, augment, train), reasons


def describe_schedule(train: TrainSettings) -> str:
    """How long and how fast a training is, in a line."""
    length = f"{train.minutes:g} minutes" if train.minutes else f"{train.epochs or 0:g} epochs"
    slower = f", {train.backbone_lr:g} of it in the backbone" if train.backbone_lr != 1 else ""
    how = f"{train.optimizer} at {train.lr:g}{slower}, {train.schedule}"
    return f"schedule: {length}, batches of {train.batch_size}, {how}"


def choose_model(data: Dataset) -> tuple[str, str]:
    """What the data is annotated for, and why."""
    if data.has_semantic and not data.has_objects:
        return "fcn", "the data has a class for every pixel, and no objects"
    if data.skeleton is not None:
        return "keypoint_rcnn", f"the objects have {len(data.skeleton.names)} keypoints"
    if data.has_masks and data.has_stuff:
        return "panoptic_fpn", "every object has a mask, and every pixel a class"
    if data.has_masks:
        return "mask_rcnn", "every object has a mask"
    return "faster_rcnn", "the data has boxes only"


def light_settings(
    model: str, backbone: str, rpn: RPNSettings, most_objects: int, *, keypoints: int = 0, masks: bool = False
) -> Any:
    """Settings whose heads suit a laptop; docs/recipes.md has their arithmetic beside the papers'."""
    # Images to come may be fuller than those of the training, and a cap that nobody meets costs nothing.
    detections = max(300, math.ceil(2 * most_objects / 100) * 100)
    # Regions are read one level finer than in the FPN paper: the heads' maps are small anyway.
    canonical = 112.0
    levels = LEVELS.get(backbone, (1, 2, 3, 4))
    sizes = rpn.sizes[: len(levels) + 1]
    # Of others than ours nothing is frozen: where their stages end is not always known.
    frozen = 0 if ":" in backbone else 1 if backbone.startswith(("efficientnet", "alexnet")) else 2
    backbone_settings = BackboneSettings(backbone, levels, frozen_stages=frozen)
    fpn = FPNSettings(channels=128, coarsest="pool" if len(sizes) > len(levels) else "none")
    # Most objects of an image may be of one level, with several anchors each.
    rpn = replace(
        rpn, sizes=sizes, channels=64, pre_nms=(500, max(1000, 2 * detections)),
        post_nms=(500, max(500, math.ceil(1.5 * detections))),
    )  # fmt: skip
    # Where objects are few, most proposals of a crop are background: more of it makes scores trustworthy.
    sampling = SamplingSettings(64, 0.5) if most_objects > CROWDED_OBJECTS else SamplingSettings(128, 0.25)
    box = BoxHeadSettings(
        channels=512,
        pool=PoolSettings(canonical_size=canonical),
        sampling=sampling,
        beta=1 / 9,
        max_detections=detections,
    )
    pool = PoolSettings(size=14, sampling_ratio=1, canonical_size=canonical)
    mask = MaskHeadSettings(convs=2, channels=96, pool=pool, max_regions=16)
    if model == "mask_rcnn":
        return MaskRCNNSettings(backbone_settings, fpn, rpn, box, mask)
    if model == "panoptic_fpn":
        semantic = SemanticHeadSettings(channels=64)
        return PanopticFPNSettings(backbone_settings, fpn, rpn, box, mask, semantic)
    if model == "keypoint_rcnn":
        keypoint = KeypointHeadSettings(keypoints, convs=4, channels=128, pool=pool, max_regions=16)
        return KeypointRCNNSettings(backbone_settings, fpn, rpn, box, keypoint, mask if masks else None)
    if model == "faster_rcnn":
        return FasterRCNNSettings(backbone_settings, fpn, rpn, box)
    if model == "fcn":
        # Stride 8 at once, three cells of the last map wide; VGG-16 ends its stages before the pooling.
        pooled = backbone == "vgg16"
        fine = BackboneSettings(backbone, LEVELS.get(backbone, (2, 3, 4)), backbone_settings.frozen_stages)
        return FCNSettings(fine, pooled, kernel=3, channels=256, dropout=0.1, alignment="centred")
    if model == "fast_rcnn":
        # One map of stride 16, as in the paper, and its RoI pooling.
        last = BackboneSettings(
            backbone, (LEVELS.get(backbone, (1, 2, 3, 4))[2],), backbone_settings.frozen_stages
        )
        return FastRCNNSettings(last, box=replace(box, pool=PoolSettings(pooling="pool")))
    if model == "rcnn":
        # A warped box has 96 pixels, a twelfth of the paper's area of work; 4 x 4 cells remain of it.
        last = BackboneSettings(
            backbone, (LAST_STAGE.get(backbone, 4),), frozen_stages=backbone_settings.frozen_stages
        )
        return RCNNSettings(
            last, side=128, pool=4, layers=0, sampling=SamplingSettings(32, 0.25),
            ridge=RidgeSettings(pairs=2000), max_detections=detections,
        )  # fmt: skip
    known = ", ".join(MODELS)
    raise ValueError(f"model {model!r}: expected one of {known}")


def choose_search(statistics: Statistics) -> SelectiveSearchSettings:
    """Selective search for proposals as small as the objects, in images no wider than R-CNN searched in."""
    paper = SelectiveSearchSettings(count=800)
    wide = float(np.median(statistics.widths))
    width = paper.width if paper.width is not None and wide > paper.width else None
    factor = 1.0 if width is None else width / wide
    small = float(np.percentile(statistics.sides, 5)) * factor if len(statistics.sides) else paper.min_side
    return replace(paper, width=width, min_side=round(float(np.clip(0.5 * small, 4.0, paper.min_side)), 1))


def choose_transform(statistics: Statistics, backbone: str) -> tuple[Transform, str]:
    """How images are resized: by one factor, or to one short side, whichever makes objects more alike."""
    short = statistics.short_sides
    mean, std = backbone_normalisation(backbone)
    transform = Transform(mean=mean, std=std)
    relative = statistics.sides / short[statistics.owner]
    varied = len(statistics.sides) > 1 and short.max() > 1.1 * short.min()
    by_side = bool(varied and np.log(relative).std() < np.log(statistics.sides).std())
    reference = float(np.median(short))
    area = float(np.median(statistics.heights * statistics.widths))
    if not len(statistics.sides):
        factor = choose_scale(math.inf, math.sqrt(TARGET_PIXELS / area))
        return replace(transform, scale=factor), (
            "images keep their size" if factor == 1 else f"images resized by {factor:g}"
        )
    sides = relative * reference if by_side else statistics.sides
    small = float(np.percentile(sides, 10))
    factor = choose_scale(small, math.sqrt(TARGET_PIXELS / area))
    # Panoramas keep their objects' size, too; what is too large to be seen at once is seen in tiles.
    longest = float((np.maximum(statistics.heights, statistics.widths) / short).max())
    if by_side:
        side = round(reference * factor)
        limit = math.ceil(side * min(longest, 10.0))
        return replace(transform, short_side=side, max_long_side=limit), (
            f"short side resized to {side} (objects are more alike relative to the image than in pixels)"
        )
    kept = "images keep their size" if factor == 1 else f"images resized by {factor:g}"
    why = f"{kept}; a tenth of the objects is smaller than {small * factor:.0f} px"
    return replace(transform, scale=factor), why


def choose_scale(small: float, fitting: float) -> float:
    """The resize factor from the small objects' size and the factor at which images reach ``TARGET_PIXELS``.

    Large images are shrunk to the budget, but no further than leaves small objects visible; small images
    with small objects are enlarged, at most twice.
    """
    wanted = MIN_VISIBLE_SIZE / small
    factor = max(fitting, min(1.0, wanted)) if fitting < 1 else min(max(1.0, wanted), fitting, 2.0)
    return round(factor * 8) / 8 if factor >= 0.5 else max(float(f"{factor:.2g}"), 0.02)


def choose_crop(scaled: Statistics, factors: Floats) -> tuple[int, str]:
    """The side of the training crops: room for nearly every object, no more than the images need."""
    large = scaled.large(scaled.longest, 98) if len(scaled.longest) else 0.0
    image = float(np.percentile(np.maximum(scaled.heights, scaled.widths) * factors, 90))
    # Without objects there is no telling how much must be seen at once.
    wanted = min(max(1.5 * large, CROP_RANGE[0]) if large else CROP_RANGE[1], image, CROP_RANGE[1])
    crop = max(64, math.ceil(wanted / 32) * 32)
    seen = f" (objects up to {large:.0f} px)" if large else ""
    return crop, f"{crop} x {crop} pixels in training{seen}"


def choose_visible(statistics: Statistics) -> tuple[float, bool, str]:
    """The share of an object that must be left in a crop for it to count, learnt from the images' borders.

    Also whether what is left of the others is background, rather than passed over.

    Some annotators draw whatever the border cuts, others leave out what is cut to less than a half or so. A
    model that is shown such halves as objects in crops finds them at the borders of images too, where nobody
    drew them. Boxes that reach one border tell: how much narrower they are for their height than those of
    their class inside the images, or lower for their width, where those are much alike. Where hardly any
    object is cut at the borders, they do not tell what annotators would make of one.
    """
    fractions = [np.zeros(0)]
    for label in np.unique(statistics.labels):
        own = statistics.labels == label
        ratios, (sideways, upright) = statistics.ratios[own], statistics.borders[own].T
        inside = ratios[~(sideways | upright)]
        if len(inside) < MIN_CLASS_OBJECTS:
            continue
        usual = float(np.median(inside))
        if np.percentile(np.minimum(inside / usual, usual / inside), 5) > MIN_ASPECT_SIMILARITY:
            fractions += [usual / ratios[sideways & ~upright], ratios[upright & ~sideways] / usual]
    left = np.concatenate(fractions)
    least = round(float(np.percentile(left, 5)), 2) if len(left) >= MIN_BORDER_OBJECTS else 0.0
    if least < 0.4:
        return Augment.min_visible, Augment.drop_truncated, ""
    if least >= WHOLE_FRACTION:
        least = min(least, 0.8)
        return (
            least,
            False,
            f"; objects cut to less than {least:.0%} are passed over: none are at the borders",
        )
    why = f"; objects cut to less than {least:.0%} are background: few such are annotated at the borders"
    return least, True, why


def choose_min_scale(scaled: Statistics, crop: int) -> float:
    """How far crops are shrunk at random: so far that the largest objects are often seen whole."""
    large = scaled.large(scaled.longest, 98) if len(scaled.longest) else 0.0
    return round(min(0.75, max(0.3, crop / (2 * large))), 2) if crop == CROP_RANGE[1] < 1.5 * large else 0.75


def choose_anchors(scaled: Statistics) -> tuple[RPNSettings, str]:
    """One anchor size a level, from the small objects to the large, and ratios from the boxes' own."""
    if len(scaled.sides) == 0:
        return RPNSettings(), "the paper's (no objects to measure)"
    small, large = float(np.percentile(scaled.sides, 5)), scaled.large(scaled.sides, 97)
    base = float(np.clip(2.0 ** (round(2 * math.log2(1.3 * small)) / 2), 8, 32))
    levels = 5 if base * 2**3 * 1.5 < large else 4
    # Doubling, as the pyramid does; more where the largest objects would be far beyond the last anchor.
    growth = max(2.0, (large / 1.5 / base) ** (1 / (levels - 1)))
    sizes = tuple((round(base * growth**i, 1),) for i in range(levels))
    low, middle, high = np.exp(np.percentile(np.log(scaled.ratios), [10, 50, 90]))
    ratios = tuple(round(float(r), 2) for r in (min(low, middle / 1.4), middle, max(high, middle * 1.4)))
    shown = ", ".join(f"{size[0]:g}" for size in sizes)
    return RPNSettings(sizes=sizes, ratios=ratios), (
        f"{shown} px (most objects have {small:.0f} to {large:.0f}), "
        f"height/width {', '.join(map(str, ratios))}"
    )


def has_no_orientation(data: Dataset, statistics: Statistics, look_at: int = 64) -> tuple[bool, str]:
    """Whether images may be turned by quarters: True where up and down look alike, as under a microscope.

    Compares upper with lower and left with right halves, in brightness and in where objects lie, over up
    to ``look_at`` images. A photograph's sky and ground give it away, and so does that its halves differ much
    in whatever direction. Where left and right differ in brightness too, it is the lamp of a microscope that
    does not stand in the middle.
    """
    if len(data) < MIN_IMAGES_FOR_ORIENTATION:
        return (
            False,
            "flipped left to right only (too few images to tell whether they have an upright direction)",
        )
    chosen = data.evenly_spaced(look_at)
    differences = np.array([_halves(data[index].image.float().mean(0)) for index in chosen])
    centres = _relative_centres(data, chosen)
    (vertical, horizontal), place = map(_t_value, differences.T), _t_value(centres)
    scenic = float(differences[:, 0].std()) > SCENIC_STD
    lamp = abs(horizontal) > SIGNIFICANT
    ratio = _t_value(np.log(statistics.ratios)[:: max(1, len(statistics.ratios) // 500)])
    uneven = abs(vertical) > SIGNIFICANT and not lamp
    upright = scenic or uneven or abs(place) > SIGNIFICANT or abs(ratio) > 6
    if upright:
        return False, "flipped left to right only (up and down differ in these images)"
    return True, "flipped and turned by quarters (up and down look alike in these images)"


def _halves(image: Tensor) -> tuple[float, float]:
    """Upper less lower half and left less right half of ``[H, W]``, in standard deviations."""
    height, width = (side // 2 for side in image.shape)
    if not height or not width:
        return 0.0, 0.0
    unit = float(image.std()) + 1.0
    vertical = float(image[:height].mean() - image[height:].mean())
    return vertical / unit, float(image[:, :width].mean() - image[:, width:].mean()) / unit


def _relative_centres(data: Dataset, chosen: Sequence[int]) -> Floats:
    """The mean height of the objects of each image, from -0.5 (top) to 0.5."""
    means = []
    for index in chosen:
        truth = data.records[index].truth
        if len(truth):
            means.append(float((truth.boxes[:, 1::2].mean(1) / truth.size[0]).mean()) - 0.5)
    return np.array(means)


def _t_value(values: Floats) -> float:
    """How many standard errors the mean lies from 0."""
    if len(values) < 3 or values.mean() == 0:
        return 0.0
    error = float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) / error if error else math.copysign(math.inf, values.mean())
