"""Conversion: what a format holds comes back, what it cannot hold is said, and a break leaves nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from typer.testing import CliRunner

from rcnn.cli import app
from rcnn.data import output_folder as module
from rcnn.data.convert import Conversion, convert
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.problems import DataError
from rcnn.io.reading import Reading
from rcnn.structures import Masks
from rcnn.structures.outlines import as_one_polygon, trace

SIZE = (24, 40)
NAMES = ("zellkern", "Fläche 2")


def bitmap(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A random outline: plain, with a hole, in two parts, ragged, or one pixel."""
    found = np.zeros(SIZE, dtype=bool)
    y, x = int(rng.integers(0, 12)), int(rng.integers(0, 24))
    height, width = (int(v) for v in rng.integers(5, 12, 2))
    if kind == "pixel":
        found[y, x] = True
        return found
    found[y : y + height, x : x + width] = True
    if kind == "hole":
        found[y + 2, x + 2 : x + 4] = False
    if kind == "parts":
        found[y + 2, :] = False
    if kind == "ragged":
        found[y : y + height, x : x + width] &= rng.random((height, width)) < 0.6
        found[y, x] = True
    return found


def coco(folder: Path, kinds: list[list[str]], *, seed: int = 0, **more: Any) -> Path:
    """A COCO file with an image for each list of kinds; crowds and keypoints by ``more``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, listed in enumerate(kinds, 1):
        name = f"{'ü ' if number == 1 else ''}{number}.png"
        pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": 10 * number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for kind in listed:
            masks = Masks.from_dense(bitmap(rng, kind)[None])
            x1, y1, x2, y2 = masks.boxes()[0].tolist()
            annotation = {
                "id": len(annotations) + 1,
                "image_id": 10 * number,
                "category_id": 3 + 4 * (len(annotations) % 2),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": masks.rle()[0],
                "iscrowd": int(kind == "crowd"),
            }
            if "points" in more:
                annotation["keypoints"] = [x1 + 0.25, y1, 2, 0, 0, 0, x2 - 1, y2 - 1, 1]
            annotations.append(annotation)
    points = {"keypoints": ["nose", "left_ear", "right_ear"]} if "points" in more else {}
    categories = [{"id": i, "name": n, **points} for i, n in zip((3, 7), NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def turn(source: Path | Dataset, out: Path, to: str) -> tuple[Dataset, Conversion]:
    conversion = convert(open_data(source), out, to=to)
    back = open_data(out)
    assert [p for p in back.problems if p.severity == "error"] == []
    assert conversion.images == len(back)
    return back, conversion


def compare(one: Dataset, other: Dataset, *fields: str, names: bool = True) -> None:
    """The objects of both, image by image and in order."""
    for index in range(len(one)):
        a, b = one[index], other[index]
        assert np.array_equal(a.image, b.image)
        if names:
            assert a.truth.names == b.truth.names
        for field in fields:
            x, y = getattr(a.truth, field), getattr(b.truth, field)
            if isinstance(x, Masks):
                assert_array_equal(x, y)
            else:
                assert_allclose(x, y, rtol=0, atol=1e-4)


EVERYTHING = [["plain", "hole", "parts", "ragged", "pixel"], [], ["ragged", "plain"]]
SOLID = [["plain"], [], ["plain"]]
HELD = [
    ("coco", EVERYTHING, ("boxes", "masks", "labels"), True),
    ("yolo", [["plain", "parts", "pixel"], [], ["plain"]], ("boxes", "masks", "labels"), True),
    ("voc", [["plain", "hole"], [], ["ragged"]], ("boxes",), True),
    ("csv", [["plain", "hole"], [], ["ragged"]], ("boxes",), True),
    ("createml", [["plain", "hole"], [], ["ragged"]], ("boxes",), True),
    ("cvat", EVERYTHING, ("boxes", "masks"), True),
    ("label-studio", EVERYTHING, ("boxes", "masks"), True),
    ("labelme", EVERYTHING, ("boxes", "masks"), True),
    ("geojson", EVERYTHING, ("boxes", "masks"), True),
    ("imagej", EVERYTHING, ("boxes", "masks"), True),
    ("masks", EVERYTHING, ("boxes", "masks"), False),
    ("labels", SOLID, ("boxes", "masks"), False),
]


@pytest.mark.parametrize(("to", "kinds", "fields", "names"), HELD, ids=[h[0] for h in HELD])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_format_holds_comes_back(
    tmp_path: Path, to: str, kinds: Any, fields: tuple[str, ...], names: bool, seed: int
) -> None:
    source = open_data(coco(tmp_path / "in", kinds, seed=seed))
    back, conversion = turn(source, tmp_path / "out", to)
    assert sorted(back.records[i].path.name for i in range(len(back))) == ["2.png", "3.png", "ü 1.png"]
    order = {r.path.name: i for i, r in enumerate(back.records)}
    back = back.subset([order[r.path.name] for r in source.records])
    compare(source, back, *fields, names=names)
    boxes_only = {key: {"outlines"} for key in ("voc", "csv", "createml")}
    whole = {key: set() for key in ("coco", "yolo", "cvat", "label-studio", "labelme", "geojson", "imagej")}
    silent = {**whole, **boxes_only}.get(to, {"class names"})
    assert set(conversion.lost) == silent


@pytest.mark.parametrize("first", ["coco", "yolo", "masks", "labels", "cvat", "geojson", "imagej"])
@pytest.mark.parametrize("second", ["coco", "yolo", "masks", "labels", "cvat", "geojson", "imagej"])
def test_outlines_go_from_any_to_any(tmp_path: Path, first: str, second: str) -> None:
    kinds = [["plain"], [], ["parts"]]
    start, _ = turn(coco(tmp_path / "in", kinds), tmp_path / "one", first)
    end, _ = turn(start, tmp_path / "two", second)
    order = {r.path.name: i for i, r in enumerate(end.records)}
    end = end.subset([order[r.path.name] for r in start.records])
    compare(start, end, "boxes", "masks", names=second not in ("masks", "labels"))


@pytest.mark.parametrize(
    "first", ["coco", "yolo", "voc", "csv", "createml", "cvat", "label-studio", "labelme", "imagej"]
)
@pytest.mark.parametrize(
    "second", ["coco", "yolo", "voc", "csv", "createml", "cvat", "label-studio", "imagej"]
)
def test_boxes_go_from_any_to_any(tmp_path: Path, first: str, second: str) -> None:
    file = coco(tmp_path / "in", [["plain", "plain"], [], ["plain"]])
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
        annotation["bbox"][0] += 0.37
        annotation["bbox"][2] -= 0.11
    file.write_text(json.dumps(content))
    start, one = turn(file, tmp_path / "one", first)
    end, two = turn(start, tmp_path / "two", second)
    assert (one.lost, two.lost) == ({}, {})
    source = open_data(file)
    order = {r.path.name: i for i, r in enumerate(end.records)}
    compare(source, end.subset([order[r.path.name] for r in source.records]), "boxes")


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_keypoints(tmp_path: Path, to: str) -> None:
    source = open_data(coco(tmp_path / "in", [["plain", "plain"], ["plain"]], points=True))
    back, conversion = turn(source, tmp_path / "out", to)
    order = {r.path.name: i for i, r in enumerate(back.records)}
    compare(source, back.subset([order[r.path.name] for r in source.records]), "boxes", "keypoints")
    assert back.skeleton == source.skeleton
    assert set(conversion.lost) == ({"outlines"} if to == "yolo" else set())


def test_coco_keeps_ids_and_crowds(tmp_path: Path) -> None:
    source = open_data(coco(tmp_path / "in", [["plain", "crowd"], []]))
    back, conversion = turn(source, tmp_path / "out", "coco")
    assert (back.category_ids, [r.image_id for r in back.records]) == ((3, 7), [10, 20])
    assert back[0].truth.crowd.tolist() == [False, True]
    assert conversion.lost == {}


def test_difficult_marks(tmp_path: Path) -> None:
    source, _ = turn(coco(tmp_path / "in", [["plain", "plain"]]), tmp_path / "voc", "voc")
    xml = next((tmp_path / "voc" / "Annotations").iterdir())
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1", 1))
    back, kept = turn(tmp_path / "voc", tmp_path / "again", "voc")
    assert back[0].truth.difficult.tolist() == [True, False]
    assert kept.lost == {}
    _, lost = turn(tmp_path / "voc", tmp_path / "coco", "coco")
    assert lost.lost == {"difficult flags": ["ü 1.png, object 1"]}
    assert len(source) == 1


@pytest.mark.parametrize(
    ("to", "kinds", "lost"),
    [
        ("yolo", ["plain", "hole"], {"outlines with holes, which are filled": ["ü 1.png, object 2"]}),
        ("yolo", ["plain", "crowd"], {"crowd regions": ["ü 1.png, object 2"]}),
        (
            "voc",
            ["plain", "pixel"],
            {
                "outlines": ["ü 1.png, object 1", "ü 1.png, object 2"],
                "boxes of at most one pixel, which VOC readers ignore": ["ü 1.png, object 2"],
                "classes without an object": [],
            },
        ),
        (
            "masks",
            ["plain", "crowd"],
            {
                "crowd regions": ["ü 1.png, object 2"],
                "class names": [f"{NAMES[0]} (1 objects)", f"{NAMES[1]} (1 objects)"],
            },
        ),
    ],
)
def test_what_is_lost_is_listed(
    tmp_path: Path, to: str, kinds: list[str], lost: dict[str, list[str]]
) -> None:
    back, conversion = turn(coco(tmp_path / "in", [kinds]), tmp_path / "out", to)
    assert conversion.lost == {kind: places for kind, places in lost.items() if places}
    listed = (tmp_path / "out" / "lost.txt").read_text("utf-8").splitlines()
    assert listed == [f"{kind}: {place}" for kind, places in lost.items() for place in places]
    objects = 2 if "hole" in kinds else 1
    assert len(back[0].truth) == objects


def test_label_images_say_what_is_hidden(tmp_path: Path) -> None:
    file = coco(tmp_path / "in", [["plain", "plain", "plain"]])
    content = json.loads(file.read_text())
    first, second, third = content["annotations"]
    inner = np.zeros((1, *SIZE))
    inner[:, 2:4, 3:9] = 1
    outer = np.zeros((1, *SIZE))
    outer[:, 1:9, 2:20] = 1
    for annotation, bitmaps in ((first, inner), (second, outer), (third, inner)):
        annotation["segmentation"] = Masks.from_dense(bitmaps).rle()[0]
        x1, y1, x2, y2 = Masks.from_dense(bitmaps).boxes()[0].tolist()
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    file.write_text(json.dumps(content))
    back, conversion = turn(file, tmp_path / "out", "labels")
    assert conversion.lost["objects that lose pixels to others"] == ["ü 1.png, object 2 (12 of 144 pixels)"]
    assert conversion.lost["objects entirely hidden by others"] == ["ü 1.png, object 1"]
    assert back[0].truth.masks.areas().tolist() == [8 * 18 - 12, 12]


def test_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    file = coco(tmp_path / "in", [["plain"], ["plain"]])
    content = json.loads(file.read_text())
    (tmp_path / "in" / "b").mkdir()
    (tmp_path / "in" / "2.png").rename(tmp_path / "in" / "b" / "Ü 1.png")
    content["images"][1]["file_name"] = "b/Ü 1.png"
    file.write_text(json.dumps(content))
    back, _ = turn(file, tmp_path / "out", "yolo")
    assert sorted(r.path.name for r in back.records) == ["Ü 1_2.png", "ü 1.png"]


def test_refusals(tmp_path: Path) -> None:
    source = open_data(coco(tmp_path / "in", SOLID))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ValueError, match="is not an empty folder"):
        convert(source, tmp_path / "full", to="coco")
    with pytest.raises(ValueError, match="expected one of coco, voc, masks, labels, yolo"):
        convert(source, tmp_path / "out", to="tiff")
    boxes, _ = turn(source, tmp_path / "voc", "voc")
    with pytest.raises(ValueError, match="no outlines, which masks needs"):
        convert(boxes, tmp_path / "out", to="masks")
    (tmp_path / "in" / "3.png").unlink()
    broken = open_data(tmp_path / "in" / "a.json")
    with pytest.raises(DataError, match="missing"):
        convert(broken, tmp_path / "out", to="coco")
    conversion = convert(broken, tmp_path / "out", to="coco", skip_bad=True)
    assert (conversion.images, len(conversion.skipped)) == (2, 1)


def test_a_break_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_data(coco(tmp_path / "in", SOLID))
    (tmp_path / "out").mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_umask", full)  # at the very end
    with pytest.raises(ValueError, match=r"No space left on device.*nothing was created"):
        convert(source, tmp_path / "out", to="coco")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert len(turn(source, tmp_path / "out", "coco")[0]) == 3  # an empty folder may be there


def test_the_command(tmp_path: Path) -> None:
    file = coco(tmp_path / "in", [["plain", "hole"]])
    command = ["data", "convert", str(file), str(tmp_path / "out"), "--to", "yolo"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "lost: 1 outlines with holes" in result.output
    assert CliRunner().invoke(app, command).exit_code == 1
    assert CliRunner().invoke(app, ["data", "check", str(tmp_path / "out")]).exit_code == 0


def test_traced_outlines_are_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))) < rng.uniform(0.2, 0.9)
        if not found.any():
            continue
        parts, holes = trace(found, (3, 4))
        whole = np.zeros((14, 15), dtype=bool)
        whole[3 : 3 + found.shape[0], 4 : 4 + found.shape[1]] = found
        for polygons in (parts, [as_one_polygon(parts)]):
            drawn = Masks.from_outlines([polygons], (14, 15))[0]
            assert not (whole & ~drawn).any()
            assert (drawn & ~whole).any() == bool(holes)


def test_a_traced_pixel() -> None:
    parts, holes = trace(np.ones((1, 1), dtype=bool), (2, 5))
    assert [part.tolist() for part in parts] == [[[5, 2], [6, 2], [6, 3], [5, 3]]]
    assert holes == []
    frame = np.ones((3, 3), dtype=bool)
    frame[1, 1] = False
    parts, holes = trace(frame, (0, 0))
    assert (len(parts), len(parts[0]), len(holes)) == (1, 4, 1)


def test_pixels_that_count_as_stored_are_stored_without_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees: the size does not tell
    file = coco(tmp_path / "in", [["plain"]])
    content = json.loads(file.read_text())
    name = content["images"][0]["file_name"]
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(file.parent / name, exif=exif)
    data = open_data(file, reading=Reading(exif="stored"))
    assert_array_equal(data[0].image, pixels)
    convert(data, tmp_path / "out", to="coco")
    assert_array_equal(open_data(tmp_path / "out")[0].image, pixels)
