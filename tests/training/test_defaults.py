"""Defaults chosen from data: small cases by hand, and what must hold for odd data too."""

import json
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset, Record, Sample
from rcnn.models import MODELS
from rcnn.models.light import Light
from rcnn.parts.backbone import BACKBONES
from rcnn.parts.rpn import RPNSettings
from rcnn.structures import Instances, Masks, Size, Skeleton
from rcnn.training.defaults import (
    CROP_RANGE,
    MIN_BORDER_OBJECTS,
    MIN_VISIBLE_SIZE,
    TARGET_PIXELS,
    Reason,
    choose_anchors,
    choose_crop,
    choose_min_scale,
    choose_scale,
    choose_search,
    choose_transform,
    choose_visible,
    has_no_orientation,
    plan,
)
from rcnn.training.recipe import dump_recipe, load_recipe
from rcnn.training.split import Split
from rcnn.training.statistics import MIN_CLASS_OBJECTS, Statistics
from tiny import tiny_shapes

BACKBONE = "efficientnet_lite0"


@dataclass(frozen=True)
class Pictures(Dataset):
    """A data set whose images are given; without, looking at one is a fault."""

    images: tuple[npt.NDArray[np.uint8], ...] = ()

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return Sample(self.images[index], record.truth, record.image_id)


def pictures(
    *truths: tuple[Size, list[tuple[float, ...]]],
    masks: bool = False,
    images: tuple[npt.NDArray[np.uint8], ...] = (),
) -> Pictures:
    """From (height, width) and boxes x1 y1 x2 y2 of each image."""
    records = []
    for number, (size, boxes) in enumerate(truths):
        truth = Instances(size, np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int64))
        make = (lambda: Masks.empty((1, 1))) if masks else None
        records.append(Record(Path(f"{number}.png"), number, truth, make))
    return Pictures("shapes", Path("pictures"), ("thing",), records, images=images)


def squares(side: float, images: int = 4, size: Size = (480, 640)) -> Statistics:
    """One square in each image."""
    return Statistics.from_dataset(pictures(*[(size, [(0, 0, side, side)])] * images))


# Statistics


def test_statistics_by_hand() -> None:
    data = pictures(
        ((100, 200), [(10, 20, 20, 60), (0, 0, 30, 30)]), ((50, 60), []), ((80, 40), [(1, 1, 9, 3)])
    )
    found = Statistics.from_dataset(data)
    assert found.heights.tolist() == [100, 50, 80]
    assert found.widths.tolist() == [200, 60, 40]
    assert found.short_sides.tolist() == [100, 50, 40]
    assert found.sides.tolist() == [20, 30, 4]
    assert found.longest.tolist() == [40, 30, 8]
    assert found.ratios.tolist() == [4, 1, 0.25]
    assert found.owner.tolist() == [0, 0, 2]
    assert found.labels.tolist() == [0, 0, 0]
    assert found.borders.tolist() == [[False, False], [True, True], [True, True]]
    assert found.max_objects == 2


def test_crowds_are_no_objects() -> None:
    data = pictures(((100, 100), [(0, 0, 10, 10), (0, 0, 90, 90)]))
    truth = replace(data.records[0].truth, crowd=np.array([False, True]))
    found = Statistics.from_dataset(replace(data, records=[replace(data.records[0], truth=truth)]))
    assert (found.sides.tolist(), found.max_objects) == ([10], 1)


def test_statistics_of_nothing() -> None:
    found = Statistics.from_dataset(pictures(((9, 9), []), ((9, 9), [])))
    assert (len(found.sides), len(found.owner), found.max_objects) == (0, 0, 0)


# The size of the images


@pytest.mark.parametrize(
    ("small", "fitting", "expected", "why"),
    [
        (MIN_VISIBLE_SIZE, 0.5, 1.0, "large images, but shrunk their objects would vanish"),
        (2 * MIN_VISIBLE_SIZE, 0.25, 0.5, "shrunk as far as the objects allow"),
        (8 * MIN_VISIBLE_SIZE, 0.5, 0.5, "shrunk to the budget, objects are large"),
        (MIN_VISIBLE_SIZE / 4, 0.5, 1.0, "large images are never enlarged"),
        (MIN_VISIBLE_SIZE, 3.0, 1.0, "small images with visible objects are left alone"),
        (
            MIN_VISIBLE_SIZE / 1.5,
            3.0,
            1.5,
            "small images with small objects are enlarged until these are visible",
        ),
        (MIN_VISIBLE_SIZE / 100, 1.25, 1.25, "to the budget"),
        (MIN_VISIBLE_SIZE / 100, 9.0, 2.0, "but at most twice"),
        (1e6, 0.187, 0.19, "to the budget, not to half or twice of it"),
        (1e6, 1e-4, 0.02, "never to nothing"),
    ],
)
def test_factor(small: float, fitting: float, expected: float, why: str) -> None:
    assert choose_scale(small, fitting) == expected, why


