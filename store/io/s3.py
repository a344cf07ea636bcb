"""Read stores on S3-compatible object storage: a path class that reads objects as pathlib reads files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any

from ...errors import StoreError, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3:"
THREADS = 16  # parallel requests: most of the time of a request is its round trip
TAIL_BYTES = 1 << 14  # fetched when a shard is opened: its index is at the end

_CLIENT: dict[str, Any] = {  # allow_http: a user who gives an http:// endpoint wants it
    "client_options": {"connect_timeout": "5s", "timeout": "60s", "allow_http": True},
    "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
}


def store_location(path: str | Path) -> Path:
    """Return the path of a store: a `RemotePath` for s3://bucket/…, also if pathlib made it "s3:/bucket/…".

    Raises:
        UsageError: the address has another scheme or no bucket, or the client for object storage is not
            installed.
    """
    parts = Path(path).parts
    if parts[:1] == (SCHEME,):
        if len(parts) < 2:
            raise UsageError(f"{path}: names no bucket; a store there is s3://bucket/folder")
        if find_spec("obstore") is None:
            raise UsageError(
                f"{path}: reading object storage needs obstore: pip install 'faster-video[cloud]'"
            )
        return RemotePath(*parts)
    if parts and re.fullmatch("[a-z][a-z0-9]+:", parts[0]) and not Path(parts[0]).exists():
        raise UsageError(f"{path}: a store is a folder, or is read from s3://bucket/folder")
    return Path(path)


def require_local(path: Path) -> None:
    """Refuse to write on object storage, which cannot create a shard only if it does not exist yet.

    Raises:
        UsageError: the path is on object storage.
    """
    if path.parts[:1] == (SCHEME,):
        raise _read_only(RemotePath(*path.parts))


def require_verifiable(path: Path) -> None:
    """Refuse to verify on object storage: it would fetch every byte, and could repair nothing.

    Raises:
        UsageError: the path is on object storage.
    """
    if path.parts[:1] == (SCHEME,):
        there = RemotePath(*path.parts)
        raise UsageError(
            f"{there} is on object storage, where stores are only read; verify a copy: "
            f"aws s3 sync {there} {there.name}, then faster verify {there.name}"
        )


class RemotePath(PosixPath):
    """An object, or a folder of objects, `s3://bucket/folder/name`, with the read methods of `Path`.

    It stores only its parts. All other methods raise UsageError, because `__fspath__` does: so nothing takes
    it for a local file by mistake. Methods that read raise FileNotFoundError if the object does not exist,
    and StoreError, in one line, for all other errors.
    """

    __slots__ = ()

    def __str__(self) -> str:
        if self.parts[:1] != (SCHEME,):
            return "/".join(self.parts)
        return f"{SCHEME}//" + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        raise _read_only(self)

    def resolve(self, strict: bool = False) -> RemotePath:
        """Return self: object storage has no links."""
        return self

    def absolute(self) -> RemotePath:
        """Return self: the path contains its bucket."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status of an object: a regular file of its size."""
        import obstore

        with _errors(self):
            size = obstore.head(_bucket(self._bucket_name), self._key)["size"]
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def exists(self) -> bool:
        """Return whether the object exists; False for a folder of objects."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Return whether the object exists."""
        return self.exists()

    def read_bytes(self, size_max: int | None = None) -> bytes:
        """Read the complete object; StoreError if it has more than `size_max` bytes."""
        import obstore

        with _errors(self):
            answer = obstore.get(_bucket(self._bucket_name), self._key)
            size = answer.meta["size"]
            if size_max is not None and size > size_max:
                raise StoreError(f"{self} has {size} bytes; such a file has at most {size_max}")
            return bytes(answer.bytes())

    def iterdir(self) -> Generator[RemotePath]:
        """Yield the objects and folders directly below; nothing if the folder does not exist."""
        import obstore

        with _errors(self):
            listed = obstore.list_with_delimiter(_bucket(self._bucket_name), self._key or None)
        keys = [*listed["common_prefixes"], *(entry["path"] for entry in listed["objects"])]
        for key in sorted(keys):
            yield self / key.rstrip("/").rpartition("/")[2]

    def glob(self, pattern: str) -> Generator[RemotePath]:
        """Yield the objects and folders that match a pattern without "**"."""
        found = [self]
        for part in pattern.split("/"):
            found = [entry for folder in found for entry in folder.iterdir() if fnmatchcase(entry.name, part)]
        yield from found

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of all objects below, by relative path, from one recursive listing."""
        import obstore

        with _errors(self):
            pages = obstore.list(_bucket(self._bucket_name), self._key or None)
            first = len(self._key) + 1 if self._key else 0
            return {entry["path"][first:]: entry["size"] for page in pages for entry in page}

    def zarr_store(self) -> Any:
        """Return this folder as a zarr-python store."""
        import zarr

        with _errors(self):
            return zarr.storage.ObjectStore(
                _client(self._bucket_name, prefix=self._key or None), read_only=True
            )

    @property
    def _bucket_name(self) -> str:
        return self.parts[1]

    @property
    def _key(self) -> str:
        return "/".join(self.parts[2:])


class RemoteRanges:
    """Byte ranges of an object, one request each; the last `TAIL_BYTES` are fetched with the size."""

    def __init__(self, path: RemotePath) -> None:
        import obstore

        self._path = path
        self._bucket, self._key = _bucket(path._bucket_name), path._key
        with _errors(path):
            answer = obstore.get(self._bucket, self._key, options={"range": {"suffix": TAIL_BYTES}})
            self.size = answer.meta["size"]
            self._tail = bytes(answer.bytes())

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from `offset`. Raises StoreError if the object ends earlier or cannot be read."""
        import obstore

        data: Any
        first = offset - (self.size - len(self._tail))
        if first >= 0:
            data = self._tail[first : first + len(memory)]
        else:
            try:
                with _errors(self._path):
                    data = obstore.get_range(self._bucket, self._key, start=offset, length=len(memory))
            except FileNotFoundError as error:
                raise StoreError(f"{self._path}: {error.strerror}") from error
        if len(data) != len(memory):
            raise StoreError(f"{self._path}: ends before the clip that its receipt promises")
        memory[:] = data

    def close(self) -> None:
        """Free the fetched bytes."""
        self._tail = b""


