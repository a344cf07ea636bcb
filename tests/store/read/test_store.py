"""A store is written through one writer, and read the same by our reader and by other Zarr libraries."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from faster import store as stores
from faster.errors import ProvenanceMismatch, StoreError
from faster.store.format import manifest as manifests
from faster.store.format.receipts import read_receipt
from faster.store.maintain.verify import verify
from faster.store.write import create as writer
from places import ROOT
from stores import make_facts, make_maps, make_spec, make_store, make_videos

VIDEOS = 10
FAILED = {3: "audio only", 9: "decoder gave 1 of 9 frames"}


@pytest.fixture(
    params=[("float16", "none"), ("float16", "zstd"), ("uint8", "none"), ("uint8", "zstd")], ids="-".join
)
def whole(tmp_path: Path, request: pytest.FixtureRequest) -> stores.Store:
    dtype, codec = request.param
    kind = {"dtype": dtype, "codec": codec}
    specs = [
        make_spec("r2d26", **kind),
        make_spec("r2plus1d50", num_classes=0, class_names=None, map_shape=(1, 3, 3, 2048), **kind),
    ]
    return make_store(tmp_path / "s.zarr", specs, make_videos(VIDEOS), failed=FAILED)


def expected_maps(spec: stores.FeatureSpec) -> np.ndarray:
    maps = np.full((VIDEOS, 1, spec.clips, *spec.map_shape), np.nan, dtype=np.float16)
    for row in set(range(VIDEOS)) - set(FAILED):
        maps[row, 0] = make_maps(spec, row)[0]
        if spec.dtype == "uint8":
            scale = maps[row, 0].astype(np.float32).max(axis=(0, 1, 2, 3)) / np.float32(255)
            steps = np.rint(maps[row, 0] / np.where(scale, scale, 1))
            maps[row, 0] = (steps * scale).astype(np.float16)
    return maps


@pytest.mark.parametrize("model", ["r2d26", "r2plus1d50"])
def test_other_zarr_libraries_read_the_same_maps(whole: stores.Store, model: str) -> None:
    features = whole.features(model, 8)

    def by_tensorstore(name: str) -> np.ndarray:
        store = {"driver": "file", "path": str(features.folder / name)}
        return np.asarray(
            tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True).result().read().result()
        )

    def by_zarr(name: str) -> np.ndarray:
        return np.asarray(zarr.open_array(features.folder / name, mode="r")[...])

    expected = expected_maps(features.spec)
    for read in (by_zarr, by_tensorstore):
        maps = read("maps")
        if features.spec.dtype == "uint8":
            assert maps.dtype == np.uint8
            maps = (maps * read("scales")[:, :, None, None, None, None]).astype(np.float16)
        np.testing.assert_array_equal(maps, expected)
    np.testing.assert_array_equal(whole.to_dask(model, 8).compute(), expected)


def test_channel_statistics_by_dask(whole: stores.Store) -> None:
    """The worked example of docs/store.md, run as it stands, against plain numpy."""
    text = (ROOT / "docs/store.md").read_text()
    example = next(block for block in text.split("```python\n") if block.startswith("import dask.array"))
    names: dict[str, Any] = {"kinetics": whole}
    exec(example.partition("```")[0], names)
    expected = expected_maps(whole.features("r2d26", 8).spec).astype(np.float32).reshape(-1, 16)
    np.testing.assert_allclose(names["mean"], np.nanmean(expected, axis=0), rtol=1e-5)
    zeros = (expected == 0).sum(axis=0) / np.isfinite(expected).sum(axis=0)
    np.testing.assert_allclose(names["share_of_zeros"], zeros, rtol=1e-12)


def test_to_dask_needs_no_name_where_there_is_one_model(tmp_path: Path, whole: stores.Store) -> None:
    single = make_store(tmp_path / "one.zarr", [make_spec()], make_videos(4))
    assert single.to_dask().shape == single.to_dask().chunksize == (4, 1, 4, 1, 2, 2, 16)  # a block a shard
    receipt = single.path / make_spec().folder / "receipts/000000.v0.json"
    receipt.unlink()
    assert np.isnan(stores.open(single.path).to_dask().compute()).all()
    with pytest.raises(StoreError, match="it has: r2d26 at 8 frames, r2plus1d50 at 8 frames"):
        whole.to_dask()


def test_reader_gives_any_clips_in_any_order(whole: stores.Store) -> None:
    features = whole.features("r2plus1d50", 8)
    expected = expected_maps(features.spec)
    rng = np.random.default_rng(0)
    rows = rng.choice([0, 1, 2, 4, 5, 6, 7, 8], size=50)
    clips = rng.integers(0, 4, size=50)
    np.testing.assert_array_equal(features.read_maps(rows, 0, clips), expected[rows, 0, clips])
    out = np.empty((2, *features.map_shape), dtype=np.float16)
    assert features.read_maps([8, 0], 0, 3, out=out) is out
    np.testing.assert_array_equal(out, expected[[8, 0], 0, 3])


@pytest.mark.parametrize("mapped", [False, True])
def test_stored_values_and_scales_are_the_maps(whole: stores.Store, mapped: bool) -> None:
    features = stores.open(whole.path, mapped=mapped).features("r2plus1d50", 8)
    rng = np.random.default_rng(1)
    rows, clips = rng.choice([0, 1, 2, 4, 5, 6, 7, 8], size=40), rng.integers(0, 4, size=40)
    stored = features.read_stored(rows, 0, clips)
    values = stored.values
    if stored.scales is not None:
        assert len(stored.scales) == len(set(rows.tolist()))
        values = (values * stored.scales[stored.scale_of][:, None, None, None]).astype(np.float16)
    np.testing.assert_array_equal(values, expected_maps(features.spec)[rows, 0, clips])
    features.close()
    np.testing.assert_array_equal(features.read_stored(rows, 0, clips).values, stored.values)


def test_several_threads_read_at_once(whole: stores.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "faster.store.read.shard_files._open_files_max", lambda: 2
    )  # they close each other's files
    features = whole.features("r2plus1d50", 8)
    requests = [np.random.default_rng(seed).permutation([0, 1, 2, 4, 5, 6, 7, 8]) for seed in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for rows, maps in zip(
            requests, pool.map(lambda rows: features.read_maps(rows, 0, 1), requests), strict=True
        ):
            np.testing.assert_array_equal(maps, expected_maps(features.spec)[rows, 0, 1])


def test_a_store_of_more_shards_than_may_be_open(
    whole: stores.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faster.store.read.shard_files._open_files_max", lambda: 1)
    features = whole.features("r2d26", 8)
    rows = np.array([8, 0, 4, 1, 5, 8])
    before = len(list(Path("/proc/self/fd").iterdir()))
    np.testing.assert_array_equal(features.read_maps(rows, 0, 2), expected_maps(features.spec)[rows, 0, 2])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_a_flipped_bit_in_the_scores_is_seen_as_they_are_read(whole: stores.Store) -> None:
    features = whole.features("r2d26", 8)
    file = features.folder / "logits/c/1/0/0/0"
    data = bytearray(file.read_bytes())
    data[1] ^= 1  # of row 4
    file.write_bytes(data)
    features.read_logits([5, 8], 0, 1)
    with pytest.raises(StoreError, match=r"the scores of b/víd eo 4\.mp4 are damaged; run: faster verify"):
        features.read_logits([5, 4], 0, 3)


def test_a_link_in_place_of_a_shard_is_not_read(whole: stores.Store, tmp_path: Path) -> None:
    features = whole.features("r2d26", 8)
    file = features.folder / "maps/c/1/0/0/0/0/0/0"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="a store's files are no links"):
        features.read_maps([4], 0, 0)


@pytest.mark.parametrize("bad", [0.7, [0.0], [True]])
def test_places_are_whole_numbers(whole: stores.Store, bad: object) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        whole.features("r2d26", 8).read_maps([0], 0, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "dtype"), [((2, 1, 2, 2, 16), np.float16), ((1, 1, 2, 2, 16), np.int8)])
def test_memory_to_fill_must_fit(whole: stores.Store, shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="out must be"):
        whole.features("r2d26", 8).read_maps([0], 0, 0, out=np.empty(shape, dtype))


@pytest.mark.parametrize(
    ("name", "text"),
    [("zarr.json", '"shard_videos": 4'), ("features/r2d26/L8/zarr.json", '"batch_clips": 8')],
)
def test_one_changed_figure_in_the_metadata_condemns_no_shard(
    whole: stores.Store, name: str, text: str
) -> None:
    file = whole.path / name
    before = file.read_text()
    assert text in before
    file.write_text(before.replace(text, text[:-1] + "5"))
    files = sorted(whole.path.rglob("*"))
    with pytest.raises(StoreError, match="was changed after it was written"):
        verify(whole.path, repair=True, progress=False)
    assert sorted(whole.path.rglob("*")) == files


def test_a_lost_manifest_segment_condemns_no_shard(tmp_path: Path) -> None:
    make_store(tmp_path / "s.zarr", [make_spec()], make_videos(6))
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(9))
    (store.path / "manifest/000001.json").unlink()
    files = sorted(store.path.rglob("*"))
    with pytest.raises(StoreError, match=r"a shard beyond the manifest's 6 rows.*is missing; restore it"):
        verify(store.path, repair=True, progress=False)
    assert sorted(store.path.rglob("*")) == files


def test_a_model_without_its_metadata_is_not_passed_over(whole: stores.Store) -> None:
    (whole.path / make_spec().folder / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"zarr\.json is missing"):
        verify(whole.path, progress=False)


def test_models_that_were_not_run_grow_with_the_store(tmp_path: Path) -> None:
    specs = [make_spec("r2d26"), make_spec("r2plus1d50")]
    make_store(tmp_path / "s.zarr", specs, make_videos(4))
    store = make_store(tmp_path / "s.zarr", specs[:1], make_videos(9))
    assert verify(store.path, progress=False).descriptions == ()
    assert store.to_dask("r2plus1d50").shape[0] == 9


def test_several_threads_read_one_model(whole: stores.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one open shard, so that each call closes the files that others are reading."""
    monkeypatch.setattr("faster.store.read.shard_files._open_files_max", lambda: 1)
    features = whole.features("r2plus1d50", 8)
    rng = np.random.default_rng(2)
    asked = [(rng.choice([0, 1, 2, 4, 5, 6, 7, 8], 20), rng.integers(0, 4, 20)) for _ in range(100)]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda batch: features.read_maps(batch[0], 0, batch[1]), asked))
    expected = expected_maps(features.spec)
    for maps, (rows, clips) in zip(read, asked, strict=True):
        np.testing.assert_array_equal(maps, expected[rows, 0, clips])


