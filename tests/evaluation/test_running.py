"""A detector over a data set: batches by size and reading ahead change no figure and keep no bitmap."""

import json
import random
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data.adapters import from_items
from rcnn.data.dataset import Dataset, Record, Sample
from rcnn.data.formats.open import open_data
from rcnn.data.shapes import draw_shapes
from rcnn.evaluation.evaluator import evaluate, evaluate_results, measure_predictions
from rcnn.evaluation.running import Asked, Running
from rcnn.evaluation.shares import predict_images
from rcnn.io.reading import ImageError
from rcnn.loading import load
from rcnn.structures import Array, Instances, Masks, PackedMasks

NAMES = ("ant", "bee")
SIZES = ((40, 60), (60, 40), (40, 60), (50, 50))
BATCH = 3


def scene(number: int) -> Instances:
    """The objects of an image, with masks."""
    rng, (height, width) = np.random.default_rng(number), SIZES[number % len(SIZES)]
    count = int(rng.integers(1, 6))
    low = rng.integers(0, 30, (count, 2))
    high = np.minimum(low + rng.integers(5, 25, (count, 2)), (width, height))
    patches = [rng.random((y2 - y1, x2 - x1)) < 0.8 for (x1, y1), (x2, y2) in zip(low, high, strict=True)]
    masks = Masks.from_patches(patches, [(int(y), int(x)) for x, y in low], (height, width))
    boxes = np.concatenate([low, high], 1).astype(np.float32)
    return Instances((height, width), boxes, rng.integers(0, 2, count), masks=masks, class_names=NAMES)


class Bitmaps:
    """Knows which masks' pixels are still in memory."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def noted(self, masks: Masks) -> Masks:
        """Masks whose pixels nobody else has."""
        pixels = masks.pixels.copy().view(_Noted)
        self.alive.add(pixels)
        return replace(masks, pixels=pixels)


class _Noted(np.ndarray):
    """An array that can be told from all others."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return self is other


class Finder:
    """Finds what is there, and more, in batches of images of one size."""

    class_names = NAMES
    batch_size = BATCH

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.bitmaps, self.most = Bitmaps(), 0

    def batch_key(self, size: tuple[int, int]) -> tuple[int, ...]:
        return size

    def predict(self, images: Sequence[Array], *, batch_size: int = 1, **_: Any) -> list[Instances]:
        numbers = [int(image[0, 0, 0]) for image in images]
        self.calls.append(numbers)
        assert len(images) <= batch_size
        assert len({image.shape for image in images}) == 1
        self.most = max(self.most, len(self.bitmaps.alive))
        return [self.found(number) for number in numbers]

    def found(self, number: int) -> Instances:
        true, wrong = scene(number), scene(number + 100)
        both = Masks.concatenate([true.masks, wrong.masks], true.size)
        boxes, labels = (np.concatenate([getattr(o, n) for o in (true, wrong)]) for n in ("boxes", "labels"))
        scores = np.sort(np.random.default_rng(number).random(len(boxes)).astype(np.float32))[::-1]
        return Instances(
            true.size, boxes, labels, scores, self.bitmaps.noted(both), class_names=NAMES
        )  # fmt: skip


class Loaded:
    """Makes the image of a number."""

    def __init__(self, number: int, threads: set[int] | None = None) -> None:
        self.number, self.threads = number, threads

    def __call__(self) -> Array:
        if self.threads is not None:
            self.threads.add(threading.get_ident())
        return np.full((*SIZES[self.number % len(SIZES)], 3), self.number, np.uint8)


def dataset(count: int, bitmaps: Bitmaps | None = None, order: Sequence[int] | None = None) -> Dataset:
    records = []
    for number in range(count) if order is None else order:
        truth = scene(number)
        masks = truth.masks if bitmaps is None else None
        make = (lambda m=truth.masks: m) if masks is not None else (lambda m=truth.masks: bitmaps.noted(m))
        records.append(
            Record(Path(f"{number}.png"), number, replace(truth, masks=None), make, image=Loaded(number))
        )
    return Dataset("shapes", Path("made"), NAMES, records)


