"""Training on what is done and looking inside, in a real browser."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import opened, sample, served
from page_models import box_model
from rcnn.inference.postprocess import paste_masks
from rcnn.serve.app.launch import PageOptions
from tiny import tiny_shapes

GROWN = """() => {
  const {left, top, width, height, mask} = rcnn.inside.growth;
  return [[left, top, width, height], [...mask]];
}"""
LONG = 240.0  # seconds that a short training may take on a machine with other work


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder with the two photographs that come with the model for nuclei."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("fluorescence", "stained"):
        shutil.copy(sample(name), folder)
    return folder


def test_a_model_trained_on_what_is_done_is_put_to_work(browser: Any, cells: Path) -> None:
    with served(PageOptions("nuclei", cells)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("tab", name="Train").click()
        assert tab.page.get_by_role("button", name="Train on what is done").is_disabled()
        for done in (1, 2):
            tab.page.get_by_role("button", name="Image done").click()
            tab.until(f"() => rcnn.state.counts.done === {done} && !rcnn.waiting")
            tab.settled()
        tab.page.get_by_label("Minutes").fill("0.02")
        tab.page.get_by_role("button", name="Train on what is done").click()
        tab.until(
            "() => rcnn.state.trainings.at(-1)?.state !== 'running' && rcnn.state.trainings.length", LONG
        )
        assert tab.ask("() => rcnn.state.trainings.at(-1).state") == "finished", tab.page.locator(
            "#tab-train"
        ).inner_text()
        tab.until("() => rcnn.model.name === 'model'")
        tab.settled()
        assert tab.page.get_by_role("img", name="Loss").is_visible()
        assert tab.page.get_by_role("button", name="Report").is_visible()
        tab.page.get_by_role("button", name="Report").click()
        frame = tab.page.frame_locator("iframe")
        assert frame.locator("h1, h2").first.inner_text()
        tab.page.get_by_role("button", name="Close").click()
        tab.page.get_by_role("button", name="Compare").click()
        tab.until("() => document.querySelector('#right .source').innerText.includes('objects')")
        assert tab.ask("() => rcnn.compare.sources.map((one) => one.title)") == [
            "found by model", "found by nuclei",
        ]  # fmt: skip
        tab.page.locator("#model").select_option("0")
        tab.until("() => rcnn.model.name === 'nuclei'")
    with served(PageOptions("nuclei", cells)) as server:
        assert [run.state for run in server.workspace.trainings.runs] == ["finished"]


def test_a_training_is_stopped_and_resumed_after_a_restart(browser: Any, tmp_path: Path) -> None:
    model, folder = box_model(tmp_path / "shapes.safetensors"), tmp_path / "views"
    folder.mkdir()
    Image.fromarray(tiny_shapes(1)[0].image).save(folder / "a.png")
    with served(PageOptions(str(model), folder)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.state.counts.done === 1 && !rcnn.waiting")
        tab.page.get_by_role("tab", name="Train").click()
        tab.page.get_by_label("Minutes").fill("30")
        tab.page.get_by_role("button", name="Train on what is done").click()
        tab.until("() => rcnn.train.rows.length", LONG)  # it has learnt
        assert tab.page.get_by_role("img", name="Loss").is_visible()
        assert tab.page.get_by_role("button", name="Train on what is done").is_disabled()
        tab.page.get_by_role("button", name="Stop").click()
        tab.until("() => rcnn.state.trainings.at(-1).state === 'stopped'", LONG)
        assert tab.ask("() => rcnn.model.name") == "shapes", "a training that was stopped replaces no model"
        before = tab.ask("() => rcnn.train.rows.at(-1).iteration")
    with served(PageOptions(str(model), folder)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("tab", name="Train").click()
        tab.until("() => document.getElementById('tab-train').innerText.includes('it can go on')")
        tab.page.get_by_role("button", name="Go on").click()
        tab.until(f"() => rcnn.train.rows.at(-1).iteration > {before}", LONG)
        assert tab.ask("() => rcnn.state.trainings.map((one) => one.state)") == ["running"], "the same run"
        trainings = server.workspace.trainings
    assert trainings.latest is not None
    assert trainings.latest.state == "stopped", "closing the page stops the training, and keeps it"


def test_a_training_that_fails_says_why(browser: Any, cells: Path) -> None:
    with served(PageOptions("nuclei", cells)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.state.counts.done === 1 && !rcnn.waiting")
        server.workspace.trainings.start(cells / "none.json", [])
        tab.page.get_by_role("tab", name="Train").click()
        tab.until("() => document.getElementById('tab-train').innerText.includes('it did not work')", LONG)
        assert "none.json" in tab.page.locator("#tab-train pre").inner_text()
        tab.page.reload()  # the run is over before this page begins
        tab.page.get_by_role("tab", name="Train").click()
        tab.until("() => document.getElementById('tab-train').innerText.includes('it did not work')", LONG)


def test_a_missed_object_is_followed_through_the_model(browser: Any, cells: Path) -> None:
    with served(PageOptions("nuclei", cells)) as server, opened(browser, server.address) as tab:
        tab.page.get_by_role("tab", name="Look inside").click()
        tab.page.get_by_role("button", name="Choose a place").click()
        tab.click(180, 40)  # between nuclei
        tab.until("() => rcnn.inside.told && !rcnn.waiting")
        verdict = tab.page.locator(".verdict").inner_text()
        assert verdict == tab.ask("() => rcnn.inside.told.verdict")
        stages = tab.page.locator(".stage-row")
        assert stages.count() == len(tab.ask("() => rcnn.inside.told.stages"))
        drawn = set()
        for place in range(stages.count()):
            stages.nth(place).click()
            drawn.add((tab.ask("() => rcnn.inside.pick.value"), tab.ask("() => rcnn.inside.shown.length")))
        assert len(drawn) >= 4, "stages show different layers"
        tab.page.get_by_role("button", name="stained.png").click()
        tab.until("() => rcnn.info.name === 'stained.png' && !rcnn.waiting")
        tab.until("() => rcnn.table.rows.length && rcnn.shapes.includes(rcnn.table.rows[0])")
        assert tab.ask("() => rcnn.inside.told") is None
        tab.ask("() => rcnn.select(rcnn.table.rows[0])")
        tab.page.get_by_role("button", name="Explain what is selected").click()
        tab.until("() => rcnn.inside.told && !rcnn.waiting")
        told = tab.ask("() => rcnn.inside.told")
        assert told["mask"] is not None
        tab.page.get_by_label("What is drawn over the picture").select_option("mask")
        tab.until("() => rcnn.inside.growth.at > 0.3 && rcnn.inside.growth.at < 3", 3)
        tab.until("() => rcnn.inside.growth.at === 3")
        assert "threshold" in tab.page.locator(".growing").inner_text()
        window, mask = tab.ask(GROWN)
        pasted = paste_masks(
            np.array([told["mask"]["map"]], np.float32), np.array([told["mask"]["box"]], np.float32),
            tuple(tab.ask("() => rcnn.info.size")), told["mask"]["threshold"],
        )  # fmt: skip
        x1, y1, x2, y2 = pasted.windows[0].tolist()
        assert window == [x1, y1, x2 - x1, y2 - y1]
        same = np.array(mask).reshape(y2 - y1, x2 - x1) == next(pasted.patches())
        assert same.mean() > 0.998, "the grid has grown into the mask that the model gives"


def test_nothing_moves_where_the_reader_wants_no_motion(browser: Any, cells: Path) -> None:
    with (
        served(PageOptions("nuclei", cells)) as server,
        opened(browser, server.address, reduced_motion="reduce") as tab,
    ):
        tab.page.get_by_role("tab", name="Look inside").click()
        tab.ask("() => rcnn.select(rcnn.table.rows[0])")
        tab.page.get_by_role("button", name="Explain what is selected").click()
        tab.until("() => rcnn.inside.told && !rcnn.waiting")
        tab.page.get_by_label("What is drawn over the picture").select_option("mask")
        assert tab.ask("() => rcnn.inside.growth.at") == 3
        tab.page.get_by_label("How far the mask has grown").fill("0.5")
        assert tab.ask("() => rcnn.inside.growth.at") == 0.5


def test_the_next_image_is_one_that_is_not_done(browser: Any, cells: Path) -> None:
    shutil.copy(cells / "stained.png", cells / "x.png")
    with served(PageOptions("nuclei", cells)) as server:
        space = server.workspace
        space.mark(space.picture(0), {"done": True})
        assert space.next(0) == {"number": 1}, "nothing is looked at: the first that is not done"
        for picture in space.collection.pictures:
            space.results.found(picture, None)
        assert space.next(0)["number"] in (1, 2)
        for number in (1, 2):
            space.mark(space.picture(number), {"done": True})
        assert space.next(0) == {"number": None}
