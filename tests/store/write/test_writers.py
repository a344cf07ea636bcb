"""Several writers of the same shards at once, some asleep in the middle of a commit: receipts fit their data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster import store as stores
from faster.store.format import manifest as manifests
from faster.store.format.receipts import list_receipts
from faster.store.maintain.verify import verify
from faster.store.read.coverage import load_coverage
from faster.store.write import create as writer
from shard_writers import write_at_once
from stores import make_facts, make_maps, make_spec, make_videos

SHARDS, SHARD_VIDEOS = 3, 2
LINKS = (
    3 * 4 * SHARDS // 2
)  # a shard's maps, scales, logits and receipt: some more than the links of one writer
TRIALS = 30


def empty_store(
    path: Path, spec: stores.FeatureSpec, videos: int = SHARDS * SHARD_VIDEOS
) -> manifests.Manifest:
    writer.create(path, shard_videos=SHARD_VIDEOS)
    manifest = manifests.append(
        path,
        videos=make_videos(videos),
        missing=(),
        class_names="abc",
        root=Path("videos"),
        shard_videos=SHARD_VIDEOS,
    )
    writer.declare(path, spec, recorded={"gflops_per_clip": 1.0}, trained_on=())
    writer.fit_arrays(path, spec, manifest, SHARD_VIDEOS)
    return manifest


def mismatches_of(path: Path) -> list[str]:
    """What does not fit: receipts and bytes, checksums and clips, values and what was computed, index and receipts."""
    found = verify(path, progress=False, processes=1)
    wrong = [f"shard {bad.shard}: {bad.reason}" for bad in found.bad] + list(found.leftovers)
    store = stores.open(path)
    (features,) = [store.features(*key) for key in store.models]
    if not features.ok.all():
        return [*wrong, "a shard is missing"]
    tolerance = 0.01 if features.spec.dtype == "uint8" else 2e-3
    for row in range(store.videos.rows):
        maps, logits = make_maps(features.spec, row)
        read = features.read_maps(row, 0, np.arange(features.clips))  # checks every clip
        if not np.allclose(read, maps[:, :], rtol=tolerance, atol=tolerance * float(maps.max())):
            wrong.append(f"row {row}: other maps")
        if not np.allclose(
            features.read_logits(row, 0, np.arange(features.clips)), logits, rtol=1e-6, atol=1e-6
        ):
            wrong.append(f"row {row}: other logits")
    receipts = load_coverage(
        features.folder,
        features.spec,
        videos=store.videos,
        shard_videos=store.shard_videos,
        again=list_receipts(features.folder),
    )
    wrong += [
        f"index/{name} is not what the receipts say"
        for name, values in receipts.columns.items()
        if not np.array_equal(values, features.coverage.columns[name], equal_nan=values.dtype.kind == "f")
    ]
    return wrong


def race(folder: Path, *, trials: int, counts: tuple[int, ...]) -> tuple[list[str], int]:
    rng = np.random.default_rng(0)
    wrong, slept = [], 0
    for trial in range(trials):
        for count in counts:
            dtype = ("float16", "uint8")[trial % 2]
            path = folder / f"{trial}-{count}.zarr"
            empty_store(path, make_spec(dtype=dtype, codec=("none", "zstd")[trial // 2 % 2]))
            # Half of them fall asleep before (n) or after (-n) one of their links, that of the finaliser included.
            stops = [int(rng.integers(1, LINKS)) * int(rng.choice([-1, 0, 0, 1])) for _ in range(count)]
            codes = write_at_once(path, shards=SHARDS, stop_at=stops, rng=rng)
            slept += sum(at != 0 for at in stops)
            wrong += [f"trial {trial}, {count} writers: ended {codes}"] * any(codes)
            wrong += [f"trial {trial}, {count} writers: {reason}" for reason in mismatches_of(path)]
    return wrong, slept


def test_writers_at_once_leave_receipts_that_fit(tmp_path: Path) -> None:
    wrong, _ = race(tmp_path, trials=3, counts=(3,))
    assert not wrong, wrong


@pytest.mark.stress
def test_many_writers_at_once_some_asleep(tmp_path: Path) -> None:
    wrong, slept = race(tmp_path, trials=TRIALS, counts=(2, 4, 8))
    print(
        f"\n{TRIALS} trials each of 2, 4 and 8 writers, {slept} told to sleep in a commit: {len(wrong)} mismatches"
    )
    assert not wrong, wrong


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_a_writer_that_comes_late_takes_the_shard_that_is_there(tmp_path: Path, dtype: str) -> None:
    """Also where one video failed for one of them and not for the other: the first receipt counts."""
    for first_fails in (True, False):
        path = tmp_path / f"{first_fails}.zarr"
        spec = make_spec(dtype=dtype)
        manifest = empty_store(path, spec)

        place = {"manifest": manifest, "shard": 0, "view": 0, "shard_videos": SHARD_VIDEOS}
        with (
            stores.ShardWriter(path, spec, **place) as first,
            stores.ShardWriter(path, spec, **place) as second,
        ):
            for each, fails in ((first, first_fails), (second, not first_fails)):
                each.add(0, *make_maps(spec, 0), make_facts(spec))
                if fails:
                    each.fail(1, "took too long")
                else:
                    each.add(1, *make_maps(spec, 1), make_facts(spec))
            receipt = first.commit()
            assert second.commit() == receipt
        assert not verify(path, progress=False, processes=1).bad
