"""Files on this machine and in object stores, by pyarrow's file systems: ``s3://``, ``gs://`` and paths.

A local file whose name is not UTF-8 is named by its ``file://`` address, in which its bytes are escaped.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

from rcnn.extras import install_command
from rcnn.io.atomic import PART_ENDING, write_atomically

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FILE_SCHEME = "file://"


def pyarrow_modules() -> tuple[Any, Any, Any]:
    """``pyarrow``, its file systems and its Parquet, which come with the extra ``bulk``.

    Raises:
        ValueError: they are not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.fs as pafs
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"bulk prediction needs pyarrow: {install_command('bulk')}") from error
    return pa, pafs, pq


def is_remote(address: str) -> bool:
    """Whether an address names an object store rather than a path of this machine."""
    return "://" in address and not address.startswith(FILE_SCHEME)


def path_of(address: str) -> PurePosixPath:
    """The path in an address, without the options of a store: what its name and ending are."""
    return PurePosixPath(address.partition("?")[0] if is_remote(address) else address)


def local_path(address: str) -> Path:
    """The path that a local address or ``file://`` address names."""
    if address.startswith(FILE_SCHEME):
        return Path(os.fsdecode(unquote_to_bytes(urlsplit(address).path)))
    return Path(address)


def address_of(path: Path) -> str:
    """The absolute path as text; a ``file://`` address where the name is not UTF-8."""
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.as_uri()
    return str(path)


@dataclass(frozen=True)
class Place:
    """A file or folder, local or remote.

    Attributes:
        filesystem: where it is.
        path: what it is called there.
        prefix: what stands before ``path`` in its address, such as ``s3://``; empty for local paths.
        query: what stands after it: options of the store, such as ``?endpoint_override=minio:9000``.
    """

    filesystem: FileSystem
    path: str
    prefix: str = ""
    query: str = ""

    @classmethod
    def at(cls, address: str) -> Place:
        """The place that an address names.

        Raises:
            ValueError: a scheme that pyarrow does not know, or an address that it cannot read.
        """
        pa, pafs, _ = pyarrow_modules()
        if not is_remote(address):
            return cls(pafs.LocalFileSystem(), str(local_path(address).absolute()))
        try:
            filesystem, path = pafs.FileSystem.from_uri(address)
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(
                f"{address}: not an address that can be opened ({error}); expected a path, "
                "s3://bucket/folder or gs://bucket/folder"
            ) from error
        parts = urlsplit(address)
        query = f"?{parts.query}" if parts.query else ""
        return cls(filesystem, path.rstrip("/"), f"{parts.scheme}://", query)

    def __str__(self) -> str:
        return f"{self.prefix}{self.path}{self.query}"

    def __truediv__(self, name: str) -> Place:
        return self.with_path(f"{self.path}/{name}")

    def with_path(self, path: str) -> Place:
        """Another file or folder of the same file system."""
        return replace(self, path=path)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return not self.prefix

    @property
    def parent(self) -> Place:
        """The folder that it is in."""
        return self.with_path(str(PurePosixPath(self.path).parent))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether there is a file."""
        return bool(self.filesystem.get_file_info(self.path).is_file)

    def is_folder(self) -> bool:
        """Whether there is a folder; in an object store, objects below it."""
        _, pafs, _ = pyarrow_modules()
        return bool(self.filesystem.get_file_info(self.path).type == pafs.FileType.Directory)

    def files(self, *, recursive: bool = False) -> list[Place]:
        """The files in a folder, sorted by path; none where there is no folder."""
        if self.is_local:  # names need not be UTF-8
            found = Path(self.path).rglob("*") if recursive else Path(self.path).glob("*")
            return [self.with_path(str(path)) for path in sorted(found) if path.is_file()]
        _, pafs, _ = pyarrow_modules()
        selector = pafs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        infos = self.filesystem.get_file_info(selector)
        return [self.with_path(path) for path in sorted(info.path for info in infos if info.is_file)]

    def read(self) -> bytes:
        """The content of a file."""
        if self.is_local:
            return Path(self.path).read_bytes()
        with self.filesystem.open_input_stream(self.path, compression=None) as stream:
            return bytes(stream.read())

    def write(self, content: bytes) -> None:
        """Put a file there in one step: a reader sees the old one or the whole new one.

        Two writers of one file do not disturb each other: the last one stays.
        """
        if not self.is_local:  # an object store shows an object once it is whole
            with self.filesystem.open_output_stream(self.path, compression=None) as stream:
                stream.write(content)
            return
        write_atomically(Path(self.path), content, writer=f".{socket.gethostname()}-{os.getpid()}")

    def remove_parts(self) -> None:
        """Remove from a local folder what killed writers left; none may be at work."""
        if self.is_local and Path(self.path).is_dir():
            for part in Path(self.path).glob(f".*{PART_ENDING}"):
                part.unlink(missing_ok=True)


@contextlib.contextmanager
def as_local_file(address: str, content: bytes) -> Iterator[Path]:
    """The content of a file, at a local path with the same ending: the file itself where it is local."""
    if not is_remote(address):
        yield local_path(address)
        return
    ending = path_of(address).suffix
    with tempfile.NamedTemporaryFile(prefix="rcnn-", suffix=ending) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)
