"""Tiles cover an image once, and what is found in them is what one look would find."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from rcnn.inference import tiles
from rcnn.inference.detector import Detector
from rcnn.inference.exported import ExportedDetector
from rcnn.inference.postprocess import instances_of
from rcnn.inference.tiles import Tile, make_tiles, merge_tiles
from rcnn.models.model import Model
from rcnn.ops import boxes as ops
from rcnn.parts.batch import Detections, ImageBatch, Output
from rcnn.parts.box_head import BoxHeadSettings
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe


@pytest.mark.parametrize("size", [(10, 10), (64, 64), (65, 200), (1000, 333), (1, 5000)])
def test_windows_cover_the_image_and_cores_cover_it_once(size):
    seen, owners = np.zeros(size, int), np.zeros(size, int)
    rows, columns = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    for tile in make_tiles(size, 64, 16):
        x1, y1, x2, y2 = tile.window
        assert 0 <= x1 < x2 <= size[1]
        assert 0 <= y1 < y2 <= size[0]
        # As small as this number of tiles can be that overlap by 16.
        for side, length in ((y2 - y1, size[0]), (x2 - x1, size[1])):
            count = max(1, -(-(length - 16) // 48))
            assert side == -(-(length + 16 * (count - 1)) // count) <= 64
        seen[y1:y2, x1:x2] += 1
        left, top, right, bottom = tile.core
        inside = np.outer((rows >= top) & (rows < bottom), (columns >= left) & (columns < right))
        owners += inside
    assert seen.min() == 1
    assert owners.min() == owners.max() == 1


def test_windows_overlap_by_what_was_asked():
    tiles_of_row = make_tiles((64, 500), 64, 16)
    ends = [tile.window[2] for tile in tiles_of_row[:-1]]
    starts = [tile.window[0] for tile in tiles_of_row[1:]]
    assert min(end - start for end, start in zip(ends, starts, strict=True)) >= 16


def test_an_overlap_as_wide_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap must be at least 0 and less than the side 64, not 64"):
        make_tiles((100, 100), 64, 64)


def found(boxes, scores, labels=None):
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array([0] * len(boxes) if labels is None else labels, np.int64),
        "scores": np.array(scores, np.float32),
        "mask_maps": np.array(scores, np.float32)[:, None, None].repeat(4, 1).repeat(4, 2),
    }


LEFT = Tile((0, 0, 100, 100), (0, 0, 80, 100))
RIGHT = Tile((60, 0, 160, 100), (80, 0, 160, 100))


def test_an_object_is_reported_by_the_tile_in_whose_core_it_lies():
    # The same object of x 85 to 105, cut off at 100 by the left tile.
    whole = merge_tiles(
        [LEFT, RIGHT], [found([[85, 10, 100, 30]], [0.9]), found([[25, 10, 45, 30]], [0.8])], (100, 160), 10
    )
    assert whole["boxes"].tolist() == [[85, 10, 105, 30]]
    assert_allclose(whole["scores"], [0.8])


def test_an_object_on_the_border_of_two_cores_counts_once_and_the_better_copy_wins():
    # Centres at 79 and 81: both tiles would leave it to the other if cores had no slack.
    parts = [found([[72, 10, 90, 30]], [0.6]), found([[9, 10, 29, 30]], [0.7])]
    whole = merge_tiles([LEFT, RIGHT], parts, (100, 160), 10)
    assert whole["boxes"].tolist() == [[69, 10, 89, 30]]
    assert_allclose(whole["mask_maps"], np.full((1, 4, 4), 0.7))


def test_objects_of_two_classes_in_one_place_both_stay_best_score_first_up_to_the_limit():
    parts = [found([[10, 10, 30, 30]], [0.6]), found([[90, 10, 95, 30]] * 2, [0.9, 0.7], [0, 1])]
    for most, scores in ((10, [0.9, 0.7, 0.6]), (2, [0.9, 0.7])):
        assert_allclose(merge_tiles([LEFT, RIGHT], parts, (100, 160), most)["scores"], scores)


def test_keypoints_move_with_their_boxes_and_keep_their_scores():
    part = found([[20, 10, 40, 30]], [0.8]) | {"keypoints": np.array([[[25, 15, 0.5]]], np.float32)}
    none = found([], []) | {"keypoints": np.zeros((0, 1, 3), np.float32)}
    whole = merge_tiles([LEFT, RIGHT], [none, part], (100, 160), 10)
    assert whole["keypoints"].tolist() == [[[85, 15, 0.5]]]


@pytest.mark.parametrize("max_iou", [0.3, 0.5, 0.7])
def test_suppression_is_that_of_networks(max_iou):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 200, (500, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 60, (500, 2))], 1).astype(np.float32)
    boxes[-3:] = 0  # empty ones
    scores, labels = rng.random(500, np.float32), rng.integers(3, size=500)
    expected = ops.nms(*(torch.from_numpy(values) for values in (boxes, scores, labels)), max_iou)
    kept = tiles.nms(boxes, scores, labels, max_iou)
    assert kept.tolist() == expected.tolist()
    assert len(kept) < 500
    assert tiles.nms(boxes[:0], scores[:0], labels[:0], max_iou).tolist() == []


def test_a_box_suppresses_those_that_begin_far_to_its_left():
    boxes = np.array([[0, 0, 100, 10], [30, 0, 100, 10], [99, 0, 100, 10]], np.float32)
    assert tiles.nms(boxes, np.array([0.5, 0.9, 0.8]), np.zeros(3), 0.5).tolist() == [1, 2]


def merged(parts, size=(100, 160), tiles_of_image=(LEFT, RIGHT), **options):
    return merge_tiles(list(tiles_of_image), parts, size, 10, **options)


def masks_in(whole, size=(100, 160)):
    return instances_of(whole, size, size, class_names=("a", "b")).masks


def test_parts_of_an_object_larger_than_the_overlap_are_joined():
    """x 30 to 140, of which the left tile sees 30 to 100 and the right one 60 to 140."""
    whole = merged([found([[30, 10, 100, 50]], [0.6]), found([[0, 12, 80, 50]], [0.9])])
    assert whole["boxes"].tolist() == [[30, 10, 140, 50]]
    assert_allclose(whole["scores"], [0.9])
    assert whole["cut"].tolist() == [False]
    assert whole["mask_owner"].tolist() == [0, 0]
    (mask,) = masks_in(whole).dense()
    rows, columns = mask.nonzero()
    # Zeros around a map of 0.6 keep a sixth of a cell out.
    assert_allclose((columns.min(), columns.max() + 1, rows.min(), rows.max() + 1), (30, 140, 10, 50), atol=6)
    assert mask[16:46, 40:130].all(), "no gap at the seam"


@pytest.mark.parametrize(
    ("right", "labels", "why"),
    [
        ([[0, 12, 80, 50]], [1], "another class"),
        ([[0, 60, 80, 90]], [0], "another place in the strip"),
        ([[0, 10, 80, 95]], [0], "too little in common in the strip"),
        ([], None, "nothing found there"),
    ],
)
def test_an_object_without_its_rest_is_marked(right, labels, why):
    parts = [found([[20, 10, 100, 50]], [0.6]), found(right, [0.9] * len(right), labels)]
    whole = merged(parts)
    assert len(whole["boxes"]) == 1 + len(right), why
    assert whole["cut"].all(), why
    assert "mask_owner" not in whole


def test_the_image_border_cuts_nothing_that_a_tile_could_add():
    parts = [found([[0, 0, 40, 100]], [0.6]), found([[60, 0, 100, 100]], [0.9])]
    assert merged(parts)["cut"].tolist() == [False, False]


def test_a_part_is_dropped_where_the_other_tile_sees_the_whole_even_beside_its_core():
    # x 61 to 99: within both windows, the left tile's copy placed at the border; its centre is in no core.
    whole = merged([found([[64, 10, 100, 30]], [0.9]), found([[5, 10, 40, 30]], [0.6])])
    assert whole["boxes"].tolist() == [[65, 10, 100, 30]]
    assert whole["cut"].tolist() == [False]


def test_joined_objects_take_each_keypoint_from_the_part_that_is_surest():
    left = found([[30, 10, 100, 50]], [0.6]) | {
        "keypoints": np.array([[[40, 20, 5.0], [99, 20, -3.0]]], np.float32)
    }
    right = found([[0, 10, 80, 50]], [0.9]) | {
        "keypoints": np.array([[[0, 20, -2.0], [70, 20, 4.0]]], np.float32)
    }
    assert merged([left, right])["keypoints"].tolist() == [[[40, 20, 5], [130, 20, 4]]]


def test_a_joined_object_counts_as_one_for_the_limit_and_suppresses_doubles():
    left = found([[30, 10, 100, 50], [32, 11, 55, 50]], [0.6, 0.5])
    right = found([[0, 10, 80, 50]], [0.9])
    assert len(merge_tiles([LEFT, RIGHT], [left, right], (100, 160), 1)["boxes"]) == 1
    inside = merged([left, right], max_iou=0.2)
    assert inside["boxes"].tolist() == [[30, 10, 140, 50]]


class Bright(Model):
    """Reports every bright connected square of an image, exactly; stands for a perfect network."""

    @property
    def selection(self) -> BoxHeadSettings:
        return BoxHeadSettings(max_detections=20)  # of what is seen at once, not of the whole image

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.sizes: list[tuple[int, int]] = []

    def forward(self, batch: ImageBatch, **_: object) -> Output:
        (size,) = batch.sizes
        self.sizes.append(size)
        on = batch.tensors[0, 0, : size[0], : size[1]] > 0
        boxes = []
        for y, x in on.nonzero().tolist():
            if (y == 0 or not on[y - 1, x]) and (x == 0 or not on[y, x - 1]):
                height = int(on[y:, x].int().cumprod(0).sum())
                boxes.append([x, y, x + int(on[y, x:].int().cumprod(0).sum()), y + height])
        none = torch.zeros(len(boxes), dtype=torch.int64)
        detections = Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), none, torch.ones(len(boxes)), none,
            mask_maps=torch.ones(len(boxes), 4, 4),
        )  # fmt: skip
        return Output(detections=detections)


def test_a_detector_looks_at_a_large_image_in_tiles_and_finds_every_object_once(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_UNTILED_PIXELS", 100 * 100)
    monkeypatch.setattr(make_tiles, "__defaults__", (64, 24))
    image = torch.zeros(3, 150, 201, dtype=torch.uint8)
    truth = [[x, y, x + 11, y + 11] for y in range(3, 135, 17) for x in range(2, 185, 19)]
    for x1, y1, x2, y2 in truth:
        image[:, y1:y2, x1:x2] = 255
    network = Bright()
    (result,) = Detector(network, Transform(), ("square",)).predict(image)
    assert max(max(size) for size in network.sizes) <= 64
    assert sorted(result.boxes.tolist()) == sorted(truth)
    assert result.masks is not None
    # Zeros around their maps round the corners.
    assert result.masks.areas().tolist() == [121 - 4] * len(truth)


@pytest.mark.parametrize("seed", range(6))
def test_objects_of_any_size_are_found_whole_whatever_the_tiles(monkeypatch, seed):
    """Rectangles up to the image's own size, thus across many tiles of 64 with an overlap of 24."""
    monkeypatch.setattr(tiles, "MAX_UNTILED_PIXELS", 100 * 100)
    monkeypatch.setattr(make_tiles, "__defaults__", (64, 24))
    rng = np.random.default_rng(seed)
    height, width = 190, 260
    image, truth = torch.zeros(3, height, width, dtype=torch.uint8), []
    for number in range(200):
        x, y = rng.integers(0, width - 8), rng.integers(0, height - 8)
        w, h = rng.integers(6, rng.choice([20, 60]), 2)
        if number == 0:
            x, y, w, h = *rng.integers(0, 60, 2), *rng.integers(70, 190, 2)
        box = [int(x), int(y), int(min(x + w, width)), int(min(y + h, height))]
        around = image[0, max(box[1] - 5, 0) : box[3] + 5, max(box[0] - 5, 0) : box[2] + 5]
        if min(box[2] - box[0], box[3] - box[1]) >= 6 and not around.any():
            image[:, box[1] : box[3], box[0] : box[2]] = 255
            truth.append(box)
    assert any(max(x2 - x1, y2 - y1) > 64 for x1, y1, x2, y2 in truth), "larger than a tile"
    (result,) = Detector(Bright(), Transform(), ("square",)).predict(image)
    assert sorted(result.boxes.tolist()) == sorted(truth)
    assert result.cut is not None
    assert not result.cut.any()
    areas = dict(zip(map(tuple, result.boxes.tolist()), result.masks.areas().tolist(), strict=True))
    for x1, y1, x2, y2 in truth:  # zeros around the maps of its parts round corners
        assert abs(areas[x1, y1, x2, y2] - (x2 - x1) * (y2 - y1)) <= 0.06 * (x2 - x1) * (y2 - y1) + 4


