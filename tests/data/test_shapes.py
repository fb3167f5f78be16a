"""Drawn data: reproducible, exact masks, the shapes they say they are, a COCO copy that reads back."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from rcnn.data.dataset import Dataset
from rcnn.data.shapes import SHAPES, Scenes, draw_shapes
from rcnn.structures import Masks


def test_a_picture_depends_on_seed_and_number_only():
    one, other = draw_shapes(5), draw_shapes(2, first=3)
    assert np.array_equal(one[3].image, other[0].image)
    assert np.array_equal(one[3].truth.masks.dense(), other[0].truth.masks.dense())
    assert np.array_equal(one[3].image, one[3].image)
    assert not np.array_equal(one[3].image, one[4].image)
    assert not np.array_equal(one[3].image, draw_shapes(5, seed=1)[3].image)


def test_is_a_data_set():
    data = draw_shapes(6, size=(100, 130), seed=2)
    assert isinstance(data, Dataset)
    assert len(data) == 6
    assert data.has_masks
    assert data.class_names == tuple(SHAPES)
    part = data.subset([4, 1])
    assert np.array_equal(part[0].image, data[4].image)
    again = pickle.loads(pickle.dumps(part))
    assert np.array_equal(again[1].image, data[1].image)
    sample = data[0]
    assert sample.image.shape == (100, 130, 3)
    assert sample.image.dtype == np.uint8
    assert sample.truth.size == (100, 130)


def test_records_hold_the_truth_of_the_samples():
    data = draw_shapes(20)
    for record, sample in zip(data.records, (data[i] for i in range(20)), strict=True):
        assert record.truth.masks is None
        np.testing.assert_array_equal(record.truth.boxes, sample.truth.masks.boxes())
        assert np.array_equal(record.truth.labels, sample.truth.labels)
        assert 2 <= len(record.truth) <= 8


def test_masks_share_no_pixel_and_objects_stay_visible():
    """Later shapes cover earlier ones; a covered object keeps at least 60 % of what it had in the picture."""
    scenes = Scenes(objects=(12, 12))
    overlaps = 0
    for number in range(30):
        masks = scenes.masks(number).dense()
        assert masks.sum(0).max() == 1
        drawn = _outlines(scenes, number)
        assert len(drawn) == len(masks)
        shares = masks.sum((1, 2)) / drawn.sum((1, 2))
        assert (shares >= 0.6).all()
        assert (masks <= drawn).all()
        assert np.array_equal(masks[-1], drawn[-1])  # nothing lies over the last
        overlaps += int((shares < 1).sum())
    assert overlaps > 30


def _outlines(scenes, number):
    """The shapes before they cover one another, caught while they are drawn."""
    outlines = []
    kept = Scenes._leaves_enough

    class Watched(Scenes):
        def _outline(self, label, rng):
            outline = super()._outline(label, rng)
            self.__dict__["last"] = outline
            return outline

        def _leaves_enough(self, owners, hidden, areas):
            good = kept(self, owners, hidden, areas)
            if good:
                rows, columns, inside = self.__dict__["last"]
                full = np.zeros(self.size, np.bool_)
                full[rows, columns] = inside
                outlines.append(full)
            return good

    Watched(objects=scenes.objects).owners(number)
    return np.stack(outlines)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("disk", np.pi / 4),
        ("square", 0.64),
        ("triangle", 3 * np.sqrt(3) / 16),
        ("ring", np.pi / 4 * 0.75),
    ],
)
def test_area_by_formula(name, share):
    """Pixels inside the shape as a share of the square around the unit circle."""
    axis = ((np.arange(400) + 0.5) / 200 - 1).astype(np.float32)
    inside = SHAPES[name](axis[None], axis[:, None])
    assert inside.mean() == pytest.approx(share, abs=2e-3)


def test_star_has_five_rays():
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False).astype(np.float32)
    inside = SHAPES["star"](0.7 * np.cos(angles), 0.7 * np.sin(angles))
    assert (np.diff(np.r_[inside[-1:], inside].astype(int)) == 1).sum() == 5


def test_class_sizes_and_balance():
    data = draw_shapes(150)
    labels = np.concatenate([r.truth.labels for r in data.records])
    assert np.bincount(labels, minlength=5).min() > 80
    boxes = np.concatenate([r.truth.boxes for r in data.records])
    assert (boxes[:, 2:] - boxes[:, :2]).max() <= 66


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (300, 20)])
def test_any_size(size):
    sample = draw_shapes(1, size=size, objects=(1, 3))[0]
    assert sample.image.shape == (*size, 3)
    assert sample.truth.masks.shape[1:] == size


def test_objects_may_be_absent():
    data = draw_shapes(2, objects=(0, 0))
    assert len(data[0].truth) == 0
    assert data[0].truth.labels.dtype == np.int64


# pycocotools decodes through an array that does not know NumPy 2's copy argument yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_written_as_coco(tmp_path):
    data = draw_shapes(3, size=(64, 80), diameter=(16, 30), class_names=("star", "ring"))
    target = data.write(tmp_path / "a folder")
    content = json.loads(target.read_text())
    assert [c["name"] for c in content["categories"]] == ["star", "ring"]
    for i, image in enumerate(content["images"]):
        sample = data[i]
        with Image.open(target.parent / image["file_name"]) as file:
            assert np.array_equal(np.asarray(file), sample.image)
        objects = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] - 1 for a in objects] == sample.truth.labels.tolist()
        masks = Masks.from_rle([a["segmentation"] for a in objects], (64, 80))
        assert np.array_equal(masks.dense(), sample.truth.masks.dense())
        assert [a["area"] for a in objects] == masks.areas().tolist()
        x, y, width, height = np.array([a["bbox"] for a in objects]).T
        np.testing.assert_array_equal(np.stack([x, y, x + width, y + height], 1), sample.truth.boxes)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_write_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose another folder"):
        draw_shapes(1).write(tmp_path / "file")


@pytest.mark.parametrize(
    "settings",
    [
        {"class_names": ("hexagon",)},
        {"class_names": ()},
        {"objects": (3, 2)},
        {"diameter": (0, 5)},
        {"size": (0, 9)},
    ],
)
def test_settings_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}"):
        draw_shapes(1, **settings)
