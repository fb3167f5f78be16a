"""The compiled library: whether it is there, whether this CPU can run it, and how it is loaded.

``hatch_build.py`` makes it when the package is built, and leaves a record beside it of the compiler and the
sources, or of why there is none. Nothing here imports torch before the library is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
LIBRARY, RECORD = "_kernels.so", "_built.json"
AGAIN = "install the package again (pip install -e .) to compile them"
# The instruction sets that kernels are compiled for, the best first, and the flags by which Linux says that
# the CPU and the system can run them.
SETS = {
    "avx512": ("avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"),
    "avx2": ("avx2", "fma"),
}
NAMES = {"avx512": "AVX-512", "avx2": "AVX2"}

_number, _pointer, _count = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rcnn_lanes": (),
    "rcnn_wide": (),
    "rcnn_winograd": (
        _pointer, _number, _number, _number, _number, _pointer, _pointer, _number, _pointer, _count, _pointer,
        _count,
    ),
    "rcnn_pointwise": (
        _pointer, _number, _number, _number, _number, _number, _pointer, _pointer, _number, _pointer, _number,
        _number, _count, _pointer, _count,
    ),
    "rcnn_depthwise": (
        _pointer, _number, _number, _number, _number, _pointer, _pointer, _number, _number, _number, _number,
        _number, _number, _count, _pointer, _count,
    ),
    "rcnn_roi_align": (
        _pointer, _pointer, _pointer, _number, _number, _number, _pointer, _pointer, _pointer, _number,
        _number, _number, _count, _pointer, _count,
    ),
    "rcnn_nms": (_pointer, _number, _pointer, _number, ctypes.c_float, _pointer, _count),
}  # fmt: skip


class UnavailableError(Exception):
    """There are no compiled kernels; the message says why."""


class Library:
    """The C functions for one instruction set, as attributes: ``library.rcnn_nms``.

    Args:
        path: the shared library; OpenMP must be in the process already, see :func:`load`.
        instructions: a key of ``SETS`` that this CPU can run.

    Raises:
        OSError: it cannot be loaded, or lacks a function.
    """

    def __init__(self, path: Path, instructions: str) -> None:
        loaded = ctypes.CDLL(str(path))
        for name, arguments in _ARGUMENTS.items():
            try:
                function = getattr(loaded, f"{name}_{instructions}")
            except AttributeError as error:
                raise OSError(str(error)) from error
            function.argtypes = arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        """For the type checker: what ``__init__`` has not set is not there."""
        raise AttributeError(name)


def digest(sources: Path) -> str:
    """A hash of a folder's C files; empty where there are none, as in a wheel."""
    files = sorted(sources.glob("*.[ch]"))
    text = b"\0".join(file.read_bytes() for file in files)
    return hashlib.sha256(text).hexdigest()[:16] if files else ""


def find(folder: Path = FOLDER) -> tuple[str, str]:
    """The instruction set to use and the compiler that built the library.

    Raises:
        UnavailableError: there is no library, or this CPU cannot run it, or ``RCNN_KERNELS=0``.
    """
    wanted = _wanted()
    try:
        record: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {"missing": f"none were built with the package; {AGAIN}"}
    if "missing" in record:
        raise UnavailableError(record["missing"])
    if not (folder / LIBRARY).is_file():
        raise UnavailableError(f"{folder / LIBRARY} is missing; {AGAIN}")
    if digest(folder) not in ("", record["sources"]):
        raise UnavailableError(f"the C files have changed since they were built; {AGAIN}")
    flags = cpu_flags()
    able = [name for name in wanted if flags.issuperset(SETS[name])]
    if not able:
        raise UnavailableError(f"this CPU has no {' or '.join(NAMES[name] for name in wanted)}")
    return able[0], record["compiler"]


@functools.cache
def load() -> Library:
    """The library for this CPU.

    Raises:
        UnavailableError: see :func:`find`; or torch is missing, or has no OpenMP that they can share.
    """
    instructions, _ = find()
    try:
        _share_openmp()
        return Library(FOLDER / LIBRARY, instructions)
    except (ImportError, OSError) as error:
        raise UnavailableError(str(error)) from error


def _wanted() -> list[str]:
    """The instruction sets that the environment allows."""
    # RCNN_COMPILE=0 disabled compiling in 0.1.0, and so the kernels.
    if os.environ.get("RCNN_COMPILE") == "0":
        raise UnavailableError("disabled by RCNN_COMPILE=0")
    value = os.environ.get("RCNN_KERNELS", "1").lower()
    if value == "0":
        raise UnavailableError("disabled by RCNN_KERNELS=0")
    if value in SETS:
        return [value]
    if value != "1":
        raise UnavailableError(f"RCNN_KERNELS={value}: expected 0, 1, {' or '.join(SETS)}")
    return list(SETS)


def cpu_flags() -> set[str]:
    """What the CPU can do and the system lets it."""
    return set(cpu_field("flags").split())


def cpu_field(name: str) -> str:
    """What Linux says about the first processor, such as its ``model name``; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(name)), "").partition(":")[2].strip()


def _share_openmp() -> None:
    """Let the library's calls of OpenMP find the copy that torch has loaded.

    torch usually offers its symbols to the whole process already; this does not depend on it.
    """
    import torch  # noqa: F401

    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = sorted({line.split(maxsplit=5)[-1] for line in maps if "/lib" in line and "omp" in line})
    for path in sorted(paths, key=lambda path: "torch" not in path):
        name = path.rpartition("/")[2]
        if name.startswith(("libgomp", "libiomp", "libomp")):
            ctypes.CDLL(path, mode=os.RTLD_GLOBAL | os.RTLD_NOLOAD)
            return
