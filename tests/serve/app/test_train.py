"""Training on what is done and looking inside, in a real browser."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from browser import opened, sample, served
from rcnn.serve.app.launch import PageOptions

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
        assert (
            tab.ask("() => [rcnn.inside.mask.width, rcnn.inside.mask.height]")
            == [len(told["mask"]["map"])] * 2
        )


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
