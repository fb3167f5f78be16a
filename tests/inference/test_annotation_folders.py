"""Predictions as data sets: read back equal, numbered as in objects.csv, continued after a break."""

import csv
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import roifile
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from pycocotools.coco import COCO

from dark import detector
from rcnn.data.check import check
from rcnn.data.dataset import Dataset
from rcnn.data.formats.open import open_data
from rcnn.data.formats.registry import for_predictions
from rcnn.inference.annotation_folders import write_annotations
from rcnn.inference.detector import Detector
from rcnn.inference.output_files import OutputFiles
from rcnn.inference.output_tables import clear_output
from rcnn.inference.writers import Summary, predict_to_files
from rcnn.io.reading import Reading
from rcnn.measuring.prediction import Measuring
from rcnn.structures import Instances, Masks, Skeleton

SIZE = (40, 60)
NAMES = ("light", "dark")
EXACT = ("coco", "masks", "cvat", "label-studio", "geojson", "imagej", "labelme")
FORMATS = tuple(for_predictions())


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    bitmap = np.zeros(SIZE, bool)
    bitmap[top:bottom, left:right] = True
    return bitmap


def ring() -> np.ndarray:
    return rectangle(2, 30, 12, 44) & ~rectangle(5, 34, 8, 40)


def two_parts() -> np.ndarray:
    return rectangle(25, 5, 30, 12) | rectangle(32, 6, 38, 9)


def ragged(seed: int) -> np.ndarray:
    inside = np.random.default_rng(seed).random(SIZE) < 0.6
    return inside & rectangle(10 * seed, 15, 10 * seed + 9, 28)


def found(*bitmaps: np.ndarray, labels: Any = None, **more: Any) -> Instances:
    """Predictions with these masks, tight boxes and falling scores."""
    masks = Masks.from_dense(np.stack(bitmaps)) if bitmaps else Masks.from_dense(np.zeros((0, *SIZE), bool))
    count = len(bitmaps)
    given = np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64)
    scores = np.linspace(0.9, 0.6, count, dtype=np.float32)
    return Instances(SIZE, masks.boxes(), given, scores, masks=masks, class_names=NAMES, **more)


# By the gray of the image. In "a" two objects overlap in 4 x 5 pixels.
PREDICTED = {
    "a": (10, found(rectangle(10, 10, 20, 30), rectangle(16, 25, 24, 40), two_parts(), labels=[1, 0, 1])),
    "b": (20, found()),
    "c": (30, found(ring(), ragged(1), ragged(2), labels=[0, 1, 1])),
}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """A detector that finds what is listed, by the gray of an image's first pixel."""
    by_gray = dict(PREDICTED.values())
    monkeypatch.setattr(
        Detector, "predict", lambda self, images, **_: [by_gray[int(image[0, 0, 0])] for image in images]
    )
    return detector()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (gray, _) in PREDICTED.items():
        Image.fromarray(np.full((*SIZE, 3), gray, np.uint8)).save(folder / f"{name}.png")
    return folder


def predict(model: Detector, photos: Path, out: Path, *to: str, **options: Any) -> Summary:
    return predict_to_files(model, [photos], out, files=OutputFiles(False, to=to), **options)


def opened(folder: Path, key: str) -> dict[str, Instances]:
    """The objects of a data set by the names of its images, once it is checked."""
    data = open_data(folder, format=key)
    report = check(data)
    assert not report.errors, [str(problem) for problem in report.errors]
    assert data.format == open_data(folder).format, "the format is recognised"
    return {record.path.stem: record.load_truth() for record in data.records}


