"""Attributes of a Zarr group that identify a store, and the provenance of its maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StoreError
from ...runtime.canonical_json import digest
from ...terminal.text import counted
from ..io.s3 import RemotePath
from ..io.safe_open import METADATA_BYTES_MAX, read_regular, require_inside
from .spec import FeatureSpec


def sealed_attributes(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group: the value, with a digest that reveals any change."""
    return {"faster": {**value, "digest": digest(value)}}


def read_group_attributes(folder: Path) -> dict[str, Any]:
    """Read the attributes that faster wrote to a Zarr group.

    Raises:
        StoreError: the folder is not a group that faster wrote, or it was changed afterwards.
    """
    try:
        data = read_regular(folder / "zarr.json", size_max=METADATA_BYTES_MAX)
        attributes = json.loads(data)["attributes"]["faster"]
        sealed = attributes.pop("digest", None)
        fits = sealed == digest(attributes)
    except OSError as error:
        fix = f"make one: faster extract --store {folder} --model …"
        if isinstance(folder, RemotePath):
            fix = "look there with an S3 client, or copy a store to it"
        raise StoreError(f"{folder} is not a store ({error.strerror}); {fix}") from error
    except KeyError as error:
        raise StoreError(f"{folder} is a Zarr group, and not one that faster wrote") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{folder}/zarr.json is not one that faster wrote ({error!r:.200})") from error
    if not fits:
        raise StoreError(
            f"{folder}/zarr.json was changed after it was written: its digest does not fit; "
            "restore it from a copy"
        )
    return dict(attributes)


def read_spec(folder: Path) -> FeatureSpec:
    """Read the spec of the maps in a model's folder, `<store>/features/<model>/L<frames>`.

    Raises:
        StoreError: the spec is absent or describes other maps, or the folder leads out of the store.
    """
    require_inside(folder, folder.parents[2])
    spec = read_group_attributes(folder).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{folder}/zarr.json holds no provenance")
    read = FeatureSpec.from_dict(spec)
    if read.folder != "/".join(folder.parts[-3:]):
        raise StoreError(
            f"{folder}/zarr.json is that of {read.model} at {counted(read.clip_frames, 'frame')}"
        )
    return read
