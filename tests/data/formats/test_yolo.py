"""YOLO: boxes, outlines and keypoints by hand, the layouts, and malformed files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from rcnn.data.formats.open import open_data
from rcnn.data.formats.yolo import label_path

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
        ("names: {0: cat, 2: dog}\n", "expected the numbers 0, 1, …"),
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