def figures(evaluation: Any) -> str:
    """Everything that was measured, as text: NaN equals NaN."""
    content = evaluation.to_json()
    return json.dumps({key: value for key, value in content.items() if "seconds" not in key})


def expected(data: Dataset) -> Any:
    """What the bitmaps of one image after the other give."""
    found = [Finder().found(record.image_id) for record in data.records]
    return measure_predictions(Finder(), data, found)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 100])
def test_batches_by_size_change_no_figure(batch_size: int | None) -> None:
    data, finder = dataset(40), Finder()
    got, predictions = evaluate(finder, data, batch_size=batch_size)
    assert figures(got) == figures(expected(data))
    assert got.metrics["mask/AP"] > 0.3
    assert sorted(n for call in finder.calls for n in call) == list(range(40))
    if batch_size is None:
        full = sum(len(call) == BATCH for call in finder.calls)
        assert full > 8, "those of one size are found among others"
    for number, found in enumerate(predictions):
        np.testing.assert_array_equal(found.masks, finder.found(number).masks)
        assert isinstance(found.masks, PackedMasks)
    assert [match.path.name for match in got.matches] == [f"{n}.png" for n in range(40)]


def test_the_order_of_images_does_not_matter() -> None:
    order = list(range(30))
    random.Random(0).shuffle(order)
    there, back = (evaluate(Finder(), dataset(30, order=o))[0] for o in (None, order))
    assert there.metrics == pytest.approx(back.metrics, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("batch_size", [1, BATCH])
def test_bitmaps_are_those_of_the_batches_in_hand(batch_size: int) -> None:
    finder, truths = Finder(), Bitmaps()
    data = dataset(60, truths)
    most_true = 0

    def watch(*_: int) -> None:
        nonlocal most_true
        most_true = max(most_true, len(truths.alive))

    _, predictions = evaluate(finder, data, batch_size=batch_size, progress=watch)
    # One batch is predicted while that before it is packed; an image that is being packed is a third.
    assert 0 < finder.most <= 2 * batch_size + 1
    assert most_true <= 2 * batch_size + 1
    assert not finder.bitmaps.alive
    assert len(predictions) == 60


def test_predictions_of_shares_are_packed() -> None:
    finder = Finder()
    found, seconds = predict_images(finder, dataset(9), Asked(None, 0.01, 100))
    assert not finder.bitmaps.alive
    assert [one.masks.areas().tolist() for one in found] == [
        finder.found(n).masks.areas().tolist() for n in range(9)
    ]
    assert seconds.keys() == {"decoding", "predicting"}


def files(tmp_path: Path, count: int) -> Dataset:
    """Images as files, with true objects."""
    records = []
    for number in range(count):
        path = tmp_path / f"{number}.png"
        Image.fromarray(Loaded(number)()).save(path)
        truth = scene(number)
        records.append(
            Record(path, number, replace(truth, masks=None), lambda m=truth.masks: m)
        )  # fmt: skip
    return Dataset("shapes", tmp_path, NAMES, records)


def test_the_next_images_are_read_while_the_network_computes(tmp_path: Path) -> None:
    data, read = files(tmp_path, 6), [threading.Event() for _ in range(6)]

    class Watched(Dataset):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            read[index].set()
            return sample

    class Slow(Finder):
        def predict(self, images: Sequence[Array], **asked: Any) -> list[Instances]:
            following = int(images[-1][0, 0, 0]) + 1
            assert following == 6 or read[following].wait(30), "the next image is not read meanwhile"
            return super().predict(images, **asked)

    watched = Watched("shapes", tmp_path, NAMES, data.records)
    got, _ = evaluate(Slow(), watched, batch_size=1)
    assert figures(got) == figures(expected(data))


@pytest.mark.parametrize("metrics", [None, ["coco", "speed"]])
def test_objects_of_a_users_own_are_read_in_the_callers_thread(metrics: list[str] | None) -> None:
    threads: set[int] = set()

    class Own:
        class_names = NAMES

        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Sample:
            return Sample(Loaded(index, threads)(), scene(index), index)

    evaluate(Finder(), from_items(Own()), metrics=metrics)
    assert threads == {threading.get_ident()}


def test_images_inside_other_files_are_read_by_one_thread() -> None:
    threads: set[int] = set()
    data = dataset(20)
    records = [replace(r, image=Loaded(r.image_id, threads)) for r in data.records]
    evaluate(Finder(), replace(data, records=records))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    threads.clear()
    evaluate(Finder(), replace(data, records=records), metrics=["coco", "speed"])
    assert threads == {threading.get_ident()}, "what is timed is not disturbed"


@pytest.mark.usefixtures("threads_end")
@pytest.mark.parametrize("batch_size", [1, BATCH])
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, batch_size: int) -> None:
    data = files(tmp_path, 12)
    bad = data.records[7].path
    bad.write_bytes(bad.read_bytes()[:60])
    finder = Finder()
    with pytest.raises(ImageError, match=r"7\.png"):
        evaluate(finder, data, batch_size=batch_size)
    with pytest.raises(ImageError, match=r"7\.png"):
        predict_images(finder, data, Asked(batch_size, 0.01, 100))
    assert not any(7 in call for call in finder.calls)


