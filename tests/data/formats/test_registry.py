"""The table of formats, and a format of one's own: by dotted path, as an object, or as one more row."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT
from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import FORMATS, Format, find_format, formats, markdown_table, writable
from rcnn.data.shapes import draw_shapes

OWN = '''
"""A format of one's own: name.txt beside name.png, with lines of class x1 y1 x2 y2."""
from rcnn.data.builder import Annotation, DatasetBuilder
from rcnn.data.formats.writer import Writer


class TextWriter(Writer):
    def write(self, item):
        rows = zip(item.truth.names, item.truth.boxes.tolist())
        lines = [" ".join([name, *map(str, box)]) for name, box in rows]
        item.image.with_suffix(".txt").write_text("\\n".join(lines))


class Texts:
    name = "texts"
    write = TextWriter

    @staticmethod
    def sniff(path):
        return (path / "images").is_dir() and any(path.glob("images/*.txt"))

    @staticmethod
    def read(path):
        builder = DatasetBuilder("texts", path)
        for file in sorted(path.glob("images/*.txt")):
            picture = builder.add_file(file.with_suffix(".png"), file.stem)
            for number, line in enumerate(file.read_text().splitlines()):
                name, *corners = line.split()
                box = builder.usable_box(tuple(map(float, corners)), picture, f"line {number}")
                picture.annotations.append(Annotation(box, name, f"line {number}"))
        names = sorted({a.label for p in builder.pictures for a in p.annotations})
        builder.declare_classes(names)
        builder.name_labels(dict(zip(names, names)))
        return builder.build()


class Nameless:
    read = None
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a format, as a user has it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_formats.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "code")
    return "my_formats:Texts"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(folder / "images" / "a.png")
    (folder / "images" / "a.txt").write_text("cell 1 2 5 8\ndirt -9 0 4 4\n")
    return folder


def test_a_dotted_path_names_a_format(own: str, texts: Path) -> None:
    data = open_data(texts, format=own)
    assert (data.format, data.class_names) == ("texts", ("cell", "dirt"))
    assert data[0].truth.boxes.tolist() == [[1, 2, 5, 8], [0, 0, 4, 4]]
    assert data[0].truth.labels.tolist() == [0, 1]
    assert "extends beyond the image" in data.problems[0].what


def test_an_object_is_a_format(own: str, texts: Path) -> None:
    from importlib import import_module

    assert open_data(texts, format=import_module("my_formats").Texts).format == "texts"


def test_a_row_of_the_table_is_recognised(own: str, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="which is not read"):
        open_data(texts)
    monkeypatch.setitem(FORMATS, "texts", find_format(own))
    assert open_data(texts).format == open_data(texts, format="texts").format == "texts"
    assert "texts" in writable()


def test_a_format_of_ones_own_is_written(own: str, tmp_path: Path) -> None:
    shapes = draw_shapes(2, size=(40, 50))
    source = open_data(shapes.write(tmp_path / "shapes"))
    convert(source, tmp_path / "out", to=own)
    back = open_data(tmp_path / "out", format=own)
    assert len(back) == 2
    for one, other in zip(source.records, back.records, strict=True):
        np.testing.assert_array_equal(one.truth.boxes, other.truth.boxes)
        assert one.truth.names == other.truth.names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiff", "expected one of coco, voc, .*my_package.formats:MyFormat"),
        ("my_formats:Absent", "my_formats has no Absent"),
        ("my_formats:Nameless", "my_formats:Nameless: a format needs a text as name, and a function read"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_format_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path, format=name)


def test_options_are_those_of_the_row(own: str, texts: Path) -> None:
    with pytest.raises(ValueError, match=r"images=x is only for COCO and .*; this is texts"):
        open_data(texts, "x", format=own)


def test_a_format_settles_what_could_be_two(tmp_path: Path) -> None:
    folder = draw_shapes(2, truth="semantic", size=(30, 40)).write(tmp_path)
    (folder / "a").mkdir()
    (folder / "a" / "images").mkdir()
    (folder / "a" / "masks").mkdir()
    with pytest.raises(ValueError, match=r"could be mask folders and semantic\. .*--format"):
        open_data(folder)
    assert open_data(folder, format="semantic").format == "semantic"
    assert open_data(folder, format="masks").format == "mask folders"


@pytest.mark.parametrize("key", list(FORMATS))
def test_every_row_is_complete_and_refuses_an_empty_folder(key: str, tmp_path: Path) -> None:
    row = formats()[key]
    assert isinstance(row, Format)
    assert row.title
    assert row.description
    assert row.gives
    assert not row.sniff(tmp_path)
    assert not row.sniff(tmp_path / "absent")
    with pytest.raises(ValueError, match=str(tmp_path)):
        row.read(tmp_path)


def test_the_docs_have_the_table() -> None:
    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    assert markdown_table() in text
    for row in formats().values():
        assert f"\n### {row.title[0].upper()}{row.title[1:]}\n" in text
    assert all(f"\n| `{key}` | " in text for key in writable())


def test_names_of_data_sets_are_those_of_the_rows(tmp_path: Path) -> None:
    data = open_data(draw_shapes(2, size=(30, 40)).write(tmp_path))
    assert isinstance(data, Dataset)
    assert data.format in {row.name for row in formats().values()}
