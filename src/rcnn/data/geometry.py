"""A window of an image, resized and reoriented, with its objects.

The image passes through torchvision's transforms.v2 functions. Boxes, keypoints, masks and semantic maps
follow from the same :class:`View` in closed form, which equals what v2 computes for boxes and masks
(nearest-exact), without a full bitmap per object. Masks that are known by their outlines are drawn in the
view: moving corners costs a hundredth of moving pixels, and edges are as fine as the view.

Legend: N objects, P pixels of all their windows, H and W of the source image, h and w of the view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from rcnn.data.colour import Colouring
from rcnn.data.dataset import Sample
from rcnn.device import moved
from rcnn.parts.batch import TargetMasks, Targets, without_empty_crowd
from rcnn.structures import Masks, Outline, Size
from rcnn.structures.outlines import draw_polygon

if TYPE_CHECKING:
    import numpy.typing as npt

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class TrainingSample:
    """One image with its targets, as tensors.

    Attributes:
        image: uint8 ``[C, H, W]``.
        targets: its objects, in the image's coordinates.
        image_id: as in the record.
        view: its number among the views that recur; None: it does not.
        outlines: those of the objects, whose masks are not drawn yet and no part of the targets.
        rendering: what makes the image that the targets refer to of this one; None: it is that image.
    """

    image: Tensor
    targets: Targets
    image_id: int | str
    view: int | None = None
    outlines: tuple[Outline, ...] | None = None
    rendering: Rendering | None = None

    @classmethod
    def from_sample(cls, sample: Sample) -> TrainingSample:
        """A decoded sample of a data set, as tensors."""
        image = torch.from_numpy(sample.image).permute(2, 0, 1).contiguous()
        outlines = None if sample.outlines is None else tuple(sample.outlines)
        return cls(image, Targets.from_instances(sample.truth), sample.image_id, outlines=outlines)

    def to(self, device: torch.device) -> TrainingSample:
        """The same on a device, rendered there."""
        targets = without_empty_crowd(self.targets).to(device)
        return replace(self, image=moved(self.image, device), targets=targets).rendered()

    def rendered(self) -> TrainingSample:
        """The same with the image that the targets refer to."""
        if self.rendering is None:
            return self
        return replace(self, image=self.rendering(self.image), rendering=None)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the image and what is large of its truth take."""
        masks, tensors = self.targets.masks, (self.image, self.targets.semantic)
        stored = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        stored += 0 if masks is None else masks.pixels.nbytes
        return stored + sum(_outline_bytes(outline) for outline in self.outlines or ())


