"""One file per checkpoint: tensors in the safetensors format, everything else as JSON in its header.

No pickle is written or read: a file from a stranger cannot run code. A file is replaced in one step, so that
whatever interrupts the writing (a kill, a full disk), the previous checkpoint is still there, whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from rcnn.io.atomic import write_atomically
from rcnn.io.json_text import object_of
from rcnn.io.renamed import current_metadata, current_tensors

FORMAT = 2
"""The layout of metadata and names; a change that older readers would misread raises it.

1 is 0.1.0's, whose names ``rcnn.io.renamed`` translates.
"""

_PICKLE_ENDINGS = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"}
_ZIP_START, _PICKLE_START = b"PK\x03\x04", b"\x80"


def write_checkpoint(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint in one step: either the whole new file stands there or the previous one.

    Args:
        path: where to; missing folders are made. The file is first written beside it as ``.NAME.part``.
        tensors: any dtypes, devices and strides, memory shared between them included; stored as they are.
        metadata: what JSON can hold; tuples come back as lists.

    Returns:
        The path.

    Raises:
        ValueError: metadata that JSON cannot hold.
        OSError: the file could not be written (no permission, disk full); it names the path.
    """
    path = Path(path)
    try:
        header = {"rcnn": json.dumps(metadata), "rcnn_format": str(FORMAT)}
    except TypeError as error:
        raise ValueError(f"{path}: the checkpoint's metadata must be JSON values: {error}") from error
    content = to_bytes(_storable(tensors), metadata=header)
    try:
        write_atomically(path, content)
    except OSError as error:
        reason = (
            f"the checkpoint could not be written ({error.strerror}); the previous one, if any, is untouched"
        )
        raise OSError(error.errno, reason, str(path)) from error
    return path


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint that :func:`save` wrote.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a pickle, a truncated file, another program's file, or one of a newer format.
    """
    with _opened(Path(path)) as (file, metadata, format):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return (current_tensors(tensors) if format == 1 else tensors), metadata


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's metadata without its tensors; raises as :func:`load`."""
    with _opened(Path(path)) as (_, metadata, _):
        return metadata


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any], int]]:
    """The open file, its metadata and its format, once it is known to be a checkpoint of ours."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if not path.is_file():
        raise ValueError(f"{path}: is a folder; expected a checkpoint file (.safetensors)")
    _refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file, *_read_metadata(path, file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a safetensors file, or truncated ({error}); "
            "copy it again, or use another checkpoint of the run"
        ) from error


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, each with memory of its own, as the format demands."""
    storable: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        storable[name] = plain
    return storable


def _read_metadata(path: Path, header: Mapping[str, str]) -> tuple[dict[str, Any], int]:
    if "rcnn" not in header:
        raise ValueError(
            f"{path}: a safetensors file, but not a checkpoint of rcnn: its header has no 'rcnn' entry; "
            "weights of other programs are converted by: rcnn weights import FILE --source NAME --out MODEL"
        )
    found = header.get("rcnn_format", "")
    if found not in map(str, range(1, FORMAT + 1)):
        raise ValueError(
            f"{path}: checkpoint format {found!r}, expected 1 to {FORMAT}; install a newer rcnn to read it"
        )
    try:
        metadata = object_of(header["rcnn"])
        return (current_metadata(metadata) if found == "1" else metadata), int(found)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # of a translation of names
        raise ValueError(
            f"{path}: its metadata are damaged ({error}); use another checkpoint of the run"
        ) from error


def _refuse_pickle(path: Path) -> None:
    """Raise for PyTorch's pickle files: reading one can run any code that it holds."""
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file begins with its header's length, which may look like a pickle's first bytes.
    is_pickle = start.startswith((_ZIP_START, _PICKLE_START)) and start[8:] != b"{"
    if is_pickle or path.suffix.lower() in _PICKLE_ENDINGS:
        raise ValueError(
            f"{path}: a pickle (.pt, .pth) is not loaded, because reading one can run any code; expected a "
            ".safetensors file. To convert weights of torchvision, Detectron2 and MMDetection without "
            "running code in them: rcnn weights import FILE --source NAME --out MODEL"
        )
