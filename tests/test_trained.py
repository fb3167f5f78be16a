"""The model that comes with the package: found by its name, small, and good at what it is for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import real_data
from rcnn import evaluate, load, open_data
from rcnn.loading import sample_images, shipped


def spots(count: int = 9, side: int = 192) -> np.ndarray:
    """Something like a fluorescence image: soft bright discs on a dark ground, uint8 ``[H, W]``."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 12.0)
    for i in range(count):
        cy, cx = 32 + 64 * (i // 3), 32 + 64 * (i % 3)
        distance = np.hypot((y - cy) / rng.uniform(9, 13), (x - cx) / rng.uniform(9, 13))
        image += 110 / (1 + np.exp(8 * (distance - 1)))
    image += rng.normal(0, 2, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def test_it_is_small_and_knows_itself() -> None:
    path = shipped()["nuclei"]
    assert path.stat().st_size <= 16e6
    detector = load("nuclei")
    assert detector.class_names == ("nucleus",)
    assert 0 < detector.min_score < 1
    assert {p.dtype for p in detector.network.parameters()} == {torch.float32}


def test_a_folder_of_that_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nuclei" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load("nuclei").class_names == ("nucleus",)
    with pytest.raises(ValueError, match="no model in this folder"):
        load(tmp_path / "nuclei")


def test_it_comes_with_photographs() -> None:
    images = sample_images("nuclei")
    assert [path.name for path in images] == ["fluorescence.png", "stained.png"]
    assert sum(path.stat().st_size for path in images) < 200_000
    about = (images[0].parent / "README.md").read_text(encoding="utf-8")
    for path in images:
        assert path.name in about
    assert "CC0" in about
    assert "BBBC038" in about
    assert sample_images("nucleus") == []


def test_it_finds_the_nuclei_in_its_photographs() -> None:
    """As many as are annotated, within a tenth; see trained/nuclei/README.md."""
    found = load("nuclei", "cpu", precision="float32").predict(sample_images("nuclei"))
    assert [len(each) for each in found] == pytest.approx([26, 46], rel=0.1)


def test_it_finds_bright_discs() -> None:
    (found,) = load("nuclei").predict(spots())
    assert len(found) == 9
    assert found.masks is not None
    areas = found.masks.areas()
    assert areas.min() > 200
    assert areas.max() < 700


def test_it_finds_real_nuclei() -> None:
    data = open_data(real_data("nuclei/val"))
    few = data.subset(range(0, len(data), 12))
    assert evaluate(load("nuclei"), few)[0].metrics["mask/AP50"] > 0.8
