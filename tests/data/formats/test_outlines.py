"""Polygons drawn in windows equal those drawn on the whole image; codes are measured undecoded."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from rcnn.data.formats.outlines import rle_fault
from rcnn.structures import Masks


@pytest.mark.parametrize("seed", range(6))
def test_polygons_are_drawn_as_pycocotools_draws_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (40, 60)
    outlines = []
    for _ in range(40):
        centre = rng.uniform(-5, 60, 2)  # some reach beyond the image, some lie outside
        parts = [np.round(centre + rng.normal(0, rng.uniform(0.3, 12), (5, 2)), 1) for _ in range(2)]
        outlines.append(parts)
    expected = []
    for parts in outlines:
        codes = coco_mask.frPyObjects([p.reshape(-1).tolist() for p in parts], *size)
        expected.append(coco_mask.decode(coco_mask.merge(codes)))
    np.testing.assert_array_equal(Masks.from_outlines(outlines, size), np.stack(expected))


def test_nothing_to_draw() -> None:
    assert Masks.from_outlines([], (3, 4)).shape == (0, 3, 4)
    far = [np.array([[90.0, 90], [99, 90], [99, 99]])]
    assert Masks.from_outlines([far], (3, 4)).areas().tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_compressed_codes_are_measured(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bitmaps = rng.random((1, 50, 300)) < [0.5, 0.02, 0.9, 0.0, 1.0][seed]
    bitmaps[0, :, 100:200] = bool(seed % 2)  # long runs take several characters
    [code] = Masks.from_dense(bitmaps).rle()
    assert rle_fault(code, (50, 300)) is None
    assert "covers" in str(rle_fault({**code, "counts": code["counts"] + "1"}, (50, 300)))
    assert "covers" in str(rle_fault({**code, "counts": code["counts"][:-1]}, (50, 300)))


@pytest.mark.parametrize("counts", ["", " ", "PPPPPPPPPPPPPPPPPPPP", "O", "\x7f"])
def test_texts_that_are_no_codes(counts: str) -> None:
    assert rle_fault({"size": [2, 2], "counts": counts}, (2, 2)) is not None
