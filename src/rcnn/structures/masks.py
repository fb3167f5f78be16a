"""Binary masks of one image, each kept inside its own window.

Legend: N masks, P pixels of all windows, H and W image height and width, h and w those of one window.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rcnn.structures.outlines import Outline, draw_polygon, trace
from rcnn.structures.run_lengths import (
    areas_of,
    drawn,
    from_text,
    run_lengths,
    starts_of,
    to_text,
)

Array = npt.NDArray[Any]
Size = tuple[int, int]
"""(height, width) in pixels."""
Rle = dict[str, Any]
"""COCO's run-length code: ``size`` (height, width) and ``counts``, text or a list."""


def as_index_list(index: Any) -> tuple[Any, bool]:
    """An index of objects, and whether it is one integer (Python's, NumPy's or torch's): then as a list."""
    if getattr(index, "ndim", 0) == 0:
        with contextlib.suppress(TypeError):
            return [operator.index(index)], True
    return (index if isinstance(index, slice) else np.asarray(index, None if len(index) else int)), False


@dataclass(frozen=True)
class Masks:
    """N binary masks of one image, each kept only inside its own window.

    A thousand nuclei on a 16-megapixel image would take 16 GB as full bitmaps; kept this way they are as
    large as their boxes. ``len``, indexing by slices, masks and integers, and ``shape`` behave as for an
    array ``[N, H, W]``; :meth:`dense` builds that array.

    Attributes:
        pixels: uint8 ``[P]`` of 0 and 1; the windows' pixels, row by row, one mask after the other.
        windows: int64 ``[N, 4]``; x1 y1 x2 y2 of the stored window of each mask, inside the image.
        size: (height, width) of the image.
    """

    pixels: npt.NDArray[np.uint8]
    windows: npt.NDArray[np.int64]
    size: Size

    @classmethod
    def empty(cls, size: Size) -> Masks:
        """No masks, on an image of ``size``."""
        return cls(np.zeros(0, np.uint8), np.zeros((0, 4), np.int64), size)

    @classmethod
    def from_patches(cls, patches: Sequence[Array], origins: Sequence[Size], size: Size) -> Masks:
        """Masks from bitmaps ``[h, w]`` whose top left pixels are at ``origins``, given as (y, x)."""
        if not len(patches):
            return cls.empty(size)
        windows = [(x, y, x + p.shape[1], y + p.shape[0]) for p, (y, x) in zip(patches, origins, strict=True)]
        pixels = np.concatenate([(np.asarray(patch) != 0).reshape(-1) for patch in patches])
        return cls(pixels.astype(np.uint8), np.array(windows, np.int64), size)

    @classmethod
    def concatenate(cls, parts: Sequence[Masks], size: Size) -> Masks:
        """All masks of ``parts``, which belong to one image of ``size``, one after the other."""
        all_parts = [cls.empty(size), *parts]
        pixels = np.concatenate([part.pixels for part in all_parts])
        return cls(pixels, np.concatenate([part.windows for part in all_parts]), size)

    @classmethod
    def from_dense(cls, bitmaps: Array) -> Masks:
        """Masks from full bitmaps ``[N, H, W]`` of any dtype; non-zero is inside."""
        size = (int(bitmaps.shape[1]), int(bitmaps.shape[2]))
        patches, origins = [], []
        for bitmap in np.asarray(bitmaps) != 0:
            rows, columns = np.flatnonzero(bitmap.any(1)), np.flatnonzero(bitmap.any(0))
            top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
            left, right = (int(columns[0]), int(columns[-1]) + 1) if len(rows) else (0, 0)
            patches.append(bitmap[top:bottom, left:right])
            origins.append((top, left))
        return cls.from_patches(patches, origins, size)

    @classmethod
    def from_rle(cls, rles: Sequence[Rle], size: Size) -> Masks:
        """Masks from COCO run-length codes, compressed or not."""
        from faster_coco_eval.core import mask as coco_mask

        patches, origins = [], []
        for rle in rles:
            packed = coco_mask.frPyObjects(rle, *size) if isinstance(rle["counts"], list) else rle
            x, y, width, height = (int(v) for v in coco_mask.toBbox(packed))
            patches.append(coco_mask.decode(packed)[y : y + height, x : x + width])
            origins.append((y, x))
        return cls.from_patches(patches, origins, size)

    @classmethod
    def from_outlines(cls, outlines: Sequence[Outline], size: Size) -> Masks:
        """Masks of polygons (lists of parts ``[K, 2]`` of x, y) and run-length codes, mixed as they come.

        Polygons are drawn as pycocotools draws them, pixel for pixel, each in its own window.
        """
        patches, origins = [], []
        for outline in outlines:
            if isinstance(outline, dict):
                mask = cls.from_rle([outline], size)
                x, y = mask.windows[0, :2].tolist()
                patch, origin = next(mask.patches()), (y, x)
            else:
                patch, origin = draw_polygon(outline, size)
            patches.append(patch)
            origins.append(origin)
        return cls.from_patches(patches, origins, size)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W), as the dense array would have it."""
        return (len(self), *self.size)

    @property
    def window_areas(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``: the number of stored pixels of each mask."""
        areas: npt.NDArray[np.int64] = (self.windows[:, 2:] - self.windows[:, :2]).prod(1)
        return areas

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``: where in ``pixels`` the window of each mask begins."""
        areas = self.window_areas
        offsets: npt.NDArray[np.int64] = areas.cumsum() - areas
        return offsets

    def patches(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield each mask's window as uint8 ``[h, w]``, a view."""
        start = 0
        for x1, y1, x2, y2 in self.windows.tolist():
            end = start + (y2 - y1) * (x2 - x1)
            yield self.pixels[start:end].reshape(y2 - y1, x2 - x1)
            start = end

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.bool_]: ...
    @overload
    def __getitem__(self, index: Any) -> Masks: ...
    def __getitem__(self, index: Any) -> Any:
        """One mask as bool ``[H, W]`` for an integer; otherwise the Masks that the index selects."""
        index, is_one = as_index_list(index)
        chosen = np.arange(len(self))[index]
        patches = list(self.patches())
        pixels = [self.pixels[:0], *(patches[i].reshape(-1) for i in chosen)]
        picked = Masks(np.concatenate(pixels), self.windows[chosen], self.size)
        return picked.dense()[0] if is_one else picked

    def united(self, owner: npt.NDArray[np.int64], count: int) -> Masks:
        """``count`` masks, each the union of those whose ``owner`` ``[N]`` is its index."""
        patches, origins = [], []
        own = list(self.patches())
        order = np.argsort(owner, kind="stable")
        ends = np.searchsorted(owner[order], np.arange(1, count))
        for members in np.split(order, ends) if count else ():
            windows = self.windows[members]
            low, high = windows[:, :2].min(0, initial=2**31), windows[:, 2:].max(0, initial=0)
            left, top = np.minimum(low, high).tolist()
            patch = np.zeros((int(high[1]) - top, int(high[0]) - left), np.uint8)
            for i, (x1, y1, x2, y2) in zip(members.tolist(), windows.tolist(), strict=True):
                patch[y1 - top : y2 - top, x1 - left : x2 - left] |= own[i]
            patches.append(patch)
            origins.append((top, left))
        return Masks.from_patches(patches, origins, self.size)

    def dense(self) -> npt.NDArray[np.bool_]:
        """Full bitmaps, bool ``[N, H, W]``."""
        bitmaps = np.zeros(self.shape, bool)
        for bitmap, patch, (x1, y1, x2, y2) in zip(
            bitmaps, self.patches(), self.windows.tolist(), strict=True
        ):
            bitmap[y1:y2, x1:x2] = patch
        return bitmaps

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.dense().astype(dtype or bool, copy=False)

    def areas(self) -> npt.NDArray[np.float32]:
        """float32 ``[N]``: pixels inside each mask."""
        return np.array([np.count_nonzero(patch) for patch in self.patches()], np.float32)

    def boxes(self) -> npt.NDArray[np.float32]:
        """float32 ``[N, 4]``: the tight box of each mask; an empty mask gives ``0 0 0 0``."""
        boxes = np.zeros((len(self), 4), np.float32)
        for box, patch, (x, y, _, _) in zip(boxes, self.patches(), self.windows.tolist(), strict=True):
            rows, columns = np.flatnonzero(patch.any(1)), np.flatnonzero(patch.any(0))
            if len(rows):
                box[:] = x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1
        return boxes

    def centroids(self) -> npt.NDArray[np.float64]:
        """float64 ``[N, 2]``: x and y of each mask's centre of mass; NaN where it is empty.

        Convention: pixel i covers ``[i, i + 1)``, so a mask of the corner pixel alone has ``0.5 0.5``.
        """
        centroids = np.full((len(self), 2), np.nan)
        for place, patch, (x, y, _, _) in zip(centroids, self.patches(), self.windows.tolist(), strict=True):
            of_columns, of_rows = patch.sum(0, dtype=np.int32), patch.sum(1, dtype=np.int32)
            if area := of_rows.sum():
                column = np.arange(len(of_columns)) @ of_columns / area
                place[:] = column + x + 0.5, np.arange(len(of_rows)) @ of_rows / area + y + 0.5
        return centroids

    def rle(self) -> list[Rle]:
        """Compressed COCO run-length codes, ``counts`` as text; no full bitmap is made."""
        return self.packed().rle()

    def packed(self) -> PackedMasks:
        """The same masks as run-length codes, which take a fraction of the memory."""
        return PackedMasks(
            *to_text(*run_lengths(self.patches(), self.windows, self.size)), self.windows, self.size
        )

    def polygons(self) -> list[list[npt.NDArray[np.float64]]]:
        """The outer outlines of each mask along its pixels' borders, parts ``[K, 2]`` of x, y; no holes.

        :meth:`from_outlines` draws the same masks again, where they have no holes.
        """
        windows = self.windows.tolist()
        return [
            trace(patch.astype(bool), (y, x))[0]
            for patch, (x, y, _, _) in zip(self.patches(), windows, strict=True)
        ]


