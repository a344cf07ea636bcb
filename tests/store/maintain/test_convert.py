"""Converting a store: the same videos, scores and failures, the maps in another encoding, and nothing lost on the way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from faster import store as stores
from faster.errors import ProvenanceMismatch, StoreError, UsageError
from faster.store.commands import convert_command
from faster.store.format import manifest as manifests
from faster.store.format.receipts import read_receipt, receipt_path
from faster.store.format.schema import logits_key, maps_key
from faster.store.maintain import convert as convert_module
from faster.store.maintain.convert import Conversion, convert
from faster.store.maintain.verify import verify
from faster.store.read.classifier import read_head
from faster.store.write import create as writer
from faster.store.write.removal import remove_shards
from numpy.typing import NDArray
from stores import make_facts, make_maps, make_spec, make_store, make_videos, write_shard

FAILED = {2: "audio only", 5: "decoder gave 1 of 9 frames", 8: "gone", 9: "gone"}


def make_source(path: Path, **changes: object) -> stores.Store:
    """Two models, 10 videos in three shards; in the last one all failed."""
    specs = [make_spec("r2d26", **changes), make_spec("r2plus1d50", num_classes=0, class_names=None)]
    return make_store(path, specs, make_videos(10), failed=FAILED, trained_on=["a/víd eo 0.mp4"])


def quickly(source: Path, target: Path, **options: object) -> Conversion:
    return convert(source, target, processes=1, progress=False, **options)  # type: ignore[arg-type]


def files(path: Path) -> dict[str, str]:
    """Every file of a store by its digest."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def as_uint8(maps: NDArray[np.float16]) -> NDArray[np.float16]:
    """Plain code for what uint8 leaves of one video's maps: a scale a channel, nearest of 256 values."""
    out = np.empty_like(maps)
    for channel in range(maps.shape[-1]):
        exact = maps[..., channel].astype(np.float32)
        scale = exact.max() / np.float32(255)
        out[..., channel] = np.rint(exact / scale) * scale
    return out


