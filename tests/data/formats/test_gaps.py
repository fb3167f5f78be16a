"""Files that are not there are one problem, in every format; links that lead nowhere are named."""

from pathlib import Path

import pytest

from annotated_images import image, put
from rcnn.data.formats.open import open_data

XML = "<annotation><filename>{0}.png</filename><object><name>a</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"  # noqa: E501


def voc(folder: Path, count: int) -> None:
    image(folder / "JPEGImages", "0.png")
    for i in range(count):
        put(folder / "Annotations", f"{i}.xml", XML.format(i))


def yolo(folder: Path, count: int) -> None:
    image(folder / "images", "0.png")
    put(folder, "classes.txt", "a\n")
    for i in range(count):
        put(folder / "labels", f"{i}.txt", "0 0.5 0.5 0.2 0.2\n")


def labelme(folder: Path, count: int) -> None:
    image(folder, "0.png")
    shape = {"label": "a", "shape_type": "rectangle", "points": [[2, 2], [20, 20]]}
    for i in range(count):
        content = {"imagePath": f"{i}.png", "imageData": None, "shapes": [shape], "version": "5"}
        put(folder, f"{i}.json", {**content, "imageHeight": 48, "imageWidth": 64})


FORMATS = pytest.mark.parametrize("write", [voc, yolo, labelme])


@FORMATS
def test_many_missing_images_are_one_problem(tmp_path: Path, write) -> None:
    write(tmp_path, 41)
    data = open_data(tmp_path)
    (problem,) = (p for p in data.problems if p.severity == "error")
    assert problem.what.startswith(("The images of 40 annotation files", "The images of 40 text files"))
    assert problem.advice


@FORMATS
def test_a_few_are_named_one_by_one(tmp_path: Path, write) -> None:
    write(tmp_path, 4)
    errors = [p for p in open_data(tmp_path).problems if p.severity == "error"]
    assert sorted(p.file.stem for p in errors) == ["1", "2", "3"]


@pytest.mark.parametrize(("write", "images"), [(voc, "JPEGImages"), (yolo, "images"), (labelme, "")])
def test_links_that_lead_nowhere(tmp_path: Path, write, images: str) -> None:
    write(tmp_path, 3)
    for i in (1, 2):
        (tmp_path / images / f"{i}.png").symlink_to(tmp_path / ".git" / "annex" / f"key{i}")
    found = [str(p) for p in open_data(tmp_path).problems if "links to files that do not exist" in p.what]
    assert len(found) == 1
    assert "2 files" in found[0]
    assert "git annex get" in found[0]


def test_a_folder_of_nothing_but_such_links(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"1 files are links to files that do not exist: a\.png.*dvc pull"):
        open_data(tmp_path)


def test_a_data_set_is_one_line(tmp_path: Path) -> None:
    yolo(tmp_path, 2)
    data = open_data(tmp_path)
    assert repr(data) == f"Dataset(yolo, {str(tmp_path)!r}: 1 images; 1 objects; classes: a; 1 errors)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}], "--predictions FILE"),
        ([{"url": 1, "marks": []}], "found a list of objects with url, marks"),
        ([1, 2], "found a list"),
    ],
)
def test_lists_that_are_not_coco(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(put(tmp_path, "a.json", content), format="coco")
