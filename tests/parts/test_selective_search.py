import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rcnn.data.shapes import draw_shapes
from rcnn.parts.selective_search import SelectiveSearchSettings, ranked, selective_search

SMALL = SelectiveSearchSettings(width=None, ks=(20, 50), min_side=6)


@pytest.fixture(scope="module")
def opencv():
    module = pytest.importorskip("cv2")
    if not hasattr(module, "ximgproc"):
        pytest.skip("needs OpenCV's contrib module")


def rectangles() -> np.ndarray:
    """Two flat rectangles on a flat ground: 20 30 70 60 and 90 50 130 100."""
    image = np.full((120, 160, 3), 200, np.uint8)
    image[30:60, 20:70] = 30, 80, 200
    image[50:100, 90:130] = 200, 30, 30
    return image


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """The best IoU of each rectangle."""
    truth = np.array([[20, 30, 70, 60], [90, 50, 130, 100]])[:, None]
    sides = np.minimum(truth[..., 2:], boxes[..., 2:]) - np.maximum(truth[..., :2], boxes[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (truth, boxes)]
    best: np.ndarray = (shared / (areas[0] + areas[1] - shared)).max(1)
    return best


@pytest.mark.usefixtures("opencv")
class TestSelectiveSearch:
    def test_flat_rectangles_are_found_to_the_pixels_of_the_blurred_edge(self) -> None:
        boxes = selective_search(rectangles(), SMALL)
        assert (overlaps(boxes) > 0.85).all()

    def test_boxes_are_those_of_the_image_whatever_the_width_searched_at(self) -> None:
        boxes = selective_search(rectangles(), SelectiveSearchSettings(width=320, min_side=12))
        assert (overlaps(boxes) > 0.85).all()
        assert boxes[:, 2].max() <= 160
        assert boxes[:, 3].max() <= 120

    def test_the_same_twice_and_another_order_with_another_seed(self) -> None:
        image = draw_shapes(1, size=(80, 100))[0].image
        first, again = selective_search(image, SMALL), selective_search(image, SMALL)
        assert_array_equal(first, again)
        other = selective_search(image, SelectiveSearchSettings(None, SMALL.ks, min_side=6, seed=1))
        assert not np.array_equal(first, other)
        assert set(map(tuple, first.tolist())) == set(map(tuple, other.tolist()))

    def test_limits(self) -> None:
        image = draw_shapes(1, size=(80, 100))[0].image
        boxes = selective_search(image, SelectiveSearchSettings(None, SMALL.ks, min_side=10, count=7))
        assert boxes.shape == (7, 4)
        assert boxes.dtype == np.float32
        assert float((boxes[:, 2:] - boxes[:, :2]).min()) >= 10

    @pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 40)], ids=["a pixel", "a stripe", "flat"])
    def test_images_without_anything(self, size: tuple[int, int]) -> None:
        boxes = selective_search(np.zeros((*size, 3), np.uint8), SMALL)
        assert boxes.shape[1:] == (4,)
        assert len(boxes) <= 1


def test_rank_is_random_times_place_by_area() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 3, 3], [0, 0, 2, 2], [0, 0, 3, 3]])
    draws = np.random.default_rng(5).random(3)
    by_size = boxes[[1, 2, 0]]
    expected = by_size[np.argsort(draws * [1, 2, 3])]
    assert ranked(boxes, 5).tolist() == expected.tolist()


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]; got float32 \[4, 4, 3\]"):
        selective_search(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="count must be at least 1"):
        SelectiveSearchSettings(count=0)


def test_without_opencv_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r'pip install "\.\[selective-search\]"'):
        selective_search(np.zeros((8, 8, 3), np.uint8), SMALL)


def test_an_opencv_without_contrib_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", object())
    with pytest.raises(ValueError, match="has none: pip uninstall"):
        selective_search(np.zeros((8, 8, 3), np.uint8), SMALL)
