"""No format opens a file outside the parent of its annotations' folder because a name says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rcnn.data.convert import convert
from rcnn.data.formats.lookup import is_within, reach_of
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import writable
from rcnn.importers.detectron2_config import read_config
from tiny import tiny_shapes

DEPTH = "../../../"
SECRET = "secret.png"


def opened(path: Path) -> list[Path]:
    """The image files of whatever can be opened; refusals are as good."""
    try:
        return [record.path for record in open_data(path).records]
    except ValueError:
        return []


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """An image, three folders above the data and beside their grandparent."""
    (tmp_path / "home" / "of" / "data").mkdir(parents=True)
    Image.new("RGB", (96, 96)).save(tmp_path / SECRET)
    return tmp_path / SECRET


SHARDS = ("parquet", "webdataset")  # which have no files of text


@pytest.mark.parametrize("absolute", [False, True], ids=["dots", "absolute"])
@pytest.mark.parametrize("format", [name for name in writable() if name not in SHARDS])
def test_names_do_not_lead_out(format: str, absolute: bool, secret: Path) -> None:
    """In every file of text that rcnn writes for a format, the images are called by a path that leads out."""
    data = secret.parent / "home" / "of" / "data" / "set"
    shapes = tiny_shapes(2).write(secret.parent / "shapes")
    convert(open_data(shapes), data, to=format)
    images = [file for file in data.rglob("*") if file.suffix in (".png", ".jpg") and "mask" not in str(file)]
    assert images
    evil = str(secret) if absolute else DEPTH + DEPTH + SECRET
    for file in data.rglob("*"):
        if file.suffix not in (".json", ".xml", ".csv", ".txt", ".yaml", ".geojson"):
            continue
        text = file.read_text("utf-8")
        for image in images:
            for name in (image.relative_to(data).as_posix(), image.name):
                text = text.replace(name, evil)
        file.write_text(text, "utf-8")
    for place in (data, *data.glob("*.json"), *data.glob("*.csv"), *data.glob("*.xml"), *data.glob("*.yaml")):
        for path in opened(place):
            assert is_within(path, [data]), (format, place, path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("../train/images/a.png", True),
        ("../images/a.png", True),
        ("images/a.png", True),
        ("../../other/a.png", False),
        ("../../../a.png", False),
        ("../train/../../other/a.png", False),
    ],
)
def test_where_cocos_images_may_be(name: str, found: bool, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "set" / "annotations"
    folder.mkdir(parents=True)
    image = folder / name
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(image.resolve())
    content = {
        "images": [{"id": 1, "file_name": name, "width": 20, "height": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    file = folder / "a.json"
    file.write_text(json.dumps(content))
    if found:
        assert len(open_data(file).records) == 1
        return
    with pytest.raises(ValueError, match=r"It names .*a\.png, outside .*set: such files .*--images"):
        open_data(file)
    # The way out: the folder that the user names.
    given = open_data(file, images=image.resolve().parent)
    assert [record.path.resolve() for record in given.records] == [image.resolve()]


def test_one_image_among_others_is_reported(tmp_path: Path, secret: Path) -> None:
    file = tiny_shapes(2).write(secret.parent / "home" / "of" / "data")
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = DEPTH + SECRET
    file.write_text(json.dumps(content))
    dataset = open_data(file)
    assert len(dataset.records) == 1
    (problem,) = [p for p in dataset.problems if "outside" in p.what]
    assert problem.severity == "error"
    assert "--images" in problem.advice


def _yaml(folder: Path, secret: Path) -> Path:
    (folder / "data.yaml").write_text(f"path: {secret.parent}\ntrain: photos\nnames: [a]\n")
    (secret.parent / "photos").mkdir()
    (secret.parent / "labels").mkdir()
    Image.new("RGB", (20, 10)).save(secret.parent / "photos" / "a.png")
    (secret.parent / "photos" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return folder / "data.yaml"


def _list(folder: Path, secret: Path) -> Path:
    (folder / "train.txt").write_text(f"{secret}\n")
    (folder / "obj.names").write_text("a\n")
    return folder / "train.txt"


def _voc(folder: Path, secret: Path) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    (folder / "Annotations" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / "a.png")
    secret.with_suffix(".xml").write_text("<annotation><filename>a.png</filename></annotation>")
    (folder / "ImageSets" / "Main" / "train.txt").write_text(f"{secret.with_suffix('')}\n")
    return folder / "ImageSets" / "Main" / "train.txt"


@pytest.mark.parametrize("make", [_yaml, _list, _voc])
def test_lists_and_settings(make: Callable[[Path, Path], Path], secret: Path) -> None:
    file = make(secret.parent / "home" / "of" / "data", secret)
    with pytest.raises(ValueError, match=r"outside .*: such files are not opened"):
        open_data(file)


def test_bases_of_detectron2(secret: Path) -> None:
    file = secret.parent / "home" / "of" / "data" / "config.yaml"
    (secret.parent / "base.yaml").write_text("MODEL: {}\n")
    file.write_text(f"_BASE_: {DEPTH}base.yaml\nMODEL: {{}}\n")
    with pytest.raises(ValueError, match=r"outside .*: such files are not opened"):
        read_config(file)


def test_the_root_of_the_file_system_is_no_parent() -> None:
    assert reach_of(Path("/data/a.json")) == (Path("/data"),)
    assert reach_of(Path("/data/set/a.json")) == (Path("/data"),)
    assert reach_of(Path("/data/set/a.json"), Path("/data/images")) == (Path("/data"),)
    assert reach_of(Path("/data/set/a.json"), Path("/images")) == (Path("/data"), Path("/images"))
