"""Undoing shards of a store, so that an extraction makes them again; stopped anywhere, it is finished later.

A shard's tombstone, `receipts/000012.v0.removing`, is put before its receipt goes, and goes after its data. A
tombstone beside a receipt means nothing: no data was removed yet, or the shard was made again since. A tombstone
without one says that what is left of the shard's data is to be removed, and not to be taken for a writer's.
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
    """Undo shards, each named by (model, clip frames, shard, view), so that an extraction makes them again.

    No other process may be writing the store. At every moment readers see each of the shards whole or not at all;
    stopped half-way, `finish_removals` or the next `remove_shards` removes the rest of those that have begun to go.

    Raises:
        StorageError: the disk failed.
    """
    named = [(store.features(model, frames).spec, shard, view) for model, frames, shard, view in shards]
    with storage_errors(store.path):
        for folder in sorted({store.path / spec.folder for spec, _, _ in named}):
            # Without its attributes no reader uses the index, which would speak of shards that are made anew.
            remove_file(folder / "index" / "zarr.json", store.path)
        for spec, shard, view in named:
            put_if_absent(_tombstone(store.path / spec.folder, shard, view), b"")
        for spec, shard, view in named:
            remove_file(receipt_path(store.path / spec.folder, shard, view), store.path)
    finish_removals(store)
    finalise(store)


def finish_removals(store: Store) -> None:
    """Remove the data of every shard whose removal was stopped half-way; whoever writes shards calls this first.

    Raises:
        StorageError: the disk failed.
    """
    specs = [store.features(model, clip_frames).spec for model, clip_frames in store.models]
    with storage_errors(store.path):
        for spec in specs:
            for file in list_tombstones(store.path / spec.folder):
                _finish(store.path, spec, file)


def list_tombstones(folder: Path) -> list[Path]:
    """The files that name a shard whose removal was begun, sorted; `folder` is the model's."""
    return sorted(file for file in folder.glob("receipts/*.removing") if _NAME.fullmatch(file.name))


def remove_file(path: Path, root: Path) -> None:
    """Remove a file of the store at `root` (of a link, the link), never one outside; durable when this returns."""
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
        # Asked before each file: another run may have finished this, and be making the shard again.
        if tombstone.exists() and not receipt_path(folder, shard, view).exists():
            remove_file(folder / key, root)
    remove_file(tombstone, root)
