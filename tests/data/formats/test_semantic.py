"""Semantic maps: both layouts, values outside the class list, and everything that happens to a map."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image

from blobs import dense
from rcnn.data.augment import Augment, copy_paste
from rcnn.data.check import check, check_pair, refuse_or_skip
from rcnn.data.classes import align_dataset_classes, renumber
from rcnn.data.formats.open import open_data
from rcnn.data.formats.semantic import read_map, read_names, read_semantic
from rcnn.data.formats.voc_masks import VOC_NAMES
from rcnn.data.geometry import TrainingSample
from rcnn.data.loader import training_batches
from rcnn.data.problems import DataError
from rcnn.data.shapes import draw_shapes
from rcnn.io.images import ImageError
from rcnn.structures import VOID
from rcnn.transform import Transform

MAP = np.array([[0, 1, 1, 255], [0, 0, 2, 255]], np.uint8)


def picture(path: Path, values: np.ndarray = MAP, mode: str = "P") -> Path:
    """A label picture with a palette, as VOC's are; or gray of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        Image.fromarray(values.astype(np.uint16)).save(path)
        return path
    image = Image.fromarray(values)
    if mode == "P":
        image = image.convert("P")
        image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)
    return path


def photo(path: Path, size=(4, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.stem), 7, size[0])).save(path)


def plain(folder: Path, names: str = "ground\nroad\ncar\n") -> Path:
    photo(folder / "images" / "a.png")
    picture(folder / "labels" / "a.png")
    (folder / "classes.txt").write_text(names, "utf-8")
    return folder


def voc(folder: Path, listed: str = "a\n") -> Path:
    photo(folder / "JPEGImages" / "a.jpg")
    picture(folder / "SegmentationClass" / "a.png")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(listed, "utf-8")
    return folder / "ImageSets" / "Segmentation" / "train.txt"


def test_maps_in_masks_are_objects_with_a_warning(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "a.png")
    picture(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("sky\nKäfer\nant\n", "utf-8")
    data = open_data(tmp_path)
    assert data.format == "label images"
    assert ["There is a classes.txt" in p.what for p in data.problems] == [True]


def test_a_list_of_another_encoding(tmp_path: Path) -> None:
    plain(tmp_path)
    (tmp_path / "classes.txt").write_bytes("sky\nKäfer\nant\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"classes\.txt: the text is not UTF-8"):
        open_data(tmp_path)


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_a_plain_folder(tmp_path: Path, mode: str) -> None:
    plain(tmp_path)
    picture(tmp_path / "labels" / "a.png", mode=mode)
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.problems) == ("semantic", (), ())
    assert data.semantic_names == ("ground", "road", "car")
    assert data.has_semantic
    assert not data.has_objects
    truth = data[0].truth
    assert (truth.size, len(truth), truth.semantic.dtype) == ((2, 4), 0, np.int64)
    assert truth.semantic.tolist() == MAP.tolist()
    assert truth.semantic_names == data.semantic_names


def test_voc_as_published(tmp_path: Path) -> None:
    listing = voc(tmp_path / "VOC2012")
    (tmp_path / "VOC2012" / "Annotations").mkdir()
    data = open_data(listing)
    assert (data.format, data.source, data.semantic_names) == ("voc segmentation", listing, VOC_NAMES)
    assert (len(VOC_NAMES), VOC_NAMES[15]) == (21, "person")
    assert data[0].truth.semantic.tolist() == MAP.tolist()
    assert data.problems == ()


def test_a_voc_folder_with_names_of_its_own(tmp_path: Path) -> None:
    listing = voc(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\nroad\ncar")
    assert open_data(listing).semantic_names == ("ground", "road", "car")


def test_a_voc_folder_without_lists_as_labelme2voc_writes_it(tmp_path: Path) -> None:
    photo(tmp_path / "JPEGImages" / "a.jpg")
    picture(tmp_path / "SegmentationClass" / "a.png")
    picture(tmp_path / "SegmentationObject" / "a.png")
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    data = open_data(tmp_path)
    assert (data.format, data.class_names, data.problems) == ("voc segmentation", ("cat", "dog"), ())
    assert data[0].truth.names == ["cat", "dog"]
    assert data[0].truth.boxes.tolist() == [[1, 0, 3, 1], [2, 1, 3, 2]]


def test_what_a_list_of_voc_can_have_wrong(tmp_path: Path) -> None:
    listing = voc(tmp_path, "a\nb\na\n\n")
    photo(tmp_path / "JPEGImages" / "b.jpg")
    data = open_data(listing)
    assert len(data) == 1
    assert ["listed 2 times" in p.what for p in data.problems] == [True, False]
    assert data.problems[1].file == tmp_path / "SegmentationClass" / "b.png"
    with pytest.raises(ValueError, match=r"no such split; available: train"):
        open_data(listing.with_name("val.txt"))
    (tmp_path / "SegmentationClass").rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="SegmentationClass is missing"):
        open_data(listing)


def test_images_without_labels_and_labels_without_images(tmp_path: Path) -> None:
    plain(tmp_path)
    photo(tmp_path / "images" / "bare.png")
    picture(tmp_path / "labels" / "lost.png")
    data = read_semantic(tmp_path)
    assert [p.severity for p in data.problems] == ["warning", "error"]
    assert "1 images have no label image: bare.png" in data.problems[0].what
    assert data.problems[1].file.name == "lost.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected classes\.txt"):
        read_semantic(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb\nA\n", "'a' occurs twice"), ("", "0 lines, or an empty one"), ("a\n\nb\n", "3 lines, or an")],
)
def test_lists_of_names_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_names(file)


