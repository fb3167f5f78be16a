"""Augmentation: consistency of random variations, where windows lie, odd sizes, colour, copy-paste."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from blobs import as_masks, blobs, dense, tight_boxes
from rcnn.data.augment import QUARTER_TURNS, Augment, copy_paste
from rcnn.data.geometry import TrainingSample, View, view_sample
from rcnn.parts.batch import TargetMasks, Targets
from rcnn.transform import Transform

SAME = Transform()
PLAIN = Augment(crop=64, scale_jitter=(1, 1), flip=False, brightness=0, contrast=0, saturation=0, hue=0)


def areas(masks):
    return masks.masks().areas()


def boxes_only(size, *boxes, **fields):
    truth = Targets(size, torch.tensor(boxes).float().reshape(-1, 4), torch.arange(len(boxes)), **fields)
    return TrainingSample(torch.zeros((3, *size), dtype=torch.uint8), truth, 0)


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_those_of_numpy(turns):
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    out = View((0, 0, 6, 4), (4, 6), *QUARTER_TURNS[turns]).image(image)
    assert np.array_equal(out.numpy(), np.rot90(image.numpy(), turns, axes=(1, 2)))


def test_random_variations_stay_consistent():
    augment = Augment(crop=48, rotate90=True, scale_jitter=(0.5, 2), copy_paste=0.5)
    rng = np.random.default_rng(1)
    for seed in range(60):
        out = augment(blobs(seed=seed), SAME, rng, lambda: blobs(seed=99))
        truth, (_, height, width) = out.targets, out.image.shape
        assert out.image.dtype == torch.uint8
        assert max(height, width) <= 48
        assert truth.size == truth.masks.size == (height, width)
        assert len(truth) == len(truth.masks) == len(truth.labels) == len(truth.crowd)
        torch.testing.assert_close(truth.boxes, tight_boxes(truth.masks))
        assert (areas(truth.masks) > 0).all()


def test_same_generator_state_same_sample():
    augment = Augment(crop=40, rotate90=True, copy_paste=0.5)

    def draw(seed):
        return augment(blobs(), SAME, np.random.default_rng(seed), lambda: blobs(seed=5))

    first, again, other = draw(3), draw(3), draw(4)
    assert torch.equal(first.image, again.image)
    assert torch.equal(dense(first.targets.masks), dense(again.targets.masks))
    assert first.image.shape != other.image.shape or not torch.equal(first.image, other.image)


def test_leaves_the_sample_and_the_global_generators_alone():
    sample, state, numpy_state = blobs(), torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    image, pixels = sample.image.clone(), sample.targets.masks.pixels.clone()
    Augment(crop=40, copy_paste=1.0)(sample, SAME, np.random.default_rng(0), lambda: blobs(seed=5))
    assert torch.equal(sample.image, image)
    assert torch.equal(sample.targets.masks.pixels, pixels)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_without_variation_a_small_image_stays_as_it_is():
    sample = blobs((50, 60))
    out = PLAIN(sample, SAME, np.random.default_rng(0))
    assert torch.equal(out.image, sample.image)
    assert torch.equal(dense(out.targets.masks), dense(sample.targets.masks))
    torch.testing.assert_close(out.targets.boxes, sample.targets.boxes)


@pytest.mark.parametrize(
    ("size", "transform", "shape"),
    [
        ((10_000, 50), SAME, (64, 50)),  # longer than the crop in one direction only
        ((10_000, 50), Transform(short_side=100), (64, 64)),
        ((10_000, 50), Transform(short_side=100, max_long_side=100), (64, 1)),
        ((1, 1), SAME, (1, 1)),  # not enlarged to fill the crop
        ((1, 1), Transform(short_side=800), (64, 64)),
    ],
)
def test_odd_sizes(size, transform, shape):
    bitmap = torch.zeros((1, *size), dtype=torch.bool)
    bitmap[0, size[0] // 2, 0] = True
    masks = as_masks(bitmap)
    truth = Targets(size, tight_boxes(masks), torch.zeros(1, dtype=torch.int64), masks=masks)
    sample = TrainingSample(torch.zeros((3, *size), dtype=torch.uint8), truth, 0)
    out = replace(PLAIN, object_crop_fraction=1.0)(sample, transform, np.random.default_rng(0))
    assert out.image.shape[1:] == shape == out.targets.size
    assert len(out.targets) == (0 if shape == (64, 1) else 1)


def test_no_objects():
    for truth in (Targets.empty((30, 200)), Targets.empty((30, 200), masks=TargetMasks.empty((30, 200)))):
        sample = TrainingSample(torch.zeros((3, 30, 200), dtype=torch.uint8), truth, 0)
        out = Augment(crop=64, rotate90=True)(sample, SAME, np.random.default_rng(0))
        assert len(out.targets) == 0
        assert out.targets.boxes.shape == (0, 4)
        assert (out.targets.masks is None) == (truth.masks is None)


def test_one_pixel_object_keeps_one_pixel_or_goes():
    """At scale 1 it is always there when its window is; shrunk it may vanish, and its box with it."""
    bitmap = torch.zeros((1, 40, 40), dtype=torch.bool)
    bitmap[0, 39, 39] = True
    masks = as_masks(bitmap)
    sample = TrainingSample(
        torch.zeros((3, 40, 40), dtype=torch.uint8),
        Targets((40, 40), tight_boxes(masks), torch.zeros(1, dtype=torch.int64), masks=masks),
        0,
    )
    augment = replace(PLAIN, crop=16, object_crop_fraction=1.0)
    for seed in range(10):
        out = augment(sample, SAME, np.random.default_rng(seed)).targets
        assert areas(out.masks).tolist() == [1.0]
        assert out.crowd.tolist() == [False]
    assert len(view_sample(sample, View((0, 0, 40, 40), (1, 1))).targets) == 0


def test_window_holds_an_object_when_it_is_to():
    sample = boxes_only((1000, 2000), [1990, 3, 1999, 12])
    shares = {}
    for object_crop_fraction in (0.0, 1.0):
        augment = replace(PLAIN, object_crop_fraction=object_crop_fraction)
        outs = [augment(sample, SAME, np.random.default_rng(i)).targets for i in range(40)]
        shares[object_crop_fraction] = sum(len(out) for out in outs) / 40
        whole = [out.boxes for out in outs if len(out)]
        if object_crop_fraction:
            sizes = torch.cat(whole)[:, 2:] - torch.cat(whole)[:, :2]
            torch.testing.assert_close(sizes, torch.full((40, 2), 9.0))  # wholly inside, never cut
    assert shares == {0.0: 0.0, 1.0: 1.0}


def test_window_lies_inside_an_object_larger_than_it():
    sample = boxes_only((1000, 1000), [100, 100, 900, 900])
    hits = replace(PLAIN, object_crop_fraction=1.0)
    for seed in range(20):
        out = hits(sample, SAME, np.random.default_rng(seed)).targets
        assert out.boxes.tolist() == [[0, 0, 64, 64]]
        assert out.crowd.tolist() == [True]  # 64 x 64 of 800 x 800 is too little to learn its box from


def test_crowds_are_no_aim_and_stay_crowds():
    fields = {"crowd": torch.tensor([True]), "difficult": torch.tensor([True])}
    sample = boxes_only((64, 64), [0, 0, 40, 40], **fields)
    out = replace(PLAIN, object_crop_fraction=1.0)(sample, SAME, np.random.default_rng(0)).targets
    assert out.crowd.tolist() == out.difficult.tolist() == [True]


def test_scale_follows_the_transform():
    sample = boxes_only((100, 100), [10, 10, 30, 50])
    transform = Transform(short_side=50)
    out = replace(PLAIN, crop=500)(sample, transform, np.random.default_rng(0))
    torch.testing.assert_close(out.targets.boxes, torch.tensor([[5.0, 5, 15, 25]]))
    jittered = replace(PLAIN, crop=500, scale_jitter=(0.5, 2.0))
    sides = [jittered(sample, transform, np.random.default_rng(i)).image.shape[1] for i in range(50)]
    assert 25 <= min(sides) < 30
    assert 85 < max(sides) <= 100


def test_colour_leaves_grey_images_grey_and_changes_coloured_ones():
    augment = Augment(crop=32)
    grey = torch.arange(32, dtype=torch.uint8).mul(4).expand(3, 32, 32).contiguous()
    out = augment.colour(grey, np.random.default_rng(0))
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out, grey)
    off = replace(augment, brightness=0, contrast=0, saturation=0, hue=0)
    coloured = torch.stack([grey[0], grey[1].flip(1), grey[2].T])
    assert torch.equal(off.colour(coloured, np.random.default_rng(0)), coloured)
    for name in ("brightness", "contrast", "saturation", "hue"):
        changed = replace(off, **{name: 0.4}).colour(coloured, np.random.default_rng(0))
        assert not torch.equal(changed, coloured), name


def square(size, *corners, value=0, **fields):
    """Squares of 4 x 4 pixels at (x, y) corners on an image of one value."""
    bitmaps = torch.zeros((len(corners), *size), dtype=torch.bool)
    for bitmap, (x, y) in zip(bitmaps, corners, strict=True):
        bitmap[y : y + 4, x : x + 4] = True
    masks = as_masks(bitmaps)
    truth = Targets(size, tight_boxes(masks), torch.full((len(corners),), value), masks=masks, **fields)
    return TrainingSample(torch.full((3, *size), value, dtype=torch.uint8), truth, value)


def test_paste_by_hand():
    """Of three below, all, a quarter and nothing is hidden; of three pasted one is cut and one outside."""
    known = torch.tensor([True, True, False])
    below = square((10, 10), (0, 0), (2, 2), (6, 6), value=1, has_mask=known)
    donor = square(
        (20, 20), (0, 0), (8, 0), (15, 15), (0, 8), value=2, difficult=torch.ones(4, dtype=torch.bool)
    )
    out = copy_paste(below, donor, torch.tensor([True, True, True, False]), min_visible=0.8)
    assert out.targets.labels.tolist() == [1, 1, 2, 2]
    # (0, 0) is gone; (2, 2) lost its corner 2..4 x 2..4; (8, 0) is cut at x = 10
    expected = torch.tensor([[2.0, 2, 6, 6], [6, 6, 10, 10], [0, 0, 4, 4], [8, 0, 10, 4]])
    torch.testing.assert_close(out.targets.boxes, expected)
    assert areas(out.targets.masks).tolist() == [12, 16, 16, 8]
    assert out.targets.crowd.tolist() == [True, False, False, True]
    assert out.targets.difficult.tolist() == [False, False, True, True]
    assert out.targets.has_mask.tolist() == [True, False, True, True]
    assert dense(out.targets.masks).sum(0).max() == 1
    assert torch.equal(out.image[0] == 2, dense(out.targets.masks)[2:].any(0))
    assert (below.image == 1).all()


def test_paste_on_an_image_without_objects():
    empty = TrainingSample(torch.zeros((3, 10, 10), dtype=torch.uint8), Targets.empty((10, 10)), 0)
    donor = square((10, 10), (1, 2), value=2)
    out = copy_paste(empty, donor, torch.tensor([True]))
    torch.testing.assert_close(out.targets.boxes, torch.tensor([[1.0, 2, 5, 6]]))
    assert len(out.targets.masks) == 1
    assert copy_paste(donor, empty, torch.zeros(0, dtype=torch.bool)) is donor


def test_paste_without_masks_is_refused():
    sample = boxes_only((10, 10), [0, 0, 5, 5])
    with pytest.raises(ValueError, match="copy_paste to 0"):
        copy_paste(sample, sample, torch.tensor([True]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", 0),
        ("scale_jitter", (0, 1)),
        ("scale_jitter", (2, 1)),
        ("hue", 0.6),
        ("copy_paste", -0.1),
    ],
)
def test_settings_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        Augment(**{field: value})


OWN = """
from dataclasses import replace

