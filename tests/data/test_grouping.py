"""Batches of one orientation: nothing is lost or seen twice, and little is padding."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset, Record
from rcnn.data.grouping import grouped, upright_views
from rcnn.data.loader import Batches
from rcnn.structures import Instances
from rcnn.transform import Transform

COCO = ((480, 640), (480, 640), (480, 640), (480, 640), (480, 640), (427, 640), (427, 640), (640, 480),
        (640, 480), (640, 427))  # fmt: skip
WHOLE = Augment(crop=1333, scale_jitter=(1.0, 1.0))
SHORT = Transform(short_side=800, max_long_side=1333)


@pytest.mark.parametrize("seed", range(40))
def test_each_item_once_and_batches_of_one_kind(seed):
    rng = np.random.default_rng(seed)
    count, batch_size, first = (int(rng.integers(*each)) for each in ((0, 90), (1, 9), (0, 50)))
    upright = rng.random(count) < rng.choice([0.0, 0.1, 0.5, 1.0])
    order = grouped(upright, first, batch_size, rng, last=bool(seed % 2))
    assert sorted(order.tolist()) == list(range(count))
    head = min(count, -first % batch_size)
    whole = order[head : head + (count - head) // batch_size * batch_size].reshape(-1, batch_size)
    mixed = sum(len(set(upright[batch].tolist())) > 1 for batch in whole)
    assert mixed <= 2


def test_the_batch_between_two_epochs_by_hand():
    """Of 10 items in batches of 4, of which 5 are upright, an upright one is left, and a lying one."""
    upright = np.arange(10) % 2 == 1
    rng = np.random.default_rng(0)
    even = grouped(upright, 0, 4, rng, last=True)
    odd = grouped(upright, 10, 4, rng, last=False)
    assert [upright[even[i : i + 4]].sum() for i in (0, 4)] in ([0, 4], [4, 0])
    assert upright[even[8:]].tolist() == [False, True]
    assert upright[odd[:2]].tolist() == [True, False]
    more = grouped(np.arange(10) < 6, 0, 4, rng, last=True)
    assert (more[8:] < 6).tolist() == [True, True]


def photographs(count, sizes=COCO, seed=0):
    """A data set without files."""
    chosen = np.random.default_rng(seed).integers(len(sizes), size=count)
    records = [
        Record(Path(f"{i}.jpg"), i, Instances.empty(sizes[k], ("a",))) for i, k in enumerate(chosen.tolist())
    ]
    return Dataset("coco", Path("coco.json"), ("a",), records)


def made(data, *, augment=WHOLE, batch_size=16, offset=0, per_process=None, **more):
    return Batches(data, augment, SHORT, 4, batch_size, offset, per_process or batch_size, **more)


@pytest.mark.parametrize("repeat", [0.0, 0.7])
@pytest.mark.parametrize("count", [37, 160, 501])
def test_each_epoch_has_the_images_that_it_has_without_groups(count, repeat):
    augment = replace(WHOLE, repeat=repeat)
    batches = made(photographs(count), augment=augment, batch_size=7)
    plain = made(photographs(count), augment=augment, batch_size=7)
    assert plain._upright is not None
    object.__setattr__(plain, "_upright", None)
    for epoch in range(4):
        places = range(epoch * count, (epoch + 1) * count)
        seen, without = ([b.index(p) for p in places] for b in (batches, plain))
        assert Counter(seen) == Counter(without)
        assert seen != without


def test_an_image_is_a_function_of_seed_and_position():
    """Whoever asks, in whatever order: resumed runs and several processes see the same."""
    data = photographs(90)
    whole = [made(data).index(p) for p in range(1000)]
    late = made(data, offset=8, per_process=8)
    assert [late.index(p) for p in range(999, -1, -1)] == whole[::-1]
    assert whole != [replace(made(data), seed=5).index(p) for p in range(1000)]


def padding(batches, data, count):
    """Pixels of the padded batches for one of the images."""
    padded = covered = 0
    for number in range(count):
        sizes = [SHORT.resized(data.records[batches.index(16 * number + i)].truth.size) for i in range(16)]
        height, width = SHORT.padded((max(h for h, _ in sizes), max(w for _, w in sizes)))
        padded, covered = padded + 16 * height * width, covered + sum(h * w for h, w in sizes)
    return padded / covered


def test_little_of_a_batch_is_padding():
    data = photographs(4000)
    batches = made(data)
    after = padding(batches, data, 240)
    object.__setattr__(batches, "_upright", None)
    before = padding(batches, data, 240)
    assert before > 1.5
    assert after < 1.25


def test_where_orientation_does_not_matter_nothing_is_grouped():
    data = photographs(200)
    assert made(data)._upright is not None
    assert made(data, augment=replace(WHOLE, rotate90=True))._upright is None
    assert made(data, augment=replace(WHOLE, crop=256))._upright is None, "square crops"
    assert made(data, views=2)._upright is None
    assert made(data, batch_size=1)._upright is None
    assert made(photographs(200, ((480, 640), (600, 600))))._upright is None
    assert made(photographs(12))._upright is None, "too few to fill a batch"
    assert upright_views(np.array([[2.0, 1], [1, 2], [1, 1], [2, 1]]), 2).tolist() == [
        True,
        False,
        False,
        True,
    ]