def test_as_many_names_as_there_are_values(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(f"c{i}" for i in range(255)))
    assert len(read_names(file)) == 255
    file.write_text("\n".join(f"c{i}" for i in range(256)))
    with pytest.raises(ValueError, match="256 lines"):
        read_names(file)


def test_maps_that_are_refused(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: the values 2 are outside the class list: expected 0 to 1"):
        read_map(file, (2, 4), 2)
    with pytest.raises(ImageError, match="has 4 by 2 pixels, its image 2 by 4"):
        read_map(file, (4, 2), 3)
    Image.new("RGB", (4, 2)).save(file)
    with pytest.raises(ImageError, match=r"its pixels are colours \(RGB\); expected integers"):
        read_map(file, (2, 4), 3)


def test_check_counts_pixels_and_finds_foreign_values(tmp_path: Path) -> None:
    plain(tmp_path)
    report = check(open_data(tmp_path))
    assert report.errors == ()
    assert report.pixels_per_class == {"ground": 3, "road": 2, "car": 1, "void": 2}
    assert "pixels of the semantic maps: ground 37.5%, road 25.0%, car 12.5%, void 25.0%" in str(report)
    assert "objects" not in str(report)
    photo(tmp_path / "images" / "second.png", (4, 2))
    picture(tmp_path / "labels" / "second.png", np.full((2, 4), 7, np.uint8))
    data = open_data(tmp_path)
    (problem,) = check(data).errors
    assert problem.file == tmp_path / "images" / "second.png"
    assert "the values 7 are outside the class list" in problem.what
    with pytest.raises(DataError, match="outside the class list"):
        refuse_or_skip(data, skip_bad=False)
    kept, left_out = refuse_or_skip(data, skip_bad=True)
    assert (len(kept), len(left_out)) == (1, 1)


def test_classes_of_two_parts_are_brought_together(tmp_path: Path) -> None:
    train = open_data(plain(tmp_path / "train"))
    val = open_data(plain(tmp_path / "val", "Car\nground\nroad\n"))
    assert check_pair(train, val) == []
    aligned = align_dataset_classes(val, train.class_names, train.semantic_names)
    assert aligned[0].truth.semantic.tolist() == [[2, 0, 0, 255], [2, 2, 1, 255]]
    assert aligned[0].truth.semantic_names == aligned.semantic_names == train.semantic_names
    foreign = open_data(plain(tmp_path / "other", "ground\nroad\ntree\n"))
    (problem,) = check_pair(train, foreign)
    assert problem.severity == "error"
    assert "lacks: tree" in problem.what
    with pytest.raises(ValueError, match="its semantic maps have the classes tree"):
        align_dataset_classes(foreign, (), train.semantic_names)


def test_renumber_by_hand() -> None:
    assert renumber(np.array([0, 1, 2, 255]), [4, 0]).tolist() == [4, 0, 255, 255]


def test_drawn_maps_show_the_drawn_objects() -> None:
    data = draw_shapes(3, truth="both", size=(40, 60))
    assert data.semantic_names == (*data.class_names, "background")
    for sample in (data[i] for i in range(3)):
        semantic, masks = sample.truth.semantic, sample.truth.masks.dense()
        for mask, label in zip(masks, sample.truth.labels, strict=True):
            assert (semantic[mask] == label).all()
        assert (semantic[~masks.any(0)] == len(data.class_names)).all()
    assert draw_shapes(1, truth="objects").semantic_names == ()


def test_drawn_maps_are_written_and_read_back(tmp_path: Path) -> None:
    data = draw_shapes(2, truth="semantic", size=(40, 60))
    assert not data.has_objects
    back = open_data(data.write(tmp_path))
    assert back.semantic_names == data.semantic_names
    for i in range(2):
        assert_array_equal(back[i].image, data[i].image)
        assert_array_equal(back[i].truth.semantic, data[i].truth.semantic)


def test_random_variations_keep_maps_and_masks_together() -> None:
    data = draw_shapes(3, truth="both", size=(60, 80))
    augment = Augment(crop=48, rotate90=True, scale_jitter=(0.5, 2), copy_paste=0.5)
    for samples in (b for b, _ in zip(batches(data, augment), range(20), strict=False)):
        for truth in (sample.targets for sample in samples):
            assert truth.semantic.shape == truth.size
            for mask, label in zip(dense(truth.masks), truth.labels, strict=True):
                assert (truth.semantic[mask] == label).all()


def batches(data, augment, workers=0):
    return training_batches(data, augment, Transform(), batch_size=2, seed=1, workers=workers)


def test_workers_hand_maps_over() -> None:
    data = draw_shapes(4, truth="semantic", size=(40, 40))
    here, there = (next(batches(data, Augment(crop=32), workers)) for workers in (0, 1))
    for a, b in zip(here, there, strict=True):
        assert_array_equal(a.targets.semantic, b.targets.semantic)


def test_pasted_from_an_image_without_a_map_is_void() -> None:
    both = [TrainingSample.from_sample(s) for s in draw_shapes(2, truth="both", size=(50, 50))]
    sample, donor = both[0], TrainingSample.from_sample(draw_shapes(2, size=(50, 50))[1])
    chosen = torch.ones(len(donor.targets), dtype=torch.bool)
    covered = dense(donor.targets.masks).any(0)
    mixed = copy_paste(sample, donor, chosen).targets.semantic
    assert (mixed[covered] == VOID).all()
    assert_array_equal(mixed[~covered], sample.targets.semantic[~covered])
    own = copy_paste(sample, both[1], chosen).targets.semantic
    assert (own[covered] < 5).all()


def test_selecting_objects_leaves_the_map() -> None:
    truth = draw_shapes(1, truth="both")[0].truth
    assert truth[[0]].semantic is truth.semantic