def test_images_of_one_size_keep_one_factor() -> None:
    transform, why = choose_transform(squares(2 * MIN_VISIBLE_SIZE, size=(200, 200)), BACKBONE)
    assert (transform.short_side, transform.scale, transform.max_long_side) == (None, 1.0, None)
    assert "keep their size" in why.value
    side = int(2 * TARGET_PIXELS**0.5)
    transform, why = choose_transform(squares(4 * MIN_VISIBLE_SIZE, size=(side, side)), BACKBONE)
    assert (transform.short_side, transform.scale) == (None, 0.5)
    assert why.value == "images resized by 0.5"
    assert why.why == f"a tenth of the objects are smaller than {2 * MIN_VISIBLE_SIZE:.0f} px"


def test_images_that_show_the_same_at_other_sizes_get_one_side() -> None:
    """Objects of a quarter of the image at 100, 200 and 400 pixels: alike once the sides are."""
    found = Statistics.from_dataset(
        pictures(*[((s, 2 * s), [(0, 0, s / 4, s / 4)]) for s in (100, 200, 400)])
    )
    transform, why = choose_transform(found, BACKBONE)
    # The middle size stays: its 50 px objects are visible.
    assert (transform.short_side, transform.max_long_side) == (200, 400)
    assert why.value == "short side resized to 200"


def test_objects_of_one_size_in_images_of_many_keep_their_scale() -> None:
    found = Statistics.from_dataset(pictures(*[((s, s), [(0, 0, 40, 40)]) for s in (100, 200, 400)]))
    transform, _ = choose_transform(found, BACKBONE)
    assert (transform.short_side, transform.scale) == (None, 1.0)


def test_the_normalisation_is_that_of_the_backbone() -> None:
    assert choose_transform(squares(30), "efficientnet_lite0")[0].mean == (0.5, 0.5, 0.5)
    assert choose_transform(squares(30), "resnet50")[0].mean == (0.485, 0.456, 0.406)


# Crops


