"""Odd names, folders and values that tools write: they are read right, or the warning says how."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.annotated_images import FIRST, HEIGHT, SECOND, WIDTH, image, put

from rcnn.data.check import check
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data, open_splits

LINES = "".join(
    f"0 {(a + c) / 2 / WIDTH:.6f} {(b + d) / 2 / HEIGHT:.6f} {(c - a) / WIDTH:.6f} {(d - b) / HEIGHT:.6f}\n"
    for a, b, c, d in (FIRST, SECOND)
)
CORNERS = "".join(f"{a} {b} {c} {b} {c} {d} {a} {d} cell 0\n" for a, b, c, d in (FIRST, SECOND))
AREAS = [224.0, 440.0]


def numbers() -> np.ndarray:
    """A label image of both boxes."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate((FIRST, SECOND), 1):
        found[y1:y2, x1:x2] = number
    return found


def save(path: Path, pixels: np.ndarray) -> None:
    """An array as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def coco(**changes: object) -> dict[str, object]:
    """A COCO file of one image with both boxes."""
    sides = [[a, b, c - a, d - b] for a, b, c, d in (FIRST, SECOND)]
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(sides, 1)
        ],
        **changes,
    }


def has_both(data: Dataset) -> bool:
    """Whether each image has both boxes, up to the rounding of text files."""
    return all(
        np.abs(record.truth.boxes - np.array([FIRST, SECOND])).max(initial=0) < 0.01
        and len(record.truth) == 2
        for record in data.records
    )


def warnings_of(data: Dataset) -> str:
    return "\n".join(str(problem) for problem in data.problems)


def test_a_page_of_a_tiff_file_is_an_object(tmp_path: Path) -> None:
    image(tmp_path, "images/a.png")
    pages = np.stack([numbers() == 1, numbers() > 0, np.zeros_like(numbers()) > 0])
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", pages.astype(np.uint8) * 255, photometric="minisblack")
    data = open_data(tmp_path)
    truth = data.records[0].load_truth()
    assert truth.boxes.tolist() == [[*map(float, FIRST)], [8, 6, 56, 42]]  # they may overlap; none is empty
    assert truth.masks is not None
    assert truth.masks.areas().tolist() == [224, 664]
    assert "Each page is one object." in warnings_of(data)


def test_pages_of_numbers_are_a_stack_to_choose_from(tmp_path: Path) -> None:
    image(tmp_path, "images/a.png")
    (tmp_path / "labels").mkdir()
    stack = np.stack([numbers(), numbers()])
    tifffile.imwrite(tmp_path / "labels" / "a.tif", stack, photometric="minisblack")
    assert "--plane 0 to 1" in warnings_of(open_data(tmp_path))


def test_roboflows_semantic_masks_have_a_table_of_classes(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        image(tmp_path / part, "a.jpg")
        save(tmp_path / part / "a_mask.png", numbers())
        put(tmp_path / part, "_classes.csv", "Pixel Value, Class\n0, background\n1, cell\n2, drop\n")
    data = open_splits(tmp_path)
    assert list(data) == ["train", "valid"]
    assert data["train"].semantic_names == ("background", "cell", "drop")
    assert check(data["train"]).pixels_per_class == {"background": 2408, "cell": 224, "drop": 440, "void": 0}


def test_roboflows_oriented_boxes_are_dotas_despite_the_yaml(tmp_path: Path) -> None:
    put(tmp_path, "data.yaml", "train: train\nval: valid\nnames: [cell]\n")
    for part in ("train", "valid"):
        image(tmp_path / part, "images/a.jpg")
        put(tmp_path / part, "labelTxt/a.txt", CORNERS)
    data = open_splits(tmp_path)
    assert [one.format for one in data.values()] == ["dota", "dota"]
    assert all(map(has_both, data.values()))


@pytest.mark.parametrize(
    ("picture", "text", "content"),
    [
        ("images/a.jpg", "labels/a.TXT", LINES),
        ("images/a.jpg", "labels/a.jpg.txt", LINES),
        ("images/gro\u0308\u00dfe.jpg", "labels/gr\u00f6\u00dfe.txt", LINES),
        ("images/a.jpg", "labels/a.txt", LINES.replace(" ", ",")),
        ("images/a.jpg", "labels/a.txt", LINES.replace(" ", ", ")),
    ],
    ids=["upper case", "whole name", "accents", "commas", "commas and blanks"],
)
def test_yolos_text_files_of_other_names_and_separators(
    picture: str, text: str, content: str, tmp_path: Path
) -> None:
    image(tmp_path, picture)
    put(tmp_path, text, content)
    put(tmp_path, "classes.txt", "cell\n")
    assert has_both(open_data(tmp_path))


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    put(tmp_path, "labels/a.txt", LINES.replace(".", ","))
    put(tmp_path, "classes.txt", "cell\n")
    assert "Write decimal points, not commas." in warnings_of(open_data(tmp_path))


def test_lists_of_names_with_numbers_or_commas(tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    put(tmp_path, "labels/a.txt", LINES)
    put(tmp_path, "classes.txt", "0 cell\n1: big drop\n")
    assert open_data(tmp_path).class_names == ("cell", "big drop")
    put(tmp_path, "classes.txt", "1 cell\n2 drop\n")  # not the numbers of the text files
    assert open_data(tmp_path).class_names == ("1 cell", "2 drop")
    put(tmp_path, "classes.txt", "cell, drop\n")
    with pytest.raises(ValueError, match=r"has commas.*one name per line"):
        open_data(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_of_any_case_and_encoding(encoding: str, tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    put(tmp_path, "labels/a.txt", LINES)
    (tmp_path / "Data.YAML").write_text("train: images\nnames: [cell]\n", encoding=encoding)
    assert has_both(open_data(tmp_path))


def test_lists_of_coco_may_be_objects(tmp_path: Path) -> None:
    image(tmp_path, "images/a.png")
    plain = coco()
    for key in ("images", "annotations"):
        plain[key] = {str(entry.pop("id")): entry for entry in plain[key]}  # type: ignore[attr-defined]
    put(tmp_path, "annotations.json", plain)
    assert has_both(open_data(tmp_path))


def test_coco_images_of_another_extension_or_none(tmp_path: Path) -> None:
    image(tmp_path, "images/a.jpg")
    for name in ("a.png", "a"):
        entry = {"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}
        put(tmp_path, "annotations.json", coco(images=[entry]))
        data = open_data(tmp_path)
        assert has_both(data)
        assert "another extension" in warnings_of(data)
    image(tmp_path, "images/a.tif")
    with pytest.raises(ValueError, match="none of its images was found"):
        open_data(tmp_path)


def test_cocos_image_ids_may_be_names(tmp_path: Path) -> None:
    image(tmp_path, "images/a.png")
    for name in ("a.png", "a"):
        content = coco()
        for entry in content["annotations"]:  # type: ignore[attr-defined]
            entry["image_id"] = name
        put(tmp_path, "annotations.json", content)
        assert has_both(open_data(tmp_path))


def test_splits_in_any_spelling_and_folder(tmp_path: Path) -> None:
    for part in ("Train", "Validation"):
        image(tmp_path / "coco", f"images/{part}/a.png")
        put(tmp_path / "coco", f"annotations/instances_{part}.json", coco())
        table = "".join(f"a.jpg,cell,{a},{b},{c},{d}\n" for a, b, c, d in (FIRST, SECOND))
        image(tmp_path / "tables", f"images/{part.lower()}/a.jpg")
        put(
            tmp_path / "tables",
            f"data/{part.lower()}_labels.csv",
            f"filename,class,xmin,ymin,xmax,ymax\n{table}",
        )
        image(tmp_path / "zips", f"{part}_zip/{part}/images/a.jpg")
        put(tmp_path / "zips", f"{part}_zip/{part}/labels/a.txt", LINES)
        put(tmp_path / "zips", f"{part}_zip/{part}/classes.txt", "cell\n")
    for name in ("coco", "tables", "zips"):
        data = open_splits(tmp_path / name)
        assert [split_name.lower()[:5] for split_name in data] in (["train", "val"], ["train", "valid"])
        assert all(map(has_both, data.values()))
        paths = [str(one.records[0].path).lower() for one in data.values()]
        assert "train" in paths[0].removeprefix(str(tmp_path).lower())
        assert "val" in paths[1].removeprefix(str(tmp_path).lower())


def test_masks_next_to_a_folder_without_the_word_for_images(tmp_path: Path) -> None:
    image(tmp_path, "train/a.jpg")
    save(tmp_path / "train_masks" / "a_mask.png", numbers())
    (data,) = open_splits(tmp_path).values()
    truth = data.records[0].load_truth()
    assert truth.masks is not None
    assert truth.masks.areas().tolist() == AREAS


def test_boxes_beside_maps_of_classes_are_read(tmp_path: Path) -> None:
    box = "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>24</xmax><ymax>20</ymax></bndbox>"
    for name in "abc":
        image(tmp_path, f"images/{name}.jpg")
        put(
            tmp_path,
            f"annotations/xmls/{name}.xml",
            f"<annotation><object><name>cat</name>{box}</object></annotation>",
        )
        save(tmp_path / f"annotations/trimaps/{name}.png", np.where(numbers() == 1, 1, 2).astype(np.uint8))
    data = open_data(tmp_path)
    assert data.format == "voc"
    assert [record.truth.boxes.tolist() for record in data.records] == [[[*map(float, FIRST)]]] * 3


def test_json_files_of_other_programs_beside_labelmes(tmp_path: Path) -> None:
    image(tmp_path, "a.jpg")
    corners = [[FIRST[0], FIRST[1]], [FIRST[2], FIRST[3]]]
    shape = {"label": "cell", "points": corners, "shape_type": "rectangle"}
    put(tmp_path, "a.json", {"imagePath": "a.jpg", "shapes": [shape]})
    put(tmp_path, "config.json", {"auto_save": True})
    data = open_data(tmp_path)
    assert data.records[0].truth.boxes.tolist() == [[*map(float, FIRST)]]
    assert "config.json. They were ignored." in warnings_of(data)


def test_images_turned_by_exif_without_annotated_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    box = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for size, warned in (("", True), ("<size><width>48</width><height>64</height></size>", False)):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg", exif=exif.tobytes())
        xml = f"<annotation>{size}<object><name>cell</name>{box}</object></annotation>"
        put(tmp_path, "a.xml", xml)
        assert ("--exif stored" in warnings_of(open_data(tmp_path))) is warned
