"""What `inspect` measures: sizes from the files, what uint8 cost, and what a larger set would take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from faster import store as stores
from faster.errors import StoreError
from faster.store.commands import inspect_command
from faster.store.format import manifest as manifests
from faster.store.maintain.inspect import plain_bytes
from faster.store.write import create as writer
from stores import make_facts, make_maps, make_spec, make_store, make_videos

CODINGS = [("float16", "none"), ("float16", "zstd"), ("uint8", "none"), ("uint8", "zstd")]


def size_of(folder: Path) -> int:
    return sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json"
    )


@pytest.mark.parametrize(("dtype", "codec"), CODINGS)
def test_sizes_are_those_of_the_files(tmp_path: Path, dtype: str, codec: str) -> None:
    spec = make_spec(dtype=dtype, codec=codec, map_shape=(1, 7, 7, 64))
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(10), failed={2: "audio only"})
    summary = stores.inspect(store.path, videos=240_000)
    model, folder = summary.models[0], store.path / spec.folder
    stored = size_of(folder / "maps") + size_of(folder / "scales")
    assert (model.stored_bytes, model.logits_bytes) == (stored, size_of(folder / "logits"))
    assert model.stored_bytes_per_video == (stored + model.logits_bytes) / 9
    assert model.stored_bytes_per_clip == stored / 9 / 4
    assert model.compression == pytest.approx(9 * 4 * 7 * 7 * 64 * 2 / stored)
    # Of 3 shards with 9 videos only the clips are for so many videos: index, scales and logits are whole shards'.
    fixed = 4 * 4 * 16 + 4 + (4 * 64 * 4 if dtype == "uint8" else 0) + 4 * 4 * 3 * 4
    clips = stored + model.logits_bytes - 3 * fixed
    assert model.projected_bytes == round(clips / 9 * 240_000 + 60_000 * fixed)
    assert summary.projected_bytes == model.projected_bytes
    assert stores.inspect(store.path, videos=9).projected_bytes == stored + model.logits_bytes


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
@pytest.mark.parametrize("videos", [1, 8, 10])
def test_a_plain_store_takes_what_was_projected_before_it_and_from_a_few_videos(
    tmp_path: Path, dtype: str, videos: int
) -> None:
    """Shards of 64 videos, of which scales, logits and indexes are as large where they hold one video."""
    spec = make_spec(dtype=dtype)
    for shard_videos in (4, 64):
        before = stores.inspect(
            make_store(tmp_path / f"s{shard_videos}.zarr", [spec], [], shard_videos=shard_videos).path,
            videos=videos,
        ).models[0]
        assert before.stored_bytes_per_video is before.compression is before.agreement is None
        few = make_store(
            tmp_path / f"f{shard_videos}.zarr", [spec], make_videos(2), shard_videos=shard_videos
        )
        store = make_store(
            tmp_path / f"t{shard_videos}.zarr", [spec], make_videos(videos), shard_videos=shard_videos
        )
        taken = sum(size_of(store.path / spec.folder / name) for name in ("maps", "scales", "logits"))
        assert before.projected_bytes == plain_bytes(spec, videos, shard_videos) == taken
        assert stores.inspect(few.path, videos=videos).projected_bytes == taken


def test_the_size_of_compressed_maps_is_not_guessed(tmp_path: Path) -> None:
    specs = [make_spec(codec="zstd"), make_spec("r2d14")]
    path = make_store(tmp_path / "s.zarr", specs, []).path
    summary = stores.inspect(path, videos=100)
    assert summary.projected_bytes is None
    assert [model.projected_bytes for model in summary.models] == [plain_bytes(specs[1], 100, 4), None]
    said = CliRunner().invoke(inspect_command, [str(path), "--videos", "100"], catch_exceptions=False).stdout
    assert "100 videos of r2d26, 8 frames: not known before one is stored" in said and "together" not in said


def test_the_error_of_uint8_is_the_videos_own(tmp_path: Path) -> None:
    spec = make_spec(dtype="uint8")
    features = make_store(tmp_path / "s.zarr", [spec], make_videos(7), failed={3: "gone"}).features(
        "r2d26", 8
    )
    errors = []
    for row in (0, 1, 2, 4, 5, 6):
        stored = features.read_stored(row, 0, range(4))
        exact = make_maps(spec, row)[0].astype(np.float64)
        assert stored.scales is not None
        errors.append(np.linalg.norm(stored.values * stored.scales[0] - exact) / np.linalg.norm(exact))
    model = stores.inspect(features.store.path).models[0]
    assert model.quantisation_rms_median == pytest.approx(np.median(errors), rel=1e-5)
    assert model.quantisation_rms_largest == pytest.approx(max(errors), rel=1e-5)
    exact_model = stores.inspect(make_store(tmp_path / "f.zarr", [make_spec()], make_videos(7)).path).models[
        0
    ]
    assert exact_model.quantisation_rms_median is exact_model.quantisation_rms_largest is None


def test_the_classifier_is_asked_again_on_the_stored_maps(tmp_path: Path) -> None:
    """Scores as the backbone gives them, but for three clips that are given the scores of another class."""
    spec = make_spec(dtype="uint8", codec="zstd")
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 16)).astype(np.float32)
    weight -= weight.mean(axis=1, keepdims=True)  # else one class is best everywhere
    bias = np.array([0, 1, -1], np.float32)  # decides some of the clips
    path, changed = tmp_path / "s.zarr", [(0, 1), (2, 0), (2, 3)]
    writer.create(path, shard_videos=4)
    manifest = manifests.append(
        path, videos=make_videos(4), missing=[], class_names="abc", root=Path("videos"), shard_videos=4
    )
    best = np.empty((4, 4), dtype=np.int64)
    recorded = {"gflops_per_clip": 1.0}
    writer.declare(path, spec, recorded=recorded, trained_on=[], head=(weight, bias))
    writer.fit_arrays(path, spec, manifest, 4)
    with stores.ShardWriter(path, spec, manifest=manifest, shard=0, view=0, shard_videos=4) as shard_writer:
        for row in range(4):
            maps, _ = make_maps(spec, row)
            logits = (maps.astype(np.float64).mean(axis=(1, 2, 3)) @ weight.T + bias).astype(np.float32)
            for clip in [clip for video, clip in changed if video == row]:
                logits[clip] = np.roll(logits[clip], 1)
            shard_writer.add(row, maps, logits, make_facts(spec))
            best[row] = logits.argmax(axis=1)
        shard_writer.commit()
    features = stores.open(path).features("r2d26", 8)
    again = [features.read_maps(row, 0, range(4)).astype(np.float64).mean(axis=(1, 2, 3)) for row in range(4)]
    expected = int(((np.stack(again) @ weight.T + bias).argmax(axis=-1) == best).sum())
    assert 8 < expected <= 16 - len(changed)
    found = stores.inspect(path).models[0].agreement
    assert found is not None and (found.clips, found.same_top1) == (16, expected)
    said = CliRunner().invoke(inspect_command, [str(path)], catch_exceptions=False).stdout
    assert f"top-1 as the backbone's own in {expected} of 16 sampled clips" in said
    (path / spec.folder / "head/bias/c/0").write_bytes(b"12345678")
    with pytest.raises(StoreError, match="8 bytes, expected float32"):
        stores.inspect(path)


def test_a_store_without_classifier_says_so(tmp_path: Path) -> None:
    specs = [make_spec(), make_spec("r2d14", dtype="uint8")]
    path = make_store(tmp_path / "s.zarr", specs, make_videos(4)).path
    assert all(model.agreement is None for model in stores.inspect(path).models)
    said = CliRunner().invoke(inspect_command, [str(path)], catch_exceptions=False)
    assert said.stdout.count("no linear classifier in the store") == 1  # float16 took nothing away
    as_json = CliRunner().invoke(
        inspect_command, [str(path), "--json", "--videos", "7"], catch_exceptions=False
    )
    figures = json.loads(as_json.stdout)
    assert figures["projected_videos"] == 7 and figures["projected_bytes"] > 0
    assert figures["models"][0]["agreement"] is None


def test_a_video_and_the_store_are_counted_with_their_logits(tmp_path: Path) -> None:
    """4 clips of 4096 bytes and of 100 scores of 4 bytes, and 16 bytes of index a clip."""
    spec = make_spec(num_classes=100, class_names=None)
    path = make_store(tmp_path / "s.zarr", [spec], make_videos(1), shard_videos=1).path
    said = CliRunner().invoke(inspect_command, [str(path)], catch_exceptions=False).stdout
    total = 4 * (4096 + 16 + 400) + 4
    assert f"; with logits {total / 1e3:.1f} kB a video, {total / 1e3:.1f} kB in all" in said
    assert "1 video, 1 labelled, 3 classes" in said


def test_the_sample_is_bounded_and_the_same_each_time(tmp_path: Path) -> None:
    """100 videos of 16 clips: 64 videos, 8 clips each."""
    spec = make_spec(clips=16, map_shape=(1, 1, 1, 4))
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(100), shard_videos=64)
    head = (np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    writer.declare(store.path, spec, recorded={}, trained_on=[], head=head)
    found = [stores.inspect(store.path).models[0].agreement for _ in range(2)]
    assert found[0] == found[1] and found[0] is not None and found[0].clips == 512


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(4))
    (store.path / make_spec().folder / "logits/c/0/0/0/0").unlink()
    with pytest.raises(StoreError, match=r"logits.*though its receipt is there; run: faster verify"):
        stores.inspect(store.path)
