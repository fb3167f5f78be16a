"""Good defaults: a recipe chosen from what the data set holds, and a reason for each choice.

Every choice follows from a few statistics of boxes and image sizes, which are known before a pixel is
decoded; only the test for an upright direction reads images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset
from rcnn.models import MODELS, model_class
from rcnn.models.light import Light
from rcnn.parts.pretrained import backbone_normalisation
from rcnn.parts.rpn import RPNSettings
from rcnn.parts.selective_search import SelectiveSearchSettings
from rcnn.training.recipe import Recipe
from rcnn.training.settings import TrainSettings
from rcnn.training.statistics import MIN_CLASS_OBJECTS, Floats, Statistics
from rcnn.transform import Transform

DEFAULT_BACKBONE = "efficientnet_lite0"
# Prediction takes about a third of a second on two cores at this size.
TARGET_PIXELS = 640 * 640
MIN_VISIBLE_SIZE = 14.0  # pixels: an object of three to four cells of the finest map
CROP_RANGE = (256, 640)
SIGNIFICANT = 2.5  # standard errors
# Standard deviations of images in which upper and lower halves differ: 0.2 under microscopes, 0.55 in COCO.
SCENIC_STD = 0.35
MIN_IMAGES_FOR_ORIENTATION = 20  # fewer do not show whether they have an upright direction
# On photographs the backbone learns more slowly than the heads: it was pretrained on such.
PHOTOGRAPH_LR_FACTOR = 0.25
# A trained model needs smaller steps than random heads do. One that knows all classes goes only a part of
# the way, with which it forgets little of its old images (benchmarks/README.md, "Going on from a model").
START_LR_FACTOR = 1 / 4
START_INTERPOLATION = 0.2
MIN_ASPECT_SIMILARITY = 0.6  # of the boxes of a class, so that truncated ones can be recognised
MIN_BORDER_OBJECTS = 30  # at the images' borders, to see how annotators treat truncated objects
WHOLE_FRACTION = 0.75  # if this much is left of all of them, the borders truncate nothing


@dataclass(frozen=True)
class Reason:
    """A choice and the reason for it; ``str`` gives the line that is shown.

    Attributes:
        what: the subject of the choice, for example ``anchors``.
        value: the choice.
        why: the reason; may be empty.
    """

    what: str
    value: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"

    @property
    def text(self) -> str:
        """The line without ``what``."""
        return f"{self.value} ({self.why})" if self.why else self.value

    @classmethod
    def from_json(cls, stored: Mapping[str, str] | str) -> Reason:
        """As ``run.json`` has it: the fields, or one line in runs of rcnn 0.1."""
        if not isinstance(stored, str):
            return cls(stored.get("what", ""), stored.get("value", ""), stored.get("why", ""))
        what, _, value = stored.partition(": ")
        return cls(what, value)


@dataclass(frozen=True)
class FixedModel:
    """The model that a training starts from, to which a plan adds the schedule and the augmentation.

    Attributes:
        source: what the user called it.
        name: a key of ``MODELS`` or a dotted path.
        settings: of the model, for the classes of the data.
        transform: the one that it was trained with.
        has_new: whether the data have classes or keypoints that it does not know.
    """

    source: str
    name: str
    settings: Any
    transform: Transform
    has_new: bool = False

    @property
    def interpolation(self) -> float:
        """How far from its weights the result is: random ones of new classes have to go all the way."""
        return 1.0 if self.has_new else START_INTERPOLATION

    def reasons(self, max_objects: int) -> list[Reason]:
        """Lines about it, for data with at most ``max_objects`` in an image."""
        transform = self.transform
        short = transform.short_side
        size = f"resized by {transform.scale:g}" if short is None else f"short side resized to {short}"
        like = f"as in {self.source}"
        lines = [
            Reason("model", self.name, like),
            Reason("backbone", self.settings.backbone.name, f"weights of {self.source}"),
            Reason("input", size, like),
        ]
        rpn = getattr(self.settings, "rpn", None)
        if rpn is not None:
            sizes = ", ".join(f"{size:g}" for level in rpn.sizes for size in level)
            lines.append(Reason("anchors", f"{sizes} px", like))
        selection = model_class(self.name).selection_of(self.settings)
        if selection is not None:
            why = f"the image with the most objects has {max_objects}"
            if max_objects > selection.max_detections:
                why += f"; for more, --set model.box.max_detections={2 * max_objects}"
            lines.append(Reason("detections", f"at most {selection.max_detections} per image", why))
        return lines


def plan(
    data: Dataset,
    *,
    start: FixedModel | None = None,
    model: str | None = None,
    backbone: str | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> tuple[Recipe, list[Reason]]:
    """A recipe for training on ``data``, and a reason for each choice.

    Args:
        data: the training images.
        start: the model that training starts from, which decides all but schedule and augmentation.
        model: a key of ``MODELS`` or a dotted path; None: see :func:`choose_model`.
        backbone: a key of ``BACKBONES``, ``timm:NAME`` or a dotted path; None: EfficientNet-Lite0.
        minutes: training time in minutes; 20 if neither is given.
        epochs: number of passes over the images.
        seed: random seed.
        workers: processes that prepare batches; None: 1.

    Raises:
        ValueError: no such model or backbone.
    """
    statistics = Statistics.from_dataset(data)
    backbone = backbone or DEFAULT_BACKBONE
    transform, why_transform = choose_transform(statistics, backbone)
    transform = transform if start is None else start.transform
    scaled, factors = statistics.scaled(data, transform)
    augment, photographs, why_augment = choose_augment(data, statistics, scaled=scaled, factors=factors)
    lr = TrainSettings.lr * (1.0 if start is None else START_LR_FACTOR)
    train = TrainSettings(
        lr=lr, seed=seed, interpolation=1.0 if start is None else start.interpolation,
        minutes=minutes if minutes is not None or epochs is not None else 20.0, epochs=epochs,
        backbone_lr=PHOTOGRAPH_LR_FACTOR if photographs else 1.0, workers=1 if workers is None else workers,
    )  # fmt: skip
    if start is not None:
        lines = [*start.reasons(statistics.max_objects), *why_augment, describe_schedule(train)]
        return Recipe(start.name, start.settings, transform, augment, train), lines
    name, why_model = choose_model(data) if model is None else (model, "chosen by you")
    settings, why_settings = choose_settings(name, backbone, data=data, statistics=statistics, scaled=scaled)
    reasons = [
        Reason("model", name, why_model),
        Reason("backbone", backbone, "ImageNet weights"),
        why_transform,
        *why_settings,
        *why_augment,
        describe_schedule(train),
    ]
    return Recipe(name, settings, transform, augment, train), reasons


def describe_schedule(train: TrainSettings) -> Reason:
    """The length of a training, its batches, optimiser and learning rate."""
    length = f"{train.minutes:g} minutes" if train.minutes else f"{train.epochs or 0:g} epochs"
    slower = f", {train.backbone_lr:g} of it in the backbone" if train.backbone_lr != 1 else ""
    how = f"{train.optimizer} at {train.lr:g}{slower}, {train.schedule}"
    return Reason("schedule", f"{length}, batches of {train.batch_size}, {how}")


def describe_interpolation(train: TrainSettings) -> list[Reason]:
    """How far the result is from the model that training starts from, if it does not go all the way."""
    if train.start is None or train.interpolation == 1:
        return []
    value = f"weights {train.interpolation:g} of the way from {train.start} to the trained ones"
    why = "little of the old is forgotten; to learn more of the new, --set train.interpolation=1"
    return [Reason("result", value, why)]


def choose_model(data: Dataset) -> tuple[str, str]:
    """The model that the data are annotated for, and why: the last one of the table that suits them."""
    found = ((name, model.suits(data)) for name, model in reversed(MODELS.items()))
    return next((name, why) for name, why in found if why is not None)


def choose_settings(
    name: str, backbone: str, *, data: Dataset, statistics: Statistics, scaled: Statistics
) -> tuple[Any, list[Reason]]:
    """The model's own settings, and the reasons.

    Args:
        name: of the model.
        backbone: of the backbone.
        data: the training images.
        statistics: of them.
        scaled: the same in resized pixels.

    Raises:
        ValueError: no such model.
    """
    model = model_class(name)
    anchors, why_anchors = choose_anchors(scaled)
    search, why_search = choose_search(statistics)
    light = Light(
        backbone, anchors, statistics.max_objects, has_masks=data.has_masks, search=search,
        num_keypoints=0 if data.skeleton is None else len(data.skeleton.names),
    )  # fmt: skip
    settings = model.light_settings(light)
    selection = model.selection_of(settings)
    if selection is None:
        return settings, []
    cap = f"at most {selection.max_detections} per image"
    why = f"the image with the most objects has {statistics.max_objects}"
    regions = why_search if model.needs_proposals else why_anchors
    return settings, [regions, Reason("detections", cap, why)]


def choose_search(statistics: Statistics) -> tuple[SelectiveSearchSettings, Reason]:
    """Selective search for proposals as small as the objects, in images no wider than R-CNN searched in."""
    paper = SelectiveSearchSettings(count=800)
    wide = float(np.median(statistics.widths))
    width = paper.width if paper.width is not None and wide > paper.width else None
    factor = 1.0 if width is None else width / wide
    small = float(np.percentile(statistics.sides, 5)) * factor if len(statistics.sides) else paper.min_side
    min_side = round(float(np.clip(0.5 * small, 4.0, paper.min_side)), 1)
    search = replace(paper, width=width, min_side=min_side)
    value = f"up to {search.count} boxes with sides from {min_side:g} px"
    return search, Reason("search", value + (f", in images {width} px wide" if width else ""))


def choose_transform(statistics: Statistics, backbone: str) -> tuple[Transform, Reason]:
    """How images are resized: by one factor or to one short side, whichever makes objects more alike."""
    short = statistics.short_sides
    mean, std = backbone_normalisation(backbone)
    transform = Transform(mean=mean, std=std)
    area = float(np.median(statistics.heights * statistics.widths))
    fitting = math.sqrt(TARGET_PIXELS / area)
    if not len(statistics.sides):
        return _scaled_by(transform, choose_scale(math.inf, fitting), "")
    relative = statistics.sides / short[statistics.owner]
    varied = len(statistics.sides) > 1 and short.max() > 1.1 * short.min()
    by_side = bool(varied and np.log(relative).std() < np.log(statistics.sides).std())
    reference = float(np.median(short))
    small = float(np.percentile(relative * reference if by_side else statistics.sides, 10))
    factor = choose_scale(small, fitting)
    if not by_side:
        why = f"a tenth of the objects are smaller than {small * factor:.0f} px"
        return _scaled_by(transform, factor, why)
    side = round(reference * factor)
    # Panoramas keep the size of their objects, too; images too large for one pass are predicted in tiles.
    longest = float((np.maximum(statistics.heights, statistics.widths) / short).max())
    transform = replace(transform, short_side=side, max_long_side=math.ceil(side * min(longest, 10.0)))
    why = "objects are more alike relative to the image than in pixels"
    return transform, Reason("input", f"short side resized to {side}", why)


def _scaled_by(transform: Transform, factor: float, why: str) -> tuple[Transform, Reason]:
    done = "images keep their size" if factor == 1 else f"images resized by {factor:g}"
    return replace(transform, scale=factor), Reason("input", done, why)


def choose_scale(small: float, fitting: float) -> float:
    """The resize factor from the small objects' size and the factor at which images reach ``TARGET_PIXELS``.

    Large images are shrunk to the budget, but no further than leaves small objects visible; small images
    with small objects are enlarged, at most twice.
    """
    wanted = MIN_VISIBLE_SIZE / small
    factor = max(fitting, min(1.0, wanted)) if fitting < 1 else min(max(1.0, wanted), fitting, 2.0)
    return round(factor * 8) / 8 if factor >= 0.5 else max(float(f"{factor:.2g}"), 0.02)


def choose_augment(
    data: Dataset, statistics: Statistics, *, scaled: Statistics, factors: Floats
) -> tuple[Augment, bool, list[Reason]]:
    """The augmentation, whether the images are photographs, and the reasons.

    Args:
        data: the training images.
        statistics: of them.
        scaled: the same in resized pixels.
        factors: the resize factor of each image.
    """
    crop, why_crop = choose_crop(scaled, factors)
    turns, why_turns = has_no_orientation(data, statistics)
    visible, drop_truncated, why_visible = choose_visible(statistics)
    jitter = (choose_min_scale(scaled, crop), 1.33)
    augment = Augment(
        crop=crop, rotate90=turns, scale_jitter=jitter, min_visible=visible, drop_truncated=drop_truncated
    )
    mirroring = []
    if data.skeleton is not None and data.skeleton.lacks_partners:
        augment = replace(augment, flip=False)
        why_turns = replace(why_turns, value="rotated by 90°" if turns else "as in the data")
        why = "keypoints change places in mirrored images, and no name says which: see augment.flip_pairs"
        mirroring.append(Reason("mirroring", "none", why))
    photographs = not turns and len(data) >= MIN_IMAGES_FOR_ORIENTATION
    if photographs:
        slowly = f"{why_turns.why}; the backbone was pretrained on such images and learns more slowly"
        why_turns = replace(why_turns, why=slowly)
    return augment, photographs, [why_crop, *why_visible, why_turns, *mirroring]


def choose_crop(scaled: Statistics, factors: Floats) -> tuple[int, Reason]:
    """The side of the training crops: room for nearly every object, no more than the images need."""
    large = scaled.large(scaled.longest, 98) if len(scaled.longest) else 0.0
    image = float(np.percentile(np.maximum(scaled.heights, scaled.widths) * factors, 90))
    # Without objects the context that is needed is unknown.
    wanted = min(max(1.5 * large, CROP_RANGE[0]) if large else CROP_RANGE[1], image, CROP_RANGE[1])
    crop = max(64, math.ceil(wanted / 32) * 32)
    why = f"objects up to {large:.0f} px" if large else ""
    return crop, Reason("crops", f"{crop} x {crop} pixels in training", why)


def choose_visible(statistics: Statistics) -> tuple[float, bool, list[Reason]]:
    """The fraction of an object that must be visible in a crop for it to count, learnt from image borders.

    Also whether the remains of other objects are background rather than ignored, and the reason, if any.

    Some annotators mark every object that the image border truncates, others leave out those that are
    truncated to about half or less. A model that is trained on such halves in crops detects them at image
    borders, too, where nobody annotated them. Boxes that touch one border show the habit: how much narrower
    they are, relative to their height, than boxes of their class inside the images (or lower, relative to
    their width), for classes whose boxes have similar shapes. If hardly any object is truncated at the
    borders, they do not show what annotators would do with one.
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
        return Augment.min_visible, Augment.drop_truncated, []
    whole = least >= WHOLE_FRACTION
    least = min(least, 0.8) if whole else least
    what = f"{'ignored' if whole else 'background'} if less than {least:.0%} is left"
    why = "there are none at the borders" if whole else "few such are annotated at the borders"
    return least, not whole, [Reason("truncated objects", what, why)]