def darker(sample, rng):
    return replace(sample, image=(sample.image * rng.uniform(0.2, 0.4)).byte())

def nothing(sample, rng):
    return None

def halved(sample, rng):
    return replace(sample, image=sample.image[:, ::2])
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_augment.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_comes_last():
    """It draws after everything else: boxes and masks are the same with it and without."""
    plain = Augment(crop=40, rotate90=True, copy_paste=0.5)
    extra = replace(plain, extra="my_augment:darker")
    for seed in range(8):
        one, other = (
            augment(blobs(), SAME, np.random.default_rng(seed), lambda: blobs(seed=5))
            for augment in (plain, extra)
        )
        assert torch.equal(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.targets.masks.pixels, other.targets.masks.pixels)
        assert other.image.float().mean() < 0.5 * one.image.float().mean()
    assert plain.without_randomness() == extra.without_randomness()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_augment:nothing", "expected it to return a TrainingSample; got NoneType"),
        ("my_augment:halved", r"expected a uint8 image \[3, 60, 64\]"),
        ("my_augment:absent", "my_augment has no absent"),
    ],
)
def test_a_function_that_does_not_fit_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, extra=path)(blobs(), SAME, np.random.default_rng(0))


def test_a_function_is_named_by_a_dotted_path():
    with pytest.raises(ValueError, match=r"extra must be a dotted path such as my_package\.augment:fog"):
        Augment(extra="fog")
