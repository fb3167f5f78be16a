"""WebDataset's tar shards: which files they are, and what samples are in them, without reading the images.

    shard-000000.tar
        000000000.jpg, 000000000.json       a sample: members that lie together and share a key
        000000001.jpg, 000000001.json

The key is a member's name up to the first dot after the last slash, folders included. A path is a shard, a
folder of shards, or names with braces or an asterisk: ``shard-{000000..000099}.tar``, ``train-*.tar``.
"""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from rcnn.data.formats.folders import split_of
from rcnn.data.problems import shortened
from rcnn.io.folders import is_file, is_folder, is_there
from rcnn.io.images import IMAGE_ENDINGS, visible_files

ENDING = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
META = "__rcnn__"  # the first member of a shard of ours; WebDataset skips such names
MAPS = "semantic.png"  # the class of every pixel
# Of the files of annotations that a sample may have, the one that is read.
ANNOTATIONS = ("json", "instances.json", "annotations.json", "detections.json", "objects.json")
BLOCK = 512  # bytes, of which a tar file consists
PEEKED = 64  # members looked at to recognise a shard
MOST_SHARDS = 1_000_000
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
# How compressed files begin, and what unpacks them.
COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"), (b"BZh", "bzip2", "bunzip2"), (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unzstd"), (b"\x04\x22\x4d\x18", "LZ4", "unlz4"),
)  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A place in a file.

    Attributes:
        offset: where it begins.
        size: bytes of it.
    """

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where what follows it begins."""
        return self.offset + self.size


@dataclass
class TarSample:
    """Members that lie together and share a key.

    Attributes:
        key: the name that they share.
        first: where the header of the first one begins.
        members: the places of their content, by what follows the key.
        faults: what is wrong with it.
    """

    key: str
    first: int
    members: dict[str, Span] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Where the content of the last one ends."""
        return max(span.end for span in self.members.values()) if self.members else self.first

    def image(self) -> tuple[str, Span] | None:
        """The image: what follows the key in its name, and its place; several are a fault."""
        images = [name for name in self.members if name != MAPS and _is_image(name)]
        plain = [name for name in images if "." not in name]
        images = plain if len(plain) == 1 else images
        if len(images) > 1:
            self.faults.append(f"It has several images: {shortened(images)}; expected one.")
        return (images[0], self.members[images[0]]) if images else None

    def annotations(self) -> Span | None:
        """The place of the annotations; several files of which none is known to be them are a fault."""
        names = [name for name in self.members if name.lower().endswith("json")]
        known = next((name for name in ANNOTATIONS if name in names), None)
        if known is None and len(names) > 1:
            self.faults.append(
                f"It has several files of annotations: {shortened(names)}; expected one, such as json."
            )
        chosen = known or (names[0] if names else None)
        return None if chosen is None else self.members[chosen]


def _is_image(ending: str) -> bool:
    """Whether what follows a key is an image's extension, or ends with one."""
    return f".{ending}".lower().endswith(IMAGE_ENDINGS)


def tar_files(path: Path) -> list[Path]:
    """The shards at a path, in order, compressed ones included; none if it has none.

    Raises:
        ValueError: names with braces of which some are not there, or too many.
    """
    if is_there(path):
        if is_file(path):
            return [path] if path.name.lower().endswith((ENDING, *PACKED)) else []
        # Only these are looked at: a folder may have millions of images.
        named = (f for f in path.iterdir() if f.name.lower().endswith((ENDING, *PACKED)))
        return sorted(f for f in named if not f.name.startswith(".") and f.is_file())
    if not path.name.lower().endswith((ENDING, *PACKED)):
        return []
    if "*" in path.name and "{" not in str(path):
        return [f for f in visible_files(path.parent, path.name) if f.is_file()]
    names = list(islice(_expanded(str(path)), MOST_SHARDS + 1)) if "{" in str(path) else []
    if len(names) > MOST_SHARDS:
        raise ValueError(f"{path}: it names more than {MOST_SHARDS:,} files: correct the numbers in braces.")
    missing = [name for name in names if not is_file(Path(name))]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of the {len(names)} files that it names are not there: "
            f"{shortened(missing)}. Correct the numbers in braces."
        )
    return list(map(Path, names))


