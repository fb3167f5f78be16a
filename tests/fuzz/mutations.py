"""Damage to files: of their bytes, and of the structure that their kind of file has."""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from xml.etree import ElementTree

import tomli_w

from fuzz.strange import TOKENS, as_json, with_strange_value

Mutation = Callable[[bytes, random.Random], bytes]
WORD = re.compile(rb"[^\s,;:<>=\"'\[\]{}()]+")
# The ends of integers of one, two, four and eight bytes, in both orders.
EDGES = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for number in (0, 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 2 ** (8 * size) - 1)
    for order in ("little", "big")
)


def mutate(content: bytes, name: str, rng: random.Random) -> bytes:
    """The content of a file of this name, damaged in one to three ways."""
    own = STRUCTURAL.get(PurePath(name).suffix.lower())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        structural = own is not None and rng.random() < 0.75
        content = own(content, rng) if structural and own is not None else damaged(content, rng)
    return content


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some changed, cut out, put in or moved, or the end cut off."""
    at = rng.randrange(len(content) + 1)
    end = min(len(content), at + rng.choice((1, 1, 2, 4, 8, 64, 1024)))
    what = rng.randrange(8)
    if what == 0:
        return content[:at]
    if what == 1:
        return content[:at] + content[end:]
    if what == 2:
        return content[:end] + content[at:end] * rng.choice((1, 3)) + content[end:]
    if what == 3:
        return content[:at] + rng.randbytes(rng.choice((1, 4, 64))) + content[at:]
    if what == 4:
        other = rng.randrange(len(content) + 1)
        return content[:at] + content[other : other + end - at] + content[end:]
    if what == 5:
        edge = rng.choice(EDGES)
        return content[:at] + edge + content[at + len(edge) :]
    return content[:at] + bytes(b ^ 1 << rng.randrange(8) for b in content[at:end]) + content[end:]


def other_words(content: bytes, rng: random.Random) -> bytes:
    """A text with one word or number replaced by a strange one, or a line doubled, dropped or moved."""
    what = rng.randrange(6)
    if what == 0:
        lines = content.splitlines(keepends=True) or [b""]
        line = rng.randrange(len(lines))
        lines[line : line + 1] = rng.choice(([], [lines[line]] * 2, [rng.choice(lines)]))
        return b"".join(lines)
    words = list(WORD.finditer(content))
    if not words:
        return rng.choice(TOKENS)
    word = rng.choice(words)
    return content[: word.start()] + rng.choice(TOKENS) + content[word.end() :]


def other_json(content: bytes, rng: random.Random) -> bytes:
    """JSON with a strange value."""
    try:
        return as_json(with_strange_value(json.loads(content), rng))
    except (ValueError, RecursionError):
        return damaged(content, rng)


def other_xml(content: bytes, rng: random.Random) -> bytes:
    """XML with an element dropped, doubled or renamed, or a text or attribute replaced."""
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return other_words(content, rng)
    parents = [element for element in root.iter() if len(element)]
    what, element = rng.randrange(6), rng.choice(list(root.iter()))
    if what == 0 and parents:
        parent = rng.choice(parents)
        parent.remove(rng.choice(list(parent)))
    elif what == 1 and parents:
        parent = rng.choice(parents)
        parent.append(copy.deepcopy(rng.choice(list(root.iter()))))
    elif what == 2:
        element.tag = rng.choice(("x", "object", "bndbox", "name", "size"))
    elif what == 3 and element.attrib:
        element.set(rng.choice(list(element.attrib)), _text(rng))
    else:
        element.text = _text(rng)
    try:
        return ElementTree.tostring(root, encoding="utf-8")
    except (RecursionError, UnicodeEncodeError):
        return other_words(content, rng)


def _text(rng: random.Random) -> str:
    return rng.choice(TOKENS).decode("utf-8", "replace")


def other_toml(content: bytes, rng: random.Random) -> bytes:
    """TOML with a strange value, which keeps its syntax, or a strange word."""
    try:
        changed = with_strange_value(tomllib.loads(content.decode()), rng)
        return tomli_w.dumps(changed).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return other_words(content, rng)


def other_archive(
    content: bytes, rng: random.Random, methods: tuple[int, ...] = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
) -> bytes:
    """A zip archive with one member damaged, renamed, dropped or doubled, its checksums valid."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = [(entry.filename, file.read(entry)) for entry in file.infolist()]
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError, EOFError):
        return damaged(content, rng)
    if not members:
        return damaged(content, rng)
    # Members with content of their own kind are what is interesting.
    named = [i for i, (name, _) in enumerate(members) if PurePath(name).suffix in STRUCTURAL]
    place = rng.choice(named or range(len(members)))
    name, data = members[place]
    what = rng.randrange(8)
    if what == 0:
        del members[place]
    elif what == 1:
        members[place] = (rng.choice(("x", "../x", "a/b", name.upper(), "\u202e")), data)
    elif what == 2:
        members.append((f"{name}2", data))
    else:
        members[place] = (name, mutate(data, name, rng))
    return archive_of(dict(members), rng.choice(methods))


