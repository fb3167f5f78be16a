"""Random augmentation of a training image: scale, crop, orientation, colour and copy-paste.

The window of the source image is drawn first, and only that window is resized, so that a crop of a large
image with hundreds of objects costs no more than a small image. The image passes through torchvision's
transforms.v2 functions; boxes, keypoints and masks follow in closed form, see ``rcnn.data.geometry``.

Every random number comes from the generator passed in: the same generator state gives the same sample.

Legend: N objects, H and W of the source image, h and w of the view that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rcnn.config import is_dotted_path, resolve
from rcnn.config.ranges import check_ranges, ranged
from rcnn.data.colour import Colouring
from rcnn.data.geometry import (
    Rendering,
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
from rcnn.structures import VOID, Instances, Size

if TYPE_CHECKING:
    from rcnn.transform import Transform

# Settings of Augment with values between 0 and 1.
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
# Counter-clockwise quarter turns as (transposed, flip_x, flip_y); the flips follow the transposition.
QUARTER_TURNS = ((False, False, False), (True, False, True), (False, True, True), (True, True, False))


def copy_paste(
    sample: TrainingSample, donor: TrainingSample, chosen: Tensor, min_visible: float = 0.0
) -> TrainingSample:
    """Simple copy-paste (Ghiasi 2021): paste objects of ``donor``, ``chosen`` by bool ``[N]``, on ``sample``.

    The upper left corners of both coincide; pasted objects are clipped to the sample. Masks underneath lose
    the covered pixels; an object that keeps less than ``min_visible`` of its mask is marked as crowd, and one
    that keeps nothing is dropped. Pasted pixels of the semantic map take the donor's values, or void if the
    donor has no map.

    Raises:
        ValueError: objects without masks.
    """
    for each in (sample, donor):
        if len(each.targets) and each.targets.masks is None:
            raise ValueError(
                f"copy-paste needs masks, but {each.targets.path} has none: set augment.copy_paste to 0."
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
    """The objects without their ``covered`` pixels, bool ``[h, w]``."""
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
    """The objects of both, those of ``below`` first; a field that only one has is zero in the other."""
    assert below.masks is not None
    assert above.masks is not None
    values: dict[str, Any] = {}
    for name in ("boxes", "labels", "keypoints", "crowd", "difficult", "has_mask"):
        pair = [getattr(below, name), getattr(above, name)]
        example = next((value for value in pair if value is not None), None)
        if example is not None:
            absent = name == "has_mask"  # all outlines are known; any other mark is not set
            fill = [example.new_full((len(part), *example.shape[1:]), absent) for part in (below, above)]
            values[name] = torch.cat([f if v is None else v for v, f in zip(pair, fill, strict=True)])
    if below.proposals is not None and above.proposals is not None:
        values["proposals"] = torch.cat([below.proposals, above.proposals])
    windows = torch.cat([below.masks.windows, above.masks.windows])
    masks = TargetMasks(torch.cat([below.masks.pixels, above.masks.pixels]), windows, below.size)
    return replace(below, masks=masks, **values)


@dataclass(frozen=True)
class Augment:
    """The augmentation and its settings.

    Attributes:
        crop: side in pixels of the square that the network sees; smaller images are not padded.
        scale_jitter: smallest and largest factor on the scale used in prediction, drawn log-uniformly.
        flip: mirror horizontally with probability 0.5.
        flip_pairs: names of the keypoints that change places in a mirrored image, such as ``[["nez_g",
            "nez_d"]]``. None: those whose names say left and right.
        rotate90: rotate by a random number of quarter turns, for data without an upright direction; together
            with ``flip``, all eight orientations occur.
        brightness: the factor on the brightness is drawn between 1 - b and 1 + b; 0 disables it.
        contrast: the same for the contrast.
        saturation: the same for the saturation.
        hue: the shift of the hue is drawn between -h and h, a fraction of the colour circle; at most 0.5.
        copy_paste: probability of pasting objects of another image on top; needs masks.
        min_visible: an object of which less than this fraction remains in the crop, or uncovered by pasted
            objects, counts as crowd: neither positive nor negative.
        drop_truncated: treat objects of which the crop leaves less as background instead, for data whose
            annotators skip such objects at image borders.
        object_crop_fraction: probability that the crop is placed on an object, if the image has one;
            otherwise it is placed anywhere.
        repeat: show images that hold several crops more often: in proportion to the number of crops to this
            power. The number of crops is at most the number of objects. 0 shows all images equally often, as
            published.
        extra: dotted path to a function of your own, ``my_package.augment:fog``. It is called last, with the
            augmented :class:`~rcnn.data.geometry.TrainingSample` and a random generator, and returns a
            sample. None: no such function.
    """

    crop: int = ranged(512, 1, 100000)
    scale_jitter: tuple[float, float] = ranged((0.75, 1.33), 0, 100, above=True)
    flip: bool = True
    flip_pairs: tuple[tuple[str, str], ...] | None = None
    rotate90: bool = False
    brightness: float = ranged(0.2, 0, 1)
    contrast: float = ranged(0.2, 0, 1)
    saturation: float = ranged(0.2, 0, 1)
    hue: float = ranged(0.02, 0, 0.5)
    copy_paste: float = ranged(0.0, 0, 1)
    min_visible: float = ranged(0.15, 0, 1)
    drop_truncated: bool = False
    object_crop_fraction: float = ranged(0.9, 0, 1)
    repeat: float = ranged(0.0, 0, 100)
    extra: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting outside its range, named.
        """
        if self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel; got {self.crop}.")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise ValueError(
                f"scale_jitter must be (low, high) with 0 < low <= high; got {self.scale_jitter}."
            )
        limits = {"hue": 0.5}
        for name in UNIT_INTERVAL_SETTINGS:
            value, limit = getattr(self, name), limits.get(name, 1.0)
            if not 0 <= value <= limit:
                raise ValueError(f"{name} must be between 0 and {limit:g}; got {value}.")
        if self.extra is not None and not is_dotted_path(self.extra):
            raise ValueError(
                f"extra must be a dotted path such as my_package.augment:fog; got {self.extra!r}."
            )
        check_ranges(self)

    def __call__(
        self,
        sample: TrainingSample,
        transform: Transform,
        rng: np.random.Generator,
        other: Callable[[], TrainingSample] | None = None,
        *,
        later: bool = False,
    ) -> TrainingSample:
        """A randomly augmented copy of ``sample``.

        Args:
            sample: image uint8 ``[C, H, W]`` with its targets; not modified.
            transform: how prediction would resize the image; the scale is drawn around that.
            rng: the source of all randomness.
            other: returns another sample to paste from; called only if copy-paste is drawn.
            later: leave the image to :meth:`~rcnn.data.geometry.TrainingSample.rendered` where nothing else
                needs it and it is no larger before.

        Returns:
            The image, uint8 ``[C, h, w]``, both sides at most ``crop``, and the remaining targets.

        Raises:
            ValueError: copy-paste is drawn and the objects have no masks; or ``extra`` does not exist or
                returns something other than a sample.
        """
        later = later and not self.copy_paste and self.extra is None
        result = self._augmented(sample, transform, rng, later=later)
        if other is not None and rng.random() < self.copy_paste:
            donor = self._augmented(other(), transform, rng)
            chosen = torch.from_numpy(rng.random(len(donor.targets)) < rng.random())
            if donor.targets.crowd is not None:
                chosen &= ~donor.targets.crowd
            if donor.targets.has_mask is not None:
                chosen &= donor.targets.has_mask
            result = copy_paste(result, donor, chosen, self.min_visible)
        # Last, so that its draws do not affect the other random numbers of the image.
        return result if self.extra is None else _changed(self.extra, result, rng)

    def crops(self, truth: Targets | Instances, transform: Transform) -> float:
        """The number of crops that fit into an image, at most the number of its objects."""
        return self.crops_of(truth.size, len(truth), transform)

    def crops_of(self, size: Size, objects: int, transform: Transform) -> float:
        """The same of an image of this size, (height, width), with so many objects."""
        height, width = size
        area = height * width * (transform.factor(size) / self.crop) ** 2
        return max(1.0, min(area, float(objects)))

    def without_randomness(self) -> Augment:
        """The same crops without any randomness but that of their position."""
        return replace(
            self, scale_jitter=(1.0, 1.0), flip=False, rotate90=False, brightness=0.0, contrast=0.0,
            saturation=0.0, hue=0.0, copy_paste=0.0, extra=None,
        )  # fmt: skip

    def _augmented(
        self, sample: TrainingSample, transform: Transform, rng: np.random.Generator, *, later: bool = False
    ) -> TrainingSample:
        view = self.view(sample.targets, transform, rng)
        later = later and not view.shrinks
        seen = view_sample(sample, view, self.min_visible, drop_truncated=self.drop_truncated, later=later)
        colouring = self._colouring(rng)
        if not later:
            return replace(seen, image=colouring(seen.image))
        return replace(seen, rendering=Rendering(view.of_window, colouring.looked_at(seen.image)))

    def view(self, truth: Targets, transform: Transform, rng: np.random.Generator) -> View:
        """Draw the scale, window and orientation for an image with these objects."""
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
        """The box to place the window on: that of an object, or the whole image."""
        boxes = truth.boxes if truth.crowd is None else truth.boxes[~truth.crowd]
        if len(boxes) and rng.random() < self.object_crop_fraction:
            x1, y1, x2, y2 = boxes[int(rng.integers(len(boxes)))].tolist()
            return x1, y1, x2, y2
        return 0.0, 0.0, float(truth.size[1]), float(truth.size[0])

    def colour(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Draw brightness, contrast, saturation and hue, and apply them to uint8 ``[C, h, w]``."""
        return self._colouring(rng)(image)

    def _colouring(self, rng: np.random.Generator) -> Colouring:
        """Draw brightness, contrast, saturation and hue."""
        brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4).tolist()
        return Colouring(
            1 + self.brightness * brightness if self.brightness else None,
            1 + self.contrast * contrast if self.contrast else None,
            1 + self.saturation * saturation if self.saturation else None,
            self.hue * hue if self.hue else None,
        )


def _changed(path: str, sample: TrainingSample, rng: np.random.Generator) -> TrainingSample:
    """The result of a user's function, checked."""
    changed = resolve(path)(sample, rng)
    if not isinstance(changed, TrainingSample):
        raise ValueError(f"{path}: expected it to return a TrainingSample; got {type(changed).__name__}.")
    shape = (len(sample.image), *changed.targets.size)
    if tuple(changed.image.shape) != shape or changed.image.dtype != torch.uint8:
        found = f"{changed.image.dtype} {list(changed.image.shape)}"
        raise ValueError(f"{path}: expected a uint8 image {list(shape)} to match its targets; got {found}.")
    return changed


def _placed(low: float, high: float, side: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random range of ``side`` pixels in [0, length) that contains [low, high), or is inside it."""
    side = min(side, length)
    first, last = sorted((int(np.ceil(high)) - side, int(np.floor(low))))
    # At the border of the image, an object leaves less room than its box suggests.
    first, last = (min(max(v, 0), length - side) for v in (first, last))
    start = int(rng.integers(first, last + 1))
    return start, start + side


def _resized(length: int, factor: float, crop: int) -> int:
    return min(crop, max(1, round(length * factor)))
