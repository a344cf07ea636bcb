"""`faster status` counts what a store holds and what is being written, from the outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_commands
from faster import store as stores
from faster.errors import StoreError
from faster.extract.jobs.status import Watch, status
from faster.store.format.receipts import list_receipts, receipt_path
from faster.store.write import create as writer
from processes import started
from stores import make_spec, make_store, make_videos

SPECS = [make_spec("r2plus1d50"), make_spec("r2d26")]
FAILED = {3: "audio only", 9: 'a reason that says "facts":null and "ok"'}


@pytest.fixture
def store(tmp_path: Path) -> stores.Store:
    return make_store(tmp_path / "s.zarr", SPECS, make_videos(10), failed=FAILED)


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_whole_store(tmp_path: Path, consolidated: bool) -> None:
    store = make_store(tmp_path / "s.zarr", SPECS, make_videos(10), failed=FAILED, finalise=consolidated)
    found = status(store.path)
    assert found.complete
    for model in found.models:
        assert (model.shards, model.whole, model.running, model.lacking) == (3, 3, 0, ())
        coverage = store.features(model.model, 8).coverage
        assert model.videos_failed == coverage.failed.sum() == 2
        assert model.videos_whole == coverage.ok.sum() == 8
        assert model.videos == 10
        assert model.seconds_left is None


def test_what_is_being_written_and_what_is_left(store: stores.Store) -> None:
    folder = store.features("r2d26", 8).folder
    for shard in (0, 2):
        receipt_path(folder, shard, 0).unlink()
    begun = folder / "maps/c/2/0/0/0/0/0/.0.1-ab.tmp"
    begun.write_bytes(b"x")
    old = folder / "maps/c/0/0/0/0/0/0/.0.2-ab.tmp"
    old.write_bytes(b"x")
    os.utime(old, (1, 1))  # of a job that died long ago
    found = status(store.path)
    assert not found.complete
    assert found.lacking == (0, 2)
    dear, cheap = sorted(found.models, key=lambda model: model.whole, reverse=True)
    assert (dear.whole, dear.lacking) == (3, ())
    assert (cheap.whole, cheap.running, cheap.lacking) == (1, 1, (0, 2))
    assert (cheap.videos_whole, cheap.videos_failed) == (4, 0)


def test_what_it_has_read_is_not_read_again(tmp_path: Path) -> None:
    """A consolidated store's receipts never are; of others each once, however long one watches."""
    for name, consolidated in (("a.zarr", True), ("b.zarr", False)):
        store = make_store(tmp_path / name, SPECS, make_videos(10), failed=FAILED, finalise=consolidated)
        watch = Watch(store.path)
        first = watch.look()
        for receipt in store.path.rglob("receipts/*.json"):
            put = receipt.stat().st_mtime_ns
            receipt.write_bytes(b"")
            os.utime(receipt, ns=(put, put))
        assert watch.look() == first
        assert (status(store.path) == first) == consolidated


def test_stray_receipts_are_not_counted(store: stores.Store) -> None:
    folder = store.features("r2d26", 8).folder
    for shard, view in ((7, 0), (0, 3)):
        receipt_path(folder, shard, view).write_bytes(b"")
    assert status(store.path).models[0].whole == status(store.path).models[1].whole == 3


def test_the_rate_is_that_of_the_last_hour_of_work(store: stores.Store) -> None:
    folder = store.features("r2d26", 8).folder
    receipt_path(folder, 1, 0).unlink()
    for shard, seconds in ((0, 10_000), (2, 11_800)):
        os.utime(receipt_path(folder, shard, 0), (seconds, seconds))
    (cheap,) = [model for model in status(store.path).models if model.model == "r2d26"]
    assert cheap.shards_per_hour == pytest.approx(2.0)
    assert cheap.seconds_left is None  # nothing is running
    (folder / "maps/c/1/0/0/0/0/0/.0.1-ab.tmp").write_bytes(b"x")
    (cheap,) = [model for model in status(store.path).models if model.model == "r2d26"]
    assert cheap.seconds_left == pytest.approx(1800)


def put_at(features: stores.Features, times: dict[int, float]) -> None:
    """Set when each shard became whole."""
    for shard, seconds in times.items():
        os.utime(receipt_path(features.folder, shard, 0), (seconds, seconds))


def begin(features: stores.Features, shard: int, *, seconds_ago: float = 0.0) -> None:
    """A shard that is in hand: not whole, and written to just now."""
    receipt_path(features.folder, shard, 0).unlink()
    file = features.folder / f"maps/c/{shard}/0/0/0/0/0/.0.1-ab.tmp"
    file.write_bytes(b"x")
    began = time.time() - seconds_ago
    os.utime(file.parent, (began, began))