def archive_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these members."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, method)
    return data.getvalue()


def other_array(content: bytes, rng: random.Random) -> bytes:
    """A NumPy array whose header has a strange type, order or shape, its length valid."""
    if not content.startswith(b"\x93NUMPY") or len(content) < 10:
        return damaged(content, rng)
    length = struct.unpack("<H", content[8:10])[0]
    if rng.random() < 0.4:
        return content[: 10 + length] + damaged(content[10 + length :], rng)
    header = content[10 : 10 + length].strip()
    pieces = (
        (
            rb"'descr': '[^']*'",
            [b"'descr': '%s'" % t for t in (b"<f8", b"|O", b"<U9", b"<i1", b"<c16", b"x")],
        ),
        (
            rb"\([^()]*\)",
            [b"()", b"(0,)", b"(-1,)", b"(9999999999,)", b"(1, 2, 3)", b"(2, 4)", b"(1e9,)", b"[1]", b"None"],
        ),
        (rb"False|True", [b"True", b"1", b"x"]),
        (rb"'[a-z_]+'", [b"'x'", b"1", b""]),
    )
    pattern, values = rng.choice(pieces)
    header = re.sub(pattern, lambda _: rng.choice(values), header, count=1) + b"\n"
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :]


def other_tensors(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with strange values in its header or in our metadata, the lengths valid."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        if rng.random() < 0.8:
            inner = json.loads(header["__metadata__"]["rcnn"])
            header["__metadata__"]["rcnn"] = as_json(with_strange_value(inner, rng)).decode()
        else:
            header = with_strange_value(header, rng)
        text = as_json(header)
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        return damaged(content, rng)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def other_lines(content: bytes, rng: random.Random) -> bytes:
    """JSON lines with one of them strange."""
    lines = content.splitlines() or [b""]
    place = rng.randrange(len(lines))
    lines[place] = other_json(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def other_png(content: bytes, rng: random.Random) -> bytes:
    """A PNG with one chunk damaged, dropped, doubled or moved, its checksums and compression valid."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks or content[:4] != b"\x89PNG":
        return damaged(content, rng)
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    what = rng.randrange(6)
    if what == 0:
        del chunks[place]
    elif what == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[place])
    elif what == 2:
        chunks[place] = (rng.choice((b"tRNS", b"PLTE", b"eXIf", b"iTXt", b"acTL", b"fdAT", b"xxxx")), data)
    elif kind == b"IDAT":
        try:
            chunks[place] = (kind, zlib.compress(damaged(zlib.decompress(data), rng)))
        except zlib.error:
            chunks[place] = (kind, damaged(data, rng))
    else:
        chunks[place] = (kind, damaged(data, rng))
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def other_matlab(content: bytes, rng: random.Random) -> bytes:
    """A MATLAB file with one element damaged, compressed ones within."""
    if content[126:128] != b"IM":
        return damaged(content, rng)
    elements, at = [], 128
    while at + 8 <= len(content):
        kind, size = struct.unpack("<II", content[at : at + 8])
        elements.append((kind, content[at + 8 : at + 8 + size]))
        at += 8 + size
    if not elements:
        return damaged(content, rng)
    place = rng.randrange(len(elements))
    kind, data = elements[place]
    try:
        data = zlib.compress(damaged(zlib.decompress(data), rng)) if kind == 15 else damaged(data, rng)
    except zlib.error:
        data = damaged(data, rng)
    elements[place] = (kind, data)
    return content[:128] + b"".join(struct.pack("<II", kind, len(data)) + data for kind, data in elements)


def other_tiff(content: bytes, rng: random.Random) -> bytes:
    """A TIFF file with one entry of a directory changed in its tag, type, count or value, or dropped."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        return damaged(content, rng)
    is_big = struct.unpack(f"{order}H", content[2:4])[0] == 43
    number, word, size = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    entries, after = [], 8 if is_big else 4
    try:
        for _ in range(8):
            (start,) = struct.unpack_from(f"{order}{word}", content, after)
            (count,) = struct.unpack_from(f"{order}{number}", content, start)
            first = start + struct.calcsize(number)
            entries += [first + size * i for i in range(min(count, 100))]
            after = first + size * count
    except struct.error:
        pass
    if not entries:
        return damaged(content, rng)
    at = rng.choice(entries)
    value = at + size - struct.calcsize(word)
    place, format = rng.choice(((at, "H"), (at + 2, "H"), (at + 4, word), (value, word), (value, word)))
    most = 2 ** (8 * struct.calcsize(format)) - 1
    (old,) = struct.unpack_from(f"{order}{format}", content.ljust(place + 8, b"\0"), place)
    new = rng.choice((0, 1, 2, 8, 16, most, most // 2, (old + 1) & most, max(old - 1, 0), old * 2 & most))
    packed = struct.pack(f"{order}{format}", rng.choice((new, new, rng.randrange(1000))))
    return content[:place] + packed + content[place + len(packed) :]


def other_message(content: bytes, rng: random.Random) -> bytes:
    """A Protocol Buffers message with a field at any depth changed, dropped or doubled, the lengths valid."""
    fields = _message(content)
    if not fields:
        return damaged(content, rng)
    place = rng.randrange(len(fields))
    number, wire, value = fields[place]
    what = rng.randrange(10)
    if what == 0:
        del fields[place]
    elif what == 1:
        fields.insert(rng.randrange(len(fields) + 1), fields[place])
    elif what == 2:
        fields[place] = (rng.choice((1, 2, 3, 4, 5, 7, 8, 9, 13, 14, 20)), wire, value)
    elif isinstance(value, int):
        fields[place] = (number, wire, rng.choice((0, 1, 2, 7, 16, 2**31, 2**63, 2**64 - 1, value + 1)))
    elif len(value) > 3 and rng.random() < 0.9:
        fields[place] = (number, wire, other_message(value, rng))
    else:
        fields[place] = (number, wire, damaged(value, rng))
    return b"".join(_field(*field) for field in fields)


def _message(content: bytes) -> list[tuple[int, int, int | bytes]]:
    """The fields of a message: number, kind and value; empty if it is none."""
    fields: list[tuple[int, int, int | bytes]] = []
    at = 0
    try:
        while at < len(content):
            key, at = _read_number(content, at)
            value: int | bytes
            if key & 7 == 0:
                value, at = _read_number(content, at)
            else:
                length, at = (
                    _read_number(content, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, 1 << 40), at)
                )
                value, at = content[at : at + length], at + length
            fields.append((key >> 3, key & 7, value))
    except IndexError:
        return []
    return fields if at == len(content) else []


def _field(number: int, wire: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _number(number << 3 | wire) + _number(value)
    return _number(number << 3 | wire) + (_number(len(value)) if wire == 2 else b"") + value


def _read_number(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while content[at] & 128:
        number |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return number | content[at] << shift, at + 1


def _number(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


STRUCTURAL: dict[str, Mutation] = {
    ".json": other_json,
    ".geojson": other_json,
    ".jsonl": other_lines,
    ".xml": other_xml,
    ".toml": other_toml,
    ".yaml": other_words,
    ".csv": other_words,
    ".txt": other_words,
    ".data": other_words,
    ".npz": other_archive,
    ".zip": other_archive,
    ".pt2": partial(other_archive, methods=(zipfile.ZIP_STORED,)),
    ".npy": other_array,
    ".safetensors": other_tensors,
    ".png": other_png,
    ".mat": other_matlab,
    ".tif": other_tiff,
    ".onnx": other_message,
}
"""How files of each extension are damaged without becoming unreadable at once."""
