"""The images to annotate next: doubtful ones, different ones, none that is annotated."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dark import detector
from rcnn.data.dataset import Record
from rcnn.data.digests import pack_digests
from rcnn.data.formats.open import open_data
from rcnn.data.twins import content_digests
from rcnn.inference.detector import Detector
from rcnn.inference.next_images import doubt, next_images, spread_out, statistics, write_next
from rcnn.structures import Instances, Masks

SIZE = (40, 60)


def objects(*scores: float) -> Instances:
    """Objects with these scores, all alike."""
    bitmaps = np.zeros((len(scores), *SIZE), bool)
    bitmaps[:, 5:15, 5:15] = True
    masks = Masks.from_dense(bitmaps)
    labels = np.zeros(len(scores), np.int64)
    given = np.array(scores, np.float32)
    return Instances(SIZE, masks.boxes(), labels, given, masks=masks, class_names=("light", "dark"))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """Finds as many objects of score 0.5, its threshold, as the last digit of an image's first value says."""

    def predict(self: Detector, images: Any, *, min_score: float | None = None, **_: Any) -> list[Instances]:
        assert min_score is None or min_score == self.min_score / 2
        given = images if isinstance(images, list) else [images]
        return [objects(*[0.5] * (int(image[0, 0, 0]) % 10)) for image in given]

    monkeypatch.setattr(Detector, "predict", predict)
    return detector()