def test_a_flipped_bit_is_seen_as_it_is_read(whole: stores.Store) -> None:
    features = whole.features("r2plus1d50", 8)
    for name in ["maps/c/1/0/0/0/0/0/0"] + ["scales/c/1/0/0"] * (features.spec.dtype == "uint8"):
        file = features.folder / name
        data = bytearray(file.read_bytes())
        data[20] ^= 16  # of row 4, clip 0; of its scale
        file.write_bytes(data)
        features.close()  # an open shard has its scales in memory
        with pytest.raises(StoreError, match=r"clip 0 of b/víd eo 4\.mp4 is damaged; run: faster verify"):
            features.read_stored([5, 4], 0, [1, 0], check=True)
        features.read_stored([5, 8], 0, [1, 0], check=True)
        data[20] ^= 16
        file.write_bytes(data)
        features.close()
        features.read_stored([5, 4], 0, [1, 0], check=True)


def test_uint8_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    spec = make_spec(dtype="uint8")
    store = make_store(tmp_path / "s.zarr", [], make_videos(4))
    writer.declare(store.path, spec, recorded={}, trained_on=[])
    with stores.ShardWriter(
        store.path, spec, manifest=store.videos, shard=0, view=0, shard_videos=4
    ) as shard_writer:
        maps, logits = make_maps(spec, 0)
        with pytest.raises(StoreError, match=r"a map goes below zero.*--dtype float16"):
            shard_writer.add(0, maps - np.float16(0.1), logits, make_facts(spec))


