"""Zarr arrays that can be written again at any time from something else, through zarr-python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .commit import put_if_absent, replace
from .schema import group_metadata

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer


def write_arrays(
    folder: Path,
    arrays: dict[str, tuple[NDArray[np.generic], int, float]],
    *,
    attributes: dict[str, object] | None = None,
) -> None:
    """Write arrays into a group, in the order given: name → (values, rows a chunk, fill value).

    Arrays that are there grow; each file is replaced in one step, chunks before their array's metadata, and the
    group's attributes last. zarr-python encodes in memory: its own files can be left half named by a kill.

    Raises:
        StorageError: the disk failed.
    """
    put_if_absent(folder / "zarr.json", group_metadata())
    for name, (values, chunk_rows, fill) in arrays.items():
        files = _encode(values, chunk_rows=chunk_rows, fill=fill)
        for key in sorted(files, key=lambda key: (key == "zarr.json", key)):
            _replace_changed(folder / name / key, files[key])
        for group in list(Path(name).parents)[:-1]:
            put_if_absent(folder / group / "zarr.json", group_metadata())
    _replace_changed(folder / "zarr.json", group_metadata(attributes))


def _encode(values: NDArray[np.generic], *, chunk_rows: int, fill: float) -> dict[str, bytes]:
    """The files of one Zarr array, by key."""
    import zarr

    files: dict[str, Buffer] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk_rows, *values.shape[1:]),
        fill_value=values.dtype.type(fill),
        config={"write_empty_chunks": True},  # else a chunk that became empty would keep its old file
    )
    array[...] = values
    return {key: data.to_bytes() for key, data in files.items()}


def _replace_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        replace(path, data)


def read_arrays(
    folder: Path, names: list[str]
) -> tuple[Mapping[str, object], dict[str, NDArray[np.generic]]]:
    """Read a group's attributes and whole arrays, in the order given; both empty where any cannot be read."""
    if not (folder / "zarr.json").exists():
        return {}, {}
    import zarr

    try:
        group = zarr.open_group(str(folder), mode="r")
        attributes = dict(group.attrs)
        return attributes, {name: np.asarray(group[name][...]) for name in names}  # type: ignore[index]
    except Exception:  # whatever a damaged array makes the library raise: what it holds can be derived again
        return {}, {}
