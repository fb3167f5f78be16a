"""Random variations of a training image: scale, crop, orientation, colour and copy-paste.

The window of the source image is drawn first and only that window is resized, so that a crop out of a large
image with hundreds of objects costs no more than a small image. The image goes through torchvision's
transforms.v2 functions; boxes, keypoints and masks follow it in closed form, see ``rcnn.data.geometry``.

Every random number comes from the generator passed in: the same generator state gives the same sample.

Legend: N objects, H and W the source image, h and w the view that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from rcnn.config import is_dotted_path, resolve
from rcnn.data.geometry import (
    TrainingSample,
    View,
    keep,
    mark_as_crowd,
    set_pixels,
    tighten_boxes,
    view_sample,
    window_pixels,
)
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.structures import VOID, Instances

if TYPE_CHECKING:
    from rcnn.transform import Transform

# Settings of Augment between 0 and 1.
UNIT_INTERVAL_SETTINGS = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "copy_paste",
    "min_visible",
    "object_crop_fraction",
    "repeat",
)
# Quarter turns counter-clockwise as (transposed, flip_x, flip_y), the flips after the transposition.
QUARTER_TURNS = ((False, False, False), (True, False, True), (False, True, True), (True, True, False))


def copy_paste(
    sample: TrainingSample, donor: TrainingSample, chosen: Tensor, min_visible: float = 0.0
) -> TrainingSample:
    """Put the objects ``chosen`` (bool ``[N]``) of ``donor`` on ``sample``: simple copy-paste (Ghiasi 2021).

    Both share their upper left corner; what would lie outside the sample is cut off. Masks underneath lose
    what is covered; an object that keeps less than ``min_visible`` of its mask is marked as crowd, one that
    keeps nothing is dropped. The semantic map takes over what the donor's says of the pasted pixels, void
    where the donor has none.

    Raises:
        ValueError: objects without masks.
    """
    for each in (sample, donor):
        if len(each.targets) and each.targets.masks is None:
            raise ValueError(
                f"copy-paste needs masks, but {each.targets.path} has none: set copy_paste to 0."
            )
    height, width = (min(a, b) for a, b in zip(sample.targets.size, donor.targets.size, strict=True))
    donor = replace(donor, targets=keep(donor.targets, chosen))
    pasted = view_sample(donor, View((0, 0, width, height), (height, width)), min_visible)
    if len(pasted.targets) == 0:
        return sample
    assert pasted.targets.masks is not None
    covered = torch.zeros(sample.targets.size, dtype=torch.bool)
    _, y, x = set_pixels(pasted.targets.masks)
    covered[y, x] = True
    image = sample.image.clone()
    image[:, covered] = pasted.image[:, covered[:height, :width]]
    semantic = sample.targets.semantic
    if semantic is not None:
        above = torch.full_like(semantic, VOID)
        if pasted.targets.semantic is not None:
            above[:height, :width] = pasted.targets.semantic
        semantic = torch.where(covered, above, semantic)
    masks = TargetMasks(pasted.targets.masks.pixels, pasted.targets.masks.windows, sample.targets.size)
    objects = replace(pasted.targets, masks=masks, size=sample.targets.size)
    below = _uncovered(replace(sample.targets, semantic=semantic), covered, min_visible)
    return replace(sample, image=image, targets=_joined(below, objects))


def _uncovered(truth: Targets, covered: Tensor, min_visible: float) -> Targets:
    """The objects without the pixels ``covered``, bool ``[h, w]``."""
    if truth.masks is None:
        return replace(truth, masks=TargetMasks.empty(truth.size))
    owner, y, x = window_pixels(truth.masks.windows)
    left = truth.masks.pixels * ~covered[y, x]
    before = torch.bincount(owner, truth.masks.pixels, len(truth))
    visible = torch.bincount(owner, left, len(truth)) / before
    return tighten_boxes(
        mark_as_crowd(replace(truth, masks=replace(truth.masks, pixels=left)), visible < min_visible)
    )


def _joined(below: Targets, above: Targets) -> Targets:
    """The objects of both, those of ``below`` first; a field that only one has is zero for the other."""
    assert below.masks is not None
    assert above.masks is not None
    values: dict[str, Any] = {}
    for name in ("boxes", "labels", "keypoints", "crowd", "difficult"):
        pair = [getattr(below, name), getattr(above, name)]
        example = next((value for value in pair if value is not None), None)
        if example is not None:
            zeros = [example.new_zeros((len(part), *example.shape[1:])) for part in (below, above)]
            values[name] = torch.cat([z if v is None else v for v, z in zip(pair, zeros, strict=True)])
    if below.proposals is not None and above.proposals is not None:
        values["proposals"] = torch.cat([below.proposals, above.proposals])
    windows = torch.cat([below.masks.windows, above.masks.windows])
    masks = TargetMasks(torch.cat([below.masks.pixels, above.masks.pixels]), windows, below.size)
    return replace(below, masks=masks, **values)


@dataclass(frozen=True)
class Augment:
    """The settings of the random variations, and the function that makes them.

    Attributes:
        crop: side in pixels of the square that the network sees; a smaller image stays smaller.
        scale_jitter: smallest and largest factor on the scale that prediction would use, drawn log-uniformly.
        flip: mirror left and right, half of the time.
        rotate90: a random number of quarter turns, for data with no upright direction; with ``flip`` all
            eight orientations occur.
        brightness: the factor is drawn from 1 - b to 1 + b; 0 leaves the image alone.
        contrast: likewise.
        saturation: likewise.
        hue: the shift is drawn from -h to h, in turns of the colour circle, at most 0.5.
        copy_paste: probability of pasting objects of another image on top (needs masks).
        min_visible: an object of which less than this share is left in the crop, or uncovered by pasted
            ones, counts as crowd: neither positive nor negative.
        drop_truncated: what the crop leaves less of is background instead, as at the borders of images where
            annotators leave such objects out.
        object_crop_fraction: probability that the crop is placed on an object, where the image has any; else
            anywhere.
        repeat: how much more often an image is shown that holds several crops: the power of their number,
            which is at most that of its objects. 0: all images equally often, as published.
        extra: dotted path to a function of your own, ``my_package.augment:fog``: called last, with the varied
            :class:`~rcnn.data.geometry.TrainingSample` and the generator that it may draw from, it returns
            another one. None: nothing more.
    """

    crop: int = 512
    scale_jitter: tuple[float, float] = (0.75, 1.33)
    flip: bool = True
    rotate90: bool = False
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    copy_paste: float = 0.0
    min_visible: float = 0.15
    drop_truncated: bool = False
    object_crop_fraction: float = 0.9
    repeat: float = 0.0
    extra: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting outside its range, named.
        """
        if self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel, not {self.crop}.")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise ValueError(
                f"scale_jitter must be (low, high) with 0 < low <= high, not {self.scale_jitter}."
            )
        limits = {"hue": 0.5}
        for name in UNIT_INTERVAL_SETTINGS:
            value, limit = getattr(self, name), limits.get(name, 1.0)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must lie between 0 and {limit:g}, not {value}.")
        if self.extra is not None and not is_dotted_path(self.extra):
            raise ValueError(
                f"extra must be a dotted path such as my_package.augment:fog, not {self.extra!r}."
            )

    def __call__(
        self,
        sample: TrainingSample,
        transform: Transform,
        rng: np.random.Generator,
        other: Callable[[], TrainingSample] | None = None,
    ) -> TrainingSample:
        """A random variation of ``sample``.

        Args:
            sample: image uint8 ``[3, H, W]`` with its truth; not changed.
            transform: how prediction would resize the image; the scale is drawn around that.
            rng: the source of all randomness.
            other: gives another sample to paste from; called only when that is drawn.

        Returns:
            The image uint8 ``[3, h, w]``, both sides at most ``crop``, and what is left of the truth.

        Raises:
            ValueError: copy-paste is drawn and the objects have no masks, or ``extra`` is not there or
                returns something else.
        """
        result = self._augmented(sample, transform, rng)
        if other is not None and rng.random() < self.copy_paste:
            donor = self._augmented(other(), transform, rng)
            chosen = torch.from_numpy(rng.random(len(donor.targets)) < rng.random())
            if donor.targets.crowd is not None:
                chosen &= ~donor.targets.crowd
            result = copy_paste(result, donor, chosen, self.min_visible)
        # Last: what it draws leaves all other random numbers of the image as they are.
        return result if self.extra is None else _changed(self.extra, result, rng)

    def crops(self, truth: Targets | Instances, transform: Transform) -> float:
        """How many crops such an image holds: its area in theirs, but no more than objects to crop at."""
        height, width = truth.size
        area = height * width * (transform.factor(truth.size) / self.crop) ** 2
        return max(1.0, min(area, float(len(truth))))

    def without_randomness(self) -> Augment:
        """The same crops with nothing random about them but their place."""
        return replace(
            self, scale_jitter=(1.0, 1.0), flip=False, rotate90=False, brightness=0.0, contrast=0.0,
            saturation=0.0, hue=0.0, copy_paste=0.0, extra=None,
        )  # fmt: skip

    def _augmented(
        self, sample: TrainingSample, transform: Transform, rng: np.random.Generator
    ) -> TrainingSample:
        view = self.view(sample.targets, transform, rng)
        varied = view_sample(sample, view, self.min_visible, drop_truncated=self.drop_truncated)
        return replace(varied, image=self.colour(varied.image, rng))

    def view(self, truth: Targets, transform: Transform, rng: np.random.Generator) -> View:
        """Draw scale, window and orientation for an image with these objects."""
        low, high = np.log(self.scale_jitter)
        factor = transform.factor(truth.size) * float(np.exp(rng.uniform(low, high)))
        side = max(1, round(self.crop / factor))
        box = self._aim(truth, rng)
        height, width = truth.size
        x1, x2 = _placed(box[0], box[2], side, width, rng)
        y1, y2 = _placed(box[1], box[3], side, height, rng)
        resized = (_resized(y2 - y1, factor, self.crop), _resized(x2 - x1, factor, self.crop))
        turns = int(rng.integers(4)) if self.rotate90 else 0
        mirrored = self.flip and bool(rng.random() < 0.5)
        transposed, flip_x, flip_y = QUARTER_TURNS[turns]
        return View((x1, y1, x2, y2), resized, transposed, flip_x != mirrored, flip_y, transform.antialias)

    def _aim(self, truth: Targets, rng: np.random.Generator) -> tuple[float, float, float, float]:
        """The box that the window is to lie on: that of an object, or the whole image for anywhere."""
        boxes = truth.boxes if truth.crowd is None else truth.boxes[~truth.crowd]
        if len(boxes) and rng.random() < self.object_crop_fraction:
            x1, y1, x2, y2 = boxes[int(rng.integers(len(boxes)))].tolist()
            return x1, y1, x2, y2
        return 0.0, 0.0, float(truth.size[1]), float(truth.size[0])

    def colour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Draw brightness, contrast, saturation and hue and apply them to uint8 ``[3, h, w]``."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4)
        if self.brightness:
            image = functional.adjust_brightness(image, 1 + self.brightness * brightness)
        if self.contrast:
            image = functional.adjust_contrast(image, 1 + self.contrast * contrast)
        # Saturation and hue leave a grey image as it is, and hue is the dearest step of all.
        if bool((image[0] == image[1]).all()) and bool((image[1] == image[2]).all()):
            return image
        if self.saturation:
            image = functional.adjust_saturation(image, 1 + self.saturation * saturation)
        if self.hue:
            image = functional.adjust_hue(image, self.hue * hue)
        return image


def _changed(path: str, sample: TrainingSample, rng: np.random.Generator) -> TrainingSample:
    """What a user's function makes of a sample."""
    changed = resolve(path)(sample, rng)
    if not isinstance(changed, TrainingSample):
        raise ValueError(f"{path}: expected it to return a TrainingSample; found {type(changed).__name__}.")
    shape = (3, *changed.targets.size)
    if tuple(changed.image.shape) != shape or changed.image.dtype != torch.uint8:
        found = f"{changed.image.dtype} {list(changed.image.shape)}"
        raise ValueError(f"{path}: expected an image of uint8 {list(shape)}, as its targets; found {found}.")
    return changed


def _placed(low: float, high: float, side: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random range of ``side`` pixels in [0, length) that contains [low, high), or lies inside it."""
    side = min(side, length)
    first, last = sorted((int(np.ceil(high)) - side, int(np.floor(low))))
    # An object at the border of the image leaves less room than its box says.
    first, last = (min(max(v, 0), length - side) for v in (first, last))
    start = int(rng.integers(first, last + 1))
    return start, start + side


def _resized(length: int, factor: float, crop: int) -> int:
    return min(crop, max(1, round(length * factor)))
