"""Zarr arrays that are derived from other data and can be rewritten at any time.

Any Zarr library can read them. This module writes and reads them without one: each file is replaced
atomically, and data are decoded only if they have the shape, dtype and size that the caller expects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StoreError
from ...runtime.atomic import put_if_absent, replace
from ...runtime.canonical_json import indented_json
from ..io.safe_open import METADATA_BYTES_MAX, read_regular
from .encoding import ZSTD_LEVEL, compress, compressed_size_max, decompress
from .schema import group_metadata


@dataclass(frozen=True, kw_only=True)
class Column:
    """The layout of an array: chunks of `chunk_rows` rows, one zstd frame each, padded with `fill`.

    `fill` is NaN if the dtype has one and it means "absent".
    """

    dtype: str
    chunk_rows: int
    fill: float

    def metadata(self, shape: tuple[int, ...]) -> bytes:
        """Return the array's `zarr.json`."""
        dtype = np.dtype(self.dtype)
        codec: dict[str, Any] = {"name": "bytes"}
        if dtype.itemsize > 1:
            codec["configuration"] = {"endian": "little"}
        fill = dtype.type(self.fill).item()
        return indented_json(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": shape,
                "data_type": self.dtype,
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [self.chunk_rows, *shape[1:]]},
                },
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": "NaN" if fill != fill else fill,
                "codecs": [
                    codec,
                    {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
                ],
                "attributes": {},
            },
        )

    def key(self, chunk: int, shape: tuple[int, ...]) -> str:
        """Return the file name of a chunk, relative to the array's folder."""
        return "/".join(["c", str(chunk), *["0"] * (len(shape) - 1)])


def write_arrays(
    folder: Path,
    arrays: Mapping[str, tuple[NDArray[np.generic], Column]],
    *,
    attributes: Mapping[str, object] | None = None,
) -> None:
    """Write arrays into a group, in the order given.

    Existing arrays grow. Each file is replaced atomically: the chunks before their array's metadata, and the
    group's attributes last.

    Raises:
        StorageError: the disk failed.
    """
    put_if_absent(folder / "zarr.json", group_metadata())
    for name, (values, column) in arrays.items():
        for chunk in range(-(-len(values) // column.chunk_rows)):
            rows = values[chunk * column.chunk_rows : (chunk + 1) * column.chunk_rows]
            padded = np.full((column.chunk_rows, *values.shape[1:]), column.fill, dtype=_little(column.dtype))
            padded[: len(rows)] = rows
            _replace_changed(folder / name / column.key(chunk, values.shape), compress(padded.tobytes()))
        _replace_changed(folder / name / "zarr.json", column.metadata(values.shape))
        for group in list(Path(name).parents)[:-1]:
            put_if_absent(folder / group / "zarr.json", group_metadata())
    _replace_changed(folder / "zarr.json", group_metadata(attributes))


def read_attributes(folder: Path) -> dict[str, Any]:
    """Return a group's attributes, or an empty dict if they cannot be read."""
    try:
        attributes = json.loads(read_regular(folder / "zarr.json", size_max=METADATA_BYTES_MAX))["attributes"]
    except (OSError, StoreError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def read_array(folder: Path, column: Column, shape: tuple[int, ...]) -> NDArray[np.generic] | None:
    """Read an array that `write_arrays` wrote; None if it is damaged or of another shape."""
    values = np.empty(shape, dtype=_little(column.dtype))
    chunk_bytes = column.chunk_rows * prod(shape[1:]) * values.itemsize
    padded = np.empty((column.chunk_rows, *shape[1:]), dtype=values.dtype)
    try:
        if read_regular(folder / "zarr.json", size_max=METADATA_BYTES_MAX) != column.metadata(shape):
            return None
        for chunk in range(-(-shape[0] // column.chunk_rows)):
            first = chunk * column.chunk_rows
            file = folder / column.key(chunk, shape)
            data = read_regular(file, size_max=compressed_size_max(chunk_bytes))
            decompress(memoryview(data), padded.reshape(-1).view(np.uint8).data)
            values[first : first + column.chunk_rows] = padded[: shape[0] - first]
    except (OSError, StoreError):  # the array can be derived again
        return None
    return values.astype(column.dtype, copy=False)


def _little(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _replace_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        replace(path, data)
