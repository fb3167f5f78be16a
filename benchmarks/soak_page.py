"""The soak's visitor of the page: corrects images over HTTP, and knows what was acknowledged."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rcnn.serve.app.collection import ANNOTATIONS

CLASS = "disk"
PATIENCE = 120.0  # seconds until the page has to answer
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S+/")


@dataclass
class Acknowledged:
    """What the page said is saved, and what it was asked last without having answered.

    Attributes:
        drawn: image name to the ids of the objects that were drawn there.
        done: the images that were marked done.
        asked: the image of the request that is under way; None: there is none.
    """

    drawn: dict[str, set[str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    asked: str | None = None


class Visitor(threading.Thread):
    """Waits for the page's address, compares what is there with what was acknowledged, and corrects on.

    Attributes:
        finds: what should not be.
        begun: a file that appears when the visitor begins to correct, for whoever ends the page.
        finished: a file that appears when it is through.
    """

    def __init__(self, folder: Path, known: Acknowledged, rng: random.Random, corrections: int) -> None:
        """A visitor of the page that is started in ``folder``; it makes some corrections."""
        super().__init__(daemon=True)
        self.finds: list[str] = []
        self.begun, self.finished = folder / "begun", folder / "finished"
        self._folder, self._known, self._rng, self._corrections = folder, known, rng, corrections
        self._stopped = threading.Event()

    def leave(self) -> None:
        """Called once the page has ended: whatever fails now is no find."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Visit."""
        try:
            address = self._address()
            images = json.loads(_ask(f"{address}api/images"))
            self.finds += self._lost(address, images)
            self.begun.touch()
            for _ in range(self._corrections):
                self._correct(address, self._rng.choice(images))
            self.finished.touch()
        except (OSError, ValueError) as error:
            time.sleep(0.5)  # whoever ended the page is about to say so
            if not self._stopped.wait(20):
                self.finds.append(f"the page failed while it ran: {error!r}")

    def _address(self) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not self._stopped.is_set():
            for file in self._folder.glob("printed-*"):
                found = ADDRESS.search(file.read_text(encoding="utf-8", errors="replace"))
                if found:
                    return found.group()
            time.sleep(0.05)
        raise OSError("the page's address was not printed")

    def _lost(self, address: str, images: list[dict[str, Any]]) -> list[str]:
        """What was acknowledged before and is not there now."""
        finds = []
        for image in images:
            drawn = self._known.drawn.get(image["name"], set())
            if drawn:
                draft = json.loads(_ask(f"{address}api/images/{image['number']}"))["draft"]
                there = {one["id"] for one in draft["objects"]} if draft else set()
                finds += [f"{image['name']}: lost {sorted(drawn - there)}"] if drawn - there else []
            if image["name"] in self._known.done and image["status"] not in ("done", "changed"):
                finds.append(f"{image['name']}: was done, is {image['status']}")
        return finds

    def _correct(self, address: str, image: dict[str, Any]) -> None:
        """Draw an object, or mark the image done."""
        name, number = image["name"], image["number"]
        self._known.asked = name
        if self._rng.random() < 0.3:
            _ask(f"{address}api/images/{number}/done", {"done": True, "model": 0})
            self._known.done.add(name)
        else:
            drawn = self._known.drawn.setdefault(name, set())
            x, y = self._rng.uniform(0, 40), self._rng.uniform(0, 40)
            new = f"s{len(drawn)}"
            one = {"id": new, "class": CLASS, "box": [x, y, x + 8, y + 9]}
            changes = [{"id": new, "object": one, "rev": None}]
            _ask(f"{address}api/images/{number}/changes", {"changes": changes, "model": 0})
            drawn.add(new)
        self._known.asked = None


def written_differs(out: Path, known: Acknowledged) -> list[str]:
    """Where the data set that corrections wrote is not what was acknowledged."""
    file = out / ANNOTATIONS
    if not file.exists():
        return ["there is no data set of what is done"] if known.done else []
    try:
        images = json.loads(file.read_bytes())["images"]
    except (ValueError, KeyError) as error:
        return [f"the data set of what is done is damaged: {error!r}"]
    names = {Path(image["file_name"]).name for image in images}
    done = {Path(name).name for name in known.done}
    allowed = {Path(known.asked).name} if known.asked else set()
    if done <= names <= done | allowed:
        return []
    return [f"the data set has {sorted(names)}, done are {sorted(done)}"]


def _ask(address: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as answer:
        return answer.read()  # type: ignore[no-any-return]
