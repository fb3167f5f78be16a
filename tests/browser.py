"""The page in a real browser: the system's chromium, driven by Playwright."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rcnn.serve.app.launch import PageOptions, PageServer, page_server

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0  # seconds: a machine that runs other tests at the same time is slow


@dataclass
class Tab:
    """A tab of the browser.

    Attributes:
        page: Playwright's page.
        faults: errors on the console, and requests that leave the machine.
    """

    page: Any
    address: str
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        page = self.page
        page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.faults.append(f"request to {url}")

    def open(self, fragment: str = "") -> "Tab":
        """Open the page and wait until its objects are there."""
        self.page.goto(f"{self.address}{fragment}")
        self.until("() => window.rcnn?.state && (!rcnn.state.images || (rcnn.info && !rcnn.waiting))")
        return self

    def ask(self, script: str, argument: Any = None) -> Any:
        """What a script in the page returns."""
        return self.page.evaluate(script, argument)

    def until(self, script: str, seconds: float = PATIENCE) -> Any:
        """Wait until a script returns something; Playwright's own way needs eval, which the page forbids."""
        end = time.monotonic() + seconds
        while not (found := self.page.evaluate(script)):
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {script}"
            self.page.wait_for_timeout(30)
        return found

    def settled(self) -> None:
        """Wait until everything is saved and drawn."""
        self.until("() => !rcnn.edits.waiting.length && !rcnn.edits.working && !rcnn.waiting")
        self.ask("() => new Promise((resolve) => setTimeout(resolve, 120))")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where on the screen a place of the image is."""
        place = self.ask(
            """([x, y]) => { const box = rcnn.viewer.top.getBoundingClientRect(), view = rcnn.viewer.view;
            return [box.left + view.x + x * view.scale, box.top + view.y + y * view.scale]; }""",
            [x, y],
        )
        return place[0], place[1]

    def stroke(self, *places: tuple[float, float]) -> None:
        """Press at the first place of the image, move over the others, and let go."""
        mouse = self.page.mouse
        mouse.move(*self.at(*places[0]))
        mouse.down()
        for place in places[1:]:
            mouse.move(*self.at(*place), steps=4)
        mouse.up()
        self.settled()

    def click(self, x: float, y: float) -> None:
        """Click on a place of the image."""
        self.page.mouse.click(*self.at(x, y))
        self.settled()

    def key(self, key: str) -> None:
        """Press a key with the focus on the picture."""
        self.ask("() => rcnn.viewer.top.focus()")
        self.page.keyboard.press(key)
        self.settled()

    @property
    def objects(self) -> list[Any]:
        """What the server would keep of the objects shown."""
        found: list[Any] = self.ask("async () => rcnn.shown.map(rcnn.edits.plain)")
        return found


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(options: PageOptions) -> Iterator[PageServer]:
    """A page that is served by a thread of this process."""
    with page_server(options) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


@contextlib.contextmanager
def opened(browser: Any, address: str, fragment: str = "", **context: Any) -> Iterator[Tab]:
    """A tab with the page; at the end nothing went wrong in it."""
    context = {"viewport": {"width": 1440, "height": 900}, **context}
    own = browser.new_context(**context)
    try:
        tab = Tab(own.new_page(), address)
        yield tab.open(fragment)
        assert tab.faults == []
    finally:
        own.close()


def sample(name: str = "") -> Path:
    """A photograph that comes with the model for nuclei."""
    from rcnn.loading import sample_images

    images = sample_images("nuclei")
    return next(path for path in images if name in path.name)
