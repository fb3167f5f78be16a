"""A corrected copy: no error left, every change listed, nothing guessed, the source as it was."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, image, put
from rcnn.cli import app
from rcnn.data.check import check
from rcnn.data.fixing import Fixed, fix_data
from rcnn.data.formats.open import open_data, open_splits
from rcnn.data.problems import DataError

Box = tuple[float, float, float, float]


class Coco:
    """A COCO file that tests spoil."""

    def __init__(self, folder: Path, images: int = 3) -> None:
        self.folder = folder
        names = [f"{i}.png" for i in range(images)]
        image(folder, *names)
        self.images: list[dict[str, Any]] = [
            {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)
        ]
        self.categories: list[dict[str, Any]] = [{"id": 3, "name": "cell"}, {"id": 7, "name": "egg"}]
        self.annotations: list[dict[str, Any]] = []
        for i in range(images):
            self.draw(i, FIRST, 3)
            self.draw(i, SECOND, 7)

    def draw(self, image_id: int, box: Box, category: int = 3, **more: Any) -> None:
        x1, y1, x2, y2 = box
        entry = {"id": len(self.annotations), "image_id": image_id, "category_id": category}
        self.annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], **more})

    def written(self) -> Path:
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        return put(self.folder, "a.json", content)

    def fixed(self, **options: Any) -> Fixed:
        file = self.written()
        before = digests(self.folder)
        made = fix_data(file, self.folder.parent / "out", **options)
        assert digests(self.folder) == before
        assert check(open_data(made.out)).errors == ()
        listed = (made.out / "corrections.txt").read_text("utf-8").splitlines()
        assert listed == [f"corrected: {t}" for t in made.corrections] + [
            f"left out, {p}" for p in made.left_out
        ]
        return made


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    return Coco(tmp_path / "in")


def digests(folder: Path) -> dict[Path, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def boxes(folder: Path) -> dict[str, list[list[float]]]:
    return {r.path.name: r.truth.boxes.tolist() for r in open_data(folder).records}


def test_data_without_faults_are_copied(coco: Coco) -> None:
    made = coco.fixed()
    assert (made.corrections, made.left_out, made.lost) == ((), (), {"": {}})
    assert boxes(made.out) == {f"{i}.png": [list(FIRST), list(SECOND)] for i in range(3)}
    assert open_data(made.out).category_ids == (3, 7)


def test_boxes_are_clipped_and_empty_ones_dropped(coco: Coco) -> None:
    coco.draw(0, (-5, 4, 20, 20))
    coco.draw(1, (9, 9, 9, 20))
    made = coco.fixed()
    assert [text.partition("/in/")[2][:5] for text in made.corrections] == ["0.png", "1.png"]
    assert "It was clipped to the image." in made.corrections[0]
    assert "It was ignored." in made.corrections[1]
    assert [0, 4, 20, 20] in boxes(made.out)["0.png"]
    assert len(boxes(made.out)["1.png"]) == 2
    assert check(made.out).warnings == ()


def test_repeated_objects_are_removed(coco: Coco) -> None:
    coco.draw(1, FIRST)
    coco.draw(1, FIRST, 7)  # another class: another object
    made = coco.fixed()
    assert len(made.corrections) == 1
    assert made.corrections[0].endswith("1.png: repeated objects were removed: 3.")
    assert boxes(made.out)["1.png"] == [list(FIRST), list(SECOND), list(FIRST)]


def test_objects_of_one_box_with_other_masks_are_two(coco: Coco) -> None:
    for entry in coco.annotations:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    x, y, w, h = coco.annotations[0]["bbox"]
    coco.draw(0, FIRST, 3, segmentation=[[x, y, x + w, y, x + w, y + h]])
    coco.draw(0, FIRST, 3, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]])
    made = coco.fixed()
    assert [text.partition(": ")[2] for text in made.corrections] == ["repeated objects were removed: 4."]
    masks = open_data(made.out)[0].truth.masks
    assert masks is not None
    assert len(masks) == 3
    assert len({tuple(code["counts"]) for code in masks.rle()[::2]}) == 2


def test_copies_of_images_are_removed_if_they_are_annotated_alike(coco: Coco) -> None:
    for i in (1, 2):
        (coco.folder / f"{i}.png").write_bytes((coco.folder / "0.png").read_bytes())
    coco.draw(2, (1, 1, 8, 8))
    made = coco.fixed()
    assert sorted(boxes(made.out)) == ["0.png", "2.png"]
    assert [text for text in made.corrections if "is a copy of" in text]
    assert any("same image" in str(problem) for problem in check(made.out).warnings)


def test_classes(coco: Coco) -> None:
    coco.categories[0]["name"] = " cell "
    coco.categories += [{"id": 9, "name": "cell"}, {"id": 11, "name": "unused"}]
    coco.draw(0, (1, 1, 9, 9), 9)
    made = coco.fixed()
    back = open_data(made.out)
    assert back.class_names == ("cell", "egg")
    assert back.category_ids == (3, 7)
    assert back.records[0].truth.names == ["cell", "egg", "cell"]
    assert any("'unused' has no object" in text for text in made.corrections)


def test_missing_images_and_unreadable_ones_are_left_out(coco: Coco) -> None:
    (coco.folder / "0.png").unlink()
    (coco.folder / "1.png").write_bytes(b"no image")
    made = coco.fixed()
    assert list(boxes(made.out)) == ["2.png"]
    assert sorted(problem.file.name for problem in made.left_out) == ["0.png", "1.png"]
    assert all(problem.advice for problem in made.left_out)


def test_what_would_be_guessed_is_left_out(coco: Coco) -> None:
    coco.draw(0, (20, 9, 5, 20))  # negative width: where is its right end?
    coco.draw(1, (500, 9, 520, 20))  # of another image?
    made = coco.fixed()
    assert list(boxes(made.out)) == ["2.png"]
    assert len(made.left_out) == 2
    assert "Swap or correct its corners." in str(made)


def test_a_size_that_the_objects_refute(coco: Coco) -> None:
    for i in (0, 1):
        coco.images[i] |= {"width": 40, "height": 30}
    coco.annotations = [a for a in coco.annotations if a["image_id"] != 1]
    coco.draw(1, (1, 1, 20, 20))  # fits both sizes: was the image enlarged?
    made = coco.fixed()
    assert boxes(made.out) == {"0.png": [list(FIRST), list(SECOND)], "2.png": [list(FIRST), list(SECOND)]}
    assert [problem.file.name for problem in made.left_out] == ["1.png"]
    (text,) = (text for text in made.corrections if "annotated size" in text)
    assert text.endswith(f"The annotated size became that of the file: {WIDTH} by {HEIGHT}.")


def test_the_size_of_an_image_without_objects(coco: Coco) -> None:
    coco.images[0] |= {"width": 400, "height": 300}
    coco.annotations = [a for a in coco.annotations if a["image_id"] != 0]
    made = coco.fixed()
    assert boxes(made.out)["0.png"] == []
    assert made.left_out == ()


@pytest.mark.parametrize(("box", "kept"), [((30, 4, 60, 40), True), ((4, 4, 30, 40), False)])
def test_photographs_annotated_as_stored(coco: Coco, box: Box, kept: bool) -> None:
    """EXIF turns the image by 90 degrees; only a box beyond the turned one tells what was annotated."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(coco.folder / "0.png") as opened:
        pixels = np.asarray(opened)
        opened.save(coco.folder / "0.jpg", exif=exif, quality=95)
    with Image.open(coco.folder / "0.jpg") as opened:
        pixels = np.asarray(opened)
    coco.images[0]["file_name"] = "0.jpg"
    coco.annotations = [a for a in coco.annotations if a["image_id"] != 0]
    coco.draw(0, box)
    made = coco.fixed()
    if not kept:
        assert [problem.file.name for problem in made.left_out] == ["0.jpg"]
        return
    assert boxes(made.out)["0.png"] == [list(box)]
    sample = open_data(made.out)[0]
    assert np.array_equal(sample.image, pixels)
    assert any("stored pixels" in text for text in made.corrections)


