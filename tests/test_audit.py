"""Known vulnerabilities of dependencies end the gate; a missing network does not."""

import json
import runpy
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
AUDIT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "audit"))


@pytest.mark.parametrize(
    ("package", "version", "found"),
    [
        ("torch", "2.5.1", {"CVE-2025-32434", "CVE-2026-24747", "CVE-2026-4538"}),
        ("torch", "2.10.0", {"CVE-2026-4538"}),
        ("torch", "2.11.0", set()),
        ("pillow", "11.2.1", {"CVE-2025-48379", "CVE-2026-112403"}),
        ("pillow", "13.0.0", set()),
        ("something-else", "0.1", set()),
    ],
)
def test_versions_are_compared_with_the_list(package: str, version: str, found: set[str]) -> None:
    lines = list(AUDIT["known"]({package: version}))
    assert {line.split(": ")[1].split(",")[0] for line in lines} == found


def test_every_row_says_where_it_was_read() -> None:
    rows = AUDIT["rows"]()
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["source"].startswith("https://"), row
        SpecifierSet(row["versions"])


def test_it_passes_here_without_a_network() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit", "--offline"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "packages compared with vulnerable.toml; advisories were not asked: --offline." in done.stdout


def test_a_service_that_cannot_be_reached_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nConnectionError: no network")
    monkeypatch.setitem(AUDIT["advised"].__globals__, "find_spec", lambda _: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert AUDIT["advised"]() == ([], "ConnectionError: no network")


def test_advisories_that_an_update_ends_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a", ["1.1"]), ("b", []), ("pip", ["9"]), ("c", None)]
    found = [
        {"name": name, "version": "1.0"}
        | ({} if fix is None else {"vulns": [{"id": "X", "fix_versions": fix}]})
        for name, fix in rows
    ]
    done = subprocess.CompletedProcess([], 1, stdout=json.dumps({"dependencies": found}), stderr="")
    monkeypatch.setitem(AUDIT["advised"].__globals__, "find_spec", lambda _: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert AUDIT["advised"]() == (["a 1.0: X, update to 1.1"], "")


def test_our_own_limits_allow_no_vulnerable_version() -> None:
    """The lowest versions that pyproject.toml allows are not in the list, unless a row says why."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    lowest = {}
    for requirement in map(Requirement, named):
        versions = [spec.version for spec in requirement.specifier if spec.operator == ">="]
        if versions:
            lowest[canonicalize_name(requirement.name)] = versions[0]
    assert "torch" in lowest
    allowed = {row["id"] for row in AUDIT["rows"]() if "allowed" in row}
    found = {line.split(": ")[1].split(",")[0] for line in AUDIT["known"](lowest)}
    assert found <= allowed
