"""C that is compiled on the machine it runs on, by the system's compiler, and kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rcnn.io.download import cache_folder

# For the very CPU it runs on. gcc's OpenMP is the one whose threads torch has already.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")

T = TypeVar("T")
_log = logging.getLogger(__name__)


def load_or_none(sources: Sequence[Path], load: Callable[[Path], T]) -> T | None:
    """What ``load`` makes of the library of ``sources``; None where it is not to be had.

    That is without a C compiler, elsewhere than on Linux, and where ``RCNN_COMPILE=0`` forbids it.

    Args:
        sources: C files, and the headers they include.
        load: takes the path of the library; raises ``OSError`` where that does not work.
    """
    if not sys.platform.startswith("linux") or os.environ.get("RCNN_COMPILE") == "0":
        return None
    try:
        return build(sources, load, _own_folder())
    except Exception as error:  # whatever it is: a prediction must not fail for want of speed
        _log.info("nothing is compiled, torch computes instead: %s", error)
        return None


def build(
    sources: Sequence[Path], load: Callable[[Path], T], folder: Path | None, flags: tuple[str, ...] = FLAGS
) -> T:
    """As :func:`find`, in a folder, compiled into it if need be; without a folder for this process alone.

    Raises:
        OSError: there is no compiler that succeeds, or what it made does not work.
    """
    texts = (source.read_bytes() for source in sources)
    key = b"\0".join([*texts, *(text.encode() for text in (*flags, platform.machine(), *_cpu()))])
    name = f"kernels-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if folder is not None and (folder / name).is_file():
        try:
            return load(folder / name)
        except OSError as error:
            _log.info("%s; it is built anew", error)
            (folder / name).unlink(missing_ok=True)
    compilers = filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc")))
    failures = []
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        built = Path(inside) / name
        for compiler in compilers:
            try:
                _compile(compiler, flags, sources, built)
                found = load(built)
            except OSError as error:
                failures.append(str(error))
                continue
            # Of processes that do the same at once the first one's stays: others may have loaded it.
            if folder is not None and not (folder / name).exists():
                with contextlib.suppress(OSError):
                    built.replace(folder / name)
            return found
    raise OSError("; ".join(failures) or "there is no C compiler (cc, gcc)")


def _compile(compiler: str, flags: tuple[str, ...], sources: Sequence[Path], library: Path) -> None:
    files = [str(source) for source in sources if source.suffix == ".c"]
    try:
        subprocess.run(
            [compiler, *flags, "-o", str(library), *files, "-lm"], check=True, capture_output=True, timeout=60
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{compiler} does not end") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="replace").strip()
        raise OSError(f"{compiler} failed: {said[-500:]}") from error


def _own_folder() -> Path | None:
    """Where libraries are kept: a part of the cache folder that nobody else can write to, or nowhere."""
    try:
        folder = (cache_folder() / "compiled").resolve()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except (OSError, RuntimeError) as error:  # the latter without a home
        _log.info("what is compiled cannot be kept: %s", error)
        return None
    owned = state.st_uid == os.getuid() and not state.st_mode & 0o022
    return folder if owned and os.access(folder, os.W_OK) else None


def _cpu() -> list[str]:
    """What tells this CPU from others that share the cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [next((line for line in lines if line.startswith(kind)), "") for kind in ("model name", "flags")]
