"""The build hook: what it compiles, what it says when it cannot, and the wheels that it makes."""

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from rcnn.kernels import library

ROOT = Path(__file__).parents[2]
pytest.importorskip("hatchling")
needs_gcc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64" or shutil.which("gcc") is None,
    reason="needs Linux on x86-64 and gcc",
)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("RCNN_KERNELS", "RCNN_COMPILE", "CC"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(hook: ModuleType, folder: Path) -> str:
    compiler: str = hook.build(ROOT / hook.FOLDER, folder / library.LIBRARY)
    return compiler


@needs_gcc
def test_the_library_has_every_function_and_no_openmp_of_its_own(hook: ModuleType, tmp_path: Path) -> None:
    assert build(hook, tmp_path).startswith("gcc ")
    read = shutil.which("readelf")
    if read is None:
        pytest.skip("needs readelf")
    said = subprocess.run(
        [read, "--wide", "--dynamic", "--dyn-syms", tmp_path / library.LIBRARY],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
    assert set(needed) <= {"libc.so.6", "libm.so.6"}
    assert "GOMP_parallel" in said
    for name in library._ARGUMENTS:
        for instructions in library.SETS:
            assert f" {name}_{instructions}\n" in said


def test_instruction_sets_are_those_that_are_looked_for(hook: ModuleType) -> None:
    assert set(hook.SETS) == set(library.SETS)
    for name, flags in hook.SETS.items():
        assert {flag for flag in flags if "tune" not in flag} == {f"-m{each}" for each in library.SETS[name]}


@needs_gcc
def test_a_compiler_that_fails_gives_way_to_the_next(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    assert build(hook, tmp_path).startswith("gcc ")


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("RCNN_KERNELS", "RCNN_KERNELS=0 when the package was built"),
        ("RCNN_COMPILE", "RCNN_COMPILE=0 when the package was built"),
        ("darwin", "they are for Linux on x86-64, not darwin"),
        ("none", r"no C compiler \(cc, gcc\) when the package was built"),
        ("false", "false failed"),
        ("clang", "is clang, whose OpenMP is not torch's"),
        ("hangs", "did not finish"),
    ],
)
def test_the_reason_is_kept_where_nothing_is_compiled(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin" if why == "darwin" else "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    if why.startswith("RCNN"):
        monkeypatch.setenv(why, "0")
    found = {"none": None, "false": "/bin/false"}.get(why, "/usr/bin/cc")
    monkeypatch.setattr(shutil, "which", lambda _: found)
    if why in ("clang", "hangs"):

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            if why == "hangs":
                raise subprocess.TimeoutExpired(command, 120)
            return subprocess.CompletedProcess(command, 0, "#define __clang__ 1\n")

        monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(hook.NotCompiledError, match=expected):
        build(hook, tmp_path)


@needs_gcc
@pytest.mark.parametrize("value", ["1", "0"])
def test_a_wheel_carries_the_library_or_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("RCNN_KERNELS", value)
    # Not in the tests' own checkout: only what a wheel is made of, without what the editable one compiled.
    shutil.copytree(ROOT, tmp_path / "tree", ignore=_not_in_a_wheel)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "tree", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        record = json.loads(opened.read(f"rcnn/kernels/{library.RECORD}"))
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl" if value == "1" else "-py3-none-any.whl")
    assert (f"rcnn/kernels/{library.LIBRARY}" in names) == (value == "1")
    assert set(record) == ({"compiler", "sources"} if value == "1" else {"missing"})
    assert not any(name.endswith((".c", ".h")) for name in names)


def _not_in_a_wheel(folder: str, names: list[str]) -> set[str]:
    if Path(folder) == ROOT:
        kept = ("src", "recipes", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", "trained")
        return set(names) - set(kept)
    return {name for name in names if name.endswith((".so", ".safetensors", ".onnx", ".pyc"))}
