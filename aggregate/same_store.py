"""Find a run's store after a move. Its contents identify it; the path only says where to look."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import store as stores
from ..errors import DataError, RunError, StoreError, UsageError
from ..runtime.canonical_json import digest
from ..store import Store
from ..store.io.s3 import SCHEME
from ..training.run_folder import read_json, run_began, write_json
from .data.mix import Mix, choose_mix
from .runs import RunConfig, load_config, store_changes


def open_store(config: RunConfig, named: str | Path | None, *, command: Sequence[str]) -> Store:
    """Open the named store, or else the run's own at the recorded path.

    Raises:
        StoreError: the store is not valid.
        RunError: none is named, and nothing is at the recorded path. The message says to add --store to
            `command`, a list of arguments.
    """
    if named is not None:
        return stores.open(named)
    try:
        return stores.open(config.store)
    except StoreError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise
        raise RunError(
            f"the run's store is not at {config.store}, where it was when the run was made; say where it is "
            f"now: {shlex.join(command)} --store FOLDER"
        ) from None


def recorded_place(run: Path, store: Store, mix: Mix) -> str:
    """Return the path that the run in this folder began with if the store is the same, else its own."""
    here = str(store.path.resolve())
    try:
        begun = load_config(run) if run_began(run) else None
    except RunError:  # opening the run reports its errors
        return here
    return here if begun is None or store_changes(begun, store, mix) else begun.store


def record_place(run: Path, store: Store) -> None:
    """Record the store's new path in a run's config.json, if the recorded one no longer exists.

    The run must not be locked.
    """
    values = read_json(run / "config.json")
    recorded = str(values["store"])
    if not recorded.startswith(SCHEME) and not (Path(recorded) / "zarr.json").exists():
        write_json(run / "config.json", {**values, "store": str(store.path.resolve())})


def recorded_sweep_place(folder: Path, store: Store) -> str:
    """Return the path that the sweep in this folder began with, if it and its runs use the same store.

    Otherwise return the store's own path.
    """
    here = str(store.path.resolve())
    if not run_began(folder):
        return here
    try:
        begun = read_json(folder / "config.json")
        recorded = str(begun["sweep"]["store"])
        if recorded == here or begun["segments"] != list(store.videos.segments):
            return here
        for file in folder.glob("cells/*/config.json"):
            config = load_config(file.parent)
            if store_changes(config, store, choose_mix(store, config)):
                return here
    except (DataError, UsageError, KeyError, TypeError):  # opening it reports the errors
        return here
    return recorded


def one_path_each(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Return the configs with one path per store: the first path that still exists, or else the first.

    A store at two paths is the same if its manifest is the same and no known fact about its maps differs.
    """
    places: dict[tuple[str, str], dict[Any, set[str]]] = {}
    for config in configs:
        facts = places.setdefault(_place(config), {})
        for key, value in _facts(config).items():
            facts.setdefault(key, set()).add(value)
    groups: list[list[tuple[str, str]]] = []
    for place, facts in places.items():
        for group in groups:
            if place[1] == group[0][1] and all(_agree(facts, places[other]) for other in group):
                group.append(place)
                break
        else:
            groups.append([place])
    path_of: dict[tuple[str, str], str] = {}
    for group in groups:
        there = [path for path, _ in group if (Path(path) / "zarr.json").exists()]
        path_of |= dict.fromkeys(group, (there or [group[0][0]])[0])
    return [replace(config, store=path_of[_place(config)]) for config in configs]


def _place(config: RunConfig) -> tuple[str, str]:
    """Return path and manifest; for older runs, which do not know the manifest, only the path."""
    segments = config.videos.get("segments")
    return config.store, digest(segments) if segments else config.store


def _facts(config: RunConfig) -> dict[Any, str]:
    """Return what a run knows of its store's maps: a digest per model, and one for all together."""
    specs: dict[Any, str] = {model: digest(entry["spec"]) for model, entry in config.models.items()}
    return {**specs, tuple(sorted(config.models)): config.store_fingerprint}


def _agree(one: Mapping[Any, set[str]], other: Mapping[Any, set[str]]) -> bool:
    return all(one[key] & other[key] for key in one.keys() & other.keys())