def choose_min_scale(scaled: Statistics, crop: int) -> float:
    """The lower limit of random scaling: crops shrink until the largest objects often fit into them."""
    large = scaled.large(scaled.longest, 98) if len(scaled.longest) else 0.0
    return round(min(0.75, max(0.3, crop / (2 * large))), 2) if crop == CROP_RANGE[1] < 1.5 * large else 0.75


def choose_anchors(scaled: Statistics) -> tuple[RPNSettings, Reason]:
    """One anchor size per level, from the small to the large objects, and ratios from those of the boxes."""
    if len(scaled.sides) == 0:
        return RPNSettings(), Reason("anchors", "the paper's", "no objects to measure")
    small, large = float(np.percentile(scaled.sides, 5)), scaled.large(scaled.sides, 97)
    base = float(np.clip(2.0 ** (round(2 * math.log2(1.3 * small)) / 2), 8, 32))
    levels = 5 if base * 2**3 * 1.5 < large else 4
    # Doubling, like the pyramid's strides; more if the largest objects are far beyond the last anchor.
    growth = max(2.0, (large / 1.5 / base) ** (1 / (levels - 1)))
    sizes = tuple((round(base * growth**i, 1),) for i in range(levels))
    low, middle, high = np.exp(np.percentile(np.log(scaled.ratios), [10, 50, 90]))
    ratios = tuple(round(float(r), 2) for r in (min(low, middle / 1.4), middle, max(high, middle * 1.4)))
    shown = ", ".join(f"{size[0]:g}" for size in sizes)
    value = f"{shown} px, height/width {', '.join(map(str, ratios))}"
    why = f"most objects have {small:.0f} to {large:.0f} px"
    return RPNSettings(sizes=sizes, ratios=ratios), Reason("anchors", value, why)


