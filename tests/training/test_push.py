"""A model put on a stand-in of the Hugging Face Hub, and opened from there."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub import constants, errors
from typer.testing import CliRunner

import rcnn
from rcnn.cli import app
from rcnn.data.digests import pack_digests
from rcnn.inference.detector import Detector
from rcnn.io import hub
from rcnn.loading import load_detector
from rcnn.training.push import model_card
from rcnn.transform import Transform
from tiny import NAMES, tiny_network, tiny_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that pushing and opening need; files are kept in memory."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    created: ClassVar[list[dict[str, Any]]] = []
    refuses: ClassVar[bool] = False

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuses:
            self.answer(403, {"error": "You don't have the rights"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.created.append(asked)
            self.repositories.setdefault(name, {})
            self.answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer(200, {"files": files})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[name][line["value"]["path"]] = content
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self.answer(200, {"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self.answer(200, {"errors": [], "warnings": []})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, _, file = self.path.removeprefix("/").partition("/resolve/main/")
        if name not in self.repositories:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif file not in self.repositories[name]:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self.answer(404, {"error": "Entry not found"}, headers)
        else:
            content = self.repositories[name][file]
            tag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.repositories, Hub.created, Hub.refuses = {}, [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    recipe = tiny_recipe()
    info = {
        "metrics": {"mask/AP": 0.4567, "count": 12.0},
        "trained_on": pack_digests(["0" * 16, "1" * 16]),
        "category_ids": [3, 7],
    }
    detector = Detector(tiny_network(recipe), Transform(scale=1.5), NAMES, 0.42, info)
    return detector.save(tmp_path / "secret_folder" / "best.safetensors")


def test_a_pushed_model_is_the_same(stand_in: type[Hub], model: Path) -> None:
    words = ["push", str(model), "somebody/cells", "--private", "--license", "cc-by-4.0"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "use it with: rcnn predict hf://somebody/cells IMAGES" in done.output
    files = stand_in.repositories["somebody/cells"]
    assert set(files) == {"model.safetensors", "README.md"}
    assert stand_in.created[0].get("private") or stand_in.created[0].get("visibility") == "private"
    assert not any(b"secret_folder" in content for content in files.values())
    before, after = load_detector(model, "cpu"), rcnn.load("hf://somebody/cells", "cpu")
    assert isinstance(after, Detector)
    one, two = before.network.state_dict(), after.network.state_dict()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert (after.min_score, after.transform, after.class_names) == (0.42, before.transform, NAMES)
    assert after.info["trained_on"] == before.info["trained_on"]


def test_the_card(model: Path) -> None:
    card = model_card(load_detector(model, "cpu"), "somebody/cells", license="cc-by-4.0")
    _, header, text = card.split("---\n", 2)
    assert "library_name: rcnn\npipeline_tag: image-segmentation\n" in header
    assert 'license: "cc-by-4.0"' in header
    assert "# cells\n" in text
    assert "Classes (2): disk, square." in text
    assert "| mask/AP | 45.7 |" in text
    assert "count |" not in text.partition("## Measured")[2].partition("## Training")[0]
    assert "below a score of 0.42" in text
    assert "Trained on 2 images." in text
    assert "rcnn train DATA --from hf://somebody/cells" in text


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://cells", ValueError, "expected hf://USER/NAME"),
        ("hf://somebody/none", FileNotFoundError, "no such model or version; if it is private, log in"),
        ("hf://somebody/empty", FileNotFoundError, "it has no model.safetensors"),
    ],
)
def test_what_cannot_be_opened(
    address: str, error: type[Exception], message: str, stand_in: type[Hub]
) -> None:
    stand_in.repositories["somebody/empty"] = {}
    with pytest.raises(error, match=message):
        load_detector(address)


def test_what_cannot_be_pushed(stand_in: type[Hub], model: Path) -> None:
    with pytest.raises(ValueError, match="cells: expected USER/NAME"):
        rcnn.push(model, "cells")
    stand_in.refuses = True
    with pytest.raises(OSError, match=r"the Hub refused it .*log in with hf auth login"):
        rcnn.push(model, "somebody/cells")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs huggingface_hub: pip install .*hub"):
        hub.download_model("hf://somebody/cells")


def test_without_a_network_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise errors.LocalEntryNotFoundError("no file on disk, and no connection")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.hf_hub_download", offline)
        with pytest.raises(OSError, match="the Hub cannot be reached, and no copy"):
            hub.download_model("hf://somebody/cells")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"the Hub cannot be reached .*; nothing was written"):
        hub.upload_files("somebody/cells", {"a": b""})
