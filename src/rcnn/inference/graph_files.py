"""ONNX and OpenVINO graphs, inspected before a runtime opens them: one file, standard operators.

Both are read here without the libraries of the formats, as far as it takes to know that a runtime will open
no other file and call no other library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from rcnn.io.xml import parse_xml

# The messages of ONNX's onnx.proto that can hold a tensor or a node, and in which of their fields.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NODE_DOMAIN, _EXTERNAL_DATA, _DATA_LOCATION = 7, 13, 14
_STANDARD = (b"", b"ai.onnx")
_OPSET = re.compile(r"opset\d+")


def inspect_onnx(content: bytes, path: Path) -> None:
    """Refuse a graph with weights in other files or with operators of other libraries.

    Raises:
        ValueError: there is one, or the file is not in ONNX's format.
    """
    left = [("model", memoryview(content))]
    while left:
        kind, message = left.pop()
        try:
            fields = list(_fields(message))
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}: not an ONNX file, or damaged; export the model again") from error
        for number, value in fields:
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value)):
                raise ValueError(
                    f"{path}: its weights are said to lie in another file, which is not opened; expected a "
                    "file with its weights in it, as rcnn export writes"
                )
            text = b"" if isinstance(value, int) else bytes(value[:80])
            if kind == "node" and number == _NODE_DOMAIN and text not in _STANDARD:
                name = text.decode(errors="replace")
                raise ValueError(
                    f"{path}: it has operators of {name!r}; expected those of the ONNX standard, as rcnn "
                    "export writes"
                )
            if number in _MESSAGES[kind] and isinstance(value, memoryview):
                left.append((_MESSAGES[kind][number], value))


def inspect_openvino(path: Path) -> None:
    """Refuse a graph with operators that are not of OpenVINO's own sets.

    Raises:
        ValueError: there is one, or the file is not plain XML.
    """
    root: Element = parse_xml(path.read_bytes(), path)
    for layer in root.iter("layer"):
        version = layer.get("version", "")
        if not _OPSET.fullmatch(version):
            raise ValueError(
                f"{path}: its layer {layer.get('name')!r} is an operator of {version!r}; expected those of "
                "OpenVINO's opsets alone, as rcnn export writes"
            )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a Protocol Buffers message: numbers as they are, all else as bytes.

    Raises:
        IndexError: it ends within a field.
        ValueError: a field of an unknown kind, or one that is longer than the message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of kind {wire}")
        if at + length > len(message):
            raise ValueError("a field that is longer than its message")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = shift = 0
    while message[at] & 128:
        number |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    return number | message[at] << shift, at + 1