def has_no_orientation(data: Dataset, statistics: Statistics, look_at: int = 64) -> tuple[bool, Reason]:
    """Whether images may be rotated by 90°: True where up and down look alike, as under a microscope.

    Compares upper with lower and left with right halves of up to ``look_at`` images, in brightness and in the
    position of objects. Photographs are recognised by sky and ground, or because their halves differ a lot in
    any direction. If left and right differ in brightness, too, the cause is an off-centre microscope lamp.
    """
    what, flips = "orientation", "flipped left to right only"
    if len(data) < MIN_IMAGES_FOR_ORIENTATION:
        why = "too few images to find out whether they have an upright direction"
        return False, Reason(what, flips, why)
    chosen = data.evenly_spaced(look_at)
    differences = np.array([_halves(data[index].image) for index in chosen])
    centres = _relative_centres(data, chosen)
    (vertical, horizontal), place = map(_t_value, differences.T), _t_value(centres)
    scenic = float(differences[:, 0].std()) > SCENIC_STD
    lamp = abs(horizontal) > SIGNIFICANT
    ratio = _t_value(np.log(statistics.ratios)[:: max(1, len(statistics.ratios) // 500)])
    uneven = abs(vertical) > SIGNIFICANT and not lamp
    if scenic or uneven or abs(place) > SIGNIFICANT or abs(ratio) > 6:
        return False, Reason(what, flips, "up and down differ in these images")
    return True, Reason(what, "flipped and rotated by 90°", "up and down look alike in these images")


def _halves(image: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Means of the upper minus the lower half, and left minus right, of ``[H, W, C]``, over the std."""
    height, width = (side // 2 for side in image.shape[:2])
    if not height or not width:
        return 0.0, 0.0
    grey = image.mean(2, dtype=np.float32)  # [H, W]
    unit = float(grey.std(ddof=1)) + 1.0
    vertical = float(grey[:height].mean() - grey[height:].mean())
    return vertical / unit, float(grey[:, :width].mean() - grey[:, width:].mean()) / unit


def _relative_centres(data: Dataset, chosen: Sequence[int]) -> Floats:
    """The mean height of the objects of each image, from -0.5 (top) to 0.5."""
    means = []
    for index in chosen:
        truth = data.records[index].truth
        if len(truth):
            means.append(float((truth.boxes[:, 1::2].mean(1) / truth.size[0]).mean()) - 0.5)
    return np.array(means)


def _t_value(values: Floats) -> float:
    """The distance of the mean from 0 in standard errors."""
    if len(values) < 3 or values.mean() == 0:
        return 0.0
    error = float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) / error if error else math.copysign(math.inf, values.mean())