def test_logits_are_what_was_written_and_zarr_reads_them(whole: stores.Store) -> None:
    features = whole.features("r2d26", 8)
    rows, clips = np.array([8, 0, 5]), np.array([1, 3, 0])
    expected = np.stack([make_maps(features.spec, r)[1][c] for r, c in zip(rows, clips, strict=True)])
    np.testing.assert_array_equal(features.read_logits(rows, 0, clips), expected)
    array = zarr.open_array(features.folder / "logits", mode="r")
    np.testing.assert_array_equal(np.asarray(array[...])[rows, 0, clips], expected)
    assert np.isnan(array[3]).all()
    with pytest.raises(StoreError, match="without a classifier"):
        whole.features("r2plus1d50", 8).read_logits([0], 0, 0)


def test_clips_lie_on_pages_in_order_and_the_receipt_knows_their_checksums(tmp_path: Path) -> None:
    whole = make_store(tmp_path / "s.zarr", [make_spec("r2d26")], make_videos(VIDEOS), failed=FAILED)
    features = whole.features("r2d26", 8)
    receipt = read_receipt(features.folder, 0, 0)
    data = (features.folder / receipt.objects[0].key).read_bytes()
    assert receipt.objects[0].sha256 == hashlib.sha256(data).hexdigest()
    index = np.frombuffer(data[-4 * 4 * 16 - 4 : -4], dtype="<u8").reshape(4, 4, 2)
    present = index[:3].reshape(-1, 2)
    assert (present[:, 0] % 4096 == 0).all()
    assert (np.diff(present[:, 0].astype(int)) == 4096).all()
    for entry in receipt.videos[:3]:
        for (offset, size), checksum in zip(index[entry.row], entry.crc32c, strict=True):
            assert google_crc32c.value(data[int(offset) : int(offset + size)]) == checksum
    assert (index[3] == 2**64 - 1).all()
    assert receipt.videos[3].reason == "audio only"


