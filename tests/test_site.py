"""The documentation site: its links, and that it documents every public name. scripts/docs builds it."""

import re
import runpy

import pytest

import rcnn
from conftest import ROOT

pytest.importorskip("mkdocs", reason="of the extra docs")
hooks = runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))
TABLE_ROW = re.compile(r"\| `(rcnn\.[\w.]+)` \|$", re.M)  # the last column of the table in extending.md


def documented() -> set[str]:
    """What the pages of the API reference are made of."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    return {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)}


def test_every_public_name_is_documented_once_and_listed() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    for name in rcnn.__all__:
        assert len(re.findall(rf"^::: rcnn\.{name}$", pages, re.M)) == 1, name


def test_every_table_to_extend_is_documented() -> None:
    tables = TABLE_ROW.findall((ROOT / "docs" / "extending.md").read_text("utf-8"))
    assert len(tables) == 7
    assert set(tables) <= documented()


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("index.md", "[a](docs/data.md#coco)", "[a](data.md#coco)"),
        ("index.md", "![a picture](docs/lineage/fpn.png)", "![a picture](lineage/fpn.png)"),
        ("index.md", "the [licence](LICENSE), free", "the licence, free"),
        ("speed.md", "[a](../README.md#results) [b](lineage.md)", "[a](index.md#results) [b](lineage.md)"),
        ("lineage.md", "[`code`](../src/rcnn/parts/rpn.py)", "`code`"),
        ("api/data.md", "[formats](../data.md)", "[formats](../data.md)"),
        ("benchmarks.md", "[a](../docs/speed.md)", "[a](speed.md)"),
        ("data.md", "[a](https://arxiv.org/abs/1703.06870) [b](#coco)", None),
    ],
)
def test_links_of_the_repository_lead_to_the_pages(page: str, text: str, expected: str | None) -> None:
    assert hooks["site_links"](text, page) == (text if expected is None else expected)


def test_a_link_to_nothing_is_refused() -> None:
    with pytest.raises(Exception, match=r"docs/data\.md: the link to \.\./nothing\.md leads to no file"):
        hooks["site_links"]("[a](../nothing.md)", "data.md")


@pytest.mark.parametrize(
    ("element", "is_refused"),
    [
        ('<script src="https://example.org/a.js"></script>', True),
        ('<link href="//example.org/a.css" rel="stylesheet">', True),
        ('<a href="https://arxiv.org/abs/1703.06870">paper</a>', False),
        ('<script src="assets/a.js"></script>', False),
    ],
)
def test_what_is_loaded_from_another_site_is_refused(element, is_refused, tmp_path) -> None:
    (tmp_path / "page.html").write_text(f"<html>{element}</html>", encoding="utf-8")
    config = type("Config", (), {"site_dir": str(tmp_path)})()
    if is_refused:
        with pytest.raises(Exception, match=r"page\.html loads from another site: <"):
            hooks["on_post_build"](config)
    else:
        hooks["on_post_build"](config)


def test_code_is_left_alone() -> None:
    page = type("Page", (), {"file": type("File", (), {"src_uri": "data.md"})()})()
    text = "```\n[a](../nothing.md)\n```\n"
    assert hooks["on_page_markdown"](text, page, None, None) == text