@dataclass(frozen=True)
class View:
    """A window of an image, resized and then brought into one of eight orientations.

    Convention:
        The window ``10 20 30 40`` at size (40, 40) doubles the scale: the source point (12, 25) maps to
        (4, 10), with ``flip_x`` to (36, 10), with ``transposed`` to (10, 4).

    Attributes:
        window: x1 y1 x2 y2 in source pixels, inside the image.
        resized: (height, width) of the resized window, before reorientation.
        transposed: swap rows and columns, after resizing.
        flip_x: swap left and right, after transposition.
        flip_y: swap top and bottom, after transposition.
        antialias: low-pass filter before downscaling, as in prediction.
    """

    window: Window
    resized: Size
    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False
    antialias: bool = True

    @property
    def size(self) -> Size:
        """(height, width) of the view."""
        return self.resized[::-1] if self.transposed else self.resized

    @property
    def shrinks(self) -> bool:
        """Whether the view has fewer pixels than its window."""
        x1, y1, x2, y2 = self.window
        return self.resized[0] * self.resized[1] < (y2 - y1) * (x2 - x1)

    @property
    def of_window(self) -> View:
        """The same view of the window, cut out of the source."""
        x1, y1, x2, y2 = self.window
        return replace(self, window=(0, 0, x2 - x1, y2 - y1))

    def cut(self, image: Tensor) -> Tensor:
        """The window of an image ``[C, H, W]``."""
        x1, y1, x2, y2 = self.window
        return image[:, y1:y2, x1:x2]

    def image(self, image: Tensor) -> Tensor:
        """``[C, H, W]`` to ``[C, h, w]``, bilinear."""
        image = self.cut(image)
        if image.shape[1:] != self.resized:
            image = _resize(image, self.resized, self.antialias)
        if self.transposed:
            image = image.transpose(1, 2)
        if self.flip_x:
            image = functional.horizontal_flip(image)
        if self.flip_y:
            image = functional.vertical_flip(image)
        return image.contiguous()

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes ``[N, 4]`` of the source, clipped to the window; those outside lose their width or height."""
        corners = self._scaled(boxes.reshape(-1, 2, 2))
        height, width = self.resized
        corners = corners.clamp(min=0).minimum(corners.new_tensor([width, height]))
        return self._oriented(corners.reshape(-1, 4))

    @property
    def mirrors(self) -> bool:
        """Whether the view is a mirror image, which quarter turns alone are not."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    def keypoints(self, keypoints: Tensor) -> Tensor:
        """Keypoints ``[N, K, 3]``; those outside the window become ``0 0 0``, like unannotated ones.

        A mirrored left hand is still called left here; :func:`view_sample` swaps the names.
        """
        points = self._scaled(keypoints[..., :2])
        height, width = self.resized
        inside = ((points >= 0) & (points <= points.new_tensor([width, height]))).all(-1)
        turned = self._oriented(points.repeat(1, 1, 2).reshape(-1, 4))[:, :2].reshape(points.shape)
        seen = inside & (keypoints[..., 2] > 0)
        return torch.cat([turned, keypoints[..., 2:]], -1) * seen[..., None]

    def masks(self, masks: TargetMasks) -> TargetMasks:
        """Masks of the source as seen in the view, by nearest pixel; a mask outside keeps no pixel."""
        rows = _nearest(self.window[1], self.window[3], self.resized[0])
        columns = _nearest(self.window[0], self.window[2], self.resized[1])
        edges = masks.windows.T.contiguous()
        ranges = [torch.searchsorted(columns if i % 2 == 0 else rows, edges[i]) for i in range(4)]
        windows = torch.stack(ranges, 1)
        patches = [
            self._turned(patch[rows[y1:y2].numpy() - top][:, columns[x1:x2].numpy() - left]).reshape(-1)
            for patch, (left, top, _, _), (x1, y1, x2, y2) in zip(
                masks.masks().patches(), masks.windows.tolist(), windows.tolist(), strict=True
            )
        ]
        pixels = np.concatenate([np.zeros(0, np.uint8), *patches])
        return TargetMasks(torch.from_numpy(pixels), self._oriented(windows), self.size)

    def drawn(self, outlines: Sequence[Outline], source: Size) -> TargetMasks:
        """Masks as seen in the view, of outlines in a source of this size.

        Corners of polygons are moved before they are drawn: where the view scales or mirrors, pixels along
        the edge may differ from :meth:`masks`. A crop is the same, and so are run-length codes.
        """
        parts = [TargetMasks.empty(self.size)]
        for outline in outlines:
            if isinstance(outline, dict):
                parts.append(self.masks(TargetMasks.from_masks(Masks.from_rle([outline], source))))
                continue
            patch, (y, x) = draw_polygon([self._corners(part) for part in outline], self.size)
            window = torch.tensor([[x, y, x + patch.shape[1], y + patch.shape[0]]])
            parts.append(TargetMasks(torch.from_numpy(patch).reshape(-1), window, self.size))
        return TargetMasks.concatenate(parts, self.size)

    def semantic(self, classes: Tensor) -> Tensor:
        """A map ``[H, W]`` of the source as seen in the view, ``[h, w]``, by nearest pixel."""
        rows = _nearest(self.window[1], self.window[3], self.resized[0])
        columns = _nearest(self.window[0], self.window[2], self.resized[1])
        return torch.from_numpy(self._turned(classes[rows][:, columns].numpy()).copy())

    def _turned(self, seen: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array of the resized window, or of a part of it, in the view's orientation."""
        seen = seen.T if self.transposed else seen
        return seen[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def _corners(self, part: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Corners of an outline ``[K, 2]`` of the source, in the view."""
        x1, y1, x2, y2 = self.window
        scale = np.array([self.resized[1] / (x2 - x1), self.resized[0] / (y2 - y1)])
        moved: npt.NDArray[np.float64] = (part - (x1, y1)) * scale
        moved = moved[:, ::-1] if self.transposed else moved
        flips = np.array([self.flip_x, self.flip_y])
        moved = np.where(flips, self.size[::-1] - moved, moved)
        # Drawing truncates negative fifths of a pixel towards zero, so that a crop would not be exact.
        return np.where(moved < 0, (np.floor(5 * moved + 0.5) - 0.75) / 5, moved)

    def _scaled(self, points: Tensor) -> Tensor:
        """Source points ``[..., 2]`` in the resized window."""
        x1, y1, x2, y2 = self.window
        scale = points.new_tensor([self.resized[1] / (x2 - x1), self.resized[0] / (y2 - y1)])
        return (points - points.new_tensor([x1, y1])) * scale

    def _oriented(self, boxes: Tensor) -> Tensor:
        """Boxes ``[N, 4]`` of the resized window, float or integer, in the view's orientation."""
        height, width = self.size
        x1, y1, x2, y2 = boxes[:, [1, 0, 3, 2]].T if self.transposed else boxes.T
        x1, x2 = (width - x2, width - x1) if self.flip_x else (x1, x2)
        y1, y2 = (height - y2, height - y1) if self.flip_y else (y1, y2)
        return torch.stack([x1, y1, x2, y2], 1)


@dataclass(frozen=True)
class Rendering:
    """What is left to be done to an image, on whatever device it is.

    Attributes:
        view: of the image.
        colouring: of the view.
    """

    view: View
    colouring: Colouring

    def __call__(self, image: Tensor) -> Tensor:
        """The view of uint8 ``[C, H, W]``, coloured."""
        return self.colouring(self.view.image(image))


def _resize(image: Tensor, size: Size, antialias: bool) -> Tensor:
    # torch's antialiased uint8 kernel (2.14) gives wrong pixels or fails if the result is one pixel wide.
    exact = antialias and size[1] == 1
    pixels: Tensor = functional.resize(image.float() if exact else image, list(size), antialias=antialias)
    return pixels.round().to(image.dtype) if exact else pixels


def _nearest(start: int, stop: int, count: int) -> Tensor:
    """int64 ``[count]``: the source pixel under the centre of each of ``count`` pixels over [start, stop)."""
    # Not "nearest", floor(i * step), which would shift masks by half a pixel against the image.
    return start + ((2 * torch.arange(count) + 1) * (stop - start)).div(2 * count, rounding_mode="floor")


def window_pixels(windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Owner, y and x, int64 ``[P]``, of all pixels of ``windows`` ``[N, 4]``, in storage order."""
    width, height = (windows[:, 2:] - windows[:, :2]).T
    areas = width * height
    owner = torch.repeat_interleave(torch.arange(len(windows)), areas)
    place = torch.arange(len(owner)) - (areas.cumsum(0) - areas)[owner]
    row = place.div(width[owner], rounding_mode="floor")
    return owner, windows[owner, 1] + row, windows[owner, 0] + place - row * width[owner]


def set_pixels(masks: TargetMasks) -> tuple[Tensor, Tensor, Tensor]:
    """Owner, y and x of the pixels inside the masks."""
    inside = masks.pixels.nonzero()[:, 0]
    owner, y, x = window_pixels(masks.windows)
    return owner[inside], y[inside], x[inside]


def keep(truth: Targets, chosen: Tensor) -> Targets:
    """The objects for which ``chosen`` (bool ``[N]``) is true; like indexing, but fast for many masks."""
    if chosen.all():
        return truth
    masks = truth.masks
    if masks is not None:
        pixels = masks.pixels[torch.repeat_interleave(chosen, masks.window_areas)]
        masks = TargetMasks(pixels, masks.windows[chosen], masks.size)
    return replace(replace(truth, masks=None)[chosen], masks=masks)


def mark_as_crowd(truth: Targets, hidden: Tensor) -> Targets:
    """The truth with the objects ``hidden`` (bool ``[N]``) marked as crowd, too."""
    return replace(truth, crowd=hidden if truth.crowd is None else truth.crowd | hidden)


def view_sample(
    sample: TrainingSample,
    view: View,
    min_visible: float = 0.0,
    *,
    drop_truncated: bool = False,
    later: bool = False,
) -> TrainingSample:
    """The sample as ``view`` shows it.

    Objects outside are dropped. If less than ``min_visible`` of an object's box is left, the object is marked
    as crowd: too little is left to recognise it, and it is not background either; with ``drop_truncated`` it
    counts as background, unless it is a crowd. If there are masks, boxes become tight around the remaining
    pixels, and objects without a pixel are dropped. Proposals and the semantic map are clipped to the window.
    ``areas`` are dropped, since they refer to the source. With ``later`` the image is that of the window.
    """
    truth = sample.targets
    boxes = view.boxes(truth.boxes)
    inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    outlines = _kept(sample.outlines, inside)
    truth, boxes = keep(truth, inside), boxes[inside]
    x1, y1, x2, y2 = view.window
    pixel_area = view.size[0] * view.size[1] / ((x2 - x1) * (y2 - y1))
    visible = _box_areas(boxes) / (_box_areas(truth.boxes) * pixel_area)
    truth = replace(truth, size=view.size, boxes=boxes, areas=None)
    enough = visible >= min_visible
    if truth.crowd is not None:
        enough |= truth.crowd  # the rest of a crowd is neither object nor background
    if drop_truncated:
        truth, outlines = keep(truth, enough), _kept(outlines, enough)
    else:
        truth = mark_as_crowd(truth, ~enough)
    if truth.keypoints is not None:
        points = view.keypoints(truth.keypoints)
        if view.mirrors and truth.skeleton is not None:
            points = points[:, list(truth.skeleton.mirror)]
        truth = replace(truth, keypoints=points)
    if truth.proposals is not None:
        proposals = view.boxes(truth.proposals)
        truth = replace(truth, proposals=proposals[_box_areas(proposals) > 0])
    if truth.semantic is not None:
        truth = replace(truth, semantic=view.semantic(truth.semantic))
    if outlines is not None:
        truth = tighten_boxes(replace(truth, masks=view.drawn(outlines, sample.targets.size)))
    elif truth.masks is not None:
        truth = tighten_boxes(replace(truth, masks=view.masks(truth.masks)))
    image = view.cut(sample.image) if later else view.image(sample.image)
    return TrainingSample(image, truth, sample.image_id)


def _kept(outlines: Sequence[Outline] | None, chosen: Tensor) -> Sequence[Outline] | None:
    """The outlines for which ``chosen`` (bool ``[N]``) is true, if there are any."""
    return None if outlines is None else list(compress(outlines, chosen.tolist()))


def _outline_bytes(outline: Outline) -> int:
    return len(outline["counts"]) if isinstance(outline, dict) else sum(part.nbytes for part in outline)


def _box_areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def tighten_boxes(truth: Targets) -> Targets:
    """Tight boxes around the masks; objects without a pixel are dropped."""
    assert truth.masks is not None
    boxes = torch.from_numpy(truth.masks.masks().boxes())
    return keep(replace(truth, boxes=boxes), boxes[:, 2] > 0)
