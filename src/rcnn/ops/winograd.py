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
    """``[36, C, K]`` of the kernels ``[K, C, 3, 3]`` of a convolution, for :func:`convolve`."""
    into = kernels.new_tensor(_KERNEL, dtype=torch.float64)
    # In double precision: it is done once, and its rounding would be in every result.
    transformed = torch.einsum("ip,kcpq,jq->ijck", into, kernels.double(), into)
    return transformed.flatten(0, 1).to(kernels.dtype).contiguous()


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
    rows, columns = -(-height // 4), -(-width // 4)
    padding = (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height)
    padded = functional.pad(images.permute(0, 2, 3, 1), padding)  # [B, 4 rows + 2, 4 columns + 2, C]
    output = images.new_empty((batch, 4 * rows, 4 * columns, transformed.shape[2]))
    into, out = _maps(images)
    # As many whole rows of tiles at a time as fill a chunk; of small maps as many whole images.
    chunk = CHUNK // max(channels, transformed.shape[2])
    deep = min(rows, max(1, chunk // columns))
    many = max(1, chunk // (rows * columns)) if deep == rows else 1
    for first in range(0, batch, many):
        for top in range(0, rows, deep):
            part = padded[first : first + many, 4 * top : 4 * (top + deep) + 2]
            tiles = torch.mm(into, _tiles(part).reshape(36, -1)).view(36, -1, channels)
            products = torch.bmm(tiles, transformed)  # [36, T, K]
            results = torch.mm(out, products.view(36, -1)).view(16, -1, transformed.shape[2])
            if bias is not None:
                results += bias
            if relu:
                results.relu_()
            _put(results, output[first : first + many, 4 * top : 4 * (top + deep)])
    return output[:, :height, :width].permute(0, 3, 1, 2)


def _maps(like: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps of flattened tiles: ``[36, 36]`` before and ``[16, 36]`` after the products."""
    into, out = like.new_tensor(_INPUT), like.new_tensor(_OUTPUT)
    return torch.kron(into, into), torch.kron(out, out)


def _tiles(padded: Tensor) -> Tensor:
    """The overlapping 6x6 tiles of ``[B, 4 r + 2, 4 c + 2, C]``, a view ``[6, 6, B, r, c, C]``."""
    batch, height, width, channels = padded.shape
    image, row, column, channel = padded.stride()
    shape = (6, 6, batch, (height - 2) // 4, (width - 2) // 4, channels)
    return padded.as_strided(shape, (row, column, image, 4 * row, 4 * column, channel))


def _put(results: Tensor, output: Tensor) -> None:
    """Write tiles ``[16, T, K]`` to their places in ``[B, 4 r, 4 c, K]``."""
    batch, height, width, channels = output.shape
    places = output.view(batch, height // 4, 4, width // 4, 4, channels).permute(2, 4, 0, 1, 3, 5)
    places.copy_(results.view(places.shape))
