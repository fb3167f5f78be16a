"""Batches are a function of their number: resume, ranks and workers change nothing."""

import multiprocessing
import pickle
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from annotated_images import HEIGHT, WIDTH, image, put
from rcnn.data import loader
from rcnn.data.augment import Augment
from rcnn.data.dataset import Dataset, DrawnMasks
from rcnn.data.formats.open import open_data
from rcnn.data.loader import CACHE_BYTES, Batches, training_batches
from rcnn.data.shapes import draw_shapes
from rcnn.structures import Masks
from rcnn.transform import Transform

SHAPES = draw_shapes(7, size=(48, 48), diameter=(12, 24), objects=(1, 4))
AUGMENT = Augment(crop=40, copy_paste=0.5)


def batches(dataset=SHAPES, count=5, **settings):
    values = {"batch_size": 4, "seed": 3, **settings}
    return list(islice(training_batches(dataset, AUGMENT, Transform(), **values), count))


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert [s.image_id for s in one] == [s.image_id for s in other]
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.targets.boxes, b.targets.boxes)
            assert torch.equal(a.targets.labels, b.targets.labels)
            assert torch.equal(a.targets.crowd, b.targets.crowd)
            assert torch.equal(a.targets.masks.pixels, b.targets.masks.pixels)
            assert torch.equal(a.targets.masks.windows, b.targets.masks.windows)


