"""YOLO: boxes, outlines and keypoints by hand, the layouts, and malformed files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from rcnn.data.formats.open import open_data
from rcnn.data.formats.yolo_layout import label_path

NAMES = "names: [cat, dog]\n"


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def image(root: Path, lines: str | None, name: str = "a", part: str = "train") -> Path:
    """An image of 100 by 50 pixels and its text file."""
    path = root / "images" / part / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50), (len(name), 3, 9)).save(path)
    if lines is not None:
        write(root / "labels" / part / f"{name}.txt", lines)
    return path


def yaml(root: Path, text: str = NAMES, parts: str = "train: images/train\n") -> Path:
    return write(root / "data.yaml", parts + text)


def test_boxes(tmp_path: Path) -> None:
    image(tmp_path, "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.2 0.4\n")
    data = open_data(yaml(tmp_path))
    assert (data.format, data.class_names, data.problems) == ("yolo", ("cat", "dog"), ())
    assert not data.has_masks
    sample = pickle.loads(pickle.dumps(data))[0]
    assert sample.image_id == "a"
    assert_allclose(sample.truth.boxes, np.array([[40.0, 15, 60, 35], [0.0, 0, 20, 20]]))
    assert sample.truth.names == ["dog", "cat"]


def test_keypoints_in_pixels_are_faults(tmp_path: Path) -> None:
    image(tmp_path, "0 0.5 0.5 0.2 0.4 30 20 2\n0 0.5 0.5 0.2 0.3 30 20 0\n")
    data = open_data(yaml(tmp_path, NAMES + "kpt_shape: [1, 3]\n"))
    assert [p.what for p in data.problems] == ["30 is not a fraction of the image, 0 to 1. Are these pixels?"]


def test_paths_as_windows_writes_them(tmp_path: Path) -> None:
    image(tmp_path, "0 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "train.txt", ".\\images\\train\\a.png\n")
    for parts in ("train: images\\train\n", "train: train.txt\n"):
        assert len(open_data(yaml(tmp_path, parts=parts))[0].truth) == 1


def test_an_empty_line_among_the_names(tmp_path: Path) -> None:
    image(tmp_path, "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "classes.txt", "cat\n\ndog\n")
    with pytest.raises(ValueError, match=r"classes\.txt: line 2 is empty; expected the name of class 1"):
        open_data(tmp_path / "images" / "train")


def test_from_within_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path, "0 0.5 0.5 0.2 0.4\n")
    yaml(tmp_path)
    for place, name in ((tmp_path / "images", "train"), (tmp_path / "images" / "train", ".")):
        monkeypatch.chdir(place)
        assert open_data(name).format == "yolo"


def test_outlines(tmp_path: Path) -> None:
    image(tmp_path, "0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n")
    truth = open_data(yaml(tmp_path))[0].truth
    assert_allclose(truth.boxes, np.array([[10.0, 10, 30, 30]]))
    assert truth.masks.boxes().tolist() == [[10, 10, 30, 30]]
    assert truth.masks.areas().tolist() == [400]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_keypoints(tmp_path: Path, dimensions: int) -> None:
    points = {2: "0.5 0.5 0 0", 3: "0.5 0.5 1 0.2 0.2 0"}[dimensions]
    image(tmp_path, f"0 0.5 0.5 0.2 0.4 {points}\n")
    shape = f"kpt_shape: [2, {dimensions}]\nflip_idx: [1, 0]\nkpt_names: {{0: [ear, tail]}}\n"
    data = open_data(yaml(tmp_path, "names: {0: cat}\n" + shape))
    assert data.skeleton.names == ("ear", "tail")
    assert data.skeleton.mirror == (1, 0)
    seen = 2 if dimensions == 2 else 1
    assert data[0].truth.keypoints.tolist() == [[[50, 25, seen], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\n", "this is not YAML"),
        ("nc: 2\n", "expected names:"),
        ("names: {cat: 0, dog: 1}\n", "expected the numbers 0, 1, …"),
        ("names: []\n", "expected the numbers"),
        (NAMES + "kpt_shape: [2, 5]\n", "kpt_shape"),
        (NAMES + "kpt_shape: [2, 3]\nflip_idx: [0, 0]\n", "flip_idx"),
    ],
)
def test_yaml_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    image(tmp_path, "")
    with pytest.raises(ValueError, match=message):
        open_data(yaml(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("0 0.5 0.5 0.2", "4 numbers; expected 5, or 7, 9, 11"),
        ("0 0.5 0.5 0.2 0.4 0.9", "6 numbers; expected 5, or 7"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "8 numbers"),
        ("2 0.5 0.5 0.2 0.4", "The class 2 is not among 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.4", "The class 0.5"),
        ("0 50 25 20 20", "50 is not a fraction of the image"),
        ("0 0.5 0.5 -0.2 0.4", "-0.2 is not a fraction"),
        ("0 0.5 nan 0.2 0.4", "not a finite number"),
        ("cat 0.5 0.5 0.2 0.4", "Expected numbers; found 'cat"),
    ],
)
def test_faults_of_one_line(tmp_path: Path, line: str, what: str) -> None:
    path = image(tmp_path, f"0 0.5 0.5 0.2 0.4\n{line}\n")
    data = open_data(yaml(tmp_path))
    [problem] = data.problems
    assert what in problem.what
    assert (problem.file, problem.annotation, problem.severity) == (path, "a.txt, line 2", "error")
    assert len(data[0].truth) == 1


def test_what_was_dealt_with(tmp_path: Path) -> None:
    image(tmp_path, "0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n0 0.98 0.5 0.2 0.4\n0 0.5 0.5 0 0.1\n")
    data = open_data(yaml(tmp_path))
    assert [p.severity for p in data.problems] == ["warning"] * 3
    assert "identical to line 1" in data.problems[0].what
    assert_allclose(data[0].truth.boxes, np.array([[40.0, 15, 60, 35], [88.0, 15, 100, 35]]))


def test_partners_that_are_missing(tmp_path: Path) -> None:
    image(tmp_path, None, "empty")
    image(tmp_path, "0 0.5 0.5 0.2 0.4\n")
    stray = write(tmp_path / "labels" / "train" / "gone.txt", "0 0.5 0.5 0.2 0.4\n")
    (tmp_path / "images" / "train" / "bad.png").write_bytes(b"")
    data = open_data(yaml(tmp_path))
    assert [r.image_id for r in data.records] == ["a", "empty"]
    assert len(data[1].truth) == 0
    problems = {p.file.name: p for p in data.problems}
    assert problems["bad.png"].severity == problems[stray.name].severity == "error"
    assert "1 images have no text file: empty.png" in problems["data.yaml"].what


def test_boxes_among_outlines(tmp_path: Path) -> None:
    outline = "0 0.1 0.2 0.3 0.2 0.3 0.6\n"
    image(tmp_path, outline * 1 + "0 0.2 0.2 0.3 0.2 0.3 0.6\n0 0.5 0.5 0.2 0.4\n")
    data = open_data(yaml(tmp_path))
    [problem] = data.problems
    assert "1 of 3 objects have a box but no segmentation: a.txt, line 3." in problem.what
    assert data[0].truth.has_mask.tolist() == [True, True, False]


def test_several_parts(tmp_path: Path) -> None:
    for part in ("train", "val"):
        image(tmp_path, "0 0.5 0.5 0.2 0.4\n", part, part)
    file = yaml(tmp_path, parts="path: .\ntrain: images/train\nval: images/val\n")
    with pytest.raises(ValueError, match=r"several splits; name one of their images: .*train, .*val"):
        open_data(tmp_path)
    assert open_data(file, split="val")[0].image_id == "val"
    assert open_data(tmp_path / "images" / "train")[0].image_id == "train"
    with pytest.raises(ValueError, match=r"no split test; available: train, val"):
        open_data(file, split="test")


def test_layouts_of_exports(tmp_path: Path) -> None:
    root = tmp_path / "roboflow"
    image(root / "train", "0 0.5 0.5 0.2 0.4\n", part=".")
    file = yaml(root, parts="train: ../train/images\n")
    assert len(open_data(root)[0].truth) == 1
    listing = write(root / "some.txt", "./train/images/a.png\ntrain/images/a.png\n")
    data = open_data(listing)
    assert len(data) == 1
    assert "listed twice" in data.problems[0].what
    file.unlink()
    with pytest.raises(ValueError, match="YOLO labels without class names"):
        open_data(root / "train")
    write(root / "train" / "labels" / "classes.txt", "cat\n")
    assert open_data(root / "train").class_names == ("cat",)


def test_the_text_file_of_an_image() -> None:
    assert label_path(Path("images/b/images/c/d.e.jpg")) == Path("images/b/labels/c/d.e.txt")
    assert label_path(Path("photos/a.png")) == Path("photos/a.txt")


def test_names_are_texts(tmp_path: Path) -> None:
    image(tmp_path, "1 0.5 0.5 0.2 0.4\n")
    assert open_data(yaml(tmp_path, "names: [Yes, No, 3]\n")).class_names == ("Yes", "No", "3")


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    image(tmp_path, "0 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "labels" / "train" / "._a.txt", "\x00")
    write(tmp_path / "._data.yaml", "names: [x]")
    image(tmp_path, None, part="train/.ipynb_checkpoints")
    data = open_data(yaml(tmp_path))
    assert (len(data), data.problems) == (1, ())


def test_text_files_beside_the_images(tmp_path: Path) -> None:
    path = image(tmp_path, None)
    folder = path.parent.rename(tmp_path / "flat")
    write(folder / "a.txt", "1 0.5 0.5 0.2 0.4\n")
    write(folder / "classes.txt", "cat\ndog\n")
    data = open_data(folder)
    assert (data.format, data.problems, data[0].truth.names) == ("yolo", (), ["dog"])


BOX = "0 0.5 0.5 0.2 0.4\n"  # 40 15 60 35


def only_problem(data, part: str) -> None:
    [problem] = [p for p in data.problems if part in p.what]
    assert problem.severity == "error"


def test_settings_of_other_data_do_not_name_the_classes(tmp_path: Path) -> None:
    (tmp_path / "cars" / "images").mkdir(parents=True)
    write(tmp_path / "data.yaml", "train: cars/images\nnames: [car, truck]\n")
    image(tmp_path / "drops", BOX, part=".")
    with pytest.raises(ValueError, match=r"without class names.*data\.yaml does not name these images"):
        open_data(tmp_path / "drops")
    write(tmp_path / "drops" / "classes.txt", "drop\n")
    assert open_data(tmp_path / "drops").class_names == ("drop",)


@pytest.mark.parametrize(
    "entry",
    [
        "/content/drive/pets/train/images",
        "C:\\Users\\me\\pets\\train\\images",
        "../../other/train/images",
        "pets/train",
    ],
)
def test_paths_of_another_machine(tmp_path: Path, entry: str) -> None:
    image(tmp_path / "train", BOX, part=".")
    data = open_data(yaml(tmp_path, parts=f"train: {entry}\n"))
    assert data[0].truth.boxes.tolist() == [[40, 15, 60, 35]]
    [problem] = data.problems
    assert "does not exist on this machine; read as" in problem.what
    assert problem.severity == "warning"


def test_two_splits_do_not_share_a_folder_by_its_end(tmp_path: Path) -> None:
    image(tmp_path, BOX, part=".")
    file = yaml(tmp_path, parts="train: /far/train/images\nval: /far/valid/images\n")
    with pytest.raises(ValueError, match="several splits"):
        open_data(file)
    # The folder itself has its images and text files next to the settings.
    assert len(open_data(tmp_path)) == 1


def test_only_the_splits_that_exist_are_read(tmp_path: Path) -> None:
    image(tmp_path, BOX)
    data = open_data(yaml(tmp_path, parts="train: images/train\nval: images/val\ntest: images/test\n"))
    assert len(data) == 1
    assert "The images of val, test do not exist; only train is read." in data.problems[0].what


@pytest.mark.parametrize(
    ("points", "shape"),
    [("0.45 0.5 1 0.55 0.5 2", "[2, 3]"), ("0.45 0.5 0.55 0.5", "[2, 2]")],
)
def test_keypoints_that_are_not_declared(tmp_path: Path, points: str, shape: str) -> None:
    image(tmp_path, f"0 0.5 0.5 0.2 0.4 {points}\n1 0.5 0.55 0.2 0.4 {points}\n")
    data = open_data(yaml(tmp_path))
    only_problem(data, "look like boxes followed by 2 keypoints")
    assert any(f"Add kpt_shape: {shape}" in p.advice for p in data.problems)


def test_corners_and_upper_left_corners(tmp_path: Path) -> None:
    corners = "0 0.1 0.1 0.3 0.4\n0 0.5 0.5 0.9 0.8\n0 0.6 0.2 0.95 0.6\n"
    image(tmp_path, corners)
    only_problem(open_data(yaml(tmp_path)), "2 of 3 boxes extend beyond their image")
    image(tmp_path, "0 0.0 0.0 0.3 0.4\n0 0.1 0.6 0.5 0.3\n0 0.6 0.2 0.2 0.1\n")
    data = open_data(yaml(tmp_path))
    only_problem(data, "2 of 3 boxes extend beyond their image")
    assert any("upper left corner" in p.advice for p in data.problems)


def test_boxes_at_the_border_are_no_suspicion(tmp_path: Path) -> None:
    image(tmp_path, "0 0.5 0.5 1 1\n0 0.9 0.5 0.2 0.4\n0 0.05 0.5 0.1 0.2\n")
    assert open_data(yaml(tmp_path)).problems == ()


def test_oriented_boxes_are_outlines_with_a_word(tmp_path: Path) -> None:
    # On 100 by 50 pixels: a square of side sqrt(200), turned by 45 degrees, around 50 25.
    image(tmp_path, "0 0.4 0.5 0.5 0.3 0.6 0.5 0.5 0.7\n")
    data = open_data(yaml(tmp_path))
    assert data[0].truth.boxes.tolist() == [[40, 15, 60, 35]]
    assert data[0].truth.masks.areas()[0] == pytest.approx(200, abs=20)
    [problem] = data.problems
    assert "four corners, like oriented boxes" in problem.what
    image(tmp_path, "0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7\n")  # upright
    assert open_data(yaml(tmp_path)).problems == ()


@pytest.mark.parametrize("number", ["1e300", "-1e300", "1e7"])
def test_nothing_is_said_of_outlines_that_lie_anywhere(number: str, tmp_path: Path) -> None:
    image(tmp_path, f"0 0.4 0.5 0.5 0.3 0.6 0.5 0.5 {number}\n")
    assert "like oriented boxes" not in str(open_data(yaml(tmp_path)).problems)


def test_two_images_of_one_text_file(tmp_path: Path) -> None:
    path = image(tmp_path, BOX)
    Image.new("RGB", (100, 50), "red").save(path.with_suffix(".jpg"))
    [problem] = open_data(yaml(tmp_path)).problems
    assert "a.jpg and a.png share the text file a.txt" in problem.what


@pytest.mark.parametrize("given", ["", "obj.data", "train.txt", "obj_train_data"])
def test_darknet_as_cvat_exports_it(tmp_path: Path, given: str) -> None:
    path = image(tmp_path, None)
    folder = path.parent.rename(tmp_path / "obj_train_data")
    write(folder / "a.txt", "1 0.5 0.5 0.2 0.4\n")
    write(tmp_path / "obj.names", "cat\ndog\n")
    write(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.png\n")
    data = open_data(tmp_path / given)
    assert (data.problems, data[0].truth.names) == ((), ["dog"])
    assert data[0].truth.boxes.tolist() == [[40, 15, 60, 35]]


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "Labels"), ("imgs", "labels"), ("train_images", "train_labels")]
)
def test_folders_by_other_names(tmp_path: Path, images: str, labels: str) -> None:
    image(tmp_path / "before", None).parent.rename(tmp_path / images)
    write(tmp_path / labels / "a.txt", BOX)
    write(tmp_path / "classes.txt", "cat\n")
    data = open_data(tmp_path)
    assert (data.format, data.problems, len(data[0].truth)) == ("yolo", (), 1)


def test_images_elsewhere(tmp_path: Path) -> None:
    folder = image(tmp_path, None).parent.rename(tmp_path / "photos")
    write(tmp_path / "texts" / "a.txt", BOX)
    write(tmp_path / "texts" / "classes.txt", "cat\n")
    data = open_data(tmp_path / "texts", folder)
    assert (data.format, data.problems, len(data[0].truth)) == ("yolo", (), 1)


def test_numbers_of_classes_may_have_gaps(tmp_path: Path) -> None:
    image(tmp_path, "3 0.5 0.5 0.2 0.4\n")
    data = open_data(yaml(tmp_path, "names: {1: cat, 3: dog}\n"))
    assert (data.class_names, data[0].truth.names) == (("cat", "dog"), ["dog"])


def test_no_text_file_at_all_says_where_they_were_looked_for(tmp_path: Path) -> None:
    image(tmp_path, None)
    [problem] = open_data(yaml(tmp_path)).problems
    assert "No image has a text file" in problem.what
    assert str(tmp_path / "labels" / "train") in problem.what
    assert problem.severity == "error"


def test_a_damaged_heic_photograph_is_named(tmp_path: Path) -> None:
    path = image(tmp_path, BOX)
    path.with_name("b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    write(tmp_path / "labels" / "train" / "b.txt", BOX)
    [problem] = open_data(yaml(tmp_path)).problems
    assert problem.file.name == "b.heic"
    assert "HEIC" in problem.what


def test_the_code_of_label_studio_before_one_of_the_names(tmp_path: Path) -> None:
    """But other codes are other images."""
    names = ("a1b2c3d4-a.png", "b.png", "11112222-c.png", "11113333-c.png")
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(path)
    (tmp_path / "labels").mkdir()
    for name in ("a", "a1b2c3d5-b", "11112222-c"):
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("x\n")
    data = open_data(tmp_path)
    found = {record.path.name: len(record.truth) for record in data.records}
    assert found == {"a1b2c3d4-a.png": 1, "b.png": 1, "11112222-c.png": 1, "11113333-c.png": 0}
    assert [p.what for p in data.problems] == ["1 images have no text file: 11113333-c.png."]
