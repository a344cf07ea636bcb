"""How files are written that another process may read: whole or not at all.

Of a store, only where nothing was before: `put_if_absent` is the one seam that another kind of storage would have to
fill. Everything else replaces the file that was there.
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

_MENDS = {
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
    """What the user can do about an error of the disk; `place` is the option that names where it was, if known."""
    return _MENDS.get(error.errno or 0, otherwise).format(place=place)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError of one line that names the path and the mend."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise StorageError(f"{where}: {error.strerror or error}; {fix_of(error)}") from error


@contextmanager
def temporary_beside(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file in the folder of `path`; it is removed at the end, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    file = temporary.open("xb")
    try:
        yield file, temporary
    finally:
        with suppress(OSError):  # what is still in its buffer is not wanted: whoever wanted it has flushed
            file.close()
        temporary.unlink(missing_ok=True)


def link_if_absent(temporary: Path, path: Path) -> bool:
    """Give a finished, fsynced file its name; False, and nothing changed, where the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        ours = False
    else:
        ours = True
    fsync_folder(path.parent)  # also of another's name: what we say of that file must not outlive it
    return ours


def put_if_absent(path: Path, data: bytes) -> bool:
    """Store `data` at `path`, durable when this returns, unless something is there already.

    Returns:
        True if these bytes were put, False if the path was taken (and was left as it is).

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
    """Store `data` at `path` in one step, over whatever is there: for what can be derived again.

    After a power cut it may be the old file again, never a half one.

    Raises:
        StorageError: the disk failed.
    """
    with storage_errors(path), replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` in one step when the block ends well; else nothing changes.

    Args:
        path: the file; its folder is made.
        durable: whether its bytes are on the disk when it gets its name. Without, a power cut may leave an empty file:
            for what is many files, and checked or made again as a whole.

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
    """Put the names in a folder on the disk: what was made, renamed or removed there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
