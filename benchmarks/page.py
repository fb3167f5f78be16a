"""How fast the page is in a browser: ``python -m benchmarks.page``.

Needs the extra ``app``, playwright and the system's chromium. Measured in the browser itself, without a GPU:
from the drop of an image of 512 x 640 pixels to its first overlay; from the opening of an image of 10,000 x
10,000 pixels to all its tiles, the frames while it is moved, and the memory; and moves of the score slider,
drawn and read back, for 1,000 and 10,000 objects of 30 pixels side by side.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from rcnn.data.shapes import draw_shapes
from rcnn.serve.app.launch import PageOptions, page_server

LARGE = 10_000
COUNTS = (1000, 10_000)
MOVES = 30
SIDE = 30  # pixels of an object
# Disks beside one another, with scores spread evenly from 0 to 1.
OBJECTS = """([count, side]) => import(`${location.pathname}static/shapes.js`).then(({Shape}) => {
  const runs = [];
  let before = 0;
  for (let y = 0; y < side; y++) {
    const half = Math.round(Math.sqrt(side * side / 4 - (y + .5 - side / 2) ** 2));
    runs.push(before + side / 2 - half, 2 * half);
    before = side / 2 - half;
  }
  runs.push(before);
  const columns = Math.floor(rcnn.info.size[1] / (side + 2));
  const shapes = Array.from({length: count}, (_, i) => {
    const x = (i % columns) * (side + 2), y = Math.floor(i / columns) * (side + 2);
    const mask = {window: [x, y, side, side], runs};
    const score = (i * 0.618034) % 1;
    return new Shape({id: `m${i}`, class: 'object', score, box: [x, y, x + side, y + side], mask});
  });
  rcnn.source = 'data';  // there is no model
  rcnn.look.scored = true;
  rcnn.takeShapes(shapes, []);
  rcnn.viewer.fit();
  return new Promise((resolve) => setTimeout(resolve, 1500));
})"""
MOVE = """async (score) => {
  const begin = performance.now();
  rcnn.look.minScore = score;
  rcnn.viewer.drawNow(new Set(['overlay']));
  rcnn.viewer.overlay.getContext('2d').getImageData(0, 0, 1, 1);
  return performance.now() - begin;
}"""


def until(page: Any, script: str) -> None:
    """Wait until a script returns something."""
    while not page.evaluate(script):
        page.wait_for_timeout(10)


def resident(process: int) -> float:
    """MB of memory that a process has now."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def measure_drop(page: Any, folder: Path) -> float:
    """Seconds from the drop of an image to its first overlay."""
    image = draw_shapes(1, size=(512, 640), class_names=("disk",), objects=(10, 20), diameter=(20.0, 60.0))
    pixels = image[0].image
    Image.fromarray(pixels).save(folder / "warm.png")
    Image.fromarray(pixels[::-1]).save(folder / "drop.png")
    times = []
    for name in ("warm.png", "drop.png"):
        begin = time.perf_counter()
        page.set_input_files("#files", folder / name)
        until(page, f"() => window.rcnn?.info?.name === '{name}' && rcnn.source === 'found' && !rcnn.waiting")
        times.append(time.perf_counter() - begin)
    return times[-1]


def measure_slider(page: Any, count: int) -> list[float]:
    """Milliseconds of each move of the slider with so many objects."""
    page.get_by_role("button", name=f"{count}.png").click()
    until(page, f"() => rcnn.info?.name === '{count}.png' && !rcnn.waiting")
    page.evaluate(OBJECTS, [count, SIDE])
    return [page.evaluate(MOVE, score) for score in np.linspace(0, 0.9, MOVES).tolist()]


def measure_pan(page: Any) -> list[float]:
    """Milliseconds between frames while the picture is moved at full size."""
    return page.evaluate("""async () => {
      rcnn.viewer.setView({scale: 1, x: -3000, y: -3000});
      const times = [];
      let last = performance.now();
      for (let i = 0; i < 90; i++) {
        rcnn.viewer.pan(-25, -12);
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        times.push(now - last);
        last = now;
      }
      return times.slice(5);
    }""")


@contextlib.contextmanager
def tab(options: PageOptions) -> Iterator[tuple[Any, str]]:
    """A tab of a browser for a page that is served, which it does not yet show."""
    with page_server(options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            with sync_playwright() as playwright:
                path = shutil.which("chromium")
                browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
                yield browser.new_page(viewport={"width": 1440, "height": 900}), server.address
                browser.close()
        finally:
            server.stop()
            thread.join()


def main() -> None:
    """Print all of it."""
    folder = Path(tempfile.mkdtemp())
    images = folder / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (LARGE // 20, LARGE // 20, 3), np.uint8))
    small.resize((LARGE, LARGE), Image.Resampling.BICUBIC).save(images / "0.png", compress_level=1)
    for count in COUNTS:
        side = math.ceil(count**0.5) * (SIDE + 2)
        Image.new("L", (side, side)).save(images / f"{count}.png")
    with tab(PageOptions("nuclei", None, folder / "out")) as (page, address):
        page.goto(address)
        until(page, "() => window.rcnn?.state")
        print(f"first overlay after the drop of 512 x 640 pixels: {measure_drop(page, folder):.2f} s")
    with tab(PageOptions(None, images, folder / "large")) as (page, address):
        before, begin = resident(os.getpid()), time.perf_counter()
        page.goto(address)
        until(page, "() => window.rcnn?.info && rcnn.viewer.tiles.kept.size && rcnn.viewer.tiles.complete")
        print(f"{LARGE} x {LARGE} pixels, to all tiles on the screen: {time.perf_counter() - begin:.1f} s")
        print(f"moved at full size, milliseconds a frame: {told(measure_pan(page))}")
        until(page, "() => rcnn.viewer.tiles.complete")
        kept = page.evaluate("() => rcnn.viewer.tiles.kept.size")
        more = resident(os.getpid()) - before
        print(f"memory: {more:.0f} MB of the server, {kept} tiles of 1 MB in the browser")
        for count in COUNTS:
            print(f"slider, {count} objects, milliseconds: {told(measure_slider(page, count))}")
    shutil.rmtree(folder)


def told(times: list[float]) -> str:
    """The fastest, the median and the slowest."""
    return f"fastest {min(times):.1f}, median {statistics.median(times):.1f}, slowest {max(times):.1f}"


if __name__ == "__main__":
    main()
