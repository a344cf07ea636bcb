"""When a shard becomes a part of the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from faster import store as stores
from faster.errors import StoreError
from faster.store.format import manifest as manifests
from faster.store.format.receipts import list_receipts
from stores import make_facts, make_maps, make_spec, make_store, make_videos


def test_a_shard_is_committed_once_and_a_second_writer_leaves_it(tmp_path: Path) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(4))
    receipt_file = store.path / spec.folder / "receipts/000000.v0.json"
    before = {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()}
    with stores.ShardWriter(store.path, spec, manifest=store.videos, shard=0, view=0, shard_videos=4) as late:
        for row in range(4):
            late.add(
                row,
                np.nextafter(make_maps(spec, row)[0], np.float16(9)),
                make_maps(spec, row)[1],
                make_facts(spec),
            )
        assert late.commit().to_bytes() == receipt_file.read_bytes()
    assert {p: p.read_bytes() for p in store.path.rglob("*") if p.is_file()} == before


def test_data_without_a_receipt_is_adopted_as_it_is(tmp_path: Path) -> None:
    """A writer killed between data and receipt: the next one's receipt describes the bytes that are there."""
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(4))
    folder = store.path / spec.folder
    (folder / "receipts/000000.v0.json").unlink()
    with stores.ShardWriter(
        store.path, spec, manifest=store.videos, shard=0, view=0, shard_videos=4
    ) as again:
        for row in range(4):
            maps, logits = make_maps(spec, row)
            again.add(
                row, np.nextafter(maps, np.float16(9)), logits, make_facts(spec)
            )  # as on another machine
        receipt = again.commit()
    data = (folder / receipt.objects[0].key).read_bytes()
    assert receipt.objects[0].sha256 == hashlib.sha256(data).hexdigest()
    assert receipt.videos[2].crc32c[1] == google_crc32c.value(make_maps(spec, 2)[0][1].tobytes())


def test_an_abandoned_shard_leaves_nothing(tmp_path: Path) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(4))
    manifest = manifests.append(
        store.path, videos=make_videos(8), missing=[], class_names="abc", root=Path("videos"), shard_videos=4
    )
    before = sorted(p for p in store.path.rglob("*") if p.is_file())
    with (
        pytest.raises(KeyboardInterrupt),
        stores.ShardWriter(store.path, spec, manifest=manifest, shard=1, view=0, shard_videos=4) as abandoned,
    ):
        abandoned.add(4, *make_maps(spec, 4), make_facts(spec))
        raise KeyboardInterrupt
    assert sorted(p for p in store.path.rglob("*") if p.is_file()) == before
    assert list_receipts(store.path / spec.folder) == [(0, 0)]


def test_a_shard_with_a_video_left_out_is_not_committed(tmp_path: Path) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(4))
    with (
        stores.ShardWriter(store.path, spec, manifest=store.videos, shard=0, view=0, shard_videos=4) as part,
        pytest.raises(StoreError, match="1 of its 4"),
    ):
        part.fail(0, "broken")
        part.commit()


@pytest.mark.parametrize("damage", [b"", bytes(2000)])
def test_damaged_data_without_a_receipt_is_not_adopted(tmp_path: Path, damage: bytes) -> None:
    spec = make_spec()
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(4))
    folder = store.path / spec.folder
    (folder / "receipts/000000.v0.json").unlink()
    data = folder / "maps/c/0/0/0/0/0/0/0"
    whole = data.read_bytes()
    data.write_bytes(damage + whole[len(damage) :] if damage else b"")
    with stores.ShardWriter(
        store.path, spec, manifest=store.videos, shard=0, view=0, shard_videos=4
    ) as again:
        for row in range(4):
            again.add(row, *make_maps(spec, row), make_facts(spec))
        with pytest.raises(
            StoreError, match="has no receipt and is not what this run computed: remove it by faster verify"
        ):
            again.commit()
    assert list_receipts(folder) == []
