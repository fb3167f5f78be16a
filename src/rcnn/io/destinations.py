"""Whether an output can be written, asked before the work whose result it is to hold."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from rcnn.io.atomic import STDOUT, STREAMS

LONGEST_NAME = 255  # bytes, of a file or folder on every common file system


def refuse_unwritable_file(path: Path) -> None:
    """Refuse a path at which :func:`rcnn.io.atomic.write_atomically` could not write a file.

    Missing folders are no obstacle if they can be made. Nothing is left behind.

    Raises:
        ValueError: it names the path, the reason, and what to do.
    """
    if str(path) == STDOUT or str(path).startswith(STREAMS):
        return
    try:
        _try_file(path)
    except OSError as error:
        raise _refusal(path, error) from error


def refuse_unwritable_folder(path: Path) -> None:
    """Refuse a folder that cannot be made, or in which no file can be made; raises as for a file."""
    try:
        _try_to_write_in(path)
    except OSError as error:
        raise _refusal(path, error) from error


def refuse_unwritable(path: Path) -> None:
    """Refuse a path at which neither a file nor a folder could be written; raises as for a file."""
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise _refusal(path, error) from error
    (refuse_unwritable_folder if is_folder else refuse_unwritable_file)(path)


def _refusal(path: Path, error: OSError) -> ValueError:
    return ValueError(f"{path} cannot be written ({error.strerror}): choose another path")


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _try_file(path: Path) -> None:
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise _failure(errno.ENAMETOOLONG)
    folder = path.resolve().parent if path.is_symlink() else path.parent
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # or a link to what is not there yet
        _try_to_write_in(folder)
        return
    if S_ISDIR(mode):
        raise _failure(errno.EISDIR)
    if S_ISREG(mode):
        _try_to_write_in(folder)
    elif not os.access(path, os.W_OK):  # a device or a pipe is written into, not replaced
        raise _failure(errno.EACCES)


def _try_to_write_in(folder: Path) -> None:
    """Make and remove a file in a folder or, where it is missing, in the nearest one that is there."""
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
        raise _failure(errno.ENAMETOOLONG)
    for place in (folder, *folder.parents):
        try:
            is_folder = S_ISDIR(place.stat().st_mode)
        except FileNotFoundError:
            if place.is_symlink():  # to nothing: no folder can be made of this name
                raise
            continue
        if not is_folder:
            raise _failure(errno.ENOTDIR)
        tempfile.TemporaryFile(dir=place).close()
        return
    raise _failure(errno.ENOENT)
