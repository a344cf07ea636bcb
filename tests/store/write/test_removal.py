"""Shards are undone whole or not at all, wherever it is stopped: what stays reads as it was, and a rerun completes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster import store as stores
from faster.store.format.receipts import list_receipts, receipt_path
from faster.store.maintain.verify import verify
from faster.store.write.removal import finish_removals, list_tombstones, remove_shards
from stores import make_maps, make_spec, make_store, make_videos, write_shard

SPECS = [make_spec(dtype="float16"), make_spec("r2d14", dtype="uint8")]
VIDEOS, SHARD_VIDEOS = 12, 4
FAILED = {1: "cut off", 9: "cut off"}
DATA_FILES = 5  # of a shard, of both models


class Stop(BaseException):
    """As a kill: nothing handles it."""


class Steps:
    """Counts the calls that change a store's files, and stops before the `at`-th of them; 0 for never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = self.count = 0
        for name in ("link", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", lambda _: None)  # no power is cut here

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*values: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise Stop
            return call(*values, **named)

        return counted


def make_failed(path: Path) -> stores.Store:
    return make_store(path, SPECS, make_videos(VIDEOS), shard_videos=SHARD_VIDEOS, failed=FAILED)


def shards_to_remove(store: stores.Store) -> list[tuple[str, int, int, int]]:
    """Those in which a video failed."""
    return sorted(
        (model, frames, row // SHARD_VIDEOS, view)
        for model, frames in store.models
        for row, view in store.features(model, frames).coverage.reasons
    )


def write_absent(path: Path) -> None:
    """As an extraction does, of sources that were mended."""
    store = stores.open(path)
    finish_removals(store)
    for spec in SPECS:
        for shard in range(VIDEOS // SHARD_VIDEOS):
            if (shard, 0) not in list_receipts(path / spec.folder):
                write_shard(path, spec, store.videos, shard, SHARD_VIDEOS)


def check_readers(path: Path) -> tuple[str, ...]:
    """Every shard is whole or not there, and what is said to be whole reads as it was written; the leftovers."""
    found = verify(path, progress=False, processes=1)
    assert not found.bad
    store = stores.open(path)
    for spec in SPECS:
        features = store.features(spec.model, 8)
        whole = {shard for shard, _ in list_receipts(features.folder)}
        for row in range(VIDEOS):
            if row // SHARD_VIDEOS not in whole:
                assert features.coverage.status[row, 0] == 0
            elif features.ok[row, 0]:
                maps, _ = make_maps(spec, row)
                largest = maps.astype(np.float32).max(axis=(0, 1, 2, 3)) if spec.dtype == "uint8" else 0
                error = np.abs(features.read_maps(row, 0, range(4)).astype(np.float32) - maps)
                assert (error <= largest / 255).all()
            else:
                assert features.coverage.reasons[row, 0] == "cut off" and row in FAILED
    return found.leftovers


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_stopped_before_any_step_a_rerun_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files_of(make_store(tmp_path / "whole.zarr", SPECS, make_videos(VIDEOS)).path)
    failed = make_failed(tmp_path / "failed.zarr").path
    steps, path = Steps(monkeypatch), tmp_path / "s.zarr"
    last, again = 0, 0
    while True:
        last += 1
        shutil.copytree(failed, path)
        steps.count, steps.at = 0, last
        store, stopped = stores.open(path), False
        try:
            remove_shards(store, shards_to_remove(store))
        except Stop:
            stopped = True
        steps.at = 0
        check_readers(path)
        stayed = {spec.model: {shard for shard, _ in list_receipts(path / spec.folder)} for spec in SPECS}
        write_absent(path)
        leftovers = check_readers(path)  # before anything is finalised
        for spec in SPECS:
            features = stores.open(path).features(spec.model, 8)
            expected = [row for row in FAILED if row // SHARD_VIDEOS in stayed[spec.model]]
            assert np.flatnonzero(~features.ok[:, 0]).tolist() == expected, f"step {last}"
        assert not [name for name in leftovers if not name.endswith(".tmp")], f"step {last}"
        store = stores.open(path)
        if shards := shards_to_remove(store):  # of these the receipts were still there
            again += 1
            remove_shards(store, shards)
            write_absent(path)
        stores.finalise(stores.open(path))
        left = files_of(path)
        assert {name: data for name, data in left.items() if not name.endswith(".tmp")} == whole, (
            f"step {last}"
        )
        shutil.rmtree(path)
        if not stopped:
            break
    assert last > 2 * (
        2 + DATA_FILES
    )  # of each shard the receipts and data; the index, tombstones and so on besides
    assert 0 < again < last


@pytest.mark.parametrize("files_left", [5, 3, 0])
def test_killed_with_data_left_the_next_writer_does_not_take_it(tmp_path: Path, files_left: int) -> None:
    """A shard of which some files are left, and no receipt."""
    whole = files_of(make_store(tmp_path / "whole.zarr", SPECS, make_videos(VIDEOS)).path)
    path = make_failed(tmp_path / "s.zarr").path
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from faster import store as stores\n"
        "from faster.store.write.removal import remove_shards\n"
        "unlink, count = os.unlink, 0\n"
        "def killing(path, **named):\n"
        "    global count\n"
        "    count += '/c/' in str(path)\n"
        f"    if count > {DATA_FILES - files_left} or (count == {DATA_FILES} and '.removing' in str(path)):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    unlink(path, **named)\n"
        "os.unlink = killing\n"
        "shards = [(model, 8, 0, 0) for model in ('r2d14', 'r2d26')]\n"
        "remove_shards(stores.open(sys.argv[1]), shards)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    tombstones = [file for spec in SPECS for file in list_tombstones(path / spec.folder)]
    assert tombstones and not any(receipt_path(path / spec.folder, 0, 0).exists() for spec in SPECS)
    assert {str(file.relative_to(path)) for file in tombstones} <= set(check_readers(path))
    repaired = Path(shutil.copytree(path, tmp_path / "repaired.zarr"))
    verify(repaired, repair=True, progress=False, processes=1)
    assert not verify(repaired, progress=False, processes=1).leftovers
    for store in (path, repaired):
        write_absent(store)
        check_readers(store)
        opened = stores.open(store)
        remove_shards(opened, shards_to_remove(opened))
        write_absent(store)
        stores.finalise(stores.open(store))
        assert files_of(store) == whole


def test_a_tombstone_beside_a_receipt_removes_nothing(tmp_path: Path) -> None:
    """The removal never began, or the shard was written again by something that knows of no tombstones."""
    path = make_failed(tmp_path / "s.zarr").path
    before = files_of(path)
    for spec in SPECS:
        (path / spec.folder / "receipts/000001.v0.removing").touch()
        (path / spec.folder / "receipts/notes.removing").touch()
    assert len(list_receipts(path / SPECS[0].folder)) == 3
    assert len(verify(path, progress=False, processes=1).leftovers) == 2
    finish_removals(stores.open(path))
    for spec in SPECS:
        (path / spec.folder / "receipts/notes.removing").unlink()
    assert files_of(path) == before