def test_manifest_refuses_labels_that_changed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4))
    changed = [*make_videos(3), stores.VideoRecord(id=make_videos(4)[3].id, path="x", label=2)]
    with pytest.raises(StoreError, match="has label 0"):
        manifests.append(
            store.path, videos=changed, missing=[], class_names="abc", root=Path("v"), shard_videos=4
        )
    with pytest.raises(StoreError, match="classes"):
        manifests.append(
            store.path, videos=changed, missing=[], class_names="ab", root=Path("v"), shard_videos=4
        )


def test_manifest_is_readable_as_zarr_arrays(whole: stores.Store) -> None:
    group = zarr.open_group(whole.path / "videos", mode="r")
    offsets, text = np.asarray(group["ids/offsets"]), np.asarray(group["ids/utf8"]).tobytes()
    assert [text[a:b].decode() for a, b in itertools.pairwise(offsets)] == whole.videos.ids
    np.testing.assert_array_equal(group["labels"], whole.videos.labels)
    np.testing.assert_array_equal(group["splits/split1"], whole.videos.split("split1"))


@pytest.mark.parametrize(
    "change",
    [{"weights_digest": "1" * 64}, {"transform": {"size": 32}}, {"clips": 8}, {"precision": "bfloat16"}],
)
def test_other_provenance_is_refused_with_the_difference(
    whole: stores.Store, change: dict[str, object]
) -> None:
    with pytest.raises(ProvenanceMismatch) as caught:
        writer.declare(whole.path, make_spec(**change), recorded={}, trained_on=[])
    name, value = next(iter(change.items()))
    if isinstance(value, dict):  # only what differs within it is shown
        ((key, value),) = value.items()
        name = f"{name} {key}"
    assert f"{name}: store has" in str(caught.value) and json.dumps(value)[:50] in str(caught.value)