def photo(folder: Path, name: str, value: int, noise: int = 0) -> Path:
    """A gray image, with noise from pixel to pixel."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), value, np.int64)
    pixels[1:] += np.random.default_rng(value).integers(-noise, noise + 1, (SIZE[0] - 1, SIZE[1], 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.5, 1.0), (0.25, 0.0), (0.75, 0.0), (0.375, 0.5), (0.6875, 0.25), (0.1, 0.0), (0.99, 0.0)],
    ids=["threshold", "half of it", "half way to 1", "between", "nearly sure", "hardly there", "sure"],
)
def test_doubt_is_1_at_the_threshold_and_0_far_from_it(
    score: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [objects(score, score)])
    assert doubt(detector(), np.zeros((*SIZE, 3), np.uint8)) == pytest.approx(2 * expected)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_doubt_is_finite_for_any_threshold(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [objects(0.0, 0.5, 1.0)])
    found = doubt(replace(detector(), min_score=threshold), np.zeros((*SIZE, 3), np.uint8))
    assert 0 <= found <= 3


def test_statistics_tell_brightness_texture_and_size_apart(tmp_path: Path) -> None:
    base = np.full((40, 60, 3), 100, np.uint8)
    rough = base.copy()
    rough[::2] += 20
    same = statistics(base)
    assert same.shape == statistics(np.zeros((900, 33, 3), np.uint8)).shape
    assert np.isfinite(statistics(np.zeros((1, 1, 3), np.uint8))).all()
    np.testing.assert_allclose(statistics(base.astype(np.float32) / 255), same, atol=1e-6)
    for other in (base + 50, rough, base[:20]):
        assert np.abs(statistics(other) - same).max() > 0.01


def test_the_most_doubtful_comes_first_and_copies_last() -> None:
    looks = np.array([[0.0], [0.0], [1.0], [1.0], [5.0]])
    doubts = np.array([3.0, 2.0, 1.0, 0.0, 0.0])
    order = [index for index, _ in spread_out(doubts, looks, 5)]
    assert order[:3] == [0, 4, 2], "4 is far away, then 2 is less far, but doubtful"
    assert set(order[3:]) == {1, 3}, "copies of what was chosen"
    distances = [distance for _, distance in spread_out(doubts, looks, 5)]
    assert distances[0] == 1
    assert distances[3:] == [0, 0]


def test_images_near_annotated_ones_are_not_taken_first() -> None:
    looks, doubts = np.array([[0.0], [4.0]]), np.array([1.0, 0.0])
    assert spread_out(doubts, looks, 1)[0][0] == 0
    ((index, distance),) = spread_out(doubts, looks, 1, known=[np.array([0.1])])
    assert index == 1
    assert distance == pytest.approx(3.9 / 2), "in units of the spread, which is 2"


def test_the_order_of_the_pool_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    looks, doubts = rng.normal(size=(12, 4)), rng.uniform(0, 5, 12)
    chosen = [index for index, _ in spread_out(doubts, looks, 6)]
    mixed = rng.permutation(12)
    assert [int(mixed[i]) for i, _ in spread_out(doubts[mixed], looks[mixed], 6)] == chosen


def test_equal_statistics_distinguish_nothing() -> None:
    order = spread_out(np.array([0.0, 2.0]), np.ones((2, 3)), 5)
    assert [index for index, _ in order] == [1, 0]


def test_the_pool_is_looked_through(model: Detector, tmp_path: Path) -> None:
    photo(tmp_path / "pool", "sure.png", 100)
    photo(tmp_path / "pool" / "deeper", "doubtful.png", 104)
    photo(tmp_path / "pool", "rough.png", 200, noise=30)
    (tmp_path / "pool" / "broken.png").write_bytes(b"no image")
    calls: list[tuple[int, int]] = []
    found = next_images(model, tmp_path / "pool", 2, progress=lambda done, of: calls.append((done, of)))
    assert [image.name for image in found.chosen] == ["deeper/doubtful.png", "rough.png"]
    assert [image.doubt for image in found.chosen] == [4, 0]
    assert (found.pool, found.annotated) == (4, 0)
    assert len(found.failed) == 1
    assert "broken.png" in found.failed[0]
    assert calls == [(i, 4) for i in range(1, 5)]
    assert len(next_images(model, [tmp_path / "pool"], 20).chosen) == 3


def test_what_is_annotated_is_never_chosen_wherever_it_is(model: Detector, tmp_path: Path) -> None:
    """By content: the images of training, by what the checkpoint says, and those that are named."""
    trained, named = photo(tmp_path / "pool", "a.png", 109), photo(tmp_path / "pool", "b.png", 148)
    photo(tmp_path / "pool", "c.png", 150)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(named, tmp_path / "elsewhere" / "of another name.png")
    digests = content_digests([Record(trained, "a", Instances.empty(SIZE))])
    knowing = replace(model, info={"trained_on": pack_digests(digests)})
    found = next_images(knowing, tmp_path / "pool", 3, annotated=[tmp_path / "elsewhere"])
    assert [image.path.name for image in found.chosen] == ["c.png"]
    assert found.annotated == 2
    assert found.chosen[0].distance < 1, "near b, which is annotated"
    with pytest.raises(ValueError, match="none of the 1 images can be chosen: 1 are annotated already"):
        next_images(knowing, trained)


def test_what_cannot_be_is_refused(model: Detector, tmp_path: Path) -> None:
    path = photo(tmp_path, "a.png", 100)
    with pytest.raises(ValueError, match="count is 0: expected 1 or more"):
        next_images(model, path, 0)
    with pytest.raises(ValueError, match="classifies pixels only"):
        next_images(replace(model, class_names=(), semantic_names=("sky",)), path)
    with pytest.raises(FileNotFoundError, match="absent"):
        next_images(model, tmp_path / "absent")


def test_the_chosen_are_predicted_as_a_start(model: Detector, tmp_path: Path) -> None:
    for value in (101, 152, 203):
        photo(tmp_path / "pool", f"{value}.png", value)
    found = next_images(model, tmp_path / "pool", 2)
    summary = write_next(model, found, tmp_path / "out")
    data = open_data(tmp_path / "out" / "coco")
    assert [record.path.name for record in data.records] == [image.name for image in found.chosen]
    assert sum(len(record.truth) for record in data.records) == sum(summary.counts.values())
    with (tmp_path / "out" / "next.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["image"]) for row in rows] == [
        (str(i), image.name) for i, image in enumerate(found.chosen, 1)
    ]
    assert all(Path(row["path"]).is_file() for row in rows)
