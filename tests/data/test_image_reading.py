"""How a data set's files are read: planes, channels and EXIF, in images and masks alike."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rcnn import open_data
from rcnn.data.augment import Augment
from rcnn.data.check import check
from rcnn.io.reading import Reading
from rcnn.training.planning import check_recipe, measured_normalisation, with_images
from rcnn.training.recipe import default_recipe
from rcnn.training.split import Split

LABELS = np.zeros((48, 64), np.uint16)
LABELS[6:20, 8:24] = 1
LABELS[22:42, 34:56] = 2
RNG = np.random.default_rng(0)


def write(path: Path, values: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="minisblack", **options)


def bands(folder: Path, count: int, names: str = "ab") -> Path:
    for name in names:
        values = RNG.integers(0, 256, (48, 64, count)).astype(np.uint8)
        write(folder / "images" / f"{name}.tif", values, planarconfig="contig")
        write(folder / "labels" / f"{name}.tif", LABELS)
    return folder


def test_stacks_of_images_and_labels_at_one_plane(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "images" / f"{name}.tif", RNG.integers(0, 256, (3, 48, 64)).astype(np.uint8))
        write(
            tmp_path / "labels" / f"{name}.tif", np.stack([LABELS * 0, LABELS, LABELS == 1]).astype(np.uint16)
        )
    refused = check(open_data(tmp_path))
    assert [p.what.partition(",")[0] for p in refused.errors[:2]] == ["a stack of 3 pages"] * 2
    assert all("Replace" not in str(p) for p in refused.errors)
    for plane, counts in ((0, [0, 0]), (1, [2, 2]), ("max", [2, 2])):
        data = open_data(tmp_path, reading=Reading(plane=plane))
        assert [len(record.truth) for record in data.records] == counts
        masks = data[0].truth.masks
        assert plane == 0 or (masks is not None and masks.areas().tolist() == [224, 440])
        assert check(data).taken == {f"{'plane ' if plane != 'max' else 'the '}{plane} of 3 pages": 2}


def test_images_of_another_number_of_channels_are_refused(tmp_path: Path) -> None:
    bands(bands(tmp_path, 5, "abc"), 4, "d")
    report = check(open_data(tmp_path))
    assert report.channels == 5
    [error] = report.errors
    assert error.file.name == "d.tif"
    assert "It has 4 channels, most images have 5." in error.what
    assert "--channels 0,1,2,3" in error.advice
    assert not check(open_data(tmp_path, reading=Reading(channels=(3, 0)))).errors


def test_a_band_that_is_called_transparency_is_named(tmp_path: Path) -> None:
    for name, alpha in (("a", RNG.integers(0, 256, (48, 64))), ("b", (LABELS > 0) * 255)):
        colours = RNG.integers(0, 256, (48, 64, 3))
        values = np.concatenate([colours, alpha[..., None]], axis=2).astype(np.uint8)
        path = tmp_path / "images" / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=[2])
        write(tmp_path / "labels" / f"{name}.tif", LABELS)
    [warning] = check(open_data(tmp_path)).warnings
    assert "1 images have a channel that they call transparency" in warning.what
    assert "a.tif" in warning.what
    assert open_data(tmp_path, reading=Reading(channels=(0, 1, 2, 3)))[0].image.shape == (48, 64, 4)


@pytest.mark.parametrize(("orientation", "warned"), [(1, False), (3, True), (6, True)])
def test_exif_that_annotations_do_not_tell_of(tmp_path: Path, orientation: int, warned: bool) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "ab":
        pixels = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.jpg", exif=exif)
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nnames: [cell]\n")
    found = [p for p in check(open_data(tmp_path)).warnings if "turned by EXIF" in p.what]
    assert len(found) == warned
    assert all("2 images" in p.what and "--exif stored" in p.advice for p in found)
    for exif_setting in ("turned", "stored"):
        data = open_data(tmp_path, reading=Reading(exif=exif_setting))
        assert not [p for p in check(data).warnings if "EXIF" in p.what]
        height, width = data[0].image.shape[:2]
        assert (height, width) == ((60, 40) if orientation == 6 and exif_setting == "turned" else (40, 60))
        assert data.records[0].truth.boxes.tolist() == [[0, 0, width / 2, height / 2]]


def test_a_plan_for_five_channels(tmp_path: Path) -> None:
    data = open_data(bands(tmp_path, 5))
    assert data.channels == 5
    recipe, [reason] = with_images(default_recipe("mask_rcnn"), data)
    assert (reason.what, reason.value) == ("input channels", "5")
    pixels = np.concatenate([data[i].image.reshape(-1, 5) for i in range(2)]) / 255
    mean, std = measured_normalisation(data)
    assert mean == pytest.approx(pixels.mean(0), abs=1e-4)
    assert std == pytest.approx(pixels.std(0), abs=1e-4)
    assert (recipe.transform.mean, recipe.settings.backbone.input_channels) == (mean, 5)
    assert recipe.settings.backbone.frozen_stages == 0
    with pytest.raises(ValueError, match="its images have 5 channels, and the recipe is for 3"):
        check_recipe(_with_epochs(default_recipe("mask_rcnn")), Split(data, data, ()))
    check_recipe(_with_epochs(recipe), Split(data, data, ()))


def _with_epochs(recipe):
    from dataclasses import replace

    return replace(recipe, train=replace(recipe.train, epochs=1.0))


def test_a_model_reads_as_it_did_but_truth_lies_where_it_was_drawn() -> None:
    model = Reading(intensity="maximum", channels=(1,), exif="stored")
    own = Reading(exif="turned", plane=2)
    assert own.of_model(model) == Reading(intensity="maximum", channels=(1,), exif="turned", plane=2)
    assert own.of_model(Reading(plane="max")).plane == "max"


def test_colours_of_five_channels_vary_apart() -> None:
    import torch

    image = torch.from_numpy(RNG.integers(0, 256, (5, 20, 30)).astype(np.uint8))
    varied = Augment().colour(image, np.random.default_rng(1))
    assert varied.dtype == torch.uint8
    assert varied.shape == image.shape
    assert not torch.equal(varied, image)
    same = Augment(brightness=0, contrast=0).colour(image, np.random.default_rng(1))
    torch.testing.assert_close(same, image)
