"""3x3 convolutions with fewer multiplications (Lavin and Gray 2015, arXiv 1509.09308).

A tile of 4 x 4 outputs is a product of 6 x 6 numbers instead of 16 times 9: a quarter of the arithmetic, in
exchange for linear maps of the tiles before and after. Here all three steps are matrix products: what a CPU
does best, in torch alone. The gradient of the images is a convolution of its own; that of the kernels is a
sum of products of the same transformed tiles, with the last map turned round.

Legend: B images, C channels in, K channels out, T tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

# F(4 x 4, 3 x 3): §4.1 of the paper gives F(2 x 2); these are its maps for the points 0, 1, -1, 2, -2.
_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)
# Tiles times channels at a time. What is made of them, some 70 megabytes in turns, is read while it is in the
# caches, and the kernels are read seldom: 2**16 and 2**18 were slower.
CHUNK = 2**17


# Below these the transformations cost more than the products save.
MIN_CHANNELS = 192
MIN_TILES = 50
MIN_GROUPED_TILES = 100  # below these, reordering the kernels costs more than the faster product saves


def is_faster(images: Tensor, kernels: int) -> bool:
    """Whether this way is the faster one: wide maps ``[B, C, H, W]``, many kernels, float32, on a CPU."""
    if images.device.type != "cpu" or images.dtype != torch.float32 or images.ndim != 4:
        return False
    batch, channels, height, width = images.shape
    return (
        not torch.is_autocast_enabled("cpu")
        and min(channels, kernels) >= MIN_CHANNELS
        and batch * -(-height // 4) * -(-width // 4) >= MIN_TILES
    )


def transform_kernels(kernels: Tensor) -> Tensor:
    """``[36 K, C, 1, 1]`` of the kernels ``[K, C, 3, 3]`` of a convolution, for :func:`convolve`."""
    flat = kernels.permute(2, 3, 0, 1).reshape(9, -1)
    return (_on_both_axes(_KERNEL, kernels) @ flat).view(-1, kernels.shape[1], 1, 1)


def convolve(
    images: Tensor, transformed: Tensor, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """The 3x3 convolution of ``[B, C, H, W]`` with stride 1 and padding 1: ``[B, K, H, W]``, channels last.

    Equal to ``conv2d`` up to rounding, of which it has more than ten times as much: 3e-6 of the values'
    spread, 5e-5 at most. Not for autograd: see ``rcnn.layers.conv``.

    Args:
        images: quickest in channels_last.
        transformed: of :func:`transform_kernels`.
        bias: ``[K]``.
        relu: whether negative results become 0.
    """
    batch, _, height, width = images.shape
    kernels = len(transformed) // 36
    output = torch.empty(
        (batch, kernels, height, width), dtype=images.dtype, device=images.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    out = _on_both_axes(_OUTPUT, images)
    results = images.new_empty(0)
    for some, rows, inputs in _chunks(images, kernels):
        tiles = len(inputs)
        products = _products(inputs, transformed)
        results = torch.bmm(out.expand(tiles, -1, -1), products, out=results.resize_(tiles, 16, kernels))
        target = output[some, :, rows].permute(0, 2, 3, 1)
        for place, tile in _cells(target, results):
            if bias is None:
                place.copy_(tile)
            else:
                torch.add(tile, bias, out=place)
        if relu:
            target.relu_()
    return output


def _products(inputs: Tensor, transformed: Tensor) -> Tensor:
    """The 36 products of ``[T, C]`` and ``[C, K]``: ``[T, 36, K]`` of tiles ``[T, 36, C]``."""
    tiles, _, channels = inputs.shape
    if tiles < MIN_GROUPED_TILES:
        kernels = transformed.view(36, -1, channels).transpose(1, 2)
        return torch.bmm(inputs.transpose(0, 1).contiguous(), kernels).transpose(0, 1).contiguous()
    # A convolution in groups is torch's quickest way on a CPU, but reorders the kernels each time.
    points = inputs.view(1, tiles, 1, -1).permute(0, 3, 1, 2)
    found = functional.conv2d(points, transformed, groups=36)  # [1, 36 K, T, 1], channels last
    return found.permute(0, 2, 3, 1).view(tiles, 36, -1)


def kernel_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient ``[K, C, 3, 3]`` of the kernels, from that of the results ``[B, K, H, W]``."""
    channels, kernels = images.shape[1], gradient.shape[1]
    total = images.new_zeros((36, kernels, channels))
    out = _on_both_axes(_OUTPUT, images)
    cells, lifted = images.new_empty(0), images.new_empty(0)
    for some, rows, inputs in _chunks(images, kernels):
        tiles = len(inputs)
        cells.resize_(tiles, 16, kernels).zero_()  # zeros remain where tiles reach beyond the map
        for place, tile in _cells(gradient[some, :, rows].permute(0, 2, 3, 1), cells):
            tile.copy_(place)
        torch.bmm(out.T.expand(tiles, -1, -1), cells, out=lifted.resize_(tiles, 36, kernels))
        total.baddbmm_(lifted.permute(1, 2, 0), inputs.transpose(0, 1))
    flat = _on_both_axes(_KERNEL, images).T @ total.view(36, -1)
    return flat.view(3, 3, kernels, channels).permute(2, 3, 0, 1).contiguous()


