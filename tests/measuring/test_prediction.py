"""``rcnn predict --measure``: tables, page and overlays, the same after an interruption."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from dark import detector, picture
from rcnn import cli
from rcnn.draw import IGNORED
from rcnn.inference.output_files import OutputFiles
from rcnn.inference.writers import predict_to_files
from rcnn.measuring import prediction
from rcnn.measuring.colouring import Colouring
from rcnn.measuring.prediction import Measuring

ROWS = ("measurements.csv", "summary.csv", "objects.csv")


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def images(folder: Path) -> Path:
    """Three pictures, of which the second has no object; the black rectangle has 20 by 20 pixels."""
    folder.mkdir()
    for name, dark in (("a", True), ("b", False), ("c", True)):
        Image.fromarray(picture(dark=dark)).save(folder / f"{name}.png")
    return folder


def run(folder: Path, out: Path, found: Any = None, **settings: Any) -> Any:
    files = OutputFiles(measuring=Measuring(**settings))
    return predict_to_files(found or detector(), [folder], out, files=files)


def test_every_output_has_the_same_rows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(images(tmp_path / "in"), out, pixel_size="0.5um").pixel_size == "0.5 µm (given)"
    rows = table(out / "measurements.csv")
    assert (
        [(row["row"], row["image"], row["class"]) for row in rows]
        == [(row["row"], row["image"], row["class"]) for row in table(out / "objects.csv")]
        == [("1", "a.png", "dark"), ("2", "c.png", "dark")]
    )
    assert [row["area_um2"] for row in rows] == ["100", "100"]
    assert [row["intensity_max_red"] for row in rows] == ["0", "0"]
    assert [row["intensity_corrected_red"] for row in rows] == ["-255", "-255"]
    assert [row["at_border"] for row in rows] == ["1", "1"]
    summary = table(out / "summary.csv")
    counts = {(row["image"], row["class"]): row["count"] for row in summary}
    assert counts == {
        (f"{name}.png", label): str(int(label == "dark" and name != "b"))
        for name in "abc"
        for label in ("light", "dark")
    }
    # 40 by 60 pixels of 0.5 µm are 0.0006 mm².
    assert max(float(row["density_per_mm2"]) for row in summary) == pytest.approx(1 / 0.0006, rel=1e-5)
    page = (out / "measurements.html").read_text(encoding="utf-8")
    assert "area, µm²" in page
    assert not re.search(r"<script|<link|src=.http|url\(.?http", page), "the page needs no network"
    said = json.loads((out / "run.json").read_text())["measuring"]
    assert (said["pixel_size"], said["background"]) == ("0.5um", "ring")


def test_what_was_interrupted_and_continued_is_what_was_not(tmp_path: Path, monkeypatch: Any) -> None:
    folder, whole, parts = images(tmp_path / "in"), tmp_path / "whole", tmp_path / "parts"
    settings = {"pixel_size": "1um", "colour_by": "area"}
    run(folder, whole, **settings)
    seen = []

    def stop(done: int, of: int) -> None:
        seen.append(done)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_files(
            detector(), [folder], parts, files=OutputFiles(measuring=Measuring(**settings)), progress=stop
        )
    assert len(table(parts / "measurements.csv")) == 1
    run(folder, parts, **settings)
    for name in (*ROWS, "measurements.html", "overlays/c.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_what_was_ended_between_the_tables_and_the_page_is_completed(
    tmp_path: Path, monkeypatch: Any
) -> None:
    folder, whole, out = images(tmp_path / "in"), tmp_path / "whole", tmp_path / "out"
    run(folder, whole, pixel_size="1um")

    def end(*_: Any, **__: Any) -> None:
        assert (out / "measurements.csv").is_file()
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(prediction, "write_page", end)
        with pytest.raises(SystemExit):
            run(folder, out, pixel_size="1um")
    assert not (out / "measurements.html").exists()
    summary = run(folder, out, pixel_size="1um")
    assert (summary.images, summary.counts) == (3, {"light": 0, "dark": 2})
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    for name in (*ROWS, "measurements.html", "run.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    with pytest.raises(ValueError, match="finished prediction"):
        run(folder, out, pixel_size="1um")


def test_an_interrupted_prediction_goes_on_only_with_the_same_measurements(tmp_path: Path) -> None:
    folder, out = images(tmp_path / "in"), tmp_path / "out"

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_to_files(detector(), [folder], out, files=OutputFiles(measuring=Measuring()), progress=stop)
    with pytest.raises(ValueError, match="unfinished prediction of another command"):
        run(folder, out, pixel_size="2um")


def test_another_prediction_removes_the_measurements(tmp_path: Path) -> None:
    folder, out = images(tmp_path / "in"), tmp_path / "out"
    run(folder, out)
    predict_to_files(detector(), [folder], out, overwrite=True)
    assert not list(out.glob("*measurements*"))
    assert not (out / "summary.csv").exists()


def test_pixel_sizes_of_files_and_regions(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, per_cm in (("a", 20000), ("b", 10000)):
        tifffile.imwrite(
            folder / f"{name}.tif",
            picture(),
            photometric="rgb",
            resolution=(per_cm, per_cm),
            resolutionunit=3,
        )
    mask = np.zeros((40, 60), np.uint8)
    mask[:, :30] = 1
    Image.fromarray(mask).save(tmp_path / "half.png")
    out = tmp_path / "out"
    summary = run(folder, out, kinds=("shape",), regions=str(tmp_path / "half.png"))
    assert summary.pixel_size == "0.5 µm (TIFF tags), 1 µm (TIFF tags)"
    rows = table(out / "measurements.csv")
    assert [row["area_um2"] for row in rows] == ["100", "400"]
    assert [row["region"] for row in rows] == ["half", "half"]
    assert "intensity_mean" not in rows[0]
    assert {row["pixel_size_source"] for row in table(out / "summary.csv")} == {"TIFF tags"}
    inside = [row for row in table(out / "regions.csv") if row["region"] == "half" and row["class"] == "dark"]
    assert [row["count"] for row in inside] == ["1", "1"]
    assert float(inside[0]["region_area_mm2"]) == pytest.approx(1200 * 0.25e-6)


def test_models_of_boxes(tmp_path: Path) -> None:
    run(images(tmp_path / "in"), tmp_path / "out", detector(masks=False), pixel_size="1um")
    rows = table(tmp_path / "out" / "measurements.csv")
    assert [(row["box_area_um2"], row["area_um2"]) for row in rows] == [("400", "")] * 2
    page = (tmp_path / "out" / "measurements.html").read_text(encoding="utf-8")
    assert "box area, µm²" in page
    assert table(tmp_path / "out" / "summary.csv")[1]["area_fraction"] == ""


def test_an_image_that_cannot_be_measured_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    folder, regions = images(tmp_path / "in"), tmp_path / "regions"
    regions.mkdir()
    for name in "ac":
        Image.fromarray(np.ones((40, 60), np.uint8)).save(regions / f"{name}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG damaged")
    summary = run(folder, tmp_path / "out", regions=str(regions))
    assert summary.images == 2
    assert [text for text in summary.failed if "b.png" in text and "no regions of b.png" in text]
    assert any("broken.png" in text for text in summary.failed)
    assert len(table(tmp_path / "out" / "measurements.csv")) == 2


def test_an_overlay_coloured_by_a_measurement_has_a_bar_below(tmp_path: Path) -> None:
    run(images(tmp_path / "in"), tmp_path / "out", colour_by="area", colour_range=(0.0, 800.0))
    overlay = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png").convert("RGB"))
    assert overlay.shape[0] > 40
    expected = Colouring("area_px2", 0, 800).colours(np.array([400.0]))[0]
    assert (np.abs(overlay.astype(int) - expected).max(-1) <= 1).sum() > 20, "the outline of the object"


def test_colours_are_ordered_clipped_and_grey_where_there_is_no_value() -> None:
    values = np.array([1.0, 5.0, 9.0, np.nan, -3.0, 99.0])
    colouring = Colouring.of("area_px2", values, (1, 9))
    colours = colouring.colours(values)
    light = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in colours]
    assert light[0] < light[1] < light[2]
    assert (colours[3], colours[4], colours[5]) == (IGNORED, colours[0], colours[2])
    percentiles = Colouring.of("area_px2", np.arange(101.0))
    assert (percentiles.low, percentiles.high) == (2, 98)
    assert len(Colouring.of("a", np.array([np.nan])).colours(np.array([np.nan]))) == 1
    assert Colouring.of("a", np.array([4.0])).colours(np.array([4.0])) == [colours[0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("colour",)}, "measure 'colour': expected shape or intensity"),
        ({"background": "none"}, "background 'none'"),
        ({"pixel_size": "3"}, "pixel_size '3': expected a number and a unit"),
        ({"colour_range": (3.0, 1.0)}, "colour_range 3 to 1: expected the lower value first"),
        ({"colour_by": "aera"}, "colour_by aera: did you mean"),
        ({"colour_by": "class"}, "colour_by class"),
        ({"colour_by": "intensity_mean_c5"}, "colour_by intensity_mean_c5"),
        ({"regions": "nowhere.geojson"}, "no such file or folder of regions"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_predicted(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = images(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_options_of_the_command(tmp_path: Path, monkeypatch: Any) -> None:
    given: dict[str, Any] = {}

    def predicted(*args: Any, files: OutputFiles, **_: Any) -> Any:
        given["measuring"] = files.measuring
        raise ValueError("enough")

    monkeypatch.setattr("rcnn.inference.writers.predict_to_files", predicted)
    monkeypatch.setattr("rcnn.cli.predict.load_model", lambda *_, **__: detector())
    folder = images(tmp_path / "in")

    def called(*options: str) -> Any:
        return CliRunner().invoke(
            cli.app, ["predict", "m", str(folder), "--out", str(tmp_path / "o"), *options]
        )

    called()
    assert given["measuring"] is None
    called("--measure", "shape, intensity", "--pixel-size", "0.32um", "--background", "image")
    assert given["measuring"] == Measuring(pixel_size="0.32um", background="image")
    called("--colour-by", "intensity_mean", "--colour-range", "0,500")
    assert given["measuring"] == Measuring(colour_by="intensity_mean", colour_range=(0.0, 500.0))
    regions = tmp_path / "a.geojson"
    regions.write_text("{}")
    called("--regions", str(regions))
    assert given["measuring"] == Measuring(("shape",), regions=str(regions))
    assert (
        "--colour-range 1: expected two numbers" in called("--measure", "shape", "--colour-range", "1").output
    )
    assert "--background and --colour-range need --measure" in called("--background", "image").output
