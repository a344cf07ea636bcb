"""Small stores with maps that are easy to check, written through the public writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from faster import store as stores
from faster.store.format import manifest as manifests
from faster.store.read.root import StoreRoot
from faster.store.write import create as writer
from faster.store.write.create import Head
from numpy.typing import NDArray


def make_spec(model: str = "r2d26", **changes: object) -> stores.FeatureSpec:
    values: dict[str, object] = {
        "model": model,
        "weights_digest": "0" * 64,
        "weights_random": False,
        "clip_frames": 8,
        "frame_stride": 1,
        "clips": 4,
        "views": 1,
        "map_shape": (1, 2, 2, 16),
        "num_classes": 3,
        "class_names": ("a", "b", "c"),
        "transform": {"size": 64},
        "precision": "float32",
        "batch_clips": 8,
    }
    return stores.FeatureSpec(**{**values, **changes})  # type: ignore[arg-type]


def make_videos(
    count: int, *, classes: int = 3, splits: Mapping[int, str] | None = None
) -> list[stores.VideoRecord]:
    parts = ["train", "train", "train", "test"]
    return [
        stores.VideoRecord(
            id=f"{'abc'[i % classes]}/víd eo {i}.mp4",
            path=f"{'abc'[i % classes]}/víd eo {i}.mp4",
            label=i % classes,
            splits={"split1": (splits or {}).get(i, parts[(i // classes) % 4])},
        )
        for i in range(count)
    ]


def make_maps(
    spec: stores.FeatureSpec, row: int, *, signal: int = 0
) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Maps and logits that are a function of the row; `signal` (a label + 1) makes them tell the class."""
    rng = np.random.default_rng([row, sum(map(ord, spec.model))])
    maps = np.maximum(rng.standard_normal((spec.clips, *spec.map_shape)), 0).astype(np.float16)
    logits = rng.standard_normal((spec.clips, spec.num_classes)).astype(np.float32)
    if signal:
        maps[..., signal - 1] += np.float16(2)
        logits[:, signal - 1] += 2
    return maps, logits


def make_store(
    path: Path,
    specs: Sequence[stores.FeatureSpec],
    videos: Sequence[stores.VideoRecord],
    *,
    shard_videos: int = 4,
    class_names: Sequence[str] = ("a", "b", "c"),
    failed: Mapping[int, str] | None = None,
    missing: Sequence[stores.VideoRecord] = (),
    trained_on: Sequence[str] = (),
    gflops: Mapping[str, float] | None = None,
    heads: Mapping[str, Head] | None = None,
    signal: bool = False,
    finalise: bool = True,
) -> stores.Store:
    """A whole store: every spec's maps of every video, but for the rows in `failed`."""
    shard_videos = writer.create(path, shard_videos=shard_videos).shard_videos
    manifest = manifests.append(
        path,
        videos=videos,
        missing=missing,
        class_names=class_names,
        root=Path("videos"),
        shard_videos=shard_videos,
    )
    for i, spec in enumerate(specs):
        recorded = {"gflops_per_clip": (gflops or {}).get(spec.model, 10.0 / (i + 1))}
        head = (heads or {}).get(spec.model)
        writer.declare(path, spec, recorded=recorded, trained_on=trained_on, head=head)
        writer.fit_arrays(path, spec, manifest, shard_videos)
        for shard in range(-(-manifest.rows // shard_videos)):
            write_shard(path, spec, manifest, shard, shard_videos, failed=failed or {}, signal=signal)
    opened = stores.open(path)
    if finalise:
        stores.finalise(opened)
    return stores.open(path)


def write_shard(
    path: Path,
    spec: stores.FeatureSpec,
    manifest: manifests.Manifest,
    shard: int,
    shard_videos: int,
    *,
    failed: Mapping[int, str] = {},
    signal: bool = False,
) -> None:
    rows = range(shard * shard_videos, min((shard + 1) * shard_videos, manifest.rows))
    with stores.ShardWriter(
        path, spec, manifest=manifest, shard=shard, view=0, shard_videos=shard_videos
    ) as shard_writer:
        for row in rows:
            if row in failed:
                shard_writer.fail(row, failed[row])
            elif manifest.ids[row]:
                maps, logits = make_maps(spec, row, signal=int(manifest.labels[row]) + 1 if signal else 0)
                shard_writer.add(row, maps, logits if spec.num_classes else None, make_facts(spec))
        shard_writer.commit()


def make_facts(spec: stores.FeatureSpec) -> stores.ClipFacts:
    starts = tuple(i * spec.clip_frames for i in range(spec.clips))
    return stores.ClipFacts(
        frames=spec.clips * spec.clip_frames,
        fps=25.0,
        starts=starts,
        times_seconds=tuple(start / 25.0 for start in starts),
        padded=(0,) * spec.clips,
    )


def note_opens(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The path of each store that this process opens from now on, in a list that grows."""
    opened: list[Path] = []
    plain = StoreRoot.__init__

    def noting(self: StoreRoot, path: Path) -> None:
        opened.append(path)
        plain(self, path)

    monkeypatch.setattr(StoreRoot, "__init__", noting)
    return opened
