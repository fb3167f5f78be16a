"""Correcting what a model found, in a real browser: tools, keys, undo, saving, two tabs, a killed process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import opened, sample, served
from rcnn import check, open_data
from rcnn.serve.app.launch import PageOptions


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder with one photograph."""
    folder = tmp_path / "cells"
    folder.mkdir()
    shutil.copy(sample("fluorescence"), folder / "a.png")
    return folder


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A folder with two gray images of 100 x 80 pixels."""
    folder = tmp_path / "blank"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((80, 100, 3), 90, np.uint8)).save(folder / name)
    return folder


def area(tab: Any) -> list[int]:
    """The pixels of each object that has a mask."""
    return [sum(one["mask"]["runs"][1::2]) for one in tab.objects if "mask" in one]


def add_class(tab: Any, name: str = "cell") -> None:
    tab.key("c")
    tab.page.get_by_label("Class", exact=True).select_option("new")
    tab.page.get_by_label("Name of the class").fill(name)
    tab.page.get_by_role("button", name="Add class").click()
    tab.settled()


def test_every_tool_by_pointer_with_undo_and_redo(browser: Any, blank: Path) -> None:
    with served(PageOptions(None, blank)) as server, opened(browser, server.address) as tab:
        add_class(tab)
        tab.key("b")
        tab.stroke((10, 10), (30, 25))
        assert [one["box"] for one in tab.objects] == [pytest.approx([10, 10, 30, 25], abs=0.5)]
        tab.key("o")
        for place in ((50, 10), (70, 10), (70, 30), (50, 30)):
            tab.click(*place)
        tab.key("Enter")
        assert area(tab) == [pytest.approx(400, abs=45)]
        tab.key("s")
        tab.stroke((60, 5), (60, 35))
        assert sorted(area(tab)) == [pytest.approx(200, abs=30)] * 2
        tab.ask("() => rcnn.select(rcnn.shapes[1]) || rcnn.select(rcnn.shapes[2], true)")
        tab.key("m")
        assert area(tab) == [pytest.approx(400, abs=45)]
        merged = area(tab)
        tab.key("r")
        tab.stroke((72, 20), (90, 20))
        assert area(tab)[0] > merged[0] + 100, "the brush adds to what is selected"
        painted = area(tab)
        tab.key("e")
        tab.stroke((80, 20), (80, 20))
        assert area(tab)[0] < painted[0]
        tab.key("t")
        tab.ask("() => rcnn.viewer.tool.handles.polygons[0].sort((a, b) => a[0] + a[1] - b[0] - b[1])[0]")
        tab.key("z")
        tab.key("z")
        assert area(tab) == merged
        tab.key("y")
        assert area(tab) == painted
        tab.key("Delete")
        assert len(tab.objects) == 1
        tab.key("z")
        assert area(tab) == painted


def test_corners_and_classes(browser: Any, blank: Path) -> None:
    with served(PageOptions(None, blank)) as server, opened(browser, server.address) as tab:
        add_class(tab, "cell")
        add_class(tab, "dirt")
        tab.key("1")
        tab.key("b")
        tab.stroke((10, 10), (30, 25))
        tab.key("t")
        tab.stroke((30, 25), (40, 35))
        (one,) = tab.objects
        assert one["box"] == pytest.approx([10, 10, 40, 35], abs=0.7)
        assert one["class"] == "cell"
        tab.key("2")
        assert tab.objects[0]["class"] == "dirt"
        tab.key("z")
        assert tab.objects[0]["class"] == "cell"


def test_everything_is_drawn_by_keys_alone(browser: Any, blank: Path) -> None:
    with served(PageOptions(None, blank)) as server, opened(browser, server.address) as tab:
        add_class(tab)
        tab.key("b")
        for key in ("ArrowLeft", " ", *["Shift+ArrowRight"] * 2, *["Shift+ArrowDown"] * 2, " "):
            tab.key(key)
        (one,) = tab.objects
        assert one["box"] == [49, 40, 69, 60]
        tab.key("o")
        for key in (" ", "Shift+ArrowLeft", " ", "Shift+ArrowDown", " ", "Enter"):
            tab.key(key)
        assert len(tab.objects) == 2
        tab.key("n")
        tab.key("Delete")
        assert len(tab.objects) == 1


def test_what_is_done_is_the_data_set_and_drafts_are_not(browser: Any, cells: Path) -> None:
    out = cells.parent / "cells-corrected"
    with served(PageOptions("nuclei", cells)) as server, opened(browser, server.address) as tab:
        tab.settled()
        shown = tab.ask("() => rcnn.shown.length")
        tab.ask("() => rcnn.select(rcnn.table.rows[0])")
        colour = "() => rcnn.colourOf(rcnn.shown.at(-1))"
        before = tab.ask(colour)
        tab.key("Delete")
        assert tab.ask("() => rcnn.shown.length") == shown - 1
        assert tab.ask(colour) == before, "the others keep their colours"
        assert not (out / "annotations.json").exists()
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.info.draft?.status === 'done'")
        tab.settled()
        data = open_data(out / "annotations.json")
        assert not check(data).errors
        assert [len(record.truth) for record in data.records] == [shown - 1]
        before = tab.objects
        tab.key("n")
        tab.key("Delete")
        tab.until("() => rcnn.info.draft?.status === 'changed'")
        assert [len(record.truth) for record in open_data(out / "annotations.json").records] == [shown - 1]
        tab.page.reload()
        tab.until("() => window.rcnn?.info && !rcnn.waiting")
        assert len(tab.objects) == len(before) - 1, "the draft is there again"
        masks = data.records[0].load_truth().masks
        assert masks is not None
        kept = sorted(sum(one["mask"]["runs"][1::2]) for one in before)
        assert sorted(masks.areas().tolist()) == kept, "pixel for pixel"


def test_two_tabs_lose_nothing(browser: Any, blank: Path) -> None:
    with served(PageOptions(None, blank)) as server, opened(browser, server.address) as one:
        add_class(one)
        one.key("b")
        one.stroke((10, 10), (30, 25))
        with opened(browser, server.address) as two:
            assert len(two.objects) == 1
            one.stroke((40, 10), (60, 25))
            two.key("b")
            two.stroke((70, 10), (90, 25))
            assert len(two.objects) == 3, "a change brings those of the other tab"
            one.ask("() => rcnn.edits.catchUp()")
            one.settled()
            assert len(one.objects) == 3
            two.ask("() => rcnn.select(rcnn.shapes[0])")
            two.key("t")
            two.stroke((30, 25), (35, 35))
            one.ask("() => rcnn.select(rcnn.shapes[0])")
            one.key("t")
            one.stroke((30, 25), (20, 40))
            assert len(one.objects) == 4, "both versions of the object that both changed"
            assert "Both versions are kept" in one.page.get_by_role("alert").inner_text()


COMMAND = [sys.executable, "-c", "from rcnn.cli import main; main()", "app", "--no-browser"]


def test_a_killed_process_loses_nothing(browser: Any, blank: Path) -> None:
    for attempt in range(2):
        process = subprocess.Popen([*COMMAND, str(blank)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line
            address = found[0]
            with opened(browser, address) as tab:
                if attempt == 0:
                    add_class(tab)
                    tab.key("b")
                    tab.stroke((10, 10), (30, 25))
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    tab.page.keyboard.press("Delete")
                    tab.until(
                        "() => document.getElementById('problem').innerText.includes('does not answer')"
                    )
                    tab.faults.clear()  # the browser notes that nobody answers
                else:
                    assert [one["class"] for one in tab.objects] == ["cell"]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_data_set_is_edited_beside_itself(browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((80, 100, 3), 90, np.uint8)).save(folder / name)
    box = {"category_id": 1, "bbox": [10, 10, 20, 15], "area": 300, "iscrowd": 0}
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.png", "width": 100, "height": 80},
        ],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {**box, "id": 1, "image_id": 1}, {**box, "id": 2, "image_id": 2},
            {**box, "id": 3, "image_id": 2, "category_id": 9},
        ],
    }  # fmt: skip
    file = folder / "cells.json"
    file.write_text(json.dumps(content))
    before = file.read_bytes()
    with served(PageOptions(None, file)) as server, opened(browser, server.address) as tab:
        tab.until("() => document.getElementById('tab-problems').innerText.includes('error')")
        assert tab.page.get_by_role("tab", name="Problems").get_attribute("aria-selected") == "true"
        tab.key("b")
        tab.stroke((50, 10), (70, 25))
        tab.page.get_by_role("button", name="Image done").click()
        tab.until("() => rcnn.strip.images[0].status === 'done'")
        tab.settled()
    assert file.read_bytes() == before
    written = open_data(folder / "cells-corrected" / "annotations.json")
    assert {record.path.name: len(record.truth) for record in written.records} == {"a.png": 2, "b.png": 1}


LAWS = """async (count) => {
  const m = await import(`${location.pathname}static/masks.js`);
  let seed = 7;
  const random = (most) => Math.floor(most * ((seed = seed * 16807 % 2147483647) / 2147483647));
  const same = (a, b) => JSON.stringify(m.toRuns(a)) === JSON.stringify(m.toRuns(b));
  const corners = (ring) => Array.from({length: ring.length / 2}, (_, i) => [ring[2 * i], ring[2 * i + 1]]);
  const apart = ([px, py], [ax, ay], [bx, by]) => {
    const dx = bx - ax, dy = by - ay, t = ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1);
    const inside = Math.min(1, Math.max(0, t));
    return Math.hypot(px - ax - inside * dx, py - ay - inside * dy);
  };
  const failed = new Set();
  for (let i = 0; i < count; i++) {
    const width = 1 + random(12), height = 1 + random(12);
    const bits = Uint8Array.from({length: width * height}, () => random(10) < 6);
    bits[random(bits.length)] = 1;
    const mask = m.trimmed({x: random(20), y: random(20), width, height, bits});
    if (!same(mask, m.fromRuns(m.toRuns(mask)))) failed.add('runs');
    const polygons = m.rings(mask).map(corners);
    if (!same(mask, m.fromPolygons(polygons, [60, 60]))) failed.add('outlines');
    const parts = m.halves(mask, [mask.x + random(width), mask.y], [mask.x + random(width), mask.y + height]);
    if (parts && !same(mask, m.union(parts))) failed.add('union of halves');
    if (parts && m.area(parts[0]) + m.area(parts[1]) !== m.area(mask)) failed.add('halves');
    for (const ring of m.rings(mask)) {
      const rough = corners(m.simplified(ring, 1.5));
      const next = (j) => rough[(j + 1) % rough.length];
      const far = (corner) => Math.min(...rough.map((one, j) => apart(corner, one, next(j))));
      if (Math.max(...corners(ring).map(far)) > 2.2) failed.add('simplified');
    }
  }
  return [...failed];
}"""


def test_runs_outlines_and_halves_give_the_same_pixels_back(browser: Any, blank: Path) -> None:
    with served(PageOptions(None, blank)) as server, opened(browser, server.address) as tab:
        assert tab.ask(LAWS, 300) == []
