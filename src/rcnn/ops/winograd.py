"""3x3 convolutions with fewer multiplications (Lavin and Gray 2015, arXiv 1509.09308).

A tile of 4 x 4 outputs is a product of 6 x 6 numbers instead of 16 times 9: a quarter of the arithmetic, in
exchange for linear maps of the tiles before and after. Here all three steps are matrix products: what a CPU
does best, in torch alone.

Legend: B images, C channels in, K channels out, T tiles.
"""

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
# Tiles times channels at a time: what is made of them, some 40 megabytes, mostly stays in the last cache, and
# the kernels are read seldom.
CHUNK = 2**17


def transform_kernels(kernels: Tensor) -> Tensor:
    """``[36 K, C, 1, 1]`` of the kernels ``[K, C, 3, 3]`` of a convolution, for :func:`convolve`."""
    into = kernels.new_tensor(_KERNEL, dtype=torch.float64)
    # In double precision: it is done once, and its rounding would be in every result.
    transformed = torch.einsum("ip,kcpq,jq->ijkc", into, kernels.double(), into)
    return transformed.to(kernels.dtype).flatten(0, 2)[:, :, None, None].contiguous()


def convolve(
    images: Tensor, transformed: Tensor, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """The 3x3 convolution of ``[B, C, H, W]`` with stride 1 and padding 1: ``[B, K, H, W]``, channels last.

    Equal to ``conv2d`` up to rounding, of which it has some ten times as much: 1e-5 of the values' spread.

    Args:
        images: quickest in channels_last.
        transformed: of :func:`transform_kernels`.
        bias: ``[K]``.
        relu: whether negative results become 0.
    """
    batch, channels, height, width = images.shape
    kernels = len(transformed) // 36
    rows, columns = -(-height // 4), -(-width // 4)
    output = images.new_empty((batch, 4 * rows, 4 * columns, kernels))
    # As many whole rows of tiles at a time as fill a chunk; of small maps as many whole images.
    chunk = CHUNK / max(channels, kernels)
    deep = _even(rows, chunk / columns)
    many = _even(batch, chunk / (rows * columns)) if deep == rows else 1
    # Memory that serves one chunk after the other is in the cache already.
    count = many * deep * columns
    padded = images.new_empty((many, 4 * deep + 2, 4 * columns + 2, channels))
    cut, inputs = (images.new_empty((count, 36, channels)) for _ in range(2))
    results = images.new_empty((count, 16, kernels))
    into, out = (table.expand(count, -1, -1) for table in _maps(images))
    for first in range(0, batch, many):
        for top in range(0, rows, deep):
            target = output[first : first + many, 4 * top : 4 * (top + deep)]
            part = padded[: len(target), : target.shape[1] + 2]
            _pad(images[first : first + many], 4 * top - 1, part)
            places = _tiles(part)
            t = places.shape[:3].numel()
            cut[:t].view(places.shape).copy_(places)
            torch.bmm(into[:t], cut[:t], out=inputs[:t])
            # The 36 products [T, C] x [C, K] as a convolution in groups: torch's quickest way on a CPU.
            points = inputs[:t].view(1, t, 1, -1).permute(0, 3, 1, 2)
            products = functional.conv2d(points, transformed, groups=36)  # [1, 36 K, T, 1], channels last
            torch.bmm(out[:t], products.permute(0, 2, 3, 1).view(t, 36, kernels), out=results[:t])
            _put(results[:t], bias, target)
            if relu:
                target.relu_()
    return output[:, :height, :width].permute(0, 3, 1, 2)


def _even(total: int, size: float) -> int:
    """The size of equal parts of a total, about ``size``, at least 1."""
    return max(1, -(-total // max(1, round(total / size))))


def _maps(like: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps of flattened tiles: ``[36, 36]`` before and ``[16, 36]`` after the products."""
    into, out = like.new_tensor(_INPUT), like.new_tensor(_OUTPUT)
    return torch.kron(into, into), torch.kron(out, out)


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


def _put(results: Tensor, bias: Tensor | None, output: Tensor) -> None:
    """Write tiles ``[T, 16, K]`` to their places in ``[B, 4 r, 4 c, K]``."""
    batch, height, width, channels = output.shape
    places = output.view(batch, height // 4, 4, width // 4, 4, channels).transpose(2, 3)
    tiles = results.view(places.shape)
    if bias is None:
        places.copy_(tiles)
    else:
        torch.add(tiles, bias, out=places)
