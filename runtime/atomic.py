"""Write files atomically: another process sees the complete file or none.

A store's files are written only if they do not exist. `put_if_absent` is the only function that another kind
of storage would have to implement. All other functions replace the existing file.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import StorageError

TEMPORARY_SUFFIX = ".tmp"

_FIXES = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of the quota and run the same command again",
    errno.EFBIG: "a limit on the size of files (ulimit -f); raise it and run the same command again",
    errno.EROFS: "the file system is read-only; choose another {place}",
    errno.EACCES: "not allowed to write there; choose another {place}",
    errno.EPERM: "not permitted there (a store needs hard links); choose another {place}",
    errno.ENOTSUP: "this file system has no hard links, which a store needs; choose another {place}",
}


def fix_of(
    error: OSError,
    otherwise: str = "what is whole is kept; run the same command again",
    *,
    place: str = "place",
) -> str:
    """Return what the user can do about a disk error; `place` is the option that names the path, if known."""
    return _FIXES.get(error.errno or 0, otherwise).format(place=place)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError of one line that names the path and the fix."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise StorageError(f"{where}: {error.strerror or error}; {fix_of(error)}") from error


@contextmanager
def temporary_beside(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new temporary file in the folder of `path`; it is always removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    file = temporary.open("xb")
    try:
        yield file, temporary
    finally:
        with suppress(OSError):  # buffered data are not needed: a caller that needs them has flushed
            file.close()
        temporary.unlink(missing_ok=True)


def link_if_absent(temporary: Path, path: Path) -> bool:
    """Give a finished, fsynced file its name; return False and change nothing if the name exists."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        ours = False
    else:
        ours = True
    fsync_folder(path.parent)  # also for another writer's file: what we record about it must not outlive it
    return ours


def put_if_absent(path: Path, data: bytes) -> bool:
    """Store `data` at `path`, durable when this returns, unless the path exists.

    Returns:
        True if these bytes were written, False if the path existed (and was not changed).

    Raises:
        StorageError: the disk failed.
    """
    with storage_errors(path):
        if path.exists():
            fsync_folder(path.parent)
            return False
        with temporary_beside(path) as (file, temporary):
            _write_durably(file, data)
            return link_if_absent(temporary, path)


def replace(path: Path, data: bytes) -> None:
    """Store `data` at `path` atomically, over an existing file; for data that can be derived again.

    After a power failure the old file may be back, but never a partial one.

    Raises:
        StorageError: the disk failed.
    """
    with storage_errors(path), replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` atomically if the block ends without an error; else nothing changes.

    Args:
        path: the file; its folder is created.
        durable: sync the bytes to disk before the file gets its name. Without this, a power failure may leave
            an empty file: for outputs of many files that are checked or written again together.

    Raises:
        OSError: the disk failed.
    """
    with temporary_beside(path) as (file, temporary):
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())
        temporary.replace(path)


def _write_durably(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk: names that were created, renamed or removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
