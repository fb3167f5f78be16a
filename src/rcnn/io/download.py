"""Published files: found on disk, or downloaded once and checked.

A file of weights is looked for in the folder that ``RCNN_WEIGHTS`` names, under its published name or with
the ending ``.safetensors`` instead; then in the cache, ``RCNN_CACHE`` or ``~/.cache/rcnn``; then it is
downloaded into the cache. It is compared with its SHA-256 in ``rcnn.catalogue`` before it is read; a file
that is not listed there, with the first digits that published names carry. A ``.pth`` is only read with
``weights_only=True``, which runs no code.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING

from rcnn.catalogue import SHA256

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte
_PATIENCE = 5  # seconds without an answer, where one is only asked whether there is a file


def find_weights(url: str) -> Path:
    """The file of published weights: from ``RCNN_WEIGHTS``, from the cache, or downloaded into it.

    Args:
        url: its address; a file that ``rcnn.catalogue.SHA256`` does not list carries the first digits of its
            SHA-256 in its name, ``NAME-0123abcd.pth``.

    Raises:
        ValueError: the file is damaged.
        OSError: it could not be downloaded.
    """
    name = url.rsplit("/", 1)[-1]
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    assert digits is not None, url
    checksum = SHA256.get(name, digits[1])
    placed = local_weights(name)
    if placed is not None:
        _check(placed, checksum)
        return placed
    return local_weights(Path(name).with_suffix(".safetensors").name) or download(
        url, checksum, cache_folder()
    )


def is_at_hand(url: str) -> bool:
    """Whether :func:`find_weights` would find the file without a download."""
    name = Path(url.rsplit("/", 1)[-1])
    placed = local_weights(name.name) or local_weights(name.with_suffix(".safetensors").name)
    return placed is not None or (cache_folder() / name.name).is_file()


def can_be_had(url: str) -> bool:
    """Whether :func:`find_weights` would find the file, or the server that has it answers."""
    return is_at_hand(url) or _answers(url)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE):
            return True
    except (OSError, HTTPException):  # no network, no such file, no answer in time
        return False


def download(url: str, checksum: str, folder: str | Path) -> Path:
    """Download a file once; later calls return it as it lies there.

    What arrives is written to ``.NAME.part``, which an interrupted download leaves behind and the next call
    resumes; it gets its name only when it is whole and its checksum is right. Several processes wait
    for one another, so that only one of them downloads.

    Args:
        url: the address.
        checksum: the first hex digits of the content's SHA-256, or ``md5:`` with those of its MD5, where the
            publisher gives no other.
        folder: where to; made where missing.

    Returns:
        The file, named as in the address.

    Raises:
        ValueError: the content has another checksum; it is removed.
        OSError: no network, no such address, the connection broke, or the disk is full.
    """
    path = Path(folder) / url.rsplit("/", 1)[-1]
    if path.exists():
        _check(path, checksum)
        return path
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_lock(path.parent):
        if not path.exists():  # another process may have brought it while this one waited
            _complete(url, checksum, part, path)
    return path


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold off other processes that download into a folder, where the system has locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _complete(url: str, checksum: str, part: Path, path: Path) -> None:
    """Bring the whole file, check it, and give it its name."""
    _fetch(url, part, path)
    try:
        _check(part, checksum)
    except ValueError as error:
        part.unlink()
        raise ValueError(
            f"{url}: the download is not the published file and was removed ({error}); try again"
        ) from error
    part.replace(path)


def _fetch(url: str, part: Path, path: Path) -> None:
    """Bring the rest of ``url`` into ``part``."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            _append(response, part, done if response.status == 206 else 0)
    except urllib.error.HTTPError as error:
        error.close()
        # "Range not satisfiable": the part is whole already, or is not of this file; the checksum tells.
        if not (error.code == 416 and done):
            raise OSError(
                f"{url}: the server answers {error.code} {error.reason}. {_manual_download_hint(path)}"
            ) from error
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise OSError(
            f"{url}: the download failed ({reason}). Check the network connection. "
            f"{_manual_download_hint(path)}"
        ) from error


def _append(response: HTTPResponse, part: Path, done: int) -> None:
    length = response.headers.get("Content-Length")
    total = None if length is None else done + int(length)
    with part.open("ab" if done else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
        size = file.tell()
    if total is not None and size < total:
        raise ConnectionError(
            f"the connection broke after {size} of {total} bytes; the next call resumes there"
        )


def _manual_download_hint(path: Path) -> str:
    where = str(path.parent)
    if path.suffix == ".pth":
        where += " or into the folder that RCNN_WEIGHTS names"
    return f"Or download {path.name} elsewhere and put it into {where}."


def _check(path: Path, checksum: str) -> None:
    name, digits = ("MD5", checksum[4:]) if checksum.startswith("md5:") else ("SHA-256", checksum)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, name.replace("-", "").lower()).hexdigest()
    if not found.startswith(digits):
        raise ValueError(
            f"{path}: damaged or another file: its {name} begins with {found[: len(digits)]}, "
            f"expected {digits}; remove it"
        )


def local_weights(name: str) -> Path | None:
    """The file of this name in the folder that ``RCNN_WEIGHTS`` names."""
    folder = os.environ.get("RCNN_WEIGHTS")
    path = Path(folder) / name if folder else None
    return path if path is not None and path.is_file() else None


def cache_folder() -> Path:
    """Where downloads are kept: in ``RCNN_CACHE``, or ``~/.cache/rcnn``."""
    folder = os.environ.get("RCNN_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "rcnn"


def check_file(path: Path, checksum: str) -> None:
    """Compare a file with its published checksum, as in :func:`download`.

    Raises:
        ValueError: it is another file, or damaged.
    """
    _check(path, checksum)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file, on the CPU, as float32 where they are floats.

    Raises:
        ValueError: the file is damaged, or holds more than tensors.
    """
    import torch  # here: files other than weights are downloaded without it
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to run the code
        raise ValueError(f"{path}: not a weights file: it holds more than tensors; remove it") from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: not a weights file, or damaged ({error}); remove it") from error
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
