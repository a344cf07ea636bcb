"""Remove shards of a store, so that an extraction makes them again; an interrupted removal is finished later.

A shard's tombstone, `receipts/000012.v0.removing`, is written before its receipt is removed, and is removed
after its data. A tombstone next to a receipt has no meaning: no data were removed yet, or the shard was
written again. A tombstone without a receipt means that the shard's remaining data must be removed; they are
not a writer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...runtime.atomic import fsync_folder, put_if_absent, storage_errors
from ..format.receipts import receipt_path
from ..format.schema import shard_keys
from ..format.spec import FeatureSpec
from ..io.safe_open import require_inside
from ..read.store import Store
from .finalise import finalise

_NAME = re.compile(r"([0-9]{6,15})\.v([0-9]{1,6})\.removing")


def remove_shards(store: Store, shards: Iterable[tuple[str, int, int, int]]) -> None:
    """Remove shards, given as (model, clip frames, shard, view), so that an extraction makes them again.

    No other process may be writing the store. Readers see each shard complete or not at all, at every moment.
    After an interruption, `finish_removals` or the next `remove_shards` completes the removal.

    Raises:
        StorageError: the disk failed.
    """
    named = [(store.features(model, frames).spec, shard, view) for model, frames, shard, view in shards]
    with storage_errors(store.path):
        for folder in sorted({store.path / spec.folder for spec, _, _ in named}):
            # Without its attributes no reader uses the index, which could describe shards that are rewritten.
            remove_file(folder / "index" / "zarr.json", store.path)
        for spec, shard, view in named:
            put_if_absent(_tombstone(store.path / spec.folder, shard, view), b"")
        for spec, shard, view in named:
            remove_file(receipt_path(store.path / spec.folder, shard, view), store.path)
    finish_removals(store)
    finalise(store)


def finish_removals(store: Store) -> None:
    """Finish removals that were interrupted; every writer of shards calls this first.

    Raises:
        StorageError: the disk failed.
    """
    specs = [store.features(model, clip_frames).spec for model, clip_frames in store.models]
    with storage_errors(store.path):
        for spec in specs:
            for file in list_tombstones(store.path / spec.folder):
                _finish(store.path, spec, file)


def list_tombstones(folder: Path) -> list[Path]:
    """Return the tombstones in a model's folder, sorted."""
    return sorted(file for file in folder.glob("receipts/*.removing") if _NAME.fullmatch(file.name))


def remove_file(path: Path, root: Path) -> None:
    """Remove a file inside the store at `root` (a link, not its target); durable when this returns."""
    require_inside(path.parent, root)
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        fsync_folder(path.parent)


def _tombstone(folder: Path, shard: int, view: int) -> Path:
    return receipt_path(folder, shard, view).with_suffix(".removing")


def _finish(root: Path, spec: FeatureSpec, tombstone: Path) -> None:
    match = _NAME.fullmatch(tombstone.name)
    assert match is not None
    shard, view = int(match[1]), int(match[2])
    folder = root / spec.folder
    for key in shard_keys(spec, shard, view):
        # Check before each file: another run may have finished this, and may be writing the shard again.
        if tombstone.exists() and not receipt_path(folder, shard, view).exists():
            remove_file(folder / key, root)
    remove_file(tombstone, root)
