"""The law of ``rcnn.data.names``, for every format that is written and names of many kinds."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rcnn.data.convert import convert
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from tiny import tiny_shapes

NAMES = {
    "no UTF-8": os.fsdecode(b"caf\xe9"), "blank before": " a", "blank after": "a ", "carriage return": "a\rb",
    "next line": "a\x85b", "control": "a\x01b", "quotes": "a\"b'c", "comma": "a,b;c", "markup": "a<b>&c",
}  # fmt: skip


@pytest.mark.parametrize(
    "to", ["coco", "voc", "yolo", "csv", "createml", "cvat", "label-studio", "geojson", "imagej"]
)
def test_a_name_comes_back_or_is_refused_before_anything_is_written(to: str, tmp_path: Path) -> None:
    data = open_data(tiny_shapes(2).write(tmp_path / "data"))
    picture = Image.open(data.records[0].path)
    wrong = []
    for kind, name in NAMES.items():
        path = tmp_path / "data" / "images" / f"{name}.png"
        picture.save(path)
        one: Dataset = replace(data, records=[replace(data.records[0], path=path), data.records[1]])
        out = tmp_path / f"out {kind}"
        try:
            convert(one, out, to=to)
        except ValueError as error:
            if out.exists() or "rename the file" not in str(error):
                wrong.append((kind, str(error)))
            continue
        try:
            # The last two write no images.
            images = tmp_path / "data" / "images" if to in ("geojson", "imagej") else None
            back = [record.path.name for record in open_data(out, images, format=to).records]
        except ValueError as error:
            back = [str(error)[:200]]
        if sorted(back) != sorted([path.name, data.records[1].path.name]):
            wrong.append((kind, ascii(back)))
    assert not wrong