def test_voc_stays_voc(tmp_path: Path) -> None:
    image(tmp_path / "in" / "JPEGImages", "a.png", "b.png")
    xml = (
        "<annotation><filename>{0}.png</filename><size><width>{1}</width><height>30</height></size><object>"
        "<name>cell</name><difficult>1</difficult><bndbox><xmin>9</xmin><ymin>7</ymin><xmax>{2}</xmax>"
        "<ymax>20</ymax></bndbox></object></annotation>"
    )
    put(tmp_path / "in" / "Annotations", "a.xml", xml.format("a", 40, 60))
    put(tmp_path / "in" / "Annotations", "b.xml", xml.format("b", 40, 30))
    made = fix_data(tmp_path / "in", tmp_path / "out")
    assert made.format == "voc"
    assert boxes(made.out) == {"a.png": [[8, 6, 60, 20]]}
    difficult = open_data(made.out).records[0].truth.difficult
    assert difficult is not None
    assert difficult.all()
    assert [problem.file.name for problem in made.left_out] == ["b.png"]


def test_splits(tmp_path: Path) -> None:
    for name in ("train", "valid"):
        part = Coco(tmp_path / "in" / name)
        part.categories.append({"id": 9, "name": "only in train"})
        if name == "train":
            part.draw(0, (1, 1, 9, 9), 9)
            (part.folder / "2.png").unlink()
        part.written()
    image(tmp_path / "seeds", *(f"v{i}.png" for i in range(3)))
    for i in range(3):
        (tmp_path / "seeds" / f"v{i}.png").replace(tmp_path / "in" / "valid" / f"{i}.png")
    made = fix_data(tmp_path / "in", tmp_path / "out")
    assert made.images == {"train": 2, "valid": 3}
    splits = open_splits(tmp_path / "out")
    assert list(splits) == ["train", "valid"]
    assert all(data.class_names == ("cell", "egg", "only in train") for data in splits.values())


