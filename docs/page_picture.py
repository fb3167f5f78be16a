"""Draw ``docs/page.png``, the page as the README shows it: ``python docs/page_picture.py``.

Needs the extra ``app``, playwright and the system's chromium. The images are those that come with the model
for nuclei (BBBC038, CC0).
"""

import shutil
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from rcnn.loading import sample_images
from rcnn.serve.app.launch import PageOptions, page_server

SIZE = {"width": 1440, "height": 800}
READY = (
    "() => rcnn.shapes.length && !rcnn.waiting && rcnn.strip.images.every((image) => image.count !== null)"
)


def main() -> None:
    """Open the page, select an object, and keep a picture of it."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "nuclei"
        images.mkdir()
        for path in sample_images("nuclei"):
            shutil.copy(path, images)
        with page_server(PageOptions("nuclei", images)) as server:
            thread = threading.Thread(target=server.run)
            thread.start()
            with sync_playwright() as playwright:
                chromium = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                page = chromium.new_page(viewport=SIZE)  # type: ignore[arg-type]
                page.goto(server.address)
                page.get_by_role("button", name="Find in all images").click()
                while not page.evaluate(READY):
                    page.wait_for_timeout(200)
                page.evaluate("() => { document.querySelectorAll('.shot')[1].click(); }")
                page.wait_for_timeout(2000)
                page.evaluate("() => { rcnn.select(rcnn.table.rows[2]); rcnn.toolbar.choose('t'); }")
                page.wait_for_timeout(500)
                page.screenshot(path=Path(__file__).parent / "page.png")
                chromium.close()
            server.stop()
            thread.join()


if __name__ == "__main__":
    main()