def test_the_time_left_is_each_models_own(store: stores.Store, tmp_path: Path) -> None:
    """The fast model's shards come every 40 s and the slow one's every 1,800 s, two of either being whole."""
    now = time.time()
    fast, slow = store.features("r2d26", 8), store.features("r2plus1d50", 8)
    for features, apart in ((fast, 40), (slow, 1800)):
        begin(features, 2)
        put_at(features, {0: now - apart - 1, 1: now - 1})
    found = {model.model: model for model in status(store.path).models}
    assert found["r2d26"].seconds_left == pytest.approx(40)
    assert found["r2plus1d50"].seconds_left == pytest.approx(1800)


@pytest.mark.parametrize("apart", [0.0, 0.0099, 5.0])
def test_shards_that_ended_with_one_batch_give_no_rate(
    store: stores.Store, tmp_path: Path, apart: float
) -> None:
    slow, now = store.features("r2plus1d50", 8), time.time()
    begin(slow, 2)
    put_at(slow, {0: now - apart - 1, 1: now - 1})
    (model,) = [model for model in status(store.path).models if model.model == "r2plus1d50"]
    assert model.running == 1 and model.shards_per_hour is None and model.seconds_left is None
    (ended,) = run_commands([["status", "s.zarr"]], cwd=tmp_path)
    assert "no rate yet, so the time left is not known" in ended.output


def test_shards_that_end_together_are_not_counted_twice(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", SPECS[:1], make_videos(28))  # 7 shards
    features, now = store.features("r2plus1d50", 8), time.time()
    begin(features, 6)
    put_at(features, {shard: now - 600 * (2 - shard // 2) + shard % 2 * 0.01 for shard in range(6)})
    (model,) = status(store.path).models
    assert model.shards_per_hour == pytest.approx(4 / 1200 * 3600, rel=1e-3)  # two every 600 s


def test_a_shard_that_takes_longer_than_those_before_lengthens_the_time_left(store: stores.Store) -> None:
    """The whole shards held videos that failed at once; the one in hand has been at work for 900 s."""
    features, now = store.features("r2plus1d50", 8), time.time()
    begin(features, 2, seconds_ago=900)
    put_at(features, {0: now - 950, 1: now - 900})
    (model,) = [model for model in status(store.path).models if model.model == "r2plus1d50"]
    assert model.seconds_left == pytest.approx(900, rel=0.05)


def test_a_receipt_that_goes_while_it_counts_is_no_error(
    store: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.path / SPECS[1].folder / "index/zarr.json").unlink()  # so that receipts are opened
    gone = receipt_path(store.features("r2d26", 8).folder, 2, 0)
    listed = dict.fromkeys(list_receipts(gone.parents[1]), 1.0)
    gone.unlink()
    monkeypatch.setattr("faster.extract.jobs.status.receipt_times", lambda _: listed)
    failed = {model.model: model.videos_failed for model in status(store.path).models}
    assert failed == {"r2plus1d50": 2, "r2d26": 1}


def test_watching_begins_before_the_jobs_do(store: stores.Store, tmp_path: Path) -> None:
    path = tmp_path / "later.zarr"
    (ended,) = run_commands([["status", path.name, "--watch", "1"]], cwd=tmp_path)
    assert ended.code == 65  # no script says that it will come
    (tmp_path / "later.zarr.sbatch").write_text("# faster: tasks 2\n")
    command = [sys.executable, "-m", "faster.cli", "status", path.name, "--watch", "1"]
    with started(command, cwd=tmp_path, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "later.zarr: not begun yet\n"
        store.path.rename(path)
        assert "3 of 3 shards whole" in watching.communicate()[0]
    assert watching.returncode == 0


def test_a_store_without_models_is_refused(tmp_path: Path) -> None:
    writer.create(tmp_path / "s.zarr", shard_videos=4)
    with pytest.raises(StoreError, match="no model was begun"):
        status(tmp_path / "s.zarr")


def test_the_command_ends_with_0_or_75_and_says_what_to_run(store: stores.Store, tmp_path: Path) -> None:
    (whole,) = run_commands([["status", "s.zarr"]], cwd=tmp_path)
    assert whole.code == 0
    for shard in (0, 2):
        receipt_path(store.features("r2d26", 8).folder, shard, 0).unlink()
    (ended,) = run_commands([["status", "s.zarr"]], cwd=tmp_path)
    assert ended.code == 75
    said = "r2d26, 8 frames: 1 of 3 shards whole, 0 being written; 4 of 10 videos whole, 0 failed"
    assert said in ended.output
    assert "next: the faster extract command that began it" in ended.output
    (tmp_path / "s.zarr.sbatch").write_text("#!/bin/bash\n# faster: tasks 2\n")
    (ended,) = run_commands([["status", "s.zarr"]], cwd=tmp_path)
    assert "next: sbatch --array=0 s.zarr.sbatch" in ended.output  # shards 0 and 2, of two tasks
