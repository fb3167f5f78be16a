"""What takes most of a prediction's time on a CPU, in C: convolutions, RoIAlign, suppression.

The files beside this one are built by ``rcnn.kernels.compiled`` in some seconds, at their first use. They do
what
``rcnn.ops`` and ``conv2d`` do, the same up to rounding, with vectors of the CPU's full width and with what
follows a convolution done while its results are in registers. Where nothing can be compiled these do it;
``RCNN_COMPILE=0`` asks for that. Only the 3x3 convolution serves training, too: ``rcnn.layers.conv``.

Legend: B images, C channels in, K channels out, L levels, R regions, P the side of a pooled map.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

from rcnn.kernels import compiled, winograd

SOURCES = tuple(sorted(Path(__file__).parent.glob("*.[ch]")))
# The smallest that were measured; it was the quicker way for them, too.
MIN_CHANNELS = 32
MIN_TILES = 12
# Below these numbers of kernels torch's 1x1 convolutions are as quick, or quicker: what C gains on passes
# over memory goes for copying cells into the caches.
MIN_KERNELS = 160
MIN_KERNELS_WITH_ADDEND = 64  # with a map to be added
MIN_CELLS = 200
# FCN's fc7, with 4096, took up to twice torch's time: a panel of its kernels serves only a few rows.
MAX_CHANNELS = 2048

Activation = Literal["none", "relu", "relu6", "hardswish"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "relu6", "hardswish")
Packed = tuple[Tensor, Tensor]  # kernels and bias of a 1x1 convolution

_number, _pointer, _count = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
_ARGUMENTS = {
    "rcnn_lanes": (),
    "rcnn_wide": (),
    "rcnn_winograd": (
        _pointer, _number, _number, _number, _number, _pointer, _pointer, _number, _pointer, _count, _pointer,
        _count,
    ),
    "rcnn_pointwise": (
        _pointer, _number, _number, _number, _number, _number, _pointer, _pointer, _number, _pointer, _number,
        _number, _count, _pointer, _count,
    ),
    "rcnn_roi_align": (
        _pointer, _pointer, _pointer, _number, _number, _number, _pointer, _pointer, _pointer, _number,
        _number, _number, _count, _pointer, _count,
    ),
    "rcnn_nms": (_pointer, _number, _pointer, _number, ctypes.c_float, _pointer, _count),
}  # fmt: skip


@functools.cache
def kernels() -> Kernels | None:
    """Those of this machine; None where they are not to be had."""
    return compiled.load_or_none(SOURCES, Kernels)


def is_usable(*tensors: Tensor) -> bool:
    """Whether C may read these: float32 in this CPU's memory, and nobody records what is done to them."""
    return (
        all(
            type(tensor) in (Tensor, torch.nn.Parameter)
            and tensor.device.type == "cpu"
            and tensor.dtype == torch.float32
            for tensor in tensors
        )
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


class Kernels:
    """The functions of a compiled library.

    Args:
        path: of the library.

    Raises:
        OSError: it cannot be loaded, or computes something else.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        try:
            for name, arguments in _ARGUMENTS.items():
                getattr(self._library, name).argtypes = arguments
        except AttributeError as error:
            raise OSError(f"{path}: {error}") from error
        self.lanes, self.panel_width = int(self._library.rcnn_lanes()), int(self._library.rcnn_wide())
        if not self._is_correct():
            raise OSError(f"{path}: its results are wrong")

    def _is_correct(self) -> bool:
        # Whatever the caller's defaults are.
        with torch.no_grad(), torch.device("cpu"), torch.autocast("cpu", enabled=False):
            random = functools.partial(
                torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float32
            )
            images, weight, bias = random(2, 64, 9, 14), random(70, 64, 1, 1), random(70)
            wide, above = random(64, 64, 3, 3), random(2, 70, 5, 7)
            boxes = torch.tensor([[-3, 1, 30, 33], [5, 6, 5.5, 40]], dtype=torch.float32)
            index, levels, groups = (torch.tensor(numbers) for numbers in ([1, 0], [0, 0], [1, 0, 0, 0]))
            again, scores = boxes[[0, 1, 0, 0]], boxes.new_tensor([1, 0, 2, 0])
            rows, added = torch.cat([index[:, None], boxes], 1), functional.interpolate(above, size=(9, 14))
            expected = (
                (functional.conv2d(images, wide, bias[:64], padding=1) + images).relu(),
                (functional.conv2d(images, weight, bias) + added).relu(),
                torchvision.ops.roi_align(images, rows, 3, 0.25, 2, True),
                torchvision.ops.batched_nms(again, scores, groups, 0.5),
            )
            packed, panels = self.pack_3x3(wide), self.pack_1x1(weight, bias)
            found = (
                self.convolve_3x3(images, packed, bias[:64], addend=images, relu=True),
                self.convolve_1x1(images, panels, len(bias), addend=above, activation="relu"),
                self.roi_align([images], boxes, index, levels, [4], 3, 2, aligned=True),
                self.nms(again, scores, groups, 0.5),
            )
        return all(
            one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-2)
            for one, other in zip(found, expected, strict=True)
        )

    def supports_3x3(self, channels: int, count: int) -> bool:
        """Whether it computes, and quicker than torch, a 3x3 convolution of C channels and K kernels."""
        return (
            min(channels, count) >= MIN_CHANNELS
            and channels % self.lanes == 0
            and count % self.panel_width == 0
        )

    def is_faster_3x3(self, images: Tensor) -> bool:
        """Whether it is the quicker way for these maps ``[B, C, H, W]``: not for tiny ones."""
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
        """As :func:`rcnn.kernels.winograd.convolve`: ``[B, K, H, W]``, channels last.

        Args:
            images: ``[B, C, H, W]``, quickest in channels_last.
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
        """Whether it computes, and quicker than torch, a 1x1 convolution of C channels and K kernels.

        ``added``: a map is added to its results.
        """
        return channels <= MAX_CHANNELS and count >= (MIN_KERNELS_WITH_ADDEND if added else MIN_KERNELS)

    def is_faster_1x1(self, images: Tensor) -> bool:
        """Whether it is the quicker way for these maps ``[B, C, H, W]``: not for tiny ones."""
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
        activation: Activation = "none",
    ) -> Tensor:
        """The activation of a 1x1 convolution and what is added to it: ``[B, K, h, w]``, channels last.

        Args:
            images: ``[B, C, H, W]``, quickest in channels_last.
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