def up(value: float) -> int:
    """The next multiple of 32, which the strides ask for."""
    return -(-int(np.ceil(value)) // 32) * 32


@pytest.mark.parametrize(
    ("side", "image", "expected", "why"),
    [
        (10, 4 * CROP_RANGE[1], up(CROP_RANGE[0]), "small objects in large images: the smallest crop"),
        (CROP_RANGE[1], 4 * CROP_RANGE[1], up(CROP_RANGE[1]), "objects as large as the largest crop"),
        (200, 4 * CROP_RANGE[1], up(min(max(300, CROP_RANGE[0]), CROP_RANGE[1])), "room around an object"),
        (10, 70, 96, "no more than the image has"),
        (10, 12, 64, "the coarsest map needs some"),
    ],
)
def test_crop(side: float, image: int, expected: int, why: str) -> None:
    found = squares(side, size=(image, image))
    assert choose_crop(found, np.ones(4))[0] == expected, why


def test_crop_is_in_resized_pixels() -> None:
    found = squares(10, size=(100, 100))
    assert choose_crop(found, np.full(4, 2.0))[0] == 224
    assert choose_crop(found, np.full(4, 0.5))[0] == 64


# Anchors


@pytest.mark.parametrize("side", [9, 12, 16, 20, 30, 50, 100, 200, 500])
def test_an_anchor_is_near_every_object(side: float) -> None:
    rpn, why = choose_anchors(squares(side))
    sizes = [size for (size,) in rpn.sizes]
    assert all(b == pytest.approx(2 * a, abs=0.2) for a, b in pairwise(sizes))
    assert len(sizes) in (4, 5)
    assert min(max(size / side, side / size) for size in sizes) < 1.5
    assert f"{side:g} to {side:g}" in why.why


def test_large_objects_get_a_level_more() -> None:
    small, large = squares(10), squares(600)
    mixed = replace(
        small,
        **{
            name: np.concatenate([getattr(small, name), getattr(large, name)])
            for name in ("sides", "longest", "ratios", "owner", "labels")
        },
    )
    assert [len(choose_anchors(s)[0].sizes) for s in (small, mixed)] == [4, 5]


@pytest.mark.parametrize(("height", "expected"), [(20, 1.0), (40, 2.0), (10, 0.5)])
def test_ratios_lie_around_the_objects_own(height: float, expected: float) -> None:
    found = Statistics.from_dataset(pictures(*[((480, 640), [(0, 0, 20, height)])] * 4))
    low, middle, high = choose_anchors(found)[0].ratios
    assert middle == expected
    assert low < middle < high
    assert low * high == pytest.approx(middle**2, rel=0.03)


def test_ratios_reach_as_far_as_the_objects() -> None:
    boxes: list[tuple[float, ...]] = [(0, 0, 20, 20 * r) for r in np.geomspace(0.2, 5, 101)]
    low, middle, high = choose_anchors(Statistics.from_dataset(pictures(((480, 640), boxes))))[0].ratios
    # The 10th and 90th percentile of a range even in the logarithm.
    assert (low, middle, high) == (pytest.approx(0.28, abs=0.01), 1.0, pytest.approx(3.62, abs=0.01))


def test_without_objects_the_anchors_are_the_papers() -> None:
    rpn, why = choose_anchors(Statistics.from_dataset(pictures(((100, 100), []))))
    assert rpn == RPNSettings()
    assert "no objects" in why.why


# Objects that the border of an image cuts


def at_borders(least: float, count: int = 100, sides: tuple[float, ...] = (100,)) -> Statistics:
    """Squares, and ``count`` at each of two borders, which leave ``least`` to all of them, evenly."""
    boxes: list[tuple[float, ...]] = [(50, 50, 150, 150)] * MIN_CLASS_OBJECTS
    for i in range(count):
        left, side = least + (1 - least) * i / (count - 1), sides[i % len(sides)]
        boxes += [(1000 - left * side, 90, 1000, 90 + side), (90, 0, 90 + side, left * side)]
    return Statistics.from_dataset(pictures(((1000, 1000), boxes)))


def test_cut_objects_count_as_they_do_at_the_borders() -> None:
    share, background, why = choose_visible(at_borders(0.5))
    assert (share, background) == (pytest.approx(0.525, abs=0.006), True)
    assert why[0].value == f"background if less than {share:.0%} is left"
    assert choose_visible(at_borders(0.5, sides=(20, 60, 300)))[0] == pytest.approx(0.525, abs=0.01)
    assert choose_visible(at_borders(0.99))[:2] == (0.8, False), "objects that nothing cuts are cut by crops"


def test_where_slivers_are_drawn_or_little_is_known_slivers_count() -> None:
    nothing = (Augment.min_visible, False, [])
    assert choose_visible(at_borders(0.05)) == nothing
    assert choose_visible(at_borders(0.05, sides=(400,))) == nothing, "objects may be larger at the borders"
    assert choose_visible(at_borders(0.5, MIN_BORDER_OBJECTS // 2 - 1)) == nothing
    assert choose_visible(squares(10)) == nothing
    varied = at_borders(0.5)
    inside = ~varied.borders.any(1)
    ratios = np.where(inside, np.geomspace(0.3, 3, len(inside)), varied.ratios)
    assert choose_visible(replace(varied, ratios=ratios)) == nothing, "shapes differ anyway"


# Large objects among small ones


def two_kinds(large: float, rare: int) -> Statistics:
    """A thousand small objects of one class, and ``rare`` large ones of another."""
    sides = np.array([20.0] * 1000 + [large] * rare)
    return Statistics(
        np.full(20, 1000.0), np.full(20, 1000.0), sides, sides, np.ones(len(sides)),
        np.arange(len(sides)) % 20, np.array([0] * 1000 + [1] * rare),
        np.zeros((len(sides), 2), dtype=np.bool_), 60,
    )  # fmt: skip


def test_a_rare_class_of_large_objects_is_planned_for() -> None:
    crop, why = choose_crop(two_kinds(400, 12), np.ones(20))
    assert (crop, "objects up to 400 px" in why.why) == (600 // 32 * 32 + 32, True)
    # Its objects are two anchors' steps from the others: no level leaves them out.
    assert max(choose_anchors(two_kinds(400, 12))[0].sizes)[0] > 400 / 1.6
    few, _ = choose_crop(two_kinds(400, MIN_CLASS_OBJECTS - 1), np.ones(20))
    assert few == CROP_RANGE[0], "a handful may be mistakes"


def test_anchors_grow_faster_where_doubling_does_not_reach() -> None:
    sizes = [size for (size,) in choose_anchors(two_kinds(800, 100))[0].sizes]
    assert len(sizes) == 5
    assert all(b / a > 2.05 for a, b in pairwise(sizes))
    assert max(sizes) > 800 / 1.6


@pytest.mark.parametrize(
    ("large", "crop", "expected", "why"),
    [
        (100, 256, 0.75, "there is room"),
        (600, 640, 0.53, "at the crop's half the object has room about it"),
        (2000, 640, 0.3, "but no further"),
    ],
)
def test_shrinking_shows_large_objects_whole(large: float, crop: int, expected: float, why: str) -> None:
    assert choose_min_scale(two_kinds(large, 50), crop) == expected, why


# How many objects


@pytest.mark.parametrize(("most", "cap"), [(3, 300), (369, 800), (1500, 3000)])
def test_no_cap_is_met_by_images_like_those_of_the_training(most: int, cap: int) -> None:
    light = Light(BACKBONE, RPNSettings(sizes=((16,), (32,), (64,), (128,))), most)
    settings: Any = MODELS["faster_rcnn"].light_settings(light)
    assert settings.box.max_detections == cap
    assert settings.rpn.pre_nms[1] >= 2 * cap or cap == 300
    assert settings.rpn.post_nms[1] >= cap


# Up and down


def scenes(kind: str, images: int = 40) -> tuple[Pictures, Statistics]:
    """Noise images with a box each: ``isotropic``, or with one of the signs of an upright direction."""
    draw = np.random.default_rng(5)
    truths, pixels = [], []
    for _ in range(images):
        x, y = draw.uniform(20, 80, 2)
        y = y / 2 + 40 if kind == "objects below" else y
        width, height = draw.uniform(5, 10, 2)
        height = height * 2 if kind == "tall" else height
        truths.append(((100, 100), [(x - width, y - height, x + width, y + height)]))
        image = draw.uniform(0, 255, (3, 100, 100))
        if kind == "scenes":  # halves that differ much, now this way and now that
            image = 0.2 * image + np.linspace(*(draw.permutation([0, 200])), 100)[:, None]
        if kind == "sky":  # bright above, dark below, differently in each
            image = 0.5 * image + np.linspace(draw.uniform(60, 120), 0, 100)[:, None]
        if kind == "lamp":  # in the upper left corner
            fall = np.linspace(draw.uniform(30, 60), 0, 100)
            image = 0.5 * image + fall[:, None] + fall
        pixels.append(image.astype(np.uint8).transpose(1, 2, 0))
    data = pictures(*truths, images=tuple(pixels))
    return data, Statistics.from_dataset(data)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("isotropic", True),
        ("sky", False),
        ("scenes", False),
        ("lamp", True),
        ("objects below", False),
        ("tall", False),
    ],
)
def test_upright(kind: str, expected: bool) -> None:
    turns, why = has_no_orientation(*scenes(kind))
    assert turns is expected
    assert ("rotated by 90°" in why.value) is expected


def test_few_images_do_not_tell() -> None:
    turns, why = has_no_orientation(*scenes("isotropic", images=19))
    assert (turns, "too few images" in why.why) == (False, True)


@pytest.mark.parametrize(
    ("kind", "images", "rate"), [("isotropic", 40, 1.0), ("scenes", 40, 0.25), ("scenes", 19, 1.0)]
)
def test_the_backbone_learns_slower_on_photographs(kind: str, images: int, rate: float) -> None:
    recipe, reasons = plan(scenes(kind, images)[0])
    assert recipe.train.backbone_lr == rate
    assert ("0.25 of it in the backbone" in reasons[-1].value) == (rate < 1)


# The whole


def test_a_plan_for_masks_and_one_for_boxes() -> None:
    with_masks, reasons = plan(pictures(((100, 100), [(0, 0, 30, 30)]), masks=True))
    boxes, more = plan(pictures(((100, 100), [(0, 0, 30, 30)])))
    assert (with_masks.model, boxes.model) == ("mask_rcnn", "faster_rcnn")
    assert str(reasons[0]) == "model: mask_rcnn (every object has a mask)"
    assert str(reasons[1]) == "backbone: efficientnet_lite0 (ImageNet weights)"
    assert str(more[0]) == "model: faster_rcnn (the data has boxes only)"
    keys = ["model", "backbone", "input", "anchors", "detections", "crops", "orientation", "schedule"]
    assert [reason.what for reason in reasons] == keys
    chosen, why = plan(pictures(((100, 100), [(0, 0, 30, 30)]), masks=True), model="faster_rcnn")
    assert chosen.model == "faster_rcnn"
    assert why[0].why == "chosen by you"


def test_reasons_are_stored_and_read() -> None:
    _, reasons = plan(pictures(((100, 100), [(0, 0, 30, 30)])))
    stored = json.loads(json.dumps([asdict(reason) for reason in reasons]))
    assert [Reason.from_json(one) for one in stored] == reasons
    of_0_1 = "input: images keep their size; a tenth of the objects is smaller than 20 px"
    assert str(Reason.from_json(of_0_1)) == of_0_1


def test_what_is_asked_for_is_planned() -> None:
    data = pictures(((100, 100), [(0, 0, 30, 30)]))
    default = plan(data)[0].train
    assert default.epochs is None
    assert default.minutes is not None
    epochs, reasons = plan(data, epochs=2, seed=7, workers=0, backbone="resnet18")
    assert (epochs.train.epochs, epochs.train.minutes) == (2, None)
    assert (epochs.train.seed, epochs.train.workers) == (7, 0)
    assert epochs.settings.backbone.name == "resnet18"
    assert str(reasons[-1]).startswith("schedule: 2 epochs")
    assert plan(data, minutes=5)[0].train.minutes == 5


@pytest.mark.parametrize("count", [1, 100, 160, 500])
def test_crowded_images_raise_the_number_of_detections(count: int) -> None:
    data = pictures(((1000, 1000), [(i, i, i + 10, i + 10) for i in range(count)]), masks=True)
    box, rpn = (getattr(plan(data)[0].settings, name) for name in ("box", "rpn"))
    assert box.max_detections >= max(100, 1.2 * count)
    assert rpn.post_nms[1] >= box.max_detections


def test_an_unknown_model_and_an_unknown_backbone() -> None:
    data = pictures(((100, 100), [(0, 0, 30, 30)]))
    expected = r"'yolo' is unknown; expected one of: rcnn, fast_rcnn, faster_rcnn, mask_rcnn, keypoint_rcnn"
    with pytest.raises(ValueError, match=expected):
        plan(data, model="yolo")
    with pytest.raises(ValueError, match=r"backbone 'resnet5' is unknown; did you mean resnet50"):
        plan(data, backbone="resnet5")


ODD: dict[str, Dataset] = {
    "no objects": pictures(((100, 100), []), ((100, 100), [])),
    "one image": pictures(((100, 100), [(0, 0, 30, 30)])),
    "one pixel": pictures(((1, 1), [(0, 0, 1, 1)])),
    "long and thin": pictures(((50, 10000), [(0, 0, 9000, 40), (0, 0, 2, 2)])),
    "tall and thin": pictures(((10000, 50), [(0, 0, 40, 9000)])),
    "huge": pictures(((20000, 20000), [(0, 0, 4000, 4000)])),
    "all sizes": pictures(((10, 10), [(0, 0, 2, 2)]), ((9000, 7000), [(0, 0, 5000, 6000)]), ((300, 20), [])),
    "drawn": tiny_shapes(3),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_get_a_plan_that_can_be_trained(name: str, tmp_path: Path) -> None:
    recipe, _ = plan(ODD[name])
    assert recipe.augment.crop % 32 == 0
    assert 64 <= recipe.augment.crop <= max(CROP_RANGE)
    for record in ODD[name].records:
        height, width = recipe.transform.resized(record.truth.size)
        assert height >= 1
        assert width >= 1
    assert all(np.isfinite([s for (s,) in recipe.settings.rpn.sizes]))
    assert all(r > 0 for r in recipe.settings.rpn.ratios)
    assert list(recipe.settings.rpn.ratios) == sorted(set(recipe.settings.rpn.ratios))
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe


def test_huge_images_with_large_objects_are_shrunk_to_the_budget() -> None:
    transform = plan(ODD["huge"])[0].transform
    height, width = transform.resized((20000, 20000))
    # An eighth is the least; beyond that the image would need a short side.
    assert height * width <= max(TARGET_PIXELS, (20000 / 8) ** 2) * 1.01


@pytest.mark.parametrize("side", [30, 700], ids=["four levels", "five levels"])
@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_fits_its_plan(backbone: str, model: Any, side: int) -> None:
    """The anchors have as many levels as the maps."""
    small = squares(10)
    both = replace(small, sides=np.array([10.0] * 5 + [side] * 5), ratios=np.ones(10))
    settings: Any = MODELS[model].light_settings(Light(backbone, choose_anchors(both)[0], 1))
    with torch.device("meta"):
        network: Any = MODELS[model].build(settings, ("a", "b"))
    assert len(network.rpn.strides) == len(settings.rpn.sizes)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rcnn_reads_the_last_map_of_every_backbone(backbone: str) -> None:
    settings = MODELS["rcnn"].light_settings(Light(backbone, choose_anchors(squares(10))[0], 1))
    with torch.device("meta"):
        network: Any = MODELS["rcnn"].build(settings, ("a", "b"))
        found = network.features(torch.zeros(3, 64, 64), torch.zeros(3, 4))[1]
    assert found.shape == (3, network.backbone.channels[-1] * 16)
    assert network.backbone.strides == ((16,) if backbone in ("vgg16", "alexnet") else (32,))


@pytest.mark.parametrize(
    ("width", "side", "expected"),
    [
        (320, 60, (None, 20.0)),
        (320, 12, (None, 6.0)),
        (1000, 40, (500, 10.0)),
        (1000, 4, (500, 4.0)),
    ],
    ids=["the paper's", "small objects", "large images", "no smaller"],
)
def test_selective_search_looks_for_what_there_is(width: int, side: int, expected: tuple[Any, float]) -> None:
    statistics = replace(squares(side), widths=np.array([float(width)] * 4))
    search, _ = choose_search(statistics)
    assert (search.width, search.min_side) == expected


def test_rcnn_searches_instead_of_having_anchors() -> None:
    recipe, reasons = plan(pictures(((400, 1000), [(0, 0, 40, 40)])), model="rcnn", epochs=1.0)
    assert recipe.settings.search.min_side == 10
    assert Reason("search", "up to 800 boxes with sides from 10 px, in images 500 px wide") in reasons
    assert not any(reason.what == "anchors" for reason in reasons)


def test_keypoints_decide_the_model() -> None:
    data = replace(pictures(((100, 100), [(10, 10, 40, 40)])), skeleton=Skeleton(("nose", "tail")))
    recipe, reasons = plan(data)
    assert (recipe.model, recipe.settings.keypoint.count, recipe.settings.mask) == ("keypoint_rcnn", 2, None)
    assert str(reasons[0]) == "model: keypoint_rcnn (the objects have 2 keypoints)"
    assert plan(data, model="faster_rcnn")[0].model == "faster_rcnn"


@pytest.mark.parametrize(
    ("names", "flip"), [(("nez", "queue"), False), (("left_ear", "right_ear"), True), (("nose",), True)]
)
def test_images_are_mirrored_only_if_partners_are_known(names: tuple[str, ...], flip: bool) -> None:
    data = replace(pictures(((100, 100), [(10, 10, 40, 40)])), skeleton=Skeleton(names))
    recipe, reasons = plan(data, minutes=1)
    assert recipe.augment.flip == flip
    said = {reason.what: str(reason) for reason in reasons}
    assert ("see augment.flip_pairs" in said.get("mirroring", "")) == (not flip)
    assert ("flipped" in said["orientation"]) == flip


def test_partners_that_the_recipe_names_are_those_of_training() -> None:
    truth = Instances.empty((10, 10), skeleton=Skeleton(("nez", "gauche", "droite")))
    part = Dataset("mine", Path("x"), ("a",), [Record(Path("a.png"), 0, truth)], skeleton=truth.skeleton)
    split = Split(part, part, ()).with_flip_pairs([("gauche", "droite")])
    for changed in (split.train, split.val):
        assert changed.skeleton.mirror == changed.records[0].truth.skeleton.mirror == (0, 2, 1)
    assert Split(part, part, ()).with_flip_pairs(None).train is part
    for pairs, message in (
        ([("gauche", "left")], "there is no keypoint 'left'; there are nez, gauche, droite"),
        ([("nez", "gauche"), ("nez", "droite")], "expected each keypoint in one pair"),
    ):
        with pytest.raises(ValueError, match=message):
            Split(part, part, ()).with_flip_pairs(pairs)
    with pytest.raises(ValueError, match="has no keypoints"):
        Split(replace(part, skeleton=None), part, ()).with_flip_pairs([("a", "b")])
