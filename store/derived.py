"""Zarr arrays that can be written again at any time from something else, through zarr-python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .commit import put_if_absent
from .schema import group_metadata


def write_arrays(
    folder: Path,
    arrays: dict[str, tuple[NDArray[np.generic], int, float]],
    *,
    attributes: dict[str, object] | None = None,
) -> None:
    """Write arrays into a group, in the order given: name → (values, rows a chunk, fill value).

    Arrays that are there grow; each chunk is replaced in one step.
    """
    import zarr

    put_if_absent(folder / "zarr.json", group_metadata(attributes))
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


def read_arrays(folder: Path, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """Read whole arrays of a group, in the order given."""
    import zarr

    group = zarr.open_group(str(folder), mode="r")
    arrays = {}
    for name in names:
        array = group[name]
        assert isinstance(array, zarr.Array)
        arrays[name] = np.asarray(array[...])
    return arrays