def test_every_image_once_an_epoch_in_a_new_order():
    seen = [s.image_id for batch in batches(count=7) for s in batch]
    epochs = [seen[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("repeat", [0.0, 1.0])
def test_recurring_views_are_a_function_of_their_number(repeat):
    """Two views of each image: epochs 0 and 2 have the same, in another order, and epoch 1 has others."""
    augment = replace(AUGMENT, repeat=repeat)
    source = Batches(SHAPES, augment, Transform(), 3, 1, 0, 1, views=2)
    epochs = [[source.sample(p) for p in range(7 * e, 7 * e + 7)] for e in range(4)]
    views = [[sample.view for sample in epoch] for epoch in epochs]
    assert [sorted(some) for some in views] == [[*range(7)], [*range(7, 14)]] * 2
    assert views[0] != views[2]
    for one, other in ((0, 2), (1, 3)):
        same = [sorted(epochs[e], key=lambda sample: sample.view) for e in (one, other)]
        assert_equal([same[0]], [same[1]])
    images = [{sample.image.numpy().tobytes() for sample in epoch} for epoch in epochs]
    assert images[0] == images[2]
    assert not images[0] & images[1]


def test_views_recur_whatever_prepares_them():
    here = batches(count=8, views=2)
    assert_equal(batches(count=5, views=2, start=3), here[3:])
    halves = [batches(count=8, views=2, process=(rank, 2)) for rank in (0, 1)]
    assert_equal([a + b for a, b in zip(*halves, strict=True)], here)
    assert_equal(batches(count=8, views=2, workers=1), here)
    assert all(sample.view is None for batch in batches() for sample in batch)


def test_images_that_hold_more_crops_come_more_often():
    shares = {}
    for repeat in (0.0, 0.5, 1.0):
        augment = Augment(crop=32, repeat=repeat)
        source = Batches(SHAPES, augment, Transform(), 3, 1, 0, 1)
        crops = np.array([augment.crops(r.truth, Transform()) for r in SHAPES.records])
        assert crops.max() > 2
        assert crops.max() > 1.3 * crops.min()
        seen = np.bincount([source.index(p) for p in range(7 * 300)], minlength=7)
        shares[repeat] = seen / seen.sum()
        np.testing.assert_allclose(shares[repeat], crops**repeat / (crops**repeat).sum(), atol=0.01)
    assert np.array_equal(shares[0.0], np.full(7, 1 / 7))


def test_crops_of_an_image_are_no_more_than_its_objects():
    truth = SHAPES.records[0].truth
    assert Augment(crop=16).crops(truth, Transform()) == len(truth)
    assert Augment(crop=10**4).crops(truth, Transform()) == 1
    height, width = truth.size
    assert Augment(crop=height).crops(truth, Transform(scale=1.25)) == pytest.approx(1.25**2 * width / height)


def test_same_seed_same_batches_other_seed_others():
    assert_equal(batches(), batches())
    first = [s.image_id for batch in batches() for s in batch]
    assert first != [s.image_id for batch in batches(seed=4) for s in batch]


def test_an_image_varies_from_epoch_to_epoch():
    one = SHAPES.subset([2])
    first, second = batches(one, count=2, batch_size=1)
    assert first[0].image.shape != second[0].image.shape or not torch.equal(first[0].image, second[0].image)


def test_resumed_run_goes_on_where_it_stopped():
    assert_equal(batches(count=6)[4:], batches(count=2, start=4))


def test_two_ranks_share_the_batches_of_one():
    whole = batches()
    halves = [batches(process=(rank, 2)) for rank in (0, 1)]
    assert_equal(whole, [a + b for a, b in zip(*halves, strict=True)])


def test_workers_change_nothing():
    state = torch.random.get_rng_state()
    assert_equal(batches(start=1), batches(start=1, workers=1))
    assert_equal(batches(), batches(workers=2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batch_larger_than_the_data_set():
    batch = batches(count=1, batch_size=16)[0]
    ids = [s.image_id for s in batch]
    assert sorted(ids[:7]) == sorted(ids[7:14]) == list(range(7))


def test_travels_to_a_process_that_shares_nothing():
    """By value: torch would send each tensor of the data set as an open file."""
    sent = Batches(SHAPES, AUGMENT, Transform(), 3, 4, 0, 4)
    data = pickle.dumps(sent)
    assert_equal([pickle.loads(data)[1]], [sent[1]])
    # what a process that is spawned is sent holds no handles that could only be used here
    reduced = multiprocessing.reduction.ForkingPickler.dumps(sent)
    assert_equal([pickle.loads(bytes(reduced))[1]], [sent[1]])


def open_files():
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("open files are counted in /proc")
    return len(list(folder.iterdir()))


def test_batches_hold_no_open_files():
    stream = training_batches(SHAPES, AUGMENT, Transform(), batch_size=4, seed=0, workers=1)
    kept = [next(stream)]
    before = open_files()
    kept += [next(stream) for _ in range(10)]
    assert open_files() <= before + 2
    stream.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_error_names_the_image(workers):
    records = [replace(r, path=Path("no such folder") / r.path.name, image=None) for r in SHAPES.records]
    broken = Dataset("coco", Path("data"), SHAPES.class_names, records)
    stream = training_batches(broken, AUGMENT, Transform(), batch_size=1, seed=0, workers=workers)
    with pytest.raises(ValueError, match=r"^no such folder.*\.png could not be prepared"):
        next(stream)


def _defect():
    raise KeyError("joint")


def polygons(folder):
    """A data set of two images with polygons and a run-length code."""
    image(folder, "a.png", "b.png")
    code = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 10, HEIGHT * 5, HEIGHT * (WIDTH - 15)]}
    outlines = [[[8, 6, 24, 6, 24.5, 20, 10, 21]], [[30, 5, 60, 5, 45, 40]], code]
    objects = [
        {"id": i, "image_id": i % 2, "category_id": 1, "bbox": [8, 5, 52, 35], "segmentation": outline}
        for i, outline in enumerate(outlines)
    ]
    pictures = [
        {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for i, name in enumerate(("a.png", "b.png"))
    ]
    names = [{"id": 1, "name": "cell"}]
    return open_data(
        put(folder, "coco.json", {"images": pictures, "annotations": objects, "categories": names})
    )


def test_outlines_are_drawn_in_views_alone(tmp_path, monkeypatch):
    data = polygons(tmp_path)
    sample = data.undrawn(0)
    assert sample.truth.masks is None
    drawn = Masks.from_outlines(sample.outlines, sample.truth.size)
    np.testing.assert_array_equal(drawn, data[0].truth.masks)
    merged = DrawnMasks(partial(list, sample.outlines), sample.truth.size)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(merged))(), drawn)
    monkeypatch.setattr(Masks, "from_outlines", None)
    made = Batches(
        data, replace(AUGMENT, copy_paste=0.0, scale_jitter=(2, 2), crop=64), Transform(), 3, 4, 0, 4
    )
    assert any(len(s.targets) for s in made[0])
    assert all(len(s.targets.masks) == len(s.targets) and s.outlines is None for s in made[0])


def test_masks_that_are_no_outlines_are_loaded_as_they_are():
    assert SHAPES.undrawn(0).outlines is None
    np.testing.assert_array_equal(SHAPES.undrawn(0).truth.masks, SHAPES[0].truth.masks)


@pytest.mark.parametrize("workers", [0, 1])
def test_defect_is_no_value_error_but_names_the_image_too(workers):
    broken = replace(SHAPES, records=[replace(SHAPES.records[0], masks=_defect)])
    stream = training_batches(broken, AUGMENT, Transform(), batch_size=1, seed=0, workers=workers)
    with pytest.raises(RuntimeError, match=r"images.000000\.png could not .* KeyError: 'joint'"):
        next(stream)


def test_refused_at_once():
    with pytest.raises(ValueError, match="no images"):
        training_batches(SHAPES.subset([]), AUGMENT, Transform(), batch_size=1, seed=0)
    with pytest.raises(ValueError, match="batch_size 3 cannot be split among 2"):
        training_batches(SHAPES, AUGMENT, Transform(), batch_size=3, seed=0, process=(0, 2))


def test_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr(loader, "available_cores", lambda: 1)
    assert_equal(batches(), batches(workers=9))  # torch's warning of too many would be an error


class Counted(Dataset):
    """Notes what is decoded."""

    def undrawn(self, index):
        decoded.append(index)
        return SHAPES[index]


decoded: list[int] = []


@pytest.mark.parametrize(("room", "times"), [(CACHE_BYTES, 1), (3 * 48 * 48 + 3000, 2), (0, 3)])
def test_images_are_decoded_once_where_there_is_room(room, times, monkeypatch):
    monkeypatch.setattr(loader, "CACHE_BYTES", room)
    decoded.clear()
    counted = Counted(SHAPES.format, SHAPES.source, SHAPES.class_names, SHAPES.records[:2])
    plain = replace(AUGMENT, copy_paste=0.0)
    three = list(islice(training_batches(counted, plain, Transform(), batch_size=2, seed=3), 3))
    # Of two images there is room for both, for one, or for none; and what is made of them is the same.
    assert sorted(decoded.count(i) for i in (0, 1)) == sorted([1 if times < 3 else 3, 3 if times > 1 else 1])
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    again = list(islice(training_batches(counted, plain, Transform(), batch_size=2, seed=3), 3))
    assert_equal(three, again)
