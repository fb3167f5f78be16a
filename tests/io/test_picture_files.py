"""PNG files of our own: what Pillow reads is what was written."""

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from rcnn.io.picture_files import encode_png


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (64, 48), (300, 1067)])
@pytest.mark.parametrize("kind", ["noise", "flat", "gradient"])
def test_pillow_reads_back_every_pixel(size: tuple[int, int], kind: str) -> None:
    draw = np.random.default_rng(0)
    pixels = {
        "noise": draw.integers(0, 256, (*size, 3)),
        "flat": np.full((*size, 3), 7),
        "gradient": np.add.outer(np.arange(size[0]), np.arange(size[1]))[:, :, None] + [0, 80, 200],
    }[kind].astype(np.uint8)
    content = encode_png(Image.fromarray(pixels))
    with Image.open(io.BytesIO(content)) as image:
        image.verify()  # the checksums
    with Image.open(io.BytesIO(content)) as image:
        assert (image.mode, image.format) == ("RGB", "PNG")
        assert_array_equal(np.asarray(image), pixels)


def test_a_photograph_takes_no_more_room_than_with_pillows_fastest_compression() -> None:
    draw = np.random.default_rng(0)
    smooth = draw.normal(size=(3, 240, 320)).cumsum(1).cumsum(2)
    smooth = 255 * (smooth - smooth.min()) / np.ptp(smooth) + draw.normal(size=smooth.shape) * 3
    image = Image.fromarray(smooth.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    theirs = io.BytesIO()
    image.save(theirs, "PNG", compress_level=1)
    assert len(encode_png(image)) < 1.15 * len(theirs.getvalue())