class PackedMasks(Masks):
    """Masks of one image as COCO's run-length codes, drawn each time that their pixels are asked for.

    The 100 detections of a photograph take some 20 kB in place of a megabyte: this is how an evaluation holds
    the masks of all images. Everything that :class:`Masks` offers gives the same results.

    Attributes:
        text: uint8 ``[B]``: the characters of all codes, one after the other.
        ends: int64 ``[N]``: where in ``text`` the code of each mask ends.
    """

    text: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    def __init__(
        self,
        text: npt.NDArray[np.uint8],
        ends: npt.NDArray[np.int64],
        windows: npt.NDArray[np.int64],
        size: Size,
    ) -> None:
        for name, value in (("text", text), ("ends", ends), ("windows", windows), ("size", size)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"PackedMasks({len(self)} masks of {self.size}, {self.text.nbytes} bytes)"

    @classmethod
    def empty(cls, size: Size) -> PackedMasks:
        """No masks, on an image of ``size``."""
        return Masks.empty(size).packed()

    @classmethod
    def from_patches(cls, patches: Sequence[Array], origins: Sequence[Size], size: Size) -> PackedMasks:
        """As of :class:`Masks`."""
        return Masks.from_patches(patches, origins, size).packed()

    @classmethod
    def concatenate(cls, parts: Sequence[Masks], size: Size) -> PackedMasks:
        """As of :class:`Masks`; parts that are packed are not drawn."""
        packed = [cls.empty(size), *(part.packed() for part in parts)]
        lengths = np.concatenate([np.diff(part.ends, prepend=0) for part in packed])
        text, windows = (
            np.concatenate([getattr(part, name) for part in packed]) for name in ("text", "windows")
        )
        return cls(text, lengths.cumsum(), windows, size)

    @classmethod
    def from_rle(cls, rles: Sequence[Rle], size: Size) -> PackedMasks:
        """Masks with these codes; none is drawn."""
        from faster_coco_eval.core import mask as coco_mask

        packed = [
            coco_mask.frPyObjects(rle, *size) if isinstance(rle["counts"], list) else rle for rle in rles
        ]
        texts = [code["counts"] for code in packed]
        text = b"".join(text if isinstance(text, bytes) else text.encode("ascii") for text in texts)
        boxes = np.array([coco_mask.toBbox(code) for code in packed], np.int64).reshape(-1, 4)
        windows = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        ends = np.array([len(text) for text in texts], np.int64).cumsum()
        return cls(np.frombuffer(text, np.uint8), ends, windows, size)

    @classmethod
    def from_outlines(cls, outlines: Sequence[Outline], size: Size) -> PackedMasks:
        """As of :class:`Masks`; where all are run-length codes, none is drawn."""
        codes = [outline for outline in outlines if isinstance(outline, dict)]
        if len(codes) == len(outlines):
            return cls.from_rle(codes, size)
        return Masks.from_outlines(outlines, size).packed()

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """As of :class:`Masks`; drawn again on each use."""
        return np.concatenate([np.zeros(0, np.uint8), *(patch.reshape(-1) for patch in self.patches())])

    def patches(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Draw each mask's window as uint8 ``[h, w]``, one after the other."""
        lengths, ends = from_text(self.text, self.ends)
        for first, last, (x1, y1, x2, y2) in zip(
            starts_of(ends).tolist(), ends.tolist(), self.windows.tolist(), strict=True
        ):
            yield drawn(lengths[first:last], (x1, y1, x2, y2), self.size[0])

    def __getitem__(self, index: Any) -> Any:
        """As of :class:`Masks`; the masks that an index selects are packed too."""
        index, is_one = as_index_list(index)
        chosen = np.arange(len(self))[index]
        lengths = np.diff(self.ends, prepend=0)[chosen]
        ends = lengths.cumsum()
        place = np.arange(int(lengths.sum())) + np.repeat(
            starts_of(self.ends)[chosen] - starts_of(ends), lengths
        )
        picked = PackedMasks(self.text[place], ends, self.windows[chosen], self.size)
        return picked.dense()[0] if is_one else picked

    def areas(self) -> npt.NDArray[np.float32]:
        """float32 ``[N]``: pixels inside each mask."""
        return areas_of(*from_text(self.text, self.ends)).astype(np.float32)

    def rle(self) -> list[Rle]:
        """Compressed COCO run-length codes, ``counts`` as text."""
        text, size = self.text.tobytes().decode("ascii"), list(self.size)
        places = zip(starts_of(self.ends).tolist(), self.ends.tolist(), strict=True)
        return [{"size": [*size], "counts": text[first:last]} for first, last in places]

    def packed(self) -> PackedMasks:
        """The masks themselves."""
        return self


def column_runs(patch: Array, top: int, left: int, height: int, width: int) -> list[int]:
    """Lengths of the runs of 0, 1, 0, … of a patch placed in an image, read column by column."""
    window = np.array([[left, top, left + patch.shape[1], top + patch.shape[0]]], np.int64)
    lengths: list[int] = run_lengths([patch.astype(np.uint8)], window, (height, width))[0].tolist()
    return lengths
