"""Tables of boxes: every known set of columns, with and without a header, and what is malformed."""

from pathlib import Path

import pytest

from annotated_images import FIRST, HEIGHT, SECOND, WIDTH, boxes, errors, image, put
from rcnn.data.formats.open import open_data, open_splits

A, B = ",".join(map(str, FIRST)), ",".join(map(str, SECOND))
X, Y, X2, Y2 = FIRST
SIDES = f"{X},{Y},{X2 - X},{Y2 - Y}"
FRACTIONS = f"{X / WIDTH},{X2 / WIDTH},{Y / HEIGHT},{Y2 / HEIGHT}"
TABLES = {
    "tensorflow": ("filename,width,height,class,xmin,ymin,xmax,ymax", f"a.png,64,48,cat,{A}"),
    "order": ("class,ymax,xmax,ymin,xmin,filename", f"cat,{Y2},{X2},{Y},{X},a.png"),
    "retinanet": ("", f"images/a.png,{A},cat"),
    "retinanet header": ("img_path,x1,y1,x2,y2,class_name", f"/home/me/images/a.png,{A},cat"),
    "sku110k": ("", f"a.png,{A},cat,64,48"),
    "makesense": ("", f"cat,{SIDES},a.png,64,48"),
    "makesense header": (
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
        f"cat,{SIDES},a.png,64,48",
    ),
    "wheat": ("image_id,width,height,bbox,source,class", f'a,64,48,"[{SIDES}]",x,cat'),
    "wheat 2021": ("image_name,BoxesString,domain,class", f"a.png,{A.replace(',', ' ')},x,cat"),
    "semicolons": (
        "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId", f"a.png;64;48;{A.replace(',', ';')};cat",
    ),
    "tabs": ("image\tlabel\tx_min\ty_min\tx_max\ty_max", "a.png\tcat\t" + A.replace(",", "\t")),
    "index": (",image,xmin,ymin,xmax,ymax,label", f"0,a.png,{A},cat"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("folder", ["", "images"])
def test_every_set_of_columns(tmp_path: Path, kind: str, folder: str) -> None:
    image(tmp_path / folder, "a.png")
    header, row = TABLES[kind]
    file = put(tmp_path, "x.csv", f"\ufeff{header}\r\n{row}\r\n" if header else f"{row}\n")
    data = open_data(tmp_path)
    assert (data.format, boxes(data), data.problems) == ("csv", {"a.png": [("cat", FIRST)]}, ())
    assert boxes(open_data(file)) == boxes(data)
    assert not data.has_masks


def test_open_images(tmp_path: Path) -> None:
    image(tmp_path / "train", "0a.jpg", "0b.jpg")
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,"
        "IsInside"
    )
    rows = [f"0a,x,/m/01,1,{FRACTIONS},0,0,{group},0,0" for group in (0, 1)]
    rows.append(f"not here,x,/m/02,1,{FRACTIONS},0,0,0,0,0")
    put(tmp_path, "train-annotations-bbox.csv", "\n".join([header, *rows]))
    put(tmp_path, "class-descriptions-boxable.csv", "/m/01,Cat\n/m/02,Dog\n")
    data = open_data(tmp_path)
    assert data.class_names == ("Cat",)
    assert data[0].truth.boxes.tolist() == [list(FIRST)] * 2
    assert data[0].truth.crowd.tolist() == [False, True]
    assert errors(data) == []
    assert any(p.what.startswith("1 of 2 images are missing: not here") for p in data.problems)


def test_images_without_objects_and_several_boxes(tmp_path: Path) -> None:
    image(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows = [f"a.png,{A},cat", f"a.png,{B},dog", f"a.png,{B},dog", "b.png,,,,,"]
    put(tmp_path, "x.csv", "\n".join(rows))
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("cat", FIRST), ("dog", SECOND)], "b.png": []}
    assert [p.what for p in data.problems] == [
        "1 boxes occur twice, for example in a.png.",
        "2 images have no line in the table: c.png, d.png.",
    ]
    put(tmp_path, "x.csv", "image_name,BoxesString\na.png,8 6 24 20;34 22 56 42\nb.png,no_box\n")
    assert boxes(open_data(tmp_path)) == {"a.png": [("object", FIRST), ("object", SECOND)], "b.png": []}


def test_fractions_are_said(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.csv", f"image,xmin,xmax,ymin,ymax,label\na.png,{FRACTIONS},cat\n")
    data = open_data(tmp_path)
    assert boxes(data) == {"a.png": [("cat", FIRST)]}
    assert [p.advice for p in data.problems] == [
        "They are read as fractions of the image's width and height."
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas(tmp_path: Path, delimiter: str) -> None:
    """As spreadsheets of many languages write them; between commas they cannot be told from two numbers."""
    image(tmp_path, "a.jpg")
    table = "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,8:5,6,24,20:25\n"
    put(tmp_path, "boxes.csv", table.replace(",", delimiter).replace(":", ","))
    assert boxes(open_data(tmp_path)) == {"a.jpg": [("cat", (8.5, 6, 24, 20.25))]}


def test_corners_called_sides_are_suspected(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.csv", f'image_id,width,height,bbox\na,64,48,"[{A}]"\na,64,48,"[{B}]"\n')
    assert "As x1, y1, x2, y2 they would fit" in errors(open_data(tmp_path))[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,64,48,cat,8,6,24", "line 3: The line has 7 cells; expected at least 8"),
        ("a.png,64,48,cat,8,6,x,20", "line 3: Expected four numbers as box; found '8, 6, x, 20'"),
        ("a.png,64,48,,8,6,24,20", "line 3: The object has no class"),
        ("a.png,64,48,cat,24,6,8,20", "line 3: The box .* has a negative width or height"),
        ("b.png,48,64,cat,8,6,24,20", "The image has 64 by 48 pixels, its annotation 48 by 64"),
        ("c.png,64,48,cat,8,6,24,20", "1 of 2 images are missing: c.png"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    import re

    image(tmp_path, "a.png", "b.png")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    put(tmp_path, "x.csv", f"{header}\na.png,64,48,cat,{B}\n{row}\n")
    found = errors(open_data(tmp_path))
    assert len(found) == 1
    assert re.search(message, found[0])


def test_other_tables_are_not_taken(tmp_path: Path) -> None:
    image(tmp_path, "a.png")
    put(tmp_path, "x.csv", "name,price\na.png,3\n")
    with pytest.raises(ValueError, match="no annotations of a known format"):
        open_data(tmp_path)
    for name in ("x.csv", "y.csv"):
        put(tmp_path, name, f"a.png,{A},cat\n")
    with pytest.raises(ValueError, match=r"several box table files; name one of them: x\.csv, y\.csv"):
        open_data(tmp_path)


def test_tables_of_splits(tmp_path: Path) -> None:
    """As the tutorials of TensorFlow's object detection leave them."""
    image(tmp_path / "images", "train/a.png", "test/b.png")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    put(tmp_path, "images/train_labels.csv", f"{header}\na.png,64,48,cat,{A}\n")
    put(tmp_path, "images/test_labels.csv", f"{header}\nb.png,64,48,cat,{B}\n")
    splits = open_splits(tmp_path / "images")
    assert {name: boxes(data) for name, data in splits.items()} == {
        "train": {"a.png": [("cat", FIRST)]},
        "test": {"b.png": [("cat", SECOND)]},
    }
