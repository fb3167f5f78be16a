"""Compile the C kernels of ``rcnn.kernels`` when a wheel or an editable installation is built.

One library holds every kernel for each instruction set of ``SETS``; ``rcnn.kernels.library`` chooses at run
time. It calls OpenMP without being linked to it: torch's own copy answers, so there is never a second one in
a process. Where nothing can be compiled the package is pure Python, and ``_built.json`` keeps the reason for
``rcnn.kernels.status``, as pip hides what a hook prints.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Scheduled for the first CPUs of each kind: by gcc's generic scheduling RoIAlign takes twice the time.
SETS = {
    "avx2": ("-mavx2", "-mfma", "-mtune=haswell"),
    "avx512": (
        "-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mtune=skylake-avx512",
    ),
}  # fmt: skip
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fopenmp")
FOLDER = "src/rcnn/kernels"


class NotCompiledError(Exception):
    """There will be no kernels; the message says why."""


class KernelsHook(BuildHookInterface[Any]):
    """Adds the library and its record to a wheel; an editable installation has them beside the sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of the wheel are collected."""
        sources = Path(self.root) / FOLDER
        names = _load(sources / "library.py")
        self._made = tempfile.TemporaryDirectory()
        made = Path(self._made.name)
        try:
            record = {"compiler": build(sources, made / names.LIBRARY), "sources": names.digest(sources)}
        except NotCompiledError as error:
            record = {"missing": str(error)}
            self.app.display_warning(f"rcnn is built without compiled kernels: {error}")
        (made / names.RECORD).write_text(json.dumps(record) + "\n")
        if "compiler" in record:
            build_data["pure_python"] = False
            # No Python or torch is linked: one wheel for every version of both.
            build_data["tag"] = "py3-none-linux_x86_64"
        if version == "editable":
            (sources / names.LIBRARY).unlink(missing_ok=True)
            for file in made.iterdir():  # moved as a whole: a process may have the former one loaded
                shutil.copyfile(file, sources / f"{file.name}.new")
                (sources / f"{file.name}.new").replace(sources / file.name)
        else:
            build_data["force_include"] |= {str(file): f"rcnn/kernels/{file.name}" for file in made.iterdir()}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for a wheel."""
        self._made.cleanup()


def _load(file: Path) -> Any:
    """A module of the package by itself: the package's dependencies need not be here."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(sources: Path, library: Path) -> str:
    """Compile the C files of a folder into ``library``; returns the compiler's name and version.

    Raises:
        NotCompiledError: not on this system, not wanted, or no compiler that can.
    """
    for name in ("RCNN_KERNELS", "RCNN_COMPILE"):
        if os.environ.get(name) == "0":
            raise NotCompiledError(f"{name}=0 when the package was built")
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        raise NotCompiledError(f"they are for Linux on x86-64, not {sys.platform} on {platform.machine()}")
    compilers = dict.fromkeys(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc"))))
    failures = []
    for compiler in compilers:
        try:
            return _build_with(compiler, sources, library)
        except NotCompiledError as error:
            failures.append(str(error))
    raise NotCompiledError(
        "; ".join(failures) or "there was no C compiler (cc, gcc) when the package was built"
    )


def _build_with(compiler: str, sources: Path, library: Path) -> str:
    macros = _run(compiler, "-dM", "-E", "-x", "c", os.devnull)
    if "__clang__" in macros:
        raise NotCompiledError(f"{compiler} is clang, whose OpenMP is not torch's; gcc is needed")
    version = _run(compiler, "-dumpfullversion").strip()
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for name, flags in SETS.items():
            for source in sorted(sources.glob("*.c")):
                objects.append(str(Path(folder) / f"{source.stem}_{name}.o"))
                _run(compiler, *FLAGS, *flags, "-c", str(source), "-o", objects[-1])
        # Without -fopenmp: that would link the compiler's libgomp.
        _run(compiler, "-shared", *objects, "-o", str(library), "-lm")
    return f"gcc {version}"


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, timeout=120, text=True, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise NotCompiledError(f"{command[0]} did not finish") from error
    except subprocess.CalledProcessError as error:
        raise NotCompiledError(f"{command[0]} failed: {(error.stderr or '').strip()[-500:]}") from error
    except OSError as error:
        raise NotCompiledError(f"{command[0]}: {error}") from error
    return done.stdout