def test_uint8_holds_the_same_videos_with_rounded_maps(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s.zarr")
    head = (np.ones((3, 16), np.float32), np.arange(3, dtype=np.float32))
    spec = source.features("r2d26", 8).spec
    writer.declare(source.path, spec, recorded={}, trained_on=[], head=head)
    done = quickly(source.path, tmp_path / "new.zarr", dtype="uint8", codec="zstd")
    new = stores.open(tmp_path / "new.zarr")
    assert (done.shards, done.already_whole, done.videos) == (6, 0, 20)
    assert not verify(new.path, progress=False).bad
    assert new.videos.segments == source.videos.segments
    for key in source.models:
        old, converted = source.features(*key), new.features(*key)
        assert (converted.spec.dtype, converted.spec.codec) == ("uint8", "zstd")
        recorded = {**converted.provenance}
        recorded.pop("head_sha256", None)  # of the classifier's files, which were put here and not there
        assert recorded == {**old.provenance, "converted_from": old.spec.fingerprint}
        assert converted.trained_on == old.trained_on
        assert (
            converted.coverage.reasons == old.coverage.reasons == {(r, 0): why for r, why in FAILED.items()}
        )
        for name, values in old.coverage.columns.items():
            if name not in ("crc32c", "quantisation_rms"):
                np.testing.assert_array_equal(converted.coverage.columns[name], values)
        for row in np.flatnonzero(old.ok[:, 0]).tolist():
            maps = as_uint8(make_maps(old.spec, row)[0])
            np.testing.assert_array_equal(converted.read_maps(row, 0, range(4)), maps)
            if old.num_classes:
                scores = old.read_logits(row, 0, range(4))
                np.testing.assert_array_equal(converted.read_logits(row, 0, range(4)), scores)
    copied = read_head(new.features("r2d26", 8))
    assert copied is not None and all(np.array_equal(a, b) for a, b in zip(copied, head, strict=True))
    assert read_head(new.features("r2plus1d50", 8)) is None
    said = [json.loads(line)["reason"] for line in (new.path / "failures.jsonl").read_text().splitlines()]
    assert sorted(said) == sorted(2 * list(FAILED.values()))


def test_zstd_and_back_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s.zarr")
    quickly(source.path, tmp_path / "zstd.zarr", codec="zstd")
    quickly(tmp_path / "zstd.zarr", tmp_path / "back.zarr")
    before, after = files(source.path), files(tmp_path / "back.zarr")
    assert before.keys() == after.keys() and len(before) > 40
    differ = {name for name, sha256 in before.items() if after[name] != sha256}
    for model, clip_frames in source.models:
        folder = f"features/{model}/L{clip_frames}"
        differ.remove(f"{folder}/zarr.json")  # "converted_from" is new
        for shard in range(3):
            differ.remove(f"{folder}/receipts/{shard:06d}.v0.json")  # and "source", only
            old, new = (read_receipt(tmp_path / name / folder, shard, 0) for name in ("s.zarr", "back.zarr"))
            of = tmp_path / "zstd.zarr" / folder / f"receipts/{shard:06d}.v0.json"
            assert new == replace(old, source=hashlib.sha256(of.read_bytes()).hexdigest())
    assert not differ
    sizes = [stores.inspect(tmp_path / name).models[0].stored_bytes for name in ("zstd.zarr", "back.zarr")]
    assert sizes[0] < sizes[1]


def test_what_came_since_is_added_and_what_is_whole_is_left(tmp_path: Path) -> None:
    spec, videos, path, new = make_spec(), make_videos(12), tmp_path / "s.zarr", tmp_path / "new.zarr"
    make_store(path, [spec], videos[:6])  # rows 6 and 7 are holes now
    (path / spec.folder / "receipts/000001.v0.json").unlink()  # as if it were being extracted
    assert quickly(path, new, dtype="uint8").shards == 1
    assert stores.open(new).features("r2d26", 8).ok[:, 0].tolist() == [True] * 4 + [False] * 2
    first = new / spec.folder / maps_key(0, 0)
    before = first.stat()
    manifest = manifests.append(
        path, videos=videos, missing=[], class_names="abc", root=Path("videos"), shard_videos=4
    )
    writer.fit_arrays(path, spec, manifest, 4)
    for shard in (1, 2, 3):
        write_shard(path, spec, manifest, shard, 4)
    done = quickly(path, new, dtype="uint8")
    assert (done.shards, done.already_whole) == (3, 1)
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert quickly(path, new, dtype="uint8").shards == 0
    quickly(path, tmp_path / "at once.zarr", dtype="uint8")
    assert files(new) == files(tmp_path / "at once.zarr")
    assert stores.open(new).features("r2d26", 8).ok[:, 0].sum() == 12


def redo(store: stores.Store, shard: int, failed: dict[int, str] = {}) -> None:  # noqa: B006
    """A shard of the first model as if extracted once more."""
    spec = make_spec()
    remove_shards(store, [(spec.model, spec.clip_frames, shard, 0)])
    write_shard(store.path, spec, store.videos, shard, store.shard_videos, failed=failed)
    stores.finalise(stores.open(store.path))


def test_what_was_made_again_in_the_source_is_converted_again(tmp_path: Path) -> None:
    source, new, spec = make_source(tmp_path / "s.zarr"), tmp_path / "new.zarr", make_spec()
    quickly(source.path, new, dtype="uint8")
    redo(source, 1)  # video 5 came through
    done = quickly(source.path, new, dtype="uint8")
    assert (done.shards, done.removed, done.already_whole) == (1, 1, 5)
    quickly(source.path, tmp_path / "at once.zarr", dtype="uint8")
    assert files(new) == files(tmp_path / "at once.zarr")
    maps = stores.open(new).features("r2d26", 8).read_maps(5, 0, range(4))
    np.testing.assert_array_equal(maps, as_uint8(make_maps(spec, 5)[0]))
    remove_shards(source, [("r2d26", 8, 0, 0)])
    done = quickly(source.path, new, dtype="uint8")
    assert (done.shards, done.removed) == (0, 0)  # it may be the last good copy
    assert stores.open(new).features("r2d26", 8).ok[0, 0]
    write_shard(source.path, spec, source.videos, 0, 4, failed=FAILED)
    done = quickly(source.path, new, dtype="uint8")
    assert (done.shards, done.removed, done.already_whole) == (0, 0, 6)
    assert files(new) == files(tmp_path / "at once.zarr")
    assert not verify(new, progress=False).bad


def test_what_was_extracted_into_the_new_store_is_left(tmp_path: Path) -> None:
    source, new = make_source(tmp_path / "s.zarr"), tmp_path / "new.zarr"
    quickly(source.path, new, codec="zstd")
    converted = stores.open(new)
    remove_shards(converted, [("r2d26", 8, 1, 0)])
    write_shard(new, make_spec(codec="zstd"), converted.videos, 1, 4)  # nothing failed here
    done = quickly(source.path, new, codec="zstd")
    assert (done.shards, done.removed, done.already_whole) == (0, 0, 6)
    assert stores.open(new).features("r2d26", 8).ok[4:8, 0].all()


def test_a_removal_that_was_stopped_half_way_is_finished_first(tmp_path: Path) -> None:
    source, new = make_source(tmp_path / "s.zarr"), tmp_path / "new.zarr"
    quickly(source.path, new, dtype="uint8")
    redo(source, 1, failed={4: "gone"})
    receipt = receipt_path(new / make_spec().folder, 1, 0)
    receipt.rename(receipt.with_suffix(".removing"))  # video 4 is still in its data
    assert quickly(source.path, new, dtype="uint8").shards == 1
    assert stores.open(new).features("r2d26", 8).ok[4:8, 0].tolist() == [False, True, True, True]
    assert not verify(new, progress=False).leftovers


def test_nothing_is_removed_for_a_source_that_is_damaged(tmp_path: Path) -> None:
    source, new = make_source(tmp_path / "s.zarr"), tmp_path / "new.zarr"
    quickly(source.path, new, dtype="uint8")
    before = files(new)
    redo(source, 0)
    redo(source, 1)
    damaged = source.path / make_spec().folder / logits_key(1, 0)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    with pytest.raises(StoreError, match=r"faster verify .*--repair"):
        quickly(source.path, new, dtype="uint8")
    assert files(new) == before


def test_a_segment_that_comes_meanwhile_waits_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path, new = make_spec(), tmp_path / "s.zarr", tmp_path / "new.zarr"
    make_store(path, [spec], make_videos(6))
    declare = convert_module._declare

    def declare_and_grow(*args: Any) -> None:
        declare(*args)
        make_store(path, [spec], make_videos(12))

    monkeypatch.setattr(convert_module, "_declare", declare_and_grow)
    done = quickly(path, new, dtype="uint8")
    assert (done.shards, done.already_whole) == (2, 0)
    assert stores.open(new).features("r2d26", 8).ok[:, 0].tolist() == [True] * 6
    monkeypatch.undo()
    done = quickly(path, new, dtype="uint8")
    assert (done.shards, done.already_whole) == (2, 2)
    assert stores.open(new).features("r2d26", 8).ok[:, 0].sum() == 12


def test_every_view_and_only_the_models_that_are_named(tmp_path: Path) -> None:
    spec = make_spec(views=2)
    source = make_store(tmp_path / "s.zarr", [spec, make_spec("r2d14")], make_videos(4))
    with stores.ShardWriter(
        source.path, spec, manifest=source.videos, shard=0, view=1, shard_videos=4
    ) as shard_writer:
        for row in range(4):
            shard_writer.add(row, *make_maps(spec, 10 + row), make_facts(spec))
        shard_writer.commit()
    quickly(source.path, tmp_path / "new.zarr", codec="zstd", models=["r2d26"])
    new = stores.open(tmp_path / "new.zarr")
    assert new.models == [("r2d26", 8)]
    for view, seed in ((0, 3), (1, 13)):
        maps = new.features("r2d26", 8).read_maps(3, view, range(4))
        np.testing.assert_array_equal(maps, make_maps(spec, seed)[0])


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "s.zarr").path
    rounded = make_store(tmp_path / "u.zarr", [make_spec(dtype="uint8")], make_videos(4)).path
    for codec in ("none", "zstd"):
        with pytest.raises(StoreError, match="uint8 already, and only float16"):
            quickly(rounded, tmp_path / "x.zarr", codec=codec)
    with pytest.raises(UsageError, match=r"no maps of r2d; it has: r2d26, r2plus1d50"):
        quickly(source, tmp_path / "x.zarr", models=["r2d"])
    with pytest.raises(UsageError, match="lies in the store"):
        quickly(source, source)
    with pytest.raises(UsageError, match="--codec is lz4"):
        quickly(source, tmp_path / "x.zarr", codec="lz4")
    assert not (tmp_path / "x.zarr").exists()
    with pytest.raises(ProvenanceMismatch, match='dtype: store has "uint8", asked "float16"'):
        quickly(make_store(tmp_path / "f.zarr", [make_spec()], make_videos(4)).path, rounded)
    with pytest.raises(ProvenanceMismatch, match="other videos"):
        quickly(source, rounded, dtype="uint8")


