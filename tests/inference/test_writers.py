"""The files made of predictions: overlays, COCO results, tables."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dark import BOX, detector, picture, picture_file
from rcnn.inference import pictures, writers
from rcnn.inference.detector import Detector
from rcnn.inference.exported import ExportedDetector
from rcnn.inference.output_files import OutputFiles
from rcnn.inference.pictures import overlay_names
from rcnn.inference.sources import find_images
from rcnn.inference.writers import predict_to_files
from rcnn.io.reading import ImageError
from rcnn.structures import OBJECT_COLUMNS, Instances, Masks


def predictions(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    return content


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_folder_becomes_overlays_and_tables(tmp_path: Path) -> None:
    folder = tmp_path / "in put"
    (folder / "b").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "b" / "zwei ä.png")
    Image.fromarray(picture(dark=False)).save(folder / "empty.tif")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 this is no picture")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    calls: list[tuple[int, int]] = []
    out = folder / "out"
    exact = replace(detector(), precision="float32")
    summary = predict_to_files(exact, [folder], out, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (summary.images, summary.counts) == (2, {"light": 0, "dark": 1})
    assert len(summary.failed) == 1
    assert "broken.jpg" in summary.failed[0]
    content = predictions(out)
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, "b/zwei ä.png"), (3, "empty.tif")]
    assert [c["name"] for c in content["categories"]] == ["light", "dark"]
    (entry,) = content["annotations"]
    assert [entry[key] for key in ("id", "image_id", "category_id", "score", "area")] == [1, 1, 2, 0.75, 400]
    corners = np.array(entry["segmentation"][0], np.float64).reshape(-1, 2)
    assert_allclose(Masks.from_outlines([[corners]], (40, 60)).boxes(), BOX)
    assert rows(out / "objects.csv")[1:] == [
        [
            "1",
            "b/zwei ä.png",
            "dark",
            "0.7500",
            "10.00",
            "20.00",
            "30.00",
            "40.00",
            "400.00",
            "20.00",
            "30.00",
        ]
    ]
    assert rows(out / "counts.csv") == [
        ["image", "class", "count"],
        ["b/zwei ä.png", "light", "0"],
        ["b/zwei ä.png", "dark", "1"],
        ["empty.tif", "light", "0"],
        ["empty.tif", "dark", "0"],
    ]
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert written == [
        "counts.csv", "objects.csv", "overlays/b/zwei ä.png", "overlays/empty.png", "predictions.json",
        "run.json",
    ]  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    assert (run["precision"], run["min_score"], run["images"]) == ("float32", 0.5, 2)
    assert summary.precision == "float32"
    again = predict_to_files(detector(), [folder], out, overwrite=True)
    assert again.images == 2, "what an earlier run wrote must not be taken for input"


def test_overlays_have_the_size_of_their_images_and_the_numbers_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Image.fromarray(picture()).save(tmp_path / f"{name}.png")
    numbers: list[list[int]] = []
    overlay = Instances.overlay

    def spy(self: Instances, *given: Any, **options: Any) -> Any:
        numbers.append(options["numbers"])
        return overlay(self, *given, **options)

    monkeypatch.setattr(Instances, "overlay", spy)
    predict_to_files(detector(), [tmp_path], tmp_path / "out")
    assert [row[:2] for row in rows(tmp_path / "out" / "objects.csv")[1:]] == [["1", "a.png"], ["2", "b.png"]]
    assert numbers == [[1], [2]]
    with Image.open(tmp_path / "out" / "overlays" / "b.png") as image:
        assert image.size == (60, 40)


def test_overlays_can_be_larger_jpegs_or_left_out(tmp_path: Path) -> None:
    path = picture_file(tmp_path)
    predict_to_files(
        detector(), [path], tmp_path / "large", files=OutputFiles(overlay_scale=3, overlay_format="jpg")
    )
    (file,) = (tmp_path / "large" / "overlays").iterdir()
    assert file.name == f"{path.stem}.jpg"
    with Image.open(file) as image:
        assert (image.format, image.size) == ("JPEG", (180, 120))
    predict_to_files(detector(), [path], tmp_path / "none", files=OutputFiles(overlays=False))
    assert not (tmp_path / "none" / "overlays").exists()
    assert len(rows(tmp_path / "none" / "objects.csv")) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"overlay_scale": 0}, "overlay_scale is 0: expected a whole number from 1 on"),
        ({"overlay_scale": 1.5}, "overlay_scale is 1.5: expected"),
        ({"overlay_format": "jpeg"}, r"'jpeg': did you mean jpg\? expected one of png, jpg"),
    ],
)
def test_overlays_that_cannot_be_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutputFiles(**given)


def test_without_a_folder_results_go_to_the_next_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("a.png")
    for name in ("found", "found-2", "found-3"):
        summary = predict_to_files(detector(), ["."])
        assert summary.out == Path(name)
        assert summary.images == 1, "pictures of earlier predictions are no input"
    given = predict_to_files(detector(), ["found/overlays"], "again")
    assert given.images == 1, "unless they are named"


def test_a_run_json_of_another_program_hides_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "run"
    folder.mkdir(parents=True)
    for content in ("{}", "[]", "no json", '{"rcnn": 1}'):
        (folder / "run.json").write_text(content)
        Image.fromarray(picture()).save(folder / "a.png")
        assert list(find_images([folder.parent])) == ["run/a.png"]


def test_no_images_found_still_makes_valid_tables(tmp_path: Path) -> None:
    Image.fromarray(picture(dark=False)).save(tmp_path / "a.png")
    predict_to_files(detector(masks=False), [tmp_path / "a.png"], tmp_path / "out")
    content = predictions(tmp_path / "out")
    assert content["annotations"] == []
    assert content["images"] == [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}]
    predict_to_files(
        detector(masks=False), [tmp_path / "a.png"], tmp_path / "bare", files=OutputFiles(results_only=True)
    )
    assert predictions(tmp_path / "bare") == []
    assert rows(tmp_path / "out" / "objects.csv") == [list(OBJECT_COLUMNS)]


def stop_after(count: int, error: BaseException) -> Any:
    def progress(done: int, of: int) -> None:
        if done == count:
            raise error

    return progress


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def five(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abcde":
        Image.fromarray(picture()).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), OSError("full"), ValueError("any")])
def test_whatever_stops_it_what_is_done_is_kept_and_the_same_call_continues(
    error: BaseException, five: Path, tmp_path: Path
) -> None:
    """The law of ``rcnn.inference.output_tables``, for each number of images done."""
    whole = predict_to_files(detector(), [five], tmp_path / "whole")
    for count in range(1, 6):
        out = tmp_path / str(count)
        with pytest.raises(type(error)):
            predict_to_files(detector(), [five], out, progress=stop_after(count, error))
        done = [image["file_name"] for image in predictions(out)["images"]]
        assert done == [f"{name}.png" for name in "abcde"[:count] if name != "c"]
        assert {name for name, *_ in rows(out / "counts.csv")[1:]} == set(done)
        assert not json.loads((out / "run.json").read_text())["finished"]
        assert not find_images([tmp_path / "in"], exclude=out).keys() & {"overlays"}
        continued = predict_to_files(detector(), [five], out)
        assert (continued.counts, continued.images) == (whole.counts, whole.images)
        assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Images of three sizes, in turn, and one that is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(23):
        pixels = picture(dark=i % 4 != 1)
        Image.fromarray(pixels[: 40 - 8 * (i % 3)]).save(folder / f"{i:02}.png")
    (folder / "07.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("to", [(), ("coco", "labels")])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_what_overlaps_and_is_batched_writes_what_one_after_the_other_writes(
    to: tuple[str, ...], batch_size: int, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = OutputFiles(to=to)
    with monkeypatch.context() as changed:
        changed.setattr(writers, "ahead", lambda pool, work, items, depth, **_: map(work, items))
        one_by_one = predict_to_files(detector(), [many], tmp_path / "one", files=files)
    monkeypatch.setattr(Detector, "batch_size", batch_size)
    overlapping = predict_to_files(detector(), [many], tmp_path / "overlapping", files=files)
    assert replace(one_by_one, out=overlapping.out) == overlapping
    assert overlapping.images == 22
    assert contents(tmp_path / "overlapping") == contents(tmp_path / "one")


def test_images_of_one_size_share_a_batch_where_that_is_usual(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "batch_size", 4)
    seen: list[int] = []
    found = Detector.find

    def counted(self: Detector, images: Any, request: Any) -> Any:
        seen.append(len(images))
        return found(self, images, request)

    monkeypatch.setattr(Detector, "find", counted)
    predict_to_files(detector(), [many], tmp_path / "out")
    assert sum(seen) == 22
    assert max(seen) == 4
    assert len(seen) < 12


def test_a_batch_that_fails_is_predicted_image_by_image(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_to_files(detector(), [many], tmp_path / "whole")
    monkeypatch.setattr(Detector, "batch_size", 4)
    found = Detector.find

    def fails_together(self: Detector, images: Any, request: Any) -> Any:
        if len(images) > 1:
            raise RuntimeError("out of memory")
        return found(self, images, request)

    monkeypatch.setattr(Detector, "find", fails_together)
    predict_to_files(detector(), [many], tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_ctrl_c_while_the_network_computes_keeps_what_is_ready_and_leaves_no_part(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Detector.predict
    calls: list[int] = []

    def interrupted(self: Detector, images: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:
            time.sleep(0.5)  # threads are ready with the images before
            raise KeyboardInterrupt
        return found(self, images, **how)

    monkeypatch.setattr(Detector, "predict", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_to_files(detector(), [many], out)
    assert len(predictions(out)["images"]) == 8
    assert not list(out.rglob("*.part"))
    monkeypatch.undo()
    predict_to_files(detector(), [many], out)
    predict_to_files(detector(), [many], tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_killed_prediction_is_continued(five: Path, tmp_path: Path) -> None:
    """After a kill the tables are not completed, and may hold half an image."""
    predict_to_files(detector(), [five], tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_to_files(detector(), [five], out, progress=stop_after(2, KeyboardInterrupt()))
    for name in ("predictions.json", "objects.csv", "counts.csv"):
        (out / f".{name}.part").write_bytes((out / name).read_bytes() + b"\n[half of")
        (out / name).unlink()
    with (out / ".progress.jsonl").open("ab") as file:
        file.write(b'{"image": "d.png", "si')
    (out / "run.json").unlink()
    assert not find_images([out.parent]).keys() & {f"{out.parent.name}/out/overlays/a.png"}
    predict_to_files(detector(), [five], out)
    assert contents(out) == contents(tmp_path / "whole")


def test_another_command_is_refused_in_a_folder_that_is_not_empty(five: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_to_files(detector(), [five], out, progress=stop_after(2, KeyboardInterrupt()))
    before = contents(out)
    for other in ({"min_score": 0.9}, {"max_detections": 1}, {"files": OutputFiles(overlay_scale=2)}):
        with pytest.raises(ValueError, match=r"an unfinished prediction of another command; .*--overwrite"):
            predict_to_files(detector(), [five], out, **other)
    with pytest.raises(ValueError, match="another command"):
        predict_to_files(detector(), [five / "a.png"], out)
    assert {k: v for k, v in contents(out).items() if not k.startswith(".")} == {
        k: v for k, v in before.items() if not k.startswith(".")
    }
    (out / "notes.txt").write_text("mine")
    predict_to_files(detector(), [five / "a.png"], out, overwrite=True)
    assert sorted(path.name for path in (out / "overlays").iterdir()) == ["a.png"], "no old overlays"
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"a finished prediction; .*--overwrite"):
        predict_to_files(detector(), [five / "a.png"], out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match=r"there are other files; .*--overwrite"):
        predict_to_files(detector(), [five], tmp_path / "mine")


def test_one_image_or_one_overlay_does_not_end_the_others(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders raise anything; a name may be too long for an overlay's, or an overlay impossible."""
    read = writers.read_image

    def decoders(path: Path, **how: Any) -> Any:
        if path.name == "a.png":
            raise struct.error("a decoder of its own kind")
        return read(path, **how)

    draw = pictures.write_image

    def draws(image: Any, path: Path) -> Path:
        if path.name == "b.png":
            raise OSError(errno.ENAMETOOLONG, "too long", ".b.png.part")
        return draw(image, path)

    monkeypatch.setattr(writers, "read_image", decoders)
    monkeypatch.setattr(pictures, "write_image", draws)
    summary = predict_to_files(detector(), [five], tmp_path / "out")
    assert summary.images == 3
    first, second, third = summary.failed
    assert first == f"{five / 'a.png'}: error: a decoder of its own kind"
    assert "c.png" in second
    assert third == "b.png: its overlay was not written: too long"
    assert {name for name, *_ in rows(tmp_path / "out" / "counts.csv")[1:]} == {"b.png", "d.png", "e.png"}


