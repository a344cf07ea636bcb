"""Finalising, killed at every one of its steps: readers are right all the while, and the next one mends what is derived."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
from faster import store as stores
from faster.store.format.receipts import list_receipts, receipt_path
from faster.store.maintain.verify import verify
from faster.store.read.coverage import load_coverage
from stores import make_spec, make_store, make_videos, write_shard

ROWS, SHARD_VIDEOS = 12, 2


def half_consolidated(path: Path) -> Path:
    """A store of two models whose index knows half of the shards."""
    specs = [make_spec("dear"), make_spec("cheap", map_shape=(1, 1, 1, 8))]
    store = make_store(path, specs, make_videos(ROWS), shard_videos=SHARD_VIDEOS)
    for spec in specs:
        for shard, view in list_receipts(store.path / spec.folder)[::2]:
            receipt_path(store.path / spec.folder, shard, view).unlink()
    stores.finalise(stores.open(path))
    store = stores.open(path)
    for spec in specs:
        for shard in range(0, ROWS // SHARD_VIDEOS, 2):
            write_shard(path, spec, store.videos, shard, SHARD_VIDEOS)
    return path


def killed_at(path: Path, step: int) -> bool:
    """Finalise in a process that kills itself before its step-th replacement; whether it came so far."""
    child = os.fork()
    if child == 0:
        replace, done = Path.replace, 0

        def dying(self: Path, target: Path) -> Path:
            nonlocal done
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = dying  # type: ignore[method-assign, assignment]
        try:
            stores.finalise(stores.open(path))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


def derived(path: Path) -> dict[str, bytes]:
    files = [*path.glob("features/*/*/index/**/*"), *(path / "videos").rglob("*"), path / "failures.jsonl"]
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in files
        if file.is_file() and file.suffix != ".tmp"
    }


def test_finalising_killed_at_any_step_misleads_nobody_and_is_fixed_by_the_next(tmp_path: Path) -> None:
    whole = half_consolidated(tmp_path / "whole.zarr")
    begun = derived(whole)
    stores.finalise(stores.open(whole))
    expected = derived(whole)
    assert begun != expected
    step = 0
    while True:
        step += 1
        path = tmp_path / f"{step}.zarr"
        shutil.copytree(whole, path)
        for name in expected.keys() - begun.keys():
            (path / name).unlink()
        for name, data in begun.items():
            (path / name).write_bytes(data)
        if not killed_at(path, step):
            break
        store = stores.open(path)
        for key in store.models:
            features = store.features(*key)
            receipts = load_coverage(
                features.folder,
                features.spec,
                videos=store.videos,
                shard_videos=SHARD_VIDEOS,
                again=list_receipts(features.folder),
            )
            for name, values in receipts.columns.items():
                np.testing.assert_array_equal(values, features.coverage.columns[name], err_msg=f"step {step}")
        stores.finalise(stores.open(path))
        assert derived(path) == expected
        found = verify(path, progress=False, processes=1)
        assert not found.bad and not found.descriptions
    assert step > 4
