"""The compiled functions on tensors: convolutions, RoIAlign and suppression, in float32 on a CPU.

Each does what an operator of ``rcnn.ops`` or ``rcnn.layers`` does, the same up to rounding, with vectors of
the CPU's full width and with what follows a convolution done while its results are in registers.

Legend: B images, C channels in, K channels out, L levels, R regions, P the side of a pooled map.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rcnn.kernels.library import Library
from rcnn.layers import winograd
from rcnn.ops.convolution import ACTIVATIONS, pad_sides

# The smallest that were measured; it was the faster way for them, too.
MIN_CHANNELS = 32
MIN_TILES = 12
# Below these numbers of kernels torch's 1x1 convolutions are as fast, or faster: what C gains on passes over
# memory goes for copying cells into the caches.
MIN_KERNELS = 160
MIN_KERNELS_WITH_ADDEND = 64  # with a map to be added
MIN_CELLS = 200
# FCN's fc7, with 4096, took up to twice torch's time: a panel of its kernels serves only a few rows.
MAX_CHANNELS = 2048

Packed = tuple[Tensor, Tensor]  # kernels and bias of a 1x1 convolution

_number, _pointer = ctypes.c_int64, ctypes.c_void_p


class Kernels:
    """The functions of a compiled library."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self.lanes, self.panel_width = int(library.rcnn_lanes()), int(library.rcnn_wide())

    def supports_3x3(self, channels: int, count: int) -> bool:
        """Whether it computes, and faster than torch, a 3x3 convolution of C channels and K kernels."""
        return (
            min(channels, count) >= MIN_CHANNELS
            and channels % self.lanes == 0
            and count % self.panel_width == 0
        )

    def is_faster_3x3(self, images: Tensor) -> bool:
        """Whether it is faster than torch for these maps ``[B, C, H, W]``: not for tiny ones."""
        if images.ndim != 4:
            return False
        batch, _, height, width = images.shape
        return batch * -(-height // 4) * -(-width // 4) >= MIN_TILES

    def pack_3x3(self, weight: Tensor) -> Tensor:
        """``[36, K / wide, C, wide]`` of kernels ``[K, C, 3, 3]``, for :meth:`convolve_3x3`."""
        count, channels = weight.shape[:2]
        points = winograd.transform_kernels(weight).view(
            36, count // self.panel_width, self.panel_width, channels
        )
        return points.transpose(2, 3).contiguous()

    def convolve_3x3(
        self,
        images: Tensor,
        packed: Tensor,
        bias: Tensor | None = None,
        *,
        addend: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """As :func:`rcnn.layers.winograd.convolve`: ``[B, K, H, W]``, channels last.

        Args:
            images: ``[B, C, H, W]``, fastest in channels_last.
            packed: of :meth:`pack_3x3`.
            bias: ``[K]``.
            addend: ``[B, K, H, W]``, added before negative results become 0.
            relu: whether they do.

        Raises:
            ValueError: sizes or types do not go together.
            MemoryError: there is no memory for it.
        """
        _check(images, packed.shape[2], packed, *_present(bias), *_present(addend))
        batch, channels, height, width = images.shape
        count = packed.shape[1] * self.panel_width
        if channels % self.lanes:
            raise ValueError(f"{channels} channels: expected a multiple of {self.lanes}")
        if bias is not None and len(bias) != count:
            raise ValueError(f"a bias of {len(bias)} numbers for {count} kernels")
        if addend is not None and addend.shape != (batch, count, height, width):
            raise ValueError(f"a map {list(addend.shape)} to be added to {[batch, count, height, width]}")
        maps, shift = _cells(images), None if bias is None else bias.contiguous()
        added = None if addend is None else _cells(addend)
        output = _channels_last(batch, count, height, width)
        if output.numel() and self._library.rcnn_winograd(
            maps.data_ptr(), batch, height, width, channels, packed.data_ptr(), _address(shift), count,
            _address(added), relu, output.data_ptr(), torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory for a convolution of maps {list(images.shape)}")
        return output

    def supports_1x1(self, channels: int, count: int, *, added: bool) -> bool:
        """Whether it computes, and faster than torch, a 1x1 convolution of C channels and K kernels.

        ``added``: a map is added to its results.
        """
        return channels <= MAX_CHANNELS and count >= (MIN_KERNELS_WITH_ADDEND if added else MIN_KERNELS)

    def is_faster_1x1(self, images: Tensor) -> bool:
        """Whether it is faster than torch for these maps ``[B, C, H, W]``: not for tiny ones."""
        return images.ndim == 4 and images.shape[0] * images.shape[2] * images.shape[3] >= MIN_CELLS

    def pack_1x1(self, weight: Tensor, bias: Tensor | None) -> Packed:
        """Kernels ``[K, C, 1, 1]`` and their bias in panels, for :meth:`convolve_1x1`."""
        count, channels = weight.shape[:2]
        missing = -count % self.panel_width
        rows = functional.pad(weight.view(count, channels), (0, 0, 0, missing))
        shift = weight.new_zeros(len(rows)) if bias is None else functional.pad(bias, (0, missing))
        return rows.view(-1, self.panel_width, channels).transpose(1, 2).contiguous(), shift.contiguous()

    def convolve_1x1(
        self,
        images: Tensor,
        packed: Packed,
        count: int,
        *,
        stride: int = 1,
        addend: Tensor | None = None,
        activation: str = "none",
    ) -> Tensor:
        """The activation of a 1x1 convolution and what is added to it: ``[B, K, h, w]``, channels last.

        Args:
            images: ``[B, C, H, W]``, fastest in channels_last.
            packed: of :meth:`pack_1x1`.
            count: K.
            stride: of the convolution.
            addend: ``[B, K, any, any]``, resized to h x w as ``interpolate`` does by default, to the nearest.
            activation: one of ``ACTIVATIONS``.

        Raises:
            ValueError: sizes or types do not go together.
            MemoryError: there is no memory for it.
        """
        panels, shift = packed
        _check(images, panels.shape[1], panels, shift, *_present(addend))
        batch, channels, height, width = images.shape
        if -(-count // self.panel_width) != len(panels) or len(shift) != len(panels) * self.panel_width:
            raise ValueError(f"{len(panels)} panels of {self.panel_width} kernels, and {count} kernels")
        if addend is not None and (addend.shape[:2] != (batch, count) or not all(addend.shape[2:])):
            raise ValueError(f"a map {list(addend.shape)} to be added to {batch} of {count} channels")
        maps, added = _cells(images), None if addend is None else _cells(addend)
        rows, columns = (0, 0) if added is None else added.shape[1:3]
        output = _channels_last(batch, count, -(-height // stride), -(-width // stride))
        if output.numel() and self._library.rcnn_pointwise(
            maps.data_ptr(), batch, height, width, channels, stride, panels.data_ptr(), shift.data_ptr(),
            count, _address(added), rows, columns, ACTIVATIONS.index(activation), output.data_ptr(),
            torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"no memory for a convolution of maps {list(images.shape)}")
        return output

    def supports_depthwise(self, channels: int, side: int, stride: int) -> bool:
        """Whether it computes a depthwise convolution of C channels with kernels of this side and stride."""
        return channels >= self.lanes and side in (3, 5) and stride in (1, 2)

    def pack_depthwise(self, weight: Tensor) -> Tensor:
        """``[k * k, C]`` of kernels ``[C, 1, k, k]``, for :meth:`convolve_depthwise`."""
        return weight.flatten(1).T.contiguous()

    def convolve_depthwise(
        self,
        images: Tensor,
        packed: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        activation: str = "none",
    ) -> Tensor:
        """The activation of a depthwise convolution: ``[B, C, h, w]``, channels last.

        Args:
            images: ``[B, C, H, W]``, fastest in channels_last.
            packed: of :meth:`pack_depthwise`.
            bias: ``[C]``.
            stride: of the convolution.
            padding: zeros on each side, or ``rcnn.ops.convolution.SAME``.
            activation: one of ``rcnn.ops.convolution.ACTIVATIONS``.

        Raises:
            ValueError: sizes or types do not go together.
        """
        _check(images, packed.shape[1], packed, *_present(bias))
        batch, channels, height, width = images.shape
        side = round(len(packed) ** 0.5)
        if not self.supports_depthwise(channels, side, stride) or len(packed) != side**2:
            raise ValueError(f"{channels} channels, {len(packed)} numbers per kernel, stride {stride}")
        if bias is not None and len(bias) != channels:
            raise ValueError(f"a bias of {len(bias)} numbers for {channels} kernels")
        (top, bottom), (left, right) = (
            pad_sides(length, side, stride, padding) for length in (height, width)
        )
        rows = (height + top + bottom - side) // stride + 1
        columns = (width + left + right - side) // stride + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"maps {list(images.shape)} are smaller than the kernels of {side}x{side}")
        maps, shift = _cells(images), None if bias is None else bias.contiguous()
        output = _channels_last(batch, channels, rows, columns)
        self._library.rcnn_depthwise(
            maps.data_ptr(), batch, height, width, channels, packed.data_ptr(), _address(shift), side, stride,
            top, left, rows, columns, ACTIVATIONS.index(activation), output.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return output

    def supports_roi_align(self, channels: int) -> bool:
        """Whether :meth:`roi_align` pools maps of C channels."""
        return channels % self.lanes == 0

    def roi_align(
        self,
        features: Sequence[Tensor],
        rois: Tensor,
        images: Tensor,
        levels: Tensor,
        strides: Sequence[int],
        size: int,
        sampling_ratio: int,
        *,
        aligned: bool,
    ) -> Tensor:
        """As :func:`rcnn.ops.roi.roi_pool`, with a fixed number of samples: ``[R, C, P, P]``, channels last.

        Raises:
            ValueError: sizes or types do not go together.
            IndexError: a region of an image or a level that does not exist.
            MemoryError: there is no memory for it.
        """
        batch, channels = features[0].shape[:2]
        for feature in features:
            _check(feature, channels, rois)
        shapes = [list(feature.shape) for feature in features]
        if not self.supports_roi_align(channels) or any(s[0] != batch or 0 in s[2:] for s in shapes):
            raise ValueError(
                f"maps {shapes}: expected cells in all, one batch, and a multiple of {self.lanes} channels"
            )
        if rois.shape != (len(images), 4) or len(levels) != len(images) or len(strides) != len(features):
            raise ValueError(
                f"regions {list(rois.shape)}, {len(images)} images, {len(levels)} levels of {len(features)} "
                f"maps and {len(strides)} strides"
            )
        maps = [_cells(feature) for feature in features]
        boxes, index, level = rois.contiguous(), images.long().contiguous(), levels.long().contiguous()
        output = rois.new_empty((len(rois), size, size, channels))
        sizes = [side for each in maps for side in each.shape[1:3]]
        failed = self._library.rcnn_roi_align(
            (_pointer * len(maps))(*(each.data_ptr() for each in maps)), (_number * len(sizes))(*sizes),
            (ctypes.c_float * len(maps))(*(1 / stride for stride in strides)), len(maps), batch, channels,
            boxes.data_ptr(), index.data_ptr(), level.data_ptr(), len(rois), size, sampling_ratio, aligned,
            output.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        if failed == 1:
            raise MemoryError(f"no memory for {len(rois)} regions")
        if failed:
            raise IndexError(
                f"regions of the images {sorted(set(images.tolist()))} of {batch}, on the levels "
                f"{sorted(set(levels.tolist()))} of {len(maps)}"
            )
        return output.permute(0, 3, 1, 2)

    def nms(self, boxes: Tensor, scores: Tensor, groups: Tensor, max_iou: float) -> Tensor:
        """As :func:`rcnn.ops.boxes.nms`, each group looked at alone.

        Raises:
            ValueError: sizes or types do not go together.
        """
        if boxes.shape != (len(scores), 4) or len(groups) != len(scores) or boxes.dtype != torch.float32:
            raise ValueError(
                f"boxes {list(boxes.shape)} of {boxes.dtype}, {len(scores)} scores, {len(groups)} groups"
            )
        order = scores.argsort(descending=True, stable=True)
        order = order[groups[order].argsort(stable=True)]
        ends, columns = torch.bincount(groups).cumsum(0), boxes[order].T
        sides = columns[2:] - columns[:2]
        columns = torch.cat([columns, (sides[0] * sides[1])[None]])
        kept = boxes.new_empty(len(boxes), dtype=torch.bool)
        # torchvision compares floats with a double: they are above it where they are above the next float
        # that is not.
        limit = boxes.new_tensor(max_iou)
        limit = limit.nextafter(limit - 1) if float(limit) > max_iou else limit
        self._library.rcnn_nms(
            columns.data_ptr(), len(boxes), ends.data_ptr(), len(ends), float(limit), kept.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        best = order[kept]
        return best[scores[best].argsort(descending=True, stable=True)]


def _channels_last(*shape: int) -> Tensor:
    """A map ``[B, K, h, w]`` to be filled."""
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)


def _cells(maps: Tensor) -> Tensor:
    """``[B, H, W, C]``, as channels_last lies in memory."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _present(tensor: Tensor | None) -> tuple[Tensor, ...]:
    return () if tensor is None else (tensor,)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(images: Tensor, channels: int, *others: Tensor) -> None:
    kinds = {(tensor.dtype, tensor.device.type) for tensor in (images, *others)}
    if images.ndim != 4 or images.shape[1] != channels or kinds != {(torch.float32, "cpu")}:
        raise ValueError(
            f"maps {list(images.shape)} of {images.dtype} on {images.device}: expected {channels} channels, "
            "and everything in float32 on the CPU"
        )