def test_what_is_not_there_is_said_in_one_line(whole: stores.Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"r2d26 at 8 frames, r2plus1d50 at 8 frames.*faster extract"):
        whole.features("r3d50", 8)
    with pytest.raises(StoreError, match=r"no maps of r2d26 for .*faster inspect"):
        whole.features("r2d26", 8).read_maps([0, 3], 0, 0)
    with pytest.raises(StoreError, match="clip 4 asked of 4"):
        whole.features("r2d26", 8).read_maps([0], 0, 4)
    with pytest.raises(StoreError, match="not a store"):
        stores.open(tmp_path / "nothing.zarr")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(StoreError, match="exists and is not a store"):
        writer.create(tmp_path / "other", shard_videos=4)


def test_a_cut_shard_is_an_error_not_zeros(whole: stores.Store) -> None:
    shard = whole.features("r2d26", 8).folder / "maps/c/0/0/0/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(StoreError, match="cut off"):
        whole.features("r2d26", 8).read_maps([0], 0, 0)
    shard.unlink()
    with pytest.raises(StoreError, match="No such file"):
        whole.features("r2d26", 8).read_maps([0], 0, 0)


def test_inspect_counts_what_became_of_every_video(whole: stores.Store) -> None:
    summary = stores.inspect(whole.path)
    assert (summary.videos, summary.labelled, summary.classes) == (10, 10, 3)
    model = summary.models[0]
    assert (model.whole, model.failed, model.pending) == (8, 2, 0)
    assert model.reasons == {"audio only": 1, "decoder gave 1 of 9 frames": 1}
    assert model.bytes_per_video == 4 * 2 * 2 * 16 * (2 if model.dtype == "float16" else 1)
    assert sum(summary.splits["split1"].values()) == 10


def test_videos_that_vanish_after_a_run_are_not_listed_as_missing_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4))
    arguments = {"class_names": "abc", "root": Path("v"), "shard_videos": 4}
    manifests.append(store.path, videos=make_videos(3), missing=make_videos(4)[3:], **arguments)  # type: ignore[arg-type]
    assert [file.name for file in (store.path / "manifest").iterdir()] == ["000000.json"]


def test_a_lost_manifest_segment_is_an_error_not_other_rows(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4))
    make_store(tmp_path / "s.zarr", [make_spec()], make_videos(6))
    (store.path / "manifest/000000.json").unlink()
    with pytest.raises(StoreError, match="one is missing"):
        _ = stores.open(store.path).videos


def test_maps_are_not_paired_with_the_videos_of_another_manifest(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(8))
    (store.path / "manifest/000000.json").unlink()
    manifests.append(
        store.path, videos=make_videos(8)[::-1], missing=[], class_names="abc", root=Path("v"), shard_videos=4
    )
    with pytest.raises(StoreError, match="other videos than the manifest"):
        _ = stores.open(store.path).features("r2d26", 8).coverage


def test_a_shard_without_a_receipt_does_not_exist_and_damaged_derived_arrays_are_not_used(
    tmp_path: Path,
) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(8))
    folder = store.path / make_spec().folder
    shutil.rmtree(folder / "index/frames")
    assert stores.open(store.path).features("r2d26", 8).ok.all()
    stores.finalise(stores.open(store.path))
    (folder / "receipts/000001.v0.json").unlink()
    assert stores.open(store.path).features("r2d26", 8).ok[:, 0].tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("train/dark/a.mp4", True),
        ("train/dark/a.mp4#t=0,10", True),
        ("dark/a.mp4", True),
        ("videos/train/dark/a.mp4", True),
        ("light/a.mp4", False),
        ("train/dark/aa.mp4", False),
    ],
)
def test_seen_videos_are_known_as_segments_and_under_other_roots(
    tmp_path: Path, name: str, seen: bool
) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(2), trained_on=["train/dark/a.mp4"])
    assert store.features("r2d26", 8).seen_in_training([name]) == ([name] if seen else [])
