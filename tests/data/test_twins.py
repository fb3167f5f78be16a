"""Copies and near copies of images are found, others are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rcnn.data.dataset import Record
from rcnn.data.twins import Looks, connected, content_digest, groups_of_equal, looks_of, near_pairs
from rcnn.structures import Instances


def photograph(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Blurred noise, whose parts differ as those of a photograph do."""
    values = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def looks(*pictures: Image.Image) -> list[Looks | None]:
    return [Looks.of(np.asarray(picture)) for picture in pictures]


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    record = Record(path, "a", Instances.empty((1, 1)))
    first = content_digest(record)
    with monkeypatch.context() as closed:
        closed.setattr(Path, "open", None)
        assert content_digest(record) == first
    path.write_bytes(b"other")
    assert content_digest(record) != first


def test_near_copies_are_found(tmp_path: Path) -> None:
    original = photograph(0)
    original.save(tmp_path / "a.jpg", quality=40)
    copies = [
        original.resize((80, 60)),
        Image.open(tmp_path / "a.jpg"),
        original.point(lambda value: min(255, int(value * 1.1 + 5))),
        original.filter(ImageFilter.GaussianBlur(2)),
    ]
    assert near_pairs(looks(original, photograph(1), *copies)) == [
        (a, b) for a in (0, 2, 3, 4, 5) for b in (2, 3, 4, 5) if a < b
    ]


def test_different_photographs_are_not() -> None:
    assert near_pairs(looks(*(photograph(seed) for seed in range(60)))) == []


def test_dark_images_with_different_cells_are_not() -> None:
    """Most of their differences are 0, so their bits agree."""
    pictures = []
    for seed in range(20):
        pixels = np.zeros((128, 128, 3), np.uint8)
        for y, x in np.random.default_rng(seed).integers(8, 120, (6, 2)):
            pixels[y - 6 : y + 6, x - 6 : x + 6] = 200
        pictures.append(Image.fromarray(pixels))
    assert near_pairs(looks(*pictures)) == []


def test_plain_images_are_in_no_pair() -> None:
    plain = [Image.new("RGB", (40, 40), colour) for colour in ("black", "white", "black")]
    assert near_pairs(looks(*plain)) == []
    assert near_pairs([]) == []


def test_digests_of_files_and_of_arrays(tmp_path: Path) -> None:
    photograph(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    photograph(1).save(tmp_path / "c.png")
    empty = Instances.empty((120, 160))
    records = [Record(tmp_path / f"{name}.png", name, empty) for name in "abc"]
    pixels = np.asarray(photograph(2))
    records += [Record(Path(name), name, empty, image=lambda: pixels) for name in "de"]
    assert groups_of_equal([content_digest(record) for record in records]) == [[0, 1], [3, 4]]
    assert groups_of_equal(["", "", "x"]) == []


def test_unreadable_images_have_no_looks(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    photograph(1).save(tmp_path / "b.png")
    records = [Record(tmp_path / f"{name}.png", name, Instances.empty((120, 160))) for name in "ab"]
    seen: list[tuple[int, int]] = []
    first, second = looks_of(records, lambda done, total: seen.append((done, total)))
    assert first is None
    assert second is not None
    assert seen == [(1, 2), (2, 2)]


def test_pairs_become_groups() -> None:
    assert connected([(0, 2), (5, 6), (2, 4), (4, 0), (6, 9)]) == [[0, 2, 4], [5, 6, 9]]
    assert connected([(0, 1), (2, 3), (1, 2)]) == [[0, 1, 2, 3]]
    assert connected([]) == []