def _chunks(images: Tensor, kernels: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """The transformed tiles ``[T, 36, C]`` of some images and rows at a time; the next take their place."""
    batch, channels, height, width = images.shape
    rows, columns = -(-height // 4), -(-width // 4)
    # As many whole rows of tiles at a time as fill a chunk; of small maps as many whole images.
    chunk = CHUNK // max(channels, kernels)
    deep = _even(rows, chunk // max(1, columns))
    many = _even(batch, chunk // max(1, rows * columns)) if deep == rows else 1
    # Memory that serves one chunk after the other is in the cache already.
    count = many * deep * columns
    padded = images.new_empty((many, 4 * deep + 2, 4 * columns + 2, channels))
    cut, inputs = (images.new_empty((count, 36, channels)) for _ in range(2))
    into = _on_both_axes(_INPUT, images).expand(count, -1, -1)
    for first in range(0, batch, many):
        for top in range(0, rows, deep):
            some, last = slice(first, first + many), min(top + deep, rows)
            part = padded[: len(images[some]), : 4 * (last - top) + 2]
            _pad(images[some], 4 * top - 1, part)
            places = _tiles(part)
            tiles = places.shape[:3].numel()
            cut[:tiles].view(places.shape).copy_(places)
            torch.bmm(into[:tiles], cut[:tiles], out=inputs[:tiles])
            yield some, slice(4 * top, 4 * last), inputs[:tiles]


def _even(total: int, size: int) -> int:
    """The size of equal parts of a total, about ``size``, at least 1."""
    size = max(1, size)
    parts = max(1, (2 * total + size) // (2 * size))  # rounded
    return max(1, -(-total // parts))


def _on_both_axes(table: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The map ``[n n, m m]`` of flattened tiles that takes ``table [n, m]`` along rows and columns."""
    along = like.new_tensor(table)
    return torch.kron(along, along)


def _pad(images: Tensor, top: int, into: Tensor) -> None:
    """Fill ``[B, h, w, C]`` with maps ``[B, C, H, W]`` from row ``top``, column -1 on; zeros around them."""
    height, width = images.shape[2:]
    first, last = max(top, 0), min(top + into.shape[1], height)
    into[:, : first - top] = 0
    into[:, last - top :] = 0
    into[:, :, 0] = 0
    into[:, :, 1 + width :] = 0
    into[:, first - top : last - top, 1 : 1 + width] = images[:, :, first:last].permute(0, 2, 3, 1)


def _tiles(padded: Tensor) -> Tensor:
    """The overlapping 6x6 tiles of ``[B, 4 r + 2, 4 c + 2, C]``, a view ``[B, r, c, 6, 6, C]``."""
    batch, height, width, channels = padded.shape
    image, row, column, channel = padded.stride()
    shape = (batch, (height - 2) // 4, (width - 2) // 4, 6, 6, channels)
    return padded.as_strided(shape, (image, 4 * row, 4 * column, row, column, channel))


def _cells(maps: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For each cell of a 4x4 tile the places that it has in ``[B, h, w, K]`` and in ``[T, 16, K]``."""
    batch, height, width, channels = maps.shape
    tiles = tiles.view(batch, -(-height // 4), -(-width // 4), 4, 4, channels)
    for row in range(min(4, height)):
        for column in range(min(4, width)):
            place = maps[:, row::4, column::4]
            yield place, tiles[:, : place.shape[1], : place.shape[2], row, column]
