"""XML and YAML are read as plain values: nothing that they name is opened or run, and nothing expands."""

import time
from pathlib import Path

import pytest

from rcnn.io.xml import DEEPEST, parse_xml
from rcnn.io.yaml import parse_yaml

FILE = Path("a.file")
NESTED = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.mkdir [left_a_trace]", "not YAML of plain values"),
        ("a: !!python/name:os.system", "not YAML of plain values"),
        (NESTED, r"its aliases stand for [\d,]+ values; expected at most 1,000,000"),
        ("a: &a [*a]", "it contains itself"),
        ("[" * 5000 + "]" * 5000, "not YAML of plain values"),
        ("a: [1", "not YAML of plain values"),
        ("x" * 2_000_001, "a YAML file of 2,000,001 characters"),
    ],
    ids=["a call", "a name", "nested aliases", "itself", "depth", "damaged", "length"],
)
def test_yaml_that_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text, FILE)
    assert str(error.value).startswith("a.file: ")
    assert time.monotonic() - start < 5
    assert not list(tmp_path.iterdir())


def test_yaml_of_plain_values() -> None:
    assert parse_yaml("a: &a [1, No]\nb: *a", FILE) == {"a": [1, False], "b": [1, False]}
    assert parse_yaml("a: [1, No]", FILE, as_texts=True) == {"a": ["1", "No"]}
    assert parse_yaml("", FILE) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/hostname"><a/>', "declares a document type"),
        ("<a>&b;</a>", "undefined entity"),
        ("<a>" * (DEEPEST + 1) + "</a>" * (DEEPEST + 1), "more than 200 elements within one another"),
        ("<a>", "no element found"),
    ],
    ids=["an entity", "a file", "an unknown entity", "depth", "damaged"],
)
def test_xml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.file: this is not usable XML \(.*{message}"):
        parse_xml(text.encode(), FILE)
