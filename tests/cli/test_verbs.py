"""Every verb of the command line has its function in ``rcnn`` itself, and calls that one."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main

import rcnn
from conftest import ROOT
from rcnn import cli


def verbs() -> dict[str, Callable[..., Any]]:
    """All of them, as they are typed: ``data check``."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Callable[..., Any]]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            yield " ".join(words), command.callback

    return dict(walk(typer.main.get_command(cli.app), ()))


def documented() -> list[tuple[str, str]]:
    """Command and function in each row of the table in docs/python.md."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `rcnn ([^`]+)` \| `rcnn\.(\w+)` \|", text, re.M)


def imported_by(callback: Callable[..., Any]) -> set[tuple[str, str]]:
    """Module and name of what a verb's function imports when it runs."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(callback))))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {(str(node.module), alias.name) for node in nodes for alias in node.names}


def test_every_verb_has_a_function_and_every_row_a_verb() -> None:
    rows = {command.partition(" --")[0] for command, _ in documented()}
    assert rows == set(verbs()) - {"app"}, "the page is for people"


@pytest.mark.parametrize(("command", "function"), documented(), ids=lambda word: word)
def test_a_verb_calls_the_function_that_is_documented(command: str, function: str) -> None:
    verb, _, option = command.partition(" --")
    assert function in rcnn.__all__
    assert rcnn._HOMES[function] in imported_by(verbs()[verb])
    assert not option or f"{option.partition('=')[0]}:" in inspect.getsource(inspect.unwrap(verbs()[verb]))
    assert (getattr(rcnn, function).__doc__ or "").strip()


def test_what_can_be_named_is_listed() -> None:
    known = rcnn.list_models()
    assert "mask_rcnn" in known.models
    assert "efficientnet_lite0" in known.backbones
    assert known.recipes["light_mask_rcnn"] == ("mask_rcnn", "efficientnet_lite0")
    assert known.shipped["nuclei"].is_file()
    assert known.published["maskrcnn_resnet50_fpn_coco"].startswith("https://")
    known.models.clear()
    assert rcnn.list_models().models
