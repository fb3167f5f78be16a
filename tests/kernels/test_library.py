"""When there are kernels, and what is said when there are none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rcnn import kernels
from rcnn.kernels import library


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a library, on a CPU that can run all of it."""
    (tmp_path / library.LIBRARY).write_bytes(b"")
    record(tmp_path, compiler="gcc 12.2.0", sources="")
    flags = set().union(*library.SETS.values())
    monkeypatch.setattr(library, "cpu_flags", lambda: flags)
    for name in ("RCNN_KERNELS", "RCNN_COMPILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def record(folder: Path, **values: str) -> None:
    (folder / library.RECORD).write_text(json.dumps(values))


def reason(folder: Path) -> str:
    with pytest.raises(library.UnavailableError) as error:
        library.find(folder)
    return str(error.value)


def test_the_best_instruction_set_is_taken(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.find(built) == ("avx512", "gcc 12.2.0")
    monkeypatch.setattr(library, "cpu_flags", lambda: {"sse2", "avx", "avx2", "fma", "avx512f"})
    assert library.find(built) == ("avx2", "gcc 12.2.0")


def test_an_instruction_set_is_chosen_by_the_environment(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNN_KERNELS", "avx2")
    assert library.find(built)[0] == "avx2"
    monkeypatch.setattr(library, "cpu_flags", lambda: {"avx2", "fma"})
    monkeypatch.setenv("RCNN_KERNELS", "avx512")
    assert reason(built) == "this CPU has no AVX-512"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RCNN_KERNELS", "0", "disabled by RCNN_KERNELS=0"),
        ("RCNN_COMPILE", "0", "disabled by RCNN_COMPILE=0"),  # its name in 0.1.0
        ("RCNN_KERNELS", "sse", "RCNN_KERNELS=sse: expected 0, 1, avx512 or avx2"),
    ],
)
def test_the_environment_disables_them(
    built: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert reason(built) == expected


def test_an_old_cpu_has_none(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "cpu_flags", lambda: {"sse2", "avx"})
    assert reason(built) == "this CPU has no AVX-512 or AVX2"


def test_the_reason_of_the_build_is_kept(built: Path) -> None:
    record(built, missing="no C compiler (cc, gcc) when the package was built")
    assert reason(built) == "no C compiler (cc, gcc) when the package was built"


def test_sources_without_a_build_say_what_to_do(built: Path) -> None:
    (built / library.RECORD).unlink()
    assert "none were built with the package; install the package again" in reason(built)
    record(built, compiler="gcc 12.2.0", sources="")
    (built / library.LIBRARY).unlink()
    assert "is missing; install the package again" in reason(built)


def test_a_library_of_other_sources_is_not_used(built: Path) -> None:
    (built / "some.c").write_text("int one(void) { return 1; }")
    record(built, compiler="gcc 12.2.0", sources=library.digest(built))
    assert library.find(built)[0] == "avx512"
    (built / "some.c").write_text("int one(void) { return 2; }")
    assert "the C files have changed since they were built" in reason(built)


def test_a_damaged_library_is_an_error_that_is_told_apart(built: Path) -> None:
    with pytest.raises(OSError, match=str(built)):
        library.Library(built / library.LIBRARY, "avx2")


def run(code: str, **environment: str) -> list[str]:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", **environment},
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_status_is_a_line_and_needs_no_torch(value: str) -> None:
    (line, torch) = run(
        "import sys; from rcnn import kernels; print(kernels.status()); print('torch' in sys.modules)",
        RCNN_KERNELS=value,
    )
    assert torch == "False"
    assert line == "no kernels: disabled by RCNN_KERNELS=0" if value == "0" else line


def test_the_status_names_compiler_and_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: ("avx512", "gcc 12.2.0"))
    monkeypatch.setattr(library, "load", lambda: None)
    assert kernels.status() == "AVX-512 kernels, built with gcc 12.2.0"
