"""What the server says to requests that the page would never send."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.serve.app.launch import PageOptions, opened_workspace
from rcnn.serve.app.routes import application
from rcnn.serve.app.workspace import Workspace

POSTED = [
    "/api/images/0/changes", "/api/images/0/done", "/api/images/0/revert", "/api/images/0/explain",
    "/api/trainings", "/api/trainings/stop", "/api/trainings/resume", "/api/trainings/use", "/api/classes",
    "/api/model",
]  # fmt: skip
ODD: list[Any] = [
    [], 5, None, {"index": "a"}, {"index": -1}, {"index": 1e9}, {"changes": 5}, {"changes": [5]},
    {"changes": [{"id": 1}]}, {"changes": [{"id": "a", "object": 5}]},
    {"changes": [{"id": "a", "object": {"class": "x", "box": [0, 0, 5, 5]}}]},
    {"changes": [{"id": "a", "object": {"class": "x", "box": [0, 0, 5, 5], "stuff": True}}]},
    {"minutes": "x"}, {"minutes": [1]}, {"minutes": True}, {"at": 5}, {"at": [1, "b"]},
    {"at": [1, 2], "class": 5}, {"name": 5}, {"name": None}, {"name": ["a"]}, {"name": "../../etc"},
    {"name": " "}, {"min_score": "a"}, {"model": "x"}, {"model": 7},
]  # fmt: skip
RAW = [b"{", b"\xff\xfe", b"[" * 100_000, b'{"minutes": NaN}', b'{"index": Infinity}']
GOT = [
    "/api/images/1", "/api/images/99999999999999999999", "/api/images/0/tiles/9/0/0",
    "/api/images/0/tiles/0/7/0", "/api/images/0/tiles/0/0/0?channels=9", "/api/images/0/tiles/0/0/0?low=x",
    "/api/images/0/tiles/0/0/0?channels=1,x", "/api/images/0/found", "/api/images/0/found?model=9",
    "/api/images/0/found?model=-1", "/api/images/0/map", "/api/images?min_score=x", "/api/report",
    "/api/download/coco?image=5", "/api/download/no_such_format", "/api/download/os%3Asystem",
    "/api/download/coco", "/api/trainings/none",
]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """One blank image and no model."""
    folder = tmp_path / "views"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "a.png")
    with opened_workspace(PageOptions(None, folder)) as found:
        yield found


def answer(workspace: Workspace, method: str, address: str, content: bytes = b"") -> tuple[int, bytes]:
    """The status and the content with which a request is answered."""
    sent: list[Any] = []
    path, _, query = address.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "headers": [], "http_version": "1.1", "scheme": "http",
        "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2),
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(workspace)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    return sent[0]["status"], body


@pytest.mark.parametrize("address", POSTED)
def test_whatever_is_sent_is_refused_in_words_or_done(workspace: Workspace, address: str) -> None:
    for content in [*(json.dumps(one).encode() for one in ODD), *RAW]:
        status, body = answer(workspace, "POST", address, content)
        assert status in (200, 400), content[:80]
        if status == 400:
            assert json.loads(body)["error"], content[:80]
    assert not workspace.trainings.runs, "nothing was started"


@pytest.mark.parametrize("address", GOT)
def test_what_is_not_there_is_said(workspace: Workspace, address: str) -> None:
    status, body = answer(workspace, "GET", address)
    assert status == 400
    assert json.loads(body)["error"]


@pytest.mark.parametrize("path", ["/static/../routes.py", "/static/%2e%2e/routes.py", "/static/", "/static"])
def test_only_files_of_the_page_are_served(workspace: Workspace, path: str) -> None:
    status, _ = answer(workspace, "GET", path)
    assert status in (404, 405, 307)