def test_a_large_image_in_a_batch_changes_nothing_about_the_others(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_UNTILED_PIXELS", 100 * 100)
    monkeypatch.setattr(make_tiles, "__defaults__", (64, 24))
    network = Bright()
    detector = Detector(network, Transform(), ("square",))
    small, large = (torch.zeros(3, side, side, dtype=torch.uint8) for side in (90, 150))
    small[:, 10:80, 10:80] = 255  # larger than what tiles have in common
    found = detector.predict([large, small], batch_size=2)
    assert found[1].boxes.tolist() == [[10, 10, 80, 80]]
    assert (90, 90) in network.sizes


def test_the_cap_of_an_image_in_tiles_is_that_of_all_tiles():
    detector = Detector(tiny_network(tiny_recipe("faster_rcnn")), Transform(), NAMES)
    most = detector.max_detections
    assert detector.cap((2000, 2000)) == most
    assert detector.cap((4000, 3000)) == most * len(make_tiles((4000, 3000)))
    detector.network.needs_proposals = True
    assert detector.cap((4000, 3000)) == most, "a model that is given its proposals sees the whole image"


def test_images_of_usual_size_are_seen_whole():
    network = Bright()
    Detector(network, Transform(), ("square",)).predict(torch.zeros(3, 1000, 2000, dtype=torch.uint8))
    assert network.sizes == [(1000, 2000)]


def test_classes_of_pixels_are_those_of_the_tiles_core():
    """Every tile sees the whole image's logits: joined, they are the whole image's classes."""
    size = (70, 90)
    whole = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    parts = make_tiles(size, 41, 8)
    seen = [found([], []) | {"semantic_logits": whole[:, tile.rows, tile.columns]} for tile in parts]
    joined = merge_tiles(parts, seen, size, 0)
    assert np.array_equal(joined["semantic"], whole.argmax(0))
    assert "semantic_logits" not in joined


def test_exported_files_see_large_images_in_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_UNTILED_PIXELS", 100 * 100)
    monkeypatch.setattr(make_tiles, "__defaults__", (64, 24))
    monkeypatch.setattr(tiles, "SIDE", 64)
    monkeypatch.setattr(tiles, "OVERLAP", 24)
    image = np.zeros((150, 201, 3), np.uint8)
    truth = [[x, y, x + 11, y + 11] for y in range(3, 135, 17) for x in range(2, 185, 19)]
    for x1, y1, x2, y2 in truth:
        image[y1:y2, x1:x2] = 255
    for settings in (
        {"transform_inside": False, "transform": {}},
        {"transform_inside": True, "transform": {"scale": 1.0}},
    ):
        sizes = []
        (result,) = exported(settings, sizes).predict(image)
        assert len(sizes) == len(make_tiles((150, 201))) > 1
        assert max(max(size) for size in sizes) <= 64
        assert sorted(result.boxes.tolist()) == sorted(truth)
        assert result.masks.areas().tolist() == [121 - 4] * len(truth)
        assert exported(settings, sizes).cap((150, 201)) == 20 * len(sizes)
    whole = []
    exported({"transform_inside": True, "transform": {"short_side": 150}}, whole).predict(image)
    assert whole == [(150, 201)], "the graph would resize each tile"


def exported(settings, sizes):
    """A file that does what :class:`Bright` does."""
    network = Bright()

    def run(inputs):
        images = torch.from_numpy(inputs["images"])
        size = tuple(inputs["sizes"][0].astype(int).tolist()) if "sizes" in inputs else images.shape[2:]
        sizes.append(tuple(size))
        output = network(ImageBatch(images.float(), (tuple(size),)))
        return {name: values.numpy() for name, values in output.detections.tensors().items()}

    info = {"class_names": ["square"], "min_score": 0.5, "max_detections": 20, "candidates": 50}
    return ExportedDetector(run, {**info, "model": {"box": {"nms_iou": 0.5}}, **settings})