@pytest.mark.parametrize("key", FORMATS)
def test_what_is_written_is_read_back(key: str, model: Detector, photos: Path, tmp_path: Path) -> None:
    """Masks bit for bit where the format has them, else boxes; images without objects are in the data set."""
    predict(model, photos, tmp_path / "out", key)
    back = opened(tmp_path / "out" / key, key)
    assert sorted(back) == ["a", "b", "c"]
    for name, (_, wanted) in PREDICTED.items():
        if key not in ("masks", "labels"):
            assert sorted(back[name].names) == sorted(wanted.names)
        if key in EXACT:
            assert len(back[name]) == len(wanted)
            if len(wanted):
                assert_array_equal(back[name].masks, wanted.masks)
        elif key in ("csv", "voc", "createml"):
            assert_allclose(back[name].boxes, wanted.boxes, atol=1e-4)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_yolo_is_exact_but_for_holes(model: Detector, photos: Path, tmp_path: Path) -> None:
    summary = predict(model, photos, tmp_path / "out", "yolo")
    back = opened(tmp_path / "out" / "yolo", "yolo")
    assert_array_equal(back["a"].masks, PREDICTED["a"][1].masks)
    (hole,) = (iou(back["c"].masks[0], ring()),)  # 140 pixels, 18 of them filled
    assert hole == pytest.approx((140 - 18) / 140)
    assert summary.lost["yolo"] == {"outlines with holes, which are filled": 2}


def test_overlaps_lost_in_label_images_are_counted(model: Detector, photos: Path, tmp_path: Path) -> None:
    summary = predict(model, photos, tmp_path / "out", "labels")
    kinds = {"objects that lose pixels to others": 1, "class names": 2}
    assert summary.lost == {"labels": kinds}
    listed = (tmp_path / "out" / "labels" / "lost.txt").read_text().splitlines()
    # Small objects are drawn over large ones: of 8 x 15 and 10 x 20 pixels, the large one loses 4 x 5.
    assert listed[0] == "objects that lose pixels to others: a.png, object 1 (20 of 200 pixels)"
    (line,) = summary.lost_lines()
    assert line.startswith("labels cannot hold: 1 objects that lose pixels to others, 2 class names; listed")
    with Image.open(tmp_path / "out" / "labels" / "labels" / "a.png") as image:
        numbers = np.asarray(image)
    assert numbers.dtype == np.uint16, "as cellpose, StarDist and napari take them"
    assert sorted(np.unique(numbers)) == [0, 1, 2, 3]
    assert_array_equal(numbers == 2, rectangle(16, 25, 24, 40))
    with Image.open(tmp_path / "out" / "labels" / "labels" / "c.png") as image:
        assert sorted(np.unique(np.asarray(image))) == [0, 4, 5, 6]


def test_programs_read_the_numbers_of_label_images(model: Detector, photos: Path, tmp_path: Path) -> None:
    """Cellpose reads PNG by OpenCV, unchanged; napari and StarDist's examples by scikit-image or tifffile."""
    import cv2

    predict(model, photos, tmp_path / "out", "labels")
    numbers = cv2.imread(str(tmp_path / "out" / "labels" / "labels" / "c.png"), cv2.IMREAD_UNCHANGED)
    assert (numbers.dtype, numbers.shape) == (np.dtype(np.uint16), SIZE)
    assert_array_equal(numbers == 4, ring())


def test_more_objects_than_16_bits_hold_make_32(tmp_path: Path) -> None:
    from rcnn.data.formats.label_image import LabelImageWriter
    from rcnn.data.formats.writer import DroppedContent, Item

    writer = LabelImageWriter(tmp_path, Dataset("", tmp_path, NAMES, []), DroppedContent())
    one = found(rectangle(1, 1, 5, 5))
    writer.write(Item(Path("a.png"), one, (65535,), 1))
    writer.write(Item(Path("b.png"), one, (65536,), 2))
    with Image.open(tmp_path / "labels" / "a.png") as image:
        assert np.asarray(image).max() == 65535
    numbers = tifffile.imread(tmp_path / "labels" / "b.tif")
    assert (numbers.dtype, numbers.max()) == (np.dtype(np.int32), 65536)


