"""The soak: what it looks for is found, and a rehearsal in which nothing is."""

import json
import os
import random
import signal
import sys
from pathlib import Path

import pytest
from benchmarks import soak_page, soak_traces
from benchmarks.soak import soak
from benchmarks.soak_page import Acknowledged, Visitor, written_differs
from benchmarks.soak_resident import grown
from benchmarks.soak_rounds import ROUNDS, Round, _trees_differ
from benchmarks.soak_traces import Kill, run, strays

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

ANSWERS = """
import os, signal, sys, tempfile, time
signal.signal(signal.SIGTERM, lambda *_: {answer})
tempfile.mkdtemp()
open("begun", "w").close()
time.sleep(60)
"""


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_what_a_command_leaves_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_traces, "PATIENCE", 0.2)
    leaves = (
        "import os, tempfile, time; tempfile.mkdtemp(prefix='mine')\n"
        "if os.fork() == 0: os.setsid(); time.sleep(60)"
    )
    ended = run(python(leaves), tmp_path, dict(os.environ))
    assert ended.code == 0
    assert [find.partition(": ")[0] for find in ended.finds] == ["process left", "left in TMPDIR"]
    assert not run(python("print('nothing')"), tmp_path, dict(os.environ)).finds


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("sys.exit(143)", ["left in TMPDIR"]),
        ("sys.exit(3)", ["left in TMPDIR", "SIGTERM was answered with exit code 3"]),
        ("1 / 0", ["left in TMPDIR", "SIGTERM was answered with exit code 1"]),
    ],
)
def test_how_a_command_answers_a_signal_is_found(answer: str, found: list[str], tmp_path: Path) -> None:
    kill = Kill(signal.SIGTERM, 0.0, tmp_path / "begun")
    ended = run(python(ANSWERS.format(answer=answer)), tmp_path, dict(os.environ), kill)
    assert ended.answers
    assert ended.killed == signal.SIGTERM
    assert [find.partition(": ")[0] for find in ended.finds][: len(found)] == found
    assert ("with a traceback" in str(ended.finds)) == (answer == "1 / 0")


def test_a_command_that_ends_before_its_signal(tmp_path: Path) -> None:
    ended = run(python(""), tmp_path, dict(os.environ), Kill(signal.SIGKILL, 60.0))
    assert (ended.code, ended.killed, ended.finds) == (0, None, [])


def test_strays_and_differences_are_found(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "table.csv").write_text(folder)
    (tmp_path / "one" / ".more").mkdir()
    (tmp_path / "one" / "table.part").write_text("")
    assert sorted(strays(tmp_path)) == ["left over: one/.more", "left over: one/table.part"]
    assert strays(tmp_path, (".more", "table.part")) == []
    assert _trees_differ(tmp_path / "one", tmp_path / "two") == [
        "table.csv is not as without interruption", "table.part is not as without interruption",
    ]  # fmt: skip


def test_memory_that_grows_is_found() -> None:
    flat = {"requests": 40, "mb": [500, 700, 705, 710], "files": [5, 5], "threads": [1, 1]}
    assert grown(flat) == []
    assert grown({**flat, "mb": [500, 700, 730, 760]}) == ["memory grew from 700 to 760 MB"]
    assert grown({**flat, "files": [5, 9]}) == ["files grew from 5 to 9"]


def test_lost_corrections_are_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Acknowledged({"a.png": {"s0", "s1"}}, {"a.png", "b.png"})
    draft = b'{"draft": {"objects": [{"id": "s0"}]}}'
    monkeypatch.setattr(soak_page, "_ask", lambda address, body=None: draft)
    visitor = Visitor(tmp_path, known, random.Random(0), 0)
    images = [{"name": "a.png", "number": 0, "status": "changed"}]
    images += [{"name": "b.png", "number": 1, "status": "draft"}]
    assert visitor._lost("http://page/", images) == ["a.png: lost ['s1']", "b.png: was done, is draft"]


@pytest.mark.parametrize(
    ("names", "asked", "finds"),
    [
        (None, None, 1), (["a.png"], None, 1), (["a.png", "b.png"], None, 0),
        (["a.png", "b.png", "c.png"], None, 1), (["a.png", "b.png", "c.png"], "c.png", 0),
    ],
)  # fmt: skip
def test_the_data_set_is_what_was_acknowledged(
    names: list[str] | None, asked: str | None, finds: int, tmp_path: Path
) -> None:
    if names is not None:
        images = [{"file_name": f"../images/{name}"} for name in names]
        (tmp_path / "annotations.json").write_text(json.dumps({"images": images}))
    known = Acknowledged({}, {"a.png", "b.png"}, asked)
    assert len(written_differs(tmp_path, known)) == finds


def test_a_round_that_fails_is_a_find_and_its_folder_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object, done: Round) -> None:
        assert isinstance(done.rng, random.Random)
        (done.folder / "trace").touch()
        raise RuntimeError("as planned")

    monkeypatch.setitem(ROUNDS, "broken", broken)
    summary = json.loads(soak(tmp_path / "soak", 0, kinds=("broken",)).read_text())
    assert summary["rounds"] == {"broken": 1}
    assert "as planned" in summary["finds"][0]["find"]
    assert (tmp_path / "soak" / "kept" / "00000-broken" / "trace").exists()


@pytest.mark.parametrize("kinds", [("convert",), pytest.param(tuple(ROUNDS), marks=pytest.mark.slow)])
def test_a_rehearsal_finds_nothing(kinds: tuple[str, ...], tmp_path: Path) -> None:
    summary = json.loads(soak(tmp_path / "soak", 0, seed=1, kinds=kinds).read_text())
    assert summary["finds"] == []
    assert set(summary["rounds"]) == set(kinds)
    assert not list((tmp_path / "soak" / "rounds").iterdir())