def test_a_full_disk_stops_it_and_names_the_image(
    five: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = pictures.write_image

    def full(image: Any, path: Path) -> Path:
        if path.name == "d.png":
            raise OSError(errno.ENOSPC, "No space left on device", ".d.png.part")
        return draw(image, path)

    monkeypatch.setattr(pictures, "write_image", full)
    with pytest.raises(
        OSError, match=r"No space left .*; free some space .*same command.*d\.png: its overlay"
    ):
        predict_to_files(detector(), [five], tmp_path / "out")
    monkeypatch.undo()
    predict_to_files(detector(), [five], tmp_path / "out")
    predict_to_files(detector(), [five], tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_predict_keeps_the_good_ones(five: Path) -> None:
    good, bad = five / "a.png", five / "c.png"
    for size in (1, 2, 8):
        with pytest.raises(ImageError, match=r"c\.png"):
            detector().predict([good, bad, good], batch_size=size)
        with pytest.warns(UserWarning, match=r"skipped: .*c\.png") as warned:
            found = detector().predict([good, bad, good], batch_size=size, on_error="skip")
        assert len(warned) == 1
        assert [one is None for one in found] == [False, True, False]
        assert found[0] is not None
        assert len(found[0]) == len(detector().predict(good)[0])
    with pytest.raises(ValueError, match=r"image 2 of 2: "):
        detector().predict([picture(), np.zeros((4, 4, 7), np.uint8)])
    with pytest.raises(ValueError, match=r"on_error 'ignore': expected raise or skip"):
        detector().predict([good], on_error="ignore")  # type: ignore[call-overload]


def test_two_predictions_do_not_share_a_folder(five: Path, tmp_path: Path) -> None:
    def second(done: int, of: int) -> None:
        with pytest.raises(ValueError, match="already writing to this prediction"):
            predict_to_files(detector(), [five], tmp_path / "out")

    assert predict_to_files(detector(), [five], tmp_path / "out", progress=second).images == 4


def test_names_of_any_bytes_and_of_any_length(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "n" * 250 + ".png"]
    for name in names:
        Image.fromarray(picture()).save(tmp_path / name)
    out = tmp_path / "out"
    assert predict_to_files(detector(), [tmp_path], out).images == 2
    assert {image["file_name"] for image in predictions(out)["images"]} == set(names)
    assert len(list((out / "overlays").iterdir())) == 2
    text = (out / "objects.csv").read_text(encoding="utf-8", errors="surrogateescape")
    assert all(name in text for name in names)


@pytest.mark.parametrize("out", [".", "in"])
def test_results_above_the_images_are_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(picture()).save(tmp_path / "in" / "a.png")
    with pytest.raises(ValueError, match=r"in: these images are in the output folder .*; choose another"):
        predict_to_files(detector(), [tmp_path / "in"], tmp_path / out)
    for overwrite in (False, True):
        out_in = tmp_path / "in" / "found"
        assert predict_to_files(detector(), [tmp_path / "in"], out_in, overwrite=overwrite).images == 1


def test_images_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/1/a.png", "x/2/a.png", "y/1/a.png", "y/1/b.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    x1, x2, y1 = tmp_path / "x/1", tmp_path / "x/2", tmp_path / "y/1"
    found = find_images([x1, x2, y1, x1 / "a.png", tmp_path / "y"])
    assert found == {
        "a.png": x1 / "a.png",
        "2/a.png": x2 / "a.png",
        "1/a.png": y1 / "a.png",
        "b.JPG": y1 / "b.JPG",
    }
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "A.png").touch()
    assert list(find_images([x1, tmp_path / "z"])) == ["a.png", "z/A.png"]
    assert overlay_names(["a.png", "a.JPG", "b/a.png", "c.jpg", "a"]) == {
        "a.png": "a.png.png",
        "a.JPG": "a.JPG.png",
        "b/a.png": "b/a.png",
        "c.jpg": "c.png",
        "a": "a.png",
    }


def test_true_masks_of_a_data_set_are_not_its_images(tmp_path: Path) -> None:
    names = ("1/images/1.png", "1/masks/1.png", "2/images/2.png", "2/masks/2.png", "labels/a.png")
    for name in (*names, "VOC2007/JPEGImages/3.jpg", "VOC2007/SegmentationObject/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(find_images([tmp_path])) == {
        "1/images/1.png", "2/images/2.png", "VOC2007/JPEGImages/3.jpg", "labels/a.png",
    }  # fmt: skip
    assert set(find_images([tmp_path / "1/masks"])) == {"1.png"}, "asked for by name"


def test_missing_inputs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("nowhere: no such image or folder")):
        predict_to_files(detector(), [tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no images in this folder; looked for \.avif"):
        predict_to_files(detector(), [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def coco_file(folder: Path, images: dict[int, str]) -> Path:
    """Annotations of :func:`picture` under each name, with ids that are no positions."""
    x1, y1, x2, y2 = BOX[0].tolist()
    corners = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    annotation = {"category_id": 17, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 400, "iscrowd": 0}
    content = {
        "info": {},
        "images": [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in images.items()],
        "categories": [{"id": 5, "name": "light"}, {"id": 17, "name": "dark"}],
        "annotations": [
            {**annotation, "id": n, "image_id": i, "segmentation": corners} for n, i in enumerate(images, 1)
        ],
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    return file


def test_pycocotools_accepts_predictions_against_the_file_of_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture()).save(folder / name)
    file = coco_file(tmp_path, {42: "a.png", 7: "elsewhere/b.png"})
    trained = replace(detector(), info={"category_ids": [5, 17]})
    predict_to_files(
        trained, [folder], tmp_path / "out", image_ids=file, files=OutputFiles(results_only=True)
    )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "predictions.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    predict_to_files(trained, [folder], tmp_path / "whole", image_ids=file)
    assert [image["id"] for image in predictions(tmp_path / "whole")["images"]] == [42, 7]
    entries += predictions(tmp_path / "whole")["annotations"]
    assert {(e["image_id"], e["category_id"]) for e in entries} == {(42, 17), (7, 17)}
    assert {row[1] for row in rows(tmp_path / "out" / "objects.csv")[1:]} == {"a.png", "b.png"}


def test_images_that_the_file_does_not_list_are_named(tmp_path: Path) -> None:
    path = picture_file(tmp_path)
    with pytest.raises(ValueError, match=r"truth\.json: does not list ein bild\.png"):
        predict_to_files(detector(), [path], tmp_path / "out", image_ids=coco_file(tmp_path, {1: "x.png"}))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture()).save(tmp_path / name / "x.png")
    listing = coco_file(tmp_path, {1: "x.png"})
    with pytest.raises(ValueError, match=r"x\.png and two/x\.png both match its image 1; pass only one"):
        predict_to_files(
            detector(), [tmp_path / "one", tmp_path / "two"], tmp_path / "out", image_ids=listing
        )
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match=r"bad\.json: expected a COCO file"):
        predict_to_files(detector(), [path], tmp_path / "out", image_ids=tmp_path / "bad.json")


def test_an_exported_file_writes_the_same_files_without_torch(tmp_path: Path) -> None:
    path = picture_file(tmp_path)
    own = replace(detector(), precision="float32")
    predict_to_files(own, [path], tmp_path / "network")

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        none = np.zeros(1, np.int64)
        maps = np.ones((1, 28, 28), np.float32)
        return {
            "boxes": BOX, "labels": none + 1, "scores": np.array([0.75], np.float32), "image_index": none,
            "mask_maps": maps,
        }  # fmt: skip

    info = own.describe() | {"max_detections": 100, "candidates": 100}
    predict_to_files(ExportedDetector(run, info), [path], tmp_path / "exported")
    names = sorted(p.relative_to(tmp_path / "network") for p in (tmp_path / "network").rglob("*.*"))
    assert names == sorted(p.relative_to(tmp_path / "exported") for p in (tmp_path / "exported").rglob("*.*"))
    for name in names:
        assert (tmp_path / "network" / name).read_bytes() == (tmp_path / "exported" / name).read_bytes(), name


def test_images_with_as_many_objects_as_are_reported_are_named(tmp_path: Path) -> None:
    path = picture_file(tmp_path)
    assert predict_to_files(detector(), [path], tmp_path / "a").full == ()
    assert predict_to_files(detector(), [path], tmp_path / "b", max_detections=1).full == (path.name,)


def test_it_is_imported_without_torch() -> None:
    code = "import sys, rcnn.inference.writers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
