"""The metadata of exported files, and the checksums by which changed or damaged files are detected.

Read and written without the libraries of the formats.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.config import check_fields
from rcnn.extras import install_command
from rcnn.io.json_text import parse_json

FORMAT = 2
"""The layout of inputs, outputs and metadata; a change that older readers would misread raises it."""
METADATA_FILE = "rcnn.json"
OPENVINO_FILES = ("model.xml", "model.bin")
_HEAD, _SEAL = b"rcnn", b"rcnn_sha256"


def folder_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of an OpenVINO folder, once its checksums and those of the model's files are verified."""
    file = folder / METADATA_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no {METADATA_FILE} in this folder; expected one that rcnn export wrote")
    try:
        content = parse_json(file.read_bytes())
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{file}: truncated or damaged; export the model again") from error
    info = _checked(content, file)
    seal = info.pop(_SEAL.decode(), None)  # the first files had none
    if seal not in (None, _checksum(info)):
        raise ValueError(f"{file}: changed since its export; export the model again")
    for name in OPENVINO_FILES:
        part = folder / name
        expected = info.get("sha256", {}).get(name)
        if not part.is_file() or hashlib.sha256(part.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{part}: missing, truncated or changed since export; export the model again")
    return info


def torch_metadata(archive: bytes, path: Path) -> dict[str, Any]:
    """The metadata of a ``.pt2`` file, once the archive's checksums are verified."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            damaged = file.testzip()
            name = next((n for n in file.namelist() if n.endswith(METADATA_FILE)), None)
            content = None if name is None else parse_json(file.read(name))
    except (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError) as error:  # kinds of damage
        raise ValueError(
            f"{path}: truncated, damaged, or not written by rcnn export; export the model again"
        ) from error
    if damaged is not None:
        raise ValueError(f"{path}: {damaged} in it is damaged; export the model again")
    return _checked(content, path)


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    """The metadata file beside an OpenVINO model, with its checksum."""
    return json.dumps({**metadata, _SEAL.decode(): _checksum(metadata)}, indent=1).encode()


def _checksum(metadata: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()


def with_checksum(model: bytes, metadata: Mapping[str, Any]) -> bytes:
    """An ONNX model with its metadata in front and a checksum of everything at the end.

    Messages in ONNX's format may be concatenated: repeated fields, such as metadata entries, add up. So this
    is an ONNX file like any other, but its metadata can be read and its checksum verified without a library.
    """
    content = _entry(_HEAD, json.dumps(metadata).encode()) + model
    return content + _entry(_SEAL, hashlib.sha256(content).hexdigest().encode())


def onnx_metadata(content: bytes, path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file that :func:`with_checksum` made, once its checksum is verified."""
    start = content[:32].find(_HEAD + b"\x12")
    if not content.startswith(b"\x72") or start < 0:
        raise ValueError(f"{path}: not written by rcnn export; its metadata is not there")
    length = len(_entry(_SEAL, b"0" * 64))
    body, seal = content[:-length], content[-length:]
    if seal != _entry(_SEAL, hashlib.sha256(body).hexdigest().encode()):
        raise ValueError(f"{path}: truncated, or changed since its export; export the model again")
    size, at = _read_varint(content, start + len(_HEAD) + 1)
    return _checked(parse_json(content[at : at + size]), path)


def _entry(key: bytes, value: bytes) -> bytes:
    """A ModelProto that holds one entry of ``metadata_props`` (field 14: key 1, value 2)."""
    pair = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
    return b"\x72" + _varint(len(pair)) + pair


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = shift = 0
    while content[at] & 128:
        number |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | content[at] << shift, at + 1


def _checked(info: Any, path: Path) -> dict[str, Any]:
    """The metadata, provided that this version can use it."""
    if not isinstance(info, dict) or "export" not in info:
        raise ValueError(f"{path}: not written by rcnn export")
    check_fields(info, {"export": int, "versions": dict[str, Any], "sha256": dict[str, str]}, str(path))
    if info["export"] > FORMAT:
        raise ValueError(
            f"{path}: written by a newer rcnn ({written_by(info, 'rcnn')}, layout {info['export']}; this "
            f"one reads {FORMAT}): update rcnn and run {install_command()}"
        )
    return info


def written_by(info: Mapping[str, Any], package: str) -> str:
    """The version of a package that a file was made with, if the file says so."""
    return str(info.get("versions", {}).get(package, "unknown"))
