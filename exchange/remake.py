"""Which `faster import` command makes a store's maps again: told from what the store knows of their making."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..store import Store
from ..store.maintain.remake import encoding_arguments
from ..store.read.features import Features


def import_command(store: Store, features: Features, imported: Mapping[str, Any]) -> list[str]:
    """The command that imports the maps of a model again; `imported` is what their provenance says of the source."""
    spec = features.spec
    told = (
        ["--gflops", f"{features.gflops_per_clip:g}", "--clip-frames", str(spec.clip_frames)]
        if imported.get("of_export") is None  # an export says these itself
        else []
    )
    source = str(imported.get("source", "SOURCE"))
    model = ["--model", spec.model, "--clips", str(spec.clips)]
    return ["faster", "import", source, "--store", str(store.path), *model, *told, *encoding_arguments(spec)]
