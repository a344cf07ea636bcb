"""Zarr arrays that can be written again at any time from something else, through zarr-python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .commit import put_if_absent, replace
from .schema import group_metadata


def write_arrays(
    folder: Path,
    arrays: dict[str, tuple[NDArray[np.generic], int, float]],
    *,
    attributes: dict[str, object] | None = None,
) -> None:
    """Write arrays into a group, in the order given: name → (values, rows a chunk, fill value).

    Arrays that are there grow; each chunk is replaced in one step, and the group's attributes last.
    """
    import zarr

    put_if_absent(folder / "zarr.json", group_metadata())
    group = zarr.open_group(str(folder), mode="a", zarr_format=3)
    for name, (values, chunk_rows, fill) in arrays.items():
        if name not in group:
            group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(chunk_rows, *values.shape[1:]),
                fill_value=values.dtype.type(fill),
            )
        array = group[name]
        assert isinstance(array, zarr.Array)
        if array.shape != values.shape:
            array.resize(values.shape)
        array[...] = values
    if (folder / "zarr.json").read_bytes() != group_metadata(attributes):
        replace(folder / "zarr.json", group_metadata(attributes))


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