def test_an_object_has_its_row_number_everywhere(model: Detector, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(model, photos, out, *FORMATS)
    with (out / "objects.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == [str(number) for number in range(1, 7)]
    in_c = {"4", "5", "6"}
    for content in (out / "predictions.json", out / "coco" / "annotations.json"):
        assert [entry["id"] for entry in json.loads(content.read_text())["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert {path.stem for path in (out / "masks" / "c" / "masks").iterdir()} == {"00004", "00005", "00006"}
    with (out / "csv" / "annotations.csv").open(newline="") as file:
        table = [row for row in csv.DictReader(file) if row["class"]]
    assert [(row["row"], row["class"]) for row in table] == [(k, row["class"]) for k, row in rows.items()]
    assert_allclose([float(row["score"]) for row in table], [float(r["score"]) for r in rows.values()])
    xml = ElementTree.parse(out / "cvat" / "annotations.xml")
    assert [mark.text for mark in xml.iterfind("image/mask/attribute[@name='row']")] == list(rows)
    assert {mask.get("source") for mask in xml.iterfind("image/mask")} == {"auto"}
    shapes = json.loads((out / "labelme" / "c.json").read_text())["shapes"]
    assert {str(shape["group_id"]) for shape in shapes} == in_c
    with zipfile.ZipFile(out / "imagej" / "rois" / "c.zip") as archive:
        assert {str(int(Path(name).stem)) for name in archive.namelist()} == in_c
    rois = roifile.roiread(out / "imagej" / "rois" / "c.zip")
    assert [roi.name for roi in rois] == ["light-4", "dark-5", "dark-6"]
    assert [float(roi.properties["score"]) for roi in rois] == pytest.approx([0.9, 0.75, 0.6])


def test_qupath_gets_detections_with_class_and_score(model: Detector, photos: Path, tmp_path: Path) -> None:
    predict(model, photos, tmp_path / "out", "geojson")
    file = tmp_path / "out" / "geojson" / "annotations" / "c.geojson"
    features = json.loads(file.read_text())["features"]
    assert [feature["properties"] for feature in features] == [
        {
            "objectType": "detection",
            "name": str(number),
            "classification": {"name": name},
            "measurements": {"score": score},
        }
        for number, name, score in ((4, "light", 0.9), (5, "dark", 0.75), (6, "dark", 0.6))
    ]
    outer, hole = features[0]["geometry"]["coordinates"]
    assert outer[0] == outer[-1], "rings are closed"
    assert len(hole) == 5


def test_qupath_gets_what_was_measured(model: Detector, photos: Path, tmp_path: Path) -> None:
    """The numbers of ``measurements.csv``, by its columns."""
    files = OutputFiles(False, to=("geojson", "coco"), measuring=Measuring(kinds=("shape",)))
    predict_to_files(model, [photos], tmp_path / "out", files=files)
    with (tmp_path / "out" / "measurements.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    content = json.loads((tmp_path / "out" / "geojson" / "annotations" / "c.geojson").read_text())
    for feature in content["features"]:
        row = rows[feature["properties"]["name"]]
        found = feature["properties"]["measurements"]
        assert found.keys() > {"score"}
        assert all(found[name] == float(row[name]) for name in found.keys() - {"score"})
        area = next(name for name in found if name.startswith("area"))
        assert found[area] > 0
    assert len(content["features"]) == 3


def test_label_studio_gets_predictions(model: Detector, photos: Path, tmp_path: Path) -> None:
    """Pre-annotations with scores; once a task is annotated, the others are not read as truth."""
    predict(model, photos, tmp_path / "out", "label-studio")
    file = tmp_path / "out" / "label-studio" / "label_studio.json"
    tasks = json.loads(file.read_text())
    assert ["annotations" in task for task in tasks] == [False] * 3
    (third,) = tasks[2]["predictions"]
    assert third["score"] == pytest.approx(0.75)
    assert [region["score"] for region in third["result"]] == pytest.approx([0.9, 0.75, 0.6])
    assert [region["id"] for region in third["result"]] == ["4", "5", "6"]
    assert all(re.fullmatch(r"/data/local-files/\?d=images/.\.png", task["data"]["image"]) for task in tasks)
    (problem,) = [p for p in open_data(file).problems if "predictions" in p.what]
    assert "No task is annotated yet" in problem.what
    tasks[0]["annotations"] = [{"id": 1, "result": tasks[0]["predictions"][0]["result"]}]
    file.write_text(json.dumps(tasks))
    data = open_data(file)
    assert [record.path.stem for record in data.records] == ["a"]
    assert any("2 tasks are not annotated" in problem.what for problem in data.problems)


def test_pycocotools_reads_masks_bit_for_bit(model: Detector, photos: Path, tmp_path: Path) -> None:
    predict(model, photos, tmp_path / "out", "coco")
    coco = COCO(tmp_path / "out" / "coco" / "annotations.json")
    masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds())]
    wanted = [*PREDICTED["a"][1].masks.dense(), *PREDICTED["c"][1].masks.dense()]
    assert_array_equal(masks, wanted)


def test_keypoints_become_visible_where_their_logit_is_positive(
    model: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = np.array([[[12.5, 11.5, 3.25], [20.5, 15.5, -2.0]]], np.float32)
    pose = found(rectangle(10, 10, 20, 30), keypoints=points, skeleton=Skeleton(("nose", "tail")))
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [pose])
    posed = replace(model, skeleton=pose.skeleton)
    predict(posed, photos, tmp_path / "out", "coco", "yolo", "label-studio", "labelme")
    for key, seen in (("coco", 1), ("yolo", 1), ("label-studio", 2), ("labelme", 2)):
        back = opened(tmp_path / "out" / key, key)["a"]
        assert_allclose(back.keypoints, [[[12.5, 11.5, 2], [20.5, 15.5, seen]]], atol=1e-3, err_msg=key)
    first = json.loads((tmp_path / "out" / "coco" / "annotations.json").read_text())["annotations"][0]
    assert first["keypoint_scores"] == [3.25, -2.0]


def stop_after(count: int) -> Any:
    def progress(done: int, of: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def contents(out: Path) -> dict[str, bytes]:
    """All files; of archives the members, whose times differ."""
    files: dict[str, bytes] = {}
    for path in (path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                files |= {f"{name}/{member}": archive.read(member) for member in archive.namelist()}
        else:
            files[name] = path.read_bytes()
    return files


def test_a_stopped_prediction_keeps_what_is_done_and_is_continued(
    model: Detector, photos: Path, tmp_path: Path
) -> None:
    """The law of ``rcnn.inference.output_tables``, for every format."""
    predict(model, photos, tmp_path / "whole", *FORMATS)
    for count in (1, 2):
        out = tmp_path / str(count)
        with pytest.raises(KeyboardInterrupt):
            predict(model, photos, out, *FORMATS, progress=stop_after(count))
        for key in FORMATS:
            assert sorted(opened(out / key, key)) == ["a", "b"][:count], "what is done is a data set"
        predict(model, photos, out, *FORMATS)
        assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_prediction_is_continued(model: Detector, photos: Path, tmp_path: Path) -> None:
    """After a kill files are not completed, hold half an image, or are those of an image that is not done."""
    predict(model, photos, tmp_path / "whole", *FORMATS)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict(model, photos, out, *FORMATS, progress=stop_after(1))
    journal = (out / ".progress.jsonl").read_text().splitlines()
    for name in json.loads(journal[-1])["sizes"]:
        path = out / name
        path.with_name(f".{path.name}.part").write_bytes(path.read_bytes() + b"\n[half of")
        path.unlink()
    (out / "labels" / "labels" / "b.png").write_bytes(b"half an image")
    (out / "imagej" / "images" / "b.png").write_bytes(b"half an image")
    (out / "run.json").unlink()
    predict(model, photos, out, *FORMATS)
    assert contents(out) == contents(tmp_path / "whole")


def test_an_image_that_a_format_cannot_take_is_left_out_of_it_alone(
    model: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcnn.data.formats.coco import CocoWriter

    text = CocoWriter.text

    def failing(self: CocoWriter, item: Any) -> str:
        if item.image.stem == "a":
            raise RuntimeError("no room")
        return text(self, item)

    monkeypatch.setattr(CocoWriter, "text", failing)
    summary = predict(model, photos, tmp_path / "out", "coco", "cvat")
    assert summary.failed == ("a.png: its annotation as coco was not written: no room",)
    assert sorted(opened(tmp_path / "out" / "coco", "coco")) == ["b", "c"]
    assert sorted(opened(tmp_path / "out" / "cvat", "cvat")) == ["a", "b", "c"]


def test_images_are_copied_once_or_not_at_all(model: Detector, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict(model, photos, out, "coco", "labels")
    copies = [out / key / "images" / "a.png" for key in ("coco", "labels")]
    assert copies[0].samefile(copies[1])
    assert not copies[0].samefile(photos / "a.png"), "the user's own file is no part of the output"
    bare = tmp_path / "bare"
    predict_to_files(model, [photos], bare, files=OutputFiles(False, to=("coco",), copy_images=False))
    assert not (bare / "coco" / "images").exists()
    data = open_data(bare / "coco", images=photos)
    assert [len(record.truth) for record in data.records] == [3, 0, 3]
    (photos / "deeper").mkdir()
    Image.open(photos / "a.png").save(photos / "deeper" / "a.png")
    with pytest.raises(ValueError, match=r"its copy would be called a_2\.png"):
        predict_to_files(model, [photos], tmp_path / "x", files=OutputFiles(to=("coco",), copy_images=False))
    predict(model, photos, tmp_path / "copied", "coco")
    assert sorted(opened(tmp_path / "copied" / "coco", "coco")) == ["a", "a_2", "b", "c"]


def test_images_predicted_as_stored_are_written_as_stored(model: Detector, tmp_path: Path) -> None:
    """What is turned by EXIF elsewhere would not fit its masks."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.full((*SIZE, 3), 10, np.uint8)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    stored = model.with_reading(Reading(exif="stored"))
    predict_to_files(stored, [tmp_path / "a.jpg"], tmp_path / "out", files=OutputFiles(False, to=("coco",)))
    (truth,) = opened(tmp_path / "out" / "coco", "coco").values()
    assert truth.size == SIZE


def test_overwriting_removes_the_folders_that_were_written_and_no_others(
    model: Detector, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(model, photos, out, "coco", "labels")
    (out / "yolo").mkdir()
    (out / "yolo" / "mine.txt").touch()
    predict(model, photos, out, "cvat", overwrite=True)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"cvat", "yolo"}
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "folders": ["../photos", "..", 3]}))
    clear_output(out)
    assert (photos / "a.png").exists(), "only folders inside"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("cocoo", r"--to cocoo: did you mean coco\? expected one of coco, voc, "),
        ("cellpose", r"--to cellpose: expected one of|--to cellpose: did you mean"),
    ],
)
def test_formats_that_cannot_be_written_are_refused(to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutputFiles(to=(to,))


def test_formats_have_other_spellings_and_count_once() -> None:
    assert OutputFiles(to=("labelstudio", "label-studio", "coco")).to == ("label-studio", "coco")


def test_boxes_alone_are_refused_for_formats_of_outlines(
    model: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = replace(PREDICTED["a"][1], masks=None)
    monkeypatch.setattr(Detector, "predict", lambda self, image, **_: [boxes])
    with pytest.raises(
        ValueError, match=r"--to labels: this format holds outlines, and the model finds boxes"
    ):
        predict(model, photos, tmp_path / "out", "labels")
    predict(model, photos, tmp_path / "boxes", *(key for key in FORMATS if key not in ("labels", "masks")))
    for key in ("yolo", "labelme", "cvat", "label-studio", "imagej"):
        back = opened(tmp_path / "boxes" / key, key)
        assert_allclose(back["a"].boxes, boxes.boxes, atol=1e-3, err_msg=key)
        assert back["a"].masks is None


def test_a_custom_format_is_written_into_a_folder_of_its_name(
    model: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that knows nothing of predictions, named by its dotted path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "counting_format.py").write_text(COUNTS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    summary = predict(model, photos, tmp_path / "out", "counting_format:Counts")
    assert {p.name: p.read_text() for p in (tmp_path / "out" / "counts").glob("*.txt")} == {
        "a.txt": "3", "b.txt": "0", "c.txt": "3", "all.txt": "light 2, dark 4", "lost.txt": OUTLINES,
    }  # fmt: skip
    assert summary.lost == {"counts": {"outlines": 6}}


COUNTS = """
from rcnn.data.formats.writer import Writer


class CountWriter(Writer):
    def write(self, item):
        (self.folder / f"{item.image.stem}.txt").write_text(str(len(item.truth)))

    def finish(self):
        listed = (f"{name} {self.counts[name]}" for name in self.dataset.class_names)
        (self.folder / "all.txt").write_text(", ".join(listed))


class Counts:
    name = "counts"
    read = print
    write = CountWriter
"""
OUTLINES = "".join(
    f"outlines: {name}.png, object {number}\n" for name, number in zip("aaaccc", range(1, 7), strict=True)
)


def test_names_that_a_format_cannot_hold_are_refused_before_anything_is_written(
    model: Detector, tmp_path: Path
) -> None:
    Image.fromarray(np.full((*SIZE, 3), 10, np.uint8)).save(tmp_path / "a#1.png")
    with pytest.raises(ValueError, match="--to label-studio cannot hold"):
        predict(model, tmp_path, tmp_path / "out", "labelstudio")
    assert not (tmp_path / "out").exists()


def test_pixel_classes_alone_are_no_annotations(model: Detector, photos: Path, tmp_path: Path) -> None:
    semantic = replace(model, class_names=(), semantic_names=("sky", "road"))
    with pytest.raises(ValueError, match="--to coco: the model finds no objects, only classes of pixels"):
        predict(semantic, photos, tmp_path / "out", "coco")


def test_objects_in_python_are_written_alike(photos: Path, tmp_path: Path) -> None:
    """``write_annotations``: from files or arrays, numbered over all images."""
    listed = [replace(one, path=photos / f"{name}.png") for name, (_, one) in PREDICTED.items()]
    conversion = write_annotations(listed, tmp_path / "out", to="labels")
    assert (conversion.images, conversion.objects) == (3, 6)
    assert conversion.lost["objects that lose pixels to others"] == ["a.png, object 1 (20 of 200 pixels)"]
    with Image.open(tmp_path / "out" / "labels" / "c.png") as image:
        assert sorted(np.unique(np.asarray(image))) == [0, 4, 5, 6]
    pixels = [np.full((*SIZE, 3), gray, np.uint8) for gray, _ in PREDICTED.values()]
    bare = [one for _, one in PREDICTED.values()]
    write_annotations(bare, tmp_path / "arrays", to="coco", images=pixels)
    data = open_data(tmp_path / "arrays")
    assert [len(record.truth) for record in data.records] == [3, 0, 3]
    assert_array_equal(data.records[2].load_image(), pixels[2])
    with pytest.raises(ValueError, match=r"found\[0\]: its image is not known"):
        write_annotations(bare, tmp_path / "x")
    with pytest.raises(ValueError, match="images: 2 for the objects of 3"):
        write_annotations(bare, tmp_path / "x", images=pixels[:2])
