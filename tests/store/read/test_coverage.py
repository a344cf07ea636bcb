"""What readers see before and after `finalise`."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from faster import store as stores
from faster.store.format import manifest as manifests
from faster.store.format.schema import logits_key, maps_key
from faster.store.maintain.verify import verify
from faster.store.write import create as writer
from stores import make_maps, make_spec, make_store, make_videos, write_shard

VIDEOS = 10
FAILED = {3: "audio only", 9: "decoder gave 1 of 9 frames"}


def test_failures_and_facts_are_the_same_before_and_after_finalise(tmp_path: Path) -> None:
    unfinished = make_store(
        tmp_path / "s.zarr", [make_spec()], make_videos(VIDEOS), failed=FAILED, finalise=False
    )
    before = unfinished.features("r2d26", 8).coverage
    stores.finalise(unfinished)
    after = stores.open(unfinished.path).features("r2d26", 8).coverage
    assert before.reasons == after.reasons == {(row, 0): reason for row, reason in FAILED.items()}
    for name, values in before.columns.items():
        np.testing.assert_array_equal(values, after.columns[name], err_msg=name)
    lines = [json.loads(line) for line in (unfinished.path / "failures.jsonl").read_text().splitlines()]
    assert [(line["row"], line["reason"]) for line in lines] == list(FAILED.items())


def test_finalise_opens_only_receipts_that_the_index_lacks_or_that_are_newer(tmp_path: Path) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(12), failed=FAILED)
    folder = store.path / spec.folder
    before = {file: file.read_bytes() for file in sorted((folder / "index").rglob("*")) if file.is_file()}
    old = folder / "receipts/000000.v0.json"
    old.write_bytes(b"not opened")
    ahead = time.time() + 3600
    os.utime(folder / "index/zarr.json", (ahead, ahead))  # which makes all receipts old
    newer = folder / "receipts/000002.v0.json"
    (folder / maps_key(2, 0)).unlink()
    (folder / logits_key(2, 0)).unlink()
    newer.unlink()
    write_shard(store.path, spec, store.videos, 2, 4, failed={8: "gone since"})  # made again, behind our back
    os.utime(newer, (ahead, ahead))
    assert stores.open(store.path).features("r2d26", 8).reasons({0}) == {(3, 0): FAILED[3]}
    stores.finalise(stores.open(store.path))
    assert {file for file, data in before.items() if file.read_bytes() != data}
    features = stores.open(store.path).features("r2d26", 8)
    newer.write_bytes(b"not opened either")
    assert features.coverage.reasons == {(3, 0): FAILED[3], (8, 0): "gone since"}
    assert features.reasons({0, 2}) == features.coverage.reasons
    assert features.coverage.ok[9, 0] and not features.pending()


def test_finalise_reads_a_receipt_that_came_later_whatever_time_it_carries(tmp_path: Path) -> None:
    """As rsync -t, cp -p and restored backups leave it; once it is read it is old."""
    spec = make_spec()
    made = make_store(tmp_path / "made.zarr", [spec], make_videos(12))
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(12), failed=FAILED)
    index = store.path / spec.folder / "index"
    fresh = {f.relative_to(made.path): f.read_bytes() for f in made.path.rglob("index/**/*") if f.is_file()}
    for shard in range(3):
        for key in (f"receipts/{shard:06d}.v0.json", maps_key(shard, 0), logits_key(shard, 0)):
            os.utime(made.path / spec.folder / key, (1, 1))
            shutil.copy2(made.path / spec.folder / key, store.path / spec.folder / key)
    stores.finalise(stores.open(store.path))
    assert stores.open(store.path).features("r2d26", 8).ok.all()
    assert {file: (store.path / file).read_bytes() for file in fresh} == fresh
    assert (store.path / "failures.jsonl").read_bytes() == b""
    yesterday = time.time() - 86400
    os.utime(index / "zarr.json", (yesterday, yesterday))
    stores.finalise(stores.open(store.path))  # all are read, and nothing changed
    assert (index / "zarr.json").stat().st_mtime > yesterday + 3600


@pytest.mark.parametrize(
    "reasons",
    [None, [], "x", {"audio only": 3}, {"audio only": [3]}, {"x": ["3", 0]}, {"x": [-1, 0]}, {"x": [0, 0]}],
)
def test_reasons_that_the_index_tells_wrong_are_taken_from_receipts(tmp_path: Path, reasons: object) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(VIDEOS), failed=FAILED)
    file = store.path / make_spec().folder / "index/zarr.json"
    metadata = json.loads(file.read_bytes())
    metadata["attributes"]["reasons"] = reasons
    file.write_text(json.dumps(metadata))
    coverage = stores.open(store.path).features("r2d26", 8).coverage
    assert coverage.reasons == {(row, 0): reason for row, reason in FAILED.items()}


def test_a_reader_sees_shards_newer_than_the_consolidated_arrays(tmp_path: Path) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(8))
    manifest = manifests.append(
        store.path, videos=make_videos(12), missing=[], class_names="abc", root=Path("videos"), shard_videos=4
    )
    writer.fit_arrays(store.path, spec, manifest, 4)
    write_shard(store.path, spec, manifest, 2, 4)
    features = stores.open(store.path).features("r2d26", 8)
    assert features.ok[:, 0].sum() == 12
    np.testing.assert_array_equal(features.read_maps([9], 0, 1)[0], make_maps(spec, 9)[0][1])


def test_appended_videos_begin_a_shard_and_leave_the_old_ones_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(6), missing=make_videos(8)[6:])
    shard = store.path / make_spec().folder / "maps/c/1/0/0/0/0/0/0"
    before = shard.read_bytes()
    assert store.videos.missing_in("split1", "train") == 2
    appended = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(9))
    assert shard.read_bytes() == before
    assert [row for row, name in enumerate(appended.videos.ids) if not name] == [6, 7]
    assert appended.videos.row_of[make_videos(9)[6].id] == 8
    assert not appended.videos.missing
    features = appended.features("r2d26", 8)
    np.testing.assert_array_equal(features.ok[:, 0], [True] * 6 + [False] * 2 + [True] * 3)
    assert not verify(appended.path, progress=False, processes=1).bad
    whole = np.asarray(zarr.open_array(features.folder / "maps", mode="r")[...])
    assert np.isnan(whole[6:8]).all()
    np.testing.assert_array_equal(whole[10, 0], make_maps(features.spec, 10)[0])
