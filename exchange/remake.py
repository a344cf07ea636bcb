"""Build the `faster import` command that makes a store's maps again, from the store's provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..store import Store
from ..store.maintain.remake import encoding_arguments
from ..store.read.features import Features


def import_command(store: Store, features: Features, imported: Mapping[str, Any]) -> list[str]:
    """Return the command that imports a model's maps again; `imported` is its provenance of the import."""
    spec = features.spec
    told = (
        ["--gflops", f"{features.gflops_per_clip:g}", "--clip-frames", str(spec.clip_frames)]
        if imported.get("of_export") is None  # an export contains these values
        else []
    )
    source = str(imported.get("source", "SOURCE"))
    model = ["--model", spec.model, "--clips", str(spec.clips)]
    return ["faster", "import", source, "--store", str(store.path), *model, *told, *encoding_arguments(spec)]