@cache
def _bucket(name: str) -> S3Store:
    return _client(name, prefix=None)


def _client(name: str, *, prefix: str | None) -> S3Store:
    from obstore.store import S3Store

    return S3Store(name, prefix=prefix, **_CLIENT)


@contextmanager
def _errors(path: RemotePath) -> Iterator[None]:
    """Turn the client's errors of many lines into FileNotFoundError or a StoreError of one line."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except (FileNotFoundError, BaseError, OSError, ValueError) as error:
        text = str(error).partition("\n\nDebug source")[0]
        if isinstance(error, FileNotFoundError) or "<Code>NoSuchBucket<" in text:
            raise FileNotFoundError(errno.ENOENT, "no such object, or no such bucket", str(path)) from error
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) and "/latest/" not in text:
            reason = "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may read"
        elif "/latest/" in text:  # the machine's credentials, which the client tries last
            reason = (
                "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true "
                "for a public bucket"
            )
        else:
            short = " ".join(re.sub("<[^>]*>", " ", text).split())[:300]
            reason = (
                f"the object storage gave no good answer; check AWS_ENDPOINT_URL and AWS_REGION ({short})"
            )
        raise StoreError(f"{path}: {reason}") from error


def _read_only(path: RemotePath) -> UsageError:
    return UsageError(
        f"{path} is on object storage, where stores are only read; write on a local or shared file system, "
        "and copy what is whole there with any S3 client"
    )
