"""What the project says of itself in several places agrees, and what its workflows run is there."""

import re
import runpy
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_names_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    project = PROJECT["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [a["name"] for a in project["authors"]]
    assert citation["repository-code"] == project["urls"]["Homepage"]


@pytest.mark.parametrize("name", ["SECURITY.md", "CITATION.cff", ".github/ISSUE_TEMPLATE/config.yml"])
def test_addresses_of_the_project_are_one(name: str) -> None:
    home = PROJECT["project"]["urls"]["Homepage"]
    found = re.findall(r"https://github\.com/[\w-]+/[\w-]+", (ROOT / name).read_text(encoding="utf-8"))
    assert found
    assert set(found) == {home}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_are_one_line_and_call_what_is_there(path: Path) -> None:
    for job in read_yaml(path)["jobs"].values():
        for step in job["steps"]:
            command = step.get("run", "")
            assert "\n" not in command.strip(), command
            for script in re.findall(r"(?:^|\s)((?:scripts|\.ci)/\w+)", command):
                assert (ROOT / script).is_file(), f"{path.name} calls {script}"


def test_workflows_run_the_oldest_and_the_newest_python_and_every_system() -> None:
    matrix = read_yaml(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    stated = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert matrix["python"] == [stated[0], stated[-1]]
    assert PROJECT["project"]["requires-python"] == f">={stated[0]}"
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]


def test_the_layers_that_contributors_read_are_those_that_are_checked() -> None:
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    (listed,) = re.findall(r"Imports go downward only: (.+?) \(", CONTRIBUTING)
    named = re.findall(r"`(\w+)`", listed)
    assert named == contract["layers"][: len(named)]


def test_example_commits_exist() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs the repository's history")
    hashes = re.findall(r"`([0-9a-f]{7})`", CONTRIBUTING)
    assert len(hashes) >= 3
    question = ["git", "rev-parse", "--is-shallow-repository"]
    shallow = subprocess.run(question, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if shallow.strip() == "true":
        pytest.skip("needs the whole history")
    for each in hashes:
        done = subprocess.run(["git", "cat-file", "-e", f"{each}^{{commit}}"], cwd=ROOT, check=False)
        assert done.returncode == 0, each


def test_lowest_versions() -> None:
    """Every requirement has a lower bound; where an extra asks for more, that counts with it alone."""
    lowest = runpy.run_path(str(ROOT / "scripts" / "oldest"))["lowest"]
    plain, exporting = lowest([]), lowest(["export"])
    assert len(plain) > len(PROJECT["project"]["dependencies"])
    assert set(plain) < set(exporting)
    table = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    oldest = "; ".join(f"{found['torch']}, {found['torchvision']}" for found in (plain, exporting))
    assert f"| torch, torchvision | {oldest} to export |" in table


def test_numbers_of_versions_are_compared_as_numbers() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "oldest"))
    assert max("1.9", "1.10", key=script["_numbers"]) == "1.10"
    with pytest.raises(SystemExit, match="'torch' has no lower bound"):
        list(script["bounds"](["torch"]))


def test_the_faults_of_a_wheel_are_found(tmp_path: Path) -> None:
    """A wheel with tests and C sources, without the package, and with a name that promises kernels."""
    package = runpy.run_path(str(ROOT / "scripts" / "package"))
    wheel = tmp_path / "rcnn-1-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (
            "rcnn/__init__.py",
            "rcnn/kernels/nms.c",
            "tests/test_api.py",
            "rcnn-1.dist-info/RECORD",
        ):
            archive.writestr(name, "")
    faults = list(package["faults_of_wheel"](wheel))
    assert "rcnn/kernels/nms.c is not needed at run time" in faults
    assert "tests/test_api.py is not needed at run time" in faults
    assert "rcnn/transform.py is missing" in faults
    assert faults[-1] == "a wheel with this name lacks compiled kernels"
    assert not any("dist-info" in fault or "__init__.py is not" in fault for fault in faults)
