"""The format is recognised by what lies there, and the refusal says what was looked for."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rcnn.data.formats.open import open_data

FILE = {
    "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 3}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}],
}


def coco(folder: Path, name: str = "x.json") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    Image.new("L", (4, 3)).save(folder / "a.png")
    (folder / name).write_text(json.dumps(FILE))
    return folder / name


def voc(folder: Path) -> Path:
    (folder / "Annotations").mkdir()
    (folder / "Images").mkdir()
    Image.new("L", (4, 3)).save(folder / "Images" / "a.png")
    (folder / "Annotations" / "a.xml").write_text("<annotation/>")
    return folder


def mask_folders(folder: Path) -> Path:
    (folder / "a" / "images").mkdir(parents=True)
    (folder / "a" / "masks").mkdir()
    Image.new("L", (4, 3)).save(folder / "a" / "images" / "a.png")
    return folder


def test_every_format_is_recognised(tmp_path: Path) -> None:
    for name in "vm":
        (tmp_path / name).mkdir()
    assert open_data(voc(tmp_path / "v")).format == "voc"
    assert open_data(mask_folders(tmp_path / "m")).format == "mask folders"
    assert open_data(str(coco(tmp_path / "c"))).format == "coco"
    assert open_data(tmp_path / "c").source == tmp_path / "c" / "x.json"
    file = coco(tmp_path / "d" / "annotations")
    assert open_data(tmp_path / "d").source == file


def test_an_opened_data_set_is_given_back(tmp_path: Path) -> None:
    dataset = open_data(coco(tmp_path))
    assert open_data(dataset) is dataset


def test_images_are_passed_on(tmp_path: Path) -> None:
    file = coco(tmp_path / "c")
    (tmp_path / "c" / "a.png").rename(tmp_path / "a.png")
    (tmp_path / "far").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "far" / "a.png")
    assert len(open_data(file, tmp_path / "far")) == 1


def test_one_of_several_json_files_is_found_or_asked_for(tmp_path: Path) -> None:
    coco(tmp_path, "one.json")
    (tmp_path / "notes.json").write_text("{}")
    assert open_data(tmp_path).source.name == "one.json"
    coco(tmp_path, "two.json")
    with pytest.raises(ValueError, match=r"name one of them: one\.json, two\.json"):
        open_data(tmp_path)


def test_refusals_are_one_line_and_name_the_formats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    for path, message in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "a.txt", "not an annotation file.*COCO, Pascal VOC,.*docs/data.md"),
        (tmp_path, r"Found: a\.txt.*COCO, Pascal VOC,.*docs/data.md"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            open_data(path)
        assert "\n" not in str(caught.value)


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split=train is only for Pascal VOC and YOLO"):
        open_data(coco(tmp_path / "c"), split="train")
    (tmp_path / "m").mkdir()
    with pytest.raises(ValueError, match=r"split=train is only for .*; this is mask folders"):
        open_data(mask_folders(tmp_path / "m"), split="train")


def test_an_image_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photos: there is no such image folder"):
        open_data(coco(tmp_path / "c"), tmp_path / "photos")


def test_other_json_files_do_not_disturb(tmp_path: Path) -> None:
    source = voc(tmp_path)
    (source / "dataset-metadata.json").write_text('{"title": "cats"}')
    assert open_data(source).format == "voc"


def test_folders_of_parts_are_named(tmp_path: Path) -> None:
    coco(tmp_path / "train")
    coco(tmp_path / "valid")
    (tmp_path / "logs").mkdir()
    with pytest.raises(
        ValueError, match=r"splits train, valid\. One of these can be opened: .*train, .*valid\. "
    ):
        open_data(tmp_path)
