"""Our attributes of a Zarr group: what makes it a store, and of which kind its maps are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .spec import FeatureSpec


def read_group_attributes(folder: Path) -> dict[str, Any]:
    """Our attributes of a Zarr group.

    Raises:
        StoreError: the folder is not a group of a store of ours.
    """
    try:
        attributes = json.loads((folder / "zarr.json").read_bytes())["attributes"]["faster"]
    except OSError as error:
        raise StoreError(
            f"{folder} is not a store ({error.strerror}); make one: faster extract --store {folder} --model …"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}/zarr.json is not one that faster wrote ({error!r})") from error
    if not isinstance(attributes, dict):
        raise StoreError(f"{folder}/zarr.json is not one that faster wrote")
    return attributes


def read_spec(folder: Path) -> FeatureSpec:
    """What decided the bytes of the maps in a model's folder. Raises StoreError where that is not said."""
    spec = read_group_attributes(folder).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{folder}/zarr.json holds no provenance")
    return FeatureSpec.from_dict(spec)
