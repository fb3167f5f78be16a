"""The public interface is what was promised: every signature behind ``rcnn.__all__`` as in the snapshot."""

import difflib
import runpy
from typing import Any

import pytest

import rcnn
from conftest import ROOT


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "api"))


def test_signatures_are_those_of_the_snapshot(script: dict[str, Any]) -> None:
    promised = script["SNAPSHOT"].read_text(encoding="utf-8").splitlines()
    changed = [line for line in difflib.ndiff(promised, list(script["lines"]())) if line[0] in "+-"]
    assert not changed, "\n".join(
        [
            "the public interface changed; docs/stability.md says how a name is changed or removed.",
            "If it is meant: a line in CHANGELOG.md, and scripts/api --write",
            *changed,
        ]
    )


def test_every_public_name_is_in_it(script: dict[str, Any]) -> None:
    listed = {line.partition("(")[0] for line in script["lines"]() if "." not in line.partition("(")[0]}
    assert listed == set(rcnn.__all__)


def test_what_a_line_says(script: dict[str, Any]) -> None:
    """Kinds of parameters, defaults and types, of a method without the object itself."""

    class Cup:
        def fill(self, water: "rcnn.Masks", *, hot: bool = True, **more: int) -> "typing.Any": ...  # noqa: F821

        @property
        def full(self) -> bool: ...

    Cup.__module__ = "rcnn.cups"
    assert sorted(script["members"](Cup)) == [
        "fill(water: Masks, *, hot: bool = True, **more: int) -> Any",
        "full: bool",
    ]