def test_whole_sets_that_cannot_be_corrected(coco: Coco, tmp_path: Path) -> None:
    coco.annotations = []
    with pytest.raises(DataError, match="No image has an object"):
        coco.fixed()
    assert not (tmp_path / "out").exists()


def test_the_source_is_protected(tmp_path: Path) -> None:
    image(tmp_path / "in" / "images", "a.png")
    put(tmp_path / "in" / "labels", "a.txt", "0 0.5 0.5 0.2 0.2\n")
    put(tmp_path / "in", "classes.txt", "cell\n")
    for inside in ("fixed", "labels/fixed"):
        with pytest.raises(ValueError, match="inside the data set"):
            fix_data(tmp_path / "in", tmp_path / "in" / inside)
    with pytest.raises(ValueError, match="not an empty folder"):
        fix_data(tmp_path / "in", tmp_path / "in")


def test_blanks_around_class_names(tmp_path: Path) -> None:
    image(tmp_path / "in", "a.png")
    data = open_data(Coco(tmp_path / "in", 1).written())
    record = replace(data.records[0], truth=replace(data.records[0].truth, class_names=("cell ", "cell")))
    made = fix_data(replace(data, records=[record], class_names=("cell ", "cell")), tmp_path / "out")
    back = open_data(made.out)
    assert (back.class_names, back.category_ids) == (("cell",), (3,))
    assert back.records[0].truth.names == ["cell", "cell"]
    assert any("'cell ' became 'cell'" in text for text in made.corrections)


def test_the_command(coco: Coco, tmp_path: Path) -> None:
    coco.draw(0, (-5, 4, 20, 20))
    coco.draw(1, (20, 9, 5, 20))
    coco.written()
    command = ["data", "check", str(coco.folder), "--fix", str(tmp_path / "out"), "--to", "yolo"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "1 corrections, 1 errors left out" in result.output
    assert (tmp_path / "out" / "data.yaml").is_file()
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path / "out")]).exit_code == 0
    alone = CliRunner().invoke(app, ["data", "check", str(coco.folder), "--to", "yolo"])
    assert "it needs --fix OUT" in alone.output


def test_many_corrections_are_counted(coco: Coco) -> None:
    for i in range(30):
        coco.draw(0, (-5 - i, 4, 20, 20))
    made = coco.fixed()
    assert len(made.corrections) > 20
    assert f"… and {len(made.corrections) - 20} more, listed in" in str(made)
    assert json.dumps(str(made)).count("corrected: ") == 20