def test_maps_below_zero_do_not_become_uint8(tmp_path: Path) -> None:
    source = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4), finalise=False)
    shard = source.path / make_spec().folder
    for file in (shard / "receipts", shard / maps_key(0, 0), shard / logits_key(0, 0)):
        for one in file.iterdir() if file.is_dir() else [file]:
            one.unlink()
    with stores.ShardWriter(
        source.path, make_spec(), manifest=source.videos, shard=0, view=0, shard_videos=4
    ) as shard_writer:
        for row in range(4):
            maps, logits = make_maps(make_spec(), row)
            shard_writer.add(row, -maps, logits, make_facts(make_spec()))
        shard_writer.commit()
    with pytest.raises(StoreError, match="below zero"):
        quickly(source.path, tmp_path / "new.zarr", dtype="uint8")


@pytest.mark.parametrize("key", [maps_key(1, 0), logits_key(1, 0)])
def test_damage_is_not_passed_on(tmp_path: Path, key: str) -> None:
    source = make_source(tmp_path / "s.zarr")
    damaged = source.path / make_spec().folder / key
    data = bytearray(damaged.read_bytes())
    data[40] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(StoreError, match=r"faster verify .*--repair"):
        quickly(source.path, tmp_path / "new.zarr", dtype="uint8")
    whole = stores.open(tmp_path / "new.zarr").features("r2d26", 8).ok[:, 0]
    assert whole[0] and not whole[4:8].any()


def test_the_command(tmp_path: Path) -> None:
    source, new = make_source(tmp_path / "s.zarr").path, tmp_path / "new.zarr"
    arguments = [str(source), str(new), "--dtype", "uint8", "--codec", "zstd", "--processes", "2"]
    first = CliRunner().invoke(convert_command, arguments, catch_exceptions=False)
    assert "6 shards converted" in first.stdout and f"faster inspect {new}" in first.stdout
    second = CliRunner().invoke(convert_command, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(second.stdout)["already_whole"] == 6
