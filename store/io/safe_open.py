"""Open a store's files safely: only regular files, of an allowed size, inside the store."""

from __future__ import annotations

import os
from io import BufferedReader
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from .s3 import RemotePath

METADATA_BYTES_MAX = 1 << 24  # of a `zarr.json`; typical ones have a few thousand bytes


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading; refuse a link, a pipe or a device without waiting for it.

    Raises:
        StoreError: it is not a regular file.
        OSError: it cannot be opened.
    """
    if path.is_symlink():
        raise StoreError(f"{path} is a link to {path.readlink()}; a store's files are no links")
    # Checked before opening, because opening a pipe would wait for its other end.
    if path.exists() and not path.is_file():
        raise StoreError(f"{path} is not a regular file")
    return path.open("rb")


def read_regular(path: Path, *, size_max: int) -> bytes:
    """Read a complete file of at most `size_max` bytes.

    Raises:
        StoreError: it is larger, or not a regular file.
        OSError: it cannot be read.
    """
    if isinstance(path, RemotePath):
        return path.read_bytes(size_max)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > size_max:
            raise StoreError(f"{path} has {size} bytes; such a file has at most {size_max}")
        return file.read(size)


def read_floats(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read a file of little-endian float32 in C order.

    Raises:
        StoreError: it has another size, or is not a regular file.
        OSError: it cannot be read.
    """
    size = 4 * prod(shape)
    data = read_regular(path, size_max=size)
    if len(data) != size:
        raise StoreError(f"{path}: {len(data)} bytes, expected float32 of shape {shape}")
    return np.frombuffer(data, dtype="<f4").reshape(shape)


def require_inside(path: Path, root: Path) -> None:
    """Refuse a path that leaves `root` through a link, so that nothing outside is read or removed.

    Raises:
        StoreError: the path leads out of `root`.
    """
    real = path.resolve()
    if not real.is_relative_to(root.resolve()):
        raise StoreError(f"{path} leads out of the store, to {real}; remove that link")