@pytest.fixture
def threads_end() -> Iterator[None]:
    """No thread is left that was not there before."""
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


@pytest.mark.usefixtures("threads_end")
def test_interrupted_it_ends_with_what_has_begun(tmp_path: Path) -> None:
    class Interrupted(Finder):
        def predict(self, images: Sequence[Array], **asked: Any) -> list[Instances]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().predict(images, **asked)

    data, read = files(tmp_path, 40), []

    class Watched(Dataset):
        def __getitem__(self, index: int) -> Sample:
            read.append(index)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Interrupted(), Watched("shapes", tmp_path, NAMES, data.records))
    assert len(read) <= 3 * BATCH + 2 * BATCH + 2


def test_a_network_gives_the_same_in_any_batch(tmp_path: Path) -> None:
    shapes = draw_shapes(6, size=(64, 64), class_names=("disk",), objects=(1, 3), diameter=(16.0, 32.0))
    file = shapes.write(tmp_path / "shapes")
    file.write_text(file.read_text(encoding="utf-8").replace("disk", "nucleus"), encoding="utf-8")
    data, detector = open_data(file), load("nuclei", "cpu")
    alone, together = (evaluate(detector, data, batch_size=size)[0] for size in (None, 4))
    assert alone.metrics["mask/AP50"] > 0
    assert together.metrics == pytest.approx(alone.metrics, abs=1e-6, nan_ok=True)


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        evaluate(Finder(), dataset(2), batch_size=0)
    assert Running(Finder(), Asked(None, 0.0, 100)).batch_size == BATCH


@pytest.mark.parametrize("form", ["rle", "polygons of a file"])
def test_a_file_of_detections_gives_what_the_detector_gives(tmp_path: Path, form: str) -> None:
    data = dataset(12)
    finder = Finder()
    found = [finder.found(number) for number in range(12)]
    entries = [entry for number, one in enumerate(found) for entry in one.to_coco(number, (1, 2))]
    random.Random(0).shuffle(entries)
    content: Any = entries
    if form != "rle":
        images = [{"id": n, "file_name": f"{n}.png", "height": one.size[0], "width": one.size[1]}
                  for n, one in enumerate(found)]  # fmt: skip
        categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, 1)]
        content = {"annotations": entries, "categories": categories, "images": images}
    path = tmp_path / "found.json"
    path.write_text(json.dumps(content))
    got, predictions = evaluate_results(path, data)
    assert got.metrics == pytest.approx(expected(data).metrics, abs=1e-12, nan_ok=True)
    assert all(isinstance(one.masks, PackedMasks) for one in predictions)
