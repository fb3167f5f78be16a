"""Files of weights from other programs, read without running any code that they hold.

A pickle names functions and classes, and reading it calls them. Here none of a file's own choice is called:

- ``.pkl`` (Detectron2's model zoo): an unpickler that knows numpy arrays and plain containers, and refuses
  all else by name (:mod:`rcnn.io.pickles`).
- ``.pth``: ``torch.load(weights_only=True)``, which knows tensors and plain containers. Checkpoints often
  hold more, such as MMEngine's histories of the losses: an inert object stands for each of these.
- ``.safetensors``: tensors alone.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from rcnn.io.pickles import read_arrays

# Parts of the old format of torch.save that come before the objects: magic number, version, machine.
_LEGACY_HEADERS = 3
_FAULTS = (
    pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, TypeError, AttributeError,
    KeyError, IndexError, ImportError, UnicodeDecodeError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def read_weights(path: str | Path) -> dict[str, Any]:
    """What a file of weights holds: tensors by name, at the top or in an entry such as ``model``.

    Arrays become tensors, floating-point numbers float32, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, a damaged one, or one with more in it than is read; it names what.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    try:
        content = _reader(path)(path)
    except _FAULTS as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as weights ({reason}); expected .pkl, .pth, .pt or .safetensors, "
            "as published or saved by its program"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: holds one {type(content).__name__}, expected named tensors: save the model's "
            "state_dict()"
        )
    try:
        return {str(key): _tensors(value) for key, value in content.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _tensors(value: Any) -> Any:
    """The value with arrays as tensors and floats in full precision, in containers too."""
    if isinstance(value, np.ndarray):
        native = value.dtype.newbyteorder("=")
        value = torch.from_numpy(np.ascontiguousarray(value, native).reshape(value.shape))
    if isinstance(value, Tensor):
        held = value.untyped_storage().nbytes() // value.element_size()
        if value.layout == torch.strided and value.numel() > held:
            raise ValueError(
                f"a tensor of shape {list(value.shape)} holds {held:,} numbers; save a copy of it"
            )
        return value.detach().float() if value.is_floating_point() else value.detach()
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    return value


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return read_arrays(file)


# Files of torch.save


GETATTR = "builtins.getattr"


class InertObject:
    """Stands for an object of another program: nothing of it is kept, no code of it runs."""

    def __new__(cls, *_: Any, **__: Any) -> InertObject:
        """Whatever the arguments, the same empty object."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, *_: Any) -> None: ...


def _read_torch(path: Path) -> Any:
    with path.open("rb") as file:
        # What torch itself knows comes first, and the modules of the system it never lets pass. MMEngine's
        # histories hold methods of their class, which pickle writes as a call of getattr.
        strange = [name for name in _names(file) if name == GETATTR or not name.startswith("builtins.")]
    try:
        with safe_globals([(InertObject, name) for name in strange]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {asked[1]}" if asked else "it holds more than tensors and plain containers"
        raise pickle.UnpicklingError(reason) from error


def _names(file: BinaryIO) -> set[str]:
    """The classes and functions that a file of ``torch.save`` asks for, without calling any."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            _refuse_inflated(archive, file)
            parts = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(parts) != 1:
                raise pickle.UnpicklingError("not a file of torch.save; TorchScript is not read")
            with archive.open(parts[0]) as content:
                return _names_in(content)
    file.seek(0)
    return {name for _ in range(_LEGACY_HEADERS + 1) for name in _names_in(file)}


def _refuse_inflated(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Refuse an archive whose parts are larger than the file: torch stores tensors as they are."""
    size, declared = file.seek(0, 2), sum(info.file_size for info in archive.infolist())
    if declared > size:
        raise pickle.UnpicklingError(
            f"its parts are said to have {declared:,} bytes, more than the {size:,} of the file"
        )


def _names_in(file: Any) -> set[str]:
    """The names of one pickle, by those of Python 3."""
    found = set()
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, name = str(argument).split(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            found.add(f"{module}.{name}")
    return found


def _reader(path: Path) -> Callable[[Path], Any]:
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return load_file
    return _read_pickle if ending in (".pkl", ".pickle") else _read_torch
