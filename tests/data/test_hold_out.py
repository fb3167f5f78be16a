"""Which images are held out: each by its own content."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.data.dataset import Dataset, Record
from rcnn.data.digests import pack_digests, unpack_digests
from rcnn.data.hold_out import _place, choose_by_content
from rcnn.data.twins import content_digests
from rcnn.structures import Instances
from tiny import tiny_shapes

DIGESTS = [f"{number:016x}" for number in range(400)]


def data_of(classes: Sequence[Sequence[int]]) -> Dataset:
    """Images with one object of each of these classes."""
    records = []
    for i, own in enumerate(classes):
        boxes = np.tile(np.float32([1, 1, 5, 5]), (len(own), 1))
        labels = np.array(own, np.int64)
        truth = Instances((8, 8), class_names=("a", "b"), boxes=boxes, labels=labels)
        records.append(Record(Path(f"{i}.png"), i, truth))
    return Dataset("none", Path("none"), ("a", "b"), records)


def held(count: int, seed: int = 0, never: Sequence[str] = (), first: int = 0) -> set[str]:
    digests = DIGESTS[first : first + count]
    found = choose_by_content(data_of([[0]] * count), digests, 0.15, seed, never)
    return {digests[i] for i in found}


def test_more_images_move_no_earlier_one() -> None:
    """The law: a correction round never validates on what was trained on before."""
    for seed in range(5):
        before = held(300, seed)
        for count in (301, 320, 400):
            now = held(count, seed)
            assert now & set(DIGESTS[:300]) == before
        assert held(200, seed, first=100) == held(400, seed) & set(DIGESTS[100:300])


def test_about_the_fraction_is_held_out() -> None:
    counts = [len(held(400, seed)) for seed in range(20)]
    assert 0.13 < np.mean(counts) / 400 < 0.17
    assert held(400, 0) != held(400, 1)


def test_one_is_held_out_where_none_would_be_and_one_stays() -> None:
    for count in (2, 3):
        for seed in range(10):
            assert 1 <= len(held(count, seed)) < count


def test_images_of_the_first_model_are_left_to_training() -> None:
    seen = set(DIGESTS[:390])
    assert held(400, never=DIGESTS[:390]).isdisjoint(seen)
    assert held(400, never=DIGESTS) == set()


def test_the_last_image_of_a_class_stays() -> None:
    for seed in range(20):
        chosen = choose_by_content(data_of([[0]] * 9 + [[1]]), DIGESTS[:10], 0.6, seed)
        assert 9 not in chosen
        assert len(chosen) < 9


def test_copies_stay_together() -> None:
    digests = [DIGESTS[i // 2] for i in range(40)]
    for seed in range(10):
        chosen = choose_by_content(data_of([[0]] * 38 + [[1]] * 2), digests, 0.3, seed)
        assert {i ^ 1 for i in chosen} == set(chosen)
        assert not {38, 39} & set(chosen)


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_that_of_the_rule_written_down_image_by_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = [sorted(set(rng.integers(0, 6, rng.integers(0, 4)).tolist())) for _ in range(60)]
    digests = [DIGESTS[number] for number in rng.integers(0, 45, 60)]
    never = set(DIGESTS[: 5 * seed])
    copies = {digest: [i for i, other in enumerate(digests) if other == digest] for digest in digests}
    left = Counter(label for own in classes for label in own)
    expected: list[int] = []
    for place, digest in sorted((_place(digest, seed), digest) for digest in copies if digest not in never):
        lost = Counter(label for index in copies[digest] for label in classes[index])
        if (place < 0.3 or not expected) and all(left[label] > count for label, count in lost.items()):
            expected += copies[digest]
            left -= lost
    assert choose_by_content(data_of(classes), digests, 0.3, seed, never) == sorted(expected)


def test_digests_are_of_the_content_not_of_the_name(tmp_path: Path) -> None:
    shapes = tiny_shapes(3)
    first = content_digests(shapes.records)
    assert len(set(first)) == 3
    moved = [replace(record, path=Path("other") / record.path.name) for record in shapes.records]
    assert content_digests(moved) == first
    written = tmp_path / "a.png"
    written.write_bytes(b"content")
    files = [Record(path, 0, Instances.empty((8, 8), ())) for path in (written, written)]
    assert len(set(content_digests(files))) == 1


@pytest.mark.parametrize("count", [0, 1, 7])
def test_packing_gives_the_same_digests_back(count: int) -> None:
    some = set(DIGESTS[:count])
    packed = pack_digests(some)
    assert unpack_digests(packed) == some
    assert len(packed) <= 11 * count + 3
