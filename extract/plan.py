"""The shards that a run must make, and the failed ones that it must make again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import StoreError
from ..store import FeatureSpec, Store
from ..store.format.receipts import list_receipts
from ..store.format.schema import maps_key
from ..store.write.removal import remove_shards
from .pipeline.job import ShardTask

logger = logging.getLogger(__name__)


def plan(store: Store, specs: Sequence[FeatureSpec], rows: set[int]) -> list[ShardTask]:
    """Return the shards that hold one of `rows` and are not complete, with the outputs that are missing.

    A shard is not complete if some model and view has no receipt for it. No receipt is opened, and no file of
    another task's shards is looked for.

    Raises:
        StoreError: a shard has its receipt but no maps.
    """
    path, manifest, shard_videos = store.path, store.videos, store.shard_videos
    shards = {row // shard_videos for row in rows}
    complete = [{key for key in list_receipts(path / spec.folder) if key[0] in shards} for spec in specs]
    for spec, receipts in zip(specs, complete, strict=True):
        for shard, view in receipts:
            if not (path / spec.folder / maps_key(shard, view)).is_file():
                raise StoreError(
                    f"{path}: the maps of {spec.model}, shard {shard}, are gone though its receipt is "
                    f"there; run: faster verify {path} --repair"
                )
    tasks = []
    for shard in sorted(shards):
        pending = tuple(
            (i, view)
            for i, (spec, receipts) in enumerate(zip(specs, complete, strict=True))
            for view in range(spec.views)
            if (shard, view) not in receipts
        )
        if pending:
            first = shard * shard_videos
            members = tuple(
                row for row in range(first, min(first + shard_videos, manifest.rows)) if manifest.ids[row]
            )
            tasks.append(ShardTask(shard=shard, rows=members, outputs=pending, shard_videos=shard_videos))
    return tasks


def forget_failures(store: Store, specs: Sequence[FeatureSpec], rows: set[int], root: Path) -> None:
    """Remove the shards in which a video of `rows` failed, so that they are made again completely.

    A shard is kept if the file of one of its complete videos cannot be read any more: its maps would be lost.
    """
    size, videos = store.shard_videos, store.videos
    shards: set[tuple[str, int, int, int]] = set()
    kept: set[int] = set()
    gone: set[Path] = set()
    for spec in specs:
        coverage = store.features(spec.model, spec.clip_frames).coverage
        for shard, view in {(row // size, view) for row, view in coverage.reasons if row in rows}:
            first = shard * size
            needed = first + np.flatnonzero(coverage.ok[first : first + size, view])
            files = [root / videos.paths[row] for row in needed.tolist()]
            lost = [file for file in files if not (os.access(file, os.R_OK) and file.is_file())]
            if lost:
                kept.add(shard)
                gone.update(lost)
            else:
                shards.add((spec.model, spec.clip_frames, shard, view))
    if kept:
        more = f" (nor are {len(gone) - 1} more)" if len(gone) > 1 else ""
        logger.warning(
            f"--retry-failed: {min(gone)} is not there to be read{more}, and its maps are whole: nothing "
            f"was removed of the shards that hold such videos ({len(kept)}); restore the files to retry these"
        )
    if shards:
        remove_shards(store, sorted(shards))
