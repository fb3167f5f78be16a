"""Lists in JSON files, read entry by entry: what json gives, or its fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from rcnn.data.formats import json_stream
from rcnn.data.formats.json_lists import NotJsonError, list_entries, value_without_list

ENTRIES = [{"a": [1, 2.5, {"b": None}], "text": 'quoted " and \\ and }]'}, [], 12, "ü", True, -1e3, {}]


@pytest.fixture(params=[1, 3, 2**20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """However little is read at once."""
    monkeypatch.setattr(json_stream, "CHUNK", request.param)
    return int(request.param)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("entries", [ENTRIES, []])
def test_a_list(tmp_path: Path, chunk: int, entries: list[Any], indent: int | None) -> None:
    path = written(tmp_path, json.dumps(entries, indent=indent, ensure_ascii=False))
    assert list(list_entries(path, "annotations")) == entries
    assert value_without_list(path, "annotations") == []


@pytest.mark.parametrize("first", [True, False])
def test_a_list_in_an_object(tmp_path: Path, chunk: int, first: bool) -> None:
    other = {"images": [{"id": 1}], "info": {"annotations": [5]}, "n": 10}
    content = {"annotations": ENTRIES} | other if first else other | {"annotations": ENTRIES}
    path = written(tmp_path, f"\ufeff {json.dumps(content)} \n")
    assert list(list_entries(path, "annotations")) == ENTRIES
    assert value_without_list(path, "annotations") == other | {"annotations": []}
    assert list(value_without_list(path, "annotations")) == list(content)


@pytest.mark.parametrize("content", [3, "text", None, {}, {"annotations": 3}])
def test_no_list(tmp_path: Path, chunk: int, content: Any) -> None:
    path = written(tmp_path, json.dumps(content))
    assert not list(list_entries(path, "annotations"))
    assert value_without_list(path, "annotations") == content


BROKEN = (
    "", "[", "[1", "[1,", "[1,]", "[1 2]", "[1]]", "{", '{"a"', '{"a":', '{"a": 1', '{"a": 1,}', "[nul]",
    '["a]', '{"annotations": [1, 2}', '{"annotations": [1] 3}', "{1: 2}",
)  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_a_fault_is_that_of_json(tmp_path: Path, chunk: int, text: str) -> None:
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(NotJsonError) as found:
        list(list_entries(written(tmp_path, text), "annotations"))
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "nested too deeply"), (f"[{'9' * 5000}]", "integer of thousands of digits")],
    ids=["deep", "long"],
)
def test_what_json_cannot_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NotJsonError, match=message):
        list(list_entries(written(tmp_path, text), "annotations"))


def test_two_lists_of_one_name(tmp_path: Path) -> None:
    path = written(tmp_path, '{"annotations": [1], "annotations": [2]}')
    with pytest.raises(NotJsonError, match="annotations twice"):
        list(list_entries(path, "annotations"))


def test_little_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    path = written(tmp_path, json.dumps([{"number": n} for n in range(20_000)]))
    longest = 0
    read = json_stream.Text.peek

    def watched(text: Any) -> Any:
        nonlocal longest
        found = read(text)
        longest = max(longest, len(text.window))
        return found

    monkeypatch.setattr(json_stream.Text, "peek", watched)
    assert sum(entry["number"] for entry in list_entries(path, "")) == sum(range(20_000))
    assert longest < 3000
