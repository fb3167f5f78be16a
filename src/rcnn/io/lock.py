"""A folder that one process at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: set[Path] = set()  # locks of the system are those of a process; these are those of its threads
_holding = threading.Lock()


class FolderInUseError(ValueError):
    """Another process, or another thread of this one, writes to the folder.

    Attributes:
        process: its number, if it is known and of this machine.
    """

    process: int | None = None


class FolderLock:
    """The right to write to a folder, until :meth:`release` or the end of the process, whatever ends it.

    It is a record lock (``fcntl.lockf``): unlike ``flock``'s, processes that are forked do not inherit it, so
    that one that outlives its parent does not keep the folder.

    Attributes:
        folder: as it was given.
        path: the file that is locked.
    """

    def __init__(self, folder: Path, what: str) -> None:
        """Take the lock.

        Args:
            folder: existing.
            what: what the folder is, for messages, such as ``run``.

        Raises:
            FolderInUseError: somebody else has it; names the process.
            OSError: the folder cannot be written.
        """
        self.folder, self.path = folder, folder.resolve() / LOCK
        with _holding:
            if self.path in _held:
                raise FolderInUseError(f"{folder}: this process is already writing to this {what}")
            self._file = _locked(self.path, f"{folder}: another process is writing to this {what}")
            _held.add(self.path)
        owner = {"process": os.getpid(), "host": socket.gethostname()}
        self._file.truncate(0)
        self._file.write(json.dumps(owner).encode())
        self._file.flush()

    def release(self) -> None:
        """Let others have the folder; nothing if that was done."""
        with _holding:
            if self.path not in _held:
                return
            _held.discard(self.path)
            # While it is still locked: nobody else can have this file then.
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def writer_of_folder(folder: Path) -> FolderInUseError | None:
    """Says which process writes to a folder; None: nobody does.

    Raises:
        OSError: the folder cannot be written.
    """
    if not (folder.resolve() / LOCK).is_file():
        return None
    try:
        FolderLock(folder, "folder").release()
    except FolderInUseError as error:
        return error
    return None


def _locked(path: Path, refusal: str) -> BinaryIO:
    """The lock's file, open and locked."""
    while True:
        file = path.open("a+b")
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                warnings.warn(
                    f"{path.parent}: this file system has no locks: start one run only", stacklevel=4
                )
                return file
            file.seek(0)
            owner = file.read(200)
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            refused = FolderInUseError(refusal + _named(owner))
            refused.process = _of_this_machine(owner)
            raise refused from error
        # The one who had it may have removed the file that was opened here.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        file.seek(2**30)  # what is locked cannot be read there
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _named(owner: bytes) -> str:
    try:
        values = json.loads(owner)
        return f" (process {int(values['process'])} on {values['host']})"
    except (ValueError, KeyError, TypeError):
        return ""


def _of_this_machine(owner: bytes) -> int | None:
    try:
        values = json.loads(owner)
        return int(values["process"]) if values["host"] == socket.gethostname() else None
    except (ValueError, KeyError, TypeError):
        return None