def _expanded(pattern: str) -> Iterator[str]:
    """The names that braces stand for: ``{00..02}`` for 00, 01, 02, and ``{a,b}`` for a, b."""
    found = BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    numbers = RANGE.fullmatch(found[1])
    if numbers:
        first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
        padded = width if numbers[1].startswith("0") else 0
        parts: Iterator[str] = (f"{number:0{padded}d}" for number in range(first, last + 1))
    else:
        parts = iter(found[1].split(","))
    for part in parts:
        yield from _expanded(f"{pattern[: found.start()]}{part}{pattern[found.end() :]}")


def split_patterns(folder: Path) -> list[Path]:
    """Names with an asterisk, one for each split of which a folder has shards, if it has several."""
    if not is_folder(folder):
        return []
    families: dict[str, list[str]] = defaultdict(list)
    for file in tar_files(folder):
        stem = re.sub(r"\d+", "*", file.name)
        families[stem].append(file.name)
    words = {split_of(Path(stem.replace("*", "")).stem) for stem in families}
    if len(families) < 2 or len(words - {None}) < 2:
        return []
    return [folder / stem for stem in sorted(families)]


@contextmanager
def explained(file: Path) -> Iterator[None]:
    """Inside, errors about a tar file become one that names it."""
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{file}: not readable as a tar file ({error})") from error


def is_tar_of_samples(file: Path) -> bool:
    """Whether a file begins as a shard does: with our mark, or with an image and annotations of one key."""
    parts: dict[str, set[bool]] = defaultdict(set)
    try:
        with tarfile.open(file, "r|*") as tar:
            for member in islice(tar, PEEKED):
                if member.name == META:
                    return True
                key, ending = key_of(member.name) or ("", "")
                if ending.lower().endswith("json") or _is_image(ending):
                    parts[key].add(ending.lower().endswith("json"))
    except (tarfile.TarError, OSError, EOFError):
        pass  # what was seen counts; the reader says what is wrong
    return any(len(kinds) == 2 for kinds in parts.values())


def key_of(name: str) -> tuple[str, str] | None:
    """The key of a member and what follows it; None for names without one, such as hidden files."""
    found = KEY.fullmatch(name.removeprefix("./"))
    return None if found is None or found[1].startswith("__") else (found[1], found[2])


def samples_of(file: Path) -> Iterator[TarSample]:
    """Yield the samples of a shard in order.

    Raises:
        ValueError: it is compressed, damaged or cut short; the message names it.
    """
    sample: TarSample | None = None
    for member in members_of(file):
        named = key_of(member.name)
        if named is None or member.isdir():
            continue
        key, ending = named
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = TarSample(key, member.offset)
        if ending in sample.members:
            sample.faults.append(f"It has {member.name} twice.")
        if not member.isreg() or member.issparse():
            sample.faults.append(
                f"{member.name} is a link or a sparse file, without content of its own in the tar file."
            )
        sample.members[ending] = Span(member.offset_data, member.size)
    if sample is not None:
        yield sample


def members_of(file: Path) -> Generator[tarfile.TarInfo]:
    """Yield the members of a tar file; errors as :func:`samples_of`."""
    with explained(file), file.open("rb") as opened:
        refuse_compressed(file, opened.read(8))
        opened.seek(0)
        with tarfile.open(fileobj=opened, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # else all of them are kept
                yield member
            _refuse_rest(file, opened, tar.offset)


def refuse_compressed(file: Path, head: bytes) -> None:
    """Refuse a compressed file, of which no part can be read by itself.

    Raises:
        ValueError: it is one, by what it begins with.
    """
    for mark, kind, command in COMPRESSED:
        if head.startswith(mark):
            raise ValueError(
                f"{file}: it is compressed ({kind}), and images are read from their places in a tar file: "
                f"unpack it with {command} {file.name}, and use the .tar file. Images hardly become smaller."
            )


def _refuse_rest(file: Path, opened: BinaryIO, offset: int) -> None:
    """Refuse what follows the last member, unless it is nothing but zeros."""
    opened.seek(offset)
    block = opened.read(BLOCK)
    if len(block) < BLOCK:
        raise ValueError(
            f"{file}: it was cut short at byte {offset + len(block)}, without the end of a tar file: copy or "
            "write it again."
        )
    while block:
        if block.count(0) < len(block):
            raise ValueError(
                f"{file}: it is damaged, or another tar file was appended to it, at byte {offset}: write it "
                "again (files are joined with tar --concatenate)."
            )
        offset += len(block)
        block = opened.read(1 << 20)
