"""axe-core finds nothing in any state of the page, light and dark, wide and narrow."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import Tab, opened, sample, served
from rcnn.data.shapes import draw_shapes
from rcnn.serve.app.launch import PageOptions
from rcnn.training.run_folder import HISTORY, LAST, RUN
from tiny import NAMES

AXE = sorted((Path(__file__).parents[3] / ".axe").glob("axe-*.min.js"))
WIDE, NARROW = (1440, "light"), (390, "dark")
OTHERS = [
    pytest.param(1440, "dark", marks=pytest.mark.slow),
    pytest.param(390, "light", marks=pytest.mark.slow),
]
VIOLATIONS = "() => axe.run().then((result) => result.violations)"

pytestmark = pytest.mark.skipif(not AXE, reason="needs axe-core: scripts/axe fetches it")


def context(width: int, scheme: str) -> dict[str, Any]:
    """How a tab is opened so that axe-core can be added."""
    return {"viewport": {"width": width, "height": 900}, "color_scheme": scheme, "bypass_csp": True}


def checked(tab: Tab, state: str) -> None:
    """Check the page as it is."""
    tab.settled()
    told = [
        f"{one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}" for one in tab.ask(VIOLATIONS)
    ]
    assert not told, state


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A page of the model for nuclei, one of its images done, with a training that was stopped."""
    folder = tmp_path_factory.mktemp("axe") / "cells"
    folder.mkdir()
    for name in ("fluorescence", "stained"):
        shutil.copy(sample(name), folder)
    run = folder.with_name("cells-corrected") / "runs" / "model"
    run.mkdir(parents=True)
    rows = [{"iteration": i, "loss": 2 / i, "fraction": i / 40} for i in range(1, 20)]
    rows.append({"iteration": 19, "score": 0.6, "mask AP": 0.6, "fraction": 0.5})
    (run / HISTORY).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name in (RUN, LAST):
        (run / name).write_text("{}")
    with served(PageOptions("nuclei", folder)) as server:
        yield server


@pytest.mark.parametrize(("width", "scheme"), [WIDE, NARROW, *OTHERS])
def test_every_state_of_a_page_with_a_model(browser: Any, nuclei: Any, width: int, scheme: str) -> None:
    with opened(browser, nuclei.address, **context(width, scheme)) as tab:
        tab.page.add_script_tag(path=AXE[-1])
        tab.page.get_by_text("Channels and contrast").click()
        checked(tab, "objects")
        tab.ask("() => rcnn.select(rcnn.shown[0], false, 'test')")
        tab.page.locator("#measure").check()
        tab.until("() => rcnn.table.columns.length > 6")
        checked(tab, "all measurements")
        tab.key("r")
        checked(tab, "the brush")
        tab.page.get_by_role("tab", name="Train").click()
        tab.until("() => document.querySelector('#tab-train .chart')")
        checked(tab, "a training that was stopped")
        tab.page.get_by_role("tab", name="Look inside").click()
        checked(tab, "looking inside, before")
        tab.page.get_by_role("button", name="Explain what is selected").click()
        tab.until("() => rcnn.inside.told && !rcnn.waiting")
        checked(tab, "looking inside")
        tab.page.get_by_label("What is drawn over the picture").select_option("mask")
        checked(tab, "a mask that grows")
        for name in ("Keys and help", "Download"):
            tab.page.get_by_role("button", name=name).click()
            checked(tab, name)
            tab.page.get_by_role("button", name="Close").click()
        tab.page.get_by_label("Class", exact=True).select_option("new")
        checked(tab, "a new class")
        tab.page.get_by_role("button", name="Cancel").last.click()
        tab.page.get_by_role("button", name="Compare").click()
        tab.until("() => document.querySelector('#right .source').innerText.includes('objects')")
        checked(tab, "compare")
        tab.ask("() => rcnn.open(99)")
        assert "image 99" in tab.page.get_by_role("alert").inner_text()
        checked(tab, "an error")
        assert len(tab.ask("() => axe.run().then((result) => result.passes)")) > 20
        tab.faults.clear()  # the browser notes the image that there is not


@pytest.mark.parametrize(("width", "scheme"), [WIDE, NARROW])
def test_every_state_of_corrections(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    shapes = draw_shapes(
        2, truth="both", size=(96, 128), class_names=NAMES, grounds=("stripes", "checks"), objects=(2, 3),
        diameter=(20.0, 40.0),
    )  # fmt: skip
    folder = shapes.write(tmp_path / "data")
    with (
        served(PageOptions(None, folder)) as server,
        opened(browser, server.address, **context(width, scheme)) as tab,
    ):
        tab.page.add_script_tag(path=AXE[-1])
        checked(tab, "annotations and pixel classes")
        tab.ask("() => rcnn.select(rcnn.shapes[0])")
        tab.key("Delete")
        checked(tab, "a draft")
        tab.page.get_by_role("button", name="Start over").click()
        checked(tab, "whether to start over")
        tab.page.get_by_role("button", name="Keep them").click()
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.strip.images[0].status === 'done' && !rcnn.waiting")
        checked(tab, "done")
        tab.page.get_by_role("tab", name="Problems").click()
        checked(tab, "problems")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (390, "light")])
def test_every_state_of_an_empty_page(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, scheme: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        served(PageOptions(None)) as server,
        opened(browser, server.address, **context(width, scheme)) as tab,
    ):
        tab.page.add_script_tag(path=AXE[-1])
        checked(tab, "nothing yet")
        for name in ("Train", "Look inside"):
            tab.page.get_by_role("tab", name=name).click()
            checked(tab, f"{name}, of nothing")
        Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
        tab.page.set_input_files("#files", [tmp_path / "a.png"])
        tab.until("() => rcnn.info && !rcnn.waiting")
        checked(tab, "an image without a model")
