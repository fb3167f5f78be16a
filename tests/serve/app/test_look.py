"""Looking at what a model finds, in a real browser."""

import csv
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from browser import opened, sample, served
from rcnn.serve.app.launch import PageOptions
from rcnn.serve.app.pixels import TILE

INSIDE = """(id) => {
  const mask = rcnn.shapes.find((shape) => shape.id === id).bitmap, {bits, width} = mask;
  const at = bits.findIndex((bit, i) => bit && bits[i + width] && bits[i + 2 * width]);
  return [mask.x + at % width + .5, mask.y + Math.floor(at / width) + 1.5];
}"""  # a place in an object
PIXEL = """([x, y]) => {
  const {scale, x: left, y: top} = rcnn.viewer.view, context = rcnn.viewer.picture.getContext('2d');
  return [...context.getImageData(left + x * scale, top + y * scale, 1, 1).data];
}"""  # what is drawn at a place of the image
FOCUSED = """() => {
  const element = document.activeElement;
  const part = element.closest('header,nav,main,aside')?.tagName;
  return `${part} ${element.getAttribute('aria-label') || element.id || element.textContent.trim()}`;
}"""


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of the model for nuclei and its two photographs, one with a name that is markup."""
    folder = tmp_path_factory.mktemp("look") / "cells"
    folder.mkdir()
    shutil.copy(sample("fluorescence"), folder / "<img src=x onerror=alert(1)>.png")
    shutil.copy(sample("stained"), folder / "stained.png")
    with served(PageOptions("nuclei", folder)) as server:
        yield server


def test_overlays_and_table_follow_the_controls(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        model = nuclei.workspace.finder.model()
        picture = nuclei.workspace.picture(tab.ask("() => rcnn.number"))
        found = nuclei.workspace.finder.find(picture, model)
        tab.settled()
        for score in (model.detector.min_score, 0.3, 0.95, 1.0):
            slider = tab.page.locator("#score")
            slider.fill(str(round(score, 2)))
            tab.settled()
            expected = int((found.scores.astype(float).round(4) >= round(score, 2)).sum())
            assert tab.ask("() => rcnn.viewer.count") == expected
            assert tab.ask("() => rcnn.table.rows.length") == expected
        tab.page.locator("#score").fill("0.5")
        tab.page.get_by_label("nucleus").uncheck()
        tab.settled()
        assert tab.ask("() => rcnn.viewer.count") == 0
        tab.page.get_by_label("nucleus").check()
        tab.settled()
        assert tab.ask("() => rcnn.viewer.count") > 10


def test_file_names_are_text(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        assert tab.page.get_by_text("<img src=x onerror=alert(1)>.png").count() >= 1
        assert tab.page.locator("img[onerror]").count() == 0


def test_an_object_chosen_in_the_picture_is_found_in_the_table_and_back(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        chosen = tab.objects[4]
        x, y = tab.ask(INSIDE, chosen["id"])
        tab.click(x, y)
        assert tab.page.locator("tr[aria-current=true]").get_attribute("data-id") == chosen["id"]
        tab.page.get_by_role("columnheader", name="area").get_by_role("button").click()
        areas = tab.ask("() => rcnn.table.rows.map((shape) => shape.measures.area)")
        assert areas == sorted(areas, reverse=True)
        row = tab.page.locator("tr[data-id]").nth(2)
        row.click()
        assert tab.ask("() => [...rcnn.viewer.selected]") == [row.get_attribute("data-id")]


def test_the_other_image_is_opened_and_kept_over_a_reload(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        tab.page.get_by_role("button", name="stained.png").click()
        tab.until("() => rcnn.info.name === 'stained.png' && !rcnn.waiting")
        tab.page.reload()
        tab.until("() => window.rcnn?.info && !rcnn.waiting")
        assert tab.ask("() => rcnn.info.name") == "stained.png"
        tab.page.get_by_label("Filter images by name").fill("img")
        assert tab.page.locator(".shot").count() == 1


def test_the_whole_folder_is_downloaded_whatever_was_looked_at(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("fluorescence", "stained"):
        shutil.copy(sample(name), folder)

    def downloaded(kind: str, what: str) -> Path:
        tab.page.locator("#download-kind").select_option(kind)
        tab.page.locator("#download-what").select_option(what)
        with tab.page.expect_download(timeout=60_000) as download:
            tab.page.locator("#download-link").click()
        target = tmp_path / download.value.suggested_filename
        download.value.save_as(target)
        return target

    with (
        served(PageOptions("nuclei", folder)) as server,
        opened(browser, server.address, accept_downloads=True) as tab,
    ):
        tab.page.get_by_role("button", name="Download").click()
        looked = tab.ask("() => rcnn.strip.images.map((image) => image.count !== null)")
        assert looked == [True, False], "only the image that is open"
        whole = tab.page.locator("#download-what option[value=rest]").inner_text()
        assert whole == "all 2 images: nuclei looks at the other 1 first"
        rows = list(csv.DictReader(downloaded("table", "rest").read_text(encoding="utf-8").splitlines()))
        counts = tab.ask("() => rcnn.strip.images.map((image) => image.count)")
        assert len(rows) == sum(counts)
        assert {row["image"] for row in rows} == {"fluorescence.png", "stained.png"}
        tab.page.get_by_role("button", name="Close").click()
        tab.page.get_by_role("button", name="Download").click()
        with zipfile.ZipFile(downloaded("coco", "all")) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".json"))
            content = json.loads(archive.read(name))
        assert len(content["annotations"]) == sum(counts)
        with Image.open(downloaded("overlay", "one")) as picture:
            height, width = tab.ask("() => rcnn.info.size")
            assert picture.size == (width, height)


def test_a_search_through_all_images_is_cancelled_and_goes_on(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    folder.mkdir()
    for number in range(12):
        shutil.copy(sample("fluorescence"), folder / f"{number:02d}.png")
    (folder / "98.png").write_text("no image")
    with served(PageOptions("nuclei", folder)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("button", name="Find in all images").click()
        tab.until("() => rcnn.state.progress.done >= 1")
        assert tab.page.locator("#job-bar").is_visible()
        assert " of " in tab.page.locator("#job-text").inner_text()
        tab.page.get_by_role("button", name="Cancel").click()
        tab.until("() => rcnn.state.progress.state === 'cancelled'")
        tab.settled()
        kept = tab.ask("() => rcnn.strip.images.filter((image) => image.count !== null).length")
        assert 1 < kept < 12, "what was found is kept"
        assert len(server.workspace.finder.model().found) >= kept
        tab.page.get_by_role("button", name="Find in all images").click()
        tab.until("() => rcnn.state.progress.state === 'done'")
        tab.until("() => rcnn.strip.images.filter((image) => image.count !== null).length === 12")
        assert "1 image could not be used:\n98.png: " in tab.page.get_by_role("alert").inner_text()
        assert tab.page.get_by_role("button", name="98.png cannot be read").is_visible()
        tab.faults.clear()  # the browser notes that it has no thumbnail


def test_images_are_dropped_into_an_empty_page(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "notes.png"
    text.write_text("no image")
    with served(PageOptions("nuclei")) as server, opened(browser, server.address) as tab:
        assert tab.page.get_by_role("heading", name="Drop images here").is_visible()
        assert list(tmp_path.iterdir()) == [text], "nothing is written before there is something to keep"
        tab.page.set_input_files("#files", [sample("fluorescence"), text])
        tab.until("() => rcnn.shapes.length && !rcnn.waiting")
        assert tab.ask("() => rcnn.strip.images.map((image) => image.name)") == ["fluorescence.png"]
        assert "notes.png: this is not an image" in tab.page.get_by_role("alert").inner_text()
        kept = tmp_path / "corrected" / "images" / "fluorescence.png"
        assert kept.read_bytes() == sample("fluorescence").read_bytes()
        tab.faults.clear()  # the browser itself notes that the text was refused
    with served(PageOptions("nuclei")) as server:
        names = [picture.name for picture in server.workspace.collection.pictures]
    assert names == ["fluorescence.png"]


def test_large_sixteen_bit_and_many_channel_images_are_shown_in_tiles(browser: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(1000, 1200, (1300, 1700), np.uint16)
    values[600:700, 800:900] = 60000
    tifffile.imwrite(tmp_path / "deep.tif", values)
    planes = np.zeros((5, 600, 700), np.uint8)
    planes[4, 100:200] = 255
    tifffile.imwrite(tmp_path / "many.tif", planes, metadata={"axes": "CYX"})
    out = tmp_path.parent / f"{tmp_path.name}-out"
    with served(PageOptions(None, tmp_path, out)) as server, opened(browser, server.address) as tab:
        tab.until("() => rcnn.viewer.tiles.complete")
        assert tab.ask("() => [rcnn.info.size, rcnn.info.levels, rcnn.info.depth]") == [
            [1300, 1700], 3, "16-bit",
        ]  # fmt: skip
        tab.ask("() => rcnn.viewer.setView({scale: 1, x: -700, y: -300})")
        tab.settled()
        tab.until("() => rcnn.viewer.tiles.complete")
        asked = {
            tuple(map(int, key.split("/"))) for key in tab.ask("() => [...rcnn.viewer.tiles.kept.keys()]")
        }
        assert {key for key in asked if key[0] == 0} <= {(0, c, r) for c in range(4) for r in range(3)}
        assert len({key for key in asked if key[0] == 0}) < 4 * 3, "only what is on the screen is fetched"
        assert tab.ask(PIXEL, [850, 650]) == [255, 255, 255, 255]
        tab.page.get_by_text("Channels and contrast").click()
        tab.page.get_by_label("White at").fill("100")  # halves of a percentile: 50 %
        tab.settled()
        tab.page.get_by_role("button", name="many.tif").click()
        tab.until("() => rcnn.info.name === 'many.tif' && !rcnn.waiting && rcnn.viewer.tiles.complete")
        tab.settled()
        assert tab.ask(PIXEL, [350, 150]) == [0, 0, 0, 255]
        tab.page.get_by_label("Channel shown as red").select_option("4")
        tab.until("() => rcnn.viewer.tiles.complete")
        tab.settled()
        assert tab.ask(PIXEL, [350, 150]) == [255, 0, 0, 255]
    assert TILE == 512


def test_the_focus_goes_through_the_page_in_reading_order(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        tab.settled()
        seen: list[str] = []
        for _ in range(60):
            tab.page.keyboard.press("Tab")
            seen.append(tab.ask(FOCUSED))
        parts = [place.split()[0] for place in seen if not place.startswith("undefined")]
        order = [part for i, part in enumerate(parts) if i == 0 or parts[i - 1] != part]
        assert order[:4] == ["HEADER", "NAV", "MAIN", "ASIDE"]
        assert any("Arrow keys move the picture" in place for place in seen)
        shown = tab.ask(
            "() => { const e = document.activeElement; return getComputedStyle(e).outlineStyle; }"
        )
        assert shown != "none"


def test_keys_zoom_move_and_step_through_objects(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        fitted = tab.ask("() => rcnn.viewer.view.scale")
        tab.key("+")
        assert tab.ask("() => rcnn.viewer.view.scale") == pytest.approx(1.25 * fitted)
        tab.key("0")
        assert tab.ask("() => rcnn.viewer.view.scale") == pytest.approx(fitted)
        before = tab.ask("() => rcnn.viewer.view.x")
        tab.key("ArrowLeft")
        assert tab.ask("() => rcnn.viewer.view.x") > before
        ids = tab.ask("() => rcnn.table.rows.map((shape) => shape.id)")
        for expected in ids[:3]:
            tab.key("n")
            assert tab.ask("() => [...rcnn.viewer.selected]") == [expected]
        tab.key("p")
        assert tab.ask("() => [...rcnn.viewer.selected]") == [ids[1]]
        tab.key("?")
        assert tab.page.get_by_role("dialog").get_by_text("next, previous object").is_visible()


def test_the_table_has_all_measurements_when_asked(browser: Any, nuclei: Any) -> None:
    with opened(browser, nuclei.address) as tab:
        tab.page.get_by_label("All measurements").check()
        tab.until("() => rcnn.table.columns.some((column) => column.key.startsWith('circularity'))")
        tab.settled()
        picture = nuclei.workspace.picture(tab.ask("() => rcnn.number"))
        told = nuclei.workspace.results.measurements(picture, 0)
        place = told["names"].index("circularity")
        shown = tab.ask("() => rcnn.table.rows.map((shape) => [shape.id, shape.measures.circularity])")
        assert shown
        assert {name: pytest.approx(value) for name, value in shown} == {
            name: told["values"][name][place] for name, _ in shown
        }
        tab.page.get_by_role("columnheader", name="circularity").get_by_role("button").click()
        values = [value for _, value in tab.ask(
            "() => rcnn.table.rows.map((shape) => [0, shape.measures.circularity])"
        )]  # fmt: skip
        assert values == sorted(values, reverse=True)
