"""What passes between the parts of the package, and the conventions it keeps.

Legend: N objects of one image, B images of a batch, H and W image height and width in pixels.

Convention:
    Boxes are ``x1 y1 x2 y2``, float32, absolute and continuous: pixel *i* covers ``[i, i + 1)``, so a box
    around the single pixel in the corner is ``0 0 1 1`` and its width is ``x2 - x1 = 1``. Sizes are
    ``(height, width)``. Labels index ``class_names``; there is no background class among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from rcnn.structures import arrays
from rcnn.structures.arrays import Skeleton as Skeleton

if TYPE_CHECKING:
    import numpy.typing as npt

Size = tuple[int, int]
Rle = dict[str, Any]


@dataclass(frozen=True)
class Masks:
    """N binary masks of one image, each kept only inside its own window.

    A thousand nuclei on a 16-megapixel image would be 16 GB as full bitmaps; kept this way they are as
    large as their boxes. ``len``, indexing by slices, masks and integer tensors, and ``.shape`` behave as for
    a tensor ``[N, H, W]``; :meth:`dense` builds that tensor when it is really wanted.

    Attributes:
        pixels: uint8 ``[P]`` of 0 and 1; the windows' pixels, row by row, one mask after the other.
        windows: int64 ``[N, 4]``; x1 y1 x2 y2 of the stored window of each mask, inside the image.
        size: (height, width) of the image.
    """

    pixels: Tensor
    windows: Tensor
    size: Size

    @classmethod
    def empty(cls, size: Size) -> Masks:
        """No masks at all, on an image of ``size``."""
        return cls(torch.zeros(0, dtype=torch.uint8), torch.zeros((0, 4), dtype=torch.int64), size)

    @classmethod
    def from_patches(cls, patches: Sequence[Tensor], origins: Sequence[Size], size: Size) -> Masks:
        """Masks from bitmaps ``[h, w]`` whose upper left pixels lie at ``origins``, given as (y, x)."""
        if not patches:
            return cls.empty(size)
        windows = [(x, y, x + p.shape[1], y + p.shape[0]) for p, (y, x) in zip(patches, origins, strict=True)]
        pixels = torch.cat([(patch != 0).reshape(-1) for patch in patches]).to(torch.uint8)
        return cls(pixels, torch.tensor(windows, dtype=torch.int64), size)

    @classmethod
    def concatenate(cls, parts: Sequence[Masks], size: Size) -> Masks:
        """All masks of ``parts``, which are of one image of ``size``, one after the other."""
        pixels = [cls.empty(size).pixels, *(part.pixels for part in parts)]
        windows = [cls.empty(size).windows, *(part.windows for part in parts)]
        return cls(torch.cat(pixels), torch.cat(windows), size)

    @classmethod
    def from_dense(cls, bitmaps: Tensor) -> Masks:
        """Masks from full bitmaps ``[N, H, W]`` of any dtype; non-zero is inside."""
        size = (int(bitmaps.shape[1]), int(bitmaps.shape[2]))
        inside = bitmaps != 0
        patches, origins = [], []
        for bitmap, rows, columns in zip(inside, inside.any(2), inside.any(1), strict=True):
            ys, xs = rows.nonzero(), columns.nonzero()
            if len(ys) == 0:
                patches.append(bitmap[:0, :0])
                origins.append((0, 0))
                continue
            top, left = int(ys[0]), int(xs[0])
            patches.append(bitmap[top : int(ys[-1]) + 1, left : int(xs[-1]) + 1])
            origins.append((top, left))
        return cls.from_patches(patches, origins, size)

    @classmethod
    def from_rle(cls, rles: Sequence[Rle], size: Size) -> Masks:
        """Masks from COCO run-length codes, compressed or not."""
        # pycocotools' own decode sets off a DeprecationWarning of NumPy 2; this is the same code without.
        from faster_coco_eval.core import mask as coco_mask

        patches, origins = [], []
        for rle in rles:
            packed = coco_mask.frPyObjects(rle, *size) if isinstance(rle["counts"], list) else rle
            x, y, width, height = (int(v) for v in coco_mask.toBbox(packed))
            bitmap = coco_mask.decode(packed)[y : y + height, x : x + width]
            patches.append(torch.from_numpy(np.ascontiguousarray(bitmap)))
            origins.append((y, x))
        return cls.from_patches(patches, origins, size)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), as the dense tensor would have it."""
        return (len(self), *self.size)

    @property
    def offsets(self) -> Tensor:
        """int64 ``[N]``: where in ``pixels`` the window of each mask begins."""
        areas = self.window_areas
        return areas.cumsum(0) - areas

    @property
    def window_areas(self) -> Tensor:
        """int64 ``[N]``: the number of stored pixels of each mask."""
        return (self.windows[:, 2] - self.windows[:, 0]) * (self.windows[:, 3] - self.windows[:, 1])

    def patches(self) -> Iterator[Tensor]:
        """Yield each mask's window as uint8 ``[h, w]``, a view."""
        for flat, (x1, y1, x2, y2) in zip(
            torch.split(self.pixels, self.window_areas.tolist()), self.windows.tolist(), strict=True
        ):
            yield flat.view(y2 - y1, x2 - x1)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: Any) -> Masks: ...
    def __getitem__(self, index: Any) -> Masks | Tensor:
        """One mask as bool ``[H, W]`` for an integer; otherwise the Masks that the index selects."""
        index, one = arrays.as_index_list(index)
        chosen = torch.arange(len(self), device=self.windows.device)[index]
        patches = list(self.patches())
        windows = self.windows[chosen]
        parts = [patches[i].reshape(-1) for i in chosen.tolist()]
        picked = Masks(torch.cat(parts) if parts else self.pixels[:0], windows, self.size)
        return picked.dense()[0] if one else picked

    def dense(self) -> Tensor:
        """Full bitmaps, bool ``[N, H, W]``."""
        bitmaps = torch.zeros(self.shape, dtype=torch.bool, device=self.pixels.device)
        for bitmap, patch, (x1, y1, x2, y2) in zip(
            bitmaps, self.patches(), self.windows.tolist(), strict=True
        ):
            bitmap[y1:y2, x1:x2] = patch.bool()
        return bitmaps

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.dense().cpu().numpy().astype(dtype or bool, copy=False)

    def areas(self) -> Tensor:
        """float32 ``[N]``: pixels inside each mask."""
        areas = [int(patch.sum()) for patch in self.patches()]
        return torch.tensor(areas, dtype=torch.float32, device=self.pixels.device)

    def boxes(self) -> Tensor:
        """float32 ``[N, 4]``: the tight box of each mask; an empty mask gives ``0 0 0 0``."""
        boxes = torch.zeros((len(self), 4), device=self.pixels.device)
        for box, patch, window in zip(boxes, self.patches(), self.windows, strict=True):
            ys, xs = patch.any(1).nonzero(), patch.any(0).nonzero()
            if len(ys):
                tight = torch.stack([xs[0, 0], ys[0, 0], xs[-1, 0] + 1, ys[-1, 0] + 1])
                box.copy_(tight + window[:2].repeat(2))
        return boxes

    def rle(self) -> list[Rle]:
        """Compressed COCO run-length codes, ``counts`` as text; no full bitmap is made on the way."""
        return self.numpy().rle()

    def numpy(self) -> arrays.Masks:
        """The same masks in NumPy."""
        return arrays.Masks(self.pixels.cpu().numpy(), self.windows.cpu().numpy(), self.size)

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on another device."""
        return Masks(self.pixels.to(device), self.windows.to(device), self.size)


# The fields of Instances that are not one row an object.
PER_IMAGE_FIELDS = ("semantic", "semantic_logits", "proposals")
VOID = 255  # in a semantic map: no class, neither learnt nor measured


@dataclass(frozen=True)
class Instances:
    """The objects of one image; the same class for truth and for predictions, ``None`` where absent.

    Attributes:
        size: (height, width) of the image that the coordinates refer to.
        boxes: float32 ``[N, 4]``, x1 y1 x2 y2 in pixels.
        labels: int64 ``[N]``, indices into ``class_names``.
        scores: float32 ``[N]`` in [0, 1], predictions only; sorted, best first.
        masks: the outlines, see :class:`Masks`.
        mask_maps: float32 ``[N, M, M]``, what a network says of the pixels inside each box before
            ``Transform.invert`` pastes it at the image's own resolution.
        keypoints: float32 ``[N, K, 3]``: x, y and visibility (truth: 0 not annotated, 1 hidden, 2 visible)
            or score (predictions: the network's logit; the higher the surer).
        crowd: bool ``[N]``, truth only: a region of many objects, neither positive nor negative.
        difficult: bool ``[N]``, truth only: VOC's mark for objects that the evaluation passes over.
        areas: float32 ``[N]``, truth only: the annotation's own area where the format has one (COCO).
        semantic: int64 ``[H, W]``, the class of every pixel (``semantic_names``); 255 is void. Of the whole
            image, so that selecting objects leaves it.
        semantic_logits: float32 ``[C, H, W]``, what a network says of every pixel and class before
            ``Transform.invert`` decides at the image's own resolution.
        proposals: float32 ``[P, 4]``, boxes found beforehand that may hold an object, best first; of the
            whole image too.
        class_names: the names that ``labels`` index.
        semantic_names: the names that ``semantic`` indexes.
        skeleton: what the keypoints are, where there are any.
        path: the image file, where known.
    """

    size: Size
    boxes: Tensor
    labels: Tensor
    scores: Tensor | None = None
    masks: Masks | None = None
    mask_maps: Tensor | None = None
    keypoints: Tensor | None = None
    crowd: Tensor | None = None
    difficult: Tensor | None = None
    areas: Tensor | None = None
    semantic: Tensor | None = None
    semantic_logits: Tensor | None = None
    proposals: Tensor | None = None
    class_names: tuple[str, ...] = ()
    semantic_names: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    path: Path | None = None

    @classmethod
    def empty(cls, size: Size, class_names: tuple[str, ...] = (), **present: Any) -> Instances:
        """No objects on an image of ``size``; further fields as keywords."""
        return cls(
            size, torch.zeros((0, 4)), torch.zeros(0, dtype=torch.int64), class_names=class_names, **present
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> Instances:
        """The objects that a slice, a bool mask or integer indices ``[M]`` select; an integer selects one."""
        index, _ = arrays.as_index_list(index)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        per_object: dict[str, Any] = {
            k: v[index]
            for k, v in values.items()
            if isinstance(v, Tensor | Masks) and k not in PER_IMAGE_FIELDS
        }
        return replace(self, **per_object)

    def to(self, device: torch.device | str) -> Instances:
        """The same objects on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor | Masks)}
        return replace(self, **moved)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def save(self, path: str | Path) -> Path:
        """Write the objects to ``path``; its ending says how.

        ``.json``: COCO results; ``.csv``: a table of the objects; ``.png`` or ``.jpg``: an overlay on the
        image.

        Raises:
            ValueError: another ending, or an overlay where the image file is not known.
        """
        from rcnn.inference.writers import save_instances

        return save_instances(self, Path(path))

    def to_coco(
        self, image_id: int | str = 0, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """COCO results: one dict an object with ``image_id category_id bbox score`` and, with masks, RLE.

        ``bbox`` is x, y, width, height. Without ``category_ids`` a label's category id is label + 1.
        """
        return self.numpy().to_coco(image_id, category_ids)

    def to_supervision(self) -> Any:
        """The same objects as ``supervision.Detections`` (needs the ``supervision`` extra)."""
        found = self.numpy().to_supervision()
        found.confidence = None if self.scores is None else found.confidence
        return found

    def numpy(self) -> arrays.Instances:
        """The same objects in NumPy, as exported models give them; scores of 1 where there are none."""
        points = self.keypoints
        return arrays.Instances(
            self.size,
            self.boxes.cpu().numpy(),
            self.labels.cpu().numpy(),
            np.ones(len(self), np.float32) if self.scores is None else self.scores.cpu().numpy(),
            None if self.masks is None else self.masks.numpy(),
            None if points is None else points.cpu().numpy(),
            self.class_names,
            self.skeleton,
            self.path,
        )


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes in one tensor, padded with zeros at the right and the bottom.

    Attributes:
        tensors: float32 ``[B, 3, H, W]``, normalised, H and W the largest of the batch, rounded up.
        sizes: the (height, width) that each image really covers.
        seeds: in training, one for each image, of the random choices made about it; an image then has the
            same anchors and proposals sampled in whatever batch and process it is. Empty: torch's own
            generator.
        proposals: float32 ``[P, 4]`` of each image, in the batch's own coordinates, for models that are given
            their proposals, where there is no truth to carry them; else empty.
    """

    tensors: Tensor
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...] = ()
    proposals: tuple[Tensor, ...] = ()

    def generators(self) -> list[torch.Generator | None]:
        """One for each image, from ``seeds``; None stands for torch's own."""
        if not self.seeds:
            return [None] * len(self)
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Output:
    """What a model's ``forward`` returns, always.

    Attributes:
        losses: one scalar each, to be summed; empty without targets.
        detections: one per image in the batch's own (resized) coordinates; empty with targets.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    detections: list[Instances] = field(default_factory=list)
